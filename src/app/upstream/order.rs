//! The order that a session begins in. Each line is a request of its own to a server on HTTP, and two of them may
//! arrive in either order; so what follows `initialize` waits here until that is answered, and what follows
//! `notifications/initialized` until that is taken.
//!
//! ```text
//! a line of a revision with sessions ──┬── nothing is under way ────────▶ sent
//!                                      └── else ──▶ waits, in turn ─────▶ sent
//!                                                     └── cancelled ────▶ gone: nobody was asked
//! ```
//! Modern requests belong to no session and pass by; so does what cancels, because the deadline of `initialize`
//! itself is told in that way.

use super::bridge::Bridge;
use crate::mcp::{self, Direction, Kind, RequestId};
use crate::proxy::{Trouble, answer_for};
use crate::transport::http::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;

/// Lines that wait at one time, and bytes of them.
const LINES: usize = 1024;
const BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Order {
    /// The `initialize` that has no answer yet.
    opening: RefCell<Option<RequestId>>,
    waiting: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    /// One of them is on its way.
    passing: Cell<bool>,
    /// Rings when the next may go.
    next: Notify,
}

impl Order {
    /// An `initialize` is on its way.
    pub(super) fn begin(&self, key: RequestId) {
        *self.opening.borrow_mut() = Some(key);
    }

    /// This request is answered, or given up: if it was the one that opens a session, others may go on.
    pub(super) fn over(&self, key: &RequestId) {
        let ours = self.opening.borrow().as_ref() == Some(key);
        if ours {
            *self.opening.borrow_mut() = None;
            self.next.notify_one();
        }
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty() && !self.passing.get()
    }

    /// Whether a line of a session has to wait for its turn.
    pub(super) fn is_busy(&self) -> bool {
        self.opening.borrow().is_some() || !self.is_empty()
    }

    /// Takes a line that has to wait; false when too much waits.
    pub(super) fn wait(&self, line: &Bytes) -> bool {
        let (mut waiting, bytes) = (self.waiting.borrow_mut(), self.bytes.get() + line.len());
        let room = waiting.len() < LINES && bytes <= BYTES;
        if room {
            self.bytes.set(bytes);
            waiting.push_back(line.clone());
            self.next.notify_one();
        }
        room
    }

    /// Forgets a request that waits; false when none with this id does.
    pub(super) fn cancel(&self, key: &RequestId) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let asks = |line: &Bytes| {
            let envelope = mcp::parse(line, Direction::ToServer);
            envelope
                .is_ok_and(|it| matches!(&it.kind, Kind::Request { id, .. } if id.key() == *key))
        };
        let at = waiting.iter().position(asks);
        let line = at.and_then(|at| waiting.remove(at));
        let bytes = line.as_ref().map_or(0, Bytes::len);
        self.bytes.set(self.bytes.get() - bytes);
        line.is_some()
    }

    fn pop(&self) -> Option<Bytes> {
        if self.opening.borrow().is_some() {
            return None;
        }
        let line = self.waiting.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - line.len());
        Some(line)
    }
}

impl Bridge {
    /// One line, which policy has let pass.
    pub(super) async fn accept(self: &Rc<Self>, line: Bytes) {
        let Ok(envelope) = mcp::parse(&line, Direction::ToServer) else {
            return;
        };
        let passes_by = envelope.version().is_some() || Self::cancels(&envelope);
        if passes_by || !(self.order.is_busy() || Self::greets(&envelope)) {
            return self.pass(&line, &envelope).await;
        }
        if self.order.wait(&line) {
            return;
        }
        match answer_for(&line, &Trouble::Crowded) {
            answer if answer.is_empty() => {
                tracing::warn!("a message was dropped: too many wait for the session to begin");
            }
            answer => self.out.line(&answer).await,
        }
    }

    /// Sends what waits, one after the other, for as long as the bridge stands.
    pub(super) async fn usher(self: &Rc<Self>) {
        loop {
            self.order.next.notified().await;
            while let Some(line) = self.order.pop() {
                let Ok(envelope) = mcp::parse(&line, Direction::ToServer) else {
                    continue;
                };
                self.order.passing.set(true);
                self.pass(&line, &envelope).await;
                self.order.passing.set(false);
            }
            self.rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u32) -> Bytes {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#).into()
    }

    #[test]
    fn what_waits_leaves_in_its_order_and_not_before_the_opening_is_over() {
        let order = Order::default();
        assert!(!order.is_busy());
        order.begin(RequestId::Number(0));
        for id in 1..4 {
            assert!(order.wait(&line(id)));
        }
        assert!(order.pop().is_none() && order.is_busy());
        assert!(order.cancel(&RequestId::Number(2)) && !order.cancel(&RequestId::Number(2)));
        order.over(&RequestId::Number(1));
        assert!(
            order.pop().is_none(),
            "another's end is none of its business"
        );
        order.over(&RequestId::Number(0));
        let left: Vec<Bytes> = std::iter::from_fn(|| order.pop()).collect();
        assert_eq!(left, [line(1), line(3)]);
        assert!(!order.is_busy() && order.bytes.get() == 0);
    }

    #[test]
    fn so_much_waits_and_no_more() {
        let order = Order::default();
        order.begin(RequestId::Number(0));
        let large = Bytes::from(vec![b' '; BYTES / 2 + 1]);
        assert!(order.wait(&large) && !order.wait(&large));
        assert!((1..LINES).all(|_| order.wait(&Bytes::new())));
        assert!(!order.wait(&Bytes::new()));
    }
}
