//! The client's requests that have no answer yet, and when they expire.
//!
//! ```text
//!            answer ───────────────────────────▶ (gone: forwarded)
//! Open ──┬── cancelled by the client ──▶ Cancelled ── answer ──▶ (gone: forwarded, the client ignores it)
//!        │         └── nothing can come: its stream is closed ──┐  └── deadline ──┐
//!        └── deadline (answered by us) ─────────────────────────┴─────────────────┴▶ Expired ── late answer ──▶ (gone: dropped)
//! ```
//! An expired id stays in the table until its late answer has come, so that the answer is never
//! taken for that of a new request with the same id; [`GRAVES`] of them are kept. What was cancelled waits for
//! nothing, and is not counted with what does; of that too only so many.

use super::guarding::Held;
use super::turns::Place;
use crate::audit::{Arguments, Begun, Log};
use crate::identity::Caller;
use crate::mcp::{Capability, RawId, RequestId};
use crate::policy::{Deadlines, Origin};
use foldhash::{HashMap, HashSet};
use smol_str::SmolStr;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests that may be open at one time; a client that asks for more is told to wait.
const OPEN: usize = 16 * 1024;
/// Expired ids that are remembered.
const GRAVES: usize = 4096;
/// Boxes that are kept while requests come and go: as many as a busy client has open.
const SPARE: usize = 256;
/// Progress tokens of answered requests that are remembered, the latest: tasks go on after their
/// first answer.
const TOKENS: usize = 4096;

/// Where a request is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Cancelled,
    Expired,
}

/// One request of the client.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) raw_id: RawId,
    pub(super) origin: Origin,
    pub(super) state: State,
    pub(super) since: Instant,
    pub(super) bytes: usize,
    pub(super) arguments: Arguments,
    /// As the client sent it, when it may have to be asked again.
    pub(super) line: Option<Box<[u8]>>,
    /// It may safely be asked twice.
    pub(super) repeats: bool,
    /// A credential was put into it on its way.
    pub(super) filled: bool,
    /// It was asked twice already.
    pub(super) retried: bool,
    /// The token under which its progress comes.
    pub(super) token: Option<RequestId>,
    /// What the guards want to know the end of.
    pub(super) held: Option<Box<Held>>,
    /// Its place among what may run, once it has one.
    pub(super) place: Option<Box<Place>>,
    /// Its line in the journal, once a server may run it and it may not run twice.
    pub(super) begun: Option<Begun>,
    limit: Option<Deadlines>,
    last_sign: Instant,
    /// Place in the order of arrival.
    order: u64,
}

impl Open {
    /// Inline, so that it is built where it will stay.
    #[inline(always)]
    pub(super) fn new(
        raw_id: &[u8],
        origin: Origin,
        now: Instant,
        bytes: usize,
        arguments: Arguments,
        limit: Option<Deadlines>,
    ) -> Self {
        Self {
            raw_id: raw_id.into(),
            origin,
            state: State::Open,
            since: now,
            bytes,
            arguments,
            line: None,
            repeats: false,
            filled: false,
            retried: false,
            token: None,
            held: None,
            place: None,
            begun: None,
            limit,
            last_sign: now,
            order: 0,
        }
    }

    /// Notes that it is passed on to a server, if it is a call: it may not run twice.
    /// `shown` makes a name one that may be written down.
    pub(super) fn note_begin(
        &mut self,
        log: &Log,
        shown: impl FnOnce(&SmolStr) -> SmolStr,
        now: Instant,
    ) {
        if let (Capability::Tool, Some(tool)) =
            (self.origin.subject.capability, &self.origin.subject.name)
        {
            let client = self.origin.caller.as_ref().map(|caller| &*caller.client);
            self.begun = log.begin(&shown(tool), &self.raw_id, client, now);
        }
    }

    /// Gives back what it holds, and what may be large.
    fn clear(&mut self) {
        (self.held, self.place, self.begun) = (None, None, None);
        (self.line, self.origin.caller) = (None, None);
        self.arguments = Arguments::Absent;
    }

    /// Place in the order of arrival.
    pub(super) fn order(&self) -> u64 {
        self.order
    }

    fn due(&self) -> Option<Instant> {
        let limit = self.limit?;
        Some((self.since + limit.hard).min(self.last_sign + limit.idle))
    }
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Boxed, so that what the table moves is small and an answer is not copied to be looked at.
    requests: HashMap<RequestId, Box<Open>>,
    /// Boxes of requests that are over, for the next ones.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: Vec<Box<Open>>,
    by_token: HashMap<RequestId, RequestId>,
    tokens_seen: HashSet<RequestId>,
    tokens_order: VecDeque<RequestId>,
    graves: VecDeque<RequestId>,
    /// Requests that are [`State::Cancelled`].
    cancelled: usize,
    /// Never later than the first deadline: adding a request lowers it, a sweep sets it right.
    next_due: Option<Instant>,
    arrivals: u64,
}

impl Pending {
    pub(super) fn contains(&self, id: &RequestId) -> bool {
        self.requests.contains_key(id)
    }

    /// True when no other request can be kept.
    pub(super) fn is_full(&self) -> bool {
        self.waiting() >= OPEN
    }

    /// Requests that have been added so far.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Everything that is here, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Open> {
        self.requests.values().map(|open| &**open)
    }

    /// The place in the order of arrival of the first one whose answer may still pass.
    pub(super) fn oldest(&self) -> Option<u64> {
        let living = self.all().filter(|open| open.state != State::Expired);
        living.map(|open| open.order).min()
    }

    /// Requests that still wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.requests.len() - self.graves.len() - self.cancelled.min(GRAVES)
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, id: RequestId, mut open: Open) {
        self.arrivals += 1;
        open.order = self.arrivals;
        if let Some(due) = open.due() {
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
        if let Some(token) = &open.token {
            if self.tokens_seen.insert(token.clone()) {
                self.tokens_order.push_back(token.clone());
                if self.tokens_order.len() > TOKENS
                    && let Some(oldest) = self.tokens_order.pop_front()
                {
                    self.tokens_seen.remove(&oldest);
                }
            }
            self.by_token.insert(token.clone(), id.clone());
        }
        let place = match self.spare.pop() {
            Some(mut place) => {
                *place = open;
                place
            }
            None => Box::new(open),
        };
        self.requests.insert(id, place);
    }

    /// Takes the request that an answer with this id closes.
    pub(super) fn close(&mut self, id: &RequestId) -> Option<Box<Open>> {
        let open = self.requests.remove(id)?;
        if let Some(token) = &open.token {
            self.by_token.remove(token);
        }
        match open.state {
            State::Open => {}
            State::Cancelled => self.cancelled -= 1,
            State::Expired => self.graves.retain(|grave| grave != id),
        }
        Some(open)
    }

    /// No answer to this one can come any more, or it is dropped. Only its id is kept.
    pub(super) fn bury(&mut self, id: RequestId, mut open: Box<Open>) {
        open.clear();
        open.state = State::Expired;
        self.requests.insert(id.clone(), open);
        self.graves.push_back(id);
        self.forget_graves();
    }

    fn forget_graves(&mut self) {
        while self.graves.len() > GRAVES {
            if let Some(id) = self.graves.pop_front() {
                self.requests.remove(&id);
            }
        }
    }

    /// A request is over: its place among what may run is free, and its line in the journal. Nothing that
    /// may be large is kept with its box.
    pub(super) fn over(&mut self, mut open: Box<Open>) {
        open.clear();
        if self.spare.len() < SPARE {
            self.spare.push(open);
        }
    }

    /// Gives the memory of a burst back.
    pub(super) fn shrink(&mut self) {
        self.spare = Vec::new();
    }

    /// The open request whose id a server with 64-bit floats would spell like this: servers in
    /// JavaScript answer 2^53 + 1 as 2^53. `None` unless exactly one fits.
    pub(super) fn rounded(&self, id: &RequestId) -> Option<RequestId> {
        let answered = as_float(id)?;
        let mut fits = self
            .requests
            .keys()
            .filter(|open| *open != id && as_float(open) == Some(answered));
        let only = fits.next()?;
        fits.next().is_none().then(|| only.clone())
    }

    /// The id as the client wrote it.
    pub(super) fn raw_id(&self, id: &RequestId) -> Option<&[u8]> {
        self.requests.get(id).map(|open| &*open.raw_id)
    }

    /// True when a credential was put into it.
    pub(super) fn is_filled(&self, id: &RequestId) -> bool {
        self.requests.get(id).is_some_and(|open| open.filled)
    }

    /// The request was decided anew: it is as old as before, and was asked as often.
    pub(super) fn asked_again(&mut self, id: &RequestId, before: &Open) {
        if let Some(open) = self.find(id) {
            (open.retried, open.since) = (before.retried, before.since);
        }
    }

    /// Who asked for this one.
    pub(super) fn caller(&self, id: &RequestId) -> Option<Arc<Caller>> {
        self.requests.get(id)?.origin.caller.clone()
    }

    /// The client has cancelled this one; true when it was open. Most servers answer it no more, so that
    /// its place is free at once.
    pub(super) fn cancel(&mut self, id: &RequestId) -> bool {
        match self.find(id) {
            Some(open) if open.state == State::Open => {
                open.state = State::Cancelled;
                (open.held, open.place, open.begun) = (None, None, None);
                self.cancelled += 1;
                true
            }
            _ => false,
        }
    }

    /// A sign of life: the silence of this request starts anew. True when progress with this token
    /// may pass: the client gave it, now or before (tasks go on after their first answer).
    pub(super) fn progress(&mut self, token: &RequestId, now: Instant) -> bool {
        if let Some(id) = self.by_token.get(token)
            && let Some(open) = self.requests.get_mut(id)
        {
            open.last_sign = now;
            return true;
        }
        self.tokens_seen.contains(token)
    }

    /// An open request whose answer is wanted.
    pub(super) fn find_open(&mut self, id: &RequestId) -> Option<&mut Open> {
        self.find(id).filter(|open| open.state == State::Open)
    }

    fn find(&mut self, id: &RequestId) -> Option<&mut Open> {
        self.requests.get_mut(id).map(|open| &mut **open)
    }

    /// A person was asked and has answered: the time that took is nobody's silence.
    pub(super) fn excuse_all(&mut self, now: Instant) {
        for open in self.requests.values_mut() {
            open.last_sign = now;
        }
    }

    /// When [`Pending::expire`] has work at the earliest.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// Marks what is due as expired and hands it out: the raw id, origin and time it waited, and
    /// whether the client still wants an answer.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Expiry> {
        let mut expired = Vec::new();
        let mut next = None;
        for (id, open) in &mut self.requests {
            if open.state == State::Expired {
                continue;
            }
            let Some(due) = open.due() else { continue };
            if due > now {
                next = Some(next.map_or(due, |next: Instant| next.min(due)));
                continue;
            }
            expired.push(Expiry {
                raw_id: open.raw_id.clone(),
                origin: open.origin.clone(),
                since: open.since,
                waited: now.saturating_duration_since(open.since),
                bytes: open.bytes,
                arguments: open.arguments.clone(),
                wanted: open.state == State::Open,
                held: open.held.take(),
            });
            (open.place, open.begun) = (None, None);
            if open.state == State::Cancelled {
                self.cancelled -= 1;
            }
            open.state = State::Expired;
            self.graves.push_back(id.clone());
        }
        self.next_due = next;
        self.forget_graves();
        expired
    }

    /// True while a request waits that ends by itself: a listen stream does not.
    pub(super) fn busy(&self) -> bool {
        let mut all = self.requests.values();
        all.any(|open| open.state == State::Open && open.limit.is_some())
    }

    /// True when an answer with this id is still wanted.
    pub(super) fn is_open(&self, id: &RequestId) -> bool {
        let open = self.requests.get(id);
        open.is_some_and(|open| open.state == State::Open)
    }

    /// The server is lost: takes all but what `keep` wants, and hands out what was still wanted of
    /// it, oldest first. No late answer can come any more.
    pub(super) fn lost(
        &mut self,
        mut keep: impl FnMut(&RequestId, &mut Open) -> bool,
    ) -> Vec<Open> {
        let lost = self.requests.extract_if(|id, open| !keep(id, open));
        let mut gone: Vec<_> = lost.map(|(_, open)| *open).collect();
        self.graves.clear();
        let left = self.requests.values();
        self.cancelled = left.filter(|open| open.state == State::Cancelled).count();
        for token in gone.iter().filter_map(|open| open.token.as_ref()) {
            self.by_token.remove(token);
        }
        gone.retain(|open| open.state == State::Open);
        gone.sort_by_key(|open| open.order);
        gone
    }

    /// Empties the table: what was still wanted, oldest first.
    pub(super) fn drain(&mut self) -> Vec<Open> {
        self.by_token.clear();
        self.graves.clear();
        self.cancelled = 0;
        self.next_due = None;
        let mut left: Vec<_> = self.requests.drain().map(|(_, open)| *open).collect();
        left.retain(|open| open.state == State::Open);
        left.sort_by_key(|open| open.order);
        left
    }
}

/// A request that has just expired.
#[derive(Debug)]
pub(super) struct Expiry {
    pub(super) raw_id: RawId,
    pub(super) origin: Origin,
    pub(super) since: Instant,
    pub(super) waited: Duration,
    pub(super) bytes: usize,
    pub(super) arguments: Arguments,
    /// False when the client had cancelled it.
    pub(super) wanted: bool,
    pub(super) held: Option<Box<Held>>,
}

fn as_float(id: &RequestId) -> Option<u64> {
    let float: f64 = match id {
        RequestId::Number(number) if number.unsigned_abs() < 1 << 53 => return None,
        RequestId::Number(number) => number.to_string().parse().ok()?,
        RequestId::Wide(digits) => digits.parse().ok()?,
        RequestId::Text(_) => return None,
    };
    Some(float.to_bits())
}
