//! Finds the id of a line that is too long to keep, as its bytes stream past.

use super::RequestId;

/// Fed with the pieces of one line; bounded memory whatever the line holds.
#[derive(Debug, Default)]
pub struct IdScan {}

impl IdScan {
    /// Looks at the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let _ = piece;
        todo!()
    }
    /// The top-level id (raw token, key) when the line had exactly one that is legal, and whether
    /// a top-level `method` was seen (a request rather than an answer).
    #[must_use]
    pub fn finish(self) -> Option<OversizeId> {
        todo!()
    }
}

/// What was learnt of an oversize line.
#[derive(Debug)]
pub struct OversizeId {
    /// The raw token, quotes included.
    pub raw: Box<[u8]>,
    /// Its key.
    pub key: RequestId,
    /// True when the line was a request.
    pub request: bool,
}
