//! What is kept of a request that has ended: audit lines, counts, and one word to the operator.

use super::pending::Open;
use super::reply;
use super::session::Session;
use crate::audit::{Arguments, Record};
use crate::config::Payloads;
use crate::identity::Caller;
use crate::mcp::{Capability, Direction, Envelope, Era, Kind, Subject};
use crate::policy::{Note, Refusal};
use crate::transport::terminal::one_line;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kinds of refusal that are explained to the operator once each; more are only counted.
const EXPLAINED: usize = 64;

impl Session {
    /// Notes the end of a request in audit and metrics.
    pub(super) fn finished(
        &mut self,
        open: &Open,
        decision: &'static str,
        rule: Option<&'static str>,
        status: &'static str,
        response_bytes: usize,
        now: Instant,
    ) {
        let latency = now.saturating_duration_since(open.since);
        let error = match status {
            "success" => "",
            "refused" => rule.unwrap_or(status),
            other => other,
        };
        self.observe(&open.origin.subject, error, latency);
        if let Some(held) = &open.held {
            self.settle(held, status, now);
        }
        let shown = self.shown(&open.origin.subject);
        self.audit.record(
            &Record {
                direction: Direction::ToClient,
                subject: Some(&shown),
                id: Some(&open.raw_id),
                decision,
                rule,
                status,
                latency: Some(latency),
                request_bytes: open.bytes,
                response_bytes,
                arguments: &open.arguments,
                caller: open.origin.caller.as_deref().map(asker),
            },
            now,
        );
        self.tally.open(self.client.waiting());
    }

    /// Notes a request of the client that went no further.
    pub(super) fn refused(
        &mut self,
        id: Option<&[u8]>,
        subject: &Subject,
        refused: &Refusal,
        request_bytes: usize,
        arguments: &Arguments,
    ) {
        self.explain(refused, subject);
        self.metrics.refusal(Direction::ToServer, refused.rule);
        self.observe(subject, refused.rule, Duration::ZERO);
        let shown = self.shown(subject);
        self.audit.record(
            &Record {
                direction: Direction::ToServer,
                subject: Some(&shown),
                id,
                decision: "refuse",
                rule: Some(refused.rule),
                status: "refused",
                latency: None,
                request_bytes,
                response_bytes: 0,
                arguments,
                caller: self.asking.as_deref().map(asker),
            },
            Instant::now(),
        );
    }

    /// The answer to a request that somebody may not make now, counted and noted; without its LF.
    pub fn turn_down(
        &mut self,
        envelope: &Envelope<'_>,
        caller: &Arc<Caller>,
        refused: &Refusal,
    ) -> Vec<u8> {
        let mut line = Vec::new();
        if let (Kind::Request { id, .. }, Some(subject)) = (&envelope.kind, Subject::of(envelope)) {
            let era = Era::of(envelope).unwrap_or(Era::Legacy);
            reply::refusal(&mut line, id.raw, refused, era);
            line.pop();
            self.asking = Some(Arc::clone(caller));
            let bytes = envelope.line.len();
            self.refused(Some(id.raw), &subject, refused, bytes, &Arguments::Absent);
            self.asking = None;
        }
        line
    }

    /// Notes a line that was not passed on and has no subject.
    pub(super) fn unread(
        &mut self,
        direction: Direction,
        id: Option<&[u8]>,
        rule: &'static str,
        status: &'static str,
        bytes: u64,
    ) {
        self.stopped(direction, (id, None), rule, status, bytes);
    }

    /// Notes a message that was not passed on and that nobody waits for.
    pub(super) fn dropped(
        &mut self,
        direction: Direction,
        subject: Option<&Subject>,
        rule: &'static str,
        bytes: usize,
    ) {
        self.stopped(direction, (None, subject), rule, "dropped", bytes as u64);
    }

    fn stopped(
        &mut self,
        direction: Direction,
        (id, subject): (Option<&[u8]>, Option<&Subject>),
        rule: &'static str,
        status: &'static str,
        bytes: u64,
    ) {
        let (request_bytes, response_bytes) = match direction {
            Direction::ToServer => (usize::try_from(bytes).unwrap_or(usize::MAX), 0),
            Direction::ToClient => (0, usize::try_from(bytes).unwrap_or(usize::MAX)),
        };
        let shown = subject.map(|subject| self.shown(subject));
        self.audit.record(
            &Record {
                direction,
                subject: shown.as_deref(),
                id,
                decision: "drop",
                rule: Some(rule),
                status,
                latency: None,
                request_bytes,
                response_bytes,
                arguments: &Arguments::Absent,
                caller: self.asking.as_deref().map(asker),
            },
            Instant::now(),
        );
    }

    /// Only names that are known become label values.
    pub(super) fn observe(&mut self, subject: &Subject, error: &'static str, took: Duration) {
        let method = match subject.method {
            Cow::Borrowed(known) => known,
            Cow::Owned(_) => "_other",
        };
        let tool = match subject.capability {
            Capability::Tool => subject.name.as_deref().unwrap_or_default(),
            _ => "",
        };
        let listed = || self.tools.knows(tool);
        self.tally.operation(method, tool, error, took, listed);
    }

    /// What audit may keep of the arguments of a call.
    pub(super) fn arguments(&mut self, raw: Option<&[u8]>) -> Arguments {
        match (raw, self.payloads) {
            (None, _) | (_, Payloads::None) => Arguments::Absent,
            (Some(raw), Payloads::Digest) => Arguments::digest(raw),
            (Some(raw), Payloads::Redacted) => {
                let scrubber = self.policy.scrubber();
                scrubber.json(raw, &mut self.scratch);
                let clean = scrubber.redact(raw, &self.scratch);
                Arguments::Redacted(clean.into_boxed_slice())
            }
        }
    }

    /// Counts what a decision noticed besides its verdict.
    pub(super) fn note(&self, notes: &[Note]) {
        for note in notes {
            match note {
                // Where the call is known more can be said.
                Note::Credential { .. } => {}
                Note::Redacted { detector, count } => self.metrics.redaction(detector, *count),
                Note::Warned { rule, text } => tracing::warn!(rule, "{}", one_line(text)),
            }
        }
    }

    /// How long a tool is left alone whose credential is not accepted.
    pub(super) fn is_barred(&mut self, subject: &Subject, now: Instant) -> Option<Duration> {
        let tool = subject.name.as_deref();
        let tool = tool.filter(|_| subject.capability == Capability::Tool)?;
        let wait = self.credential_breaker.bars(tool, now)?;
        let credential = self.policy.credential_of(tool);
        self.metrics.credential_problem(credential, "refused");
        Some(wait)
    }

    /// What an answer says of the credential that its call was made with.
    pub(super) fn watch_credential(&mut self, subject: &Subject, notes: &[Note], now: Instant) {
        let Some(tool) = &subject.name else {
            return;
        };
        if subject.capability != Capability::Tool {
            return;
        }
        let said = notes.iter().find_map(|note| match note {
            Note::Credential { problem, invalid } => Some((*problem, *invalid)),
            _ => None,
        });
        let invalid = said.is_some_and(|(_, invalid)| invalid);
        self.credential_breaker.answered(tool, invalid, now);
        let Some((problem, _)) = said else { return };
        let credential = self.policy.credential_of(tool);
        self.metrics.credential_problem(credential, "failed");
        let key = ("credentials.problem", subject.name.clone());
        // Tools are of the server's making: it must not fill the log, or the memory, with them.
        if self.explained.len() < EXPLAINED && self.explained.insert(key) {
            let tool = &self.names.shown(self.policy.scrubber(), tool);
            tracing::warn!(
                "the server's credential is at fault ({problem}) in a call of {}; credential: {credential}",
                one_line(tool)
            );
        }
    }

    /// Tells the operator, once for each rule and target, what was refused and what would allow it.
    pub(super) fn explain(&mut self, refused: &Refusal, subject: &Subject) {
        let key = (refused.rule, subject.name.clone());
        if self.explained.len() >= EXPLAINED || !self.explained.insert(key) {
            return;
        }
        let hint = refused.operator_hint.as_deref();
        let hint = hint.map(|hint| self.shown_hint(hint));
        let subject = self.shown(subject);
        let shown = one_line(subject.name.as_deref().unwrap_or_default());
        let method = one_line(&subject.method);
        match hint {
            Some(hint) => tracing::warn!(
                "refused {method} {shown} by rule {}; the setting behind it: {hint}",
                refused.rule
            ),
            None => tracing::warn!("refused {method} {shown} by rule {}", refused.rule),
        }
    }
}

/// A caller as audit lines name it.
pub(super) fn asker(caller: &Caller) -> crate::audit::Caller<'_> {
    crate::audit::Caller {
        client: &caller.client,
        tenant: caller.tenant.as_deref(),
        user: caller.user.as_deref(),
        how: caller.how.as_str(),
    }
}
