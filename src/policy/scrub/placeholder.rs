//! What stands where a secret was: `CFD-REDACTED-<type>-<tag>`.
//!
//! Only letters, digits and hyphens: safe in JSON, YAML, shells, URLs, HTML and Markdown. Equal
//! secrets get equal tags within one process, so that a reader can tell two apart; the tag is keyed,
//! so that nobody can try values against it.

use ring::hmac;
use ring::rand::SecureRandom;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// How each placeholder starts.
pub(super) const START: &[u8] = b"CFD-REDACTED-";

/// RFC 4648 §6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The length of a tag: ten characters of five bits.
const TAG: usize = 10;

/// Appends the placeholder for `value`.
pub(super) fn write(out: &mut Vec<u8>, detector: &str, value: &[u8]) {
    out.extend_from_slice(START);
    out.extend_from_slice(detector.as_bytes());
    out.push(b'-');
    out.extend(digits(detector, value, 32).filter_map(|d| BASE32.get(d)));
}

/// Appends fifteen digits for `value`: a JSON number stays one, and is exact in a double.
pub(super) fn write_number(out: &mut Vec<u8>, detector: &str, value: &[u8]) {
    out.extend_from_slice(b"90000");
    out.extend(digits(detector, value, 10).filter_map(|d| b"0123456789".get(d)));
}

/// Ten digits below `base` from the keyed digest of type and value.
fn digits(detector: &str, value: &[u8], base: u64) -> impl Iterator<Item = usize> {
    let mut context = hmac::Context::with_key(key());
    context.update(detector.as_bytes());
    context.update(&[0]);
    context.update(value);
    let tag = context.sign();
    let mut bits = tag
        .as_ref()
        .first_chunk::<8>()
        .map_or(0, |head| u64::from_be_bytes(*head));
    (0..TAG).map(move |_| {
        let digit = bits % base;
        bits /= base;
        usize::try_from(digit).unwrap_or(0)
    })
}

/// The key of this process.
fn key() -> &'static hmac::Key {
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let mut seed = [0; 32];
        if ring::rand::SystemRandom::new().fill(&mut seed).is_err() {
            // The standard library's own source is the fallback: weaker, but still secret.
            for part in seed.chunks_mut(8) {
                let random = RandomState::new().hash_one(0).to_le_bytes();
                part.copy_from_slice(random.get(..part.len()).unwrap_or(&[0; 8]));
            }
        }
        hmac::Key::new(hmac::HMAC_SHA256, &seed)
    })
}

/// A placeholder starts at `at`.
pub(super) fn covers(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(START))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_get_equal_tags_and_others_do_not() {
        let tag = |value: &[u8]| {
            let mut out = Vec::new();
            write(&mut out, "x", value);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(tag(b"one"), tag(b"one"));
        assert_ne!(tag(b"one"), tag(b"two"));
        assert_eq!(tag(b"one").len(), "CFD-REDACTED-x-".len() + 10);
        assert!(
            tag(b"one")
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        );
    }
}
