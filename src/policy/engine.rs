//! The stages of a decision, in order. [`Policy::client`] and [`Policy::server`] read top to bottom.

mod answers;
mod callers;
mod denials;
mod filling;
mod requests;
#[cfg(test)]
mod tests;
mod words;

use self::denials::method_rule;
use self::requests::Arguments;
use self::words::{refuse_method, refuse_question};
use super::inject::Injections;
use super::lists;
use super::names::NameList;
use super::permissions::Permissions;
use super::problems;
use super::rules::{
    CREDENTIALS_ARGUMENT, CREDENTIALS_PROBLEM, LISTS_HIDDEN, LISTS_PRIVATE, PROTOCOL_NO_ID,
};
use super::tools::ToolRules;
use super::uris::UriList;
use super::{Decision, Note, Origin, ToolBook, Verdict, asks, digest, outbound, scrub::Scrubber};
use crate::config::{Config, Effect, Limits, SchemaChecks, SecretsMode};
use crate::identity::Caller;
use crate::mcp::{Capability, Envelope, Era, Kind, Subject, method};
use crate::secret::Secret;
use std::time::Duration;

/// The immutable policy of one configuration; swapped whole on reload.
#[derive(Debug)]
pub struct Policy {
    methods: NameList,
    tools: ToolRules,
    resources: UriList,
    prompts: NameList,
    schema: SchemaChecks,
    secrets: SecretsMode,
    /// Asked only where there is a caller.
    permissions: Permissions,
    limits: Limits,
    /// Credentials that are arguments, with the values in force.
    injections: Injections,
    /// The names of all credentials.
    credentials: Box<[Box<str>]>,
    scrubber: Scrubber,
    digest: String,
    /// Asked once here, so that no message pays for a rule that is not there.
    denied: DeniedWays,
}

/// Methods that can also be reached by another way, and whether that way must be watched.
#[derive(Debug)]
struct DeniedWays {
    /// One of the server's questions is denied, so results have to be searched for questions.
    asking: bool,
    elicitation: Option<&'static str>,
    log_level: Option<&'static str>,
    subscribe: Option<&'static str>,
    /// `tools/call` itself, asked far more often than all others together.
    call: Option<&'static str>,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Silence that ends it; progress resets this one.
    pub idle: Duration,
    /// The whole time that it may take.
    pub hard: Duration,
}

/// Methods that only read, or set what a second time sets the same. `initialize` is one: a server
/// that died before it answered has opened nothing.
const REPEATABLE: [&str; 14] = [
    method::INITIALIZE,
    method::SERVER_DISCOVER,
    method::PING,
    method::TOOLS_LIST,
    method::PROMPTS_LIST,
    method::PROMPTS_GET,
    method::RESOURCES_LIST,
    method::RESOURCES_TEMPLATES_LIST,
    method::RESOURCES_READ,
    method::RESOURCES_SUBSCRIBE,
    method::RESOURCES_UNSUBSCRIBE,
    method::SUBSCRIPTIONS_LISTEN,
    method::COMPLETION_COMPLETE,
    method::LOGGING_SET_LEVEL,
];

impl Policy {
    /// Builds the engine; everything that can fail has failed in `config` already.
    #[must_use]
    pub fn new(config: &Config, scrubber: Scrubber) -> Self {
        let methods = NameList::new(&config.methods);
        let denied = DeniedWays {
            asking: asks::ASKING
                .iter()
                .any(|method| method_rule(&methods, method).is_some()),
            elicitation: method_rule(&methods, method::ELICITATION_CREATE),
            log_level: method_rule(&methods, method::LOGGING_SET_LEVEL),
            subscribe: method_rule(&methods, method::RESOURCES_SUBSCRIBE),
            call: method_rule(&methods, method::TOOLS_CALL),
        };
        Self {
            methods,
            tools: ToolRules::new(&config.tools),
            resources: UriList::new(&config.resources),
            prompts: NameList::new(&config.prompts),
            schema: config.schema,
            secrets: config.scrub,
            permissions: Permissions::new(config),
            limits: config.limits.clone(),
            injections: Injections::new(&config.credentials, &[]),
            credentials: config
                .credentials
                .iter()
                .map(|it| (*it.name).into())
                .collect(),
            scrubber,
            digest: digest::of(config),
            denied,
        }
    }

    /// The same policy with the values that go into arguments, by the names of their credentials;
    /// without its value a call that needs one is refused.
    #[must_use]
    pub fn with_values(mut self, config: &Config, values: &[Secret]) -> Self {
        self.injections = Injections::new(&config.credentials, values);
        self
    }

    /// SHA-256 of the effective policy in hex, for audit and `/health`.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The scrubber, for stderr lines and logs.
    #[must_use]
    pub fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// True when the request may safely be made twice: the protocol says that it only reads or sets
    /// what it set before, or the operator says so of the tool.
    #[must_use]
    pub fn repeatable(&self, subject: &Subject) -> bool {
        match (subject.capability, subject.name.as_deref()) {
            (Capability::Tool, Some(name)) => self
                .tools
                .setting(name, |rule| {
                    let reads = rule.effect.map(|effect| effect == Effect::Read);
                    rule.idempotent.or(reads)
                })
                .unwrap_or(false),
            (Capability::Tool, None) => false,
            _ => REPEATABLE.contains(&&*subject.method),
        }
    }

    /// How long this request may take. A listen stream has no limit: it is answered when it ends,
    /// perhaps after days. Waiting for the result of a task is silent by nature, so only the whole
    /// time counts there.
    #[must_use]
    pub fn deadlines(&self, subject: &Subject) -> Option<Deadlines> {
        let Limits {
            timeout,
            timeout_total,
            ..
        } = self.limits;
        let (idle, hard) = match (subject.capability, subject.name.as_deref()) {
            (Capability::Tool, Some(name)) => (
                self.tools
                    .setting(name, |rule| rule.timeout)
                    .unwrap_or(timeout),
                self.tools
                    .setting(name, |rule| rule.timeout_total)
                    .unwrap_or(timeout_total),
            ),
            (Capability::Method, _) => match &*subject.method {
                method::SUBSCRIPTIONS_LISTEN => return None,
                method::TASKS_RESULT => (timeout_total, timeout_total),
                _ => (timeout, timeout_total),
            },
            _ => (timeout, timeout_total),
        };
        Some(Deadlines {
            idle: idle.min(hard),
            hard,
        })
    }

    /// Decides on a message of the client. `subject` is `None` for answers to the server's requests;
    /// `caller` is `None` on stdin and stdout, where whoever started us is the only client.
    pub fn client(
        &self,
        envelope: &Envelope<'_>,
        subject: Option<&Subject>,
        era: Era,
        tools: &mut ToolBook,
        caller: Option<&Caller>,
    ) -> Decision {
        let (params, answered) = match &envelope.kind {
            Kind::Request { params, .. } => (*params, true),
            Kind::Notification { params, .. } => (*params, false),
            // Answers to questions that the client was allowed to see.
            Kind::Result { .. } | Kind::Error { .. } => return Decision::forward(),
        };
        let Some(subject) = subject else {
            return Decision::forward();
        };
        let mut notes = Vec::new();
        let refused = self
            .check_method(subject)
            .or_else(|| self.check_target(subject))
            .or_else(|| self.check_other_ways(subject, params, era));
        if !answered && refused.is_none() && subject.is_request() {
            return Decision::drop(PROTOCOL_NO_ID);
        }
        let refused = match (refused, caller) {
            (None, Some(caller)) => match self.check_caller(subject, params, caller, tools) {
                Arguments::Pass => None,
                Arguments::Refuse(refusal) => Some(refusal),
                Arguments::NeedTools => return Decision::need_tools(notes),
            },
            (refused, _) => refused,
        };
        let filled = match &refused {
            Some(_) => Ok(None),
            None => self.fill_arguments(envelope, subject, (params, caller), tools),
        };
        let (refused, filled) = match (refused, filled) {
            (None, Ok(filled)) => {
                let arguments = match &filled {
                    Some(filled) => Some(filled.arguments()),
                    None => envelope.arguments(),
                };
                match self.check_arguments(subject, arguments, tools, &mut notes) {
                    Arguments::Pass => (None, filled),
                    Arguments::Refuse(refusal) => (Some(refusal), None),
                    Arguments::NeedTools => return Decision::need_tools(notes),
                }
            }
            (None, Err(Arguments::Refuse(refusal))) => (Some(refusal), None),
            (None, Err(_)) => return Decision::need_tools(notes),
            (refused, _) => (refused, None),
        };
        match refused {
            None => Decision {
                verdict: filled.map_or(Verdict::Forward, |filled| {
                    Verdict::Rewrite(filled.into_line())
                }),
                rule: None,
                notes,
            },
            Some(refusal) if answered => Decision {
                notes,
                ..Decision::refuse(refusal)
            },
            Some(refusal) => Decision {
                notes,
                ..Decision::drop(refusal.rule)
            },
        }
    }

    /// Decides on a message of the server. `origin` is the client's request that it answers, if it does;
    /// `caller` is who asked, or who will hear it, where there is more than one.
    pub fn server(
        &self,
        envelope: &Envelope<'_>,
        origin: Option<&Origin>,
        tools: &mut ToolBook,
        caller: Option<&Caller>,
    ) -> Decision {
        let caller = caller.filter(|_| !self.permissions.is_open());
        let (mut marked, mut cut) = (false, false);
        let subject = origin.map(|origin| &origin.subject);
        let mut notes = Vec::new();
        let mut rewritten = None;
        match &envelope.kind {
            Kind::Request { method, .. } => {
                if let Some(rule) = self.method_rule(method) {
                    return Decision::refuse(refuse_method(rule, None, method));
                }
            }
            Kind::Notification { method, params } => {
                if method == method::TOOLS_CHANGED {
                    tools.mark_stale();
                }
                let rule = self
                    .method_rule(method)
                    .or_else(|| self.check_notification(method, *params, caller));
                if let Some(rule) = rule {
                    return Decision::drop(rule);
                }
            }
            Kind::Result { result, .. } => {
                if self.denied.asking
                    && let Some(rule) =
                        asks::denied_question(*result, |method| self.method_rule(method))
                {
                    return Decision::refuse(refuse_question(rule, subject));
                }
                if let Some(subject) = subject {
                    if subject.capability == Capability::Method {
                        if &*subject.method == method::TOOLS_LIST {
                            tools.learn_passing(result.text);
                        }
                        rewritten = self.filter_list(envelope.line, *result, subject, caller);
                        if &*subject.method == method::TOOLS_LIST && !self.injections.is_empty() {
                            let line = rewritten.as_deref().unwrap_or(envelope.line);
                            if let Some(line) = self.injections.hide(line) {
                                cut = rewritten.is_none();
                                rewritten = Some(line);
                            }
                        }
                    }
                    if caller.is_some()
                        && origin.is_some_and(|origin| origin.era == Era::Modern)
                        && lists::may_be_cached(&subject.method)
                        && let Some(line) =
                            lists::marked_private(rewritten.as_deref().unwrap_or(envelope.line))
                    {
                        marked = rewritten.is_none();
                        rewritten = Some(line);
                    }
                    if let Some(refusal) = self.check_output(subject, *result, tools, &mut notes) {
                        return Decision {
                            notes,
                            ..Decision::refuse(refusal)
                        };
                    }
                }
            }
            Kind::Error { error, .. } => {
                if let Some(rule) = self.denied.elicitation
                    && asks::is_url_elicitation(*error)
                {
                    return Decision::refuse(refuse_question(rule, subject));
                }
            }
        }
        let at_fault = subject.and_then(|subject| self.problem(envelope, subject));
        if let Some(problem) = at_fault {
            notes.push(Note::Credential {
                problem: problem.name,
                invalid: problem.invalid,
            });
            rewritten = problems::advised(envelope, problem.invalid, CREDENTIALS_PROBLEM);
        }
        let rule = rewritten.is_some().then_some(match (marked, cut) {
            _ if at_fault.is_some() => CREDENTIALS_PROBLEM,
            (true, _) => LISTS_PRIVATE,
            (false, true) => CREDENTIALS_ARGUMENT,
            (false, false) => LISTS_HIDDEN,
        });
        if self.secrets == SecretsMode::Off {
            let verdict = rewritten.map_or(Verdict::Forward, Verdict::Rewrite);
            return Decision {
                verdict,
                rule,
                notes,
            };
        }
        let clean = Decision {
            verdict: Verdict::Forward,
            rule,
            notes,
        };
        outbound::scrub(
            &self.scrubber,
            self.secrets,
            envelope,
            subject,
            rewritten,
            clean,
        )
    }
}
