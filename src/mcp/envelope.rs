//! One line of JSON-RPC, proved and borrowed: who it is for and where its parts lie.

use super::{Direction, Id, Malformed};
use std::borrow::Cow;
use std::ops::Range;

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
}

/// The four things that a JSON-RPC 2.0 message can be.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// Wants exactly one answer.
    Request {
        id: Id<'a>,
        method: Cow<'a, str>,
        params: Option<Raw<'a>>,
    },
    /// Wants none.
    Notification {
        method: Cow<'a, str>,
        params: Option<Raw<'a>>,
    },
    /// An answer that succeeded.
    Result { id: Id<'a>, result: Raw<'a> },
    /// An answer that failed; some servers leave the id out.
    Error { id: Option<Id<'a>>, error: Raw<'a> },
}

/// Proves `line` (no LF at its end) and borrows its parts.
pub fn parse(line: &[u8], direction: Direction) -> Result<Envelope<'_>, Malformed> {
    let _ = (line, direction);
    todo!()
}
