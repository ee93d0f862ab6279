//! The wire vocabulary of MCP: what a line is, never what may be done with it.
//!
//! Pure: no tokio, no clock, no files. Every type borrows from the line that it describes.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod cursor;
mod envelope;
mod fault;
mod flatten;
mod id;
mod json;
mod keys;
mod known;
pub mod method;
mod oversize;
mod strings;
mod subject;
#[cfg(test)]
mod tests;
mod version;
mod words;

pub use envelope::{ANSWER_LEVELS, Envelope, Kind, Raw, parse};
pub use fault::{Fault, Malformed};
pub use flatten::flatten;
pub use id::{Id, RawId, RequestId};
pub use json::{Elements, Members, elements, members, text};
pub use oversize::{IdScan, OversizeId};
pub use subject::{Capability, Subject, cancelled_request, reported_progress, wanted_progress};
pub use version::{Era, PROTOCOL_VERSION_KEY, Revision};

/// Objects and arrays inside each other, the envelope counted. `serde_json` stops at the same depth,
/// so a message that is proved can also be read by every later stage.
pub const MAX_DEPTH: usize = 127;

/// Length of an id's raw token in bytes. Clients in use stay below 64; Python refuses integers of
/// more than 4300 digits.
pub const MAX_ID_BYTES: usize = 1024;

/// Which way a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}
