//! When a credential says that it ends: in a member beside it, or in the token itself.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Names under which files say so: what cloud providers, OAuth token files and people write.
pub(super) const MEMBERS: [&str; 6] = [
    "expires_at",
    "expiry",
    "expiration",
    "Expiration",
    "expires",
    "EXPIRES_AT",
];
/// Above, a number of seconds since 1970 would be in the year 33658: it counts milliseconds.
const MILLISECONDS: u64 = 1_000_000_000_000;

/// Seconds since 1970, from RFC 3339 or a number.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<u64>() {
        return Some(match number >= MILLISECONDS {
            true => number / 1000,
            false => number,
        });
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_second()).ok()
}

/// The `exp` of a JSON Web Token (RFC 7519 §4.1.4). Nothing is proved by it: who issued the token will
/// go by it, so the operator should too.
pub(super) fn of_token(value: &[u8]) -> Option<u64> {
    let mut parts = value.split(|byte| *byte == b'.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let exp = claims.get("exp")?;
    exp.as_u64().or_else(|| {
        // Whole and small: proved before it is cut.
        let float = exp.as_f64().filter(|it| (0.0..1e15).contains(it))?;
        format!("{float:.0}").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_providers_write_them() {
        assert_eq!(parse("1790000000"), Some(1_790_000_000));
        assert_eq!(parse("1790000000000"), Some(1_790_000_000));
        assert_eq!(parse("2026-09-21T12:53:20Z\n"), Some(1_789_995_200));
        assert_eq!(parse("2026-09-21T14:53:20+02:00"), Some(1_789_995_200));
        for text in ["", "soon", "-5", "1969-01-01T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_says_its_end_itself() {
        let token = |payload: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        let end = |payload: &str| of_token(token(payload).as_bytes());
        assert_eq!(end(r#"{"exp":1790000000}"#), Some(1_790_000_000));
        assert_eq!(end(r#"{"exp":1790000000.0}"#), Some(1_790_000_000));
        for payload in ["{}", r#"{"exp":"x"}"#, r#"{"exp":-1}"#, "no"] {
            assert_eq!(end(payload), None, "{payload}");
        }
        assert_eq!(of_token(b"ghp_1"), None);
        assert_eq!(of_token(b"a.b.c.d"), None);
    }
}
