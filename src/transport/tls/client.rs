//! The side towards an upstream: its certificate proved as usual, and pinned where the operator says so.

use super::{TlsError, pem, provider, versions};
use crate::config::TlsVersion;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// SHA-256 of a `SubjectPublicKeyInfo` in DER, written as `sha256/BASE64` (RFC 7469 §2.4). A second one
/// is the key that will come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; SHA256_OUTPUT_LEN]);

/// Why a text is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin is `sha256/` and the 44 characters of a SHA-256 in base64")]
pub struct PinError;

/// Of a SHA-256.
const BASE64_LENGTH: usize = 44;

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let text = text.strip_prefix("sha256/").ok_or(PinError)?;
        // curl writes two slashes; base64 may begin with one of its own, so the length decides.
        let text = match text.strip_prefix('/') {
            Some(rest) if text.len() == BASE64_LENGTH + 1 => rest,
            _ => text,
        };
        let bytes = STANDARD.decode(text).map_err(|_| PinError)?;
        bytes.try_into().map(Self).map_err(|_| PinError)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl From<[u8; SHA256_OUTPUT_LEN]> for Pin {
    fn from(digest: [u8; SHA256_OUTPUT_LEN]) -> Self {
        Self(digest)
    }
}

/// Whom to trust with certificates, as PEM text.
#[derive(Debug, Clone, Copy)]
pub enum Roots<'a> {
    /// What the operator wrote: all of it must be usable.
    Given(&'a [u8]),
    /// The system's: what cannot be used is left out.
    System(&'a [u8]),
}

/// How an upstream proves that it is the one.
#[derive(Debug, Clone, Copy)]
pub struct ClientSettings<'a> {
    pub host: &'a str,
    pub roots: Roots<'a>,
    pub pins: &'a [[u8; SHA256_OUTPUT_LEN]],
    pub oldest: TlsVersion,
}

/// TLS towards one upstream.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl ClientTls {
    /// HTTP/2 or HTTP/1.1, whatever the upstream prefers.
    ///
    /// # Errors
    /// No usable certificate to trust, or a host that no certificate can name.
    pub fn new(settings: &ClientSettings<'_>) -> Result<Self, TlsError> {
        let name = ServerName::try_from(settings.host.to_owned()).map_err(|_| TlsError::Name {
            host: settings.host.to_owned(),
        })?;
        let roots = match settings.roots {
            Roots::Given(text) => pem::anchors("the upstream's CA", text)?,
            Roots::System(text) => {
                let what = "the system's list of certificates";
                let mut store = RootCertStore::empty();
                store.add_parsable_certificates(pem::certificates(what, text)?);
                store
            }
        };
        let pins: Vec<Pin> = settings.pins.iter().map(|pin| Pin(*pin)).collect();
        let config = config_for(settings.oldest, roots, &pins, &[b"h2", b"http/1.1"])?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// Those of the connection, and that the upstream is not who it should be.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("name", &self.name)
            .finish()
    }
}

impl Pin {
    /// The pin of a certificate in DER.
    ///
    /// # Errors
    /// When it is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let key = parsed.subject_public_key_info();
        let mut pin = [0; SHA256_OUTPUT_LEN];
        pin.copy_from_slice(digest(&SHA256, &key).as_ref());
        Ok(Self(pin))
    }
}

/// A configuration for connections to an upstream: its chain must lead to one of `roots` (PEM), its name
/// must match, and, when there are pins, the key of its own certificate must be one of them.
///
/// # Errors
/// When `roots` holds no usable certificate.
pub fn client_config(
    oldest: TlsVersion,
    roots: &[u8],
    pins: &[Pin],
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    config_for(
        oldest,
        pem::anchors("the upstream's CA", roots)?,
        pins,
        alpn,
    )
}

fn config_for(
    oldest: TlsVersion,
    roots: RootCertStore,
    pins: &[Pin],
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let roots = Arc::new(roots);
    let provider = provider(oldest);
    let proved = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|source| TlsError::ServerAuth { source })?;
    let verifier = Arc::new(Pinned {
        proved,
        pins: pins.to_vec(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(oldest))
        .map_err(|source| TlsError::Identity { source })?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// The usual proof, then the pins. Only the leaf counts: the rest of what a server sends need not be part
/// of the chain that was proved, so anybody could send a pinned certificate along.
#[derive(Debug)]
struct Pinned {
    proved: Arc<WebPkiServerVerifier>,
    pins: Vec<Pin>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .proved
            .verify_server_cert(leaf, between, name, ocsp, now)?;
        if self.pins.is_empty() || self.pins.contains(&Pin::of(leaf)?) {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proved.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proved.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.proved.supported_verify_schemes()
    }
}
