//! Access tokens as JSON Web Tokens (RFC 7519, 9068), by ring directly.
//!
//! The kept libraries do not fit: `jsonwebtoken` 11 brings either aws-lc or a second implementation of
//! every primitive, among them an RSA with known timing leaks; the versions with ring are no longer kept.
//! What is left of a library then is reading two small objects, which is stricter here. Order: form,
//! algorithm, key, signature, and only then what it says, so that a forger learns nothing of the claims.

use super::challenge::TokenFault;
use super::jwk::algorithm;
use super::{Caller, Certificate, How, Jwks, is_plain_name, sorted};
use crate::config::{Algorithm, Jwt, KeySource};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Clocks of issuers differ from ours by at most so many seconds.
const LEEWAY: u64 = 30;
/// A token may name so many scopes, groups or audiences.
const MOST_ENTRIES: usize = 256;

/// What tokens must be.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) issuer: String,
    /// Without a slash at its end.
    pub(super) audience: String,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) tenant_claim: Option<String>,
    pub(super) groups_claim: Option<String>,
    /// The issuer can be asked for its keys.
    pub(super) fetched: bool,
}

impl Rules {
    pub(super) fn new(jwt: &Jwt, public_url: &str) -> Self {
        let audience = jwt.audience.as_deref().unwrap_or(public_url);
        Self {
            issuer: jwt.issuer.clone(),
            audience: audience.trim_end_matches('/').to_owned(),
            algorithms: jwt.algorithms.clone(),
            tenant_claim: jwt.tenant_claim.clone(),
            groups_claim: jwt.groups_claim.clone(),
            fetched: matches!(jwt.jwks, KeySource::Url { .. }),
        }
    }

    /// Who a token stands for at `now`, in seconds since 1970. `certificate` is that of the connection.
    pub(super) fn verify(
        &self,
        keys: &Jwks,
        token: &str,
        certificate: Option<&Certificate>,
        now: u64,
    ) -> Result<Caller, TokenFault> {
        let claims = self.proved(keys, token)?;
        self.check_time(&claims, now)?;
        self.check_place(&claims)?;
        check_binding(&claims, certificate)?;
        self.caller(&claims)
    }

    /// The claims of a token whose signature is right.
    fn proved(&self, keys: &Jwks, token: &str) -> Result<Claims, TokenFault> {
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(sign), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Malformed);
        };
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenFault::Malformed)
        };
        let header: Header =
            serde_json::from_slice(&decode(head)?).map_err(|_| TokenFault::Malformed)?;
        header.check()?;
        let algorithm = algorithm(&header.alg)
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or(TokenFault::Algorithm)?;
        let signature = decode(sign)?;
        let kid = header.kid.as_deref();
        if kid.is_some_and(|kid| !keys.knows(kid)) {
            return Err(TokenFault::UnknownKey);
        }
        let signed = token
            .get(..head.len() + 1 + body.len())
            .unwrap_or_default()
            .as_bytes();
        let mut candidates = keys.candidates(kid, algorithm);
        if !candidates.any(|key| key.verify(algorithm, signed, &signature)) {
            // Without a name for its key it may be signed with one that is new.
            return Err(match kid {
                None if self.fetched => TokenFault::UnknownKey,
                _ => TokenFault::Signature,
            });
        }
        serde_json::from_slice(&decode(body)?).map_err(|_| TokenFault::Malformed)
    }

    fn check_time(&self, claims: &Claims, now: u64) -> Result<(), TokenFault> {
        let expires = claims.time("exp")?.ok_or(TokenFault::Claims)?;
        if now >= expires.saturating_add(LEEWAY) {
            return Err(TokenFault::Expired);
        }
        for claim in ["nbf", "iat"] {
            if let Some(start) = claims.time(claim)?
                && now.saturating_add(LEEWAY) < start
            {
                return Err(TokenFault::NotYet);
            }
        }
        Ok(())
    }

    fn check_place(&self, claims: &Claims) -> Result<(), TokenFault> {
        if claims.text("iss") != Some(self.issuer.as_str()) {
            return Err(TokenFault::Issuer);
        }
        let ours = |audience: &str| audience.strip_suffix('/').unwrap_or(audience) == self.audience;
        let named = match claims.0.get("aud") {
            Some(Value::String(one)) => ours(one),
            Some(Value::Array(all)) if all.len() <= MOST_ENTRIES => {
                all.iter().all(Value::is_string) && all.iter().filter_map(Value::as_str).any(ours)
            }
            _ => false,
        };
        named.then_some(()).ok_or(TokenFault::Audience)
    }

    fn caller(&self, claims: &Claims) -> Result<Caller, TokenFault> {
        let name = |claim: &str| match claims.0.get(claim) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if is_plain_name(text) => Ok(Some(text.clone())),
            Some(_) => Err(TokenFault::Claims),
        };
        let user = name("sub")?;
        let client = match (name("client_id")?, name("azp")?) {
            (Some(client), _) | (None, Some(client)) => client,
            (None, None) => user.clone().ok_or(TokenFault::Claims)?,
        };
        // The entry for everybody is nobody's.
        if client == "*" {
            return Err(TokenFault::Claims);
        }
        let tenant = match &self.tenant_claim {
            None => None,
            Some(claim) => Some(name(claim)?.ok_or(TokenFault::Claims)?),
        };
        let mut scopes = Vec::new();
        for claim in ["scope", "scp"] {
            scopes.extend(claims.words(claim)?);
        }
        let groups = match &self.groups_claim {
            None => Vec::new(),
            Some(claim) => claims.words(claim)?,
        };
        Ok(Caller {
            user: user.filter(|user| *user != client),
            client,
            tenant,
            scopes: sorted(scopes),
            groups: sorted(groups),
            how: How::Jwt,
            expires: claims.time("exp")?,
        })
    }
}

/// A token that is bound to a certificate is worth nothing without it (RFC 8705 §3); one that is bound
/// in another way cannot be proved here.
fn check_binding(claims: &Claims, certificate: Option<&Certificate>) -> Result<(), TokenFault> {
    let Some(binding) = claims.0.get("cnf") else {
        return Ok(());
    };
    let wanted = binding.get("x5t#S256").and_then(Value::as_str);
    let shown = certificate.map(|own| URL_SAFE_NO_PAD.encode(own.thumbprint()));
    let alone = binding.as_object().is_some_and(|all| all.len() == 1);
    match (wanted, shown) {
        (Some(wanted), Some(shown)) if alone && wanted == shown => Ok(()),
        _ => Err(TokenFault::Binding),
    }
}

/// What is read of the header. Keys and certificates in it (`jwk`, `jku`, `x5c`, `x5u`) are not: whoever
/// signs would choose what it is checked with.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

impl Header {
    fn check(&self) -> Result<(), TokenFault> {
        // RFC 7515 §4.1.11: an extension that is not understood makes the token invalid.
        if self.crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        // RFC 9068 §2.1; many issuers still write `JWT` or nothing. Anything else was made for another use.
        let typ = self.typ.as_deref().unwrap_or("jwt").to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        match typ {
            "at+jwt" | "jwt" => Ok(()),
            _ => Err(TokenFault::Type),
        }
    }
}

/// Claims by name; a name that is there twice makes the token invalid.
#[derive(Debug)]
struct Claims(BTreeMap<String, Value>);

impl Claims {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// RFC 7519 §2, NumericDate: seconds since 1970, perhaps with a fraction.
    fn time(&self, name: &str) -> Result<Option<u64>, TokenFault> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        if let Some(seconds) = value.as_u64() {
            return Ok(Some(seconds));
        }
        let seconds = value.as_f64().ok_or(TokenFault::Claims)?;
        // The year 33658.
        if !(0.0..1e12).contains(&seconds) {
            return Err(TokenFault::Claims);
        }
        let whole = std::time::Duration::try_from_secs_f64(seconds);
        whole
            .map(|time| Some(time.as_secs()))
            .map_err(|_| TokenFault::Claims)
    }

    /// A list, or a text of words (`scope` is one text in RFC 8693 §4.2, `scp` often a list).
    fn words(&self, name: &str) -> Result<Vec<String>, TokenFault> {
        let words: Vec<String> = match self.0.get(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => text
                .split(' ')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect(),
            Some(Value::Array(list)) => list
                .iter()
                .map(|word| word.as_str().map(str::to_owned).ok_or(TokenFault::Claims))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(TokenFault::Claims),
        };
        let fits = words.len() <= MOST_ENTRIES && words.iter().all(|word| is_plain_name(word));
        fits.then_some(words).ok_or(TokenFault::Claims)
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = BTreeMap<String, Value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim is there twice"));
                    }
                }
                Ok(claims)
            }
        }
        deserializer.deserialize_map(Members).map(Self)
    }
}
