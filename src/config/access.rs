//! Who may come over the network, and what each may do: the types of `[identity]`, `[clients]`,
//! `[groups]`, and of the listener's certificates.

use super::Endpoint;
use super::entries::{EntryError, Word, shown};
use super::rates::Rate;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Everything about callers. Empty unless there is a listener.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub identity: Identity,
    /// By name; `"*"` is for callers without an entry of their own.
    pub clients: BTreeMap<String, Client>,
    pub groups: BTreeMap<String, Group>,
}

impl super::Config {
    /// Where the keys of the issuer of tokens are fetched.
    #[must_use]
    pub fn issuer(&self) -> Option<&Endpoint> {
        self.access.identity.jwt.as_ref()?.jwks.url()
    }

    /// True when whoever reaches the listener may use it: nobody but programs of this host can, nothing
    /// is set by which callers could be told apart, and the operator does not forbid it.
    #[must_use]
    pub fn admits_anonymous(&self) -> bool {
        self.listen.as_ref().is_some_and(|listen| {
            listen.is_local() && listen.auth == super::Auth::Local && !self.access.can_identify()
        })
    }
}

impl Access {
    /// True when somebody can prove who they are.
    #[must_use]
    pub fn can_identify(&self) -> bool {
        self.identity.keys.is_some()
            || self.identity.jwt.is_some()
            || self.clients.values().any(|client| client.is_identified())
    }
}

/// How callers prove who they are, besides certificates and Unix users, which `[clients]` names.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The file of `cofferdam client add`. Absolute.
    pub keys: Option<PathBuf>,
    pub jwt: Option<Jwt>,
    /// What every request needs.
    pub scopes: Vec<String>,
}

/// Access tokens of one issuer (RFC 9068, or near it).
#[derive(Debug, Clone)]
pub struct Jwt {
    /// `iss`, exactly.
    pub issuer: String,
    /// A JSON Web Key Set (RFC 7517).
    pub jwks: KeySource,
    /// `aud`; `None`: the public URL.
    pub audience: Option<String>,
    /// Never empty; never a symmetric one.
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the tenant. A token without it is refused then.
    pub tenant_claim: Option<String>,
    /// The claim that lists groups.
    pub groups_claim: Option<String>,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file that is watched. Absolute.
    File(PathBuf),
    /// An `https` URL, usually what the issuer calls its `jwks_uri` (RFC 8414 §2).
    Url {
        place: Endpoint,
        /// Who signs its certificate, instead of those whom the system trusts. Absolute.
        ca: Option<PathBuf>,
        /// How old a key set may be before it is fetched again.
        refresh: Duration,
    },
}

impl KeySource {
    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Url { .. } => None,
        }
    }

    /// The URL, if it is one.
    #[must_use]
    pub fn url(&self) -> Option<&Endpoint> {
        match self {
            Self::File(_) => None,
            Self::Url { place, .. } => Some(place),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url { place, .. } => place.fmt(f),
        }
    }
}

/// Signature algorithms of tokens (RFC 7518 §3.1, RFC 8037 §3.1). All are asymmetric: a symmetric one
/// would let whoever has the public key sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Word for Algorithm {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("RS256", Self::RS256),
        ("RS384", Self::RS384),
        ("RS512", Self::RS512),
        ("PS256", Self::PS256),
        ("PS384", Self::PS384),
        ("PS512", Self::PS512),
        ("ES256", Self::ES256),
        ("ES384", Self::ES384),
        ("EdDSA", Self::EdDsa),
    ];
}

/// One client, or `"*"`.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// The name in its certificate.
    pub san: Option<San>,
    /// The user that it connects as, on a Unix socket.
    pub uid: Option<u32>,
    pub tenant: Option<String>,
    /// What it has without a token. A token says its own scopes.
    pub scopes: Vec<String>,
    pub groups: Vec<String>,
    /// May say, in a signed token, for whom it asks.
    pub gateway: bool,
    /// Refused, whatever it shows.
    pub blocked: bool,
    pub grants: Grants,
    /// In place of `limits.rate`.
    pub rate: Option<Rate>,
    /// In place of no limit of its own.
    pub concurrency: Option<u32>,
    /// In place of `limits.quota`.
    pub quota: Option<u64>,
}

impl Client {
    /// True when a certificate or a Unix user is this client: then no token can be.
    #[must_use]
    pub fn is_identified(&self) -> bool {
        self.san.is_some() || self.uid.is_some()
    }
}

/// What members of a group have and may do.
#[derive(Debug, Clone, Default)]
pub struct Group {
    pub scopes: Vec<String>,
    pub grants: Grants,
}

/// What is within reach. Lists of a client and its groups add up; `None` everywhere means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Only tools whose effect is `read`. One that says so is enough.
    pub read_only: bool,
    pub tools: Option<Vec<String>>,
    pub resources: Option<Vec<String>>,
    pub prompts: Option<Vec<String>>,
}

/// What calling a tool does. A tool of which nobody has said so counts as `write`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Read,
    Write,
}

impl Word for Effect {
    const WORDS: &'static [(&'static str, Self)] = &[("read", Self::Read), ("write", Self::Write)];
}

/// Certificates of the listener.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Absolute, as all of these.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Who signs client certificates.
    pub client_ca: Option<PathBuf>,
    /// Which of them are revoked.
    pub client_crl: Option<PathBuf>,
    pub client_auth: ClientAuth,
    pub min_version: TlsVersion,
}

/// Whether a client may come without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    #[default]
    Required,
    Optional,
}

impl Word for ClientAuth {
    const WORDS: &'static [(&'static str, Self)] =
        &[("required", Self::Required), ("optional", Self::Optional)];
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

impl Word for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::V1_2), ("1.3", Self::V1_3)];
}

/// A subject alternative name of a certificate (RFC 5280 §4.2.1.6), compared exactly; host names without
/// letter case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    Uri(String),
    Dns(String),
    Email(String),
}

impl FromStr for San {
    type Err = EntryError;

    /// `spiffe://…` and `urn:…` are URIs, what has an `@` is a mail address, the rest is a host name.
    fn from_str(text: &str) -> Result<Self, EntryError> {
        let wrong = || {
            EntryError::new(
                format!("`{}` is not a name in a certificate", shown(text)),
                "write a URI (`spiffe://example/ci`), a mail address or a host name",
            )
        };
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || !plain || text.contains('*') {
            return Err(wrong());
        }
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        if scheme.is_some_and(is_scheme) {
            return Ok(Self::Uri(text.to_owned()));
        }
        if let Some((name, host)) = text.split_once('@') {
            return match name.is_empty() || host.is_empty() || host.contains('@') {
                true => Err(wrong()),
                false => Ok(Self::Email(text.to_owned())),
            };
        }
        let host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        match text.bytes().all(host) {
            true => Ok(Self::Dns(text.to_ascii_lowercase())),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) | Self::Email(name) => f.write_str(name),
        }
    }
}

/// RFC 6749 §3.3: a scope is printable ASCII without blank, quote and backslash.
///
/// # Errors
/// When it is none.
pub fn scope(text: &str) -> Result<String, EntryError> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    match !text.is_empty() && text.len() <= 256 && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(EntryError::new(
            format!("`{}` is not a scope", shown(text)),
            "a scope is one word of printable ASCII without quotes and backslashes, as in `issues:write`",
        )),
    }
}

/// A client, tenant or group: it stands in logs, metrics and files.
///
/// # Errors
/// When it cannot be one.
pub fn principal_name(text: &str) -> Result<(), EntryError> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    match !text.is_empty() && text.len() <= 256 && text.chars().all(plain) {
        true => Ok(()),
        false => Err(EntryError::new(
            format!("`{}` is not a name", shown(text)),
            "a name has up to 256 bytes, no blanks and no control characters",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_certificates_have_a_kind() {
        for (text, kind) in [
            (
                "spiffe://example/ci",
                San::Uri("spiffe://example/ci".into()),
            ),
            ("urn:example:ci", San::Uri("urn:example:ci".into())),
            ("CI.example", San::Dns("ci.example".into())),
            ("ci@example.org", San::Email("ci@example.org".into())),
        ] {
            assert_eq!(text.parse(), Ok(kind), "{text}");
        }
        for text in ["", "a b", "*.example", "@x", "a@", "a@b@c", "ex/ample", "é"] {
            assert!(text.parse::<San>().is_err(), "{text}");
        }
    }

    #[test]
    fn scopes_fit_into_a_header() {
        assert!(scope("issues:write").is_ok());
        for text in ["", "a b", "a\"", "a\\", "é", "a\n"] {
            assert!(scope(text).is_err(), "{text}");
        }
    }
}
