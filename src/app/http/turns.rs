//! Limits by client and tool: whoever has to wait waits here, and gets its turn when a place comes free.

use super::who::unix_now;
use crate::config::Config;
use crate::identity::Caller;
use crate::mcp::Subject;
use crate::policy::{Admission, Clock, Limiter, Permit, Refusal, Ticket, micros};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

/// A server that was told to give a request up need not answer it; after so long it has.
const LATE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Turns {
    limiter: RefCell<Limiter>,
    /// With a number of ours: tickets are used again.
    waiting: RefCell<HashMap<Ticket, (u64, oneshot::Sender<Turn>)>>,
    count: Cell<u64>,
    begun: Instant,
    /// A request that waits longer is told to come again.
    patience: Duration,
}

/// What becomes of a request that waited.
#[derive(Debug)]
enum Turn {
    Go(Pass),
    /// Somebody who waits for less takes its place in the queue.
    Displaced,
}

/// A place that is taken; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    turns: Rc<Turns>,
    permit: Option<Permit>,
}

/// Places of requests that nobody waits for any more: the server may still work on them. Whoever could give a
/// place back by hanging up would have as many as it likes.
#[derive(Debug, Default)]
pub(super) struct Late(HashMap<i64, Rc<RefCell<Option<Pass>>>>);

/// A request that waits; it leaves the queue when its client does.
struct Queued<'t> {
    turns: &'t Turns,
    ticket: Ticket,
    number: u64,
}

impl Late {
    /// Keeps the place of a request until its late answer, or for [`LATE`].
    pub(super) fn keep(&mut self, number: i64, pass: Option<Pass>) {
        let Some(pass) = pass else { return };
        // Those whose time is over have left the task that counted it.
        self.0.retain(|_, kept| Rc::strong_count(kept) > 1);
        let kept = Rc::new(RefCell::new(Some(pass)));
        self.0.insert(number, Rc::clone(&kept));
        drop(spawn_local(async move {
            tokio::time::sleep(LATE).await;
            drop(kept.take());
        }));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The server has done with a request.
    pub(super) fn answered(&mut self, number: i64) {
        if let Some(kept) = self.0.remove(&number) {
            drop(kept.take());
        }
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        for kept in self.0.values() {
            drop(kept.take());
        }
    }
}

impl Turns {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            limiter: RefCell::new(Limiter::new(config)),
            waiting: RefCell::default(),
            count: Cell::new(0),
            begun: Instant::now(),
            patience: config.limits.wait,
        }
    }

    /// True when nothing is limited, so that nobody has to be asked.
    pub(super) fn is_off(&self) -> bool {
        self.limiter.borrow().is_off()
    }

    /// Waits until the request may run.
    ///
    /// # Errors
    /// When it may not, with the time after which to come again. A further round of a call counts like
    /// the first: that it is one is only the client's word.
    pub(super) async fn pass(
        self: &Rc<Self>,
        caller: &Caller,
        subject: &Subject,
    ) -> Result<Pass, Box<Refusal>> {
        let clock = Clock {
            monotonic: self.micros(),
            unix: unix_now(),
        };
        let admission = self
            .limiter
            .borrow_mut()
            .admit(caller, subject, false, clock);
        let (ticket, displaced) = match admission {
            Admission::Run(permit) => return Ok(self.taken(permit)),
            Admission::Refuse(refusal) => return Err(refusal),
            Admission::Wait { ticket, displaced } => (ticket, displaced),
        };
        let (sender, turn) = oneshot::channel();
        let gone = displaced.and_then(|ticket| self.waiting.borrow_mut().remove(&ticket));
        if let Some((_, gone)) = gone {
            // Its client may be gone too.
            drop(gone.send(Turn::Displaced));
        }
        let number = self.count.get() + 1;
        self.count.set(number);
        self.waiting.borrow_mut().insert(ticket, (number, sender));
        let queued = Queued {
            turns: self,
            ticket,
            number,
        };
        let turn = tokio::time::timeout(self.patience, turn).await;
        drop(queued);
        match turn {
            Ok(Ok(Turn::Go(pass))) => Ok(pass),
            _ => Err(Box::new(Limiter::crowded(subject))),
        }
    }

    fn micros(&self) -> u64 {
        micros(self.begun.elapsed())
    }

    fn taken(self: &Rc<Self>, permit: Permit) -> Pass {
        Pass {
            turns: Rc::clone(self),
            permit: Some(permit),
        }
    }

    /// Gives the places that are free to those who wait.
    fn advance(self: &Rc<Self>) {
        loop {
            let next = self.limiter.borrow_mut().next();
            let Some((ticket, permit)) = next else { return };
            let pass = self.taken(permit);
            let sender = self.waiting.borrow_mut().remove(&ticket);
            if let Some((_, sender)) = sender {
                // A pass that nobody takes is given back when it is dropped.
                drop(sender.send(Turn::Go(pass)));
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let now = self.turns.micros();
            self.turns.limiter.borrow_mut().release_at(permit, now);
            self.turns.advance();
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut waiting = self.turns.waiting.borrow_mut();
        let ours = |(number, _): &(u64, _)| *number == self.number;
        if waiting.get(&self.ticket).is_some_and(ours) {
            waiting.remove(&self.ticket);
            self.turns.limiter.borrow_mut().leave(self.ticket);
        }
    }
}
