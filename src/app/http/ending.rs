//! How servers come and go, and how all of it ends.
//!
//! ```text
//! asked for ── started ──▶ runs ──┬── its output ends ──▶ mute ── it is gone ──┐
//!     │                           └── it is gone ──▶ ended ── its output ends, ├──▶ buried: another takes its place,
//!     └── did not start ──────────────────────────────────── or [`LAST_WORDS`] ┘    or what is open is answered
//! ```

use super::seat::About;
use super::server::{Role, Server};
use super::state::{Gate, State};
use super::tasks;
use crate::admin::Phase;
use crate::app::ending::how_it_ended;
use crate::app::network;
use crate::app::starting::tell_started;
use crate::cell::spawn::{Event, Spawner};
use crate::proxy::Outbox;
use crate::supervise::Act;
use crate::transport::http::StatusCode;
use crate::transport::terminal::sanitize;
use crate::transport::writer::Outlet;
use nix::sys::signal::Signal;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_local;

/// Time for the last output of a server whose whole tree is dead.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Gate {
    /// What the spawner has to say; false when it will say nothing more.
    pub(super) fn take_events(self: &Rc<Self>) -> bool {
        loop {
            let now = Instant::now();
            let event = match &mut self.state.borrow_mut().spawner {
                Some(spawner) => spawner.next_event(),
                None => return false,
            };
            match event {
                Ok(None) => return true,
                Ok(Some(Event::Started { cell, fds, .. })) if self.is_for_issuer(cell) => {
                    self.issuer_line(Ok(fds));
                }
                Ok(Some(Event::Exited { cell, .. })) if self.is_for_issuer(cell) => {
                    self.issuer_line(Err(None));
                }
                Ok(Some(Event::Failed { cell, message, .. })) if self.is_for_issuer(cell) => {
                    self.issuer_line(Err(Some(message)));
                }
                Ok(Some(Event::Started {
                    cell,
                    pid,
                    report,
                    facts,
                    fds,
                })) => {
                    let name = &self.config().server.name;
                    let after = self.starting_since(cell);
                    tell_started(
                        &self.health,
                        &self.metrics,
                        name,
                        pid,
                        &report,
                        &facts,
                        after,
                    );
                    let phase = self.state.borrow().phase();
                    self.health.enter(phase);
                    self.metrics.child_starts.inc();
                    self.metrics.child_up.inc();
                    self.started(cell, fds, now);
                }
                Ok(Some(Event::Progress { text, .. })) => {
                    tracing::info!("{}", sanitize(text.as_bytes()));
                }
                Ok(Some(Event::Exited {
                    cell,
                    exit,
                    cause,
                    limit,
                })) => {
                    self.metrics.child_up.dec();
                    let (kind, how) = how_it_ended(exit, &cause, limit.as_deref());
                    self.exited(cell, kind, how, now);
                }
                Ok(Some(Event::Failed {
                    cell,
                    exit_code,
                    message,
                })) => {
                    tracing::error!("{}", sanitize(message.as_bytes()));
                    self.failed(cell, exit_code, now);
                }
                Ok(Some(Event::Denied { cell, what, text })) => {
                    let text = text.as_bytes();
                    self.work(|state| {
                        state.with(cell, |_, server| server.session.denied(&what, text))
                    });
                }
                Ok(Some(Event::Network { news, .. })) => {
                    let mut state = self.state.borrow_mut();
                    let policy = Arc::clone(&state.policy);
                    let audit = state.desk.audit();
                    let config = self.config();
                    let settings = (&*config, &*policy);
                    network::note(&news, settings, &self.metrics, audit, now);
                }
                Ok(Some(Event::Credentials { states, values })) => {
                    let taken = self.work(|state| state.take_credentials(&states, values, now));
                    if let Err(error) = taken {
                        // A server whose words cannot be searched for what it was given must not speak.
                        tracing::error!("cannot read the credentials of the server: {error}");
                        self.stop(now);
                        return true;
                    }
                    self.health.update(|facts| facts.credentials = states);
                }
                Ok(Some(Event::Switch { off, tools })) => {
                    self.work(|state| state.take_switch(off.as_deref(), tools, now));
                    let phase = self.state.borrow().phase();
                    self.health.enter(phase);
                    self.wake_by(Some(now));
                }
                Ok(Some(Event::Access { texts })) => self.take_access(texts, now),
                Ok(Some(Event::Asked { asked, reply })) => {
                    self.answer_operator(asked, reply, now);
                }
                Ok(Some(Event::Config { text, reply })) => self.take_config(text, reply, now),
                Ok(Some(Event::Frozen { facts })) => self.take_freeze(facts, now),
                Ok(Some(Event::Rotated { log })) => {
                    self.state.borrow_mut().desk.audit().replace(log);
                }
                Err(error) => {
                    tracing::error!("{error}");
                    self.orphaned(now);
                    return false;
                }
            }
        }
    }

    fn starting_since(&self, cell: u32) -> Duration {
        let state = self.state.borrow();
        let server = state.servers.get(cell as usize).and_then(Option::as_ref);
        server.map_or(Duration::ZERO, |server| server.process.begun.elapsed())
    }

    fn started(self: &Rc<Self>, cell: u32, fds: Vec<OwnedFd>, now: Instant) {
        let fds = match &mut self.state.borrow_mut().bridges {
            Some(bridges) => bridges.start(fds).unwrap_or_default(),
            None => fds,
        };
        let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
            return;
        };
        let process = self.work(|state| {
            state.ran = true;
            state.with(cell, |state, server| {
                let process = &mut server.process;
                (process.started, process.runs) = (true, true);
                process.life.started();
                let over = process.life.ending();
                process.inlet.open(Outlet::exclusive(stdin));
                if over {
                    process.inlet.close();
                }
                match server.role {
                    _ if state.stopping => {
                        let act = server.process.life.stop(now);
                        state.act(server, act);
                    }
                    Role::Next(_) => state.newcomer_started(server, now),
                    // It was given up before it was there.
                    Role::Leaving => state.act(server, Some(Act::Kill)),
                    _ => state.hail(server, now),
                }
                server.process.number
            })
        });
        let Some(process) = process else { return };
        drop(spawn_local(tasks::read(
            Rc::clone(self),
            cell,
            process,
            stdout,
        )));
        drop(spawn_local(tasks::drain(
            Rc::clone(self),
            cell,
            process,
            stderr,
        )));
    }

    /// A server has closed its output: nothing can be answered any more.
    pub(super) fn mute(self: &Rc<Self>, cell: u32, process: u64) {
        let now = Instant::now();
        let due = self.work(|state| {
            let over = state.with_process(cell, process, |_, server| {
                server.process.mute = true;
                server.process.life.mute(now);
                (server.process.ended.is_some(), server.process.life.due())
            });
            match over {
                Some((true, _)) => {
                    state.bury(cell, now);
                    Some(now)
                }
                Some((false, due)) => due,
                None => None,
            }
        });
        self.wake_by(due);
    }

    fn exited(self: &Rc<Self>, cell: u32, kind: &str, how: String, now: Instant) {
        let stopping = self.state.borrow().stopping;
        self.work(|state| {
            let mute = state.with(cell, |state, server| {
                server.process.runs = false;
                let orderly = server.process.life.ending();
                state
                    .metrics
                    .child_exit(if orderly { "end_of_input" } else { kind });
                if !orderly && !stopping {
                    tracing::warn!("the server has ended: {how}");
                }
                let awaited = server.process.started || server.restarts.starting();
                if server.restarts.down() && !awaited {
                    // It is settled already.
                    state.wake(Some(now));
                    return false;
                }
                server.process.inlet.close();
                server.process.ended = Some((how, now + LAST_WORDS));
                // Its reader buries it, at the end of its output.
                server.process.mute
            });
            if mute == Some(true) {
                state.bury(cell, now);
            }
        });
        self.wake_by(Some(now + LAST_WORDS));
    }

    /// A cell did not start: the first one ends us, as nothing works then.
    fn failed(self: &Rc<Self>, cell: u32, code: u8, now: Instant) {
        self.work(|state| {
            if !state.ran && !state.stopping {
                state.code = Some(code);
                state.stopping = true;
            }
            state.with(cell, |_, server| {
                server.process.runs = false;
                server.process.ended = Some(("it could not be started".to_owned(), now));
            });
            state.bury(cell, now);
        });
        self.wake_by(Some(now));
    }

    /// The spawner is gone, and with it every server.
    fn orphaned(self: &Rc<Self>, now: Instant) {
        self.work(|state| {
            state.orphaned = true;
            state.code = Some(70);
            for cell in state.cells() {
                state.with(cell, |_, server| {
                    server.process.ended = Some(("cofferdam's spawner was killed".to_owned(), now));
                });
                state.bury(cell, now);
            }
        });
        self.wake_by(Some(now));
    }

    /// SIGHUP: files are read again; SIGUSR1: everything off; any other: the end, in order at first.
    pub(super) fn signalled(self: &Rc<Self>, number: u32) {
        let asked = match i32::try_from(number).map(Signal::try_from) {
            Ok(Ok(Signal::SIGHUP)) => {
                tracing::info!("SIGHUP: the configuration and what it names is read again");
                self.state
                    .borrow_mut()
                    .spawner
                    .as_mut()
                    .map(Spawner::reload)
            }
            Ok(Ok(Signal::SIGUSR1)) => {
                tracing::warn!("SIGUSR1: everything is switched off");
                self.state
                    .borrow_mut()
                    .spawner
                    .as_mut()
                    .map(Spawner::switch_off)
            }
            _ => {
                tracing::info!("stopping: signal {number}");
                return self.stop_on_signal(Instant::now());
            }
        };
        // A spawner that is gone says so by itself.
        drop(asked);
    }

    /// Somebody asked us to stop.
    pub(super) fn stop(self: &Rc<Self>, now: Instant) {
        self.health.enter(Phase::Draining);
        let early = self.work(|state| {
            state.stopping = true;
            for visit in state.visits.values() {
                if let Some(get) = &visit.get {
                    get.end();
                }
            }
            for cell in state.cells() {
                state.with(cell, |state, server| {
                    let act = server.process.life.stop(now);
                    state.act(server, act);
                    if !server.process.runs {
                        // Nobody will say that it is gone.
                        server.process.ended = Some(("it is gone".to_owned(), now));
                    }
                });
            }
            // The spawner may be waiting for an installer; closing its channel ends both.
            !state.ran
        });
        self.wake_by(Some(now));
        if early {
            self.over.notify_one();
        }
    }

    /// A client has gone away before its answer.
    pub(super) fn left(self: &Rc<Self>, about: About) {
        let now = Instant::now();
        self.work(|state| {
            state.with_same(about.cell, about.serial, |state, server| {
                let modern = server.role == Role::Modern;
                // In a session a lost connection cancels nothing: the client may come back.
                if modern {
                    state.give_up(server, about.number, now);
                }
            });
        });
    }
}

impl State {
    /// A process and its output are over. Unless another one takes its place, everything that is open on its
    /// server is answered.
    pub(super) fn bury(&mut self, cell: u32, now: Instant) {
        if self.goes_on(cell, now) {
            return;
        }
        let Some(slot) = self.servers.get_mut(cell as usize) else {
            return;
        };
        let Some(mut server) = slot.take() else {
            return;
        };
        let how = server.process.ended.take().map(|(how, _)| how);
        let how = how.unwrap_or_else(|| "it is gone".to_owned());
        self.newcomer_ended(&server, &how, now);
        let mut out = Outbox::default();
        server.session.server_gone(&how, now, &mut out);
        self.send(&mut server, out, now);
        self.abandon(&mut server);
        self.close_visits(&server);
        server.session.audit().flush();
        // Another one may wait for its cell, or have waited to follow it.
        self.wake(Some(now));
        self.moved = true;
        self.settle_placed(now);
    }

    /// What policy did not know of, or what the client had cancelled.
    fn abandon(&mut self, server: &mut Server) {
        let held = std::mem::take(&mut server.held).into_iter();
        for held in held.chain(std::mem::take(&mut server.waiting)) {
            self.refuse(server, &held, StatusCode::OK);
        }
        let open: Vec<i64> = server.exchanges.iter().map(|(number, _)| number).collect();
        for number in open {
            if let Some(exchange) = server.exchanges.close(number) {
                let seat = exchange.place.seat;
                seat.about.set(None);
                seat.open();
                seat.end();
            }
        }
        if let super::server::Handshake::Asked(waiting) = std::mem::take(&mut server.handshake) {
            for (seat, id, party) in waiting {
                self.close_visit(party);
                let words = "The server ended before it answered; try again.";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let code = super::errors::UNAVAILABLE;
                seat.answer(super::errors::error(status, Some(&id), code, words));
            }
        }
    }
}
