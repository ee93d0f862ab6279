//! TLS by rustls with ring, both sides: the listener's, swapped whole while connections stay open, and
//! the one towards an upstream, with pins.
//!
//! The provider is passed explicitly everywhere, so that no process-wide default decides. TLS 1.3 only,
//! unless the operator says 1.2; every suite is AEAD with forward secrecy in both (RFC 9325 §4.2).

mod client;
mod pem;
pub mod self_signed;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientSettings, ClientTls, Pin, PinError, Roots, client_config};
pub use pem::{certificates, private_key};
pub use server::{ServerPem, ServerSettings, ServerTls};

use crate::config::TlsVersion;
use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use std::sync::Arc;

/// Why there is no TLS configuration. None of these texts holds key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("{what} is not PEM: {source}")]
    Pem {
        what: &'static str,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{what} holds no certificate")]
    NoCertificate { what: &'static str },
    #[error("{what} holds no private key (PKCS#8, PKCS#1 or SEC1)")]
    NoKey { what: &'static str },
    #[error("{what} holds a certificate that cannot be used: {source}")]
    Anchor {
        what: &'static str,
        source: rustls::Error,
    },
    #[error("the certificate and its key cannot be used: {source}")]
    Identity { source: rustls::Error },
    #[error("client certificates cannot be checked: {source}")]
    ClientAuth {
        source: rustls::server::VerifierBuilderError,
    },
    #[error("`{host}` cannot be the name in a certificate")]
    Name { host: String },
    #[error("server certificates cannot be checked: {source}")]
    ServerAuth {
        source: rustls::server::VerifierBuilderError,
    },
}

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    static NEWEST: [&SupportedProtocolVersion; 1] = [&TLS13];
    match oldest {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &NEWEST,
    }
}

/// ring, with the suites of the versions that are spoken and no other.
fn provider(oldest: TlsVersion) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let spoken = |version: ProtocolVersion| {
        versions(oldest)
            .iter()
            .any(|known| known.version == version)
    };
    provider
        .cipher_suites
        .retain(|suite| spoken(suite.version().version));
    Arc::new(provider)
}
