//! What a name says about its value: split into words at case, digits and punctuation, then judged by
//! `policy/detectors/names.toml`.

use super::table::{Role, Table};

/// Names are split into at most this many words.
const WORDS: usize = 12;

/// Most names end like no secret's name does; they are left before anything is split. The endings
/// are those of the words in `names.toml` that decide, which a test compares, and of `value`.
pub(super) fn ends_like_a_secret(text: &[u8]) -> bool {
    let lower = |b: u8| b | 0x20;
    let Some(&[a, b, c]) = text.last_chunk::<3>() else {
        return false;
    };
    match &[lower(a), lower(b), lower(c)] {
        b"key" | b"pwd" | b"pat" | b"dsn" | b"sig" => true,
        [b, c, d] => {
            let before = text.len().checked_sub(4).and_then(|at| text.get(at));
            matches!(
                &[before.map_or(0, |a| lower(*a)), *b, *c, *d],
                b"word"
                    | b"sswd"
                    | b"rase"
                    | b"code"
                    | b"pass"
                    | b"cret"
                    | b"rets"
                    | b"oken"
                    | b"tial"
                    | b"ials"
                    | b"okie"
                    | b"onid"
                    | b"auth"
                    | b"alue"
            )
        }
    }
}

/// What the words of `name` say; `None` when it is no secret's name.
pub(super) fn role(table: &Table, name: &[u8]) -> Option<Role> {
    let mut words: [Option<Role>; WORDS] = [None; WORDS];
    let mut count = 0;
    let mut word = [0u8; 24];
    let mut length = 0;
    let mut previous = 0u8;
    let mut secret_last = false;
    for (index, &byte) in name.iter().enumerate() {
        let after = name.get(index + 1).copied().unwrap_or(0);
        let camel = byte.is_ascii_uppercase()
            && (previous.is_ascii_lowercase()
                || previous.is_ascii_digit()
                || previous.is_ascii_uppercase() && after.is_ascii_lowercase());
        if length > 0 && (!byte.is_ascii_alphanumeric() || camel) {
            *words.get_mut(count)? = table.role(word.get(..length)?);
            count += 1;
            length = 0;
        }
        if byte.is_ascii_alphanumeric() {
            *word.get_mut(length)? = byte.to_ascii_lowercase();
            length += 1;
        }
        previous = byte;
    }
    if length > 0 {
        let last = word.get(..length)?;
        secret_last = last == b"secret";
        *words.get_mut(count)? = table.role(last);
        count += 1;
    }
    let (last, before) = words.get(..count)?.split_last()?;
    let vetoed = before.contains(&Some(Role::Veto)) && !secret_last;
    match last {
        Some(Role::Password) => Some(Role::Password),
        Some(Role::Secret) if !vetoed => Some(Role::Secret),
        Some(Role::Weak)
            if !vetoed
                && before.iter().any(|r| {
                    matches!(r, Some(Role::Qualifier | Role::Secret | Role::Password))
                }) =>
        {
            Some(Role::Secret)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::scrub::table::table;

    #[test]
    fn words_decide_and_veto() {
        for secret in [
            "token",
            "API_KEY",
            "apiKey",
            "client_secret",
            "githubToken",
            "X-Auth-Token",
            "spring.datasource.password",
            "AWS_SECRET_ACCESS_KEY",
            "AccountKey",
            "NEXT_AUTH_SECRET",
        ] {
            assert!(role(table(), secret.as_bytes()).is_some(), "{secret}");
        }
        for other in [
            "nextPageToken",
            "progressToken",
            "max_tokens",
            "tokens",
            "sessions",
            "key",
            "publicKey",
            "passwordPolicy",
            "token_url",
            "secretName",
            "continuationToken",
            "cacheKey",
            "requestState",
            "nextCursor",
            "api_key_id",
            "primaryKey",
            "hash",
        ] {
            assert_eq!(role(table(), other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn every_deciding_word_passes_the_quick_look() {
        for (word, role) in &table().names {
            if matches!(role, Role::Password | Role::Secret | Role::Weak) {
                assert!(ends_like_a_secret(word.as_bytes()), "{word}");
            }
        }
    }
}
