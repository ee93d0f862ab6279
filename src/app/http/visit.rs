//! One legacy session (`Mcp-Session-Id`): who opened it, its stream for what belongs to no request,
//! and the events that a client which lost its connection can have again.

use super::seat::Seat;
use crate::identity::Caller;
use crate::mcp::Revision;
use crate::transport::http::{Bytes, numbered, prime};
use smol_str::SmolStr;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events that are kept, and their bytes; the latest one always.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 1024 * 1024;
/// After so many milliseconds a client comes back to a stream that broke off.
const RETRY: u64 = 1000;
/// A session whose stream broke off is not given up for so long: its client comes back after [`RETRY`]. No longer,
/// because one that has ended looks the same, and is in the way of the next.
const BROKEN: Duration = Duration::from_millis(RETRY + 500);
/// Resources that one session of a shared server watches.
const WATCHED: usize = 256;

/// The stream that a GET opens; those of requests count from 1.
pub(super) const GET: u32 = 0;

#[derive(Debug)]
pub(super) struct Visit {
    pub(super) id: SmolStr,
    pub(super) caller: Arc<Caller>,
    pub(super) cell: u32,
    pub(super) serial: u64,
    /// `None` until `initialize` is answered.
    pub(super) revision: Option<Revision>,
    pub(super) get: Option<Rc<Seat>>,
    /// It has had a stream for what belongs to no request.
    listened: bool,
    /// Resources that it watches, of a server that is shared.
    watched: HashSet<Box<str>>,
    pub(super) used: Instant,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// The number of the latest event.
    last: u64,
    /// The latest event that went out on the GET stream.
    sent: u64,
    streams: u32,
}

#[derive(Debug)]
struct Kept {
    stream: u32,
    event: u64,
    bytes: Bytes,
}

impl Visit {
    pub(super) fn new(
        id: SmolStr,
        caller: Arc<Caller>,
        cell: u32,
        serial: u64,
        now: Instant,
    ) -> Self {
        Self {
            id,
            caller,
            cell,
            serial,
            revision: None,
            get: None,
            listened: false,
            watched: HashSet::new(),
            used: now,
            kept: VecDeque::new(),
            kept_bytes: 0,
            last: 0,
            sent: 0,
            streams: GET,
        }
    }

    /// The number for one more stream.
    pub(super) fn stream(&mut self) -> u32 {
        self.streams = self.streams.saturating_add(1);
        self.streams
    }

    /// The first event of a stream, where the revision has one.
    pub(super) fn opening(&self, stream: u32) -> Option<Bytes> {
        let resumes = self.revision >= Some(Revision::V2025_11_25);
        resumes.then(|| prime(stream, self.last, RETRY))
    }

    /// Keeps a message of a stream, as the event that goes out.
    pub(super) fn record(&mut self, stream: u32, line: &[u8]) -> Bytes {
        self.last += 1;
        let bytes = numbered(line, stream, self.last);
        self.kept_bytes += bytes.len();
        self.kept.push_back(Kept {
            stream,
            event: self.last,
            bytes: bytes.clone(),
        });
        while self.kept.len() > 1 && (self.kept.len() > KEPT || self.kept_bytes > KEPT_BYTES) {
            if let Some(old) = self.kept.pop_front() {
                self.kept_bytes -= old.bytes.len();
            }
        }
        bytes
    }

    /// Sends a message that belongs to no request: at once, or when somebody asks for such.
    pub(super) fn tell(&mut self, line: &[u8], now: Instant) {
        let event = self.record(GET, line);
        if let Some(seat) = &self.get {
            if seat.push(event, now) {
                self.sent = self.last;
            } else {
                self.used = self.used.max(seat.left_at().unwrap_or(now));
                self.get = None;
            }
        }
    }

    /// Events of a stream after `event`.
    pub(super) fn missed(&self, stream: u32, event: u64) -> impl Iterator<Item = Bytes> {
        let later = move |kept: &&Kept| kept.stream == stream && kept.event > event;
        self.kept
            .iter()
            .filter(later)
            .map(|kept| kept.bytes.clone())
    }

    /// The seat takes what belongs to no request from now on, and what nobody has had; `after`: what
    /// came after that event.
    pub(super) fn listen(&mut self, seat: &Rc<Seat>, after: Option<u64>, now: Instant) {
        if let Some(old) = self.get.replace(Rc::clone(seat)) {
            old.end();
        }
        self.listened = true;
        seat.open();
        if let Some(opening) = self.opening(GET) {
            seat.push(opening, now);
        }
        for event in self.missed(GET, after.unwrap_or(self.sent)) {
            seat.push(event, now);
        }
        self.sent = self.last;
    }

    /// True when its client seems to be gone: nothing came for `idle`, or for a moment after its stream was
    /// closed, which a client whose connection broke takes up again.
    pub(super) fn is_left(&self, idle: Duration, now: Instant) -> bool {
        let closed = match &self.get {
            Some(get) if !get.gone.get() => return false,
            Some(get) => get.left_at(),
            None => None,
        };
        let seen = closed.map_or(self.used, |closed| closed.max(self.used));
        let idle = if self.listened {
            idle.min(BROKEN)
        } else {
            idle
        };
        seen + idle <= now
    }

    /// True when it had a stream and has none any more.
    pub(super) fn broke_off(&self) -> bool {
        self.listened && self.get.as_ref().is_none_or(|get| get.gone.get())
    }

    /// Notes that it watches a resource, or does no longer.
    pub(super) fn watch(&mut self, uri: &str, on: bool) {
        if !on {
            self.watched.remove(uri);
        } else if self.watched.len() < WATCHED {
            self.watched.insert(uri.into());
        }
    }

    pub(super) fn watches(&self, uri: &str) -> bool {
        self.watched.contains(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit() -> Visit {
        Visit::new(
            "x".into(),
            Arc::new(Caller::loopback()),
            0,
            0,
            Instant::now(),
        )
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_latest_is_always_there() {
        let mut visit = visit();
        for _ in 0..KEPT * 2 {
            visit.record(1, b"{}");
        }
        assert_eq!(visit.missed(1, 0).count(), KEPT);
        assert_eq!(visit.missed(2, 0).count(), 0);
        let last = visit.last;
        assert_eq!(visit.missed(1, last - 3).count(), 3);
        visit.record(2, &vec![b'x'; KEPT_BYTES + 1]);
        assert_eq!(visit.missed(1, 0).count(), 0);
        assert_eq!(visit.missed(2, 0).count(), 1);
    }

    #[test]
    fn a_stream_that_is_closed_tells_after_a_moment_that_its_client_is_gone() {
        let now = Instant::now();
        let mut visit = visit();
        let idle = Duration::from_secs(60);
        assert!(
            !visit.is_left(idle, visit.used + idle - BROKEN)
                && visit.is_left(idle, visit.used + idle)
        );
        let seat = Rc::new(Seat::new(1000, now));
        visit.listen(&seat, None, now);
        assert!(!visit.is_left(idle, now + idle * 2) && !visit.broke_off());
        seat.leave();
        assert!(visit.broke_off());
        let left = seat.left_at().unwrap();
        assert!(!visit.is_left(idle, left + BROKEN / 2) && visit.is_left(idle, left + BROKEN));
        // What it is told meanwhile changes nothing.
        visit.tell(b"1", now);
        assert!(!visit.is_left(idle, left + BROKEN / 2) && visit.is_left(idle, left + BROKEN));
    }

    #[test]
    fn what_nobody_has_had_waits_for_the_next_stream() {
        let now = Instant::now();
        let mut visit = visit();
        visit.tell(b"1", now);
        let seat = Rc::new(Seat::new(1000, now));
        visit.listen(&seat, None, now);
        visit.tell(b"2", now);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut got = String::new();
        while let std::task::Poll::Ready(Some(event)) = seat.poll_event(&mut cx) {
            got.push_str(std::str::from_utf8(&event).unwrap());
        }
        assert!(
            got.contains("id: 0-1\n") && got.contains("id: 0-2\n"),
            "{got}"
        );
        let again = Rc::new(Seat::new(1000, now));
        visit.listen(&again, Some(1), now);
        assert!(
            matches!(again.poll_event(&mut cx), std::task::Poll::Ready(Some(event)) if event.starts_with(b"id: 0-2"))
        );
        assert!(
            matches!(seat.poll_event(&mut cx), std::task::Poll::Ready(None)),
            "the newer replaces it"
        );
    }
}
