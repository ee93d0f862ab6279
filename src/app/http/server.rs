//! One server process behind the listener: its session with policy, its requests, its input.

use super::seat::Seat;
use super::turns::Pass;
use super::visit::Visit;
use crate::identity::Caller;
use crate::mcp::{Direction, Envelope, Id, RawId};
use crate::proxy::{Duplicate, Exchanges, Outbox, Party, Passage, Session};
use crate::supervise::Life;
use crate::transport::http::{Bytes, HeaderMap};
use crate::transport::writer::Outlet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Bytes that may wait for a server that does not read; while there are more, requests are refused.
const BACKLOG: usize = 8 * 1024 * 1024;
/// Requests that wait for the tool list.
const HELD: usize = 1024;

/// Whom a process works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The first who comes.
    Spare,
    /// Everybody who speaks 2026-07-28.
    Modern,
    /// All legacy sessions.
    Shared,
    /// This session.
    Own(Party),
}

/// What a request is, besides its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Initialize,
    Listen,
}

/// Where the answer to a request goes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) seat: Rc<Seat>,
    pub(super) kind: Kind,
    /// The number of its event stream, in a session.
    pub(super) stream: Option<u32>,
    /// Given back when the request is over, however that comes about.
    pub(super) _pass: Option<Pass>,
}

/// A modern request that waits until the tools are known.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) seat: Rc<Seat>,
    pub(super) body: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) caller: Arc<Caller>,
    pub(super) pass: Option<Pass>,
}

/// The handshake with a server that sessions share.
#[derive(Debug, Default)]
pub(super) enum Handshake {
    /// Nobody has asked.
    #[default]
    None,
    /// Somebody has, and these wait for the same answer.
    Asked(Vec<(Rc<Seat>, RawId, Party)>),
    /// The server's result.
    Done(Box<[u8]>),
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) cell: u32,
    /// Tells it from an earlier process with the same number.
    pub(super) serial: u64,
    pub(super) role: Role,
    pub(super) session: Session,
    pub(super) exchanges: Exchanges<Place>,
    pub(super) life: Life,
    pub(super) begun: Instant,
    pub(super) started: bool,
    pub(super) inlet: Inlet,
    pub(super) held: Vec<Held>,
    pub(super) handshake: Handshake,
    /// `notifications/initialized` has been sent to a server that is shared.
    pub(super) initialized: bool,
    /// Another one takes its place for those who come; it ends when its requests are answered.
    pub(super) retired: bool,
    /// How it ended, and until when its last output is waited for.
    pub(super) ended: Option<(String, Instant)>,
}

/// What became of a request that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// It waits for its answer under this number.
    In(i64),
    /// The session has a request with this id open.
    Duplicate,
    /// The server does not read.
    Full,
}

impl Server {
    pub(super) fn new(cell: u32, serial: u64, role: Role, session: Session) -> Self {
        Self {
            cell,
            serial,
            role,
            session,
            exchanges: Exchanges::default(),
            life: Life::default(),
            begun: Instant::now(),
            started: false,
            inlet: Inlet::default(),
            held: Vec::new(),
            handshake: Handshake::None,
            initialized: false,
            retired: false,
            ended: None,
        }
    }

    /// True while it takes requests.
    pub(super) fn serves(&self) -> bool {
        self.ended.is_none() && !self.retired && !self.inlet.closed && !self.life.ending()
    }

    /// Hands a request to policy and to the server; what policy answers itself is in `out`.
    pub(super) fn hand_in(
        &mut self,
        envelope: &Envelope<'_>,
        id: Id<'_>,
        (party, caller): (Party, &Arc<Caller>),
        place: Place,
        now: Instant,
        out: &mut Outbox,
    ) -> Handed {
        if self.inlet.waiting() > BACKLOG {
            return Handed::Full;
        }
        let mut line = Vec::with_capacity(envelope.line.len() + 24);
        let seat = Rc::clone(&place.seat);
        match self.exchanges.admit(envelope, id, party, place, &mut line) {
            Err(Duplicate) => Handed::Duplicate,
            Ok(number) => {
                seat.about.set(Some(super::seat::About {
                    cell: self.cell,
                    serial: self.serial,
                    number,
                }));
                self.pass_in(line, Some(caller), now, out);
                Handed::In(number)
            }
        }
    }

    /// Hands any line of a client to policy, and on to the server if it may.
    pub(super) fn pass_in(
        &mut self,
        mut line: Vec<u8>,
        caller: Option<&Arc<Caller>>,
        now: Instant,
        out: &mut Outbox,
    ) {
        match self.session.client_line_of(&line, caller, now, out) {
            Passage::Pass => {}
            Passage::Replace(other) => line = other,
            Passage::Stop => return,
        }
        line.push(b'\n');
        // One request is written at once; those that come together leave together.
        self.inlet.send(&line, self.exchanges.len() <= 1);
        let took = Instant::now().saturating_duration_since(now);
        self.session.tally().overhead(Direction::ToServer, took, 1);
    }

    /// Keeps a request until the tools are known; false when too many wait.
    pub(super) fn hold(&mut self, held: Held) -> bool {
        let room = self.held.len() < HELD;
        if room {
            self.held.push(held);
        }
        room
    }

    /// The request of a session whose stream takes what belongs to none: the latest one.
    pub(super) fn latest(&self, party: Party) -> Option<i64> {
        let open = self.exchanges.iter().filter(|(_, exchange)| {
            let place = &exchange.place;
            exchange.party == party && place.kind == Kind::Plain && !place.seat.gone.get()
        });
        open.map(|(number, _)| number).max()
    }

    /// The request that is the only one open, and was sent with a log level: the one that a log
    /// message of a shared server can be about.
    pub(super) fn only(&self) -> Option<i64> {
        let mut open = self.exchanges.iter();
        let (number, exchange) = open.find(|(_, exchange)| exchange.place.kind != Kind::Listen)?;
        let alone = open.all(|(_, exchange)| exchange.place.kind == Kind::Listen);
        (alone && !exchange.place.seat.gone.get()).then_some(number)
    }

    /// Makes the stream of a session's request, with its number and opening event.
    pub(super) fn stream_of(
        &mut self,
        number: i64,
        visit: &mut Visit,
        now: Instant,
    ) -> Option<u32> {
        let place = &mut self.exchanges.find_mut(number)?.place;
        if place.stream.is_none() {
            let stream = visit.stream();
            place.stream = Some(stream);
            place.seat.open();
            if let Some(opening) = visit.opening(stream) {
                place.seat.push(opening, now);
            }
        }
        place.stream
    }
}

/// The server's standard input: written at once as far as it is read, the rest kept in order.
#[derive(Debug, Default)]
pub(super) struct Inlet {
    outlet: Option<Outlet>,
    queue: Vec<u8>,
    written: usize,
    /// The server has got the beginning of the line that comes next.
    midline: bool,
    /// A task waits for the pipe to take more.
    pub(super) pumped: bool,
    /// Nothing more will be sent.
    pub(super) closed: bool,
    /// The server has closed it.
    pub(super) deaf: bool,
}

impl Inlet {
    /// The server runs: what waited for it is written.
    pub(super) fn open(&mut self, outlet: Outlet) {
        self.outlet = Some(outlet);
        self.flush();
    }

    pub(super) fn outlet(&self) -> Option<&Outlet> {
        self.outlet.as_ref()
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() - self.written
    }

    /// True when a task has to wait for the pipe.
    pub(super) fn wants_pump(&self) -> bool {
        self.outlet.is_some() && self.waiting() > 0 && !self.pumped
    }

    /// Sends whole lines, `at_once` or with those that follow.
    pub(super) fn send(&mut self, lines: &[u8], at_once: bool) {
        if self.closed {
            return;
        }
        let mut rest = lines;
        if at_once
            && self.waiting() == 0
            && let Some(outlet) = &mut self.outlet
        {
            match outlet.write(lines) {
                Ok(count) => {
                    let (sent, left) = lines.split_at(count.min(lines.len()));
                    self.midline = ends_midline(sent, self.midline);
                    rest = left;
                }
                Err(_) => return self.fail(),
            }
        }
        self.queue.extend_from_slice(rest);
    }

    /// Takes back the whole lines of which the server has got nothing.
    pub(super) fn take_back(&mut self) -> Vec<u8> {
        let waits = self.queue.get(self.written..).unwrap_or_default();
        let half = match self.midline {
            true => memchr::memchr(b'\n', waits).map_or(waits.len(), |end| end + 1),
            false => 0,
        };
        self.queue.split_off(self.written + half)
    }

    /// Writes what waits, as far as it is taken.
    pub(super) fn flush(&mut self) {
        if let Some(outlet) = &mut self.outlet
            && self.written < self.queue.len()
        {
            match outlet.write(self.queue.get(self.written..).unwrap_or_default()) {
                Ok(count) => {
                    let sent = self.written..self.written + count;
                    self.written = sent.end;
                    let sent = self.queue.get(sent).unwrap_or_default();
                    self.midline = ends_midline(sent, self.midline);
                }
                Err(_) => return self.fail(),
            }
        }
        if self.written == self.queue.len() {
            self.queue.clear();
            self.queue.shrink_to(64 * 1024);
            self.written = 0;
            if self.closed {
                self.outlet = None;
            }
        }
    }

    /// The end of input follows what waits.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.flush();
    }

    fn fail(&mut self) {
        self.deaf = true;
        self.closed = true;
        self.outlet = None;
        self.queue = Vec::new();
        self.written = 0;
    }
}

/// Whether a line has begun and not ended, after `sent` was written.
fn ends_midline(sent: &[u8], before: bool) -> bool {
    sent.last().map_or(before, |last| *last != b'\n')
}
