//! What a client may ask for: the stages towards the server.

use super::Policy;
use super::words::{refuse_method, refuse_target, warning};
use crate::config::Check;
use crate::mcp::{Capability, Era, Raw, Subject, elements, members, method, text};
use crate::policy::names::fold;
use crate::policy::permissions::Target;
use crate::policy::rules::{SCHEMA_ARGUMENTS, SCHEMA_UNUSABLE};
use crate::policy::schema::{Unusable, check};
use crate::policy::toolbook::{Checker, Input};
use crate::policy::{Note, Refusal, ToolBook, asks};

/// How a modern request asks for log messages; the same as `logging/setLevel`.
const LOG_LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";

/// What the argument check says.
pub(super) enum Arguments {
    Pass,
    Refuse(Refusal),
    NeedTools,
}

impl Policy {
    pub(super) fn check_method(&self, subject: &Subject) -> Option<Refusal> {
        let rule = if subject.capability == Capability::Tool {
            self.denied.call
        } else {
            self.method_rule(&subject.method)
        }?;
        Some(refuse_method(rule, Some(subject), &subject.method))
    }

    /// The tool, resource or prompt that a request names.
    pub(super) fn check_target(&self, subject: &Subject) -> Option<Refusal> {
        let name = subject.name.as_deref();
        let rule = match subject.capability {
            Capability::Tool => self.tools.denies(name),
            Capability::Resource => self.uri_rule(name),
            Capability::Prompt => self.prompt_rule(name),
            Capability::Method => None,
        }?;
        Some(refuse_target(
            rule,
            Some(subject),
            name.unwrap_or("no readable name"),
        ))
    }

    /// Other methods and members with the effect of a denied one.
    pub(super) fn check_other_ways(
        &self,
        subject: &Subject,
        params: Option<Raw<'_>>,
        era: Era,
    ) -> Option<Refusal> {
        let params = params?;
        if let Some(rule) = self.denied.log_level
            && era == Era::Modern
            && params
                .member("_meta")
                .is_some_and(|meta| meta.member(LOG_LEVEL_KEY).is_some())
        {
            return Some(refuse_method(rule, Some(subject), LOG_LEVEL_KEY));
        }
        // Only a modern request can answer a question of the server.
        if self.denied.asking
            && era == Era::Modern
            && let Some(rule) = asks::denied_answer(params, |method| self.method_rule(method))
        {
            return Some(refuse_method(rule, Some(subject), "inputResponses"));
        }
        if let Some(rule) = self.denied.subscribe
            && watches_resources(subject, params)
        {
            let method = method::RESOURCES_SUBSCRIBE;
            return Some(refuse_method(rule, Some(subject), method));
        }
        other_targets(subject, params, &|target, name| {
            let rule = match target {
                Target::Tool => self.tools.denies(name),
                Target::Resource => self.uri_rule(name),
                Target::Prompt => self.prompt_rule(name),
                Target::Other => None,
            }?;
            Some(refuse_target(rule, Some(subject), name.unwrap_or_default()))
        })
    }

    /// The arguments of a tool call against the schema that the tool advertises.
    pub(super) fn check_arguments(
        &self,
        subject: &Subject,
        arguments: Option<Raw<'_>>,
        tools: &mut ToolBook,
        notes: &mut Vec<Note>,
    ) -> Arguments {
        let (Capability::Tool, Some(name)) = (subject.capability, subject.name.as_deref()) else {
            return Arguments::Pass;
        };
        let mode = self
            .tools
            .setting(name, |rule| rule.arguments)
            .unwrap_or(self.schema.arguments);
        if mode == Check::Off {
            return Arguments::Pass;
        }
        let checker = match tools.input(name) {
            Input::Known(checker) => checker,
            // The server will say that it is unknown, in its own words.
            Input::Absent => return Arguments::Pass,
            Input::Unlisted => return Arguments::NeedTools,
            Input::Unlistable => {
                notes.push(warning(
                    SCHEMA_UNUSABLE,
                    "the server does not list its tools".to_owned(),
                ));
                return Arguments::Pass;
            }
        };
        let outcome = match checker {
            Checker::None => return Arguments::Pass,
            Checker::Unusable(why) if why == Unusable::Remote && mode == Check::Refuse => {
                let text = format!(
                    "This tool cannot be called: {why} (rule {SCHEMA_UNUSABLE}); calling it again will not help, the operator decides."
                );
                return Arguments::Refuse(
                    Refusal::new(SCHEMA_UNUSABLE, Some(subject), text).about(name),
                );
            }
            Checker::Unusable(why) => {
                notes.push(warning(
                    SCHEMA_UNUSABLE,
                    format!("a tool is called unchecked: {why}"),
                ));
                return Arguments::Pass;
            }
            Checker::Schema {
                validator,
                depth,
                shortcut,
                raw,
            } => {
                // Absent and `null` mean no arguments, as in the SDKs of Python.
                let arguments = arguments.map_or(&b"{}"[..], |arguments| match arguments.text {
                    b"null" => b"{}",
                    given => given,
                });
                if shortcut.is_some_and(|flat| flat.accepts(arguments)) {
                    return Arguments::Pass;
                }
                check(validator, depth, raw, arguments)
            }
        };
        match outcome {
            Ok(()) => Arguments::Pass,
            Err(reason) if mode == Check::Warn => {
                notes.push(warning(SCHEMA_ARGUMENTS, self.explained(&reason)));
                Arguments::Pass
            }
            Err(reason) => {
                if let Some(refusal) = self.refuse_misfit(subject, name, &reason.path) {
                    return Arguments::Refuse(refusal);
                }
                let text = format!(
                    "The arguments do not match the tool's input schema: {} (rule {SCHEMA_ARGUMENTS}); correct them and call again.",
                    self.explained(&reason)
                );
                Arguments::Refuse(Refusal::new(SCHEMA_ARGUMENTS, Some(subject), text).about(name))
            }
        }
    }
}

/// Says no to what a request names.
pub(super) type Judge<'j> = dyn Fn(Target, Option<&str>) -> Option<Refusal> + 'j;

/// What a request names elsewhere than its subject does: the first of it that `judge` says no to.
pub(super) fn other_targets(
    subject: &Subject,
    params: Raw<'_>,
    judge: &Judge<'_>,
) -> Option<Refusal> {
    if subject.capability == Capability::Tool {
        return None;
    }
    match &*subject.method {
        method::RESOURCES_READ | method::PROMPTS_GET => None,
        method::COMPLETION_COMPLETE => judge_reference(params, judge),
        method::SUBSCRIPTIONS_LISTEN => {
            watched(params).find_map(|uri| judge(Target::Resource, text(uri.text).as_deref()))
        }
        other if method::Method::find(other.as_bytes()).is_none() => {
            judge_unknown(subject, params, judge)
        }
        _ => None,
    }
}

/// `completion/complete` looks into the prompt or resource that `ref` names.
fn judge_reference(params: Raw<'_>, judge: &Judge<'_>) -> Option<Refusal> {
    let reference = params.member("ref")?;
    members(reference.text).find_map(|(key, value)| {
        let name = text(value.text);
        match &*key {
            "name" => judge(Target::Prompt, name.as_deref()),
            "uri" => judge(Target::Resource, name.as_deref()),
            _ => None,
        }
    })
}

/// `subscriptions/listen` replaces `resources/subscribe` in the modern era.
fn watches_resources(subject: &Subject, params: Raw<'_>) -> bool {
    &*subject.method == method::SUBSCRIPTIONS_LISTEN && watched(params).next().is_some()
}

/// The resources that a `subscriptions/listen` watches.
fn watched(params: Raw<'_>) -> impl Iterator<Item = Raw<'_>> {
    members(params.text)
        .filter(|(key, _)| key.eq_ignore_ascii_case("notifications"))
        .flat_map(|(_, filter)| members(filter.text))
        .filter(|(key, _)| key.eq_ignore_ascii_case("resourceSubscriptions"))
        .flat_map(|(_, watched)| elements(watched.text))
}

/// A method that no revision has, in a namespace that has rules: whatever it does, it does it to what
/// it names.
fn judge_unknown(subject: &Subject, params: Raw<'_>, judge: &Judge<'_>) -> Option<Refusal> {
    let folded = fold(&subject.method);
    let (namespace, _) = folded.split_once('/')?;
    members(params.text).find_map(|(key, value)| {
        let name = text(value.text);
        let target = match (namespace, key.to_ascii_lowercase().as_str()) {
            ("tools", "name" | "tool" | "toolname") => Target::Tool,
            ("resources", "uri" | "uritemplate") => Target::Resource,
            ("prompts", "name" | "prompt") => Target::Prompt,
            _ => return None,
        };
        judge(target, name.as_deref())
    })
}
