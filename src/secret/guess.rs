//! Tells from its name and shape whether a variable's value is a secret.

/// Words of a variable's name that announce a secret.
const WORDS: [&str; 16] = [
    "TOKEN",
    "KEY",
    "APIKEY",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASS",
    "PWD",
    "CREDENTIAL",
    "CREDENTIALS",
    "AUTH",
    "PAT",
    "COOKIE",
    "DSN",
    "PRIVATE",
];
/// A value of this many letters and digits without a blank or a slash is taken for a secret whatever
/// its name is: it is no path, no sentence and no locale.
const OPAQUE: usize = 20;

/// True when what the server is given under `name` must not come back out of it.
#[must_use]
pub fn looks_secret(name: &str, value: &[u8]) -> bool {
    let named = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|word| WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)));
    named || has_userinfo(value) || is_opaque(value)
}

/// `scheme://user:password@host`.
fn has_userinfo(value: &[u8]) -> bool {
    let Some(at) = memchr::memmem::find(value, b"://") else {
        return false;
    };
    let rest = &value[at + 3..];
    let host = rest.split(|byte| *byte == b'/').next().unwrap_or(rest);
    host.iter()
        .position(|byte| *byte == b'@')
        .is_some_and(|end| host[..end].contains(&b':'))
}

fn is_opaque(value: &[u8]) -> bool {
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    let letters = value
        .iter()
        .filter(|byte| byte.is_ascii_alphabetic())
        .count();
    value.len() >= OPAQUE
        && digits >= 2
        && letters >= 2
        && !value
            .iter()
            .any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b':' | b','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shapes_tell_secrets_from_settings() {
        for (name, value) in [
            ("GITHUB_TOKEN", "x"),
            ("OPENAI_API_KEY", "abc"),
            ("DATABASE_URL", "postgres://app:hunter2@db/x"),
            ("SESSION", "9f8e7d6c5b4a39281706"),
        ] {
            assert!(looks_secret(name, value.as_bytes()), "{name}");
        }
        for (name, value) in [
            ("LANG", "en_US.UTF-8"),
            ("MEMORY_FILE_PATH", "/srv/data/memory-2026-11-21.json"),
            ("KEYBOARD", "us"),
            ("DATABASE_URL", "postgres://db/x"),
            ("GREETING", "hello to the 2 of you"),
        ] {
            assert!(!looks_secret(name, value.as_bytes()), "{name}");
        }
    }
}
