//! A walker over proved JSON, with no tree and no allocation on the common path.
//!
//! It is made for bytes that `parse` has proved. On any others it does not panic and does not
//! loop: it ends early.

use super::Raw;
use super::cursor::{Cursor, Token, unit};
use std::borrow::Cow;

/// The members of an object, in order: decoded key, raw value (offsets relative to the slice given).
#[derive(Clone, Debug)]
pub struct Members<'a> {
    inner: Items<'a>,
}

/// Walks the members of `object`, which `parse` has proved; not an object gives none.
#[must_use]
pub fn members(object: &[u8]) -> Members<'_> {
    Members {
        inner: Items::new(object, b'{'),
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let inner = &mut self.inner;
        let found = inner.advance(b'}').then(|| {
            let key = inner.cursor.string().ok()?;
            let key = decode(key)?;
            inner.cursor.blanks();
            if !inner.cursor.eat(b':') {
                return None;
            }
            Some((key, inner.value()?))
        });
        inner.or_end(found.flatten())
    }
}

/// The elements of an array, in order.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    inner: Items<'a>,
}

/// Walks the elements of `array`, which `parse` has proved; not an array gives none.
#[must_use]
pub fn elements(array: &[u8]) -> Elements<'_> {
    Elements {
        inner: Items::new(array, b'['),
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let inner = &mut self.inner;
        let found = inner.advance(b']').then(|| inner.value());
        inner.or_end(found.flatten())
    }
}

/// What both walkers share: a cursor that stands before an item, until there is none.
#[derive(Clone, Debug)]
struct Items<'a> {
    cursor: Cursor<'a>,
    first: bool,
    ended: bool,
}

impl<'a> Items<'a> {
    fn new(bytes: &'a [u8], open: u8) -> Self {
        let mut cursor = Cursor::new(bytes, 0);
        cursor.blanks();
        let ended = !cursor.eat(open);
        Self {
            cursor,
            first: true,
            ended,
        }
    }

    /// Moves onto the next item; false when there is none.
    fn advance(&mut self, close: u8) -> bool {
        if self.ended {
            return false;
        }
        self.cursor.blanks();
        let more = if self.first {
            self.cursor.peek() != Some(close)
        } else {
            self.cursor.eat(b',')
        };
        self.first = false;
        self.cursor.blanks();
        more
    }

    fn value(&mut self) -> Option<Raw<'a>> {
        self.cursor.blanks();
        let start = self.cursor.at();
        self.cursor.value(0, 0).ok()?;
        Some(Raw {
            start,
            text: self.cursor.since(start),
        })
    }

    fn or_end<T>(&mut self, item: Option<T>) -> Option<T> {
        self.ended |= item.is_none();
        item
    }
}

impl<'a> Raw<'a> {
    /// The value of the first member of this object named `key`; `start` counts from the same place
    /// as this value's does. `None` when this is not an object or has no such member.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<Self> {
        members(self.text)
            .find(|(name, _)| name == key)
            .map(|(_, value)| Self {
                start: self.start + value.start,
                text: value.text,
            })
    }

    /// This value as a decoded string; `None` when it is not one.
    #[must_use]
    pub fn as_text(&self) -> Option<Cow<'a, str>> {
        text(self.text)
    }
}

/// Decodes a raw string token; `None` when the value is not a string.
///
/// Half a surrogate pair becomes U+FFFD: JavaScript servers that cut a text in the middle of an
/// emoji send such escapes, and the bytes that travel stay as they are.
#[must_use]
pub fn text(raw: &[u8]) -> Option<Cow<'_, str>> {
    text_and_lone(raw).map(|(text, _)| text)
}

/// Like [`text`], and says whether it held half a surrogate pair.
pub(super) fn text_and_lone(raw: &[u8]) -> Option<(Cow<'_, str>, bool)> {
    let mut cursor = Cursor::new(raw, 0);
    let token = cursor.string().ok()?;
    if cursor.at() != raw.len() {
        return None;
    }
    Some((decode(token)?, token.lone))
}

/// The text of a string that was passed; `None` when it is not UTF-8.
pub(super) fn decode(token: Token<'_>) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(token.inner).ok()?;
    Some(if token.escaped {
        Cow::Owned(unescape(token.inner).0)
    } else {
        Cow::Borrowed(text)
    })
}

/// Undoes the escapes of what stands between the quotes; true when half a surrogate pair was met.
pub(super) fn unescape(inner: &[u8]) -> (String, bool) {
    let mut out = Vec::with_capacity(inner.len());
    let mut lone = false;
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain);
        let (letter, used) = unescape_one(escape);
        lone |= letter.is_none();
        let mut buffer = [0; 4];
        let letter = letter.unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
        rest = escape.get(used..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    let text = match String::from_utf8(out) {
        Ok(text) => text,
        Err(bad) => String::from_utf8_lossy(bad.as_bytes()).into_owned(),
    };
    (text, lone)
}

/// The character of the escape at the start, `None` for half a pair, and the bytes it takes (≥ 1).
fn unescape_one(escape: &[u8]) -> (Option<char>, usize) {
    let simple = match escape.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unescape_unit(escape),
        Some(&other) if other.is_ascii() => char::from(other),
        _ => return (None, 1),
    };
    (Some(simple), 2)
}

fn unescape_unit(escape: &[u8]) -> (Option<char>, usize) {
    let Some(first) = unit(escape, 0) else {
        return (None, 2);
    };
    if let 0xD800..=0xDBFF = first
        && let Some(second @ 0xDC00..=0xDFFF) = unit(escape, 6)
    {
        let scalar = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return (char::from_u32(scalar), 12);
    }
    (char::from_u32(first), 6)
}
