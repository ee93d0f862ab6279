//! The values that this server was given, found in every form that a program may print them in.

use super::spell::{Form, spell};
use super::{Finding, Kind};
use crate::secret::Secret;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use std::ops::Range;

/// Shorter values are not searched for: they would be found everywhere.
const SHORTEST: usize = 6;

/// From this length on a line of a value of several lines counts by itself.
const LINE: usize = 16;

/// The name in findings.
pub(super) const NAME: &str = "given";
/// The same for a JSON number, which must stay one.
pub(super) const NUMBER: &str = "given-number";

/// The automaton over all forms of all values.
///
/// It holds copies of the values for as long as it lives; they cannot be wiped from outside.
#[derive(Debug)]
pub(super) struct Given {
    automaton: AhoCorasick,
    forms: Vec<Form>,
}

impl Given {
    /// Builds the automaton; `None` without a value that can be searched for. The names of values
    /// that are too short are added to `ignored`.
    pub(super) fn new(secrets: &[Secret], ignored: &mut Vec<String>) -> Option<Self> {
        let mut patterns: Vec<zeroize::Zeroizing<Vec<u8>>> = Vec::new();
        let mut forms = Vec::new();
        for secret in secrets {
            let value = secret.expose();
            if value.len() < SHORTEST {
                ignored.push(secret.name().to_owned());
                continue;
            }
            let mut add = |pattern: Vec<u8>, form| {
                let pattern = zeroize::Zeroizing::new(pattern);
                if pattern.len() >= SHORTEST && !patterns.contains(&pattern) {
                    patterns.push(pattern);
                    forms.push(form);
                }
            };
            spell(value, &mut add);
            // Logs are read line by line, so each line of a key counts by itself.
            if value.contains(&b'\n') {
                for line in value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
                    if line.len() >= LINE && !line.starts_with(b"-----") {
                        spell(line, &mut add);
                    }
                }
            }
        }
        if patterns.is_empty() {
            return None;
        }
        // Fails only past four billion states; then every value is reported as not searched for.
        match AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            // Its packed prefilter reads the bytes; a DFA would only take longer to build.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(patterns.iter().map(|p| p.as_slice()))
        {
            Ok(automaton) => Some(Self { automaton, forms }),
            Err(_) => {
                ignored.extend(secrets.iter().map(|s| s.name().to_owned()));
                None
            }
        }
    }

    /// Adds every occurrence in `bytes` to `found`.
    pub(super) fn search(&self, bytes: &[u8], kind: Kind, found: &mut Vec<Finding>) {
        let mut from = 0;
        let mut quotes = Quotes::default();
        while let Some(hit) = self.automaton.find(Input::new(bytes).range(from..)) {
            let form = self.forms.get(hit.pattern().as_usize()).copied();
            match form.and_then(|form| accept(bytes, kind, form, hit.range(), &mut quotes)) {
                Some(finding) => {
                    from = finding.span.end.max(hit.start() + 1);
                    found.push(finding);
                }
                None => from = hit.start() + 1,
            }
        }
    }
}

/// Checks the neighbours of a hit.
fn accept(
    bytes: &[u8],
    kind: Kind,
    form: Form,
    mut span: Range<usize>,
    quotes: &mut Quotes,
) -> Option<Finding> {
    let before = bytes.get(..span.start).unwrap_or_default();
    let after = bytes.get(span.end..).unwrap_or_default();
    let glued = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let escape = escape_tail(before);
    if form.whole_word && (glued(before.last()) && escape != Some(0) || glued(after.first())) {
        return None;
    }
    if kind == Kind::Json && (form.text_only || escape.is_some_and(|missing| missing > 0)) {
        return None;
    }
    if let Some((left, right)) = form.base64 {
        let digit = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_');
        if left && before.last().filter(digit).is_some() && escape != Some(0) {
            span.start -= 1;
        }
        let mut rest = after;
        if right && rest.first().filter(digit).is_some() {
            span.end += 1;
            rest = rest.get(1..).unwrap_or_default();
        }
        span.end += rest.iter().take(2).take_while(|b| **b == b'=').count();
    }
    let detector = if kind == Kind::Json && is_number(bytes, &span, quotes) {
        NUMBER
    } else {
        NAME
    };
    if detector == NUMBER {
        span = number_around(bytes, span);
    }
    Some(Finding { span, detector })
}

/// Whether `before` ends in an escape: `Some(0)` when it is complete right there (`\n`), `Some(n)`
/// when its last `n` characters would be cut off, `None` when it ends in plain text.
fn escape_tail(before: &[u8]) -> Option<usize> {
    let odd = |bytes: &[u8]| bytes.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1;
    if odd(before) {
        return Some(1);
    }
    for back in 1..=5.min(before.len()) {
        let (head, tail) = before.split_at(before.len() - back);
        if odd(head) {
            return match tail {
                [b'u', ..] => Some(5 - back),
                [_] => Some(0),
                _ => None,
            };
        }
    }
    None
}

/// The span lies in a number of the JSON and not in a string.
fn is_number(bytes: &[u8], span: &Range<usize>, quotes: &mut Quotes) -> bool {
    let inside = bytes.get(span.clone()).unwrap_or_default();
    inside.iter().all(number_part) && !quotes.open_at(bytes, span.start)
}

/// Whether a place lies in a string; asked from left to right, so that each byte is seen once.
#[derive(Debug, Default)]
struct Quotes {
    at: usize,
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn open_at(&mut self, bytes: &[u8], at: usize) -> bool {
        for &byte in bytes.get(self.at..at).unwrap_or_default() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.open = !self.open,
                _ => {}
            }
        }
        self.at = self.at.max(at);
        self.open
    }
}

fn number_part(byte: &u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')
}

fn number_around(bytes: &[u8], span: Range<usize>) -> Range<usize> {
    let part = |b: &&u8| number_part(b);
    let before = bytes.get(..span.start).unwrap_or_default();
    let after = bytes.get(span.end..).unwrap_or_default();
    span.start - before.iter().rev().take_while(part).count()
        ..span.end + after.iter().take_while(part).count()
}
