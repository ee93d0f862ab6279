//! Why a line is not a message, and the JSON-RPC code that says so.

use super::oversize::IdScan;
use super::{MAX_DEPTH, MAX_ID_BYTES, RequestId};

/// What is wrong with a line, or with the body of a POST: one variant for each reason, one sentence for
/// each variant, that is true of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// Not UTF-8 (overlong forms and encoded surrogates included).
    #[error("the message is not valid UTF-8")]
    Encoding,
    /// A byte below 0x20. Some servers split lines at a raw CR, so one message could become three.
    #[error(
        "the message holds a raw control byte, which JSON forbids in strings and framing forbids elsewhere"
    )]
    Control,
    /// Not JSON by the grammar of RFC 8259.
    #[error("the message is not JSON")]
    Syntax,
    /// `NaN`, `Infinity`, `+1`, `01`, `0x1`, `.5`, `1.`
    #[error("the message holds a number that JSON does not know")]
    Number,
    /// A second value, or junk, after the first.
    #[error("there is more than one JSON value")]
    Trailing,
    /// More than [`MAX_DEPTH`] objects and arrays inside each other.
    #[error("the message is nested deeper than {MAX_DEPTH} levels")]
    Depth,
    /// A JSON-RPC batch. Only 2025-03-26 had them, and no server in use answers one.
    #[error("batches are not supported; send each message on its own")]
    Batch,
    /// JSON, but neither an object nor an array.
    #[error("the message is not an object")]
    NotObject,
    /// Two members of one object have the same decoded key: parsers differ in which one counts.
    #[error("an object of the message holds the same key twice")]
    DuplicateKey,
    /// A key that only case tells from one that is read: some parsers ignore case.
    #[error("a key of the message differs from a known one only by case")]
    CaseVariant,
    /// Half a surrogate pair in a key, the method, the id, `params.name` or `params.uri`.
    #[error("a name in the message holds half a surrogate pair")]
    Surrogate,
    /// `jsonrpc` is missing or not `"2.0"`.
    #[error("the member \"jsonrpc\" must be \"2.0\"")]
    Version,
    /// The id is not an integer or a string.
    #[error("the id must be a string or an integer")]
    IdForm,
    /// The id is longer than [`MAX_ID_BYTES`].
    #[error("the id is longer than {MAX_ID_BYTES} bytes")]
    IdLength,
    /// An answer without an id.
    #[error("the answer has no id")]
    IdMissing,
    /// `method` is not a string.
    #[error("the method must be a string")]
    Method,
    /// `params` is not an object.
    #[error("the params must be an object")]
    Params,
    /// A request that also has a result or an error, or an answer that has both.
    #[error("the message is a request and an answer, or two answers, at once")]
    Mixed,
    /// Neither `method`, nor `result`, nor `error`.
    #[error("the message has neither a method, nor a result, nor an error")]
    Shapeless,
}

impl Fault {
    /// The JSON-RPC 2.0 code (section 5.1): -32700 when the line is not JSON, else -32600.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Encoding | Self::Control | Self::Syntax | Self::Number | Self::Trailing => -32700,
            _ => -32600,
        }
    }
}

/// A line that is refused, with the id to answer when it was readable.
///
/// The id comes from a lenient scan of a line that did not prove itself. Whoever answers it must
/// first see that no open request has it, or that request would get two answers.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{fault}")]
pub struct Malformed {
    /// What is wrong.
    pub fault: Fault,
    /// The id, raw token and key, when exactly one could be read.
    pub id: Option<(Box<[u8]>, RequestId)>,
    /// True when the line looked like a request or notification: it had a top-level `method`.
    pub request: bool,
}

impl Malformed {
    /// Looks for an id in a line that failed.
    pub(super) fn new(fault: Fault, line: &[u8]) -> Self {
        let mut scan = IdScan::default();
        scan.feed(line);
        let (id, request) = scan.into_parts();
        Self { fault, id, request }
    }
}
