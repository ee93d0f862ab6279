//! Secrets with a frame around them: private keys between their lines, passwords in URLs.

use super::table::Finders;
use super::{Finding, placeholder};
use memchr::memmem;
use std::ops::Range;

/// A URL's authority and a webhook's path are looked at up to this many bytes.
const AUTHORITY: usize = 512;

/// The longest label between `-----BEGIN ` and `-----`.
const LABEL: usize = 48;

/// URLs whose path is the secret.
const WEBHOOKS: [(&[u8], &str); 4] = [
    (b"hooks.slack.com/services/", "slack-webhook"),
    (b"hooks.slack.com/workflows/", "slack-webhook"),
    (b"discord.com/api/webhooks/", "discord-webhook"),
    (b"discordapp.com/api/webhooks/", "discord-webhook"),
];

/// The names that this file finds.
pub(super) const NAMES: [&str; 4] = [
    "private-key",
    "url-password",
    "slack-webhook",
    "discord-webhook",
];

/// What stands for a password in documentation.
const FILLER: [&[u8]; 14] = [
    b"password",
    b"passwd",
    b"pass",
    b"pwd",
    b"secret",
    b"user",
    b"username",
    b"token",
    b"changeme",
    b"example",
    b"your_password",
    b"your-password",
    b"yourpassword",
    b"xxx",
];

/// Private keys in PEM and OpenPGP armour (RFC 7468, RFC 9580 §6.2): from the first line to the last,
/// or to the end of the string when the last is missing; the header alone would leave the key.
pub(super) fn keys(bytes: &[u8], finders: &Finders, found: &mut Vec<Finding>) {
    let mut at = 0;
    let mut ends = StringEnds::default();
    while let Some(start) = next(bytes, at, &finders.key) {
        let body = start + "-----BEGIN ".len();
        at = body;
        let label = window(bytes, body, LABEL);
        let Some(close) = dashes(label) else {
            continue;
        };
        let label = label.get(..close).unwrap_or_default();
        if memmem::find(label, b"PRIVATE KEY").is_none() {
            continue;
        }
        let text = body + close + "-----".len();
        if !is_key_text(window(bytes, text, 64)) {
            continue;
        }
        let stop = ends.behind(bytes, text);
        let inside = bytes.get(text..stop).unwrap_or_default();
        let end = match memmem::find(inside, b"-----END ") {
            Some(last) => {
                let last = text + last + "-----END ".len();
                let tail = bytes.get(last..stop.min(last + LABEL)).unwrap_or_default();
                dashes(tail).map_or(stop, |dash| last + dash + 5)
            }
            None => stop,
        };
        found.push(Finding {
            span: start..end,
            detector: "private-key",
        });
        at = end;
    }
}

/// Key material or its headers follow, and not the code or prose of someone who writes about keys.
fn is_key_text(text: &[u8]) -> bool {
    let line_end = |b: &u8| matches!(b, b'\\' | b'n' | b'r' | b' ' | b'\n' | b'\r');
    let skip = text.iter().take(16).take_while(|b| line_end(b)).count();
    let mut rest = text.get(skip..).unwrap_or_default();
    if rest.first() == Some(&b'-') {
        return false;
    }
    for _ in 0..16 {
        rest = match rest {
            // PHP writes its slashes so.
            [b'\\', b'/', rest @ ..] => rest,
            [b, rest @ ..] if b.is_ascii_alphanumeric() => rest,
            [b'+' | b'/' | b'=' | b':' | b'-' | b' ' | b',', rest @ ..] => rest,
            _ => return false,
        };
    }
    true
}

/// Where strings end; asked from left to right, so that each byte is seen once.
#[derive(Debug, Default)]
struct StringEnds {
    /// The last answer.
    end: usize,
}

impl StringEnds {
    /// Where the string around `from` ends at the latest: at its first quote, whose backslashes are
    /// not part of the text either; plain text ends where it ends.
    fn behind(&mut self, bytes: &[u8], from: usize) -> usize {
        if from > self.end || self.end == 0 {
            let rest = bytes.get(from..).unwrap_or_default();
            self.end = match memchr::memchr(b'"', rest) {
                Some(quote) => {
                    let text = rest.get(..quote).unwrap_or_default();
                    from + quote - text.iter().rev().take_while(|b| **b == b'\\').count()
                }
                None => bytes.len(),
            };
        }
        self.end
    }
}

/// Passwords between a URL's `//user:` and `@` (RFC 3986 §3.2.1), and webhooks.
pub(super) fn urls(bytes: &[u8], escapes: bool, finders: &Finders, found: &mut Vec<Finding>) {
    for mark in [Some(&finders.url), escapes.then_some(&finders.escaped_url)] {
        let Some(mark) = mark else { continue };
        let mut at = 0;
        while let Some(start) = next(bytes, at, mark) {
            at = start + mark.needle().len();
            let rest = window(bytes, at, AUTHORITY);
            let found_here = password(rest)
                .map(|span| (span, "url-password"))
                .or_else(|| webhook(rest));
            if let Some((span, detector)) = found_here {
                found.push(Finding {
                    span: at + span.start..at + span.end,
                    detector,
                });
            }
        }
    }
}

/// The password in an authority that starts here.
fn password(rest: &[u8]) -> Option<Range<usize>> {
    let end = rest
        .iter()
        .position(|b| {
            matches!(
                b,
                b'/' | b'?' | b'#' | b'"' | b'\'' | b'`' | b'<' | b'>' | b'\\' | 0..=b' '
            )
        })
        .unwrap_or(rest.len());
    let authority = rest.get(..end)?;
    let at = memchr::memrchr(b'@', authority)?;
    let colon = memchr::memchr(b':', authority.get(..at)?)?;
    let value = authority.get(colon + 1..at)?;
    let template = matches!(value.first()?, b'$' | b'{' | b'[' | b'(' | b'*')
        || value.starts_with(b"%s")
        || value.starts_with(b"%(")
        || value.iter().all(|b| *b == b'x' || *b == b'X' || *b == b'.');
    let filler = FILLER.iter().any(|word| value.eq_ignore_ascii_case(word));
    if value.len() < 3 || template || filler || placeholder::covers(value, 0) {
        return None;
    }
    Some(colon + 1..at)
}

fn webhook(rest: &[u8]) -> Option<(Range<usize>, &'static str)> {
    let (start, name) = WEBHOOKS
        .iter()
        .find_map(|(host, name)| Some((behind(rest, host)?, *name)))?;
    let mut end = start;
    while let Some(width) = match rest.get(end..) {
        Some([b, ..]) if b.is_ascii_alphanumeric() || b"/-_".contains(b) => Some(1),
        Some([b'\\', b'/', ..]) => Some(2),
        _ => None,
    } {
        end += width;
    }
    let path = rest.get(start..end)?;
    let real =
        path.len() >= 24 && super::check::is_varied(path, 12) && !placeholder::covers(path, 0);
    real.then_some((start..end, name))
}

/// Where `text` goes on behind `start`, whose slashes it may write `\/`.
fn behind(text: &[u8], start: &[u8]) -> Option<usize> {
    let mut at = 0;
    for byte in start {
        at += usize::from(*byte == b'/' && text.get(at) == Some(&b'\\'));
        if text.get(at) != Some(byte) {
            return None;
        }
        at += 1;
    }
    Some(at)
}

fn next(bytes: &[u8], from: usize, needle: &memmem::Finder<'_>) -> Option<usize> {
    needle.find(bytes.get(from..)?).map(|at| from + at)
}

/// Where five hyphens start in a short text.
fn dashes(text: &[u8]) -> Option<usize> {
    text.windows(5).position(|five| five == b"-----")
}

fn window(bytes: &[u8], from: usize, length: usize) -> &[u8] {
    let end = bytes.len().min(from.saturating_add(length));
    bytes.get(from..end).unwrap_or_default()
}
