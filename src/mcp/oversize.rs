//! Finds the id of a line that is too long to keep, as its bytes stream past.
//!
//! The same scan finds the id of a line that is refused. It is lenient inside values and strict
//! between the members of the outer object: what stands before the first break there is used,
//! what follows is not. Memory is bounded by the longest key and id it keeps.

use super::{Id, MAX_ID_BYTES, Raw, RequestId, json};

/// Longest raw key that is kept: `"method"` with each letter as a `\uXXXX` fits, quotes included.
const MAX_KEY_BYTES: usize = 48;

/// The raw token of an id, quotes included, and its key.
type RawAndKey = (Box<[u8]>, RequestId);

/// Fed with the pieces of one line; bounded memory whatever the line holds.
#[derive(Debug, Default)]
pub struct IdScan {
    state: State,
    /// Open containers inside the outer object.
    depth: u64,
    key: Vec<u8>,
    token: Vec<u8>,
    id: Found,
    method: bool,
}

/// What the next byte means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the outer object.
    #[default]
    Start,
    /// A key, or the end of the object.
    Key,
    /// In a key; true after a backslash.
    InKey(bool),
    Colon,
    Value,
    /// In a string that is a member's value; true after a backslash.
    InText(bool),
    /// In a number or a word.
    InScalar,
    /// In an object or array.
    Nested,
    /// In a string of an object or array; true after a backslash.
    NestedText(bool),
    Comma,
    /// After the outer object.
    End,
    /// After a break: nothing more is read.
    Junk,
}

#[derive(Debug, Default)]
enum Found {
    #[default]
    Nothing,
    /// Raw token and key.
    One(Box<[u8]>, RequestId),
    /// Not legal, but a whole number: some languages write 5 as `5.0`, and an answer that is waited for
    /// is known by it.
    Whole(Box<[u8]>, RequestId),
    /// Two, or one that is not legal.
    Unusable,
}

impl IdScan {
    /// Looks at the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            // The two states in which long lines spend their bytes skip to what can end them.
            let skipped = match self.state {
                State::InText(false) | State::NestedText(false) => {
                    memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())
                }
                State::End => return self.trailing(rest),
                State::Junk => return,
                _ => 0,
            };
            if skipped > 0 {
                let (passed, left) = rest.split_at(skipped);
                if let State::InText(_) = self.state {
                    self.keep(passed);
                }
                rest = left;
                continue;
            }
            self.step(byte);
            rest = after;
        }
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Start, b'{') => State::Key,
            // Blanks and a byte order mark: the line is refused, its sender still gets an answer.
            (State::Start, b' ' | b'\t' | b'\r' | 0xEF | 0xBB | 0xBF) => State::Start,
            (State::Key | State::Colon | State::Value | State::Comma, b' ' | b'\t' | b'\r') => {
                self.state
            }
            (State::Key, b'"') => {
                self.key.clear();
                self.key.push(byte);
                State::InKey(false)
            }
            (State::InKey(escaped), _) => {
                if self.key.len() < MAX_KEY_BYTES {
                    self.key.push(byte);
                }
                match (escaped, byte) {
                    (false, b'"') => State::Colon,
                    (false, b'\\') => State::InKey(true),
                    _ => State::InKey(false),
                }
            }
            (State::Colon, b':') => State::Value,
            (State::Value, _) => self.begin_value(byte),
            (State::InText(escaped), _) => {
                self.keep(&[byte]);
                match (escaped, byte) {
                    (false, b'"') => self.end_value(State::Comma),
                    (false, b'\\') => State::InText(true),
                    _ => State::InText(false),
                }
            }
            (State::InScalar, b',') => self.end_value(State::Key),
            (State::InScalar, b'}') => self.end_value(State::End),
            (State::InScalar, b' ' | b'\t' | b'\r') => self.end_value(State::Comma),
            (State::InScalar, _) => {
                self.keep(&[byte]);
                State::InScalar
            }
            (State::Nested, b'"') => State::NestedText(false),
            (State::Nested, b'{' | b'[') => {
                self.depth += 1;
                State::Nested
            }
            (State::Nested, b'}' | b']') => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.end_value(State::Comma)
                } else {
                    State::Nested
                }
            }
            (State::Nested, _) => State::Nested,
            (State::NestedText(false), b'\\') => State::NestedText(true),
            (State::NestedText(false), b'"') => State::Nested,
            (State::NestedText(_), _) => State::NestedText(false),
            (State::Comma, b',') => State::Key,
            (State::Comma, b'}') => State::End,
            _ => State::Junk,
        };
        if byte == b'}' && self.state == State::Junk {
            // `{}` and a trailing comma close the object as well.
            self.state = State::End;
        }
    }

    fn begin_value(&mut self, byte: u8) -> State {
        self.token.clear();
        self.token.push(byte);
        match byte {
            b'"' => State::InText(false),
            b'{' | b'[' => {
                self.depth = 1;
                State::Nested
            }
            b',' | b'}' | b']' | b':' => State::Junk,
            _ => State::InScalar,
        }
    }

    /// One byte more than an id may have is kept, so that a longer one is seen to be.
    fn keep(&mut self, bytes: &[u8]) {
        let room = (MAX_ID_BYTES + 1).saturating_sub(self.token.len());
        self.token.extend(bytes.iter().take(room));
    }

    fn end_value(&mut self, next: State) -> State {
        match json::text(&self.key).as_deref() {
            Some("method") => self.method = true,
            Some("id") => self.id = self.read_id(),
            _ => {}
        }
        next
    }

    fn read_id(&self) -> Found {
        if !matches!(self.id, Found::Nothing) {
            return Found::Unusable;
        }
        let value = Raw {
            start: 0,
            text: &self.token,
        };
        match Id::read(value) {
            Ok(id) if std::str::from_utf8(id.raw).is_ok() && !id.raw.iter().any(|&b| b < 0x20) => {
                Found::One(id.raw.into(), id.key())
            }
            _ => self.whole().unwrap_or(Found::Unusable),
        }
    }

    fn whole(&self) -> Option<Found> {
        let end = self.token.iter().position(|&byte| byte == b'.')?;
        let (text, zeros) = self.token.split_at_checked(end)?;
        let zeros = zeros.strip_prefix(b".").filter(|it| !it.is_empty())?;
        if !zeros.iter().all(|&byte| byte == b'0') || text.first() == Some(&b'"') {
            return None;
        }
        let id = Id::read(Raw { start: 0, text }).ok()?;
        Some(Found::Whole(id.raw.into(), id.key()))
    }

    /// A second message on the line may have an id of its own, so neither is answered.
    fn trailing(&mut self, rest: &[u8]) {
        if rest.contains(&b'{') {
            self.id = Found::Unusable;
            self.state = State::Junk;
        }
    }

    /// The top-level id (raw token, key) when the line had exactly one that is legal, and whether
    /// a top-level `method` was seen (a request rather than an answer).
    #[must_use]
    pub fn finish(self) -> Option<OversizeId> {
        let (id, request) = self.into_parts();
        let (raw, key) = id?;
        Some(OversizeId { raw, key, request })
    }

    /// The id, and whether there was a `method`, each by itself.
    pub(super) fn into_parts(self) -> (Option<RawAndKey>, bool) {
        let id = match self.id {
            Found::One(raw, key) => Some((raw, key)),
            Found::Whole(raw, key) if !self.method => Some((raw, key)),
            Found::Nothing | Found::Whole(..) | Found::Unusable => None,
        };
        (id, self.method)
    }
}

/// What was learnt of an oversize line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OversizeId {
    /// The raw token, quotes included.
    pub raw: Box<[u8]>,
    /// Its key.
    pub key: RequestId,
    /// True when the line was a request.
    pub request: bool,
}
