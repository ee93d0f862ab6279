//! Certificates and keys out of PEM text (RFC 7468).

use super::TlsError;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Every certificate of a text, in order; text around the blocks is ignored.
///
/// # Errors
/// When a block is broken, or there is no certificate. `what` names the text in the error.
pub fn certificates(
    what: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate { what });
    }
    Ok(all)
}

/// The first private key of a text. An encrypted one is not a key to us.
///
/// # Errors
/// When a block is broken, or there is no key. `what` names the text in the error.
pub fn private_key(what: &'static str, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey { what },
        source => TlsError::Pem { what, source },
    })
}

/// Certificates as trust anchors. One that cannot be an anchor is an error: a typo in a bundle must not
/// silently shut a client out.
pub(super) fn anchors(what: &'static str, text: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, text)? {
        store
            .add(certificate)
            .map_err(|source| TlsError::Anchor { what, source })?;
    }
    Ok(store)
}

/// Every revocation list of a text.
pub(super) fn revocations(
    what: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    CertificateRevocationListDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, source })
}
