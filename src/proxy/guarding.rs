//! The guards at work on one session: what they refuse or answer, what they weigh, and what the operator
//! is told of it. Where nothing is guarded all of it is one branch.

use super::books::asker;
use super::pending::{Open, State};
use super::reply;
use super::session::{Outbox, Session};
use crate::audit::{Arguments, Notice, Record};
use crate::config::Config;
use crate::mcp::{self, Capability, Direction, Envelope, Kind, Subject};
use crate::policy::{
    Asking, Circuit, Decision, Ending, Guards, LIMITS_RESULT, News, Party, Pass, Refusal, Ruling,
    Verdict, Weight, micros,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

/// The guards of a server, and which of its sessions this is.
#[derive(Debug)]
pub(super) struct Guarding {
    guards: Rc<RefCell<Guards>>,
    begun: Instant,
    session: u64,
}

/// A request that the guards let through; whatever becomes of it, they are told.
#[derive(Debug)]
pub(super) struct Held {
    guards: Rc<RefCell<Guards>>,
    pass: RefCell<Option<Box<Pass>>>,
    /// It was answered with an error that is no fault of its caller.
    fault: Cell<bool>,
}

/// What the guards say of a request.
#[derive(Debug)]
pub(super) enum Guarded {
    Free,
    Through(Box<Held>),
    /// The client has its answer.
    Answered,
    Refused(Box<Refusal>),
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(mut pass), Ok(mut guards)) = (self.pass.take(), self.guards.try_borrow_mut()) {
            guards.finish(&mut pass, Ending::Unknown, 0);
        }
    }
}

impl Drop for Guarding {
    fn drop(&mut self) {
        if let Ok(mut guards) = self.guards.try_borrow_mut() {
            guards.close_session(self.session);
        }
    }
}

impl Guarding {
    /// `None` where nothing is guarded.
    pub(super) fn new(config: &Config) -> Option<Self> {
        Guards::wanted(config).then(|| {
            let mut guards = Guards::new(config);
            let session = guards.open_session();
            Self {
                guards: Rc::new(RefCell::new(guards)),
                begun: Instant::now(),
                session,
            }
        })
    }

    fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.begun))
    }
}

impl Session {
    /// This session is of the same server as `other`: what fails and what is used up is so for both.
    pub fn join(&mut self, other: &Self) {
        self.guarding = other.guarding.as_ref().map(|guarding| Guarding {
            guards: Rc::clone(&guarding.guards),
            begun: guarding.begun,
            session: guarding.guards.borrow_mut().open_session(),
        });
    }

    /// What the guards say of a request that policy lets through.
    pub(super) fn guard(
        &mut self,
        envelope: &Envelope<'_>,
        subject: &Subject,
        now: Instant,
        out: &mut Outbox,
    ) -> Guarded {
        let Some(guarding) = self.guarding.as_ref().filter(|_| Guards::concerns(subject)) else {
            return Guarded::Free;
        };
        let asking = self.asking_of(envelope, subject, guarding);
        let ruling = guarding
            .guards
            .borrow_mut()
            .admit(&asking, guarding.micros(now));
        let said = match ruling {
            Ruling::Pass(pass) => Guarded::Through(Box::new(Held {
                guards: Rc::clone(&guarding.guards),
                pass: RefCell::new(Some(pass)),
                fault: Cell::new(false),
            })),
            Ruling::Refuse(refusal) => Guarded::Refused(refusal),
            Ruling::Answer(result) => {
                self.answer_again(envelope, subject, &result, now, out);
                Guarded::Answered
            }
        };
        self.tell(now);
        said
    }

    /// The server cannot be asked: the answer that it gave to the same call before, if it may be given.
    /// The kill switch has the last word.
    pub(super) fn answer_stale(&mut self, line: &[u8], now: Instant, out: &mut Outbox) -> bool {
        let Some(guarding) = &self.guarding else {
            return false;
        };
        let Ok(envelope) = mcp::parse(line, Direction::ToServer) else {
            return false;
        };
        let Some(subject) = Subject::of(&envelope) else {
            return false;
        };
        if !matches!(envelope.kind, Kind::Request { .. }) || self.is_off(&subject) {
            return false;
        }
        let asking = self.asking_of(&envelope, &subject, guarding);
        let micros = guarding.micros(now);
        let result = guarding.guards.borrow_mut().answer_for(&asking, micros);
        let Some(result) = result else { return false };
        self.answer_again(&envelope, &subject, &result, now, out);
        self.tell(now);
        true
    }

    /// The decision on an answer, once the guards have weighed what it lets through.
    pub(super) fn weighed(
        &mut self,
        open: &Open,
        envelope: &Envelope<'_>,
        mut decision: Decision,
        now: Instant,
    ) -> Decision {
        let (Some(guarding), Some(held)) = (&self.guarding, &open.held) else {
            return decision;
        };
        if let Kind::Error { error, .. } = &envelope.kind {
            let code = error.member("code").map(|code| code.text);
            held.fault.set(code.is_some_and(is_fault));
        }
        let line = match &decision.verdict {
            Verdict::Rewrite(line) => line,
            Verdict::Refuse(_) => return decision,
            _ => envelope.line,
        };
        let pass = held.pass.borrow();
        let Some(pass) = pass.as_ref().filter(|_| open.state == State::Open) else {
            return decision;
        };
        let micros = guarding.micros(now);
        let subject = &open.origin.subject;
        let weight = guarding
            .guards
            .borrow_mut()
            .weigh(pass, subject, line, micros);
        match weight {
            Weight::AsItIs => {}
            Weight::Cut(line) => {
                decision.verdict = Verdict::Rewrite(line);
                decision.rule = Some(LIMITS_RESULT);
            }
            Weight::Refuse(refusal) => {
                decision.rule = Some(refusal.rule);
                decision.verdict = Verdict::Refuse(refusal);
            }
        }
        decision
    }

    /// The guards hear how a request has ended; `status` as audit says it.
    pub(super) fn settle(&mut self, held: &Held, status: &str, now: Instant) {
        let Some(guarding) = &self.guarding else {
            return;
        };
        let Some(mut pass) = held.pass.take() else {
            return;
        };
        let mut guards = guarding.guards.borrow_mut();
        let ending = match status {
            "error" if held.fault.get() => Ending::Fault,
            "tool_error" if guards.minds_tool_errors() => Ending::Fault,
            "timeout" | "unavailable" | "malformed" => Ending::Lost,
            "cancelled" => Ending::Unknown,
            _ => Ending::Success,
        };
        guards.finish(&mut pass, ending, guarding.micros(now));
        drop(guards);
        self.tell(now);
    }

    /// Other rules hold; guards that there were not before begin with nothing.
    pub(super) fn renew_guards(&mut self, config: &Config) {
        match &self.guarding {
            Some(guarding) => guarding.guards.borrow_mut().reload(config),
            None => self.guarding = Guarding::new(config),
        }
    }

    /// True when this session has no part in the guards of `other`.
    #[must_use]
    pub fn is_apart(&self, other: &Self) -> bool {
        match (&self.guarding, &other.guarding) {
            (Some(own), Some(others)) => !Rc::ptr_eq(&own.guards, &others.guards),
            (None, None) => false,
            _ => true,
        }
    }

    /// Another policy holds.
    pub(super) fn forget_answers(&mut self) {
        if let Some(guarding) = &self.guarding {
            guarding.guards.borrow_mut().forget_answers();
        }
    }

    /// The breakers that are not closed, each as the tool (`None`: the server) and a word, when that has
    /// changed since the last time.
    #[must_use]
    pub fn moved_breakers(&self) -> Option<Vec<(Option<String>, &'static str)>> {
        let guarding = self.guarding.as_ref()?;
        if !guarding.guards.borrow_mut().take_moved() {
            return None;
        }
        let open = guarding.guards.borrow().open_circuits(0);
        let words = open
            .into_iter()
            .map(|(tool, circuit, _)| (tool, circuit.as_str()));
        Some(words.collect())
    }

    fn asking_of<'a>(
        &self,
        envelope: &Envelope<'a>,
        subject: &'a Subject,
        guarding: &Guarding,
    ) -> Asking<'a> {
        let client = self.asking.as_ref().map(|caller| caller.principal());
        // Where clients share the process a session is what each of them asks of it.
        let party = match self.shared {
            true => Party {
                session: 0,
                client: client.clone(),
            },
            false => Party {
                session: guarding.session,
                client: None,
            },
        };
        let is_call = subject.capability == Capability::Tool;
        let arguments = envelope.arguments().filter(|_| is_call);
        Asking {
            subject,
            arguments: arguments.map(|arguments| arguments.text),
            party,
            client,
        }
    }

    /// Answers a call with a result that was given before.
    fn answer_again(
        &mut self,
        envelope: &Envelope<'_>,
        subject: &Subject,
        result: &[u8],
        now: Instant,
        out: &mut Outbox,
    ) {
        let Kind::Request { id, .. } = &envelope.kind else {
            return;
        };
        let before = out.to_client.len();
        reply::result(&mut out.to_client, id.raw, result);
        let shown = self.shown(subject);
        self.audit.record(
            &Record {
                direction: Direction::ToClient,
                subject: Some(&shown),
                id: Some(id.raw),
                decision: "rewrite",
                rule: None,
                status: "cached",
                latency: None,
                request_bytes: envelope.line.len(),
                response_bytes: out.to_client.len() - before,
                arguments: &Arguments::Absent,
                caller: self.asking.as_deref().map(asker),
            },
            now,
        );
    }

    /// Counts what the guards have noticed, and tells the operator.
    fn tell(&mut self, now: Instant) {
        let Some(guarding) = &mut self.guarding else {
            return;
        };
        let news = guarding.guards.borrow_mut().take_news();
        for one in news {
            match one {
                News::Result { bytes, tokens } => self.metrics.result(bytes, tokens),
                News::Cut { from, to, tokens } => {
                    self.metrics.result(to, tokens);
                    self.metrics.results_cut.inc();
                    tracing::info!("a result of {from} bytes was cut to {to}");
                }
                News::Cached { tool } => {
                    self.metrics.cached_answers.inc();
                    let text =
                        "an answer was given that was given before, because the tool cannot be had";
                    self.notice("limits.breaker", Some(&tool), "cached", text, now);
                }
                News::Again { tool, times } => {
                    self.metrics.repeated_calls.inc();
                    let text = format!("the same call had the same answer {times} times");
                    self.notice("limits.repeats", Some(&tool), "warned", &text, now);
                }
                News::Alert(alert) => {
                    self.metrics.budget_alert(alert.scope);
                    let (scope, tokens) = (alert.scope, alert.tokens);
                    let text = format!("a {scope} has used about {tokens} tokens within a minute");
                    self.notice("limits.budget-tokens", None, "alert", &text, now);
                }
                News::Breaker { tool, circuit } => {
                    self.breaker_moved(tool.as_deref(), circuit, now);
                }
            }
        }
    }

    fn breaker_moved(&mut self, tool: Option<&str>, circuit: Circuit, now: Instant) {
        let Some(guarding) = &self.guarding else {
            return;
        };
        let open = guarding.guards.borrow().open_circuits(0).len();
        self.metrics
            .breakers_open
            .set(i64::try_from(open).unwrap_or(i64::MAX));
        let scope = if tool.is_some() { "tool" } else { "server" };
        self.metrics.breaker(scope, circuit.as_str());
        let text = match circuit {
            Circuit::Open => "too many calls failed: none is made for a while",
            Circuit::HalfOpen => "calls are tried again",
            Circuit::Closed => "calls succeed again",
        };
        self.notice("limits.breaker", tool, circuit.as_str(), text, now);
    }

    fn notice(
        &mut self,
        rule: &'static str,
        tool: Option<&str>,
        status: &'static str,
        text: &str,
        now: Instant,
    ) {
        let scrubber = self.policy.scrubber();
        let clean = tool.and_then(|tool| self.names.redacted(scrubber, tool));
        let tool = clean.as_deref().or(tool);
        let name = tool.map_or_else(String::new, crate::transport::terminal::one_line);
        match name.is_empty() {
            true => tracing::warn!(rule, "{text}"),
            false => tracing::warn!(rule, "{name}: {text}"),
        }
        let notice = Notice {
            rule,
            target: tool,
            status,
            text,
        };
        self.audit.notice(&notice, now);
    }
}

/// Codes that say that the server is at fault: an internal error, and what servers define themselves
/// (JSON-RPC 2.0 §5.1). The others are about the request.
fn is_fault(code: &[u8]) -> bool {
    let code = std::str::from_utf8(code).ok();
    let code = code.and_then(|code| code.parse::<i64>().ok());
    code.is_some_and(|code| code == -32603 || (-32099..=-32000).contains(&code))
}
