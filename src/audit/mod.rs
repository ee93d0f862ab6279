//! One JSON line for each decision, written so that a crash loses at most a fraction of a second.

use crate::mcp::{Direction, Subject};
use std::time::Duration;

/// What one line says. Borrowed: nothing is built unless it is written.
#[derive(Debug)]
pub struct Record<'a> {
    pub direction: Direction,
    /// The request's subject; for an unsolicited message its method.
    pub subject: Option<&'a Subject>,
    /// Raw id token.
    pub id: Option<&'a [u8]>,
    /// `forward`, `rewrite`, `refuse`, `drop`.
    pub decision: &'static str,
    pub rule: Option<&'a str>,
    /// `success`, `tool_error`, `error`, `refused`, `timeout`, `cancelled`, `unavailable`; `None` for notifications.
    pub status: Option<&'static str>,
    pub latency: Option<Duration>,
    pub request_bytes: usize,
    pub response_bytes: usize,
    /// `tools/call` arguments, raw; written as digest or redacted, as configured.
    pub arguments: Option<&'a [u8]>,
}
