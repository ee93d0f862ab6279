//! The event loop between a client on our stdin and stdout and a server in its cell.
//!
//! One thread and one `poll(2)`: a message is read, decided and written before the next system call
//! that could wait. A plain loop rather than a runtime, because it measured 5 % faster on a small
//! call; `proxy::Session` does not know the difference.

use super::credentials::Known;
use super::drain::{Drain, Drained};
use super::farewell::Farewell;
use super::lane::{Incoming, Lane};
use super::overlap::{Leaving, Newcomer};
use super::reload::Again;
use super::replace::Replacing;
use super::seldom::Seldom;
use super::slice;
use super::stopwatch::Stopwatch;
use super::upstream::Bridges;
use super::wake::{Followed, Ready};
use crate::admin::{Health, Phase};
use crate::audit::FLUSH_AFTER;
use crate::cell::Code;
use crate::cell::spawn::{self, Spawner, Stop};
use crate::config::{Config, Restart};
use crate::mcp::Direction;
use crate::proxy::{Outbox, Passage, Session};
use crate::supervise::{Act, Life, Restarts};
use crate::telemetry::Metrics;
use crate::telemetry::logs::SERVER;
use crate::transport::writer::Outlet;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The cell of the first server.
const FIRST: u32 = 0;

/// From the start of a server until it has answered the handshake.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);

/// Why the loop ended before its time; each is ours or the machine's, never a peer's.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoopError {
    #[error("the event loop cannot {doing}: {source}")]
    System {
        doing: &'static str,
        source: io::Error,
    },
    #[error("the spawner is gone: {source}")]
    Spawner { source: spawn::SpawnError },
}

impl LoopError {
    /// The spawner takes no request.
    pub(super) fn unreached(source: io::Error) -> Self {
        Self::System {
            doing: "reach the spawner",
            source,
        }
    }
}

/// Everything that the loop works on.
pub(super) struct Loop {
    pub(super) config: Arc<Config>,
    pub(super) again: Box<dyn Again>,
    pub(super) session: Session,
    pub(super) spawner: Spawner,
    /// To a server that runs elsewhere.
    pub(super) bridges: Option<Bridges>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) life: Life,
    pub(super) restarts: Restarts,
    /// The exit code of the last server that was lost.
    pub(super) last_exit: Option<u8>,
    pub(super) replacing: Option<Replacing>,
    /// The cell of the server that serves.
    pub(super) cell: u32,
    pub(super) newcomer: Option<Newcomer>,
    pub(super) leaving: Vec<Leaving>,
    /// When one that is to take over is tried again.
    pub(super) beside: Restarts,
    pub(super) known: Known,
    pub(super) to_server: Lane,
    pub(super) to_client: Lane,
    pub(super) client_in: Option<OwnedFd>,
    pub(super) client_out: Option<Outlet>,
    pub(super) server_in: Option<Outlet>,
    pub(super) server_out: Option<OwnedFd>,
    pub(super) stderr: Option<Drain>,
    pub(super) signals: SignalFd,
    pub(super) seldom: Seldom,
    pub(super) followed: Followed,
    pub(super) started: bool,
    /// The operator wants the server to stand still.
    pub(super) frozen: bool,
    /// Not after the start of the server that runs: when the one before was lost.
    pub(super) server_since: Option<Instant>,
    pub(super) hung_up: bool,
    pub(super) rest_at: Option<Instant>,
    pub(super) begun: Instant,
    /// Where our own code lies, until what the start has touched of it is given back.
    pub(super) code: Option<Code>,
    /// What takes the place of stdin at the end: by then nothing can be opened.
    pub(super) nothing: Option<File>,
    /// Somebody wants us to end. Last, because whoever waits for that is told by its being closed.
    pub(super) farewell: Option<Farewell>,
}

impl Loop {
    pub(super) fn new(
        config: Arc<Config>,
        again: Box<dyn Again>,
        session: Session,
        spawner: Spawner,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        begun: Instant,
    ) -> Result<Self, LoopError> {
        let system = |doing| move |source| LoopError::System { doing, source };
        let client_in = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(system("use stdin"))?;
        let client_out = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(system("use stdout"))?;
        let client_out = Outlet::new(client_out).map_err(system("use stdout"))?;
        let signals = open_signals().map_err(system("take signals"))?;
        let seldom = Seldom::new(spawner.as_fd(), signals.as_fd(), health.asked())
            .map_err(system("wait for its own descriptors"))?;
        seldom
            .watch_client_out(client_out.as_fd())
            .map_err(system("watch stdout"))?;
        let restarts = config.server.restart == Restart::Always;
        Ok(Self {
            to_server: Lane::new(config.limits.request.0),
            to_client: Lane::new(config.limits.response.0),
            config,
            again,
            session,
            spawner,
            bridges: None,
            health,
            metrics,
            life: Life::default(),
            restarts: Restarts::new(restarts, START_LIMIT, begun),
            last_exit: None,
            replacing: None,
            cell: FIRST,
            newcomer: None,
            leaving: Vec::new(),
            beside: Restarts::of_many(true, START_LIMIT, begun),
            known: Known::default(),
            client_in: Some(client_in),
            client_out: Some(client_out),
            server_in: None,
            server_out: None,
            stderr: None,
            signals,
            seldom,
            followed: Followed::default(),
            started: false,
            frozen: false,
            server_since: Some(begun),
            hung_up: false,
            rest_at: None,
            begun,
            code: Code::find(),
            nothing: File::open("/dev/null").ok(),
            farewell: None,
        })
    }

    /// Runs until the server is gone and everything is answered; the code to exit with.
    pub(super) fn run(mut self) -> Result<u8, LoopError> {
        if let Err(error) = slice::lengthen() {
            tracing::debug!("the message path keeps an ordinary time slice: {error}");
        }
        loop {
            let ready = match self.follow() {
                true => Ready::default(),
                false => self.wait()?,
            };
            let now = Instant::now();
            if ready.signals
                && let Some(code) = self.take_signals(now)?
            {
                return Ok(code);
            }
            if ready.spawner
                && let Some(code) = self.take_events(now)?
            {
                return Ok(code);
            }
            if ready.asked {
                self.session.tally().publish();
                self.health.beat();
            }
            if ready.stderr {
                self.drain_stderr(now);
            }
            if ready.newcomer_stderr {
                self.drain_newcomer(now);
            }
            if ready.newcomer {
                self.hear_newcomer(now)?;
            }
            if ready.client_in {
                self.followed.read(Direction::ToServer);
                self.read_client();
            }
            // The dead one's may have been heard out just now.
            if ready.server_out && self.server_out.is_some() {
                self.followed.read(Direction::ToClient);
                self.read_server();
                if self.server_out.is_none() {
                    self.life.mute(now);
                }
            }
            if ready.hangup {
                self.hung_up = true;
                let act = self
                    .life
                    .end_of_input(now)
                    .filter(|act| *act != Act::CloseInput);
                self.act(act)?;
            }
            if ready.client_gone {
                self.client_left(now)?;
            }
            self.timers(now)?;
            self.turn(now)?;
            if let Some(code) = self.step_farewell(now)? {
                return Ok(code);
            }
            if let Some(code) = self.nobody_left() {
                return Ok(code);
            }
        }
    }

    pub(super) fn read_client(&mut self) {
        let Some(fd) = &self.client_in else { return };
        match self.to_server.read(fd.as_fd()) {
            Ok(true) => {}
            // A socket whose other end is gone says ECONNRESET where a pipe says end of input.
            Ok(false) | Err(_) => self.client_in = None,
        }
    }

    pub(super) fn read_server(&mut self) {
        let Some(fd) = &self.server_out else { return };
        if !matches!(self.to_client.read(fd.as_fd()), Ok(true)) {
            self.server_out = None;
        }
    }

    /// Decides on what has been read, and writes what may leave.
    pub(super) fn turn(&mut self, now: Instant) -> Result<(), LoopError> {
        let mut out = Outbox::default();
        let hears_client = !self.keeps_client_waiting() && !self.to_client.is_clogged();
        if self.restarts.absent() {
            self.answer_while_away(now);
        }
        let (closed, frozen) = (self.farewell.is_some() || self.frozen, self.frozen);
        let session = &mut self.session;
        let mut clock = Stopwatch::start(now);
        if self.started && hears_client {
            let ended = self.client_in.is_none() && !self.to_server.ended();
            let mut lines = 0;
            let ask = |incoming: Incoming<'_>| {
                lines += 1;
                match incoming {
                    Incoming::Line(line) if closed => {
                        session.while_closed(line, frozen, clock.last, &mut out)
                    }
                    Incoming::Line(line) => session.client_line(line, clock.last, &mut out),
                    Incoming::TooLong { id, bytes } => {
                        session.oversize_from_client(id, bytes, &mut out);
                        Passage::Stop
                    }
                }
            };
            if ended {
                self.to_server.finish(ask);
            } else {
                self.to_server.process(ask);
            }
            clock.lap(session.tally(), Direction::ToServer, lines);
        }
        if !self.to_server.is_clogged() {
            let ended = self.server_out.is_none() && self.started && !self.to_client.ended();
            let mut lines = 0;
            let ask = |incoming: Incoming<'_>| {
                lines += 1;
                match incoming {
                    Incoming::Line(line) => session.server_line(line, clock.last, &mut out),
                    Incoming::TooLong { id, bytes } => {
                        session.oversize_from_server(id, bytes, clock.last, &mut out);
                        Passage::Stop
                    }
                }
            };
            if ended {
                self.to_client.finish(ask);
            } else {
                self.to_client.process(ask);
            }
            clock.lap(session.tally(), Direction::ToClient, lines);
        }
        self.send(out);
        if self.restarts.down() {
            self.settle_restart(now)?;
        }
        self.write(now)?;
        if self.rest_at.is_none() && self.session.restless() {
            self.rest_at = Some(clock.last + FLUSH_AFTER);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, out: Outbox) {
        self.to_client.push(out.to_client);
        self.to_server.push(out.to_server);
    }

    fn write(&mut self, now: Instant) -> Result<(), LoopError> {
        let deaf = match &mut self.server_in {
            Some(outlet) => self.to_server.write(outlet).is_err(),
            None => {
                if self.started && !self.keeps_lines() {
                    self.to_server.abandon();
                }
                false
            }
        };
        if deaf {
            // It closed its input. What it was sent is answered when it ends, which we see to.
            self.server_in = None;
            if !self.keeps_lines() {
                self.to_server.abandon();
            }
            let act = self.life.deaf(now);
            self.act(act)?;
        }
        let gone = match &mut self.client_out {
            Some(outlet) => self.to_client.write(outlet).is_err(),
            None => {
                self.to_client.abandon();
                false
            }
        };
        if gone {
            self.client_left(now)?;
        }
        // The end of input is passed on only after everything that came before it.
        if self.started && self.to_server.ended() && !self.to_server.has_output() {
            let act = if self.session.holds_calls() {
                // They keep the server's input open; the clock runs all the same.
                let act = self.life.end_of_input(now);
                act.filter(|act| *act != Act::CloseInput)
            } else {
                self.server_in = None;
                self.life.end_of_input(now)
            };
            self.act(act)?;
        }
        Ok(())
    }

    /// The client has closed its end of our stdout: nobody is left to answer.
    fn client_left(&mut self, now: Instant) -> Result<(), LoopError> {
        if let Some(outlet) = self.client_out.take() {
            self.seldom.forget(outlet.as_fd());
        }
        self.to_client.abandon();
        let act = self.life.stop(now);
        self.act(act)
    }

    fn timers(&mut self, now: Instant) -> Result<(), LoopError> {
        if self.session.next_due().is_some_and(|due| due <= now) {
            let mut out = Outbox::default();
            self.session.tick(now, &mut out);
            if self.restarts.down() {
                // Whoever comes next was never asked what is cancelled here.
                out.to_server.clear();
            }
            self.send(out);
        }
        if self.rest_at.is_some_and(|due| due <= now) {
            self.rest_at = None;
            self.rest(now);
        }
        self.health.pat(now);
        if !self.frozen {
            self.end_stopped(now)?;
            self.step_restart(now)?;
            self.step_replacement(now)?;
        }
        self.step_beside(now)?;
        let act = self.life.step(now);
        self.act(act)
    }

    /// What can wait until nobody else waits: audit lines and counts; then, when nothing more has
    /// come meanwhile, the memory that a burst has grown.
    pub(super) fn rest(&mut self, now: Instant) {
        if let Some(code) = self.code.take() {
            // Once, after the first quiet moment: by then what a start needs has run.
            code.shed();
        }
        if self.beside.parked() {
            // Somebody has asked for something.
            self.beside.asked(now);
        }
        if !self.session.restless() {
            self.session.shrink();
            self.to_server.rest();
            self.to_client.rest();
            return;
        }
        self.session.tally().publish();
        if let Some(bridges) = &self.bridges {
            bridges.settings().write_down(self.session.audit(), now);
        }
        if let Some(open) = self.session.moved_breakers() {
            self.health.update(|facts| facts.breakers = open);
        }
        self.session.audit().flush();
        if self.session.audit().wants_rotation()
            && let Err(error) = self.spawner.rotate()
        {
            self.session.audit().replace(Err(error.to_string()));
        }
        let (records, lost) = self.session.audit().counts();
        self.metrics
            .audit_records
            .inc_by(records.saturating_sub(self.metrics.audit_records.get()));
        self.metrics
            .audit_lost
            .inc_by(lost.saturating_sub(self.metrics.audit_lost.get()));
        self.rest_at = Some(now + FLUSH_AFTER);
    }

    /// Notes how it is with the server; for as long as it stands still that is all there is to say.
    pub(super) fn enter(&self, phase: Phase) {
        match self.frozen {
            true => self.health.enter(Phase::Frozen),
            false => self.health.enter(phase),
        }
    }

    pub(super) fn act(&mut self, act: Option<Act>) -> Result<(), LoopError> {
        let Some(act) = act else { return Ok(()) };
        // The end of a server is not ours while another one takes its place.
        let replaced = matches!(self.replacing, Some(Replacing::Ending { .. }));
        if self.life.ending() && !replaced && !self.restarts.off() {
            self.health.enter(Phase::Draining);
        }
        let asked = match act {
            Act::CloseInput => {
                self.server_in = None;
                Ok(())
            }
            Act::Terminate => self.spawner.stop(self.cell, Stop::Terminate),
            Act::Kill => self.spawner.stop(self.cell, Stop::Kill),
        };
        asked.map_err(LoopError::unreached)
    }

    pub(super) fn drain_stderr(&mut self, now: Instant) {
        if let Some(mut stderr) = self.stderr.take() {
            let more = self.hear_stderr(&mut stderr, now);
            self.stderr = more.then_some(stderr);
        }
    }

    /// Logs what a server has written on its stderr; false, and it is watched no more, when that was all.
    pub(super) fn hear_stderr(&mut self, stderr: &mut Drain, now: Instant) -> bool {
        let (session, metrics, name) = (&mut self.session, &self.metrics, &self.config.server.name);
        let drained = stderr.read(
            now,
            |line| {
                let text = session.stderr_line(line);
                tracing::info!(target: SERVER, server = name.as_str(), "{text}");
            },
            |lost| metrics.stderr_dropped.inc_by(lost),
        );
        let more = matches!(drained, Ok(Drained::More));
        if !more {
            self.seldom.forget(stderr.as_fd());
        }
        more
    }

    /// From here on this is the stderr of the server that serves.
    pub(super) fn follow_stderr(&mut self, stderr: Drain) -> Result<(), LoopError> {
        self.seldom
            .watch_stderr(stderr.as_fd())
            .map_err(|source| LoopError::System {
                doing: "watch the server's stderr",
                source,
            })?;
        self.stderr = Some(stderr);
        Ok(())
    }
}

pub(super) fn open_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}
