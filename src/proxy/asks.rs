//! The server's own requests to the client (roots, sampling, elicitation, ping) that are open.
//!
//! Ids of the two directions share no space: a server may use 1 for `roots/list` while the client's 1
//! is open, so this is a table of its own.

use crate::mcp::RequestId;
use foldhash::HashSet;

/// Open requests of one server; more are refused.
const OPEN: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Asks {
    open: HashSet<RequestId>,
}

impl Asks {
    /// Notes a request; false when it cannot be kept: the id is open, or there are too many.
    pub(super) fn open(&mut self, id: RequestId) -> bool {
        self.open.len() < OPEN && self.open.insert(id)
    }

    /// Takes the request that the client's answer closes; false when there is none.
    pub(super) fn close(&mut self, id: &RequestId) -> bool {
        self.open.remove(id)
    }

    /// True while the server waits for the client, so that the client's calls wait for a person.
    pub(super) fn any(&self) -> bool {
        !self.open.is_empty()
    }
}
