//! One server behind the listener: its session with policy, its requests, and the process that runs for it
//! now. Another process may take its place ([`super::revive`], [`super::replace`]); the rest stays.

use super::seat::Seat;
use super::turns::{Late, Pass};
use super::visit::Visit;
use crate::app::audition::Audition;
use crate::app::replace::Replacing;
use crate::app::stdio::START_LIMIT;
use crate::identity::Caller;
use crate::mcp::{Direction, Envelope, Id, RawId, Revision};
use crate::proxy::{Duplicate, Exchanges, Outbox, Party, Passage, Session};
use crate::supervise::{Life, Restarts};
use crate::transport::http::{Bytes, HeaderMap};
use crate::transport::writer::Outlet;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Bytes that may wait for a server that does not read; while there are more, requests are refused.
const BACKLOG: usize = 8 * 1024 * 1024;
/// Messages that wait for the tool list, or for the next process.
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
    /// Nobody yet: it is to take the place of the process of the server with this serial number.
    Next(u64),
    /// Nobody any more.
    Leaving,
}

impl Role {
    /// True when it serves nobody: its process is there before another one goes, or after it came.
    pub(super) fn is_beside(self) -> bool {
        matches!(self, Self::Next(_) | Self::Leaving)
    }
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
    /// Given back when the server is done with the request, however that comes about.
    pub(super) pass: Option<Pass>,
}

/// A message that waits: a modern request until the tools are known, any until there is a process that can
/// be asked.
#[derive(Debug)]
pub(super) struct Held {
    /// [`crate::proxy::NOBODY`] where there is no session.
    pub(super) party: Party,
    /// Nobody's, where nothing is answered.
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

/// What runs for a server now.
#[derive(Debug)]
pub(super) struct Process {
    /// Tells it from earlier ones with the same cell.
    pub(super) number: u64,
    pub(super) life: Life,
    pub(super) begun: Instant,
    /// It can be written to.
    pub(super) started: bool,
    /// The spawner was asked for it and has not said that it is gone.
    pub(super) runs: bool,
    pub(super) inlet: Inlet,
    /// It was started with something that is another now.
    pub(super) outdated: bool,
    /// Its output has ended.
    pub(super) mute: bool,
    /// How it ended, and until when its last output is waited for.
    pub(super) ended: Option<(String, Instant)>,
}

impl Process {
    /// One that the spawner is asked for; what it is sent meanwhile waits.
    pub(super) fn new(number: u64) -> Self {
        Self {
            runs: true,
            inlet: Inlet::default(),
            ..Self::none(number)
        }
    }

    /// None yet, or one that has to be greeted before anything else: it is sent nothing.
    pub(super) fn none(number: u64) -> Self {
        Self {
            number,
            life: Life::default(),
            begun: Instant::now(),
            started: false,
            runs: false,
            inlet: Inlet {
                closed: true,
                ..Inlet::default()
            },
            outdated: false,
            mute: false,
            ended: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) cell: u32,
    /// Tells it from an earlier server with the same number.
    pub(super) serial: u64,
    pub(super) role: Role,
    /// What the sessions asked for that share it.
    pub(super) revision: Option<Revision>,
    pub(super) session: Session,
    pub(super) exchanges: Exchanges<Place>,
    /// The places of requests that were given up.
    pub(super) late: Late,
    pub(super) process: Process,
    pub(super) restarts: Restarts,
    /// Somebody was answered: a process of it is worth another one.
    pub(super) proven: bool,
    pub(super) replacing: Option<Replacing>,
    /// The cell of the process that is to take over.
    pub(super) newcomer: Option<u32>,
    /// When one that is to take over is tried again.
    pub(super) beside: Restarts,
    /// Of one that is to take over itself.
    pub(super) audition: Option<Box<Audition>>,
    /// Modern requests that wait until the tools are known.
    pub(super) held: Vec<Held>,
    /// What waits for a process that can be asked, in order.
    pub(super) waiting: VecDeque<Held>,
    pub(super) handshake: Handshake,
    /// `notifications/initialized` has been sent to a server that is shared.
    pub(super) initialized: bool,
    /// Another one takes its place for those who come; it ends when its requests are answered.
    pub(super) retired: bool,
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
    /// With a first process, that the spawner is asked for; `restart`: it may be followed by others.
    pub(super) fn new(cell: u32, serial: u64, role: Role, session: Session, restart: bool) -> Self {
        let process = Process::new(serial);
        Self {
            cell,
            serial,
            role,
            revision: None,
            session,
            exchanges: Exchanges::default(),
            late: Late::default(),
            restarts: Restarts::new(restart, START_LIMIT, process.begun),
            proven: false,
            replacing: None,
            newcomer: None,
            beside: Restarts::of_many(true, START_LIMIT, process.begun),
            audition: None,
            held: Vec::new(),
            waiting: VecDeque::new(),
            handshake: Handshake::None,
            initialized: false,
            retired: false,
            process,
        }
    }

    /// True while it takes requests, which may have to wait.
    pub(super) fn serves(&self) -> bool {
        let (process, bound) = (&self.process, self.restarts.allowed());
        let lives = process.ended.is_none() && !process.inlet.closed && !process.life.ending();
        match self.role {
            Role::Spare => lives,
            Role::Modern | Role::Shared | Role::Own(_) => !self.retired && (lives || bound),
            Role::Next(_) | Role::Leaving => false,
        }
    }

    /// True while something waits for it that ends by itself; those that wait for the tool list are its own
    /// too.
    pub(super) fn has_work(&self) -> bool {
        let mut open = self.exchanges.iter();
        let works = open.any(|(_, exchange)| exchange.place.kind != Kind::Listen);
        works || !self.held.is_empty() || !self.waiting.is_empty()
    }

    /// True while what comes has to wait for a process that can be asked.
    pub(super) fn keeps_waiting(&self) -> bool {
        self.process.inlet.closed
            || self.restarts.down()
            || self.replacing.is_some_and(Replacing::holds_back)
            || self.session.reviving()
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
        if self.process.inlet.waiting() > BACKLOG {
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
        self.process.inlet.send(&line, self.exchanges.len() <= 1);
        let took = Instant::now().saturating_duration_since(now);
        self.session.tally().overhead(Direction::ToServer, took, 1);
    }

    /// Keeps a request until the tools are known; false when too much waits.
    pub(super) fn hold(&mut self, held: Held) -> bool {
        let room = has_room(self.held.iter());
        if room {
            self.held.push(held);
        }
        room
    }

    /// Keeps a message until there is a process that can be asked; false when too much waits.
    pub(super) fn queue(&mut self, held: Held) -> bool {
        let room = has_room(self.waiting.iter());
        if room {
            self.waiting.push_back(held);
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

/// True while there is room for one more message that waits.
fn has_room<'h>(waiting: impl ExactSizeIterator<Item = &'h Held>) -> bool {
    waiting.len() < HELD && waiting.map(|held| held.body.len()).sum::<usize>() <= BACKLOG
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
        self.closed = false;
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
                Err(_) => self.fail(),
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
                Err(_) => self.fail(),
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

    /// What it has not taken may be for the next one.
    fn fail(&mut self) {
        self.deaf = true;
        self.closed = true;
        self.outlet = None;
    }
}

/// Whether a line has begun and not ended, after `sent` was written.
fn ends_midline(sent: &[u8], before: bool) -> bool {
    sent.last().map_or(before, |last| *last != b'\n')
}
