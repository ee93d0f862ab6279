//! Secrets known by their name: `password=…`, `"apiKey": "…"`, `--password …`, `Authorization: Bearer …`.
//!
//! Two ways in: from a value that is a long run, back over the operator to the name; and from a name
//! with `password` in it forward, because passwords may be short. Names are split into words, so
//! that `sessions` is no `session` and `nextPageToken` is a cursor (`names.toml`).

use super::table::{Role, Table, is_token};
use super::value::{Frame, is_password, is_secret, read};
use super::{Finding, Kind};
use std::ops::Range;

/// How far a value may reach back before its first long run, and the longest name.
const REACH: usize = 64;

/// Names are split into at most this many words.
const WORDS: usize = 12;

/// The names that this file finds.
pub(super) const NAMES: [&str; 3] = ["password", "named-secret", "authorization"];

/// The value that the run at `start` belongs to, when a secret's name is before it.
///
/// `past` is the end of the run before: a value that reaches back into it has been judged with it.
pub(super) fn assigned(
    bytes: &[u8],
    kind: Kind,
    table: &Table,
    run: usize,
    past: usize,
) -> Option<Finding> {
    let start = value_start(bytes, run, past)?;
    let (open, operator_end) = quote_before(bytes, start);
    let spaced = skip_back(bytes, operator_end, |b| b == b' ');
    let operator = byte_before(bytes, spaced)?;
    let before = match operator {
        b'=' | b':' => match byte_before(bytes, spaced - 1) {
            Some(b':' | b'=' | b'?' | b'+') if operator == b'=' => spaced - 2,
            _ => spaced - 1,
        },
        b'>' if byte_before(bytes, spaced - 1) == Some(b'=') => spaced - 2,
        b'>' if open.is_none() => spaced - 1,
        _ => return None,
    };
    let name = name_before(bytes, before)?;
    // `"name":"DB_PASSWORD","value":"…"`: the name is in the member before.
    let name = match bytes.get(name.clone())? {
        b"value" | b"Value" => sibling(bytes, name.start).unwrap_or(name),
        _ => name,
    };
    finding(bytes, kind, table, name, start, open)
}

/// The start of the value around the run: its characters may also be those of base64 and passwords.
fn value_start(bytes: &[u8], run: usize, past: usize) -> Option<usize> {
    let punctuation = |b: u8| {
        matches!(
            b,
            b'+' | b'/' | b'.' | b'~' | b'%' | b'!' | b'@' | b'#' | b'^' | b'*'
        )
    };
    match byte_before(bytes, run)? {
        b if punctuation(b) => {
            let limit = past.max(run.saturating_sub(REACH));
            let before = bytes.get(limit..run)?;
            let part = |b: &&u8| punctuation(**b) || is_token(**b);
            let start = run - before.iter().rev().take_while(part).count();
            (start > limit || limit == 0).then_some(start)
        }
        b' ' | b'"' | b'\'' | b'`' | b'=' | b':' | b'>' => Some(run),
        _ => None,
    }
}

/// Passwords of any length: looks for the word and then for what is assigned to it.
pub(super) fn passwords(bytes: &[u8], kind: Kind, table: &Table, found: &mut Vec<Finding>) {
    for finder in &table.finders.password {
        for hit in finder.find_iter(bytes) {
            let start = skip_back(bytes, hit, is_name);
            let rest = bytes.get(hit..).unwrap_or_default();
            let end = hit + rest.iter().take(REACH).take_while(|b| is_name(**b)).count();
            if let Some(finding) = behind(bytes, kind, table, start..end) {
                found.push(finding);
            }
        }
    }
}

/// The value assigned to the name at `name`, reading forward.
fn behind(bytes: &[u8], kind: Kind, table: &Table, name: Range<usize>) -> Option<Finding> {
    let flag = bytes.get(name.clone())?.starts_with(b"-");
    let mut at = skip(bytes, name.end, |b| b == b'\\');
    let quoted = matches!(bytes.get(at), Some(b'"' | b'\'' | b'`'));
    at += usize::from(quoted);
    at += usize::from(bytes.get(at) == Some(&b']'));
    at = skip(bytes, at, |b| b == b' ');
    at = match bytes.get(at..)? {
        [b':' | b'=', b'=' | b'>', ..] => at + 2,
        [b':' | b'=' | b'>', ..] => at + 1,
        _ if flag && at > name.end => at,
        _ => return None,
    };
    at = skip(bytes, at, |b| b == b' ');
    let slashes = skip(bytes, at, |b| b == b'\\') - at;
    let quote = bytes.get(at + slashes).copied();
    let open = quote
        .filter(|q| matches!(q, b'"' | b'\'' | b'`'))
        .map(|quote| Frame { quote, slashes });
    let start = at + open.map_or(0, |_| slashes + 1);
    finding(bytes, kind, table, name, start, open)
}

/// Judges name and value.
fn finding(
    bytes: &[u8],
    kind: Kind,
    table: &Table,
    name: Range<usize>,
    start: usize,
    open: Option<Frame>,
) -> Option<Finding> {
    let role = role(table, bytes.get(name.clone())?)?;
    if kind == Kind::Json {
        // A member's name wants a whole string behind it: a bare number or word is not text.
        let bare = |at: usize, quote: Option<&u8>| {
            quote == Some(&b'"') && byte_before(bytes, at) != Some(b'\\')
        };
        let member = bare(name.end, bytes.get(name.end));
        let string = open.is_some_and(|o| o.quote == b'"' && o.slashes == 0);
        if member != string {
            return None;
        }
    }
    let span = read(bytes, start, open);
    let value = bytes.get(span.clone())?;
    let (holds, detector) = match role {
        Role::Password => (is_password(value, open.is_some()), "password"),
        _ => (is_secret(value, open.is_some()), "named-secret"),
    };
    holds.then_some(Finding { span, detector })
}

/// `Bearer`, `Basic` or `token` right before the run (RFC 6750, RFC 7617).
pub(super) fn header(bytes: &[u8], run: usize) -> Option<Finding> {
    let word = bytes.get(run.saturating_sub(7)..run.checked_sub(1)?)?;
    let ends = |scheme: &[u8]| {
        word.len() >= scheme.len()
            && word
                .get(word.len() - scheme.len()..)
                .is_some_and(|w| w.eq_ignore_ascii_case(scheme))
    };
    let basic = ends(b"basic");
    if !basic && !ends(b"bearer") {
        return None;
    }
    let rest = bytes.get(run..)?;
    let length = rest
        .iter()
        .take_while(|b| is_token(**b) || matches!(b, b'.' | b'~' | b'+' | b'/' | b'='))
        .count();
    let value = rest.get(..length)?;
    let genuine = if basic {
        memchr::memchr(b':', &super::check::decode(value)).is_some()
    } else {
        is_secret(value, true)
    };
    genuine.then_some(Finding {
        span: run..run + length,
        detector: "authorization",
    })
}

/// The quote right before `start` with its backslashes, and where they begin.
fn quote_before(bytes: &[u8], start: usize) -> (Option<Frame>, usize) {
    match byte_before(bytes, start) {
        Some(quote @ (b'"' | b'\'' | b'`')) => {
            let from = skip_back(bytes, start - 1, |b| b == b'\\');
            let slashes = start - 1 - from;
            (Some(Frame { quote, slashes }), from)
        }
        _ => (None, start),
    }
}

/// The name that ends before `end`, behind spaces, a bracket and a quote.
fn name_before(bytes: &[u8], end: usize) -> Option<Range<usize>> {
    let end = skip_back(bytes, end, |b| b == b' ');
    let end = end - usize::from(byte_before(bytes, end) == Some(b']'));
    let (_, end) = quote_before(bytes, end);
    if !ends_like_a_secret(bytes.get(..end)?) {
        return None;
    }
    let mut start = skip_back(bytes, end, is_name);
    if byte_before(bytes, start) == Some(b'\\') && end - start > 1 {
        start += 1;
    }
    (end - start <= REACH).then_some(start..end)
}

/// Most names end like no secret's name does; they are left before anything is split. The endings
/// are those of the words in `names.toml` that decide, which a test compares, and of `value`.
fn ends_like_a_secret(text: &[u8]) -> bool {
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

/// The name in `"name":"X",` before a member `"value":` whose name starts at `value`.
fn sibling(bytes: &[u8], value: usize) -> Option<Range<usize>> {
    let (_, at) = quote_before(bytes, value);
    let at = skip_back(bytes, at, |b| b == b' ');
    let at = at
        .checked_sub(1)
        .filter(|at| bytes.get(*at) == Some(&b','))?;
    let (open, end) = quote_before(bytes, at);
    open?;
    let start = skip_back(bytes, end, is_name);
    Some(start..end)
}

/// What the words of `name` say; `None` when it is no secret's name.
fn role(table: &Table, name: &[u8]) -> Option<Role> {
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

fn is_name(byte: u8) -> bool {
    is_token(byte) || byte == b'.'
}

fn byte_before(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at.checked_sub(1)?).copied()
}

/// Goes back from `at` over at most [`REACH`] bytes for which `over` holds.
fn skip_back(bytes: &[u8], at: usize, over: impl Fn(u8) -> bool) -> usize {
    let before = bytes.get(at.saturating_sub(REACH)..at).unwrap_or_default();
    at - before.iter().rev().take_while(|b| over(**b)).count()
}

/// Goes forward from `at` over at most eight bytes for which `over` holds.
fn skip(bytes: &[u8], at: usize, over: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take(8).take_while(|b| over(**b)).count()
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
