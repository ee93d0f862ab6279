//! The values that this server was given, found in every form that a program may print them in.

use super::{Finding, Kind};
use crate::secret::Secret;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::fmt::Write as _;
use std::ops::Range;

/// Shorter values are not searched for: they would be found everywhere.
const SHORTEST: usize = 6;

/// From this length on a value counts also inside a longer word.
const ANYWHERE: usize = 8;

/// From this length on a line of a value of several lines counts by itself.
const LINE: usize = 16;

/// The name in findings.
pub(super) const NAME: &str = "given";
/// The same for a JSON number, which must stay one.
pub(super) const NUMBER: &str = "given-number";

/// What is known about one pattern of the automaton.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Letters and digits on neither side.
    whole_word: bool,
    /// Holds bytes that cannot stand inside a JSON string like this.
    text_only: bool,
    /// Base64 characters at either side hold bits of the value too.
    base64: Option<(bool, bool)>,
}

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

/// All spellings of `value`.
fn spell(value: &[u8], add: &mut impl FnMut(Vec<u8>, Form)) {
    let digits = value.iter().all(u8::is_ascii_digit);
    let plain = Form {
        whole_word: value.len() < ANYWHERE || digits,
        text_only: false,
        base64: None,
    };
    let raw = Form {
        text_only: value.iter().any(|b| matches!(b, b'"' | b'\\' | 0..0x20))
            || std::str::from_utf8(value).is_err(),
        ..plain
    };
    add(value.to_vec(), raw);
    if let Ok(text) = std::str::from_utf8(value) {
        for style in [
            Escapes::Least,
            Escapes::Slash,
            Escapes::Html,
            Escapes::Ascii,
            Escapes::All,
            Escapes::AllUpper,
        ] {
            let once = escape(text, style);
            let twice = escape(&once, Escapes::Least);
            add(once.into_bytes(), plain);
            add(escape(&twice, Escapes::Least).into_bytes(), plain);
            add(twice.into_bytes(), plain);
        }
    }
    for (upper, plus) in [(true, false), (false, false), (true, true)] {
        add(percent_encode(value, upper, plus).into_bytes(), plain);
    }
    let loose = Form {
        whole_word: false,
        ..plain
    };
    add(hex(value, false), loose);
    add(hex(value, true), loose);
    for engine in [&STANDARD, &URL_SAFE] {
        for offset in 0..3 {
            let mut padded = vec![0; offset];
            padded.extend_from_slice(value);
            let encoded = engine.encode(&padded);
            // Characters that hold only bits of the value: RFC 4648 §4, six bits each.
            let (from, to) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
            let core = encoded.as_bytes().get(from..to).unwrap_or_default();
            let form = Form {
                whole_word: false,
                text_only: false,
                base64: Some((offset != 0, padded.len() * 8 % 6 != 0)),
            };
            add(core.to_vec(), form);
            if core.contains(&b'/') {
                add(
                    String::from_utf8_lossy(core)
                        .replace('/', "\\/")
                        .into_bytes(),
                    form,
                );
            }
        }
    }
}

/// How far a JSON writer escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// What RFC 8259 §7 demands.
    Least,
    /// `/` too, as PHP does.
    Slash,
    /// `<`, `>` and `&` too, as Go does.
    Html,
    /// All that is not ASCII too, as Python does.
    Ascii,
    /// Both.
    All,
    /// Both in upper case, as C# does.
    AllUpper,
}

impl Escapes {
    fn html(self) -> bool {
        matches!(self, Self::Html | Self::All | Self::AllUpper)
    }

    fn ascii(self) -> bool {
        matches!(self, Self::Ascii | Self::All | Self::AllUpper)
    }
}

fn escape(text: &str, style: Escapes) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '/' if style == Escapes::Slash => out.push_str("\\/"),
            c if c < ' '
                || style.html() && matches!(c, '<' | '>' | '&')
                || style.ascii() && !c.is_ascii() =>
            {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = match style {
                        Escapes::AllUpper => write!(out, "\\u{unit:04X}"),
                        _ => write!(out, "\\u{unit:04x}"),
                    };
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// RFC 3986 §2.1, everything but unreserved characters; `plus`: a space becomes `+` (HTML forms).
fn percent_encode(value: &[u8], upper: bool, plus: bool) -> String {
    let mut out = String::with_capacity(value.len() * 3);
    for &byte in value {
        match byte {
            b' ' if plus => out.push('+'),
            b if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(b));
            }
            b => {
                let _ = if upper {
                    write!(out, "%{b:02X}")
                } else {
                    write!(out, "%{b:02x}")
                };
            }
        }
    }
    out
}

fn hex(value: &[u8], upper: bool) -> Vec<u8> {
    let digits = if upper {
        b"0123456789ABCDEF"
    } else {
        b"0123456789abcdef"
    };
    value
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .filter_map(|d| digits.get(usize::from(d)).copied())
        .collect()
}
