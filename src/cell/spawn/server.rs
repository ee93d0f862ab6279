//! The spawner's side: one thread, one `poll`, and nothing that outlives it.
//!
//! ```text
//! Start n ─▶ prepare, plan ─▶ launch ─▶ listen to the launcher ─┬▶ Started ─▶ (runs) ─▶ Exited
//!                  └──────────────┴─────────────────────────────┴▶ Failed
//! ```
//!
//! Whatever ends the loop, the way out is the same: kill every descendant, remove every directory.

use super::cell::{Cell, StartError, Verdict, exit_of, meaning, timespec};
use super::channel::{Channel, Received};
use super::companion::Companion;
use super::completion::Watch;
use super::duties::{Duties, Planned, Work};
use super::event::Event;
use super::freeze;
use super::housework::Housework;
use super::protocol::{MAX_CELLS, Mode, ProtocolError};
use super::relay::Relay;
use super::request::{REQUEST_BYTES, Request, Stop};
use super::signals::Signals;
use super::tempdir::TempDir;
use super::tree;
use crate::cell::egress::News;
use crate::cell::pty::SavedModes;
use crate::config;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, Signal, WaitStatus, getppid, kill_process, set_parent_process_death_signal, setsid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The process that started us; another one later means that it died.
static PARENT: OnceLock<Option<Pid>> = OnceLock::new();
/// The message process, which started that one.
static MESSAGES: OnceLock<Pid> = OnceLock::new();
/// How long a message process may leave our events unread before it counts as gone.
const UNREAD_LIMIT: Duration = Duration::from_secs(5);

/// What it may spend on the files of a server that has ended while others run.
const TIDY: Duration = Duration::from_millis(20);

/// Why the spawner ended; in every case nothing that it started is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The message process closed its end or died.
    Closed,
    /// The message process sent what it cannot have meant.
    Malformed(ProtocolError),
    /// The message process reads no events.
    Stuck,
}

/// Says who has started us, before anybody could have died.
pub(super) fn born_of(parent: Pid, messages: Option<Pid>) {
    PARENT.get_or_init(|| Some(parent));
    if let Some(messages) = messages {
        MESSAGES.get_or_init(|| messages);
    }
}

/// The guardian and the message process, as they were when we were started.
pub(super) fn ancestors() -> [Option<Pid>; 2] {
    [PARENT.get().copied().flatten(), MESSAGES.get().copied()]
}

/// The process that carries the messages, once it is known.
#[must_use]
pub fn message_process() -> Option<Pid> {
    MESSAGES.get().copied()
}

/// True when the process that started us is gone.
pub(super) fn parent_is_gone() -> bool {
    PARENT.get().is_some_and(|parent| *parent != getppid())
}

/// Serves requests until the message process is gone.
///
/// # Errors
/// The kernel refuses something without which no tree can be held together; nothing was started.
pub fn serve(control: OwnedFd, mode: Mode, duties: &mut dyn Duties) -> io::Result<Ended> {
    PARENT.get_or_init(getppid);
    set_parent_process_death_signal(Some(Signal::TERM))?;
    tree::adopt_orphans()?;
    // Ctrl-C and a hang-up of the terminal are for the message process. It fails only when we lead
    // a group already, as when started by hand.
    let _ = setsid();
    let mut server = Server {
        control: Channel::new(control),
        signals: Signals::open()?,
        mode,
        cells: Vec::new(),
        housework: Housework::default(),
        frozen: false,
        later: Vec::new(),
    };
    let modes = match mode {
        Mode::Exec => SavedModes::of(io::stdin().as_fd()),
        Mode::Run => None,
    };
    let ended = server.run(duties);
    for leaf in server.cells.iter().filter_map(|cell| cell.leaf.as_ref()) {
        leaf.kill();
    }
    let felled = tree::kill_descendants();
    server.cells.clear();
    server.housework.end();
    if let Some(modes) = modes {
        // The message process died with the terminal in raw mode, or has restored it already.
        modes.restore();
    }
    if !felled.survivors.is_empty() {
        return Err(io::Error::other(outlived(&felled.survivors)));
    }
    Ok(ended)
}

struct Server {
    control: Channel,
    signals: Signals,
    mode: Mode,
    cells: Vec<Cell>,
    housework: Housework,
    frozen: bool,
    /// Cells that were asked for while everything stands still.
    later: Vec<u32>,
}

impl Server {
    fn run(&mut self, duties: &mut dyn Duties) -> Ended {
        loop {
            if let Err(ended) = self.turn(duties) {
                return ended;
            }
        }
    }

    /// Waits for something and deals with it.
    fn turn(&mut self, duties: &mut dyn Duties) -> Result<(), Ended> {
        self.settle()?;
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        for pipe in self.cells.iter().filter_map(|cell| cell.launched.status()) {
            fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
        }
        for watched in duties.watched() {
            fds.push(PollFd::from_borrowed_fd(watched, PollFlags::IN));
        }
        for cell in &self.cells {
            let refuses = cell.launched.refusals.as_fd().into_iter();
            fds.extend(refuses.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        for relay in self.cells.iter().filter_map(|cell| cell.relay.as_ref()) {
            let events = relay.events().into_iter();
            fds.extend(events.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let deadline = self
            .cells
            .iter()
            .filter_map(|cell| cell.launched.deadline())
            .chain(duties.due())
            .chain(self.housework.due())
            .min();
        let left = deadline.map(|d| timespec(d.saturating_duration_since(Instant::now())));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(Ended::Stuck),
        }
        self.housework.look();
        let asked = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        let seen = self.signals.take();
        if seen.terminate && parent_is_gone() {
            return Err(Ended::Closed);
        }
        if seen.child {
            let mut reaped = Vec::new();
            tree::reap(&mut |pid, status| reaped.push((pid, status)));
            self.note(reaped);
        }
        self.look(duties, false)?;
        self.pass_on_refusals();
        self.hear_relays()?;
        if asked { self.answer(duties) } else { Ok(()) }
    }

    /// Lost when the message process does not read: the server must not wait for it.
    fn pass_on_refusals(&mut self) {
        for cell in &mut self.cells {
            for (what, text) in cell.launched.refusals.hear() {
                let (cell, what) = (cell.number, what.to_owned());
                if let Ok((bytes, fds)) = (Event::Denied { cell, what, text }).encode() {
                    drop(self.control.send(&bytes, &fds));
                }
            }
        }
    }

    /// Passes on what relays tell; lost when the message process does not read.
    fn hear_relays(&mut self) -> Result<(), Ended> {
        let mut told = Vec::new();
        for cell in &mut self.cells {
            let news = cell.relay.as_mut().map(Relay::hear).unwrap_or_default();
            let cell_number = cell.number;
            told.extend(news.into_iter().map(|news| (cell_number, news)));
        }
        self.pass_on(told);
        for at in 0..self.cells.len() {
            let Some(cell) = self.cells.get_mut(at) else {
                continue;
            };
            if cell.has_lost_its_relay() {
                let cell = cell.number;
                let text = "the process that makes connections has ended: no host is reachable";
                let text = text.to_owned();
                self.tell(Event::Progress { cell, text })?;
            }
        }
        Ok(())
    }

    fn pass_on(&self, told: Vec<(u32, News)>) {
        for (cell, news) in told {
            if let Ok((bytes, fds)) = (Event::Network { cell, news }).encode() {
                drop(self.control.send(&bytes, &fds));
            }
        }
    }

    /// Reads one request; more of them keep the descriptor readable.
    fn answer(&mut self, duties: &mut dyn Duties) -> Result<(), Ended> {
        let datagram = match self.control.receive(REQUEST_BYTES + 1) {
            Ok(Received::Datagram(datagram)) => datagram,
            Ok(Received::Empty) => return Ok(()),
            Ok(Received::Closed) => return Err(Ended::Closed),
            Err(_) => {
                let bytes = REQUEST_BYTES + 1;
                return Err(Ended::Malformed(ProtocolError::Length { bytes }));
            }
        };
        if !datagram.fds.is_empty() {
            let found = datagram.fds.len();
            return Err(Ended::Malformed(ProtocolError::Descriptors {
                found,
                expected: 0,
            }));
        }
        match Request::decode(&datagram.bytes).map_err(Ended::Malformed)? {
            // It is told of the switch, and asks again when that is on.
            Request::Start { .. } if duties.is_off() => Ok(()),
            Request::Start { cell } if self.frozen => {
                // It asks again and again for one that does not come.
                if !self.later.contains(&cell) {
                    self.later.push(cell);
                }
                Ok(())
            }
            Request::Start { cell } => self.begin(cell, duties),
            Request::Stop { cell, how } => {
                self.stop(cell, how);
                Ok(())
            }
            Request::Reread => self.look(duties, true),
            Request::SwitchOff => {
                duties.switch_off();
                self.look(duties, false)
            }
            Request::Reload => {
                duties.reload();
                self.look(duties, true)
            }
            Request::Taken => {
                self.hand_over(duties, true);
                self.look(duties, false)
            }
            Request::Rotate => {
                let log = duties.rotate().map_err(|error| error.to_string());
                self.tell(Event::Rotated { log })
            }
        }
    }

    fn hand_over(&self, duties: &mut dyn Duties, taken: bool) {
        for (directory, signal) in duties.hand_over(taken) {
            self.signal(&directory, signal);
        }
    }

    /// Takes notice of the files that are watched; what runs while nothing may is killed at once.
    fn look(&mut self, duties: &mut dyn Duties, now: bool) -> Result<(), Ended> {
        let events = duties.look(now);
        let stops = duties.is_frozen() && !self.frozen;
        let goes_on = self.frozen && !duties.is_frozen();
        self.frozen = duties.is_frozen();
        let leaves = || self.cells.iter().filter_map(|cell| cell.leaf.as_ref());
        let mut stopped = Vec::new();
        if stops {
            stopped = freeze::stop(leaves());
        } else if goes_on {
            freeze::go_on(leaves());
        }
        for event in events {
            self.tell(event)?;
        }
        if stops {
            duties.frozen(stopped);
        }
        if goes_on {
            for cell in std::mem::take(&mut self.later) {
                self.begin(cell, duties)?;
            }
        }
        self.hand_over(duties, false);
        for directory in duties.doomed() {
            let mut cells = self.cells.iter();
            let number = cells.find_map(|cell| {
                let ends = cell.exit.is_none() && cell.lies_in(&directory);
                ends.then_some(cell.number)
            });
            if let Some(number) = number {
                self.stop(number, Stop::Kill);
            }
        }
        if duties.is_off() {
            let running = self.cells.iter().filter(|cell| cell.exit.is_none());
            let running: Vec<u32> = running.map(|cell| cell.number).collect();
            for number in running {
                self.stop(number, Stop::Kill);
            }
        }
        Ok(())
    }

    fn begin(&mut self, cell: u32, duties: &mut dyn Duties) -> Result<(), Ended> {
        match self.start(cell, duties) {
            Ok(()) => Ok(()),
            Err(StartError::Abandoned) => Err(Ended::Closed),
            Err(error) => self.tell(Event::Failed {
                cell,
                exit_code: error.exit_code(),
                message: error.to_string(),
            }),
        }
    }

    fn start(&mut self, number: u32, duties: &mut dyn Duties) -> Result<(), StartError> {
        let live = self.cells.len() >= MAX_CELLS as usize;
        if live || self.cells.iter().any(|cell| cell.number == number) {
            let message = format!("cell {number} runs already");
            return Err(StartError::Refused {
                exit_code: 70,
                message,
            });
        }
        let os = |doing| move |source| StartError::Os { doing, source };
        let directory = TempDir::create().map_err(os("make a private temporary directory"))?;
        let mut watch = Watch {
            control: &self.control,
            signals: &self.signals,
            cell: number,
            others: self.cells.iter().flat_map(Cell::processes).collect(),
            reaped: Vec::new(),
        };
        let planned = duties.plan(number, directory.path(), &mut watch);
        let reaped = std::mem::take(&mut watch.reaped);
        self.note(reaped);
        let Planned { work, facts } = planned?;
        let spec = match work {
            Work::Enclose(spec) => *spec,
            Work::Dial(place) => {
                self.cells
                    .push(Cell::dial(number, &place, facts, directory)?);
                return Ok(());
            }
        };
        self.cells
            .push(Cell::start(number, spec, facts, self.mode, directory)?);
        Ok(())
    }

    /// A main process that is not reaped yet keeps its number, so the number is safe to signal.
    fn stop(&mut self, number: u32, how: Stop) {
        let Some(cell) = self.cells.iter().find(|cell| cell.number == number) else {
            return;
        };
        if cell.exit.is_some() {
            return;
        }
        let signal = match how {
            Stop::Terminate => Signal::TERM,
            Stop::Interrupt => Signal::INT,
            Stop::Hangup => Signal::HUP,
            Stop::Kill => Signal::KILL,
        };
        let _ = kill_process(cell.launched.pid, signal);
        if how == Stop::Kill {
            self.fell(number);
        }
    }

    /// Tells a server that runs; one that is being started reads the new files anyway, and its launcher
    /// would not survive the signal.
    fn signal(&self, directory: &Path, signal: config::Signal) {
        let signal = match signal {
            config::Signal::Hangup => Signal::HUP,
            config::Signal::User1 => Signal::USR1,
            config::Signal::User2 => Signal::USR2,
        };
        let running = self.cells.iter().filter(|cell| {
            cell.exit.is_none() && matches!(cell.verdict, Some(Ok(_))) && cell.lies_in(directory)
        });
        for cell in running {
            let _ = kill_process(cell.launched.pid, signal);
        }
    }

    /// Kills what does not belong to another cell that still runs.
    fn fell(&mut self, number: u32) -> tree::Felled {
        if let Some(cell) = self.cells.iter_mut().find(|cell| cell.number == number) {
            cell.leaf.iter().for_each(|leaf| leaf.kill());
            cell.companions().for_each(Companion::end);
        }
        self.housework.interrupt();
        let spare: Vec<Pid> = self
            .cells
            .iter()
            .filter(|cell| cell.number != number && cell.exit.is_none())
            .flat_map(Cell::processes)
            .collect();
        let mut reaped = Vec::new();
        let felled = tree::kill_all_but(&spare, &mut |pid, status| reaped.push((pid, status)));
        self.note(reaped);
        felled
    }

    fn note(&mut self, reaped: Vec<(Pid, WaitStatus)>) {
        for (pid, status) in reaped {
            let companions = self.cells.iter_mut().flat_map(Cell::companions);
            companions.for_each(|companion| companion.note(pid));
            self.housework.note(pid);
            // Whatever else ended was an orphan: reaped, and of no interest.
            let known = |cell: &&mut Cell| cell.launched.pid == pid && cell.exit.is_none();
            if let Some(cell) = self.cells.iter_mut().find(known) {
                cell.exit = Some(status);
            }
        }
    }

    /// Brings every cell as far as it can be brought without waiting.
    fn settle(&mut self) -> Result<(), Ended> {
        let mut at = 0;
        while let Some(cell) = self.cells.get_mut(at) {
            if let Some(verdict) = cell.launched.listen(cell.exit.is_some()) {
                let started = started(cell, &verdict);
                cell.verdict = Some(verdict);
                if let Some(event) = started {
                    let number = cell.number;
                    for warning in cell.network_warnings() {
                        self.tell(Event::Progress {
                            cell: number,
                            text: format!("warning: {warning}"),
                        })?;
                    }
                    self.tell(event)?;
                    self.housework.begin();
                }
                continue;
            }
            let number = cell.number;
            if cell.has_lost_its_dialer() {
                // What the end of input is to a server that reads it.
                self.stop(number, Stop::Terminate);
                continue;
            }
            let late = cell
                .launched
                .deadline()
                .is_some_and(|d| Instant::now() >= d);
            if let Some(exit) = cell.exit {
                let last = cell.relay.as_mut().map(Relay::finish).unwrap_or_default();
                self.pass_on(last.into_iter().map(|news| (number, news)).collect());
                self.pass_on_refusals();
                let felled = self.fell(number);
                // The directory goes after the last process, and the report does not wait for it.
                let cell = self.cells.remove(at);
                let event = farewell(&cell, exit, &felled);
                self.tell(event)?;
                if !cell.clear(TIDY) {
                    self.housework.go_on();
                }
            } else if late {
                self.fell(number);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    fn tell(&self, event: Event) -> Result<(), Ended> {
        let (bytes, fds) = event.encode().map_err(Ended::Malformed)?;
        let deadline = Instant::now() + UNREAD_LIMIT;
        loop {
            match self.control.send(&bytes, &fds) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Ended::Closed),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Ended::Stuck);
            }
            let mut fds = [PollFd::from_borrowed_fd(
                self.control.as_fd(),
                PollFlags::OUT,
            )];
            if poll(&mut fds, Some(&timespec(left))).is_err_and(|e| e != rustix::io::Errno::INTR) {
                return Err(Ended::Stuck);
            }
        }
    }
}

fn started(cell: &mut Cell, verdict: &Verdict) -> Option<Event> {
    let report = verdict.as_ref().ok()?.clone();
    Some(Event::Started {
        cell: cell.number,
        pid: cell.launched.pid.as_raw_nonzero().get().unsigned_abs(),
        report,
        facts: cell.facts.clone(),
        fds: std::mem::take(&mut cell.ours),
    })
}

/// The last event of a cell.
fn farewell(cell: &Cell, status: WaitStatus, felled: &tree::Felled) -> Event {
    let number = cell.number;
    let exit = exit_of(status);
    let (mut cause, limit) = meaning(exit, cell.ran_out_of_memory(exit));
    if !felled.survivors.is_empty() {
        cause = outlived(&felled.survivors);
    }
    match &cell.verdict {
        Some(Ok(_)) => Event::Exited {
            cell: number,
            exit,
            cause,
            limit,
        },
        Some(Err(failure)) if cause.is_empty() => {
            let message = failure.text.clone();
            Event::Failed {
                cell: number,
                exit_code: failure.code,
                message,
            }
        }
        Some(Err(failure)) => {
            let message = format!("{}: {cause}", failure.text);
            Event::Failed {
                cell: number,
                exit_code: failure.code,
                message,
            }
        }
        None => {
            let error = StartError::Slow { seconds: 20 };
            Event::Failed {
                cell: number,
                exit_code: error.exit_code(),
                message: error.to_string(),
            }
        }
    }
}

fn outlived(survivors: &[i32]) -> String {
    format!("processes {survivors:?} outlived SIGKILL: the kernel holds them, look at their state")
}
