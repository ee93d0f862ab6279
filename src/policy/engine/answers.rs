//! What a server may say: the stages towards the client, up to the scrubber.

use super::Policy;
use super::words::warning;
use crate::config::Check;
use crate::identity::Caller;
use crate::mcp::{Capability, Raw, Subject, members, method};
use crate::policy::lists::{self, Listing};
use crate::policy::permissions::Target;
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
        caller: Option<&Caller>,
    ) -> Option<&'static str> {
        if let (method::RESOURCE_UPDATED, Some(caller)) = (method, caller) {
            let uri = params.and_then(|params| params.member("uri")?.as_text());
            if let Some(barred) = self
                .permissions
                .bars(caller, Target::Resource, uri.as_deref())
            {
                return Some(barred.rule());
            }
        }
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
    pub(super) fn listing(&self, method: &str, by_caller: bool) -> Option<Listing> {
        let (listing, open) = match method {
            method::TOOLS_LIST => (Listing::TOOLS, self.tools.is_open()),
            method::PROMPTS_LIST => (Listing::PROMPTS, self.prompts.is_open()),
            method::RESOURCES_LIST => (Listing::RESOURCES, self.resources.is_open()),
            method::RESOURCES_TEMPLATES_LIST => (Listing::TEMPLATES, self.resources.is_open()),
            _ => return None,
        };
        (by_caller || !open).then_some(listing)
    }

    /// What is uncallable is also hidden. `None` when the line stays as it is.
    pub(super) fn filter_list(
        &self,
        line: &[u8],
        result: Raw<'_>,
        subject: &Subject,
        caller: Option<&Caller>,
    ) -> Option<Vec<u8>> {
        let listing = self.listing(&subject.method, caller.is_some())?;
        lists::without_hidden(line, result, listing, |name| {
            let (denied, target) = match listing {
                Listing::TOOLS => (self.tools.denies(name), Target::Tool),
                Listing::PROMPTS => (self.prompt_rule(name), Target::Prompt),
                _ => (self.uri_rule(name), Target::Resource),
            };
            denied.is_some()
                || caller.is_some_and(|who| self.permissions.bars(who, target, name).is_some())
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
