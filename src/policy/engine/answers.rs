//! What a server may say: the stages towards the client, up to the scrubber.

use super::Policy;
use super::words::warning;
use crate::config::Check;
use crate::mcp::{Capability, Raw, Subject, members, method};
use crate::policy::lists::{self, Listing};
use crate::policy::rules::{SCHEMA_OUTPUT, SCHEMA_UNUSABLE};
use crate::policy::schema::check;
use crate::policy::toolbook::Checker;
use crate::policy::{Note, Refusal, ToolBook, asks};

impl Policy {
    /// Notifications of the server about something that the client may not see.
    pub(super) fn check_notification(
        &self,
        method: &str,
        params: Option<Raw<'_>>,
    ) -> Option<&'static str> {
        match method {
            method::RESOURCE_UPDATED if !self.resources.is_open() => {
                let uri = params.and_then(|params| params.member("uri")?.as_text());
                self.uri_rule(uri.as_deref())
            }
            method::TASK_NOTICE | method::TASK_STATUS if self.denied.asking => {
                asks::denied_question(params?, |method| self.method_rule(method))
            }
            _ => None,
        }
    }

    /// The list that a method answers with, when a rule can hide something in it.
    pub(super) fn listing(&self, method: &str) -> Option<Listing> {
        match method {
            method::TOOLS_LIST if !self.tools.is_open() => Some(Listing::TOOLS),
            method::PROMPTS_LIST if !self.prompts.is_open() => Some(Listing::PROMPTS),
            method::RESOURCES_LIST if !self.resources.is_open() => Some(Listing::RESOURCES),
            method::RESOURCES_TEMPLATES_LIST if !self.resources.is_open() => {
                Some(Listing::TEMPLATES)
            }
            _ => None,
        }
    }

    /// What is uncallable is also hidden. `None` when the line stays as it is.
    pub(super) fn filter_list(
        &self,
        line: &[u8],
        result: Raw<'_>,
        subject: &Subject,
    ) -> Option<Vec<u8>> {
        let listing = self.listing(&subject.method)?;
        lists::without_hidden(line, result, listing, |name| match listing {
            Listing::TOOLS => self.tools.denies(name).is_some(),
            Listing::PROMPTS => self.prompt_rule(name).is_some(),
            _ => self.uri_rule(name).is_some(),
        })
    }

    pub(super) fn output_check(&self, name: &str) -> Check {
        self.tools
            .setting(name, |rule| rule.output)
            .unwrap_or(self.schema.output)
    }

    /// `structuredContent` of a result that succeeded, against the tool's output schema.
    pub(super) fn check_output(
        &self,
        subject: &Subject,
        result: Raw<'_>,
        tools: &mut ToolBook,
        notes: &mut Vec<Note>,
    ) -> Option<Refusal> {
        let (Capability::Tool, Some(name)) = (subject.capability, subject.name.as_deref()) else {
            return None;
        };
        let mode = self.output_check(name);
        if mode == Check::Off {
            return None;
        }
        let checker = tools.output(name);
        if matches!(checker, Checker::None) {
            return None;
        }
        let mut content = None;
        for (key, value) in members(result.text) {
            match &*key {
                "structuredContent" => content = Some(value.text),
                "isError" if value.text == b"true" => return None,
                "resultType" if value.text != br#""complete""# => return None,
                _ => {}
            }
        }
        let reason = match checker {
            Checker::None => return None,
            Checker::Unusable(why) => {
                notes.push(warning(
                    SCHEMA_UNUSABLE,
                    format!("a result is passed on unchecked: {why}"),
                ));
                return None;
            }
            Checker::Schema {
                validator,
                depth,
                raw,
                ..
            } => check(validator, depth, raw, content?).err()?,
        };
        if mode == Check::Warn {
            notes.push(warning(SCHEMA_OUTPUT, self.explained(&reason)));
            return None;
        }
        let text = format!(
            "The tool answered with content that does not match its own output schema, so it was withheld: {} (rule {SCHEMA_OUTPUT}); the tool did run, so check before calling it again.",
            self.explained(&reason)
        );
        Some(Refusal::new(SCHEMA_OUTPUT, Some(subject), text).about(name))
    }
}
