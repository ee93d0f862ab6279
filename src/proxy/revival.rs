//! The server is lost and another one takes its place: what its client has asked is asked again where
//! that is safe, and answered where it is not.
//!
//! ```text
//! served ── server_lost ──▶ kept ── server_back, or taken_over ──▶ (handshake) ──▶ asked again ──▶ served
//!                             │                                        └── estranged: the session ends
//!                             └── server_gone, give_up_waiting ──▶ answered: nobody will
//! ```
//! What the lost one has listed is not taken for the list of the next: that is asked for, and the client is
//! told where it is another.

use super::handshake::Compared;
use super::listing::Parked;
use super::pending::State;
use super::reply::{self, own};
use super::session::{Caps, Outbox, Passage, Session};
use crate::cell::denial::{Denials, Grants};
use crate::config::Config;
use crate::mcp::method::{CANCELLED, INITIALIZED};
use crate::mcp::{self, Direction, Envelope, Kind, RequestId};
use crate::policy::{Origin, Policy, Verdict, micros};
use foldhash::HashSet;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// What waits for the next server.
#[derive(Debug)]
pub(super) struct Kept {
    /// `None` for a notification.
    id: Option<RequestId>,
    line: Box<[u8]>,
}

impl Session {
    /// The server has ended (`how`) and another will be started. `unsent` are the whole lines that it
    /// cannot have read. Requests that it cannot have run, and those that may safely run twice, wait
    /// for the next one; the rest is answered.
    pub fn server_lost(&mut self, how: &str, unsent: &[u8], now: Instant, out: &mut Outbox) {
        self.handshake.forget_question();
        self.pulse.beat(now);
        self.tools.mark_replaced();
        self.pause_turns(true);
        self.retries.earn(self.client.arrivals());
        let micros = micros(now.saturating_duration_since(self.begun));
        let waiting = self.waiting_here();
        let unread = self.unread_by_the_dead(unsent);
        let ids: HashSet<RequestId> = unread.iter().filter_map(|kept| kept.id.clone()).collect();
        let mut again = Vec::new();
        let (retries, mut denied) = (&mut self.retries, 0);
        let lost = self.client.lost(|id, open| {
            if ids.contains(id) || waiting.contains(id) {
                return true;
            }
            let once_more =
                open.state == State::Open && !std::mem::replace(&mut open.retried, true);
            match &open.line {
                Some(_) if once_more && open.repeats && !retries.take(micros) => {
                    denied += 1;
                    false
                }
                Some(line) if once_more && open.repeats => {
                    again.push((open.order(), id.clone(), line.clone()));
                    true
                }
                _ => false,
            }
        });
        if denied > 0 {
            tracing::warn!(
                "{denied} calls are not made again: as many were as may be for now (retry)"
            );
        }
        self.metrics.retries_refused.inc_by(denied);
        for open in lost {
            let refused = own::server_gone(&open.origin.subject, how);
            self.answer_for_server(&open, &refused, "unavailable", now, out);
        }
        again.sort_by_key(|(order, ..)| *order);
        self.metrics.retries.inc_by(again.len() as u64);
        let again = again
            .into_iter()
            .map(|(_, id, line)| Kept { id: Some(id), line });
        self.kept = again.chain(unread).collect();
        self.parked.extend(self.listing.drain());
        for id in self.server.lost() {
            reply::cancelled(&mut out.to_client, id.raw().as_bytes(), "the server ended");
        }
        self.tally.open(self.client.waiting());
    }

    /// Requests whose answer is still wanted, and notifications that are not about the dead server.
    fn unread_by_the_dead(&mut self, unsent: &[u8]) -> Vec<Kept> {
        let lines = unsent.split(|byte| *byte == b'\n');
        let kept = lines.filter_map(|line| {
            let id = match mcp::parse(line, Direction::ToServer).ok()?.kind {
                Kind::Request { id, .. } => Some(id.key()).filter(|id| self.client.is_open(id)),
                // The handshake says that again.
                Kind::Notification { method, .. }
                    if matches!(&*method, INITIALIZED | CANCELLED) =>
                {
                    return None;
                }
                Kind::Notification { .. } => {
                    return Some(Kept {
                        id: None,
                        line: line.into(),
                    });
                }
                Kind::Result { .. } | Kind::Error { .. } => None,
            };
            id.map(|id| {
                // With a credential in it nothing is kept: what the client sent is.
                let line = match self.client.is_filled(&id) {
                    true => Box::default(),
                    false => line.into(),
                };
                Kept { id: Some(id), line }
            })
        });
        kept.collect()
    }

    /// Another server runs: it is told what the lost one knew, or asked at once what waits.
    pub fn server_back(&mut self, now: Instant, out: &mut Outbox) {
        self.answered = false;
        self.pulse.beat(now);
        let id = self.listing.own_id();
        match self.handshake.ask(id) {
            Some(question) => out.to_server.extend_from_slice(&question),
            None => self.ask_again(now, out),
        }
    }

    /// What a server is to be asked that will take the place of the one that serves, and under which id;
    /// `None` while there is nothing that it would have to be told.
    pub fn newcomer_question(&mut self) -> Option<(RequestId, Vec<u8>)> {
        let id = self.listing.own_id();
        let question = self.handshake.question(&id)?;
        Some((RequestId::Text(id.into()), question))
    }

    /// Whether the client could go on with the server that has said this: `None` when it is no answer to
    /// the question with this id.
    pub fn judge_newcomer(&mut self, line: &[u8], asked: &RequestId) -> Option<Result<(), String>> {
        let envelope = mcp::parse(line, Direction::ToClient).ok()?;
        match &envelope.kind {
            Kind::Result { id, result } if id.key() == *asked => {
                Some(match self.handshake.compare(result.text) {
                    Compared::Same | Compared::Announce(_) => Ok(()),
                    Compared::Estranged(why) => Err(why),
                })
            }
            Kind::Error { id: Some(id), .. } if id.key() == *asked => {
                Some(Err("it refuses the handshake".to_owned()))
            }
            _ => None,
        }
    }

    /// Another server serves. One that has answered the handshake, with this line, is told the rest of what
    /// the old one knew, and asked what waits; any other begins as one that was started anew.
    pub fn taken_over(&mut self, answer: Option<&[u8]>, now: Instant, out: &mut Outbox) {
        self.answered = false;
        self.pulse.beat(now);
        match answer.map(|line| mcp::parse(line, Direction::ToClient)) {
            Some(Ok(envelope)) => self.replayed(&envelope, now, out),
            // There was nothing to ask it then; by now the client may have been greeted.
            _ => self.server_back(now, out),
        }
    }

    /// True while a new server has not answered the handshake as it should: nothing else may be sent
    /// to it.
    #[must_use]
    pub fn reviving(&self) -> bool {
        self.handshake.asking() || self.estranged.is_some()
    }

    /// Why the client cannot go on with the new server, if so.
    #[must_use]
    pub fn estranged(&self) -> Option<&str> {
        self.estranged.as_deref()
    }

    /// True when the server has answered its client since it was started.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// True once when the server has let a call expire and does not even say that it is there.
    pub fn has_stopped(&mut self, now: Instant) -> bool {
        self.pulse.has_stopped(now)
    }

    /// The server is made to stand still, or goes on: what it does not say meanwhile says nothing of it.
    pub fn freeze(&mut self, frozen: bool, now: Instant) {
        self.pulse.hold(frozen, now);
        if !frozen {
            self.client.excuse_all(now);
        }
    }

    /// True while the server waits for its client, perhaps for a person.
    #[must_use]
    pub fn asks_client(&self) -> bool {
        self.server.any()
    }

    /// True while the server works on something that the next one could not be asked without harm.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.client.busy() || self.listing.holds_any() || self.server.any()
    }

    /// Messages are decided by this policy from here on, those that are open too: it knows secrets
    /// that an earlier one does not.
    pub fn adopt(&mut self, policy: Arc<Policy>) {
        self.forget_answers();
        self.policy = policy;
        self.names.forget();
        self.earlier.clear();
        self.credential_breaker.reset();
    }

    /// Messages are decided by this configuration from here on; what is open is answered by the one that
    /// it was asked under.
    pub fn renew(&mut self, config: &Config, policy: Arc<Policy>) {
        let before = std::mem::replace(&mut self.policy, policy);
        self.names.forget();
        match self.client.oldest() {
            None => self.earlier.clear(),
            Some(oldest) => {
                self.earlier.retain(|(last, _)| *last >= oldest);
                self.earlier.push((self.client.arrivals(), before));
            }
        }
        self.renew_guards(config);
        self.renew_turns(config);
        self.retries.reload(config.retry);
        self.caps = Caps::of(config);
        self.payloads = config.audit.payloads;
        self.denials = Denials::new(Grants::from(&config.cell));
        self.audit.policy(self.policy.digest());
    }

    /// The policy under which a request was asked.
    pub(super) fn policy_then(&self, order: u64) -> Arc<Policy> {
        let then = self.earlier.iter().find(|(last, _)| order <= *last);
        Arc::clone(then.map_or(&self.policy, |(_, policy)| policy))
    }

    /// True while an answer is owed.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.client.waiting() > 0 || self.listing.holds_any() || !self.parked.is_empty()
    }

    /// The new server has answered our handshake.
    pub(super) fn replayed(&mut self, envelope: &Envelope<'_>, now: Instant, out: &mut Outbox) {
        let compared = match &envelope.kind {
            Kind::Result { result, .. } => self.handshake.compare(result.text),
            _ => Compared::Estranged("it refuses the handshake".to_owned()),
        };
        match compared {
            Compared::Same => {}
            Compared::Announce(lines) => {
                tracing::warn!(
                    "the server says something else of itself than before; the client is told to list again"
                );
                // It lists anew in any case.
                self.tools.mark_told();
                out.to_client.extend_from_slice(&lines);
            }
            Compared::Estranged(why) => {
                self.estranged = Some(why);
                return;
            }
        }
        let listing = &mut self.listing;
        let lines = self.handshake.follow_up(|| listing.own_id());
        out.to_server.extend_from_slice(&lines);
        if self.tools.is_in_doubt() && self.handshake.announces_tools().is_some() {
            self.listing.renew(now, &mut out.to_server);
        }
        self.ask_again(now, out);
    }

    /// The server that serves now has other tools than the last one.
    pub(super) fn announce_tools(&mut self, out: &mut Outbox) {
        self.forget_answers();
        if let Some(lines) = self.handshake.announces_tools() {
            tracing::warn!(
                "the server lists other tools than before; the client is told to list again"
            );
            out.to_client.extend_from_slice(&lines);
        }
    }

    fn ask_again(&mut self, now: Instant, out: &mut Outbox) {
        for kept in std::mem::take(&mut self.kept) {
            if let Some(id) = &kept.id
                && self.client.is_filled(id)
            {
                self.fill_again(id, now, out);
                continue;
            }
            // It may have been cancelled by its deadline meanwhile.
            if kept.id.is_none_or(|id| self.client.is_open(&id)) {
                out.to_server.extend_from_slice(&kept.line);
                out.to_server.push(b'\n');
            }
        }
        for parked in std::mem::take(&mut self.parked) {
            self.resume(&parked, now, out);
        }
        self.pause_turns(false);
        self.advance(now, out);
    }

    /// A call with a credential in it is decided anew when it leaves: by now that may be another one, or
    /// none. It keeps its place and its age.
    pub(super) fn fill_again(&mut self, id: &RequestId, now: Instant, out: &mut Outbox) {
        let Some(open) = self.client.find_open(id) else {
            return;
        };
        let line = open.line.clone().unwrap_or_default();
        let Origin {
            subject,
            era,
            caller,
        } = open.origin.clone();
        let Ok(envelope) = mcp::parse(&line, Direction::ToServer) else {
            return;
        };
        let refused = if !self.switched_off.is_empty() && self.is_off(&subject) {
            Box::new(own::tool_off(&subject))
        } else {
            let (tools, caller) = (&mut self.tools, caller.as_deref());
            let decision = self
                .policy
                .client(&envelope, Some(&subject), era, tools, caller);
            self.note(&decision.notes);
            match decision.verdict {
                Verdict::Rewrite(mut line) => {
                    out.to_server.extend_from_slice(&line);
                    out.to_server.push(b'\n');
                    line.zeroize();
                    return;
                }
                Verdict::Forward => {
                    out.to_server.extend_from_slice(&line);
                    out.to_server.push(b'\n');
                    return;
                }
                Verdict::Refuse(refused) => refused,
                // It waits for the list, and begins anew.
                Verdict::NeedTools | Verdict::Drop => return self.begin_again(id, now, out),
            }
        };
        if let Some(mut open) = self.client.close(id) {
            open.held = None;
            self.answer_for_server(&open, &refused, "refused", now, out);
        }
    }

    fn begin_again(&mut self, id: &RequestId, now: Instant, out: &mut Outbox) {
        let Some(mut open) = self.client.close(id) else {
            return;
        };
        let parked = Parked {
            id: id.clone(),
            line: open.line.take().unwrap_or_default(),
            caller: open.origin.caller.clone(),
        };
        self.resume(&parked, now, out);
        self.client.asked_again(id, &open);
    }

    /// True when a call with a credential in it is open: what has not left yet may have to be
    /// [filled in anew](Session::refill).
    #[must_use]
    pub fn has_filled(&self) -> bool {
        self.client.all().any(|open| open.filled)
    }

    /// Whole lines that have not left yet, with the values that are in force now.
    pub fn refill(&mut self, lines: &[u8], now: Instant, out: &mut Outbox) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let id = match mcp::parse(text, Direction::ToServer).map(|it| it.kind) {
                Ok(Kind::Request { id, .. }) => Some(id.key()),
                _ => None,
            };
            match id.filter(|id| self.client.is_filled(id)) {
                Some(id) if self.client.is_open(&id) => self.fill_again(&id, now, out),
                // Its cancellation follows: the server has never heard of it.
                Some(_) => {}
                None => out.to_server.extend_from_slice(line),
            }
        }
    }

    /// A line of the client that came while the server is away for longer than a line is kept.
    pub fn while_away(&mut self, line: &[u8], wait: Duration, out: &mut Outbox) {
        if !self.answer_stale(line, Instant::now(), out) {
            self.answer_without(line, Some(wait), out);
        }
    }

    /// A line of the client that came while everything is switched off.
    pub fn while_off(&mut self, line: &[u8], out: &mut Outbox) {
        self.answer_as(line, out, own::switched_off);
    }

    /// A line of the client that came while nothing runs, because a server would hold a credential that was
    /// revoked.
    pub fn while_withheld(&mut self, line: &[u8], out: &mut Outbox) {
        self.answer_as(line, out, own::withheld);
    }

    /// A line of the client while nothing new is begun, `off` because the operator wants the server to
    /// stand still: what belongs to an open request goes on.
    pub fn while_closed(
        &mut self,
        line: &[u8],
        off: bool,
        now: Instant,
        out: &mut Outbox,
    ) -> Passage {
        let parsed = mcp::parse(line, Direction::ToServer);
        if !parsed.is_ok_and(|it| matches!(it.kind, Kind::Request { .. })) {
            return self.client_line(line, now, out);
        }
        match off {
            true => self.while_off(line, out),
            false => self.after_the_end(line, out),
        }
        Passage::Stop
    }

    /// These tools may not be called, whatever the policy says.
    pub fn switch_tools(&mut self, tools: BTreeSet<String>) {
        self.switched_off = tools;
    }

    /// What is kept for a server that will not come (soon) is answered.
    pub fn give_up_waiting(&mut self, how: &str, now: Instant, out: &mut Outbox) {
        self.refuse_waiting(now, out);
        for kept in std::mem::take(&mut self.kept) {
            if let Some(open) = kept.id.and_then(|id| self.client.close(&id)) {
                let refused = own::server_gone(&open.origin.subject, how);
                self.answer_for_server(&open, &refused, "unavailable", now, out);
            }
        }
        for parked in std::mem::take(&mut self.parked) {
            self.answer_without(&parked.line, None, out);
        }
    }
}
