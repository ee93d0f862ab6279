//! One line of JSON-RPC, proved and borrowed: who it is for and where its parts lie.
//!
//! What is proved, and why, so that the bytes themselves may travel on:
//!
//! - UTF-8, no byte below 0x20, one JSON object by RFC 8259 and only blanks after it. Python servers
//!   split lines at a raw CR, so a byte less strict would be a tool call that policy never saw.
//! - No key twice (compared decoded): in the envelope; at any depth of `params`; at any depth of an
//!   answer that goes to the server; in the outer [`ANSWER_LEVELS`] levels of an answer that goes to
//!   the client, which is where policy reads. Parsers differ in which of two members counts.
//! - No key that only case tells from an envelope member, or in `params` and `params.ref` from a
//!   member that policy reads: Go's `encoding/json` and .NET match keys without case.
//! - No half of a surrogate pair in keys, the method, the id, `params.name` and `params.uri`. In
//!   other strings it travels on: JavaScript sends it for a text cut inside an emoji.
//!
//! Left alone: members of the envelope that JSON-RPC does not know (a differential needs two that
//! are alike), U+2028 and U+0085 inside strings (no SDK splits there), and `"params":null`, which
//! counts as absent (some clients write it, every server that accepts it agrees).

use super::cursor::{Cursor, Key, Token};
use super::keys::is_case_variant;
use super::known::{Known, Place};
use super::method::Method;
use super::strings::extremes;
use super::words::Word;
use super::{Direction, Fault, Id, Malformed, json};
use std::borrow::Cow;
use std::ops::Range;

/// How deep keys are unique in `result` and `error` towards the client: the object itself, its
/// members, and the elements of those (`result.tools[0]`, `result.content[0]`).
pub const ANSWER_LEVELS: usize = 3;

/// A JSON value inside a line, kept as the bytes that the peer wrote.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// Offset of the first byte of the value in the line.
    pub start: usize,
    /// The value itself, without surrounding blanks.
    pub text: &'a [u8],
}

impl Raw<'_> {
    /// Where the value lies in the line; a splice replaces exactly this.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

/// A proved message.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// The whole line, without its line end.
    pub line: &'a [u8],
    /// What it is.
    pub kind: Kind<'a>,
    /// Members that many stages read.
    pub(super) known: Known,
}

/// The four things that a JSON-RPC 2.0 message can be.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// Wants exactly one answer.
    Request {
        /// Chosen by the sender.
        id: Id<'a>,
        /// Decoded.
        method: Cow<'a, str>,
        /// An object, when there is one.
        params: Option<Raw<'a>>,
    },
    /// Wants none.
    Notification {
        /// Decoded.
        method: Cow<'a, str>,
        /// An object, when there is one.
        params: Option<Raw<'a>>,
    },
    /// An answer that succeeded.
    Result {
        /// Of the request that it answers.
        id: Id<'a>,
        /// Any value; MCP wants an object.
        result: Raw<'a>,
    },
    /// An answer that failed; some servers leave the id out or write null.
    Error {
        /// Of the request that it answers.
        id: Option<Id<'a>>,
        /// Any value; JSON-RPC wants an object.
        error: Raw<'a>,
    },
}

/// Proves `line` (no LF at its end) and borrows its parts.
///
/// # Errors
/// The first fault that was met, with the id to answer if a lenient scan could read one.
pub fn parse(line: &[u8], direction: Direction) -> Result<Envelope<'_>, Malformed> {
    match prove(line, direction) {
        Ok(envelope) => Ok(envelope),
        Err(fault) => Err(Malformed::new(fault, line)),
    }
}

/// Inline, because an envelope has hundreds of bytes and would be copied from result to result.
#[inline(always)]
fn prove(line: &[u8], direction: Direction) -> Result<Envelope<'_>, Fault> {
    let (lowest, highest) = extremes(line);
    if lowest < 0x20 {
        return Err(Fault::Control);
    }
    if highest > 0x7F && std::str::from_utf8(line).is_err() {
        return Err(Fault::Encoding);
    }
    let mut cursor = Cursor::new(line, 0);
    cursor.blanks();
    match cursor.peek() {
        Some(b'{') => {}
        other => return Err(not_an_object(&mut cursor, other)),
    }
    let mut parts = Parts::default();
    cursor.object(0, |cursor, key| parts.member(cursor, key, direction))?;
    cursor.blanks();
    if cursor.peek().is_some() {
        return Err(Fault::Trailing);
    }
    Ok(Envelope {
        line,
        kind: parts.finish(line)?,
        known: parts.known,
    })
}

/// Tells a batch and a lone value from junk.
#[cold]
fn not_an_object(cursor: &mut Cursor<'_>, first: Option<u8>) -> Fault {
    if let Err(fault) = cursor.value(0, 0) {
        return fault;
    }
    cursor.blanks();
    match (cursor.peek(), first) {
        (Some(_), _) => Fault::Trailing,
        (None, Some(b'[')) => Fault::Batch,
        (None, _) => Fault::NotObject,
    }
}

/// The members of the envelope, as they are met.
#[derive(Debug, Default)]
struct Parts<'a> {
    /// It says `2.0`.
    version: bool,
    id: Place,
    method: Option<Token<'a>>,
    /// There is a method, and it is no string.
    no_text: bool,
    params: Place,
    result: Place,
    error: Place,
    known: Known,
}

impl<'a> Parts<'a> {
    /// Passes the value of one member and keeps where it is.
    #[inline(always)]
    fn member(
        &mut self,
        cursor: &mut Cursor<'a>,
        key: &Key<'a>,
        direction: Direction,
    ) -> Result<(), Fault> {
        let start = cursor.at();
        let answer_levels = match direction {
            Direction::ToServer => usize::MAX,
            Direction::ToClient => ANSWER_LEVELS,
        };
        let slot = match key.word {
            Some(Word::Jsonrpc) => {
                self.version = if cursor.peek() == Some(b'"') {
                    let version = cursor.string()?;
                    version.inner == b"2.0" || json::decode(version).as_deref() == Some("2.0")
                } else {
                    cursor.value(1, 0)?;
                    false
                };
                return Ok(());
            }
            Some(Word::Id) => &mut self.id,
            Some(Word::Method) => {
                if cursor.peek() != Some(b'"') {
                    cursor.value(1, 0)?;
                    self.no_text = true;
                    return Ok(());
                }
                self.method = Some(cursor.string()?);
                return Ok(());
            }
            Some(Word::Params) => {
                cursor.go_on(params(cursor.clone(), &mut self.known)?);
                &mut self.params
            }
            Some(Word::Result) => {
                cursor.go_on(answer(cursor.clone(), answer_levels, &mut self.known)?);
                &mut self.result
            }
            Some(Word::Error) => {
                cursor.value(1, answer_levels)?;
                &mut self.error
            }
            Some(_) => return cursor.value(1, 0),
            None => {
                refuse_variants(key.other, &ENVELOPE)?;
                return cursor.value(1, 0);
            }
        };
        if cursor.at() == start {
            cursor.value(1, 0)?;
        }
        *slot = Place::new(start, cursor.at());
        Ok(())
    }

    #[inline(always)]
    fn finish(&self, line: &'a [u8]) -> Result<Kind<'a>, Fault> {
        if !self.version {
            return Err(Fault::Version);
        }
        if self.no_text {
            return Err(Fault::Method);
        }
        let id = self.id.of_line(line);
        match (
            self.method,
            self.result.of_line(line),
            self.error.of_line(line),
        ) {
            (Some(method), None, None) => Self::asks(method, self.params.of_line(line), id),
            (None, Some(result), None) => {
                let id = Id::read(id.ok_or(Fault::IdMissing)?)?;
                Ok(Kind::Result { id, result })
            }
            (None, None, Some(error)) => {
                let id = id.filter(|id| id.text != b"null");
                let id = id.map(Id::read).transpose()?;
                Ok(Kind::Error { id, error })
            }
            (None, None, None) => Err(Fault::Shapeless),
            _ => Err(Fault::Mixed),
        }
    }

    #[inline(always)]
    fn asks(
        method: Token<'a>,
        params: Option<Raw<'a>>,
        id: Option<Raw<'a>>,
    ) -> Result<Kind<'a>, Fault> {
        if method.lone {
            return Err(Fault::Surrogate);
        }
        let method = match Method::find(method.inner) {
            // An escape is no part of any method's name.
            Some(known) => Cow::Borrowed(known.name),
            None => json::decode(method).ok_or(Fault::Encoding)?,
        };
        let params = params.filter(|params| params.text != b"null");
        if params.is_some_and(|params| params.text.first() != Some(&b'{')) {
            return Err(Fault::Params);
        }
        Ok(match id.map(Id::read).transpose()? {
            Some(id) => Kind::Request { id, method, params },
            None => Kind::Notification { method, params },
        })
    }
}

/// Members of the envelope.
const ENVELOPE: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// Members of `params` that policy, correlation or the era is read from.
const PARAMS: [&str; 9] = [
    "name",
    "arguments",
    "uri",
    "_meta",
    "ref",
    "requestId",
    "progressToken",
    "taskId",
    "protocolVersion",
];

/// Where the value of `params` ends.
fn params<'a>(mut cursor: Cursor<'a>, known: &mut Known) -> Result<usize, Fault> {
    if cursor.peek() != Some(b'{') {
        cursor.value(1, usize::MAX)?;
        return Ok(cursor.at());
    }
    named_members(&mut cursor, 1, |cursor, word| {
        let start = cursor.at();
        match (word, cursor.peek()) {
            (Some(Word::Ref), Some(b'{')) => {
                named_members(cursor, 2, |cursor, word| named_value(cursor, word, 3))?;
            }
            (Some(Word::Meta), Some(b'{')) => {
                noted_members(cursor, 2, usize::MAX, |key, value| known.meta(key, value))?;
            }
            _ => named_value(cursor, word, 2)?,
        }
        if let Some(word) = word {
            known.param(word, Place::new(start, cursor.at()));
        }
        Ok(())
    })?;
    Ok(cursor.at())
}

/// Where the value of `result` ends.
fn answer<'a>(mut cursor: Cursor<'a>, levels: usize, known: &mut Known) -> Result<usize, Fault> {
    if cursor.peek() != Some(b'{') {
        cursor.value(1, levels)?;
        return Ok(cursor.at());
    }
    noted_members(&mut cursor, 1, levels - 1, |key, value| {
        known.answer(key, value);
    })?;
    Ok(cursor.at())
}

/// Passes an object whose members somebody wants to know; keys are unique in it and in `unique`
/// levels below.
#[inline(always)]
fn noted_members<'a>(
    cursor: &mut Cursor<'a>,
    depth: usize,
    unique: usize,
    mut note: impl FnMut(&Key<'a>, Place),
) -> Result<(), Fault> {
    cursor.object(depth, |cursor, key| {
        let start = cursor.at();
        cursor.value(depth + 1, unique)?;
        note(key, Place::new(start, cursor.at()));
        Ok(())
    })
}

/// Passes an object of which policy reads members; `value` gets the word that a key is.
#[inline(always)]
fn named_members<'a>(
    cursor: &mut Cursor<'a>,
    depth: usize,
    mut value: impl FnMut(&mut Cursor<'a>, Option<Word>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    cursor.object(depth, |cursor, key| {
        if key.word.is_none() {
            refuse_variants(key.other, &PARAMS)?;
        }
        value(cursor, key.word)
    })
}

/// Passes the value of a member; what names a target has no half of a surrogate pair.
#[inline(always)]
fn named_value(cursor: &mut Cursor<'_>, word: Option<Word>, depth: usize) -> Result<(), Fault> {
    match word {
        Some(Word::Name | Word::Uri) if cursor.peek() == Some(b'"') => {
            match cursor.string()?.lone {
                true => Err(Fault::Surrogate),
                false => Ok(()),
            }
        }
        _ => cursor.value(depth, usize::MAX),
    }
}

fn refuse_variants(key: Token<'_>, names: &[&str]) -> Result<(), Fault> {
    let key = json::decode(key).ok_or(Fault::Encoding)?;
    if names.iter().any(|name| is_case_variant(&key, name)) {
        return Err(Fault::CaseVariant);
    }
    Ok(())
}
