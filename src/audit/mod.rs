//! One JSON line for each decision, written so that a crash loses at most a fraction of a second.

mod credential;
mod log;
mod record;

pub use credential::Rotation;
pub use log::{AuditError, FLUSH_AFTER, Log, rotate};
pub use record::{Arguments, Caller, Denial, Notice, Operator, Outbound, Record};
