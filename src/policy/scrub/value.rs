//! Reads an assigned value and judges whether it can be a secret at all.

use super::check::is_varied;
use super::placeholder;
use std::ops::Range;

/// Values are read up to this many bytes; what is longer is no value that a name announces.
pub(super) const LONGEST: usize = 4096;

/// The quote around a value, and how many backslashes each such quote has (nested JSON).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) quote: u8,
    pub(super) slashes: usize,
}

/// The value at `start`: to its closing quote, or to what ends a bare word. Never past a quote that
/// could close a JSON string. `None` when it is longer than [`LONGEST`]: where it ends is unknown, and
/// a cut might fall into an escape or a character.
pub(super) fn read(bytes: &[u8], start: usize, frame: Option<Frame>) -> Option<Range<usize>> {
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
            return Some(start..start + at - slashes);
        }
        slashes = if byte == b'\\' { slashes + 1 } else { 0 };
    }
    (rest.len() < LONGEST).then(|| start..start + rest.len() - slashes)
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
        counts.borders >= borders && (counts.changes + counts.rare) * 6 >= value.len()
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

/// A directory or file of Unix or Windows.
pub(super) fn is_directory(value: &[u8]) -> bool {
    matches!(value, [b'/' | b'~', ..] | [b'\\', b'/', ..])
        || matches!(value, [drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic())
}

/// A reference, a template, a call or a path: it says where the secret is, and is none.
fn is_reference(value: &[u8], quoted: bool) -> bool {
    is_path(value)
        || is_template(value, quoted)
        || !quoted && is_code(value)
        || placeholder::covers(value, 0)
        || value.starts_with(b"arn:")
        || value.starts_with(b"vault:") && value.contains(&b'/')
        || is_rule(value)
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

fn is_path(value: &[u8]) -> bool {
    let rooted = matches!(
        value,
        [b'/', ..] | [b'.' | b'~', b'/', ..] | [b'.', b'.', b'/', ..]
    );
    let known = |root: &&[u8]| value.starts_with(root);
    rooted
        && (ROOTS.iter().any(known)
            || !value.iter().any(u8::is_ascii_digit)
            || !value.iter().any(u8::is_ascii_uppercase))
}

/// What is filled in later: `${X}`, `{{ x }}`, `<token>`, `%s`, `%PASSWORD%`. Random text in quotes
/// may start like one, but seldom has the other bracket too.
fn is_template(value: &[u8], quoted: bool) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let closed = |by: u8| !quoted || value.contains(&by);
    match value {
        [b'$', rest @ ..] => {
            !quoted || matches!(rest, [b'{' | b'(' | b'[', ..]) || rest.iter().all(word)
        }
        [b'{', ..] => closed(b'}'),
        [b'<', ..] => closed(b'>'),
        [b'[', ..] => closed(b']'),
        [b'(', ..] => closed(b')'),
        [b'*', rest @ ..] => !quoted || rest.first() == Some(&b'*'),
        [b'%', inner @ .., b'%'] if inner.iter().all(word) => true,
        [b'%', b's' | b'd' | b'v' | b'(' | b'{', ..] => true,
        _ => false,
    }
}

/// Bare words of programs: `DEFAULT_PASSWORD_V2`, `self._password2`, the tag `!vault` of YAML.
fn is_code(value: &[u8]) -> bool {
    let constant = value.contains(&b'_')
        && value
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    let tag = matches!(value, [b'!', tag @ ..] if tag.iter().all(u8::is_ascii_alphabetic));
    let member = memchr::memchr(b'.', value)
        .and_then(|dot| value.get(..dot))
        .is_some_and(|owner| OWNERS.contains(&owner));
    constant || tag || member
}

/// A rule for a value, as Laravel writes it: `required|min:8`.
fn is_rule(value: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"|:,_".contains(b);
    value.contains(&b'|') && value.contains(&b':') && value.iter().all(plain)
}

/// What objects are called whose members hold passwords.
const OWNERS: [&[u8]; 12] = [
    b"self",
    b"this",
    b"cls",
    b"config",
    b"settings",
    b"options",
    b"args",
    b"params",
    b"props",
    b"request",
    b"req",
    b"ctx",
];

/// Where paths start, whatever is in them.
const ROOTS: [&[u8]; 12] = [
    b"/home/", b"/Users/", b"/usr/", b"/var/", b"/etc/", b"/opt/", b"/tmp/", b"/run/", b"/mnt/",
    b"/srv/", b"/root/", b"~/",
];

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
    /// Neighbours of different kinds of which one is a symbol that neither paths nor addresses have.
    rare: usize,
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
                b'!' | b'#' | b'$' | b'^' | b'&' | b'*' | b'(' | b')' => 7,
                _ => 6,
            };
            match kind {
                1 => counts.lower += 1,
                2 => counts.upper += 1,
                3 => counts.digits += 1,
                4 => counts.spaces += 1,
                6 | 7 => counts.symbols += 1,
                _ => {}
            }
            let change = kind != previous && (1..=3).contains(&kind) && (1..=3).contains(&previous);
            counts.changes += usize::from(change);
            let rare = kind != previous && (kind == 7 || previous == 7);
            counts.rare += usize::from(rare);
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
            "%PASSWORD1%",
            "vault:secret/data/app1#pw",
            "required|min:8",
            "/home/user1/Work2/proj3",
        ] {
            assert!(!is_secret(value.as_bytes(), true), "{value}");
            assert!(
                !is_password(value.as_bytes(), true) || value.contains("2024"),
                "{value}"
            );
        }
    }

    #[test]
    fn bare_words_of_programs_are_no_secrets() {
        for value in [
            "self._password2",
            "config.db_password1",
            "!vault",
            "DEFAULT_PASSWORD_V2",
        ] {
            assert!(!is_password(value.as_bytes(), false), "{value}");
            assert!(!is_secret(value.as_bytes(), false), "{value}");
        }
        assert!(is_password(b"s3lf.made.Pw", false) && is_password(b"!vault7", false));
        for path in ["/home/a/X1-b2", "~/x", r"C:\\Users", r"\/home\/a"] {
            assert!(is_directory(path.as_bytes()), "{path}");
        }
        assert!(!is_directory(b"a:b/c"));
    }

    /// Django draws its key from lower case, digits and fourteen symbols.
    #[test]
    fn symbols_make_a_value_no_less_random() {
        let set = b"abcdefghijklmnopqrstuvwxyz0123456789!@#$%^&*(-_=+)";
        let mut state = 0x2545_F491u64;
        let mut missed = 0;
        for _ in 0..200 {
            let key: Vec<u8> = (0..50)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    set[(state >> 11) as usize % set.len()]
                })
                .collect();
            missed += usize::from(!is_secret(&key, true));
            let key = [b"django-insecure-".as_slice(), &key].concat();
            missed += usize::from(!is_secret(&key, true));
        }
        assert!(missed <= 4, "{missed} of 400");
        assert!(!is_secret(b"projects/p1/secrets/s2/versions/v3", true));
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
        let read = |text: &str, frame| text[read(text.as_bytes(), 0, frame).unwrap()].to_owned();
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
