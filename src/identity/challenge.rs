//! What somebody hears who was not let in: status, headers and body, for the listener to copy
//! (RFC 6750 §3, RFC 9728, and the authorization chapter of MCP 2026-07-28).

use crate::config::{Access, Config};
use serde_json::json;

/// Where protected resource metadata is (RFC 9728 §3).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Why a caller is not let in. Each has a status, an OAuth error and an id for metrics and audit; none
/// says which of several keys or names would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Nothing was shown.
    Missing,
    /// `Authorization` has another scheme than `Bearer`.
    Scheme,
    /// A token stood in the query, where every log on the way has it.
    Query,
    /// It cannot be told what was shown.
    Malformed(&'static str),
    /// A key that is not one, was revoked or has expired: nobody is told which.
    Key,
    /// A token that does not hold.
    Token(TokenFault),
    /// A certificate of the right authority that names no client, or more than one.
    Certificate,
    /// A user of a Unix socket that is no client.
    User,
    /// Whoever it is, the operator has blocked it.
    Blocked,
    /// It says for whom it asks, but is no gateway.
    NotGateway,
    /// The user belongs to another tenant than the gateway.
    Tenant,
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// Not three parts of base64url with objects in them; a claim twice; a critical extension.
    Malformed,
    /// No token of any issuer is accepted here.
    Unexpected,
    /// `none`, a symmetric one, one that is not known, or one that the operator does not allow.
    Algorithm,
    /// Signed with a key that is not in the set. The issuer may have rotated.
    UnknownKey,
    Signature,
    Expired,
    NotYet,
    Issuer,
    /// Made for another server.
    Audience,
    /// Made for another use, such as an ID token in a logout.
    Type,
    /// A claim is missing or has another form.
    Claims,
    /// Bound to a certificate that the connection does not have.
    Binding,
    /// It says a name that belongs to a client with a certificate or Unix user.
    Name,
}

impl Denied {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Query | Self::Malformed(_) => 400,
            Self::Missing
            | Self::Scheme
            | Self::Key
            | Self::Token(_)
            | Self::Certificate
            | Self::User => 401,
            Self::Blocked | Self::NotGateway | Self::Tenant => 403,
        }
    }

    /// A stable id, for metrics and audit.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Missing => "identity.missing",
            Self::Scheme => "identity.scheme",
            Self::Query => "identity.query",
            Self::Malformed(_) => "identity.malformed",
            Self::Key => "identity.key",
            Self::Token(fault) => fault.rule(),
            Self::Certificate => "identity.certificate",
            Self::User => "identity.user",
            Self::Blocked => "identity.blocked",
            Self::NotGateway => "identity.gateway",
            Self::Tenant => "identity.tenant",
        }
    }

    /// True when a newer key set may know the key.
    #[must_use]
    pub const fn asks_for_keys(self) -> bool {
        matches!(self, Self::Token(TokenFault::UnknownKey))
    }

    /// The error of RFC 6750 §3.1; none when nothing was shown.
    const fn error(self) -> Option<&'static str> {
        match self {
            Self::Missing | Self::Scheme | Self::Certificate | Self::User => None,
            Self::Query | Self::Malformed(_) => Some("invalid_request"),
            Self::Key | Self::Token(_) => Some("invalid_token"),
            Self::Blocked | Self::NotGateway | Self::Tenant => Some("access_denied"),
        }
    }

    /// One clause for whoever asks; never what was shown.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Missing => "say who you are with a bearer token or a client certificate",
            Self::Scheme => "only the scheme Bearer is known here",
            Self::Query => "a token belongs into the Authorization header, never into the URL",
            Self::Malformed(why) => why,
            Self::Key => "the key is not valid",
            Self::Token(fault) => fault.text(),
            Self::Certificate => "the client certificate names no client of this server",
            Self::User => "this user is no client of this server",
            Self::Blocked => "this client is blocked",
            Self::NotGateway => "only a gateway may ask for somebody else",
            Self::Tenant => "the user does not belong to this tenant",
        }
    }
}

impl TokenFault {
    const fn rule(self) -> &'static str {
        match self {
            Self::Malformed => "identity.token.malformed",
            Self::Unexpected => "identity.token.unexpected",
            Self::Algorithm => "identity.token.algorithm",
            Self::UnknownKey => "identity.token.unknown-key",
            Self::Signature => "identity.token.signature",
            Self::Expired => "identity.token.expired",
            Self::NotYet => "identity.token.not-yet",
            Self::Issuer => "identity.token.issuer",
            Self::Audience => "identity.token.audience",
            Self::Type => "identity.token.type",
            Self::Claims => "identity.token.claims",
            Self::Binding => "identity.token.binding",
            Self::Name => "identity.token.name",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "the token is not a JSON Web Token",
            Self::Unexpected => "tokens of issuers are not accepted here",
            Self::Algorithm => "the token is signed in a way that is not accepted here",
            Self::UnknownKey => "the token is signed with a key that is not known here",
            Self::Signature => "the signature of the token is wrong",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Issuer => "the token is of another issuer",
            Self::Audience => "the token was made for another server",
            Self::Type => "the token was made for another use",
            Self::Claims => "the token lacks a claim that is needed here",
            Self::Binding => "the token is bound to another connection",
            Self::Name => "the token says a name that is not its own",
        }
    }
}

/// An HTTP answer. Nothing in it needs escaping: every part was checked when the configuration was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// Makes the answers of one listener.
#[derive(Debug, Clone, Default)]
pub struct Challenges {
    /// The URL that clients use; the metadata needs it.
    resource: Option<String>,
    /// Who makes tokens for it. Without one there is no metadata.
    issuer: Option<String>,
    /// What every request needs.
    baseline: Vec<String>,
    /// Every scope that a rule names, sorted.
    known: Vec<String>,
    name: String,
}

impl Challenges {
    /// Takes what it needs of the configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let Access { identity, .. } = &config.access;
        let tools = config.tools.named.values().chain([&config.tools.default]);
        let known = tools
            .filter_map(|tool| tool.scopes.as_ref())
            .chain(config.resource_scopes.values())
            .chain(config.prompt_scopes.values())
            .chain([&identity.scopes])
            .flatten()
            // The MCP authorization chapter: a resource does not ask for it.
            .filter(|scope| *scope != "offline_access")
            .cloned();
        Self {
            resource: config
                .listen
                .as_ref()
                .and_then(|listen| listen.public_url.clone()),
            issuer: identity.jwt.as_ref().map(|jwt| jwt.issuer.clone()),
            baseline: identity.scopes.clone(),
            known: super::sorted(known),
            name: config.server.name.clone(),
        }
    }

    /// What somebody hears who is not let in.
    #[must_use]
    pub fn answer(&self, denied: Denied) -> Answer {
        let mut headers = common();
        if denied.status() == 401 {
            let scopes = match self.baseline.is_empty() {
                true => &self.known,
                false => &self.baseline,
            };
            let challenge = self.challenge(denied.error(), denied.text(), scopes);
            headers.push(("www-authenticate", challenge));
        } else if let Some(error @ "invalid_request") = denied.error() {
            headers.push((
                "www-authenticate",
                self.challenge(Some(error), denied.text(), &[]),
            ));
        }
        let body = json!({
            "error": denied.error().unwrap_or("unauthorized"),
            "error_description": denied.text(),
        });
        Answer {
            status: denied.status(),
            headers,
            body: body.to_string(),
        }
    }

    /// 403 for a caller that is known and lacks scopes: all that this one request needs, at once.
    #[must_use]
    pub fn insufficient_scope(&self, needed: &[String]) -> Answer {
        const TEXT: &str = "the request needs more than the token allows";
        let mut headers = common();
        headers.push((
            "www-authenticate",
            self.challenge(Some("insufficient_scope"), TEXT, needed),
        ));
        let body = json!({
            "error": "insufficient_scope",
            "error_description": TEXT,
            "scope": needed.join(" "),
        });
        Answer {
            status: 403,
            headers,
            body: body.to_string(),
        }
    }

    /// Protected resource metadata (RFC 9728 §2), when there is an issuer to name.
    #[must_use]
    pub fn metadata(&self) -> Option<Answer> {
        let (resource, issuer) = (self.resource.as_ref()?, self.issuer.as_ref()?);
        let mut body = serde_json::Map::new();
        let members = json!({
            "resource": resource,
            "authorization_servers": [issuer],
            "bearer_methods_supported": ["header"],
            "resource_name": self.name,
            "scopes_supported": self.known,
        });
        if let serde_json::Value::Object(members) = members {
            // RFC 9728 §3.2: a list without entries is left out.
            let full =
                |value: &serde_json::Value| value.as_array().is_none_or(|all| !all.is_empty());
            body.extend(members.into_iter().filter(|(_, value)| full(value)));
        }
        Some(Answer {
            status: 200,
            headers: vec![
                ("content-type", "application/json".to_owned()),
                ("cache-control", "public, max-age=300".to_owned()),
            ],
            body: serde_json::Value::Object(body).to_string(),
        })
    }

    /// True for the two paths at which clients look for the metadata: with the path of the resource
    /// behind it, and at the root.
    #[must_use]
    pub fn is_metadata_path(&self, path: &str) -> bool {
        let behind = path.strip_prefix(WELL_KNOWN);
        let own = self.resource.as_deref().map(|url| split(url).1);
        self.issuer.is_some()
            && behind.is_some_and(|behind| matches!(behind, "" | "/") || Some(behind) == own)
    }

    fn challenge(&self, error: Option<&str>, text: &str, scopes: &[String]) -> String {
        let mut parts = Vec::new();
        if let Some(error) = error {
            parts.push(format!("error=\"{error}\""));
            parts.push(format!("error_description=\"{text}\""));
        }
        if let (Some(resource), Some(_)) = (&self.resource, &self.issuer) {
            let (origin, path) = split(resource);
            parts.push(format!("resource_metadata=\"{origin}{WELL_KNOWN}{path}\""));
        }
        if !scopes.is_empty() {
            parts.push(format!("scope=\"{}\"", scopes.join(" ")));
        }
        if parts.is_empty() {
            parts.push("realm=\"cofferdam\"".to_owned());
        }
        format!("Bearer {}", parts.join(", "))
    }
}

fn common() -> Vec<(&'static str, String)> {
    vec![
        ("content-type", "application/json".to_owned()),
        ("cache-control", "no-store".to_owned()),
    ]
}

/// Origin and path of a URL that `config` has brought into form.
fn split(url: &str) -> (&str, &str) {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url
        .get(host..)
        .and_then(|rest| rest.find('/'))
        .map_or(url.len(), |at| host + at);
    url.split_at(end)
}
