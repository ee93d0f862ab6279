//! Any text: findings are ordered and disjoint, and what is left of JSON is JSON of the same shape.

#![no_main]

use cofferdam::config::SecretsMode;
use cofferdam::policy::scrub::Scrubber;
use cofferdam::secret::Secret;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static SCRUBBER: LazyLock<Scrubber> = LazyLock::new(|| {
    let given = [Secret::new("TOKEN", b"hunter2-hunter2".to_vec())];
    Scrubber::new(SecretsMode::Redact, &given)
});

fuzz_target!(|bytes: &[u8]| {
    let mut found = Vec::new();
    SCRUBBER.text(bytes, &mut found);
    let mut end = 0;
    for finding in &found {
        assert!(end <= finding.span.start && finding.span.start < finding.span.end);
        end = finding.span.end;
    }
    assert!(end <= bytes.len());
    drop(SCRUBBER.redact(bytes, &found));

    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let line = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": { "text": text } }).to_string();
    SCRUBBER.json(line.as_bytes(), &mut found);
    let clean = SCRUBBER.redact(line.as_bytes(), &found);
    let value: serde_json::Value = serde_json::from_slice(&clean).expect("still JSON");
    assert!(value["result"]["text"].is_string());
});
