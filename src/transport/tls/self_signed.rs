//! What a laptop or a test needs for TLS on both sides: an authority of its own, a certificate for the
//! listener, one for each client. The authority's key is never given out: nobody can sign with it later.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::time::{Duration, SystemTime};

/// What to make.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Names and addresses of the listener.
    pub hosts: &'a [String],
    /// Subject alternative names of clients, as URIs (`spiffe://…`, `urn:…`).
    pub clients: &'a [String],
    pub not_before: SystemTime,
    pub lifetime: Duration,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Made {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// Everything that was made.
#[derive(Debug, Clone)]
pub struct Set {
    /// The authority's certificate as PEM: what clients trust, and `client_ca`.
    pub authority: String,
    pub server: Made,
    /// In the order of [`Wanted::clients`].
    pub clients: Vec<Made>,
}

/// Makes one authority and what it signs. ECDSA P-256 throughout: every client knows it.
///
/// # Errors
/// When a name cannot stand in a certificate.
pub fn make(wanted: &Wanted<'_>) -> Result<Set, rcgen::Error> {
    let mut authority = params(wanted, Vec::new(), "cofferdam self-signed authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let hosts = CertificateParams::new(wanted.hosts.to_vec())?.subject_alt_names;
    let server = sign(
        wanted,
        &authority,
        hosts,
        "cofferdam",
        ExtendedKeyUsagePurpose::ServerAuth,
    )?;
    let mut clients = Vec::with_capacity(wanted.clients.len());
    for client in wanted.clients {
        let san = vec![SanType::URI(client.as_str().try_into()?)];
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        clients.push(sign(wanted, &authority, san, "client", usage)?);
    }
    Ok(Set {
        authority: authority.pem(),
        server,
        clients,
    })
}

fn sign(
    wanted: &Wanted<'_>,
    authority: &CertifiedIssuer<'_, KeyPair>,
    names: Vec<SanType>,
    common_name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> Result<Made, rcgen::Error> {
    let mut params = params(wanted, names, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok(Made {
        certificate: params.signed_by(&key, authority)?.pem(),
        key: key.serialize_pem(),
    })
}

fn params(wanted: &Wanted<'_>, names: Vec<SanType>, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.not_before = wanted.not_before.into();
    params.not_after = (wanted.not_before + wanted.lifetime).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}
