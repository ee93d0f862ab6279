//! What the listener knows its clients by, from files: certificates, keys of clients, keys of an issuer.
//! The spawner reads them whenever they change, for the message process can open nothing.

use super::http::Issuer;
use super::sealed::{Packed, Unpacked};
use super::upstream::UpstreamError;
use crate::cell::spawn::Event;
use crate::config::{Config, Tls, read_file};
use crate::identity::{Challenges, Jwks, JwksError, KeyBook, KeysError, Verifier};
use crate::secret::{SETTLE, Watch};
use crate::transport::tls::{ServerPem, ServerSettings, ServerTls, TlsError};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Application protocols, the preferred one first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Bytes of one file.
const MOST: u64 = 1 << 20;
/// How many there are.
const TEXTS: usize = 6;

/// Why nobody could be told from anybody.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("`listen.tls` cannot be used: {source}")]
    Tls { source: TlsError },
    #[error("cannot read the keys (identity.keys, identity.jwt.jwks): {source}")]
    Read { source: io::Error },
    #[error("the keys of clients (identity.keys) cannot be used: {source}")]
    Keys { source: KeysError },
    #[error("the keys of the issuer (identity.jwt.jwks) cannot be used: {source}")]
    Jwks { source: JwksError },
    #[error("the keys of the issuer (identity.jwt.jwks) cannot be fetched: {source}")]
    Issuer { source: UpstreamError },
}

/// What the files hold at one time.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    pub(super) pem: Option<ServerPem>,
    pub(super) keys: Option<Vec<u8>>,
    pub(super) jwks: Option<Vec<u8>>,
}

impl Texts {
    pub(super) fn read(config: &Config) -> Result<Self, AccessError> {
        let tls = config
            .listen
            .as_ref()
            .and_then(|listen| listen.tls.as_ref());
        let pem = tls.map(ServerPem::read).transpose();
        let identity = &config.access.identity;
        let text = |path: Option<&Path>| path.map(read).transpose();
        let jwks = identity.jwt.as_ref().and_then(|jwt| jwt.jwks.file());
        let failed = |source| AccessError::Read { source };
        Ok(Self {
            pem: pem.map_err(|source| AccessError::Tls { source })?,
            keys: text(identity.keys.as_deref()).map_err(failed)?,
            jwks: text(jwks).map_err(failed)?,
        })
    }

    pub(super) fn key_book(&self) -> Result<KeyBook, AccessError> {
        let book = self.keys.as_deref().map(KeyBook::parse).transpose();
        let book = book.map_err(|source| AccessError::Keys { source })?;
        Ok(book.unwrap_or_default())
    }

    pub(super) fn key_set(&self) -> Result<Arc<Jwks>, AccessError> {
        let set = self.jwks.as_deref().map(Jwks::parse).transpose();
        let set = set.map_err(|source| AccessError::Jwks { source })?;
        Ok(Arc::new(set.unwrap_or_default()))
    }
}

impl Texts {
    fn pack(&self) -> Packed {
        let pem = self.pem.as_ref();
        let texts: [Option<&[u8]>; TEXTS] = [
            pem.map(|pem| &*pem.certificate),
            pem.map(|pem| &*pem.key),
            pem.and_then(|pem| pem.client_ca.as_deref()),
            pem.and_then(|pem| pem.client_crl.as_deref()),
            self.keys.as_deref(),
            self.jwks.as_deref(),
        ];
        let mut packed = Packed::default();
        texts.into_iter().for_each(|text| packed.add(text));
        packed
    }

    /// Reads what the spawner has sent.
    ///
    /// # Errors
    /// The descriptor holds something else.
    pub(super) fn unpack(from: OwnedFd) -> io::Result<Self> {
        let mut texts = Unpacked::read(from, TEXTS, MOST)?;
        let mut next = || Ok::<_, io::Error>(texts.next()?.map(<[u8]>::to_vec));
        let (certificate, key) = (next()?, next()?);
        let (client_ca, client_crl) = (next()?, next()?);
        let pem = certificate.zip(key).map(|(certificate, key)| ServerPem {
            certificate,
            key,
            client_ca,
            client_crl,
        });
        Ok(Self {
            pem,
            keys: next()?,
            jwks: next()?,
        })
    }
}

/// The spawner's side: tells the message process what the files hold.
#[derive(Debug)]
pub(super) struct Porter {
    config: Arc<Config>,
    watch: Watch,
    told: Option<Result<Packed, String>>,
}

impl Porter {
    /// `None` where the listener needs no files.
    pub(super) fn open(config: &Arc<Config>) -> Option<Self> {
        let listen = config.listen.as_ref()?;
        let identity = &config.access.identity;
        let tls = listen.tls.iter().flat_map(|tls| {
            let always = [Some(&tls.cert), Some(&tls.key)];
            let more = [tls.client_ca.as_ref(), tls.client_crl.as_ref()];
            always.into_iter().chain(more).flatten()
        });
        let jwks = identity.jwt.as_ref().and_then(|jwt| jwt.jwks.file());
        let all = tls.chain(&identity.keys).map(PathBuf::as_path).chain(jwks);
        let files: Vec<PathBuf> = all.map(Path::to_path_buf).collect();
        (!files.is_empty()).then(|| Self {
            config: Arc::clone(config),
            watch: Watch::new(files, SETTLE, Instant::now()),
            told: None,
        })
    }

    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.watched()
    }

    pub(super) fn due(&self) -> Instant {
        match self.told {
            None => Instant::now(),
            Some(_) => self.watch.due(),
        }
    }

    pub(super) fn look(&mut self, at_once: bool) -> Option<Event> {
        let now = Instant::now();
        let due = self.watch.take(now);
        if !due && !at_once && self.told.is_some() {
            return None;
        }
        let found = match Texts::read(&self.config) {
            Ok(texts) => Ok(texts.pack()),
            Err(error) => Err(error.to_string()),
        };
        if self.told.as_ref() == Some(&found) {
            return None;
        }
        let texts = match &found {
            // No memory for a few bytes: the next look tries again.
            Ok(packed) => Ok(packed.seal("cofferdam-access").ok()?),
            Err(error) => Err(error.clone()),
        };
        self.told = Some(found);
        Some(Event::Access { texts })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_file(path, MOST)
}

/// What the listener begins with.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) tls: Option<ServerTls>,
    pub(super) verifier: Verifier,
    pub(super) challenges: Challenges,
    /// Of keys that are fetched.
    pub(super) issuer: Option<Issuer>,
}

impl Access {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When one of them cannot be read or used.
    pub(super) fn open(config: &Config) -> Result<Self, AccessError> {
        let texts = Texts::read(config)?;
        let settings = |tls: &Tls| ServerSettings::new(tls, ALPN.map(<[u8]>::to_vec).to_vec());
        let listen = config.listen.as_ref();
        let settings = listen.and_then(|listen| listen.tls.as_ref()).map(settings);
        let tls = settings
            .zip(texts.pem.as_ref())
            .map(|(settings, pem)| ServerTls::new(settings, pem))
            .transpose()
            .map_err(|source| AccessError::Tls { source })?;
        Ok(Self {
            tls,
            verifier: Verifier::new(config, texts.key_book()?, texts.key_set()?),
            challenges: Challenges::new(config),
            issuer: Issuer::open(config).map_err(|source| AccessError::Issuer { source })?,
        })
    }
}

/// How clients of the listener say who they are, for people.
pub(super) fn kinds(config: &Config) -> String {
    let Some(listen) = &config.listen else {
        return "none".to_owned();
    };
    let clients = || config.access.clients.values();
    let socket = matches!(listen.http, crate::config::AdminAddr::Unix(_));
    let anonymous = config.admits_anonymous();
    let kinds = [
        ("API key", config.access.identity.keys.is_some()),
        ("access token", config.access.identity.jwt.is_some()),
        (
            "client certificate",
            clients().any(|client| client.san.is_some()),
        ),
        (
            "unix peer",
            socket && (anonymous || clients().any(|client| client.uid.is_some())),
        ),
    ];
    let named: Vec<&str> = kinds
        .iter()
        .filter_map(|(kind, is)| is.then_some(*kind))
        .collect();
    match named.is_empty() {
        true => "none".to_owned(),
        false => named.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_travel_and_what_is_missing_stays_missing() {
        let pem = ServerPem {
            certificate: b"cert".to_vec(),
            key: b"key".to_vec(),
            client_ca: None,
            client_crl: Some(Vec::new()),
        };
        let texts = Texts {
            pem: Some(pem),
            keys: None,
            jwks: Some(b"set".to_vec()),
        };
        let back = Texts::unpack(texts.pack().seal("test").unwrap()).unwrap();
        let pem = back.pem.unwrap();
        assert_eq!(
            (pem.certificate, pem.key),
            (b"cert".to_vec(), b"key".to_vec())
        );
        assert_eq!((pem.client_ca, pem.client_crl), (None, Some(Vec::new())));
        assert_eq!((back.keys, back.jwks), (None, Some(b"set".to_vec())));
        let one = |text| {
            let mut packed = Packed::default();
            packed.add(text);
            packed.seal("test").unwrap()
        };
        assert!(Texts::unpack(one(None)).is_err());
        assert!(Texts::unpack(one(Some(b"x"))).is_err());
    }
}
