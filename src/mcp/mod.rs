//! The wire vocabulary of MCP: what a line is, never what may be done with it.
//!
//! Pure: no tokio, no clock, no files. Every type borrows from the line that it describes.

mod envelope;
mod fault;
mod id;
mod json;
mod oversize;
mod subject;
mod version;

pub use envelope::{Envelope, Kind, Raw, parse};
pub use fault::{Fault, Malformed};
pub use id::{Id, RequestId};
pub use json::{Elements, Members, elements, members, text};
pub use oversize::IdScan;
pub use subject::{Capability, Subject};
pub use version::{Era, PROTOCOL_VERSION_KEY};

/// Which way a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}
