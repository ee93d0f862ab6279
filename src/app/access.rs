//! What the listener knows its clients by, from files: certificates, keys of clients, keys of an issuer.
//! The spawner reads them whenever they change, for the message process can open nothing.

use crate::config::{Config, Tls};
use crate::identity::{Challenges, Jwks, JwksError, KeyBook, KeysError, Verifier};
use crate::transport::tls::{ServerPem, ServerSettings, ServerTls, TlsError};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Application protocols, the preferred one first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Bytes of one file.
const MOST: u64 = 1 << 20;

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
        let jwks = identity.jwt.as_ref().map(|jwt| &*jwt.jwks);
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

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// What the listener begins with.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) tls: Option<ServerTls>,
    pub(super) verifier: Verifier,
    pub(super) challenges: Challenges,
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
