//! Who is asking. Pure: what a caller shows and the hour are arguments, what the files hold is given as
//! bytes; a [`Caller`] or a [`Denied`] comes out.
//!
//! ```text
//! Evidence ──► Verifier::identify ──► Caller   policy, limits, audit and sessions go by it
//!                     │
//!                     └──► Denied ──► Challenges::answer ──► status, headers, body
//! ```
//! What a caller shows must be right: a wrong token is refused also where a certificate would do.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod certificate;
#[cfg(test)]
mod certificate_tests;
mod challenge;
mod evidence;
mod jwk;
mod jwks;
mod jwt;
#[cfg(test)]
mod key_tests;
mod keys;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_tests;
mod verifier;

pub use certificate::{Certificate, CertificateError};
pub use challenge::{Answer, Challenges, Denied, TokenFault};
pub use evidence::{Evidence, GATEWAY_HEADER, has_credential_in_query};
pub use jwks::{Jwks, JwksCache, JwksError};
pub use keys::{ApiKey, Entry, KEY_PREFIX, KeyBook, KeysError};
pub use verifier::Verifier;

use std::fmt;

/// Somebody who has proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The program that asks. Named by the operator, or by the issuer where [`Self::how`] is `Jwt`.
    pub client: String,
    pub tenant: Option<String>,
    /// For whom it asks, where a token says so.
    pub user: Option<String>,
    /// Sorted, each once.
    pub scopes: Vec<String>,
    /// Groups of `[groups]` that a token names.
    pub groups: Vec<String>,
    pub how: How,
    /// When the proof ends, in seconds since 1970: a stream must not outlive it.
    pub expires: Option<u64>,
}

/// By what a caller was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum How {
    /// An API key.
    Key,
    /// An access token.
    Jwt,
    /// A client certificate.
    Mtls,
    /// The user at the other end of a Unix socket.
    UnixPeer,
    /// A gateway, by certificate or Unix user, with a token of the user for whom it asks.
    Gateway,
    /// Nothing: a listener on loopback that asks for nothing.
    Loopback,
}

impl How {
    /// One word, for logs and audit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Jwt => "jwt",
            Self::Mtls => "mtls",
            Self::UnixPeer => "unix",
            Self::Gateway => "gateway",
            Self::Loopback => "loopback",
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What sessions, limits and caches are bound to: two callers that differ in any of it share nothing.
/// Scopes are not part of it, for a token may be renewed with other ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal {
    pub tenant: Option<String>,
    pub how: How,
    pub client: String,
    pub user: Option<String>,
}

impl Caller {
    /// Whoever comes to a listener that asks for nothing.
    #[must_use]
    pub fn loopback() -> Self {
        Self {
            client: "loopback".to_owned(),
            tenant: None,
            user: None,
            scopes: Vec::new(),
            groups: Vec::new(),
            how: How::Loopback,
            expires: None,
        }
    }

    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes
            .binary_search_by(|own| own.as_str().cmp(scope))
            .is_ok()
    }

    /// True when both have the same [`Self::principal`].
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.tenant == other.tenant
            && self.how == other.how
            && self.client == other.client
            && self.user == other.user
    }

    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal {
            tenant: self.tenant.clone(),
            how: self.how,
            client: self.client.clone(),
            user: self.user.clone(),
        }
    }
}

/// Sorted, each once.
fn sorted(scopes: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut scopes: Vec<String> = scopes.into_iter().collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// A name out of a token or certificate that may stand in logs, metrics and audit.
fn is_plain_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control)
}
