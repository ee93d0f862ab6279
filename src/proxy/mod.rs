//! Joins two byte streams through policy. Nothing here reads or writes a descriptor or asks the time:
//! the event loop hands in lines and the hour, and carries out what comes back.

mod address;
mod asks;
mod books;
mod cancel;
mod exchange;
#[cfg(test)]
mod guard_tests;
mod guarding;
mod handshake;
mod listing;
mod open;
mod pending;
mod pipeline;
mod pulse;
mod reply;
mod revival;
mod session;
mod shown;
#[cfg(test)]
mod tests;
mod turns;
mod upstream;

pub use address::{Address, To};
pub use exchange::{Duplicate, Exchange, Exchanges, Late, NOBODY, Party};
pub use open::OpenCall;
pub use session::{Outbox, Passage, Session};
pub use upstream::{Trouble, answer_for, pass_error};
