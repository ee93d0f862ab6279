//! Strings in which printable ASCII is written as `\u0067`: decoded, searched, and mapped back.

use super::table::table;
use super::{Finding, Kind};
use std::ops::Range;

/// How much before a string is part of its view: the name that it is assigned to.
const CONTEXT: usize = 96;

/// A string with its escapes of printable ASCII undone (what JSON cannot hold bare gets its shortest
/// escape); all else as it is on the wire.
struct View {
    bytes: Vec<u8>,
    /// For each byte of the view, where it starts in the line; one more for the end.
    from: Vec<usize>,
}

/// Calls `search` on a decoded view of each string with such escapes; findings are moved to the line.
pub(super) fn search(
    line: &[u8],
    kind: Kind,
    found: &mut Vec<Finding>,
    mut search: impl FnMut(&[u8], &mut Vec<Finding>),
) {
    let finder = &table().finders.unicode;
    let mut at = 0;
    while let Some(hit) = finder.find(line.get(at..).unwrap_or_default()) {
        let hit = at + hit;
        if unescape(line, hit).is_none() {
            at = hit + 4;
            continue;
        }
        let string = match kind {
            Kind::Json => string_around(line, hit),
            Kind::Text => 0..line.len(),
        };
        at = string.end.max(hit + 4);
        let view = View::of(line, string.start.saturating_sub(CONTEXT)..string.end);
        let mut seen = Vec::new();
        search(&view.bytes, &mut seen);
        found.extend(seen.into_iter().filter_map(|finding| {
            let start = *view.from.get(finding.span.start)?;
            let end = *view.from.get(finding.span.end)?;
            // What lies before the string has been searched as it is; here it may be cut in half.
            (start >= string.start).then_some(Finding {
                span: start..end,
                ..finding
            })
        }));
    }
}

impl View {
    fn of(line: &[u8], range: Range<usize>) -> Self {
        let mut view = Self {
            bytes: Vec::with_capacity(range.len()),
            from: Vec::with_capacity(range.len() + 1),
        };
        let mut at = range.start;
        while at < range.end {
            // Nested JSON doubles the backslashes; all of them belong to the escape.
            let slashes = line
                .get(at..range.end)
                .unwrap_or_default()
                .iter()
                .take_while(|b| **b == b'\\')
                .count();
            if slashes > 0
                && let Some(byte) = unescape(line, at + slashes - 1)
            {
                let (byte, short) = match byte {
                    b'\n' => (b'n', true),
                    b'\r' => (b'r', true),
                    b'\t' => (b't', true),
                    other => (other, matches!(other, b'"' | b'\\')),
                };
                if short {
                    // The same depth of nesting: `\u0022` is `\"`, `\\u0022` is `\\\"`.
                    for _ in 1..slashes * 2 {
                        view.push(b'\\', at);
                    }
                }
                view.push(byte, at);
                at += slashes + 5;
                continue;
            }
            for at in at..at + slashes.max(1) {
                if let Some(byte) = line.get(at) {
                    view.push(*byte, at);
                }
            }
            at += slashes.max(1);
        }
        view.from.push(at);
        view
    }

    fn push(&mut self, byte: u8, from: usize) {
        self.bytes.push(byte);
        self.from.push(from);
    }
}

/// The character that `\u00XX` at `at` stands for: printable ASCII, or a line's or column's end.
/// `<`, `>` and `&` stay: Go escapes them always, and they end a word in either form.
fn unescape(line: &[u8], at: usize) -> Option<u8> {
    let &[b'\\', b'u', b'0', b'0', high, low] = line.get(at..)?.first_chunk::<6>()? else {
        return None;
    };
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let byte = digit(high)? << 4 | digit(low)?;
    let known = (0x20..0x7f).contains(&byte) || matches!(byte, b'\n' | b'\r' | b'\t');
    (known && !matches!(byte, b'<' | b'>' | b'&')).then_some(byte)
}

/// The string around `at`, with both quotes.
fn string_around(line: &[u8], at: usize) -> Range<usize> {
    let bare = |quote: usize| {
        let before = line.get(..quote).unwrap_or_default();
        before.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 0
    };
    let start = memchr::memrchr_iter(b'"', line.get(..at).unwrap_or_default())
        .find(|quote| bare(*quote))
        .unwrap_or(0);
    let end = memchr::memchr_iter(b'"', line.get(at..).unwrap_or_default())
        .map(|quote| at + quote)
        .find(|quote| bare(*quote))
        .map_or(line.len(), |quote| quote + 1);
    start..end
}
