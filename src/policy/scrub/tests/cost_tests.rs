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
        "password=",
        "password='",
        "secretsecret_token=",
        "fm2_fm2_",
        "value: name: ",
    ] {
        let (short, long) = (cost(unit, 32 << 10), cost(unit, 512 << 10));
        assert!(long < short * 80, "{unit}: {short:?}, then {long:?}");
    }
}

/// Each of these names has a value that goes on and on, and all are refused at the very end.
#[test]
fn values_are_not_read_again_for_each_name_in_them() {
    let plain = cost("lorem-ipsum, dolor sit amet ", 256 << 10);
    for unit in [
        "password=",
        "secretsecret_token=",
        &["password=".repeat(400).as_str(), "://; "].concat(),
        &["secretsecret_token=".repeat(200).as_str(), "://; "].concat(),
    ] {
        let time = cost(unit, 256 << 10);
        assert!(time < plain * 40, "{unit:.20}: {time:?} against {plain:?}");
    }
}
