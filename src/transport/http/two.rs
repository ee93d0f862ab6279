//! The patience with a connection of HTTP/2. Bytes that come and go there say nothing of a request: a
//! stream whose window is closed stands still while others are written, and a connection without requests
//! sends pings. So its answers are counted as they are taken, and the connection is looked at when the
//! oldest is due.

use super::io::Patience;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;
use tokio::time::sleep_until;

/// Answers of which a piece is ready that the reader does not take, each with when it was made.
#[derive(Debug, Default)]
pub(super) struct Owed(RefCell<Vec<Option<Instant>>>);

impl Owed {
    /// A piece waits for the reader. The number is to be given back.
    pub(super) fn begin(&self, now: Instant) -> usize {
        let mut all = self.0.borrow_mut();
        match all
            .iter_mut()
            .enumerate()
            .find(|(_, place)| place.is_none())
        {
            Some((number, place)) => {
                *place = Some(now);
                number
            }
            None => {
                all.push(Some(now));
                all.len() - 1
            }
        }
    }

    /// It was taken, or is not wanted any more.
    pub(super) fn end(&self, number: usize) {
        if let Some(place) = self.0.borrow_mut().get_mut(number) {
            *place = None;
        }
    }

    /// Since when the one has waited that has waited longest.
    fn since(&self) -> Option<Instant> {
        self.0.borrow().iter().flatten().min().copied()
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standing {
    /// A request, since then.
    Idle(Instant),
    /// Us.
    Serving,
    /// A reader that has taken nothing of an answer since then.
    Owing(Instant),
}

impl Standing {
    /// Of a connection with this many open requests, none since `since` where there are none.
    pub(super) fn new(serving: usize, since: Instant, owed: &Owed) -> Self {
        match (serving, owed.since()) {
            (0, _) => Self::Idle(since),
            (_, None) => Self::Serving,
            (_, Some(since)) => Self::Owing(since),
        }
    }
}

/// Runs a connection until it ends, or has to be ended: at once when a reader takes nothing of its
/// answer, with `close` (and what is under way) when it has been idle.
pub(super) async fn watch<C: Future>(
    connection: C,
    close: impl Fn(Pin<&mut C>),
    standing: impl Fn() -> Standing,
    patience: Patience,
) {
    let mut connection = pin!(connection);
    // A request that comes is seen here first, so the alarm is set by what is known then.
    let mut set = Instant::now() + patience.idle;
    let mut alarm = pin!(sleep_until(set.into()));
    let mut closing = None;
    poll_fn(|cx| {
        loop {
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let (now, standing) = (Instant::now(), standing());
            let due = match (standing, closing) {
                (Standing::Owing(since), _) => since + patience.stall,
                (Standing::Serving, _) => now + patience.stall,
                (Standing::Idle(since), None) => since + patience.idle,
                (Standing::Idle(since), Some(closed)) => since.max(closed) + patience.header,
            };
            if due <= now {
                if closing.is_some() || matches!(standing, Standing::Owing(_)) {
                    return Poll::Ready(());
                }
                close(connection.as_mut());
                closing = Some(now);
                continue;
            }
            if due < set || set <= now {
                set = due;
                alarm.as_mut().reset(set.into());
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}
