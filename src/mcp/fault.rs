//! Why a line is not a message, and the JSON-RPC code that says so.

use super::RequestId;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not UTF-8.
    #[error("the line is not valid UTF-8")]
    Encoding,
}

/// A line that is refused, with the id to answer when it was readable.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// What is wrong.
    pub fault: Fault,
    /// The id, raw token and key, when exactly one could be read.
    pub id: Option<(Box<[u8]>, RequestId)>,
}
