//! One JSON line for each decision, written so that a crash loses at most a fraction of a second.

mod log;
mod record;

pub use log::{AuditError, FLUSH_AFTER, Log, rotate};
pub use record::{Arguments, Caller, Denial, Operator, Outbound, Record};
