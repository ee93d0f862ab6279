//! How much may run at one time on stdin and stdout: what is above it waits here, in turn among tools.
//! (Behind a listener the listener does this, before a request reaches a session.)
//!
//! ```text
//! a request ──┬── a place is free ──▶ sent ── answered, expired, lost ──▶ its place is free ──┐
//!             ├── none is ──▶ waits ──┬── its turn ◀────────────────────────────────────────────┘
//!             │                       ├── cancelled: gone
//!             │                       └── waited too long, displaced: refused, with the time to come again
//!             └── no room, or no use in waiting: refused
//! ```
//! A request that waits is open like any other; only its line has not been sent. While the server is away
//! nobody's turn comes.

use super::pending::{Open, State};
use super::reply::own;
use super::session::{Outbox, Session};
use crate::config::Config;
use crate::mcp::{RequestId, Subject};
use crate::policy::{Admission, Clock, Deadlines, Limiter, Permit, Refusal, Ticket, micros};
use foldhash::HashSet;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Debug)]
pub(super) struct Turns {
    limiter: Limiter,
    waiting: HashMap<Ticket, Waiting>,
    freed: Rc<RefCell<Vec<Permit>>>,
    begun: Instant,
    patience: Duration,
    /// Never later than the first that has waited too long.
    next_due: Option<Instant>,
    away: bool,
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    /// `None` for a call with a credential in it: it is filled in when its turn comes.
    line: Option<Box<[u8]>>,
    due: Instant,
}

/// A place that is taken; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    permit: Option<Permit>,
    freed: Rc<RefCell<Vec<Permit>>>,
}

/// What a request is given.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing is limited.
    Free,
    Now(Box<Place>),
    Later,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.freed.borrow_mut().extend(self.permit.take());
    }
}

impl Turns {
    /// `None` where nothing is limited, or the listener sees to it.
    pub(super) fn new(config: &Config) -> Option<Box<Self>> {
        if config.listen.is_some() {
            return None;
        }
        let limiter = Limiter::new(config);
        (!limiter.is_off()).then(|| {
            Box::new(Self {
                limiter,
                waiting: HashMap::new(),
                freed: Rc::default(),
                begun: Instant::now(),
                patience: config.limits.wait,
                next_due: None,
                away: false,
            })
        })
    }

    fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.begun))
    }

    fn place(&self, permit: Permit) -> Box<Place> {
        Box::new(Place {
            permit: Some(permit),
            freed: Rc::clone(&self.freed),
        })
    }

    /// Takes a request out of the queue.
    fn leave(&mut self, id: &RequestId) -> bool {
        let ticket = self.waiting.iter().find(|(_, waiting)| waiting.id == *id);
        let Some(ticket) = ticket.map(|(ticket, _)| *ticket) else {
            return false;
        };
        self.waiting.remove(&ticket);
        self.limiter.leave(ticket)
    }

    /// Everything that waits, in any order.
    fn empty(&mut self) -> Vec<RequestId> {
        let waiting = std::mem::take(&mut self.waiting);
        for ticket in waiting.keys() {
            self.limiter.leave(*ticket);
        }
        self.next_due = None;
        waiting.into_values().map(|waiting| waiting.id).collect()
    }
}

impl Session {
    /// Other limits hold; what runs and waits stays.
    pub(super) fn renew_turns(&mut self, config: &Config) {
        match &mut self.turns {
            Some(turns) => {
                turns.limiter.reload(config);
                turns.patience = config.limits.wait;
            }
            None => self.turns = Turns::new(config),
        }
    }

    /// A place for a request, or one in the queue, where `line` waits for it, unless a credential is in it.
    pub(super) fn take_turn(
        &mut self,
        subject: &Subject,
        (id, line): (&RequestId, Option<&[u8]>),
        limit: Option<Deadlines>,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<Turn, Box<Refusal>> {
        let Some(turns) = &mut self.turns else {
            return Ok(Turn::Free);
        };
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let clock = Clock {
            monotonic: turns.micros(now),
            unix: unix.map_or(0, |since| since.as_secs()),
        };
        let (ticket, displaced) = match turns.limiter.admit_alone(subject, clock) {
            Admission::Run(permit) => return Ok(Turn::Now(turns.place(permit))),
            Admission::Refuse(refusal) => return Err(refusal),
            Admission::Wait { ticket, displaced } => (ticket, displaced),
        };
        let displaced = displaced.and_then(|ticket| turns.waiting.remove(&ticket));
        // Whoever has less time than that is not kept for longer.
        let wait = limit.map_or(turns.patience, |limit| turns.patience.min(limit.idle));
        let due = now + wait;
        let waiting = Waiting {
            id: id.clone(),
            line: line.map(Into::into),
            due,
        };
        turns.waiting.insert(ticket, waiting);
        turns.next_due = Some(turns.next_due.map_or(due, |next| next.min(due)));
        if let Some(displaced) = displaced {
            self.send_away(&displaced.id, now, out);
        }
        self.show_waiting();
        Ok(Turn::Later)
    }

    /// A request is over: its place is another's.
    pub(super) fn end(&mut self, open: Box<Open>, now: Instant, out: &mut Outbox) {
        self.client.over(open);
        self.advance(now, out);
    }

    /// Gives the places that came free to those who wait.
    pub(super) fn advance(&mut self, now: Instant, out: &mut Outbox) {
        let mut any = false;
        while let Some((waiting, place)) = self.next_turn(now) {
            any = true;
            let Some(open) = self.client.find_open(&waiting.id) else {
                continue;
            };
            open.place = Some(place);
            if !self.policy.repeatable(&open.origin.subject) {
                let scrubber = self.policy.scrubber();
                let shown = |name: &smol_str::SmolStr| self.names.shown(scrubber, name);
                open.note_begin(&self.audit, shown, now);
            }
            match waiting.line {
                Some(line) => {
                    out.to_server.extend_from_slice(&line);
                    out.to_server.push(b'\n');
                }
                None => self.fill_again(&waiting.id, now, out),
            }
        }
        if any {
            self.show_waiting();
        }
    }

    /// Whose turn it is, with the place that came free.
    fn next_turn(&mut self, now: Instant) -> Option<(Waiting, Box<Place>)> {
        let turns = self.turns.as_mut()?;
        let micros = turns.micros(now);
        let freed = std::mem::take(&mut *turns.freed.borrow_mut());
        for permit in freed {
            turns.limiter.release_at(permit, micros);
        }
        if turns.waiting.is_empty() || turns.away {
            return None;
        }
        loop {
            let (ticket, permit) = turns.limiter.next()?;
            let place = turns.place(permit);
            if let Some(waiting) = turns.waiting.remove(&ticket) {
                return Some((waiting, place));
            }
        }
    }

    /// Who has waited too long is told to come again.
    pub(super) fn end_waiting(&mut self, now: Instant, out: &mut Outbox) {
        let Some(turns) = &mut self.turns else { return };
        if turns.next_due.is_none_or(|due| due > now) {
            return;
        }
        let late = turns.waiting.values().filter(|waiting| waiting.due <= now);
        let late: Vec<RequestId> = late.map(|waiting| waiting.id.clone()).collect();
        for id in &late {
            turns.leave(id);
        }
        turns.next_due = turns.waiting.values().map(|waiting| waiting.due).min();
        for id in &late {
            self.send_away(id, now, out);
        }
        self.show_waiting();
    }

    /// When [`Session::end_waiting`] has work at the earliest.
    pub(super) fn waiting_due(&self) -> Option<Instant> {
        self.turns.as_ref()?.next_due
    }

    /// The client has cancelled a request: true when it waited here, so that no server has to know.
    pub(super) fn stop_waiting(&mut self, id: &RequestId) -> bool {
        let left = self.turns.as_mut().is_some_and(|turns| turns.leave(id));
        if left {
            self.client.close(id);
            self.tally.open(self.client.waiting());
            self.show_waiting();
        }
        left
    }

    /// The requests whose lines are here: no server has seen them.
    pub(super) fn waiting_here(&self) -> HashSet<RequestId> {
        let waiting = self.turns.iter().flat_map(|turns| turns.waiting.values());
        waiting.map(|waiting| waiting.id.clone()).collect()
    }

    /// True while requests wait for a place.
    pub(super) fn has_waiting(&self) -> bool {
        self.turns
            .as_ref()
            .is_some_and(|turns| !turns.waiting.is_empty())
    }

    /// Nobody's turn comes while the server is away.
    pub(super) fn pause_turns(&mut self, away: bool) {
        if let Some(turns) = &mut self.turns {
            turns.away = away;
        }
    }

    /// Nobody's turn will come: those who wait are told that they were not asked for.
    pub(super) fn refuse_waiting(&mut self, now: Instant, out: &mut Outbox) {
        let Some(turns) = &mut self.turns else { return };
        for id in turns.empty() {
            if let Some(mut open) = self.client.close(&id)
                && open.state == State::Open
            {
                open.held = None;
                let refused = own::unavailable(&open.origin.subject, None);
                self.answer_for_server(&open, &refused, "unavailable", now, out);
            }
        }
        self.show_waiting();
    }

    /// A request that waited is refused: nobody was asked.
    fn send_away(&mut self, id: &RequestId, now: Instant, out: &mut Outbox) {
        if let Some(mut open) = self.client.close(id)
            && open.state == State::Open
        {
            open.held = None;
            let refused = Limiter::crowded(&open.origin.subject);
            self.answer_for_server(&open, &refused, "refused", now, out);
        }
    }

    fn show_waiting(&self) {
        let waiting = self.turns.as_ref().map_or(0, |turns| turns.waiting.len());
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.metrics.requests_waiting.set(waiting);
    }
}
