//! Where one HTTP request waits for what the server says: an answer, or a stream of events.
//!
//! ```text
//! Waiting ──┬── answer ───────▶ Answered (JSON)
//!           └── first event ──▶ Streaming ── answer, end ──▶ Ended
//! ```

use crate::identity::Caller;
use crate::transport::http::{Bytes, COMMENT, StatusCode};
use smol_str::SmolStr;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(Answer),
    /// Events follow.
    Streaming,
}

/// One answer, as JSON.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// No body at all when empty.
    pub(super) line: Bytes,
    /// The session that has begun with it.
    pub(super) session: Option<SmolStr>,
    /// Seconds after which it is worth to come again.
    pub(super) retry_after: Option<u64>,
}

/// The request of a server process that a seat is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    pub(super) cell: u32,
    pub(super) serial: u64,
    pub(super) number: i64,
}

#[derive(Debug)]
pub(super) struct Seat {
    state: RefCell<State>,
    /// The client is gone.
    pub(super) gone: Cell<bool>,
    left: Cell<Option<Instant>>,
    pub(super) about: Cell<Option<About>>,
    /// Who waits.
    pub(super) caller: OnceCell<Arc<Caller>>,
    /// Bytes of events that may wait for the reader.
    limit: usize,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    waker: Option<Waker>,
    /// Whoever waits for the reader to take something.
    writer: Option<Waker>,
    events: VecDeque<Bytes>,
    queued: usize,
    touched: Instant,
}

#[derive(Debug)]
enum Phase {
    Waiting,
    Answered(Option<Answer>),
    Streaming,
    Ended,
}

impl Seat {
    pub(super) fn new(limit: usize, now: Instant) -> Self {
        Self {
            state: RefCell::new(State {
                phase: Phase::Waiting,
                waker: None,
                writer: None,
                events: VecDeque::new(),
                queued: 0,
                touched: now,
            }),
            gone: Cell::new(false),
            left: Cell::new(None),
            about: Cell::new(None),
            caller: OnceCell::new(),
            limit,
        }
    }

    /// Gives the answer, unless a stream has begun.
    pub(super) fn answer(&self, answer: Answer) {
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Waiting) {
            state.phase = Phase::Answered(Some(answer));
            state.wake();
        }
    }

    /// True once events are sent.
    pub(super) fn streams(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Streaming | Phase::Ended)
    }

    /// Sends an event; the first one makes the seat a stream. False when nobody takes it any more: the
    /// client is gone, or reads so slowly that the stream was ended.
    pub(super) fn push(&self, event: Bytes, now: Instant) -> bool {
        let mut state = self.state.borrow_mut();
        if self.gone.get() || matches!(state.phase, Phase::Answered(_) | Phase::Ended) {
            return false;
        }
        if state.queued + event.len() > self.limit {
            // This reader alone pays for being slow.
            drop(state);
            self.cut();
            return false;
        }
        state.phase = Phase::Streaming;
        state.queued += event.len();
        state.events.push_back(event);
        state.touched = now;
        state.wake();
        true
    }

    /// True when so much waits for the reader that its server had better pause.
    pub(super) fn is_clogged(&self) -> bool {
        !self.gone.get() && self.state.borrow().queued > self.limit / 4
    }

    /// Ready when the reader has taken most of what waited for it, or is gone.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if self.gone.get() || state.queued <= self.limit / 8 {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The reader is too slow: its stream ends where it is.
    pub(super) fn cut(&self) {
        let mut state = self.state.borrow_mut();
        state.events.clear();
        state.queued = 0;
        state.phase = Phase::Ended;
        state.wake();
    }

    /// The client is gone.
    pub(super) fn leave(&self) {
        self.gone.set(true);
        self.left.set(Some(Instant::now()));
        if let Some(writer) = self.state.borrow_mut().writer.take() {
            writer.wake();
        }
    }

    /// Since when the client is gone.
    pub(super) fn left_at(&self) -> Option<Instant> {
        self.left.get()
    }

    /// Makes it a stream without an event.
    pub(super) fn open(&self) {
        let mut state = self.state.borrow_mut();
        if matches!(state.phase, Phase::Waiting) {
            state.phase = Phase::Streaming;
            state.wake();
        }
    }

    /// No event follows those that are queued.
    pub(super) fn end(&self) {
        let mut state = self.state.borrow_mut();
        if !matches!(state.phase, Phase::Answered(_)) {
            state.phase = Phase::Ended;
            state.wake();
        }
    }

    /// True when somebody waits, and nothing was said since `since`.
    pub(super) fn is_silent(&self, since: Instant) -> bool {
        let state = self.state.borrow();
        let open = matches!(state.phase, Phase::Waiting | Phase::Streaming);
        open && !self.gone.get() && state.touched <= since && state.events.is_empty()
    }

    /// Says that the stream is alive.
    pub(super) fn pulse(&self, now: Instant) {
        self.push(COMMENT, now);
    }

    pub(super) fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.state.borrow_mut();
        match &mut state.phase {
            Phase::Answered(answer) => match answer.take() {
                Some(answer) => Poll::Ready(Outcome::Answered(answer)),
                None => Poll::Pending,
            },
            Phase::Streaming | Phase::Ended => Poll::Ready(Outcome::Streaming),
            Phase::Waiting => {
                state.wait(cx);
                Poll::Pending
            }
        }
    }

    /// The next event; `None` at the end.
    pub(super) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.state.borrow_mut();
        if let Some(event) = state.events.pop_front() {
            state.queued -= event.len();
            if state.queued <= self.limit / 8
                && let Some(writer) = state.writer.take()
            {
                writer.wake();
            }
            return Poll::Ready(Some(event));
        }
        if matches!(state.phase, Phase::Ended) {
            return Poll::Ready(None);
        }
        state.wait(cx);
        Poll::Pending
    }

    /// True when everything that will ever be sent was taken.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.borrow();
        match &state.phase {
            Phase::Answered(answer) => answer.is_none(),
            Phase::Ended => state.events.is_empty(),
            _ => false,
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_comes_once_and_not_after_a_stream() {
        let now = Instant::now();
        let answer = || Answer {
            status: StatusCode::OK,
            line: Bytes::from_static(b"{}"),
            session: None,
            retry_after: None,
        };
        let seat = Seat::new(100, now);
        assert!(poll(|cx| seat.poll_outcome(cx)).is_pending());
        seat.answer(answer());
        assert!(!seat.push(Bytes::from_static(b"late"), now));
        assert!(matches!(
            poll(|cx| seat.poll_outcome(cx)),
            Poll::Ready(Outcome::Answered(_))
        ));
        assert!(seat.is_over());

        let seat = Seat::new(100, now);
        assert!(seat.push(Bytes::from_static(b"one"), now));
        seat.answer(answer());
        seat.end();
        assert!(matches!(
            poll(|cx| seat.poll_outcome(cx)),
            Poll::Ready(Outcome::Streaming)
        ));
        assert!(
            matches!(poll(|cx| seat.poll_event(cx)), Poll::Ready(Some(event)) if event == "one")
        );
        assert!(matches!(poll(|cx| seat.poll_event(cx)), Poll::Ready(None)));
        assert!(seat.is_over());
    }

    #[test]
    fn a_reader_that_is_too_slow_loses_its_stream_and_nothing_is_kept_for_it() {
        let now = Instant::now();
        let seat = Seat::new(10, now);
        assert!(seat.push(Bytes::from_static(b"123456"), now));
        assert!(!seat.push(Bytes::from_static(b"78901"), now));
        assert!(matches!(poll(|cx| seat.poll_event(cx)), Poll::Ready(None)));
    }

    #[test]
    fn a_quiet_stream_says_that_it_is_alive() {
        let begun = Instant::now();
        let later = begun + std::time::Duration::from_secs(15);
        let seat = Seat::new(10, begun);
        assert!(seat.is_silent(begun));
        seat.pulse(later);
        assert!(!seat.is_silent(begun));
        assert!(
            matches!(poll(|cx| seat.poll_event(cx)), Poll::Ready(Some(event)) if event == ":\n\n")
        );
        assert!(poll(|cx| seat.poll_event(cx)).is_pending());
        seat.end();
        assert!(!seat.is_silent(later));
    }
}
