//! The twin of `[identity]`, `[clients]`, `[groups]` and of `listen.tls`.

use super::At;
use crate::config::access::{Algorithm, ClientAuth, TlsVersion};
use crate::config::rates::Rate;
use crate::config::units::TimeSpan;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// How network clients prove who they are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Identity {
    /// File of API keys, written by `cofferdam client add`; it holds only their hashes.
    pub(in crate::config) keys: Option<At<String>>,
    /// Access tokens of an issuer.
    pub(in crate::config) jwt: Option<At<Jwt>>,
    /// Scopes that every request needs.
    pub(in crate::config) scopes: Vec<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Jwt {
    /// The issuer, as tokens write it in `iss`.
    pub(in crate::config) issuer: Option<At<String>>,
    /// The issuer's keys, a JSON Web Key Set: a file, or the `https` URL that the issuer calls its `jwks_uri`.
    pub(in crate::config) jwks: Option<At<String>>,
    /// Certificates that may sign that of the URL; default: those that the system trusts.
    pub(in crate::config) jwks_ca: Option<At<String>>,
    /// How old keys from a URL may be before they are fetched again; default: 10m.
    pub(in crate::config) jwks_refresh: Option<At<TimeSpan>>,
    /// What tokens must name in `aud`; default: `listen.public_url`.
    pub(in crate::config) audience: Option<At<String>>,
    /// Signature algorithms; default: all that are asymmetric.
    pub(in crate::config) algorithms: Option<At<Vec<At<Algorithm>>>>,
    /// The claim that names the tenant; a token without it is then refused.
    pub(in crate::config) tenant_claim: Option<At<String>>,
    /// The claim that lists groups of `[groups]`.
    pub(in crate::config) groups_claim: Option<At<String>>,
}

/// What one client is called, and what it may do; `"*"` is for those without an entry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Client {
    /// The subject alternative name of its certificate: a URI, a host name or a mail address.
    pub(in crate::config) san: Option<At<String>>,
    /// The Unix user that it connects as, on a Unix socket.
    pub(in crate::config) uid: Option<At<i64>>,
    /// Keeps limits, audit and sessions apart.
    pub(in crate::config) tenant: Option<At<String>>,
    /// Scopes that it has without a token; a token says its own.
    pub(in crate::config) scopes: Vec<At<String>>,
    /// Groups of `[groups]` that it belongs to.
    pub(in crate::config) groups: Vec<At<String>>,
    /// May say in a signed token for whom it asks.
    pub(in crate::config) gateway: Option<At<bool>>,
    /// Refused, whatever it shows.
    pub(in crate::config) blocked: Option<At<bool>>,
    /// Only tools with `effect = "read"`.
    pub(in crate::config) read_only: Option<At<bool>>,
    /// When present, only these tools; `*` matches any run of characters.
    pub(in crate::config) tools: Option<At<Vec<At<String>>>>,
    /// When present, only these resources.
    pub(in crate::config) resources: Option<At<Vec<At<String>>>>,
    /// When present, only these prompts.
    pub(in crate::config) prompts: Option<At<Vec<At<String>>>>,
    /// Requests of this client, in place of `limits.rate`.
    pub(in crate::config) rate: Option<At<Rate>>,
    /// Requests of this client at one time.
    pub(in crate::config) concurrency: Option<At<i64>>,
    /// Requests of this client in one day (UTC), in place of `limits.quota`.
    pub(in crate::config) quota: Option<At<i64>>,
}

/// What the members of a group have and may do; lists of all groups of a client add up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Group {
    /// Scopes that members have without a token.
    pub(in crate::config) scopes: Vec<At<String>>,
    /// Only tools with `effect = "read"`.
    pub(in crate::config) read_only: Option<At<bool>>,
    /// When present, only these tools.
    pub(in crate::config) tools: Option<At<Vec<At<String>>>>,
    /// When present, only these resources.
    pub(in crate::config) resources: Option<At<Vec<At<String>>>>,
    /// When present, only these prompts.
    pub(in crate::config) prompts: Option<At<Vec<At<String>>>>,
}

/// Certificates of the listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Tls {
    /// Certificate chain, PEM.
    pub(in crate::config) cert: Option<At<String>>,
    /// Its private key, PEM.
    pub(in crate::config) key: Option<At<String>>,
    /// Who signs the certificates of clients, PEM; absent: clients are asked for none.
    pub(in crate::config) client_ca: Option<At<String>>,
    /// Revocation lists for certificates of clients, PEM.
    pub(in crate::config) client_crl: Option<At<String>>,
    /// Whether a client may come without a certificate; default required.
    pub(in crate::config) client_auth: Option<At<ClientAuth>>,
    /// The oldest version that is spoken; default 1.3.
    pub(in crate::config) min_version: Option<At<TlsVersion>>,
}

/// `[clients]` as it is written.
pub(in crate::config) type Clients = BTreeMap<At<String>, Client>;

/// `[groups]` as it is written.
pub(in crate::config) type Groups = BTreeMap<At<String>, Group>;

/// Scopes by pattern of a URI or name.
pub(in crate::config) type ScopesBy = BTreeMap<At<String>, Vec<At<String>>>;
