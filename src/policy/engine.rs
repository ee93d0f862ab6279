//! The stages of a decision, in order. [`Policy::client`] and [`Policy::server`] read top to bottom.

use super::names::{Denied, NameList, fold};
use super::rules::{
    LISTS_HIDDEN, METHODS_ALLOW, METHODS_DENY, METHODS_SPELLING, PROMPTS_ALLOW, PROMPTS_DENY,
    RESOURCES_ALLOW, RESOURCES_DENY, SCHEMA_ARGUMENTS, SCHEMA_OUTPUT, SCHEMA_UNUSABLE,
};
use super::schema::{Reason, Unusable, check};
use super::toolbook::{Checker, Side, Standing};
use super::tools::ToolRules;
use super::uris::UriList;
use super::{Decision, Note, Origin, Refusal, ToolBook, Verdict, asks, digest, scrub::Scrubber};
use super::{lists, lists::Listing, outbound};
use crate::config::{Check, Config, Limits, SchemaChecks, SecretsMode};
use crate::mcp::{Capability, Envelope, Era, Kind, Raw, Subject, elements, members, method, text};
use std::time::Duration;

/// A listen stream is silent for hours by design: this long, in place of "never".
const LISTEN: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How a modern request asks for log messages; the same as `logging/setLevel`.
const LOG_LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";

/// The immutable policy of one configuration; swapped whole on reload.
#[derive(Debug)]
pub struct Policy {
    methods: NameList,
    tools: ToolRules,
    resources: UriList,
    prompts: NameList,
    schema: SchemaChecks,
    secrets: SecretsMode,
    limits: Limits,
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
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Silence that ends it; progress resets this one.
    pub idle: Duration,
    /// The whole time that it may take.
    pub hard: Duration,
}

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
        };
        Self {
            methods,
            tools: ToolRules::new(&config.tools),
            resources: UriList::new(&config.resources),
            prompts: NameList::new(&config.prompts),
            schema: config.schema,
            secrets: config.scrub,
            limits: config.limits.clone(),
            scrubber,
            digest: digest::of(config),
            denied,
        }
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

    /// How long this request may take. A listen stream has no limit worth the name, and waiting for
    /// the result of a task is silent by nature, so only the whole time counts there.
    #[must_use]
    pub fn deadlines(&self, subject: &Subject) -> Deadlines {
        let Limits {
            timeout,
            timeout_total,
            ..
        } = self.limits;
        let (idle, hard) = match (&*subject.method, subject.name.as_deref()) {
            (method::SUBSCRIPTIONS_LISTEN, _) => (LISTEN, LISTEN),
            (method::TASKS_RESULT, _) => (timeout_total, timeout_total),
            (method::TOOLS_CALL, Some(name)) => (
                self.tools
                    .setting(name, |rule| rule.timeout)
                    .unwrap_or(timeout),
                self.tools
                    .setting(name, |rule| rule.timeout_total)
                    .unwrap_or(timeout_total),
            ),
            _ => (timeout, timeout_total),
        };
        Deadlines {
            idle: idle.min(hard),
            hard,
        }
    }

    /// True when the answer to this request can meet a rule. `false` means that [`Self::server`] would
    /// forward whatever comes, so the session may pass the bytes on without asking.
    #[must_use]
    pub fn watches(&self, subject: &Subject, tools: &ToolBook) -> bool {
        self.secrets != SecretsMode::Off
            || self.denied.asking
            || self.listing(&subject.method).is_some()
            || subject.method.as_ref() == method::TOOLS_LIST
            || (subject.capability == Capability::Tool
                && subject.name.as_deref().is_some_and(|name| {
                    self.output_check(name) != Check::Off && tools.has_schema(name, Side::Output)
                }))
    }

    /// Decides on a message of the client. `subject` is `None` for answers to the server's requests.
    pub fn client(
        &self,
        envelope: &Envelope<'_>,
        subject: Option<&Subject>,
        era: Era,
        tools: &mut ToolBook,
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
        let refused = match refused {
            Some(refusal) => Some(refusal),
            None => match self.check_arguments(subject, params, tools, &mut notes) {
                Arguments::Pass => None,
                Arguments::Refuse(refusal) => Some(refusal),
                Arguments::NeedTools => {
                    return Decision {
                        verdict: Verdict::NeedTools,
                        rule: None,
                        notes,
                    };
                }
            },
        };
        match refused {
            None => Decision {
                verdict: Verdict::Forward,
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

    /// Decides on a message of the server. `origin` is the client's request that it answers, if it does.
    pub fn server(
        &self,
        envelope: &Envelope<'_>,
        origin: Option<&Origin>,
        tools: &mut ToolBook,
    ) -> Decision {
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
                    .or_else(|| self.check_notification(method, *params));
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
                    if &*subject.method == method::TOOLS_LIST {
                        tools.learn_passing(result.text);
                    }
                    rewritten = self.filter_list(envelope.line, *result, subject);
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
        let rule = rewritten.is_some().then_some(LISTS_HIDDEN);
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

    /// Method rules, the same in both directions.
    fn method_rule(&self, method: &str) -> Option<&'static str> {
        method_rule(&self.methods, method)
    }

    fn check_method(&self, subject: &Subject) -> Option<Refusal> {
        let rule = self.method_rule(&subject.method)?;
        Some(refuse_method(rule, Some(subject), &subject.method))
    }

    /// The tool, resource or prompt that a request names.
    fn check_target(&self, subject: &Subject) -> Option<Refusal> {
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
    fn check_other_ways(
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
        if self.denied.asking
            && let Some(rule) = asks::denied_answer(params, |method| self.method_rule(method))
        {
            return Some(refuse_method(rule, Some(subject), "inputResponses"));
        }
        match &*subject.method {
            method::TOOLS_CALL | method::RESOURCES_READ | method::PROMPTS_GET => None,
            method::COMPLETION_COMPLETE => self.check_reference(subject, params),
            method::SUBSCRIPTIONS_LISTEN => self.check_listen(subject, params),
            other if method::Method::find(other).is_none() => self.check_unknown(subject, params),
            _ => None,
        }
    }

    /// `completion/complete` looks into the prompt or resource that `ref` names.
    fn check_reference(&self, subject: &Subject, params: Raw<'_>) -> Option<Refusal> {
        let reference = params.member("ref")?;
        for (key, value) in members(reference.text) {
            let name = text(value.text);
            let rule = match &*key {
                "name" => self.prompt_rule(name.as_deref()),
                "uri" => self.uri_rule(name.as_deref()),
                _ => None,
            };
            if let Some(rule) = rule {
                return Some(refuse_target(
                    rule,
                    Some(subject),
                    name.as_deref().unwrap_or_default(),
                ));
            }
        }
        None
    }

    /// `subscriptions/listen` replaces `resources/subscribe` in the modern era.
    fn check_listen(&self, subject: &Subject, params: Raw<'_>) -> Option<Refusal> {
        for (key, filter) in members(params.text) {
            if !key.eq_ignore_ascii_case("notifications") {
                continue;
            }
            for (key, watched) in members(filter.text) {
                if !key.eq_ignore_ascii_case("resourceSubscriptions") {
                    continue;
                }
                if let Some(rule) = self.denied.subscribe
                    && elements(watched.text).next().is_some()
                {
                    return Some(refuse_method(
                        rule,
                        Some(subject),
                        method::RESOURCES_SUBSCRIBE,
                    ));
                }
                for uri in elements(watched.text) {
                    let uri = text(uri.text);
                    if let Some(rule) = self.uri_rule(uri.as_deref()) {
                        return Some(refuse_target(
                            rule,
                            Some(subject),
                            uri.as_deref().unwrap_or_default(),
                        ));
                    }
                }
            }
        }
        None
    }

    /// A method that no revision has, in a namespace that has rules: whatever it does, it does it to
    /// what it names.
    fn check_unknown(&self, subject: &Subject, params: Raw<'_>) -> Option<Refusal> {
        let folded = fold(&subject.method);
        let (namespace, _) = folded.split_once('/')?;
        for (key, value) in members(params.text) {
            let name = text(value.text);
            let name = name.as_deref();
            let rule = match (namespace, key.to_ascii_lowercase().as_str()) {
                ("tools", "name" | "tool" | "toolname") => self.tools.denies(name),
                ("resources", "uri" | "uritemplate") => self.uri_rule(name),
                ("prompts", "name" | "prompt") => self.prompt_rule(name),
                _ => None,
            };
            if let Some(rule) = rule {
                return Some(refuse_target(rule, Some(subject), name.unwrap_or_default()));
            }
        }
        None
    }

    /// The arguments of a tool call against the schema that the tool advertises.
    fn check_arguments(
        &self,
        subject: &Subject,
        params: Option<Raw<'_>>,
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
        match tools.standing(name) {
            Standing::Known => {}
            // The server will say that it is unknown, in its own words.
            Standing::Absent => return Arguments::Pass,
            Standing::Unlisted => return Arguments::NeedTools,
            Standing::Unlistable => {
                notes.push(warning(
                    SCHEMA_UNUSABLE,
                    "the server does not list its tools".to_owned(),
                ));
                return Arguments::Pass;
            }
        }
        let outcome = match tools.checker(name, Side::Input) {
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
            Checker::Schema { validator, raw } => {
                // Absent and `null` mean no arguments, as in the SDKs of Python.
                let arguments = params.and_then(|params| params.member("arguments"));
                let arguments = arguments.map_or(&b"{}"[..], |arguments| match arguments.text {
                    b"null" => b"{}",
                    given => given,
                });
                check(validator, raw, arguments)
            }
        };
        match outcome {
            Ok(()) => Arguments::Pass,
            Err(reason) if mode == Check::Warn => {
                notes.push(warning(SCHEMA_ARGUMENTS, self.explained(&reason)));
                Arguments::Pass
            }
            Err(reason) => {
                let text = format!(
                    "The arguments do not match the tool's input schema: {} (rule {SCHEMA_ARGUMENTS}); correct them and call again.",
                    self.explained(&reason)
                );
                Arguments::Refuse(Refusal::new(SCHEMA_ARGUMENTS, Some(subject), text).about(name))
            }
        }
    }

    /// A reason in words; should a name in it look like a credential, it is left out.
    fn explained(&self, reason: &Reason) -> String {
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

    /// Notifications of the server about something that the client may not see.
    fn check_notification(&self, method: &str, params: Option<Raw<'_>>) -> Option<&'static str> {
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
    fn listing(&self, method: &str) -> Option<Listing> {
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
    fn filter_list(&self, line: &[u8], result: Raw<'_>, subject: &Subject) -> Option<Vec<u8>> {
        let listing = self.listing(&subject.method)?;
        lists::without_hidden(line, result, listing, |name| match listing {
            Listing::TOOLS => self.tools.denies(name).is_some(),
            Listing::PROMPTS => self.prompt_rule(name).is_some(),
            _ => self.uri_rule(name).is_some(),
        })
    }

    fn output_check(&self, name: &str) -> Check {
        self.tools
            .setting(name, |rule| rule.output)
            .unwrap_or(self.schema.output)
    }

    /// `structuredContent` of a result that succeeded, against the tool's output schema.
    fn check_output(
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
        if mode == Check::Off || !tools.has_schema(name, Side::Output) {
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
        let reason = match tools.checker(name, Side::Output) {
            Checker::None => return None,
            Checker::Unusable(why) => {
                notes.push(warning(
                    SCHEMA_UNUSABLE,
                    format!("a result is passed on unchecked: {why}"),
                ));
                return None;
            }
            Checker::Schema { validator, raw } => check(validator, raw, content?).err()?,
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

    fn uri_rule(&self, uri: Option<&str>) -> Option<&'static str> {
        let denied = match uri {
            Some(uri) => self.resources.denies(uri),
            None => unreadable(self.resources.is_open(), self.resources.is_closed()),
        };
        denied.map(|by| match by {
            Denied::ByDeny => RESOURCES_DENY,
            Denied::ByAllow => RESOURCES_ALLOW,
        })
    }

    fn prompt_rule(&self, name: Option<&str>) -> Option<&'static str> {
        let denied = match name {
            Some(name) => self.prompts.denies(name),
            None => unreadable(self.prompts.is_open(), self.prompts.is_closed()),
        };
        denied.map(|by| match by {
            Denied::ByDeny => PROMPTS_DENY,
            Denied::ByAllow => PROMPTS_ALLOW,
        })
    }
}

/// What the argument check says.
enum Arguments {
    Pass,
    Refuse(Refusal),
    NeedTools,
}

/// A name that cannot be read could be any name, also a denied one.
fn unreadable(open: bool, closed: bool) -> Option<Denied> {
    match (open, closed) {
        (true, _) => None,
        (false, true) => Some(Denied::ByAllow),
        (false, false) => Some(Denied::ByDeny),
    }
}

/// The handshake, `ping` and the protocol's own notifications pass an allow list: it names what a
/// client may reach for, and without them there is no session. A deny list can name them.
fn is_always_allowed(method: &str) -> bool {
    matches!(
        method,
        method::INITIALIZE | method::SERVER_DISCOVER | method::PING
    ) || method::Method::find(method).is_some_and(method::Method::is_notification)
}

fn method_rule(methods: &NameList, method: &str) -> Option<&'static str> {
    if method != method::TOOLS_CALL && method::Method::find(method).is_none() {
        let folded = fold(method);
        if method::ALL.iter().any(|known| fold(known.name) == folded) {
            return Some(METHODS_SPELLING);
        }
    }
    match methods.denies(method)? {
        Denied::ByDeny => Some(METHODS_DENY),
        Denied::ByAllow if is_always_allowed(method) => None,
        Denied::ByAllow => Some(METHODS_ALLOW),
    }
}

fn refuse_method(rule: &'static str, subject: Option<&Subject>, method: &str) -> Refusal {
    let text = format!(
        "This method is not available here (rule {rule}); asking again will not help, the operator decides what may be used."
    );
    Refusal::new(rule, subject, text).about(method)
}

fn refuse_target(rule: &'static str, subject: Option<&Subject>, name: &str) -> Refusal {
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

fn refuse_question(rule: &'static str, subject: Option<&Subject>) -> Refusal {
    let text = format!(
        "The server asked for something that it may not ask for here (rule {rule}), so its answer was withheld; asking again will not help, the operator decides."
    );
    Refusal::new(rule, subject, text).about("a question of the server")
}

fn warning(rule: &'static str, text: String) -> Note {
    Note::Warned { rule, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, Overrides, Surroundings, build};

    fn policy(toml: &str) -> Policy {
        let text = format!("{toml}\n[server]\nname = \"t\"\ncommand = [\"/bin/true\"]\n");
        let file = File::parse("t.toml", text).expect("a file");
        let around = Surroundings {
            directory: "/".into(),
            home: Some("/root".into()),
            ..Surroundings::default()
        };
        let config = build(Some(&file), &Overrides::default(), &around)
            .expect("a configuration")
            .config;
        Policy::new(&config, Scrubber::new(config.scrub, &[]))
    }

    fn subject(method: &str, name: Option<&str>) -> Subject {
        Subject {
            capability: Capability::of(method).0,
            method: method.into(),
            name: name.map(Into::into),
        }
    }

    #[test]
    fn deadlines_are_those_of_the_tool_or_of_all() {
        let policy = policy(
            "[limits]\ntimeout = \"10s\"\ntimeout_total = \"60s\"\n[tools.slow]\ntimeout = \"30s\"\n[tools.\"quick_*\"]\ntimeout = \"1s\"\ntimeout_total = \"2s\"\n",
        );
        let seconds = |method, name| {
            let Deadlines { idle, hard } = policy.deadlines(&subject(method, name));
            (idle.as_secs(), hard.as_secs())
        };
        assert_eq!(seconds("tools/call", Some("other")), (10, 60));
        assert_eq!(seconds("tools/call", Some("slow")), (30, 60));
        assert_eq!(seconds("tools/call", Some("quick_one")), (1, 2));
        assert_eq!(seconds("resources/read", Some("slow")), (10, 60));
        assert_eq!(seconds("tasks/result", None), (60, 60));
        // No limit worth the name, and still one that an `Instant` can be moved by.
        let listen = policy.deadlines(&subject("subscriptions/listen", None));
        assert!(listen.idle.as_secs() > 365 * 24 * 3600);
        assert!(std::time::Instant::now().checked_add(listen.hard).is_some());
    }

    #[test]
    fn the_digest_follows_what_decides_and_nothing_else() {
        let one = policy("[methods]\ndeny = [\"b\", \"a\"]\n");
        assert_eq!(one.digest().len(), 64);
        assert_eq!(
            one.digest(),
            policy("[methods]\ndeny = [\"a\", \"b\"]\n").digest()
        );
        assert_eq!(
            one.digest(),
            policy("[methods]\ndeny = [\"a\", \"b\"]\n[cell]\nwrite = [\"/tmp\"]\n").digest()
        );
        for other in [
            "",
            "[methods]\ndeny = [\"a\"]\n",
            "[methods]\nallow = [\"a\", \"b\"]\n",
            "[prompts]\ndeny = [\"a\", \"b\"]\n",
            "[methods]\ndeny = [\"a\", \"b\"]\n[tools.x]\nallow = false\n",
            "[methods]\ndeny = [\"a\", \"b\"]\n[scrub]\nsecrets = \"flag\"\n",
            "[methods]\ndeny = [\"a\", \"b\"]\n[schema]\noutput = \"off\"\n",
            "[methods]\ndeny = [\"a\", \"b\"]\n[limits]\nrequest = \"2MiB\"\n",
        ] {
            assert_ne!(one.digest(), policy(other).digest(), "{other}");
        }
    }

    #[test]
    fn what_nobody_watches_needs_no_look() {
        let off = policy("[scrub]\nsecrets = \"off\"\n");
        let mut tools = ToolBook::default();
        let call = subject("tools/call", Some("sum"));
        assert!(!off.watches(&call, &tools));
        assert!(!off.watches(&subject("resources/list", None), &tools));
        assert!(off.watches(&subject("tools/list", None), &tools));
        tools.learn(
            br#"{"tools":[{"name":"sum","outputSchema":{"type":"object"}}]}"#,
            true,
        );
        assert!(off.watches(&call, &tools));
        assert!(policy("").watches(&call, &ToolBook::default()));
        let rules = policy(
            "[scrub]\nsecrets = \"off\"\n[resources]\ndeny = [\"a:*\"]\n[methods]\ndeny = [\"roots/list\"]\n",
        );
        assert!(rules.watches(&subject("resources/list", None), &ToolBook::default()));
        assert!(rules.watches(&subject("ping", None), &ToolBook::default()));
    }

    #[test]
    fn a_changed_list_is_asked_for_again() {
        let policy = policy("[scrub]\nsecrets = \"off\"\n");
        let mut tools = ToolBook::default();
        tools.learn(br#"{"tools":[{"name":"a"}]}"#, true);
        let line = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
        let call = crate::mcp::parse(line, crate::mcp::Direction::ToServer).expect("a call");
        let subject = Subject::of(&call);
        let decide = |tools: &mut ToolBook| {
            policy
                .client(&call, subject.as_ref(), Era::Legacy, tools)
                .verdict
        };
        assert!(matches!(decide(&mut tools), Verdict::Forward));
        let line = br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        let notice = crate::mcp::parse(line, crate::mcp::Direction::ToClient).expect("a notice");
        assert!(matches!(
            policy.server(&notice, None, &mut tools).verdict,
            Verdict::Forward
        ));
        assert!(matches!(decide(&mut tools), Verdict::NeedTools));
        // The client lists, as clients do after that notice; its answer teaches the book.
        let line = br#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"a"}]}}"#;
        let list = crate::mcp::parse(line, crate::mcp::Direction::ToClient).expect("a list");
        let origin = Origin {
            subject: Subject {
                capability: Capability::Method,
                method: "tools/list".into(),
                name: None,
            },
            era: Era::Legacy,
        };
        assert!(matches!(
            policy.server(&list, Some(&origin), &mut tools).verdict,
            Verdict::Forward
        ));
        assert!(matches!(decide(&mut tools), Verdict::Forward));
    }
}
