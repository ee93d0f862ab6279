//! Reads an assigned value and judges whether it can be a secret at all.

use super::check::is_varied;
use super::placeholder;
use std::ops::Range;

/// Values are read up to this many bytes; what is longer is no value that a name announces.
const LONGEST: usize = 4096;

/// The quote around a value, and how many backslashes each such quote has (nested JSON).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) quote: u8,
    pub(super) slashes: usize,
}

/// The value at `start`: to its closing quote, or to what ends a bare word. Never past a quote that
/// could close a JSON string.
pub(super) fn read(bytes: &[u8], start: usize, frame: Option<Frame>) -> Range<usize> {
    let rest = bytes.get(start..).unwrap_or_default();
    let rest = rest.get(..LONGEST).unwrap_or(rest);
    let mut slashes = 0;
    for (at, &byte) in rest.iter().enumerate() {
        let ends = match frame {
            Some(frame) => {
                byte == frame.quote && slashes <= frame.slashes || byte == b'"' && slashes % 2 == 0
            }
            None => {
                matches!(byte, b'"' | b'\'' | b'`' | b';' | b'&' | b',' | b')' | b']' | b'}' | b'<' | b'>' | 0..=b' ')
                    // `\/` is a slash; any other escape is a line end, a quote or the like.
                    || slashes > 0 && byte != b'/' && byte != b'\\'
            }
        };
        if ends || byte < 0x20 {
            return start..start + at - slashes;
        }
        slashes = if byte == b'\\' { slashes + 1 } else { 0 };
    }
    if rest.len() == LONGEST {
        // Where it ends is unknown, and a cut might fall into an escape or a character.
        return start..start;
    }
    start..start + rest.len() - slashes
}

/// Something random under the name of a secret?
pub(super) fn is_secret(value: &[u8], quoted: bool) -> bool {
    if value.len() < 12 || !is_varied(value, (value.len() / 2).min(10)) {
        return false;
    }
    let counts = Counts::of(value);
    if counts.spaces > 0 || is_reference(value, quoted) {
        return false;
    }
    // Random text changes between letters and digits all the time, words joined by hyphens seldom do.
    if counts.digits == 0 {
        quoted && value.len() >= 20 && counts.changes * 3 >= value.len()
    } else {
        // `X509CertificateOptions` has digits too, but all in one place.
        let borders = if quoted && value.len() < 20 { 2 } else { 3 };
        counts.borders >= borders && counts.changes * 6 >= value.len()
    }
}

/// Something that a person would choose, or a program would draw, under the name of a password?
///
/// Plain words are left: `"password": "required"` is documentation far more often than a secret.
pub(super) fn is_password(value: &[u8], quoted: bool) -> bool {
    if value.len() < 6 {
        return false;
    }
    let counts = Counts::of(value);
    if counts.spaces > 0 || is_reference(value, quoted) {
        return false;
    }
    let kinds = [counts.lower, counts.upper, counts.digits, counts.symbols];
    let letters_only = counts.digits == 0 && counts.symbols == 0;
    if letters_only {
        return quoted && counts.changes * 3 >= value.len();
    }
    kinds.iter().filter(|k| **k > 0).count() >= 2 && is_varied(value, 3)
}

/// A reference, a template, a call or a path: it says where the secret is, and is none.
fn is_reference(value: &[u8], quoted: bool) -> bool {
    let path = match value {
        [b'/', ..] | [b'.' | b'~', b'/', ..] | [b'.', b'.', b'/', ..] => {
            !value.iter().any(u8::is_ascii_digit) || !value.iter().any(u8::is_ascii_uppercase)
        }
        _ => false,
    };
    // `DEFAULT_PASSWORD_V2`
    let constant = !quoted
        && value.contains(&b'_')
        && value
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    path || constant
        || placeholder::covers(value, 0)
        || value.starts_with(b"arn:")
        || matches!(
            value,
            [b'$' | b'{' | b'<' | b'[' | b'(' | b'*', ..]
                | [b'%', b's' | b'd' | b'v' | b'(' | b'{', ..]
        )
        || (0..value.len()).any(|at| match value.get(at..) {
            Some([b'$' | b'{', b'{', ..] | [b':', b'/', b'/', ..] | [b'*', b'*', b'*', ..]) => true,
            Some([b':', b':', ..]) => !quoted,
            // `...`, `process.env.X`, `os.environ`, `secrets.X`
            Some([b'.', rest @ ..]) => {
                rest.starts_with(b"..") || rest.starts_with(b"env") || {
                    value
                        .get(..at)
                        .is_some_and(|head| head.ends_with(b"secrets"))
                }
            }
            Some([b'(' | b'[', ..]) => !quoted,
            _ => false,
        })
}

/// How many bytes of each kind there are.
#[derive(Debug, Default)]
struct Counts {
    lower: usize,
    upper: usize,
    digits: usize,
    /// What is neither letter, digit, nor the `_`, `-` and `.` that identifiers have.
    symbols: usize,
    spaces: usize,
    /// Neighbours of different kinds among letters and digits.
    changes: usize,
    /// Those of them between a letter and a digit.
    borders: usize,
}

impl Counts {
    fn of(value: &[u8]) -> Self {
        let mut counts = Self::default();
        let mut previous = 0;
        for &byte in value {
            let kind = match byte {
                b'a'..=b'z' => 1,
                b'A'..=b'Z' => 2,
                b'0'..=b'9' => 3,
                b' ' | b'\t' => 4,
                b'_' | b'-' | b'.' => 5,
                _ => 6,
            };
            match kind {
                1 => counts.lower += 1,
                2 => counts.upper += 1,
                3 => counts.digits += 1,
                4 => counts.spaces += 1,
                6 => counts.symbols += 1,
                _ => {}
            }
            let change = kind != previous && (1..=3).contains(&kind) && (1..=3).contains(&previous);
            counts.changes += usize::from(change);
            counts.borders += usize::from(change && (kind == 3 || previous == 3));
            previous = kind;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_paths_and_templates_are_no_secrets() {
        for value in [
            "required",
            "Password",
            "${DB_PASSWORD}",
            "process.env.TOKEN",
            "<your-token>",
            "/run/secrets/token",
            "my-app-production-token-2024",
            "********",
            "user_password",
            "{{ token }}",
            "string",
            "Enter your password",
            "refreshTokenProvider",
        ] {
            assert!(!is_secret(value.as_bytes(), true), "{value}");
            assert!(
                !is_password(value.as_bytes(), true) || value.contains("2024"),
                "{value}"
            );
        }
    }

    #[test]
    fn random_values_are() {
        for value in [
            "q8Zt3LwPx0VnRk5T",
            "9f86d081884c7d659a2feaa0c55ad015",
            "aZrKqWbTyUvLmQsNpXcDe",
        ] {
            assert!(is_secret(value.as_bytes(), true), "{value}");
        }
        assert!(is_password(b"hunter22", false));
        assert!(is_password(b"Tr0ub4dor&3", true));
    }

    #[test]
    fn values_end_where_they_should() {
        let read = |text: &str, frame| text[read(text.as_bytes(), 0, frame)].to_owned();
        assert_eq!(read("abc\\n next", None), "abc");
        assert_eq!(read("ab\\/c&x", None), "ab\\/c");
        let double = |slashes| {
            Some(Frame {
                quote: b'"',
                slashes,
            })
        };
        assert_eq!(read("abc\",\"d\"", double(0)), "abc");
        assert_eq!(read("abc\\\", \\\"d", double(1)), "abc");
        assert_eq!(read("a\\\\\\\"c\\\", \\\"d", double(1)), "a\\\\\\\"c");
    }
}
