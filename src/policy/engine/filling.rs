//! Credentials that go into the arguments of a call, and why one does not.

use super::Policy;
use super::requests::Arguments;
use crate::identity::Caller;
use crate::mcp::{Capability, Envelope, Raw, Subject};
use crate::policy::inject::Filled;
use crate::policy::problems::{Problem, problem};
use crate::policy::rules::{CREDENTIALS_ARGUMENT, CREDENTIALS_MISSING};
use crate::policy::{Refusal, ToolBook};
use std::ops::Range;
use zeroize::Zeroizing;

/// A call with its credentials.
pub(super) struct Call {
    line: Zeroizing<Vec<u8>>,
    arguments: Range<usize>,
}

impl Call {
    pub(super) fn arguments(&self) -> Raw<'_> {
        let Range { start, .. } = self.arguments;
        let text = self.line.get(self.arguments.clone()).unwrap_or_default();
        Raw { start, text }
    }

    pub(super) fn into_line(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.line)
    }
}

impl Policy {
    /// The call with what the operator fills in; `Ok(None)` when that is nothing.
    pub(super) fn fill_arguments(
        &self,
        envelope: &Envelope<'_>,
        subject: &Subject,
        (params, caller): (Option<Raw<'_>>, Option<&Caller>),
        tools: &ToolBook,
    ) -> Result<Option<Call>, Arguments> {
        let (Capability::Tool, Some(name), Some(params)) =
            (subject.capability, subject.name.as_deref(), params)
        else {
            return Ok(None);
        };
        if self.injections.is_empty() {
            return Ok(None);
        }
        let refuse = |rule, text| {
            let refusal = Refusal::new(rule, Some(subject), text).about(name);
            Err(Arguments::Refuse(refusal))
        };
        let tenant = caller.and_then(|caller| caller.tenant.as_deref());
        let (whose, listed) = ((name, tenant), tools.schema(name));
        match self.injections.fill(envelope.line, params, whose, listed) {
            Filled::Unchanged => Ok(None),
            Filled::NeedTools => Err(Arguments::NeedTools),
            Filled::Line(line, arguments) => Ok(Some(Call {
                line: Zeroizing::new(line),
                arguments,
            })),
            Filled::Taken(place) => {
                let text = format!(
                    "The argument {place} is filled in by the operator (rule {CREDENTIALS_ARGUMENT}); leave it out and call again."
                );
                refuse(CREDENTIALS_ARGUMENT, text)
            }
            Filled::Blocked(place) => {
                let text = format!(
                    "The argument {place} is filled in by the operator, and what you sent leaves no room for it (rule {CREDENTIALS_ARGUMENT}); every part of that path must be an object or absent."
                );
                refuse(CREDENTIALS_ARGUMENT, text)
            }
            Filled::Missing(credential) => {
                let text = format!(
                    "Credential problem: there is none to make this call with, so it was not made (rule {CREDENTIALS_MISSING}). The arguments are fine; do not retry, the operator has to act."
                );
                let refusal = Refusal::new(CREDENTIALS_MISSING, Some(subject), text);
                Err(Arguments::Refuse(refusal.about(&credential)))
            }
        }
    }

    /// In the place of a complaint about an argument that the client cannot see.
    pub(super) fn refuse_misfit(
        &self,
        subject: &Subject,
        name: &str,
        path: &str,
    ) -> Option<Refusal> {
        if self.injections.is_empty() || !self.injections.at(name, path) {
            return None;
        }
        let text = format!(
            "Credential problem: the tool does not take the one that the operator has for it, so the call was not made (rule {CREDENTIALS_MISSING}). The arguments are fine; do not retry, the operator has to act."
        );
        Some(Refusal::new(CREDENTIALS_MISSING, Some(subject), text).about(name))
    }

    /// What a failed call says of the server's credential; only where it has one from here.
    pub(super) fn problem(&self, envelope: &Envelope<'_>, subject: &Subject) -> Option<Problem> {
        if self.credentials.is_empty() || subject.capability != Capability::Tool {
            return None;
        }
        problem(envelope)
    }

    /// The credential that a tool works with, as far as that is clear: its argument, or the only one.
    #[must_use]
    pub fn credential_of(&self, tool: &str) -> &str {
        match (self.injections.names(tool).next(), &*self.credentials) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, _) => "_several",
        }
    }
}
