//! Replacement without a pause (`server.replace = "overlap"`): the next process is started and greeted
//! while the old one still serves.
//!
//! ```text
//! (none) ── planned ──▶ Preparing ── it has answered the handshake ──▶ Draining ── nothing is open, or too late ──▶ (none)
//!    ▲ ▲    ▲               │                                             │            the old one ends beside it
//!    │ │    └─ tried again ─┼─ it ends, does not answer in time, or is another: the old one goes on
//!    │ └──── planned again ─┴─────────────────────────────────────────────┘
//!    └────── the old one ends by itself, or is switched off ◀── any
//! ```
//! One that is not taken is tried again as one that ends is started again ([`Restarts`]): later and later,
//! then when somebody asks after a minute, or when something is different. Its cell has a number of its own, so that one starts beside the other. Until it takes over nothing
//! that it says reaches the client.

use super::audition::Audition;
use super::drain::Drain;
use super::lane::{Incoming, Lane};
use super::replace::Replacing;
use super::starting::tell_started;
use super::stdio::{Loop, LoopError, START_LIMIT};
use crate::admin::Phase;
use crate::cell::LayerReport;
use crate::cell::spawn::{Exit, Facts, MAX_CELLS, Stop};
use crate::config::Replace;
use crate::proxy::{Outbox, Passage};
use crate::supervise::{Act, Due, Life, Next, Restarts};
use crate::transport::writer::Outlet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// A server that is to take the place of the one that serves.
#[derive(Debug)]
pub(super) struct Newcomer {
    cell: u32,
    begun: Instant,
    until: Instant,
    /// `None` while it is being started.
    running: Option<Box<Running>>,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    report: LayerReport,
    facts: Facts,
    stdin: Outlet,
    stdout: OwnedFd,
    stderr: Option<Drain>,
    lane: Lane,
    audition: Audition,
}

/// One that ends beside the server that serves.
#[derive(Debug)]
pub(super) struct Leaving {
    cell: u32,
    life: Life,
}

impl Newcomer {
    /// When it has had enough time; it has until then to answer the handshake.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_ready()).then_some(self.until)
    }

    /// It can be asked.
    pub(super) fn is_ready(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|it| it.audition.is_over())
    }
}

impl Leaving {
    pub(super) fn due(&self) -> Option<Instant> {
        self.life.due()
    }
}

impl Loop {
    /// Starts another server beside the one that serves.
    pub(super) fn prepare(&mut self, now: Instant) -> Result<(), LoopError> {
        self.unseat("another one is started in its place", now)?;
        let cell = self.free_cell();
        self.newcomer = Some(Newcomer {
            cell,
            begun: now,
            until: now + START_LIMIT,
            running: None,
        });
        self.replacing = Some(Replacing::Preparing { since: now });
        self.spawner.start(cell).map_err(LoopError::unreached)
    }

    /// A number that no process has that may still be there.
    fn free_cell(&mut self) -> u32 {
        let used = |cell: u32| cell == self.cell || self.leaving.iter().any(|it| it.cell == cell);
        let next = (1..MAX_CELLS).map(|step| (self.cell + step) % MAX_CELLS);
        next.into_iter().find(|cell| !used(*cell)).unwrap_or(0)
    }

    /// True when this cell is the newcomer's.
    pub(super) fn is_newcomer(&self, cell: u32) -> bool {
        self.newcomer.as_ref().is_some_and(|it| it.cell == cell)
    }

    /// The newcomer runs: it is told what the client knows, or is ready at once.
    pub(super) fn newcomer_started(
        &mut self,
        pid: u32,
        report: LayerReport,
        facts: Facts,
        [stdin, stdout, stderr]: [OwnedFd; 3],
        now: Instant,
    ) -> Result<(), LoopError> {
        let Some(newcomer) = &mut self.newcomer else {
            return Ok(());
        };
        let (audition, question) = Audition::begin(&mut self.session);
        let system = |source| LoopError::System {
            doing: "watch the next server",
            source,
        };
        self.seldom
            .watch_newcomer(stdout.as_fd(), stderr.as_fd())
            .map_err(system)?;
        let mut stdin = Outlet::exclusive(stdin);
        // A fresh pipe takes it whole, up to the largest `initialize` that there is; one that does not
        // take it is late in the end.
        drop(stdin.write(&question));
        newcomer.running = Some(Box::new(Running {
            pid,
            report,
            facts,
            stdin,
            stdout,
            stderr: Some(Drain::new(stderr, now)),
            lane: Lane::new(self.config.limits.response.0),
            audition,
        }));
        self.newcomer_ready(now);
        Ok(())
    }

    /// The newcomer has said something.
    pub(super) fn hear_newcomer(&mut self, now: Instant) -> Result<(), LoopError> {
        let Some(running) = self.newcomer.as_mut().and_then(|it| it.running.as_mut()) else {
            return Ok(());
        };
        let ended = !matches!(running.lane.read(running.stdout.as_fd()), Ok(true));
        let (audition, session) = (&mut running.audition, &mut self.session);
        let mut estranged = None;
        running.lane.process(|incoming| {
            if let Incoming::Line(line) = incoming
                && let Err(why) = audition.hear(line, session)
            {
                estranged = Some(why);
            }
            Passage::Stop
        });
        if let Some(why) = estranged {
            return self.dismiss(&why, now);
        }
        if ended {
            return self.dismiss("it has closed its output", now);
        }
        self.newcomer_ready(now);
        Ok(())
    }

    /// The next server's stderr, while it waits.
    pub(super) fn drain_newcomer(&mut self, now: Instant) {
        let running = self.newcomer.as_mut().and_then(|it| it.running.as_mut());
        let Some(mut stderr) = running.and_then(|it| it.stderr.take()) else {
            return;
        };
        let more = self.hear_stderr(&mut stderr, now);
        if let Some(running) = self.newcomer.as_mut().and_then(|it| it.running.as_mut()) {
            running.stderr = more.then_some(stderr);
        }
    }

    fn newcomer_ready(&mut self, now: Instant) {
        let Some(newcomer) = self.newcomer.as_ref().filter(|it| it.is_ready()) else {
            return;
        };
        if let Some(running) = &newcomer.running {
            // What it says from here on waits in its pipe.
            self.seldom.forget(running.stdout.as_fd());
        }
        if let Some(Replacing::Preparing { since }) = self.replacing {
            let took = now.saturating_duration_since(since).as_millis();
            tracing::info!("the next server is ready after {took} ms");
            self.replacing = Some(Replacing::Draining { since: now });
        }
    }

    /// The newcomer is not taken: the server that serves goes on, and another is tried later.
    fn dismiss(&mut self, why: &str, now: Instant) -> Result<(), LoopError> {
        if self.newcomer.is_none() {
            return Ok(());
        }
        let kept = format!("the server keeps the old one: the next is not taken: {why}");
        self.known.placed(Err(&kept), self.session.audit(), now);
        self.unseat(why, now)?;
        again_after(&mut self.beside, now);
        Ok(())
    }

    /// Tries once more to start another beside the one that serves.
    fn step_again(&mut self, now: Instant) -> Result<(), LoopError> {
        let due = self.beside.waiting() && self.beside.step(now) == Some(Due::Start);
        let serves = self.is_drainable() && !self.life.ending() && self.farewell.is_none();
        if !due || !serves || self.replacing.is_some() {
            return Ok(());
        }
        match self.config.server.replace {
            Replace::Overlap => self.prepare(now),
            _ => self.replace("the last one could not be replaced", now),
        }
    }

    /// When another is tried; never while that could not be.
    pub(super) fn again_due(&self) -> Option<Instant> {
        let waits = self.beside.waiting() && !self.frozen;
        self.beside.due().filter(|_| waits)
    }

    fn unseat(&mut self, why: &str, now: Instant) -> Result<(), LoopError> {
        let Some(newcomer) = self.newcomer.take() else {
            return Ok(());
        };
        if matches!(
            self.replacing,
            Some(Replacing::Preparing { .. } | Replacing::Draining { .. })
        ) {
            self.replacing = None;
        }
        tracing::error!("the next server is not taken, the one that serves goes on: {why}");
        if let Some(running) = &newcomer.running {
            self.seldom.forget(running.stdout.as_fd());
            if let Some(stderr) = &running.stderr {
                self.seldom.forget(stderr.as_fd());
            }
        }
        let mut life = Life::default();
        life.stop(now);
        life.stuck();
        self.leaving.push(Leaving {
            cell: newcomer.cell,
            life,
        });
        self.stop_beside(newcomer.cell, Stop::Kill)
    }

    fn stop_beside(&mut self, cell: u32, how: Stop) -> Result<(), LoopError> {
        self.spawner.stop(cell, how).map_err(LoopError::unreached)
    }

    /// A cell that does not serve has ended or did not start; false when it is none of those.
    pub(super) fn ended_beside(
        &mut self,
        cell: u32,
        why: &str,
        now: Instant,
    ) -> Result<bool, LoopError> {
        if self.is_newcomer(cell) {
            self.dismiss(why, now)?;
            self.leaving.retain(|it| it.cell != cell);
            return Ok(true);
        }
        let before = self.leaving.len();
        self.leaving.retain(|it| it.cell != cell);
        Ok(self.leaving.len() < before)
    }

    /// What is due of those that do not serve.
    pub(super) fn step_beside(&mut self, now: Instant) -> Result<(), LoopError> {
        if self
            .newcomer
            .as_ref()
            .and_then(Newcomer::due)
            .is_some_and(|due| due <= now)
        {
            self.dismiss("it does not answer the handshake in time", now)?;
        }
        if !self.frozen {
            self.step_again(now)?;
        }
        for at in 0..self.leaving.len() {
            let Some(leaving) = self.leaving.get_mut(at) else {
                break;
            };
            let (cell, act) = (leaving.cell, leaving.life.step(now));
            match act {
                Some(Act::Terminate) => self.stop_beside(cell, Stop::Terminate)?,
                Some(Act::Kill) => self.stop_beside(cell, Stop::Kill)?,
                Some(Act::CloseInput) | None => {}
            }
        }
        Ok(())
    }

    /// The newcomer serves from here on, and the old one ends beside it.
    pub(super) fn take_over(&mut self, now: Instant) -> Result<(), LoopError> {
        let Some(newcomer) = self.newcomer.take() else {
            return Ok(());
        };
        let Some(running) = newcomer.running else {
            return Ok(());
        };
        let mut old = std::mem::take(&mut self.life);
        old.replaced(now);
        let mut out = self.settle_lost("it was replaced", now);
        out.to_server.clear();
        self.send(out);
        // What was in force when it began it may have read.
        self.server_since = Some(newcomer.begun);
        self.leaving.push(Leaving {
            cell: self.cell,
            life: old,
        });

        let running = *running;
        self.cell = newcomer.cell;
        self.server_in = Some(running.stdin);
        self.server_out = Some(running.stdout);
        if let Some(stderr) = running.stderr {
            self.seldom.forget(stderr.as_fd());
            self.follow_stderr(stderr)?;
        }
        self.started = true;
        self.life.started();
        self.restarts.taken_over(self.session.has_answered(), now);
        self.replacing = None;
        self.beside.healthy(now);
        self.metrics.child_starts.inc();
        self.metrics.replacements.inc();
        self.known.placed(Ok(()), self.session.audit(), now);
        let took = now.saturating_duration_since(newcomer.begun);
        let (health, name) = (&self.health, &self.config.server.name);
        let (pid, report, facts) = (running.pid, &running.report, &running.facts);
        tell_started(health, &self.metrics, name, pid, report, facts, took);
        tracing::info!("the server was replaced within {} ms", took.as_millis());
        self.enter(Phase::Serving);

        let mut out = Outbox::default();
        let lines = running.audition.take_over(&mut self.session, now, &mut out);
        for line in lines {
            match self.session.server_line(&line, now, &mut out) {
                Passage::Pass => out.to_client.extend(line.into_iter().chain([b'\n'])),
                Passage::Replace(other) => out.to_client.extend(other.into_iter().chain([b'\n'])),
                Passage::Stop => {}
            }
        }
        self.send(out);
        Ok(())
    }

    /// The server that was to be replaced has ended by itself: the one that waits is not greeted by
    /// this session any more.
    pub(super) fn lost_beside(&mut self, now: Instant) {
        self.beside.healthy(now);
        // A spawner that cannot be reached says so by itself.
        drop(self.unseat("the server that it was to replace has ended", now));
    }
}

/// One that was to take over was not taken: when the next is tried.
pub(super) fn again_after(beside: &mut Restarts, now: Instant) {
    match beside.ended(false, true, now) {
        Next::Start(wait) => {
            tracing::info!("another one is tried in {} ms", wait.as_millis());
        }
        Next::Park | Next::End => tracing::error!(
            "the server keeps what it was started with: none that was started with the new was taken; it is tried again when somebody asks after a minute, or when something changes"
        ),
    }
}

/// How a cell ended that did not serve, in words.
pub(super) fn words(exit: Exit, cause: &str) -> String {
    match exit {
        Exit::Code(code) => format!("it has ended with code {code}"),
        Exit::Signal(signal) if cause.is_empty() => format!("signal {signal} has ended it"),
        Exit::Signal(_) => cause.to_owned(),
    }
}
