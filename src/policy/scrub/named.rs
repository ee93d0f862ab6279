//! Secrets known by their name: `password=…`, `"apiKey": "…"`, `--password …`, `Authorization: Bearer …`.
//!
//! Two ways in: from a value that is a long run, back over the operator to the name; and from a name
//! with `password` in it forward, because passwords may be short. Names are split into words, so
//! that `sessions` is no `session` and `nextPageToken` is a cursor (`names.toml`).

use super::shape::is_token;
use super::table::{Role, Table};
use super::value::{Frame, is_password, is_secret, read};
use super::words::{ends_like_a_secret, role};
use super::{Finding, Kind};
use std::ops::Range;

/// How far a value may reach back before its first long run, and the longest name.
const REACH: usize = 64;

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
        [b'v' | b'V', b'a', b'l', b'u', b'e'] => sibling(bytes, name.start).unwrap_or(name),
        _ => name,
    };
    let tag = operator == b'>' && byte_before(bytes, spaced - 1) != Some(b'=');
    finding(bytes, kind, table, name, start, open)
        .filter(|found| !tag || is_closed(bytes, found.span.end))
}

/// The start of the value around the run: its characters may also be those of base64 and passwords.
fn value_start(bytes: &[u8], run: usize, past: usize) -> Option<usize> {
    match byte_before(bytes, run)? {
        b if is_punctuation(b) => {
            let limit = past.max(run.saturating_sub(REACH));
            let before = bytes.get(limit..run)?;
            let part = |b: &&u8| IN_VALUE.get(usize::from(**b)) == Some(&true);
            let start = run - before.iter().rev().take_while(part).count();
            (start > limit || limit == 0).then_some(start)
        }
        b' ' | b'"' | b'\'' | b'`' | b'=' | b':' | b'>' => Some(run),
        _ => None,
    }
}

const fn is_punctuation(byte: u8) -> bool {
    matches!(
        byte,
        b'+' | b'/' | b'.' | b'~' | b'%' | b'!' | b'@' | b'#' | b'^' | b'*'
    )
}

/// Which bytes a value may have before its first long run.
const IN_VALUE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = is_punctuation(byte) || is_token(byte);
        byte += 1;
    }
    table
};

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
    let slashes_end = skip(bytes, name.end, |b| b == b'\\');
    let mut at = slashes_end;
    let quoted = matches!(bytes.get(at), Some(b'"' | b'\'' | b'`'));
    at += usize::from(quoted);
    at += usize::from(bytes.get(at) == Some(&b']'));
    at = skip(bytes, at, |b| b == b' ');
    let tag = bytes.get(at) == Some(&b'>');
    at = match bytes.get(at..)? {
        [b':', b':', ..] | [b'=', b'=', ..] => return None,
        [b':', b'=', ..] | [b'=', b'>', ..] => at + 2,
        [b':' | b'=' | b'>', ..] => at + 1,
        // A backslash alone is no gap: it begins an escape, and the value would begin inside of that.
        _ if flag && at > slashes_end => at,
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
        .filter(|found| !tag || is_closed(bytes, found.span.end))
}

/// The value of an XML element ends where its closing tag starts.
fn is_closed(bytes: &[u8], end: usize) -> bool {
    let rest = bytes.get(end..).unwrap_or_default();
    rest.starts_with(b"</") || rest.starts_with(br"<\/")
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
    // The value is judged before the name is split: that takes longer.
    let quoted = open.is_some();
    let (password, secret) = (is_password(value, quoted), is_secret(value, quoted));
    if !password && !secret {
        return None;
    }
    let (holds, detector) = match role(table, bytes.get(name)?)? {
        Role::Password => (password, "password"),
        _ => (secret, "named-secret"),
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
    // `AWS::IAM::AccessKey` is a type.
    let typed = byte_before(bytes, start) == Some(b':');
    (end - start <= REACH && !typed).then_some(start..end)
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
