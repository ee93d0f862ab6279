//! The path of a message, top to bottom: prove, decide, apply. `transport` has framed the line; the
//! event loop writes what comes back.

use super::address::{Address, To};
use super::asks::Asked;
use super::guarding::Guarded;
use super::listing::Parked;
use super::pending::{Open, State};
use super::reply::{self, own};
use super::session::{Outbox, Passage, Session};
use super::turns::Turn;
use crate::identity::Caller;
use crate::mcp::method::{CANCELLED, INITIALIZE, INITIALIZED, PROGRESS};
use crate::mcp::{self, Direction, Envelope, Era, Id, Kind, Malformed, Raw, RequestId, Subject};
use crate::policy::{Decision, Origin, PROTOCOL_NO_ID, Refusal, Verdict, fold};
use crate::telemetry::{Kind as MessageKind, Outcome};
use smol_str::SmolStr;
use std::sync::Arc;
use std::time::Instant;
use zeroize::Zeroize;

/// An error result of at most this many bytes is searched for complaints about the cell.
const COMPLAINT: usize = 16 * 1024;

/// A request of at most this many bytes is kept while it is open, when it may safely be asked again.
const REPEATED: usize = 64 * 1024;

impl Session {
    /// One line of a client of the listener.
    pub fn client_line_of(
        &mut self,
        line: &[u8],
        caller: Option<&Arc<Caller>>,
        now: Instant,
        out: &mut Outbox,
    ) -> Passage {
        self.told_apart |= caller.is_some();
        self.asking = caller.cloned();
        let passage = self.client_line(line, now, out);
        self.asking = None;
        passage
    }

    /// One line of the client.
    pub fn client_line(&mut self, line: &[u8], now: Instant, out: &mut Outbox) -> Passage {
        // Borrowed where it was made: an envelope is large.
        let proved = mcp::parse(line, Direction::ToServer);
        let envelope = match &proved {
            Ok(envelope) => envelope,
            Err(malformed) => {
                self.malformed_from_client(line, malformed, out);
                return Passage::Stop;
            }
        };
        match &envelope.kind {
            Kind::Request { id, params, .. } => {
                self.client_request(envelope, *id, *params, now, out)
            }
            Kind::Notification { method, params } => {
                let subject = Subject::of(envelope);
                let decision = self.policy.client(
                    envelope,
                    subject.as_ref(),
                    self.era,
                    &mut self.tools,
                    self.asking.as_deref(),
                );
                match &**method {
                    CANCELLED => {
                        let told = matches!(decision.verdict, Verdict::Forward);
                        self.client_cancels(*params, told, now, out);
                    }
                    INITIALIZED => self.handshake.initialized(line),
                    _ => {}
                }
                self.apply(
                    Direction::ToServer,
                    MessageKind::Notification,
                    (envelope, subject.as_ref()),
                    decision,
                )
            }
            Kind::Result { id, .. } | Kind::Error { id: Some(id), .. } => {
                let Some(asked) = self.server.close(&id.key()) else {
                    return self.nobody_waits(Direction::ToServer, line);
                };
                self.client.excuse_all(now);
                let decision = self
                    .policy
                    .client(envelope, None, self.era, &mut self.tools, None);
                let passage = self.apply(
                    Direction::ToServer,
                    MessageKind::Response,
                    (envelope, None),
                    decision,
                );
                match asked {
                    Asked::AsIs => passage,
                    Asked::Renamed(raw) => rename(passage, line, Direction::ToServer, &raw),
                }
            }
            Kind::Error { id: None, .. } => self.nobody_waits(Direction::ToServer, line),
        }
    }

    fn client_request(
        &mut self,
        envelope: &Envelope<'_>,
        id: Id<'_>,
        params: Option<Raw<'_>>,
        now: Instant,
        out: &mut Outbox,
    ) -> Passage {
        let bytes = envelope.line.len();
        let Some(subject) = Subject::of(envelope) else {
            return Passage::Stop;
        };
        let key = id.key();
        let era = Era::of(envelope).unwrap_or(self.era);
        let count = |session: &mut Self, outcome| {
            session
                .tally
                .message(Direction::ToServer, MessageKind::Request, outcome, bytes);
        };
        let arguments = envelope.arguments();
        let arguments = arguments.filter(|_| subject.capability == mcp::Capability::Tool);
        let arguments = self.arguments(arguments.map(|arguments| arguments.text));

        let turn_away = |session: &mut Self, refused: &Refusal, out: &mut Outbox| {
            reply::refusal(&mut out.to_client, id.raw, refused, era);
            session.refused(Some(id.raw), &subject, refused, bytes, &arguments);
            count(session, Outcome::Refuse);
            Passage::Stop
        };

        if self.client.contains(&key) || self.listing.holds(&key) {
            return turn_away(self, &own::duplicate_id(), out);
        }
        if self.client.is_full() {
            return turn_away(self, &own::crowded(&subject), out);
        }
        if !self.switched_off.is_empty() && self.is_off(&subject) {
            return turn_away(self, &own::tool_off(&subject), out);
        }
        if let Some(wait) = self.is_barred(&subject, now) {
            return turn_away(self, &own::credential_breaker(&subject, wait), out);
        }
        if !self.client_named {
            self.learn_client(envelope, &subject.method, params);
        }

        let caller = self.asking.as_deref();
        let decision = self
            .policy
            .client(envelope, Some(&subject), era, &mut self.tools, caller);
        self.note(&decision.notes);
        let (passage, outcome) = match decision.verdict {
            Verdict::Forward => (Passage::Pass, Outcome::Forward),
            Verdict::Rewrite(line) => (Passage::Replace(line), Outcome::Rewrite),
            Verdict::Drop => (Passage::Stop, Outcome::Drop),
            Verdict::Refuse(refused) => return turn_away(self, &refused, out),
            Verdict::NeedTools => {
                let caller = self.asking.as_ref();
                if !self
                    .listing
                    .park(key, envelope, era, caller, now, &mut out.to_server)
                {
                    return turn_away(self, &own::busy(&subject), out);
                }
                return Passage::Stop;
            }
        };
        let held = match self.guard(envelope, &subject, now, out) {
            Guarded::Free => None,
            Guarded::Through(held) => Some(held),
            Guarded::Answered => {
                count(self, Outcome::Refuse);
                return Passage::Stop;
            }
            Guarded::Refused(refused) => return turn_away(self, &refused, out),
        };
        // What is kept holds no credential: a call is filled in again whenever it is asked again.
        let filled = matches!(passage, Passage::Replace(_));
        let line = envelope.line;
        let limit = self.policy.deadlines(&subject);
        let waits = (!filled).then_some(line);
        let turn = match self.take_turn(&subject, (&key, waits), limit, now, out) {
            Ok(turn) => turn,
            Err(refused) => return turn_away(self, &refused, out),
        };
        count(self, outcome);
        if subject.capability != mcp::Capability::Tool {
            self.handshake.passed_on(&subject, line);
        }
        let repeatable = self.policy.repeatable(&subject);
        let repeats = line.len() <= REPEATED && repeatable;
        let line = (repeats || filled).then(|| line.into());
        let mut open = Open::new(
            id.raw,
            Origin {
                subject,
                era,
                caller: self.asking.clone(),
            },
            now,
            bytes,
            arguments,
            limit,
        );
        (open.line, open.filled, open.repeats) = (line, filled, repeats);
        open.held = held;
        open.token = mcp::wanted_progress(envelope).map(|token| token.key());
        let passage = match turn {
            Turn::Free => passage,
            Turn::Later => {
                if let Passage::Replace(mut line) = passage {
                    line.zeroize();
                }
                Passage::Stop
            }
            Turn::Now(place) => {
                open.place = Some(place);
                passage
            }
        };
        if !repeatable && !matches!(passage, Passage::Stop) {
            let scrubber = self.policy.scrubber();
            let shown = |name: &SmolStr| self.names.shown(scrubber, name);
            open.note_begin(&self.audit, shown, now);
        }
        self.client.insert(key, open);
        self.tally.open(self.client.waiting());
        passage
    }

    /// Compared as policy compares denied names: no second spelling passes.
    pub(super) fn is_off(&self, subject: &Subject) -> bool {
        let name = match subject.capability {
            mcp::Capability::Tool => subject.name.as_deref(),
            _ => return false,
        };
        let folded = name.map(fold);
        // A call without a readable name may be any.
        folded.is_none_or(|name| self.switched_off.iter().any(|off| fold(off) == name))
    }

    /// A call that has waited for the tool list goes on.
    pub(super) fn resume(&mut self, parked: &Parked, now: Instant, out: &mut Outbox) {
        let line = &*parked.line;
        match self.client_line_of(line, parked.caller.as_ref(), now, out) {
            Passage::Pass => {
                out.to_server.extend_from_slice(line);
                out.to_server.push(b'\n');
            }
            Passage::Replace(line) => {
                out.to_server.extend_from_slice(&line);
                out.to_server.push(b'\n');
            }
            Passage::Stop => {}
        }
    }

    /// One line of the server.
    pub fn server_line(&mut self, line: &[u8], now: Instant, out: &mut Outbox) -> Passage {
        self.pulse.beat(now);
        match &mcp::parse(line, Direction::ToClient) {
            Ok(envelope) => self.server_message(envelope, now, out),
            Err(malformed) => {
                self.malformed_from_server(line, malformed, now, out);
                Passage::Stop
            }
        }
    }

    /// One line of the server that is proved already.
    pub fn server_message(
        &mut self,
        envelope: &Envelope<'_>,
        now: Instant,
        out: &mut Outbox,
    ) -> Passage {
        let line = envelope.line;
        match &envelope.kind {
            Kind::Result { id, .. } | Kind::Error { id: Some(id), .. } => {
                self.server_answer(envelope, *id, now, out)
            }
            Kind::Request { id, .. } => self.server_asks(envelope, *id, out),
            Kind::Notification { method, params } => {
                // A token that cannot be read is none that the client gave.
                if method == PROGRESS
                    && !mcp::reported_progress(*params)
                        .is_some_and(|token| self.client.progress(&token.key(), now))
                {
                    return self.nobody_waits(Direction::ToClient, line);
                }
                let hearer = self.hearer(envelope);
                let hearer = hearer.as_deref();
                let decision = self.policy.server(envelope, None, &mut self.tools, hearer);
                self.apply(
                    Direction::ToClient,
                    MessageKind::Notification,
                    (envelope, None),
                    decision,
                )
            }
            // Names no request, so it closes none and can be taken for no answer.
            Kind::Error { id: None, .. } => {
                let decision = self.policy.server(envelope, None, &mut self.tools, None);
                self.apply(
                    Direction::ToClient,
                    MessageKind::Response,
                    (envelope, None),
                    decision,
                )
            }
        }
    }

    /// Who will hear a notification: whoever has the process for itself, or has opened the stream that
    /// it names.
    fn hearer(&self, envelope: &Envelope<'_>) -> Option<Arc<Caller>> {
        if !self.told_apart {
            return None;
        }
        if let Some(owner) = &self.owner {
            return Some(Arc::clone(owner));
        }
        match Address::of(envelope).to {
            To::Stream(number) => self.client.caller(&RequestId::Number(number)),
            _ => None,
        }
    }

    fn server_answer(
        &mut self,
        envelope: &Envelope<'_>,
        id: Id<'_>,
        now: Instant,
        out: &mut Outbox,
    ) -> Passage {
        let key = id.key();
        if self.listing.is_ours(&key) {
            if self.handshake.closes(&key) {
                self.replayed(envelope, now, out);
                return Passage::Stop;
            }
            let done = self
                .listing
                .answered(&key, envelope, &mut self.tools, &mut out.to_server);
            if done.is_some() && self.tools.take_difference() {
                self.announce_tools(out);
            }
            for parked in done.unwrap_or_default() {
                self.resume(&parked, now, out);
            }
            return Passage::Stop;
        }
        let Some(open) = self.client.close(&key) else {
            return match self.client.rounded(&key) {
                Some(meant) => self.restore_id(envelope, id, &meant, now, out),
                None => self.nobody_waits(Direction::ToClient, envelope.line),
            };
        };
        if open.state == State::Expired {
            return self.nobody_waits(Direction::ToClient, envelope.line);
        }
        self.answered = true;

        let caller = open.origin.caller.as_deref();
        // Next to always there is but one policy.
        let then = (!self.earlier.is_empty()).then(|| self.policy_then(open.order()));
        let policy = then.as_deref().unwrap_or(&self.policy);
        let decision = policy.server(envelope, Some(&open.origin), &mut self.tools, caller);
        let decision = match open.held {
            None => decision,
            Some(_) => self.weighed(&open, envelope, decision, now),
        };
        self.note(&decision.notes);
        self.watch_credential(&open.origin.subject, &decision.notes, now);
        let bytes = envelope.line.len();
        let status = match &envelope.kind {
            _ if open.state == State::Cancelled => "cancelled",
            Kind::Error { .. } => "error",
            Kind::Result { .. } if envelope.failed() => "tool_error",
            _ => "success",
        };
        if matches!(status, "error" | "tool_error") && bytes <= COMPLAINT {
            self.explain_denial(envelope.line);
        }
        let (passage, outcome, decided) = match decision.verdict {
            Verdict::Rewrite(line) => (Passage::Replace(line), Outcome::Rewrite, "rewrite"),
            Verdict::Refuse(refused) => {
                self.answer_for_server(&open, &refused, "refused", now, out);
                let kind = MessageKind::Response;
                self.tally
                    .message(Direction::ToClient, kind, Outcome::Refuse, bytes);
                self.end(open, now, out);
                return Passage::Stop;
            }
            // An answer is never dropped and needs no list: it closes a request that waits.
            _ => (Passage::Pass, Outcome::Forward, "forward"),
        };
        if open.origin.subject.method == INITIALIZE
            && let Kind::Result { result, .. } = &envelope.kind
        {
            self.handshake.told(result.text);
        }
        self.tally
            .message(Direction::ToClient, MessageKind::Response, outcome, bytes);
        self.finished(&open, decided, decision.rule, status, bytes, now);
        self.end(open, now, out);
        passage
    }

    /// The server rounded the id (see `Pending::rounded`): its answer gets the id that was asked.
    fn restore_id(
        &mut self,
        envelope: &Envelope<'_>,
        id: Id<'_>,
        meant: &RequestId,
        now: Instant,
        out: &mut Outbox,
    ) -> Passage {
        let Some(raw) = self.client.raw_id(meant) else {
            return Passage::Stop;
        };
        let line = id.replaced(envelope.line, raw);
        match self.server_line(&line, now, out) {
            Passage::Pass => Passage::Replace(line),
            other => other,
        }
    }

    fn server_asks(&mut self, envelope: &Envelope<'_>, id: Id<'_>, out: &mut Outbox) -> Passage {
        let decision = self.policy.server(envelope, None, &mut self.tools, None);
        let kind = MessageKind::Request;
        if let Verdict::Refuse(refused) = &decision.verdict {
            reply::refusal(&mut out.to_server, id.raw, refused, self.era);
            self.metrics.refusal(Direction::ToClient, refused.rule);
            self.unread(
                Direction::ToClient,
                Some(id.raw),
                refused.rule,
                "refused",
                envelope.line.len() as u64,
            );
            self.tally.message(
                Direction::ToClient,
                kind,
                Outcome::Refuse,
                envelope.line.len(),
            );
            return Passage::Stop;
        }
        let Some(asked) = self.server.open(id, || self.listing.own_id()) else {
            let refused = own::duplicate_id();
            reply::refusal(&mut out.to_server, id.raw, &refused, self.era);
            self.tally.message(
                Direction::ToClient,
                kind,
                Outcome::Refuse,
                envelope.line.len(),
            );
            return Passage::Stop;
        };
        let passage = self.apply(Direction::ToClient, kind, (envelope, None), decision);
        match asked {
            Asked::AsIs => passage,
            Asked::Renamed(raw) => rename(passage, envelope.line, Direction::ToClient, &raw),
        }
    }

    /// Carries out a decision on a message that nobody here waits for.
    fn apply(
        &mut self,
        direction: Direction,
        kind: MessageKind,
        (envelope, subject): (&Envelope<'_>, Option<&Subject>),
        decision: Decision,
    ) -> Passage {
        self.note(&decision.notes);
        let mut rule = decision.rule;
        let (passage, outcome) = match decision.verdict {
            Verdict::Forward => (Passage::Pass, Outcome::Forward),
            Verdict::Rewrite(line) => (Passage::Replace(line), Outcome::Rewrite),
            Verdict::Refuse(_) | Verdict::Drop => (Passage::Stop, Outcome::Drop),
            // What nobody waits for does not wait itself, and is not passed unchecked.
            Verdict::NeedTools => {
                rule = Some(PROTOCOL_NO_ID);
                (Passage::Stop, Outcome::Drop)
            }
        };
        let bytes = envelope.line.len();
        self.tally.message(direction, kind, outcome, bytes);
        if let (Outcome::Drop, Some(rule)) = (outcome, rule) {
            self.metrics.refusal(direction, rule);
            self.dropped(direction, subject, rule, bytes);
        }
        passage
    }

    /// An answer (or progress) for an id that is not open goes nowhere.
    fn nobody_waits(&mut self, direction: Direction, line: &[u8]) -> Passage {
        self.metrics.answers_to_nobody.inc();
        self.tally
            .message(direction, MessageKind::Response, Outcome::Drop, line.len());
        self.unread(
            direction,
            None,
            "protocol.unasked",
            "dropped",
            line.len() as u64,
        );
        Passage::Stop
    }

    pub(super) fn malformed_from_client(
        &mut self,
        line: &[u8],
        malformed: &Malformed,
        out: &mut Outbox,
    ) {
        // The id of an open request belongs to that request's own answer.
        let id = malformed.id.as_ref();
        let free = id.filter(|(_, key)| !self.client.contains(key) && !self.listing.holds(key));
        let raw_id = free.map(|(raw, _)| &**raw);
        reply::malformed(&mut out.to_client, raw_id, malformed.fault, self.era);
        self.tally.message(
            Direction::ToServer,
            MessageKind::Malformed,
            Outcome::Refuse,
            line.len(),
        );
        self.metrics
            .refusal(Direction::ToServer, "protocol.malformed");
        self.unread(
            Direction::ToServer,
            raw_id,
            "protocol.malformed",
            "malformed",
            line.len() as u64,
        );
    }

    /// A broken answer to an open request is answered for the server; anything else is noise.
    fn malformed_from_server(
        &mut self,
        line: &[u8],
        malformed: &Malformed,
        now: Instant,
        out: &mut Outbox,
    ) {
        let answered = malformed.id.as_ref().filter(|_| !malformed.request);
        let open = answered.and_then(|(_, key)| self.client.close(key));
        if let Some((_, key)) = answered {
            self.list_failed(key, now, out);
        }
        match open.filter(|open| open.state != State::Expired) {
            Some(open) => {
                let why = malformed.fault.to_string();
                let refused = own::broken_answer(&open.origin.subject, &why);
                self.answer_for_server(&open, &refused, "malformed", now, out);
                self.end(open, now, out);
                self.noise(line);
            }
            None => self.noise(line),
        }
    }

    /// Who the client is: in `initialize`, or in `_meta` of a modern request.
    fn learn_client(&mut self, envelope: &Envelope<'_>, method: &str, params: Option<Raw<'_>>) {
        let info = match method {
            INITIALIZE => params.and_then(|params| params.member("clientInfo")),
            _ => envelope.client(),
        };
        if let Some(info) = info {
            self.name_client(info);
        }
    }
}

/// The same message with another id (raw).
fn rename(passage: Passage, line: &[u8], direction: Direction, raw: &[u8]) -> Passage {
    let line = match &passage {
        Passage::Pass => line,
        Passage::Replace(line) => line,
        Passage::Stop => return Passage::Stop,
    };
    // What came out of policy is a message with an id, or it would not have been passed.
    let Ok(envelope) = mcp::parse(line, direction) else {
        return Passage::Stop;
    };
    match &envelope.kind {
        Kind::Request { id, .. } | Kind::Result { id, .. } | Kind::Error { id: Some(id), .. } => {
            Passage::Replace(id.replaced(line, raw))
        }
        Kind::Notification { .. } | Kind::Error { id: None, .. } => Passage::Stop,
    }
}
