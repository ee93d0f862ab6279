//! Any bytes as a header, a token, a key set, a file of keys or a certificate: a caller is never made of
//! them, and nothing panics.

#![no_main]

use cofferdam::config::{File, Overrides, Surroundings, build};
use cofferdam::identity::{Certificate, Challenges, Evidence, Jwks, KeyBook, Verifier};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

const CONFIG: &str = r#"
server = { name = "f", command = ["/bin/true"] }
listen = { http = "127.0.0.1:1", public_url = "https://f.example/mcp" }
identity = { keys = "k", jwt = { issuer = "https://id.example", jwks = "j" } }
"#;

/// The key of RFC 8037 §A.2.
const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

static DOOR: LazyLock<(Verifier, Challenges)> = LazyLock::new(|| {
    let around = Surroundings { directory: "/".into(), ..Surroundings::default() };
    let file = File::parse("/f.toml", CONFIG).expect("a file");
    let config = build(Some(&file), &Overrides::default(), &around).expect("a configuration").config;
    let jwks = Arc::new(Jwks::parse(JWKS.as_bytes()).expect("a key set"));
    (Verifier::new(&config, KeyBook::default(), jwks), Challenges::new(&config))
});

fuzz_target!(|bytes: &[u8]| {
    drop(KeyBook::parse(bytes));
    drop(Jwks::parse(bytes));
    let certificate = Certificate::parse(bytes).ok();
    let (verifier, challenges) = &*DOOR;
    let prefixed = [b"Bearer ", bytes].concat();
    for header in [bytes, &prefixed] {
        let headers = [header];
        let evidence = Evidence {
            authorization: &headers,
            query: std::str::from_utf8(bytes).ok(),
            certificate: certificate.as_ref(),
            uid: None,
            on_behalf_of: &headers,
        };
        for evidence in [
            evidence,
            Evidence { query: None, on_behalf_of: &[], ..evidence },
            Evidence { query: None, authorization: &[], ..evidence },
        ] {
            // No token of the fuzzer is signed.
            let denied = verifier.identify(&evidence, 1_800_000_000).expect_err("nobody");
            let answer = challenges.answer(denied);
            assert!((400..=403).contains(&answer.status));
        }
    }
});
