//! The state of one client's conversation with one server, and everything but the path of a message.
//!
//! ```text
//! Open ── end of the client's input ──▶ Draining ── server gone ──▶ Closed: every open request answered
//!   └──────────────── server gone ─────────────────────────────────▶ Closed
//! ```

use super::asks::Asks;
use super::books::asker;
use super::guarding::Guarding;
use super::handshake::Handshake;
use super::listing::{Listing, Parked};
use super::pending::{Expiry, Open, Pending};
use super::pulse::Pulse;
use super::reply::{self, own};
use super::revival::Kept;
use super::shown::Names;
use super::turns::Turns;
use crate::audit::{Denial, Log, Record};
use crate::cell::denial::{Denials, Grants};
use crate::config::{Config, Payloads};
use crate::identity::Caller;
use crate::mcp::{Direction, Envelope, Era, OversizeId, Raw, RequestId, Subject};
use crate::policy::scrub::Finding;
use crate::policy::{CredentialBreaker, LIMITS_RESPONSE, Policy, Refusal, RetryBudget, ToolBook};
use crate::telemetry::{Kind as MessageKind, Metrics, Outcome, Tally};
use crate::transport::terminal::sanitize;
use smol_str::SmolStr;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of a line of noise that are cleaned, and characters of it that are shown.
const NOISE: usize = 4096;
const NOISE_SHOWN: usize = 200;

/// What happens to the line that was handed in.
#[derive(Debug)]
pub enum Passage {
    /// These very bytes go on.
    Pass,
    /// These go on instead (one line, no LF).
    Replace(Vec<u8>),
    /// Nothing goes on.
    Stop,
}

/// Lines of our own (LF included), for the loop to send after what has passed already.
#[derive(Debug, Default)]
pub struct Outbox {
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
}

/// One conversation.
#[derive(Debug)]
pub struct Session {
    pub(super) policy: Arc<Policy>,
    /// Policies that decide on answers to what was asked while they were in force: up to this place in
    /// the order of arrival.
    pub(super) earlier: Vec<(u64, Arc<Policy>)>,
    pub(super) tools: ToolBook,
    /// The era of a request that does not say: fixed by `initialize`.
    pub(super) era: Era,
    pub(super) client: Pending,
    pub(super) server: Asks,
    pub(super) listing: Listing,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tally: Tally,
    pub(super) denials: Denials,
    pub(super) scratch: Vec<Finding>,
    pub(super) client_named: bool,
    pub(super) handshake: Handshake,
    /// Requests and calls that wait for the next server.
    pub(super) kept: Vec<Kept>,
    pub(super) parked: Vec<Parked>,
    pub(super) estranged: Option<String>,
    /// The server has answered its client since it was started.
    pub(super) answered: bool,
    pub(super) pulse: Pulse,
    /// Whose line is being looked at; `None` on stdin and stdout.
    pub(super) asking: Option<Arc<Caller>>,
    /// Who has the process for itself, behind a listener.
    pub(super) owner: Option<Arc<Caller>>,
    /// Somebody who is known has asked for something.
    pub(super) told_apart: bool,
    /// Several clients share the process.
    pub(super) shared: bool,
    /// The server has a stream for each request, which is closed when a modern one is cancelled.
    pub(super) streams: bool,
    /// `None` where nothing is guarded.
    pub(super) guarding: Option<Guarding>,
    /// `None` where nothing is limited here.
    pub(super) turns: Option<Box<Turns>>,
    pub(super) retries: RetryBudget,
    pub(super) begun: Instant,
    /// Tools that the operator has switched off.
    pub(super) switched_off: BTreeSet<String>,
    pub(super) audit: Log,
    pub(super) payloads: Payloads,
    pub(super) caps: Caps,
    noise_shown: bool,
    pub(super) credential_breaker: CredentialBreaker,
    pub(super) names: Names,
    pub(super) explained: HashSet<(&'static str, Option<SmolStr>)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    request: u64,
    response: u64,
}

impl Caps {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            request: config.limits.request.0,
            response: config.limits.response.0,
        }
    }
}

impl Session {
    /// A conversation that has not begun.
    #[must_use]
    pub fn new(config: &Config, policy: Arc<Policy>, audit: Log, metrics: Arc<Metrics>) -> Self {
        Self {
            policy,
            earlier: Vec::new(),
            tools: ToolBook::default(),
            era: Era::Legacy,
            client: Pending::default(),
            server: Asks::default(),
            listing: Listing::new(),
            tally: Tally::new(Arc::clone(&metrics)),
            metrics,
            denials: Denials::new(Grants::from(&config.cell)),
            scratch: Vec::new(),
            client_named: false,
            handshake: Handshake::default(),
            kept: Vec::new(),
            parked: Vec::new(),
            estranged: None,
            answered: false,
            pulse: Pulse::new(Instant::now()),
            asking: None,
            owner: None,
            told_apart: false,
            shared: false,
            streams: config.server.upstream.is_some(),
            guarding: Guarding::new(config),
            turns: Turns::new(config),
            retries: RetryBudget::new(config.retry),
            begun: Instant::now(),
            switched_off: BTreeSet::new(),
            audit,
            payloads: config.audit.payloads,
            caps: Caps::of(config),
            noise_shown: false,
            credential_breaker: CredentialBreaker::default(),
            names: Names::default(),
            explained: HashSet::new(),
        }
    }

    /// The audit log, for the loop to flush when it has nothing else to do.
    pub fn audit(&mut self) -> &mut Log {
        &mut self.audit
    }

    /// True when audit lines or counts wait for the loop to have nothing else to do.
    #[must_use]
    pub fn restless(&self) -> bool {
        self.audit.waiting() || self.tally.waits()
    }

    /// Gives the memory of a burst back.
    pub fn shrink(&mut self) {
        self.audit.shrink();
        self.client.shrink();
    }

    /// What is counted here, for the loop to publish when it has nothing else to do.
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Requests of the client that have no answer yet.
    #[must_use]
    pub fn open(&self) -> usize {
        self.client.waiting()
    }

    /// True while calls wait for the tool list: the server's input must stay open for them.
    #[must_use]
    pub fn holds_calls(&self) -> bool {
        self.listing.holds_any() || self.has_waiting()
    }

    /// The process works for this caller alone.
    pub fn belongs_to(&mut self, caller: Arc<Caller>) {
        self.owner = Some(caller);
    }

    /// The process works for many: none of them gives its name to the audit lines of all.
    pub fn serves_many(&mut self) {
        self.client_named = true;
        self.shared = true;
    }

    /// Requests that do not say their era are of this one.
    pub fn set_era(&mut self, era: Era) {
        self.era = era;
    }

    /// What is known of the server's tools.
    #[must_use]
    pub fn tools(&self) -> &ToolBook {
        &self.tools
    }

    /// Asks for the tool list on behalf of `envelope`, unless it is being asked for; then
    /// [`Session::tools`] settles.
    pub fn ask_for_tools(&mut self, envelope: &Envelope<'_>, now: Instant, out: &mut Outbox) {
        let era = Era::of(envelope).unwrap_or(self.era);
        self.listing.begin(envelope, era, now, &mut out.to_server);
    }

    /// When [`Session::tick`] has work at the earliest.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let due = [
            self.client.next_due(),
            self.listing.next_due(),
            self.pulse.due(),
            self.waiting_due(),
        ];
        due.into_iter().flatten().min()
    }

    fn note_expired(
        &mut self,
        expired: &Expiry,
        (decision, rule, status): (&'static str, Option<&'static str>, &'static str),
        response_bytes: usize,
        now: Instant,
    ) {
        let shown = self.shown(&expired.origin.subject);
        self.audit.record(
            &Record {
                direction: Direction::ToClient,
                subject: Some(&shown),
                id: Some(&expired.raw_id),
                decision,
                rule,
                status,
                latency: Some(expired.waited),
                request_bytes: expired.bytes,
                response_bytes,
                arguments: &expired.arguments,
                caller: expired.origin.caller.as_deref().map(asker),
            },
            now,
        );
    }

    /// Answers what has waited too long, and tells the server to stop working on it.
    pub fn tick(&mut self, now: Instant, out: &mut Outbox) {
        if self.server.any() {
            // The server waits for the client, perhaps for a person: that is not its silence.
            self.client.excuse_all(now);
        }
        self.end_waiting(now, out);
        for expired in self.client.expire(now) {
            if let Some(held) = expired.held.as_ref().filter(|_| expired.wanted) {
                self.settle(held, "timeout", now);
            }
            if expired.wanted {
                self.metrics.timeouts.inc();
            }
            if self.pulse.doubt(expired.since, now) {
                let id = self.listing.own_id();
                let ping = format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{id}\",\"method\":\"ping\"}}\n");
                out.to_server.extend_from_slice(ping.as_bytes());
            }
            reply::cancelled(&mut out.to_server, &expired.raw_id, "timeout");
            if !expired.wanted {
                // It was cancelled, and no answer has come.
                self.observe(&expired.origin.subject, "cancelled", expired.waited);
                self.note_expired(&expired, ("forward", None, "cancelled"), 0, now);
                continue;
            }
            let refused = own::timeout(&expired.origin.subject, expired.waited);
            let before = out.to_client.len();
            reply::refusal(
                &mut out.to_client,
                &expired.raw_id,
                &refused,
                expired.origin.era,
            );
            let response_bytes = out.to_client.len() - before;
            self.explain(&refused, &expired.origin.subject);
            self.metrics.refusal(Direction::ToClient, refused.rule);
            self.observe(&expired.origin.subject, refused.rule, expired.waited);
            let refuse = ("refuse", Some(refused.rule), "timeout");
            self.note_expired(&expired, refuse, response_bytes, now);
        }
        for parked in self.listing.expire(now, &mut self.tools) {
            self.resume(&parked, now, out);
        }
        self.advance(now, out);
        self.tally.open(self.client.waiting());
    }

    /// A line of the client above the cap was skipped.
    pub fn oversize_from_client(&mut self, id: Option<OversizeId>, bytes: u64, out: &mut Outbox) {
        let refused = own::request_too_large(bytes, self.caps.request);
        self.metrics.refusal(Direction::ToServer, refused.rule);
        tracing::warn!(
            "a line of {bytes} bytes from the client is above the limit of {}: raise it with --request-limit",
            self.caps.request
        );
        // An answer of the client to the server is lost, and the server is told nothing: it has
        // limits of its own for how long it waits.
        // Nor is the id of an open request answered for another one.
        let free = id.filter(|id| !self.client.contains(&id.key) && !self.listing.holds(&id.key));
        if let Some(id) = free.filter(|id| id.request) {
            reply::refusal(&mut out.to_client, &id.raw, &refused, self.era);
            self.unread(
                Direction::ToServer,
                Some(&id.raw),
                refused.rule,
                "refused",
                bytes,
            );
        } else {
            self.unread(Direction::ToServer, None, refused.rule, "dropped", bytes);
        }
    }

    /// A line of the server above the cap was skipped: the request that it answers gets an answer.
    pub fn oversize_from_server(
        &mut self,
        id: Option<OversizeId>,
        bytes: u64,
        now: Instant,
        out: &mut Outbox,
    ) {
        let rule = LIMITS_RESPONSE;
        self.metrics.refusal(Direction::ToClient, rule);
        tracing::warn!(
            "a line of {bytes} bytes from the server is above the limit of {}: raise it with --response-limit",
            self.caps.response
        );
        let answer = id.filter(|id| !id.request);
        if let Some(id) = &answer {
            self.list_failed(&id.key, now, out);
        }
        match answer.and_then(|id| self.client.close(&id.key)) {
            Some(open) => {
                let refused =
                    own::response_too_large(&open.origin.subject, bytes, self.caps.response);
                self.answer_for_server(&open, &refused, "refused", now, out);
                self.end(open, now, out);
            }
            None => self.unread(Direction::ToClient, None, rule, "dropped", bytes),
        }
    }

    /// If that was the answer to our own question, the calls that wait for it go on without.
    pub(super) fn list_failed(&mut self, id: &RequestId, now: Instant, out: &mut Outbox) {
        for parked in self.listing.failed(id, &mut self.tools) {
            self.resume(&parked, now, out);
        }
    }

    /// The server has ended (`how`): every request that still waits is answered.
    pub fn server_gone(&mut self, how: &str, now: Instant, out: &mut Outbox) {
        self.pause_turns(true);
        self.refuse_waiting(now, out);
        for open in self.client.drain() {
            let refused = own::server_gone(&open.origin.subject, how);
            self.answer_for_server(&open, &refused, "unavailable", now, out);
        }
        self.kept.clear();
        let waiting: Vec<Parked> = self.parked.drain(..).chain(self.listing.drain()).collect();
        for parked in waiting {
            self.after_the_end(&parked.line, out);
        }
    }

    /// A line of the client that came when the server was not there (any more).
    pub fn after_the_end(&mut self, line: &[u8], out: &mut Outbox) {
        self.answer_without(line, None, out);
    }

    /// Answers a line in the place of a server that is not there; `wait`: when it may be back.
    pub(super) fn answer_without(
        &mut self,
        line: &[u8],
        wait: Option<std::time::Duration>,
        out: &mut Outbox,
    ) {
        self.answer_as(line, out, |subject| own::unavailable(subject, wait));
    }

    pub(super) fn answer_as(
        &mut self,
        line: &[u8],
        out: &mut Outbox,
        refuse: impl FnOnce(&Subject) -> Refusal,
    ) {
        use crate::mcp::{Kind, parse};
        let envelope = match parse(line, Direction::ToServer) {
            Ok(envelope) => envelope,
            Err(malformed) => return self.malformed_from_client(line, &malformed, out),
        };
        let Kind::Request { id, .. } = &envelope.kind else {
            return;
        };
        let Some(subject) = Subject::of(&envelope) else {
            return;
        };
        let era = Era::of(&envelope).unwrap_or(self.era);
        let refused = refuse(&subject);
        reply::refusal(&mut out.to_client, id.raw, &refused, era);
        self.metrics.refusal(Direction::ToServer, refused.rule);
        self.unread(
            Direction::ToServer,
            Some(id.raw),
            refused.rule,
            "unavailable",
            line.len() as u64,
        );
    }

    /// Sends our own answer where the server's would have gone.
    pub(super) fn answer_for_server(
        &mut self,
        open: &Open,
        refused: &Refusal,
        status: &'static str,
        now: Instant,
        out: &mut Outbox,
    ) {
        let before = out.to_client.len();
        reply::refusal(&mut out.to_client, &open.raw_id, refused, open.origin.era);
        let bytes = out.to_client.len() - before;
        self.explain(refused, &open.origin.subject);
        self.metrics.refusal(Direction::ToClient, refused.rule);
        self.finished(open, "refuse", Some(refused.rule), status, bytes, now);
    }

    /// A line on the server's stdout that is no message: counted, and shown once.
    pub(super) fn noise(&mut self, line: &[u8]) {
        self.metrics.stdout_noise.inc();
        self.tally.message(
            Direction::ToClient,
            MessageKind::Malformed,
            Outcome::Drop,
            line.len(),
        );
        if !self.noise_shown {
            self.noise_shown = true;
            // Cleaned before it is cut: half a secret is no longer found.
            let clean = self.clean(&line[..line.len().min(NOISE)]);
            let start: String = clean.chars().take(NOISE_SHOWN).collect();
            tracing::warn!(
                "the server wrote a line on stdout that is no MCP message; such lines are kept out and counted. It begins: {start}"
            );
        }
    }

    /// What decides now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// Text of the server for a person's eyes: no secrets, no control sequences.
    pub(super) fn clean(&mut self, text: &[u8]) -> String {
        let scrubber = self.policy.scrubber();
        scrubber.text(text, &mut self.scratch);
        if self.scratch.is_empty() {
            return sanitize(text);
        }
        for finding in &self.scratch {
            self.metrics.redaction(finding.detector, 1);
        }
        sanitize(&scrubber.redact(text, &self.scratch))
    }

    /// One line of the server's stderr, for the log.
    pub fn stderr_line(&mut self, line: &[u8]) -> String {
        self.metrics.stderr_lines.inc();
        self.explain_denial(line);
        self.clean(line)
    }

    /// If the server complains of something that the cell denies, says which flag would allow it.
    pub(super) fn explain_denial(&mut self, text: &[u8]) {
        if let Some(denial) = self.denials.note(text) {
            self.note_denial(denial.kind(), "reported", denial.to_string().as_bytes());
        }
    }

    /// One line about what the cell refused; `what` is of our own processes.
    pub fn denied(&mut self, what: &str, text: &[u8]) {
        let known = ["read", "write", "execute", "connect", "listen"];
        let what = known.into_iter().find(|known| *known == what);
        self.denials.told(&String::from_utf8_lossy(text));
        self.note_denial(what.unwrap_or("other"), "refused", text);
    }

    fn note_denial(&mut self, what: &'static str, status: &'static str, text: &[u8]) {
        // It quotes what the server has chosen.
        let text = &self.clean(text).replace('\n', " ");
        self.metrics.denial(what);
        let denial = Denial { what, status, text };
        self.audit.denial(&denial, Instant::now());
        tracing::warn!("{text}");
    }

    /// Names the client in audit lines, once.
    pub(super) fn name_client(&mut self, info: Raw<'_>) {
        let part = |name: &str| info.member(name).and_then(|value| value.as_text());
        if let Some(name) = part("name") {
            let version = part("version").unwrap_or_default();
            self.audit.client(&format!("{name}/{version}"));
            self.client_named = true;
        }
    }
}
