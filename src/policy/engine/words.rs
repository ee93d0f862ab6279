//! The words of refusals. They name the rule and what the caller may do: never a value, never a setting.

use super::Policy;
use crate::mcp::Subject;
use crate::policy::schema::Reason;
use crate::policy::{Note, Refusal};

impl Policy {
    /// A reason in words; should a name in it look like a credential, it is left out.
    pub(super) fn explained(&self, reason: &Reason) -> String {
        let Reason { path, expected } = reason;
        let place = if path.is_empty() {
            "the top level"
        } else {
            path
        };
        let text = format!("{place} must be or have {expected}");
        let mut found = Vec::new();
        self.scrubber.text(text.as_bytes(), &mut found);
        if found.is_empty() {
            text
        } else {
            "a value is not as expected".to_owned()
        }
    }
}

pub(super) fn refuse_method(
    rule: &'static str,
    subject: Option<&Subject>,
    method: &str,
) -> Refusal {
    let text = format!(
        "This method is not available here (rule {rule}); asking again will not help, the operator decides what may be used."
    );
    Refusal::new(rule, subject, text).about(method)
}

pub(super) fn refuse_target(rule: &'static str, subject: Option<&Subject>, name: &str) -> Refusal {
    let kind = match rule.split('.').next() {
        Some("tools") => "tool",
        Some("prompts") => "prompt",
        _ => "resource",
    };
    let text = format!(
        "This {kind} is not available here (rule {rule}); asking again will not help, use another one or ask the operator."
    );
    Refusal::new(rule, subject, text).about(name)
}

pub(super) fn refuse_question(rule: &'static str, subject: Option<&Subject>) -> Refusal {
    let text = format!(
        "The server asked for something that it may not ask for here (rule {rule}), so its answer was withheld; asking again will not help, the operator decides."
    );
    Refusal::new(rule, subject, text).about("a question of the server")
}

pub(super) fn warning(rule: &'static str, text: String) -> Note {
    Note::Warned { rule, text }
}
