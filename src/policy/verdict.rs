//! What policy says of one message.

use crate::mcp::{Era, Subject};

/// The answer of the engine.
#[derive(Debug)]
pub struct Decision {
    /// What happens to the message.
    pub verdict: Verdict,
    /// The rule that decided, when one did: `tools.denied`, `schema.arguments`, `scrub.secrets`…
    pub rule: Option<&'static str>,
    /// What else is worth a metric or an audit field.
    pub notes: Vec<Note>,
}

/// What happens to the message.
#[derive(Debug)]
pub enum Verdict {
    /// The original bytes go on.
    Forward,
    /// These bytes go on instead (one line, no LF).
    Rewrite(Vec<u8>),
    /// The sender of a request gets this answer; for an answer from the server, the client gets it.
    Refuse(Refusal),
    /// Nothing goes on and nobody is answered (notifications, answers to nobody).
    Drop,
    /// The tool list is needed first: list the tools, then ask again.
    NeedTools,
}

/// A refusal, before `proxy::reply` turns it into bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule id, shown to the model and to the operator.
    pub rule: &'static str,
    /// How the answer looks on the wire.
    pub shape: Shape,
    /// One sentence: what happened, and what the caller may do. Never a value, never a setting.
    pub text: String,
    /// When it is worth trying again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// For the operator only (stderr, audit): the setting that would allow it.
    pub operator_hint: Option<String>,
}

/// The wire shape of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A `tools/call` result with `isError: true`.
    ToolResult,
    /// A JSON-RPC error with this code.
    Error(i32),
}

/// Something that did not stop the message but is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A detector removed (or flagged) something, this many times.
    Redacted { detector: &'static str, count: u32 },
    /// A check failed that only warns.
    Warned { rule: &'static str, text: String },
}

/// What is remembered of a request until its answer comes.
#[derive(Debug, Clone)]
pub struct Origin {
    /// What it was about.
    pub subject: Subject,
    /// The era that it was asked in.
    pub era: Era,
}
