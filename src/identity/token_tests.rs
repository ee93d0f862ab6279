//! Tokens: those of every algorithm that are read, a table of those that are not, and the keys behind them.

use super::tests::{
    CONFIG, ISSUER, ISSUER_KEYS, Issuer, NOW, URL, b64, bearer, claims, header, verifier, with,
};
use super::*;
use crate::config::sample as config;
use proptest::prelude::*;
use ring::signature::KeyPair;
use serde_json::{Value, json};
use std::sync::Arc;

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
fn a_token_cannot_take_the_name_of_a_client_with_a_key() {
    let key = ApiKey::new(&[1; 32]);
    let file =
        json!([{ "client": "ci", "sha256": key.sha256(), "revoked": "2020-01-01T00:00:00Z" }]);
    let keys = KeyBook::parse(file.to_string().as_bytes()).unwrap();
    let verifier = verifier().with_keys(keys);
    for changes in [
        json!({ "client_id": "ci" }),
        json!({ "client_id": null, "azp": "ci" }),
        json!({ "client_id": null, "sub": "ci" }),
    ] {
        let token = ISSUER_KEYS.token(&header(), &with(changes));
        let denied = bearer(&verifier, &token);
        assert_eq!(denied, Err(Denied::Token(TokenFault::Name)));
    }
    assert!(bearer(&verifier, &ISSUER_KEYS.token(&header(), &claims())).is_ok());
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
fn a_token_that_names_no_key_may_be_signed_with_a_new_one() {
    let other = Issuer::new();
    let token = other.token(&json!({ "alg": "ES256" }), &claims());
    let fault = |text: &str| {
        let verifier = Verifier::new(&config(text), KeyBook::default(), ISSUER_KEYS.keys());
        bearer(&verifier, &token).unwrap_err()
    };
    assert_eq!(fault(CONFIG), Denied::Token(TokenFault::Signature));
    let fetched = CONFIG.replace("\"jwks.json\"", "\"https://id.example.com/keys\"");
    assert_eq!(fault(&fetched), Denied::Token(TokenFault::UnknownKey));
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
}
