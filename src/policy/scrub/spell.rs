//! Every spelling that a program may give to a value: JSON escapes of several writers and nested,
//! base64 at each offset, hex, percent signs.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::fmt::Write as _;

/// From this length on a value counts also inside a longer word.
const ANYWHERE: usize = 8;

/// What is known about one pattern of the automaton.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Letters and digits on neither side.
    pub(super) whole_word: bool,
    /// Holds bytes that cannot stand inside a JSON string like this.
    pub(super) text_only: bool,
    /// Base64 characters at either side hold bits of the value too.
    pub(super) base64: Option<(bool, bool)>,
}

/// All spellings of `value`.
pub(super) fn spell(value: &[u8], add: &mut impl FnMut(Vec<u8>, Form)) {
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
            Escapes::Both,
            Escapes::BothUpper,
            Escapes::Dotnet,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Escapes {
    /// What RFC 8259 §7 demands.
    Least,
    /// `/` too, as PHP does.
    Slash,
    /// `<`, `>` and `&` too, as Go does.
    Html,
    /// All that is not ASCII too, as Python does.
    Ascii,
    /// What Go and what Python escape.
    Both,
    /// The same in upper case hex.
    BothUpper,
    /// All that means something in HTML, quotes too, in upper case hex, as .NET does.
    Dotnet,
}

impl Escapes {
    fn html(self) -> bool {
        matches!(self, Self::Html | Self::Both | Self::BothUpper)
    }

    fn upper(self) -> bool {
        matches!(self, Self::BothUpper | Self::Dotnet)
    }
}

fn escape(text: &str, style: Escapes) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '"' | '&' | '\'' | '+' | '<' | '>' | '`' if style == Escapes::Dotnet => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
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
                || style >= Escapes::Ascii && !c.is_ascii() =>
            {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = if style.upper() {
                        write!(out, "\\u{unit:04X}")
                    } else {
                        write!(out, "\\u{unit:04x}")
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
