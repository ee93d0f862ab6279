//! The names in a client certificate that TLS has proved.

use crate::config::San;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use x509_cert::Certificate as X509;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate with more names belongs to no client.
const MOST_NAMES: usize = 64;

/// A certificate; of a client, one whose chain, time and purpose TLS has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    names: Vec<San>,
    thumbprint: [u8; SHA256_OUTPUT_LEN],
    valid_until: u64,
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the client certificate cannot be read")]
    Der,
    #[error("the client certificate has more than {MOST_NAMES} names")]
    TooManyNames,
}

impl Certificate {
    /// Reads the leaf in DER. The common name is not looked at: it has no type (RFC 9525 §2).
    ///
    /// # Errors
    /// When it is no certificate, or has too many names. One without names is no error here.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = X509::from_der(der).map_err(|_| CertificateError::Der)?;
        let alternative = certificate
            .tbs_certificate()
            .get_extension::<SubjectAltName>()
            .map_err(|_| CertificateError::Der)?;
        let mut names = Vec::new();
        for name in alternative.iter().flat_map(|(_, names)| &names.0) {
            names.push(match name {
                GeneralName::UniformResourceIdentifier(uri) => San::Uri(uri.to_string()),
                GeneralName::DnsName(host) => San::Dns(host.to_string().to_ascii_lowercase()),
                GeneralName::Rfc822Name(mail) => San::Email(mail.to_string()),
                _ => continue,
            });
            if names.len() > MOST_NAMES {
                return Err(CertificateError::TooManyNames);
            }
        }
        let mut thumbprint = [0; SHA256_OUTPUT_LEN];
        thumbprint.copy_from_slice(digest(&SHA256, der).as_ref());
        let end = certificate.tbs_certificate().validity().not_after;
        Ok(Self {
            names,
            thumbprint,
            valid_until: end.to_unix_duration().as_secs(),
        })
    }

    /// Its subject alternative names, in order.
    #[must_use]
    pub fn names(&self) -> &[San] {
        &self.names
    }

    /// Its last second, in seconds since 1970.
    #[must_use]
    pub fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// SHA-256 of the certificate, to which a token can be bound (RFC 8705 §3.1).
    #[must_use]
    pub fn thumbprint(&self) -> &[u8; SHA256_OUTPUT_LEN] {
        &self.thumbprint
    }
}
