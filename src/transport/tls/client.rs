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
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

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
    let roots = Arc::new(pem::anchors("the upstream's CA", roots)?);
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
