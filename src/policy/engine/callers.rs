//! What this caller may ask for: the stage that only network clients meet.

#[cfg(test)]
#[path = "callers_tests.rs"]
mod tests;

use super::requests::{Arguments, other_targets};
use super::{Policy, ToolBook};
use crate::identity::Caller;
use crate::mcp::{Capability, Raw, Subject};
use crate::policy::permissions::{Barred, Target};
use crate::policy::rules::{CLIENTS_TOOLS, SCOPES_MISSING};
use crate::policy::{Refusal, Shape};

/// JSON-RPC: invalid params. What SDKs answer for a tool, prompt or (since 2026-07-28) resource that
/// there is not.
const INVALID_PARAMS: i32 = -32602;

impl Policy {
    /// True when somebody could be barred from something.
    #[must_use]
    pub fn tells_callers_apart(&self) -> bool {
        !self.permissions.is_open()
    }

    /// The refusal, with all scopes that a request needs, when `caller` lacks some: the listener then
    /// answers 403 before anything else is asked ([`crate::identity::Challenges::insufficient_scope`]).
    #[must_use]
    pub fn missing_scopes(
        &self,
        subject: &Subject,
        params: Option<Raw<'_>>,
        caller: &Caller,
    ) -> Option<Refusal> {
        let refusal = self.barred(subject, params, caller)?;
        (!refusal.scopes.is_empty()).then_some(refusal)
    }

    /// Whether the caller may ask for this. What is hidden from it and what never was take the same way:
    /// both wait for the list of tools, and both are answered by us in the same words.
    pub(super) fn check_caller(
        &self,
        subject: &Subject,
        params: Option<Raw<'_>>,
        caller: &Caller,
        tools: &ToolBook,
    ) -> Arguments {
        if self.permissions.is_open() {
            return Arguments::Pass;
        }
        let refused = self.barred(subject, params, caller);
        let hides =
            || subject.capability == Capability::Tool && self.permissions.may_hide_tools(caller);
        match refused {
            Some(refusal) if !refusal.concealed => Arguments::Refuse(refusal),
            _ if hides() && tools.wants_list() => Arguments::NeedTools,
            Some(refusal) => Arguments::Refuse(refusal),
            None => match subject.name.as_deref() {
                Some(name) if hides() && tools.is_listed() && !tools.knows(name) => {
                    Arguments::Refuse(unknown(CLIENTS_TOOLS, Target::Tool, Some(name)))
                }
                _ => Arguments::Pass,
            },
        }
    }

    fn barred(
        &self,
        subject: &Subject,
        params: Option<Raw<'_>>,
        caller: &Caller,
    ) -> Option<Refusal> {
        let judge = |target, name: Option<&str>| {
            let barred = self.permissions.bars(caller, target, name)?;
            Some(match barred {
                Barred::Hidden(rule) => unknown(rule, target, name),
                Barred::Scopes(needed) => lacking(subject, &needed, name),
            })
        };
        let target = match subject.capability {
            Capability::Tool => Target::Tool,
            Capability::Resource => Target::Resource,
            Capability::Prompt => Target::Prompt,
            Capability::Method => Target::Other,
        };
        judge(target, subject.name.as_deref()).or_else(|| other_targets(subject, params?, &judge))
    }
}

/// The words for what there is not, or not for this caller.
fn unknown(rule: &'static str, target: Target, name: Option<&str>) -> Refusal {
    /// The peer's own name, of which it needs no more.
    const MOST: usize = 256;
    let name = name.unwrap_or_default();
    let shown: String = name.chars().take(MOST).collect();
    let text = match target {
        Target::Tool => format!("Unknown tool: {shown}"),
        Target::Prompt => format!("Unknown prompt: {shown}"),
        Target::Resource | Target::Other => format!("Resource not found: {shown}"),
    };
    Refusal {
        shape: Shape::Error(INVALID_PARAMS),
        concealed: true,
        ..Refusal::new(rule, None, text).about(name)
    }
}

fn lacking(subject: &Subject, needed: &[&str], name: Option<&str>) -> Refusal {
    let text = format!(
        "This needs the scopes `{}`, and the caller lacks some of them (rule {SCOPES_MISSING}); ask for them and call again.",
        needed.join(" ")
    );
    Refusal {
        scopes: needed.iter().map(|scope| (*scope).to_owned()).collect(),
        ..Refusal::new(SCOPES_MISSING, Some(subject), text).about(name.unwrap_or(&subject.method))
    }
}
