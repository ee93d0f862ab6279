//! What policy says of one message.

use super::rules::{code, rule};
use crate::identity::Caller;
use crate::mcp::{Era, Subject};
use std::sync::Arc;

/// The answer of the engine.
#[derive(Debug)]
pub struct Decision {
    /// What happens to the message.
    pub verdict: Verdict,
    /// The rule that decided, when one did: `tools.deny`, `schema.arguments`, `scrub.secrets`…
    /// All of them are in [`RULES`](super::RULES).
    pub rule: Option<&'static str>,
    /// What else is worth a metric or an audit field.
    pub notes: Vec<Note>,
}

impl Decision {
    /// The message goes on as it is, and no rule had anything to say.
    #[must_use]
    pub const fn forward() -> Self {
        Self {
            verdict: Verdict::Forward,
            rule: None,
            notes: Vec::new(),
        }
    }

    /// The sender, or the client, gets this refusal.
    pub(super) fn refuse(refusal: Refusal) -> Self {
        Self {
            rule: Some(refusal.rule),
            verdict: Verdict::Refuse(Box::new(refusal)),
            notes: Vec::new(),
        }
    }

    /// The message waits until the list of tools is known.
    pub(super) fn need_tools(notes: Vec<Note>) -> Self {
        Self {
            verdict: Verdict::NeedTools,
            rule: None,
            notes,
        }
    }

    /// The message ends here and nobody is answered.
    pub(super) fn drop(rule: &'static str) -> Self {
        Self {
            verdict: Verdict::Drop,
            rule: Some(rule),
            notes: Vec::new(),
        }
    }
}

/// What happens to the message.
#[derive(Debug)]
pub enum Verdict {
    /// The original bytes go on.
    Forward,
    /// These bytes go on instead (one line, no LF).
    Rewrite(Vec<u8>),
    /// The sender of a request gets this answer; for an answer from the server, the client gets it.
    Refuse(Box<Refusal>),
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
    /// The answer is the one for what does not exist: no rule, no hint, nothing that tells them apart.
    pub concealed: bool,
    /// Scopes that the request needs, all of them, when the caller lacks some: over HTTP this is a 403.
    pub scopes: Vec<String>,
}

impl Refusal {
    /// A refusal in the shape that `subject` calls for; the operator's hint comes from the table of rules.
    pub(super) fn new(id: &'static str, subject: Option<&Subject>, text: String) -> Self {
        Self {
            rule: id,
            shape: Shape::of(subject),
            text,
            retry_after_ms: None,
            operator_hint: rule(id).map(|rule| rule.setting.to_owned()),
            concealed: false,
            scopes: Vec::new(),
        }
    }

    /// For the header `Retry-After`: whole seconds, rounded up (RFC 9110 §10.2.3).
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after_ms.map(|ms| ms.div_ceil(1000))
    }

    /// Adds what it is about to the operator's hint.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.operator_hint = self
            .operator_hint
            .map(|setting| format!("{setting} (here: {})", printable(what)));
        self
    }
}

/// The wire shape of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A `tools/call` result with `isError: true`.
    ToolResult,
    /// A JSON-RPC error with this code.
    Error(i32),
}

impl Shape {
    /// Only `tools/call` has a result that can say no; everything else gets a JSON-RPC error.
    pub(super) fn of(subject: Option<&Subject>) -> Self {
        match subject {
            Some(subject) if &*subject.method == "tools/call" => Self::ToolResult,
            _ => Self::Error(code::POLICY),
        }
    }
}

/// Something that did not stop the message but is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A detector removed (or flagged) something, this many times.
    Redacted { detector: &'static str, count: u32 },
    /// The credential of the call is at fault, in the words of this entry of `policy/problems.toml`;
    /// `invalid`: it is not accepted at all.
    Credential {
        problem: &'static str,
        invalid: bool,
    },
    /// A check failed that only warns, or could not be made.
    Warned { rule: &'static str, text: String },
}

/// What is remembered of a request until its answer comes.
#[derive(Debug, Clone)]
pub struct Origin {
    /// What it was about.
    pub subject: Subject,
    /// The era that it was asked in.
    pub era: Era,
    /// Who asked; `None` on stdin and stdout.
    pub caller: Option<Arc<Caller>>,
}

/// Characters of what a peer wrote that go into a hint. Whoever shows it cuts it shorter, when the
/// scrubber has seen it: half a credential is not found.
const QUOTED: usize = 4096;

/// A name or URI of a peer, escaped.
fn printable(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(QUOTED)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(QUOTED).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_bounded_and_escaped() {
        let refusal = Refusal::new(super::super::rules::TOOLS_DENY, None, String::new())
            .about(&format!("\u{1b}[31m{}", "x".repeat(QUOTED)));
        let hint = refusal.operator_hint.unwrap_or_default();
        assert!(hint.contains("\\u{1b}[31mxxx"), "{hint}");
        assert!(hint.ends_with("…)"));
        assert!(hint.len() < QUOTED + 100);
    }
}
