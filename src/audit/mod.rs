//! One JSON line for each decision, written so that a crash loses at most a fraction of a second.

mod credential;
mod journal;
mod log;
mod record;

pub use credential::Rotation;
pub use journal::{Begun, Journal, Left, Unfinished};
pub use log::{AuditError, FLUSH_AFTER, Log, rotate};
pub use record::{Arguments, Caller, Denial, Notice, Operator, Outbound, Record};
