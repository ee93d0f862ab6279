//! Credentials that go into the arguments of a call, and why one does not.

use super::Policy;
use super::requests::Arguments;
use crate::mcp::{Capability, Envelope, Raw, Subject};
use crate::policy::inject::Filled;
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
        params: Option<Raw<'_>>,
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
        match self
            .injections
            .fill(envelope.line, params, name, tools.schema(name))
        {
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
}
