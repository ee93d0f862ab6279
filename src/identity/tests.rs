//! Callers who are who they say, and a table of those who are not.

use super::*;
use crate::config::sample as config;
use crate::transport::tls::{certificates, self_signed};
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
use std::time::{Duration, UNIX_EPOCH};

const NOW: u64 = 1_800_000_000;
const URL: &str = "https://mcp.example.com/mcp";
const ISSUER: &str = "https://id.example.com";

const CONFIG: &str = r#"
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

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with a key of each kind.
struct Issuer {
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: RsaKeyPair,
    random: SystemRandom,
}

static ISSUER_KEYS: LazyLock<Issuer> = LazyLock::new(Issuer::new);

impl Issuer {
    fn new() -> Self {
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

    fn jwks(&self) -> Value {
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

    fn keys(&self) -> Arc<Jwks> {
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

    fn token(&self, header: &Value, claims: &Value) -> String {
        self.raw(&header.to_string(), &claims.to_string())
    }

    fn raw(&self, header: &str, claims: &str) -> String {
        let alg: Value = serde_json::from_str(header).unwrap();
        let signed = format!("{}.{}", b64(header), b64(claims));
        let sign = self.sign(alg["alg"].as_str().unwrap(), signed.as_bytes());
        format!("{signed}.{}", b64(sign))
    }
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "p256", "typ": "at+jwt" })
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": URL, "sub": "ann", "client_id": "app", "tenant": "a",
        "scope": "issues:write issues:read", "groups": ["builders"],
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 600,
    })
}

/// The good claims with some changed; `null` takes one out.
fn with(changes: Value) -> Value {
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

fn verifier() -> Verifier {
    Verifier::new(&config(CONFIG), KeyBook::default(), ISSUER_KEYS.keys())
}

fn bearer(verifier: &Verifier, token: &str) -> Result<Caller, Denied> {
    let value = format!("Bearer {token}");
    let authorization = [value.as_bytes()];
    let evidence = Evidence {
        authorization: &authorization,
        ..Evidence::default()
    };
    verifier.identify(&evidence, NOW)
}

fn certificate(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let set = self_signed::make(&self_signed::Wanted {
        hosts: &["localhost".into()],
        clients: &names,
        not_before: UNIX_EPOCH + Duration::from_secs(NOW - 60),
        lifetime: Duration::from_secs(3600),
    })
    .unwrap();
    let chain = certificates("test", set.clients[0].certificate.as_bytes()).unwrap();
    Certificate::parse(&chain[0]).unwrap()
}

fn signed_with(names: Vec<rcgen::SanType>) -> Certificate {
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = names;
    let key = rcgen::KeyPair::generate().unwrap();
    Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
}

fn uri(name: &str) -> rcgen::SanType {
    rcgen::SanType::URI(name.try_into().unwrap())
}

#[test]
fn a_certificate_that_ends_while_its_connection_lasts_proves_nothing() {
    let certificate = signed_with(vec![uri("spiffe://example/ci")]);
    let evidence = Evidence {
        certificate: Some(&certificate),
        ..Evidence::default()
    };
    let end = certificate.valid_until();
    assert!(verifier().identify(&evidence, end).is_ok());
    let late = verifier().identify(&evidence, end + 1);
    assert_eq!(late, Err(Denied::Certificate));
}

fn by_certificate(certificate: &Certificate) -> Result<Caller, Denied> {
    let evidence = Evidence {
        certificate: Some(certificate),
        ..Evidence::default()
    };
    verifier().identify(&evidence, NOW)
}

#[test]
fn a_token_of_every_algorithm_says_who_and_what() {
    let verifier = verifier();
    for (alg, kid) in [
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("EdDSA", "ed"),
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
    ] {
        for header in [json!({ "alg": alg, "kid": kid }), json!({ "alg": alg })] {
            let token = ISSUER_KEYS.token(&header, &claims());
            let caller = bearer(&verifier, &token).unwrap_or_else(|why| panic!("{alg}: {why:?}"));
            assert_eq!(caller.client, "app");
            assert_eq!(caller.user.as_deref(), Some("ann"));
            assert_eq!(caller.tenant.as_deref(), Some("a"));
            assert_eq!(caller.scopes, ["issues:read", "issues:write"]);
            assert_eq!(caller.groups, ["builders"]);
            assert_eq!((caller.how, caller.expires), (How::Jwt, Some(NOW + 600)));
        }
    }
}

#[test]
fn what_issuers_write_differently_is_read() {
    let verifier = verifier();
    let ok = |changes: Value| bearer(&verifier, &ISSUER_KEYS.token(&header(), &with(changes)));
    assert!(ok(json!({ "aud": ["other", URL] })).is_ok());
    assert!(ok(json!({ "aud": format!("{URL}/") })).is_ok());
    assert!(ok(json!({ "exp": NOW as f64 + 0.5 })).is_ok());
    // A clock that is a little behind or ahead.
    assert!(ok(json!({ "exp": NOW - 29 })).is_ok());
    assert!(ok(json!({ "nbf": NOW + 29 })).is_ok());
    let caller = ok(json!({ "scope": null, "scp": ["a", "b", "a"] })).unwrap();
    assert_eq!(caller.scopes, ["a", "b"]);
    let caller = ok(json!({ "client_id": null, "azp": "web" })).unwrap();
    assert_eq!(
        (caller.client.as_str(), caller.user.as_deref()),
        ("web", Some("ann"))
    );
    let caller = ok(json!({ "client_id": null })).unwrap();
    assert_eq!((caller.client.as_str(), caller.user), ("ann", None));
}

/// Name, token, what is wrong with it.
fn hostile() -> Vec<(&'static str, String, TokenFault)> {
    use TokenFault as F;
    let good = ISSUER_KEYS.token(&header(), &claims());
    let claim = |changes| ISSUER_KEYS.token(&header(), &with(changes));
    let head = |header: Value| {
        let parts: Vec<&str> = good.split('.').collect();
        format!("{}.{}.{}", b64(header.to_string()), parts[1], parts[2])
    };
    let signed_head = |header: Value| ISSUER_KEYS.token(&header, &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let hs256 = |key: &[u8], kid: &str| {
        let head = b64(json!({ "alg": "HS256", "kid": kid }).to_string());
        let signed = format!("{head}.{}", parts[1]);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let tag = ring::hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", b64(tag))
    };
    let rsa_der = ISSUER_KEYS.rsa.public_key().as_ref();
    let other = Issuer::new();
    vec![
        ("expired", claim(json!({ "exp": NOW - 31 })), F::Expired),
        ("expired long ago", claim(json!({ "exp": 0 })), F::Expired),
        ("no expiry", claim(json!({ "exp": null })), F::Claims),
        (
            "expiry is a text",
            claim(json!({ "exp": "9999999999" })),
            F::Claims,
        ),
        ("expiry before time", claim(json!({ "exp": -1 })), F::Claims),
        (
            "expiry without end",
            claim(json!({ "exp": 1e300 })),
            F::Claims,
        ),
        ("not yet", claim(json!({ "nbf": NOW + 31 })), F::NotYet),
        (
            "made tomorrow",
            claim(json!({ "iat": NOW + 86_400 })),
            F::NotYet,
        ),
        (
            "another server",
            claim(json!({ "aud": "https://other.example.com/mcp" })),
            F::Audience,
        ),
        (
            "the whole host",
            claim(json!({ "aud": "https://mcp.example.com" })),
            F::Audience,
        ),
        (
            "a longer path",
            claim(json!({ "aud": format!("{URL}/x") })),
            F::Audience,
        ),
        (
            "other letters",
            claim(json!({ "aud": URL.to_uppercase() })),
            F::Audience,
        ),
        ("no audience", claim(json!({ "aud": null })), F::Audience),
        ("an empty list", claim(json!({ "aud": [] })), F::Audience),
        (
            "an audience of objects",
            claim(json!({ "aud": [{}, URL] })),
            F::Audience,
        ),
        (
            "two slashes",
            claim(json!({ "aud": format!("{URL}//") })),
            F::Audience,
        ),
        (
            "another issuer",
            claim(json!({ "iss": "https://evil.example.com" })),
            F::Issuer,
        ),
        (
            "issuer with a slash",
            claim(json!({ "iss": format!("{ISSUER}/") })),
            F::Issuer,
        ),
        ("no issuer", claim(json!({ "iss": null })), F::Issuer),
        (
            "issuers in a list",
            claim(json!({ "iss": [ISSUER] })),
            F::Issuer,
        ),
        (
            "nobody",
            claim(json!({ "sub": null, "client_id": null })),
            F::Claims,
        ),
        (
            "an empty client",
            claim(json!({ "client_id": "" })),
            F::Claims,
        ),
        ("everybody", claim(json!({ "client_id": "*" })), F::Claims),
        (
            "a client with a line feed",
            claim(json!({ "client_id": "a\nb" })),
            F::Claims,
        ),
        (
            "a client that is a number",
            claim(json!({ "client_id": 7 })),
            F::Claims,
        ),
        ("no tenant", claim(json!({ "tenant": null })), F::Claims),
        (
            "two tenants",
            claim(json!({ "tenant": ["a", "b"] })),
            F::Claims,
        ),
        (
            "scopes that are numbers",
            claim(json!({ "scp": [1] })),
            F::Claims,
        ),
        (
            "a client with a certificate",
            claim(json!({ "client_id": "ci" })),
            F::Name,
        ),
        (
            "a gateway's name",
            claim(json!({ "client_id": "gate" })),
            F::Name,
        ),
        (
            "a user with a client's name",
            claim(json!({ "client_id": null, "sub": "ci" })),
            F::Name,
        ),
        (
            "bound to a certificate",
            claim(json!({ "cnf": { "x5t#S256": b64([0; 32]) } })),
            F::Binding,
        ),
        (
            "bound to a key",
            claim(json!({ "cnf": { "jkt": "abc" } })),
            F::Binding,
        ),
        ("bound to nothing", claim(json!({ "cnf": {} })), F::Binding),
        ("alg none", head(json!({ "alg": "none" })), F::Algorithm),
        (
            "alg None, unsigned",
            format!("{}.{}.", b64(r#"{"alg":"None"}"#), parts[1]),
            F::Algorithm,
        ),
        (
            "alg nOnE with a kid",
            head(json!({ "alg": "nOnE", "kid": "p256" })),
            F::Algorithm,
        ),
        ("alg empty", head(json!({ "alg": "" })), F::Algorithm),
        (
            "alg es256",
            head(json!({ "alg": "es256", "kid": "p256" })),
            F::Algorithm,
        ),
        ("alg ES512", head(json!({ "alg": "ES512" })), F::Algorithm),
        (
            "HS256 with the public key",
            hs256(rsa_der, "rsa"),
            F::Algorithm,
        ),
        (
            "HS256 with the key of the set",
            hs256(b"secret", "symmetric"),
            F::Algorithm,
        ),
        (
            "HS256 with the set itself",
            hs256(ISSUER_KEYS.jwks().to_string().as_bytes(), "p256"),
            F::Algorithm,
        ),
        ("no alg", head(json!({ "kid": "p256" })), F::Malformed),
        (
            "alg is a list",
            head(json!({ "alg": ["ES256"] })),
            F::Malformed,
        ),
        (
            "an unknown key",
            signed_head(json!({ "alg": "ES256", "kid": "p257" })),
            F::UnknownKey,
        ),
        (
            "a path as key",
            signed_head(json!({ "alg": "ES256", "kid": "../../dev/null" })),
            F::UnknownKey,
        ),
        (
            "a key for encryption",
            signed_head(json!({ "alg": "RS256", "kid": "encrypts" })),
            F::UnknownKey,
        ),
        (
            "a symmetric key",
            signed_head(json!({ "alg": "RS256", "kid": "symmetric" })),
            F::UnknownKey,
        ),
        (
            "the key of another kind",
            signed_head(json!({ "alg": "RS256", "kid": "p256" })),
            F::Signature,
        ),
        (
            "the other curve",
            signed_head(json!({ "alg": "ES384", "kid": "p256" })),
            F::Signature,
        ),
        (
            "signed by somebody else",
            other.token(&header(), &claims()),
            F::Signature,
        ),
        (
            "somebody else, without kid",
            other.token(&json!({ "alg": "ES256" }), &claims()),
            F::Signature,
        ),
        (
            "a key of its own",
            other.token(
                &json!({ "alg": "ES256", "jwk": other.jwks()["keys"][0] }),
                &claims(),
            ),
            F::Signature,
        ),
        (
            "a set of its own",
            other.token(
                &json!({ "alg": "ES256", "jku": "https://evil.example.com/" }),
                &claims(),
            ),
            F::Signature,
        ),
        (
            "no signature",
            format!("{}.{}.", parts[0], parts[1]),
            F::Signature,
        ),
        (
            "half of a signature",
            format!("{}.{}.{}", parts[0], parts[1], &parts[2][..40]),
            F::Signature,
        ),
        (
            "zeros for a signature",
            format!("{}.{}.{}", parts[0], parts[1], b64([0; 64])),
            F::Signature,
        ),
        (
            "other claims",
            format!(
                "{}.{}.{}",
                parts[0],
                b64(with(json!({ "sub": "root" })).to_string()),
                parts[2]
            ),
            F::Signature,
        ),
        (
            "another header",
            head(json!({ "alg": "ES256", "kid": "p256" })),
            F::Signature,
        ),
        (
            "an extension",
            signed_head(json!({ "alg": "ES256", "kid": "p256", "crit": ["b64"], "b64": false })),
            F::Malformed,
        ),
        (
            "a logout token",
            signed_head(json!({ "alg": "ES256", "kid": "p256", "typ": "logout+jwt" })),
            F::Type,
        ),
        (
            "a proof of possession",
            signed_head(json!({ "alg": "ES256", "kid": "p256", "typ": "dpop+jwt" })),
            F::Type,
        ),
        (
            "an encrypted token",
            "e30.e30.e30.e30.e30".to_owned(),
            F::Malformed,
        ),
        (
            "two parts",
            format!("{}.{}", parts[0], parts[1]),
            F::Malformed,
        ),
        ("one part", parts[1].to_owned(), F::Malformed),
        ("nothing between dots", "..".to_owned(), F::Malformed),
        ("padding", format!("{good}="), F::Malformed),
        (
            "plain base64",
            good.replacen(parts[0], "+/+/", 1),
            F::Malformed,
        ),
        ("garbage", "x".repeat(300), F::Malformed),
        (
            "a header that is a list",
            format!("{}.{}.{}", b64("[]"), parts[1], parts[2]),
            F::Malformed,
        ),
        (
            "a deep header",
            format!("{}.{}.{}", b64("[".repeat(3000)), parts[1], parts[2]),
            F::Malformed,
        ),
        (
            "claims that are a list",
            ISSUER_KEYS.raw(&header().to_string(), "[]"),
            F::Malformed,
        ),
        (
            "two audiences by one name",
            ISSUER_KEYS.raw(
                &header().to_string(),
                &claims().to_string().replacen('{', r#"{"aud":"x","#, 1),
            ),
            F::Malformed,
        ),
        (
            "two algorithms",
            ISSUER_KEYS
                .raw(r#"{"alg":"ES256","kid":"p256"}"#, "{}")
                .replacen(
                    &b64(r#"{"alg":"ES256","kid":"p256"}"#),
                    &b64(r#"{"alg":"none","alg":"ES256"}"#),
                    1,
                ),
            F::Malformed,
        ),
    ]
}

#[test]
fn hostile_tokens_are_refused_with_the_right_words() {
    let verifier = verifier();
    let challenges = Challenges::new(&config(CONFIG));
    let table = hostile();
    assert!(table.len() >= 60, "{}", table.len());
    for (name, token, fault) in table {
        let denied = bearer(&verifier, &token).expect_err(name);
        assert_eq!(denied, Denied::Token(fault), "{name}");
        let answer = challenges.answer(denied);
        assert_eq!(answer.status, 401, "{name}");
        let (_, challenge) = answer
            .headers
            .iter()
            .find(|(header, _)| *header == "www-authenticate")
            .expect(name);
        assert!(challenge.starts_with("Bearer error=\"invalid_token\""));
        assert!(!challenge.contains(&token) && !answer.body.contains(&token));
        assert_eq!(denied.asks_for_keys(), fault == TokenFault::UnknownKey);
    }
}

#[test]
fn tokens_are_refused_before_they_cost_anything() {
    let verifier = verifier();
    let huge = "a".repeat(8 * 1024 + 1);
    let too_long = Denied::Malformed("the token is too long");
    assert_eq!(bearer(&verifier, &huge), Err(too_long));
    let good = ISSUER_KEYS.token(&header(), &claims());
    let value = format!("Bearer {good}");
    let value = value.as_bytes();
    let (upper, tab) = (format!("BEARER {good}"), format!("Bearer\t{good}"));
    let status = |authorization: &[&[u8]], query| {
        let evidence = Evidence {
            authorization,
            query,
            ..Evidence::default()
        };
        verifier.identify(&evidence, NOW).map_err(Denied::status)
    };
    assert!(status(&[value], None).is_ok());
    assert!(status(&[upper.as_bytes()], Some("session=1")).is_ok());
    for (name, authorization, query, expected) in [
        ("nothing", &[][..], None, 401),
        ("two headers", &[value, value], None, 400),
        ("another scheme", &[b"Basic YTpi".as_slice()], None, 401),
        ("the scheme alone", &[b"Bearer"], None, 400),
        ("an empty token", &[b"Bearer "], None, 400),
        ("a tab", &[tab.as_bytes()], None, 401),
        ("two tokens", &[b"Bearer a.b.c d.e.f"], None, 400),
        ("a quoted token", &[b"Bearer \"a.b.c\""], None, 400),
        ("no text", &[b"Bearer \xff\xfe"], None, 400),
        ("no scheme", &[good.as_bytes()], None, 401),
        ("an empty header", &[b""], None, 401),
        ("in the query", &[], Some("access_token=x"), 400),
        ("in both", &[value], Some("a=b&access_token=x"), 400),
        ("encoded", &[value], Some("%61ccess_token=x"), 400),
        ("in capitals", &[value], Some("Access_Token=x"), 400),
        ("behind a semicolon", &[value], Some("a;token=x"), 400),
        (
            "a key under another name",
            &[value],
            Some("x=cfd%5Fabc"),
            400,
        ),
    ] {
        assert_eq!(status(authorization, query), Err(expected), "{name}");
    }
}

#[test]
fn the_operator_chooses_algorithms_and_audience() {
    let text = CONFIG.replace(
        "tenant_claim",
        "audience = \"api://mcp\", algorithms = [\"EdDSA\"], tenant_claim",
    );
    let verifier = Verifier::new(&config(&text), KeyBook::default(), ISSUER_KEYS.keys());
    let claims = with(json!({ "aud": "api://mcp" }));
    let ed = ISSUER_KEYS.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims);
    assert!(bearer(&verifier, &ed).is_ok());
    let es = ISSUER_KEYS.token(&header(), &claims);
    let refused = Denied::Token(TokenFault::Algorithm);
    assert_eq!(bearer(&verifier, &es), Err(refused));
}

#[test]
fn a_key_that_is_rotated_out_signs_nothing_any_more() {
    let token = ISSUER_KEYS.token(&header(), &claims());
    let before = verifier();
    assert!(bearer(&before, &token).is_ok());
    let next = Issuer::new();
    // The same id for another key, as some issuers do.
    let same_id = before.with_jwks(next.keys());
    let refused = Err(Denied::Token(TokenFault::Signature));
    assert_eq!(bearer(&same_id, &token), refused);
    let mut others = next.jwks();
    others["keys"][0]["kid"] = json!("2027");
    let others = Jwks::parse(others.to_string().as_bytes()).unwrap();
    let other_id = before.with_jwks(Arc::new(others));
    let refused = Err(Denied::Token(TokenFault::UnknownKey));
    assert_eq!(bearer(&other_id, &token), refused);
}

#[test]
fn an_issuer_is_asked_for_keys_seldom() {
    let mut cache = JwksCache::new(Jwks::default(), NOW, 3600, 60);
    assert!(!cache.wants(NOW, false));
    let flood = (0..1000).filter(|_| cache.wants(NOW + 1, true)).count();
    assert_eq!(flood, 1);
    assert!(!cache.wants(NOW + 60, true));
    assert!(cache.wants(NOW + 61, true));
    // It is too old, whatever the tokens say.
    assert!(cache.wants(NOW + 3600, false));
    assert!(!cache.wants(NOW + 3601, false));
    let good = ISSUER_KEYS.jwks().to_string();
    cache.replace(good.as_bytes(), NOW + 3602).unwrap();
    assert_eq!(cache.current().len(), 4);
    assert!(!cache.wants(NOW + 3700, false));
    for broken in ["", "{}", "[]", "{\"keys\":[]}", "<html>"] {
        assert!(cache.replace(broken.as_bytes(), NOW + 3800).is_err());
    }
    assert_eq!(cache.current().len(), 4);
    // A clock that goes backwards asks nobody and breaks nothing.
    assert!(!cache.wants(NOW - 1000, false));
}

#[test]
fn key_sets_are_read_strictly() {
    let error = |set: &str| Jwks::parse(set.as_bytes()).unwrap_err();
    assert!(matches!(error(&" ".repeat(300_000)), JwksError::TooLarge));
    let many = json!({ "keys": vec![json!({ "kty": "RSA" }); 65] });
    assert!(matches!(error(&many.to_string()), JwksError::TooMany));
    let mut private = ISSUER_KEYS.jwks()["keys"][2].clone();
    private["d"] = json!("AA");
    let twice = r#"{"keys":[{"kty":"OKP","kty":"RSA"}]}"#;
    assert!(matches!(error(twice), JwksError::Shape { .. }));
    for key in [
        private,
        json!({ "kty": "OKP", "crv": "Ed25519", "x": b64([1; 31]) }),
        json!({ "kty": "EC", "crv": "P-256", "x": b64([1; 31]), "y": b64([1; 32]) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": b64([1; 32]), "alg": "ES256" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": b64([1; 32]), "alg": "HS256" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": b64([1; 32]), "key_ops": ["sign"] }),
    ] {
        let set = json!({ "keys": [key] }).to_string();
        assert!(matches!(error(&set), JwksError::Empty), "{set}");
    }
}

#[test]
fn certificates_name_clients() {
    let caller = by_certificate(&certificate(&["spiffe://example/ci"])).unwrap();
    assert_eq!((caller.client.as_str(), caller.how), ("ci", How::Mtls));
    assert_eq!(caller.tenant.as_deref(), Some("a"));
    assert_eq!(caller.scopes, ["builds:read", "issues:read"]);
    let host = signed_with(vec![rcgen::SanType::DnsName(
        "TWIN.example".try_into().unwrap(),
    )]);
    assert_eq!(by_certificate(&host).unwrap().client, "twin");
    let mail = rcgen::SanType::Rfc822Name("ci@example.org".try_into().unwrap());
    assert_eq!(
        by_certificate(&signed_with(vec![mail])).unwrap().client,
        "post"
    );

    let dns = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());
    for (name, names) in [
        ("no name", vec![]),
        ("not listed", vec![uri("spiffe://example/other")]),
        ("the start of one", vec![uri("spiffe://example/c")]),
        ("longer than one", vec![uri("spiffe://example/ci/x")]),
        ("other letters", vec![uri("spiffe://example/CI")]),
        (
            "two clients",
            vec![uri("spiffe://example/ci"), uri("spiffe://example/gate")],
        ),
        ("a host for a URI", vec![dns("spiffe.example.ci")]),
        ("a URI for a host", vec![uri("twin.example")]),
        (
            "an address",
            vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())],
        ),
        ("a star", vec![dns("*.example")]),
    ] {
        let denied = by_certificate(&signed_with(names)).expect_err(name);
        assert_eq!(
            (denied, denied.status()),
            (Denied::Certificate, 401),
            "{name}"
        );
    }
    let many: Vec<_> = (0..65).map(|at| uri(&format!("urn:x:{at}"))).collect();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = many;
    let key = rcgen::KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap();
    assert_eq!(
        Certificate::parse(der.der()),
        Err(CertificateError::TooManyNames)
    );
    assert_eq!(Certificate::parse(b"no"), Err(CertificateError::Der));
}

#[test]
fn a_wrong_token_is_refused_also_behind_a_right_certificate() {
    let ci = certificate(&["spiffe://example/ci"]);
    let ask = |token: &str| {
        let value = format!("Bearer {token}");
        let authorization = [value.as_bytes()];
        let evidence = Evidence {
            authorization: &authorization,
            certificate: Some(&ci),
            ..Evidence::default()
        };
        verifier().identify(&evidence, NOW)
    };
    let expired = ISSUER_KEYS.token(&header(), &with(json!({ "exp": 1 })));
    assert_eq!(ask(&expired), Err(Denied::Token(TokenFault::Expired)));
    assert_eq!(ask("cfd_wrong"), Err(Denied::Key));
    let good = ISSUER_KEYS.token(&header(), &claims());
    assert_eq!(ask(&good).unwrap().client, "app");
    let bound = |thumbprint: &[u8]| {
        let cnf = json!({ "cnf": { "x5t#S256": b64(thumbprint) } });
        ask(&ISSUER_KEYS.token(&header(), &with(cnf)))
    };
    assert!(bound(ci.thumbprint()).is_ok());
    assert_eq!(bound(&[0; 32]), Err(Denied::Token(TokenFault::Binding)));
}

#[test]
fn a_gateway_says_for_whom_by_a_token_and_nothing_else() {
    let gate = certificate(&["spiffe://example/gate"]);
    let ci = certificate(&["spiffe://example/ci"]);
    let ask = |certificate: Option<&Certificate>, tokens: &[&str], own: Option<&str>| {
        let tokens: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
        let own: Vec<&[u8]> = own.iter().map(|token| token.as_bytes()).collect();
        let evidence = Evidence {
            authorization: &own,
            certificate,
            on_behalf_of: &tokens,
            ..Evidence::default()
        };
        verifier().identify(&evidence, NOW)
    };
    let good = ISSUER_KEYS.token(&header(), &with(json!({ "scope": "issues:read admin" })));
    let caller = ask(Some(&gate), &[&good], None).unwrap();
    assert_eq!((caller.client.as_str(), caller.how), ("gate", How::Gateway));
    assert_eq!(caller.user.as_deref(), Some("ann"));
    // What both may do.
    assert_eq!(caller.scopes, ["issues:read"]);
    let plain = ask(Some(&gate), &[], None).unwrap();
    assert_eq!((plain.how, plain.user.as_deref()), (How::Mtls, None));
    assert_ne!(plain.principal(), caller.principal());

    let other_tenant = ISSUER_KEYS.token(&header(), &with(json!({ "tenant": "b" })));
    let expired = ISSUER_KEYS.token(&header(), &with(json!({ "exp": 1 })));
    let blocked = ISSUER_KEYS.token(&header(), &with(json!({ "client_id": "banned" })));
    let bearer = format!("Bearer {good}");
    for (name, certificate, tokens, own, denied) in [
        (
            "a client that is none",
            Some(&ci),
            vec![good.as_str()],
            None,
            Denied::NotGateway,
        ),
        (
            "nobody",
            None,
            vec![good.as_str()],
            None,
            Denied::NotGateway,
        ),
        (
            "another tenant",
            Some(&gate),
            vec![other_tenant.as_str()],
            None,
            Denied::Tenant,
        ),
        (
            "an expired token",
            Some(&gate),
            vec![expired.as_str()],
            None,
            Denied::Token(TokenFault::Expired),
        ),
        (
            "a blocked client",
            Some(&gate),
            vec![blocked.as_str()],
            None,
            Denied::Blocked,
        ),
        (
            "a name",
            Some(&gate),
            vec!["ann"],
            None,
            Denied::Token(TokenFault::Malformed),
        ),
        (
            "two users",
            Some(&gate),
            vec![good.as_str(), good.as_str()],
            None,
            Denied::Malformed("a gateway asks for one user at a time"),
        ),
        (
            "a bearer token too",
            Some(&gate),
            vec![good.as_str()],
            Some(bearer.as_str()),
            Denied::Malformed("a gateway proves itself by its certificate, not by a bearer token"),
        ),
    ] {
        assert_eq!(ask(certificate, &tokens, own), Err(denied), "{name}");
    }
}

fn key(byte: u8) -> ApiKey {
    ApiKey::new(&[byte; 32])
}

fn entry(client: &str, key: &ApiKey) -> Entry {
    Entry {
        client: client.to_owned(),
        tenant: None,
        scopes: vec!["issues:write".to_owned()],
        sha256: key.sha256(),
        added: None,
        expires: None,
        revoked: None,
    }
}

fn book(entries: &[Entry]) -> KeyBook {
    KeyBook::parse(KeyBook::render(entries).as_bytes()).unwrap()
}

#[test]
fn keys_open_the_door_until_they_do_not() {
    let at = |seconds: u64| jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).ok();
    let mut revoked = entry("old", &key(2));
    revoked.revoked = at(NOW - 1);
    let mut expired = entry("late", &key(3));
    expired.expires = at(NOW);
    let mut soon = entry("soon", &key(4));
    soon.expires = at(NOW + 1);
    let banned = entry("banned", &key(5));
    let mut listed = entry("ci", &key(6));
    listed.tenant = Some("b".to_owned());
    let keys = book(&[
        entry("laptop", &key(1)),
        revoked,
        expired,
        soon,
        banned,
        listed,
    ]);
    let verifier = verifier().with_keys(keys);

    let caller = bearer(&verifier, key(1).expose()).unwrap();
    assert_eq!((caller.client.as_str(), caller.how), ("laptop", How::Key));
    assert_eq!(caller.scopes, ["issues:write"]);
    assert_eq!(
        bearer(&verifier, key(4).expose()).unwrap().expires,
        Some(NOW + 1)
    );
    // What the configuration says of the client adds to it.
    let caller = bearer(&verifier, key(6).expose()).unwrap();
    assert_eq!(
        caller.scopes,
        ["builds:read", "issues:read", "issues:write"]
    );
    assert_eq!(caller.tenant.as_deref(), Some("b"));

    let good = key(1).expose().to_owned();
    let swapped: String = good
        .chars()
        .map(|c| match c.is_ascii_lowercase() {
            true => c.to_ascii_uppercase(),
            false => c.to_ascii_lowercase(),
        })
        .collect();
    for (name, presented) in [
        ("revoked", key(2).expose().to_owned()),
        ("expired", key(3).expose().to_owned()),
        ("unknown", key(9).expose().to_owned()),
        ("wrong case", format!("cfd_{}", &swapped[4..])),
        ("shorter", good[..good.len() - 1].to_owned()),
        ("longer", format!("{good}A")),
        ("the prefix alone", "cfd_".to_owned()),
        ("its hash", format!("cfd_{}", key(1).sha256())),
    ] {
        let denied = bearer(&verifier, &presented).expect_err(name);
        // The same for each: nobody is told that a key was one once.
        assert_eq!((denied, denied.status()), (Denied::Key, 401), "{name}");
    }
    assert_eq!(
        bearer(&verifier, &key(1).sha256()),
        Err(Denied::Token(TokenFault::Malformed))
    );
    let blocked = bearer(&verifier, key(5).expose()).unwrap_err();
    assert_eq!((blocked, blocked.status()), (Denied::Blocked, 403));
}

#[test]
fn the_file_of_keys_is_read_whole_or_not_at_all() {
    assert_eq!(book(&[]).entries().count(), 0);
    assert_eq!(KeyBook::parse(b" \n").unwrap().entries().count(), 0);
    let good = KeyBook::render(&[entry("a", &key(1))]);
    assert!(!good.contains(key(1).expose()));
    assert_eq!(good.matches("sha256").count(), 1);
    let parse = |text: &str| KeyBook::parse(text.as_bytes()).map(drop);
    assert!(parse(&good).is_ok());
    for (name, text) in [
        ("no list", "{}".to_owned()),
        ("cut", good[..good.len() - 4].to_owned()),
        ("a typo", good.replace("scopes", "scope")),
        ("no client", good.replace("\"client\": \"a\",", "")),
        ("everybody", good.replace("\"a\"", "\"*\"")),
        ("a name with a blank", good.replace("\"a\"", "\"a b\"")),
        ("a short hash", good.replace(&key(1).sha256(), "abcd")),
        ("no hash", good.replace(&key(1).sha256(), &"g".repeat(64))),
        (
            "a key itself",
            good.replace(&key(1).sha256(), key(1).expose()),
        ),
        (
            "a key twice",
            KeyBook::render(&[entry("a", &key(1)), entry("b", &key(1))]),
        ),
        (
            "not a time",
            good.replace("\"sha256\"", "\"expires\": \"soon\", \"sha256\""),
        ),
        (
            "too many",
            KeyBook::render(&vec![entry("a", &key(1)); 4097]),
        ),
    ] {
        assert!(parse(&text).is_err(), "{name}");
    }
    assert_eq!(format!("{:?}", key(1)), "ApiKey");
}

#[test]
fn a_comparison_of_keys_takes_the_same_time_wherever_it_stands() {
    // The first, the last and none: nothing but the number of keys decides how much is compared.
    let keys: Vec<ApiKey> = (0..=255).map(key).collect();
    let entries: Vec<Entry> = keys.iter().map(|key| entry("a", key)).collect();
    let book = book(&entries);
    let unknown = ApiKey::new(&[7; 32].map(|byte: u8| byte ^ 0xa5));
    let mut times = [const { Vec::new() }; 3];
    for round in 0..600 {
        let which = round % 3;
        let presented = [&keys[0], &keys[255], &unknown][which].expose();
        let start = std::time::Instant::now();
        for _ in 0..20 {
            std::hint::black_box(book.find(std::hint::black_box(presented), NOW));
        }
        times[which].push(start.elapsed());
    }
    let median = times.map(|mut all| {
        all.sort_unstable();
        all[all.len() / 2].as_secs_f64()
    });
    let (least, most) = median.iter().fold((f64::MAX, 0.0_f64), |(low, high), one| {
        (low.min(*one), high.max(*one))
    });
    // A search that stops at the first would differ by a factor of 200.
    assert!(most < 2.0 * least, "{median:?}");
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
    fn one_changed_character_makes_a_token_worthless(at in 0_usize..10_000, to in "[A-Za-z0-9_.-]") {
        let good = ISSUER_KEYS.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims());
        let at = at % good.len();
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        if changed != good {
            prop_assert!(bearer(&verifier(), &changed).is_err());
        }
    }

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

    #[test]
    fn a_key_opens_only_its_own_entry(one in any::<[u8; 32]>(), two in any::<[u8; 32]>()) {
        let (one, two) = (ApiKey::new(&one), ApiKey::new(&two));
        let keys = book(&[entry("one", &one)]);
        let client = keys.find(one.expose(), NOW).map(|found| found.client.clone());
        prop_assert_eq!(client.as_deref(), Some("one"));
        prop_assert!(one.expose() == two.expose() || keys.find(two.expose(), NOW).is_none());
    }
}
