//! Any bytes for the process that makes a cell's connections: nothing panics, whom a client wants is not
//! changed by what it says later, and no answer holds more than was asked for.

#![no_main]

use cofferdam::cell::egress::News;
use cofferdam::cell::egress::parsers::{Greeting, addresses, attempt, greeting, name_server, question};
use cofferdam::config::EgressRule;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static RULES: LazyLock<Vec<EgressRule>> = LazyLock::new(|| {
    let texts = ["api.example:443", "*.wild.example:80", "10.0.0.0/8:5432"];
    texts.iter().map(|text| text.parse().expect("a rule")).collect()
});

fuzz_target!(|bytes: &[u8]| {
    // A header and a question of at most 12 + 255 + 4 bytes, and one address with 16.
    if let Some(answer) = name_server(bytes, &RULES) {
        assert!(answer.len() <= 12 + 255 + 4 + 16);
        assert!(answer[2] & 0x80 != 0, "it is an answer");
    }
    let asked = question("api.example");
    let mut whole = [&asked[..], bytes].concat();
    whole[2] |= 0x80;
    whole[7] = bytes.first().copied().unwrap_or_default();
    assert!(addresses(&asked, &whole).iter().all(|address| address.is_ipv4()));
    if let Some(News::Refused(refused)) = News::decode(bytes) {
        assert!(refused.text.len() <= bytes.len());
    }
    let _ = attempt(bytes);
    settled(bytes);
});

/// What passed on the strength of its first bytes must not turn out to be for somebody else.
fn settled(bytes: &[u8]) {
    let all = greeting(bytes);
    // Every place in what is short, and some in what is long.
    let step = bytes.len() / 64 + 1;
    for at in (0..bytes.len()).step_by(step) {
        match greeting(&bytes[..at]) {
            Greeting::More | Greeting::Malformed(_) => {}
            Greeting::Other => assert!(!matches!(all, Greeting::Tls(_)), "{at}"),
            named => assert_eq!(named, all, "{at}"),
        }
    }
}
