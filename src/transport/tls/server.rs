//! The listener's side: one immutable rustls configuration behind an [`ArcSwap`].
//!
//! ```text
//! files change ──► reload(bytes) ──► built whole? ── yes ──► swapped: new connections take it
//!                                        └── no ──► the old one stays, the error is returned
//! ```
//! A connection keeps the configuration that it started with, so a reload drops none.

use super::{TlsError, pem, provider, versions};
use crate::config::{ClientAuth, Tls, TlsVersion, read_file};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a client whose handshake failed may take to read why and to close.
const PARTING: Duration = Duration::from_secs(1);
/// Reads of what it still sends, of 1 KiB at most each.
const UNREAD: usize = 64;

/// What the files hold at one time.
#[derive(Clone, Default)]
pub struct ServerPem {
    /// The leaf first, then what links it to its root.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// Who signs client certificates; `None`: clients are asked for none.
    pub client_ca: Option<Vec<u8>>,
    /// Which of them are revoked (X.509 CRLs).
    pub client_crl: Option<Vec<u8>>,
}

impl std::fmt::Debug for ServerPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerPem")
            .field("client_ca", &self.client_ca.is_some())
            .finish_non_exhaustive()
    }
}

/// What stays the same over reloads.
#[derive(Debug, Clone, Default)]
pub struct ServerSettings {
    pub oldest: TlsVersion,
    /// Only asked when there is a client CA.
    pub client_auth: ClientAuth,
    /// Application protocols in order of preference, as in `h2` and `http/1.1` (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
}

impl ServerSettings {
    /// What the configuration says.
    #[must_use]
    pub fn new(tls: &Tls, alpn: Vec<Vec<u8>>) -> Self {
        Self {
            oldest: tls.min_version,
            client_auth: tls.client_auth,
            alpn,
        }
    }
}

impl ServerPem {
    /// Reads the files that the configuration names, each up to 1 MiB.
    ///
    /// # Errors
    /// When one cannot be read, or is larger.
    pub fn read(tls: &Tls) -> Result<Self, TlsError> {
        let optional = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        Ok(Self {
            certificate: read(&tls.cert)?,
            key: read(&tls.key)?,
            client_ca: optional(&tls.client_ca)?,
            client_crl: optional(&tls.client_crl)?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    const MOST: u64 = 1 << 20;
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    read_file(path, MOST).map_err(failed)
}

/// The TLS of one listener.
#[derive(Debug)]
pub struct ServerTls {
    settings: ServerSettings,
    current: ArcSwap<ServerConfig>,
}

impl ServerTls {
    /// Builds the first configuration.
    ///
    /// # Errors
    /// When a text is not PEM, or certificate and key do not belong together.
    pub fn new(settings: ServerSettings, texts: &ServerPem) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(build(&settings, texts)?);
        Ok(Self { settings, current })
    }

    /// Takes new certificates, key, client CA and revocation lists for connections from now on.
    ///
    /// # Errors
    /// As for [`Self::new`]; then what was there before stays in force.
    pub fn reload(&self, texts: &ServerPem) -> Result<(), TlsError> {
        self.current.store(Arc::new(build(&self.settings, texts)?));
        Ok(())
    }

    /// What a connection that starts now takes.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// The handshake; the caller bounds its time. The client's certificate, proved, is then in
    /// `stream.get_ref().1.peer_certificates()`.
    ///
    /// # Errors
    /// When the peer speaks no TLS that is spoken here, or its certificate is refused.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shaking = TlsAcceptor::from(self.config()).accept(stream);
        match shaking.into_fallible().await {
            Ok(stream) => Ok(stream),
            Err((error, stream)) => {
                // Boxed, so that connections that are let in have no room for it.
                Box::pin(part(stream)).await;
                Err(error)
            }
        }
    }
}

/// Ends a connection so that the alert is read that says why. A client of TLS 1.3 has sent its request by
/// then, and a socket that is closed over unread bytes is reset, with all that is still on its way
/// (RFC 1122 §4.2.2.13).
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let parting = async {
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        for _ in 0..UNREAD {
            if stream.read(&mut unread).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    drop(tokio::time::timeout(PARTING, parting).await);
}

fn build(settings: &ServerSettings, texts: &ServerPem) -> Result<ServerConfig, TlsError> {
    let provider = provider(settings.oldest);
    let chain = pem::certificates("the certificate", &texts.certificate)?;
    let key = pem::private_key("the key", &texts.key)?;
    let verifier = client_verifier(settings, texts)?;
    let asks = texts.client_ca.is_some();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(settings.oldest))
        .map_err(|source| TlsError::Identity { source })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Identity { source })?;
    config.alpn_protocols.clone_from(&settings.alpn);
    if asks {
        // A resumed session is not asked for its certificate again, so one that has expired or was
        // revoked would live on.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn client_verifier(
    settings: &ServerSettings,
    texts: &ServerPem,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(authority) = &texts.client_ca else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let roots = Arc::new(pem::anchors("the client CA", authority)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider(settings.oldest));
    if let Some(lists) = &texts.client_crl {
        builder = builder
            .with_crls(pem::revocations("the revocation list", lists)?)
            // The operator gives lists for the leaves; a list that is out of date says nothing.
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
    }
    if settings.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder
        .build()
        .map_err(|source| TlsError::ClientAuth { source })
}
