//! Lines that are made to be slow cost no more than others.

use super::*;
use std::time::{Duration, Instant};

/// The least time of a few searches of `unit`, repeated to `length` bytes.
fn cost(unit: &str, length: usize) -> Duration {
    let scrubber = scrubber();
    let text = unit.repeat(length / unit.len());
    let line = serde_json::json!({ "text": text }).to_string();
    let mut found = Vec::new();
    let once = || {
        let start = Instant::now();
        scrubber.json(line.as_bytes(), &mut found);
        start.elapsed()
    };
    std::iter::repeat_with(once).take(5).min().unwrap()
}

/// A search that looks at the rest of the line again and again takes 256 times as long for sixteen
/// times as much; what is linear takes sixteen times as long.
#[test]
fn time_is_linear_in_the_line() {
    for unit in [
        &["-----BEGIN PRIVATE", " KEY-----."].concat(),
        &[
            "-----BEGIN PRIVATE",
            " KEY-----\nMIIEvQIBADANBgkq-----END x-----",
        ]
        .concat(),
    ] {
        let (short, long) = (cost(unit, 32 << 10), cost(unit, 512 << 10));
        assert!(long < short * 80, "{unit}: {short:?}, then {long:?}");
    }
}
