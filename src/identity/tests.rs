//! Callers who are who they say, the issuer that says so, and what those who are not are told.

use super::*;
use crate::config::sample as config;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const URL: &str = "https://mcp.example.com/mcp";
pub(super) const ISSUER: &str = "https://id.example.com";

pub(super) const CONFIG: &str = r#"
server = { name = "t", command = ["/bin/true"] }
[listen]
http = "0.0.0.0:8443"
public_url = "https://mcp.example.com/mcp/"
tls = { cert = "tls.crt", key = "tls.key", client_ca = "ca.crt" }
[identity]
keys = "clients.json"
jwt = { issuer = "https://id.example.com", jwks = "jwks.json", tenant_claim = "tenant", groups_claim = "groups" }
[clients.ci]
san = "spiffe://example/ci"
tenant = "a"
scopes = ["issues:read"]
groups = ["builders"]
[clients.twin]
san = "twin.example"
[clients.post]
san = "ci@example.org"
[clients.gate]
san = "spiffe://example/gate"
gateway = true
tenant = "a"
scopes = ["issues:read", "issues:write"]
[clients.banned]
blocked = true
[groups.builders]
scopes = ["builds:read"]
[tools.create_issue]
scopes = ["issues:write"]
"#;

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with a key of each kind.
pub(super) struct Issuer {
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    pub(super) rsa: RsaKeyPair,
    random: SystemRandom,
}

pub(super) static ISSUER_KEYS: LazyLock<Issuer> = LazyLock::new(Issuer::new);

impl Issuer {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let ec = |how| {
            let key = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(how, key.as_ref(), &random).unwrap()
        };
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            p256: ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            rsa: RsaKeyPair::from_pkcs8(include_bytes!("../../tests/fixtures/tokens/rsa.pk8"))
                .unwrap(),
            random,
        }
    }

    pub(super) fn jwks(&self) -> Value {
        let point = |key: &EcdsaKeyPair, crv: &str, kid: &str, size: usize| {
            let public = key.public_key().as_ref();
            json!({ "kty": "EC", "crv": crv, "kid": kid, "use": "sig",
                    "x": b64(&public[1..=size]), "y": b64(&public[1 + size..]) })
        };
        let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let (modulus, exponent) = (public.n, public.e);
        json!({ "keys": [
            point(&self.p256, "P-256", "p256", 32),
            point(&self.p384, "P-384", "p384", 48),
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(self.ed.public_key()) },
            { "kty": "RSA", "kid": "rsa", "n": b64(&modulus), "e": b64(&exponent) },
            { "kty": "RSA", "kid": "encrypts", "use": "enc", "n": b64(&modulus), "e": b64(&exponent) },
            { "kty": "oct", "kid": "symmetric", "k": b64("secret") },
            { "kty": "EC", "crv": "secp256k1", "kid": "coin", "x": "AA", "y": "AA" },
        ]})
    }

    pub(super) fn keys(&self) -> Arc<Jwks> {
        Arc::new(Jwks::parse(self.jwks().to_string().as_bytes()).unwrap())
    }

    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let ec = |key: &EcdsaKeyPair| key.sign(&self.random, message).unwrap().as_ref().to_vec();
        let rsa = |how: &'static dyn signature::RsaEncoding| {
            let mut out = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(how, &self.random, message, &mut out).unwrap();
            out
        };
        match alg {
            "ES256" => ec(&self.p256),
            "ES384" => ec(&self.p384),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            other => panic!("{other}"),
        }
    }

    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        self.raw(&header.to_string(), &claims.to_string())
    }

    pub(super) fn raw(&self, header: &str, claims: &str) -> String {
        let alg: Value = serde_json::from_str(header).unwrap();
        let signed = format!("{}.{}", b64(header), b64(claims));
        let sign = self.sign(alg["alg"].as_str().unwrap(), signed.as_bytes());
        format!("{signed}.{}", b64(sign))
    }
}

pub(super) fn header() -> Value {
    json!({ "alg": "ES256", "kid": "p256", "typ": "at+jwt" })
}

pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": URL, "sub": "ann", "client_id": "app", "tenant": "a",
        "scope": "issues:write issues:read", "groups": ["builders"],
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 600,
    })
}

/// The good claims with some changed; `null` takes one out.
pub(super) fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => {
                all.as_object_mut().unwrap().remove(name);
            }
            value => all[name] = value.clone(),
        }
    }
    all
}

pub(super) fn verifier() -> Verifier {
    Verifier::new(&config(CONFIG), KeyBook::default(), ISSUER_KEYS.keys())
}

pub(super) fn bearer(verifier: &Verifier, token: &str) -> Result<Caller, Denied> {
    let value = format!("Bearer {token}");
    let authorization = [value.as_bytes()];
    let evidence = Evidence {
        authorization: &authorization,
        ..Evidence::default()
    };
    verifier.identify(&evidence, NOW)
}

#[test]
fn unix_users_are_clients() {
    let text = r#"
server = { name = "t", command = ["/bin/true"] }
listen = { http = "unix:/run/t.sock" }
clients.backup = { uid = 1000, scopes = ["a"] }
"#;
    let verifier = Verifier::new(&config(text), KeyBook::default(), Arc::default());
    let ask = |uid| {
        let evidence = Evidence {
            uid,
            ..Evidence::default()
        };
        verifier.identify(&evidence, NOW)
    };
    let caller = ask(Some(1000)).unwrap();
    assert_eq!(
        (caller.client.as_str(), caller.how),
        ("backup", How::UnixPeer)
    );
    assert_eq!(ask(Some(0)), Err(Denied::User));
    assert_eq!(ask(None), Err(Denied::Missing));
    let token = ISSUER_KEYS.token(&header(), &claims());
    let unexpected = Err(Denied::Token(TokenFault::Unexpected));
    assert_eq!(bearer(&verifier, &token), unexpected);
}

#[test]
fn a_listener_that_asks_for_nothing_knows_nobody() {
    let text = "server = { name = \"t\", command = [\"/bin/true\"] }\nlisten = { http = \"127.0.0.1:8080\" }\n";
    let verifier = Verifier::new(&config(text), KeyBook::default(), Arc::default());
    let caller = verifier.identify(&Evidence::default(), NOW).unwrap();
    assert_eq!(caller, Caller::loopback());
    let by_user = |uid| {
        let evidence = Evidence {
            uid: Some(uid),
            ..Evidence::default()
        };
        verifier.identify(&evidence, NOW).unwrap().principal()
    };
    assert_ne!(by_user(1), by_user(2));
    let query = Evidence {
        query: Some("access_token=x"),
        ..Evidence::default()
    };
    assert_eq!(verifier.identify(&query, NOW), Err(Denied::Query));
}

#[test]
fn challenges_say_where_to_get_a_token_and_for_what() {
    let challenges = Challenges::new(&config(CONFIG));
    let header = |answer: &Answer| {
        let found = answer
            .headers
            .iter()
            .find(|(name, _)| *name == "www-authenticate");
        found.map(|(_, value)| value.clone())
    };
    let place =
        "resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\"";
    let missing = challenges.answer(Denied::Missing);
    assert_eq!(missing.status, 401);
    assert_eq!(
        header(&missing).unwrap(),
        format!("Bearer {place}, scope=\"issues:write\"")
    );
    let needed = ["issues:write".to_owned(), "issues:read".to_owned()];
    let more = challenges.insufficient_scope(&needed);
    assert_eq!(more.status, 403);
    assert_eq!(
        header(&more).unwrap(),
        format!(
            "Bearer error=\"insufficient_scope\", error_description=\"the request needs more than the token allows\", {place}, scope=\"issues:write issues:read\""
        )
    );
    assert!(header(&challenges.answer(Denied::Blocked)).is_none());
    assert_eq!(challenges.answer(Denied::Query).status, 400);

    let metadata: Value = serde_json::from_str(&challenges.metadata().unwrap().body).unwrap();
    assert_eq!(
        metadata,
        json!({
            "resource": URL, "authorization_servers": [ISSUER], "bearer_methods_supported": ["header"],
            "resource_name": "t", "scopes_supported": ["issues:write"],
        })
    );
    for (path, is) in [
        ("/.well-known/oauth-protected-resource", true),
        ("/.well-known/oauth-protected-resource/mcp", true),
        ("/.well-known/oauth-protected-resource/other", false),
        ("/.well-known/oauth-authorization-server", false),
        ("/mcp", false),
    ] {
        assert_eq!(challenges.is_metadata_path(path), is, "{path}");
    }
    // Without an issuer there is nothing to point at.
    let keys_only = CONFIG
        .lines()
        .filter(|line| !line.starts_with("jwt = ") && !line.starts_with("gateway"))
        .collect::<Vec<_>>()
        .join("\n");
    let challenges = Challenges::new(&config(&keys_only));
    assert_eq!(challenges.metadata(), None);
    assert!(!challenges.is_metadata_path("/.well-known/oauth-protected-resource"));
    assert_eq!(
        header(&challenges.answer(Denied::Missing)).unwrap(),
        "Bearer scope=\"issues:write\""
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_shown_is_answered(
        value in proptest::collection::vec(any::<u8>(), 0..80),
        query in ".{0,40}",
    ) {
        let authorization = [value.as_slice()];
        let evidence = Evidence {
            authorization: &authorization,
            query: Some(&query),
            ..Evidence::default()
        };
        let denied = verifier().identify(&evidence, NOW).unwrap_err();
        let answer = Challenges::new(&config(CONFIG)).answer(denied);
        prop_assert!(matches!(answer.status, 400 | 401));
        for (_, value) in &answer.headers {
            prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
    }
}
