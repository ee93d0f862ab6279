//! Planned replacement behind the listener: a credential or the configuration is another one, and servers
//! get processes that were started with it.
//!
//! ```text
//!                 ┌─ overlap ─▶ Preparing ── the next one is ready ──▶ Draining ── nothing is open ──▶ it serves,
//! (none) ─ planned ┤     ▲        │ it is not taken: (none), the old one goes on                       the old ends
//!                 │     └ later ─┘
//!                 └─ swap, or no cell is free ─▶ Draining ── nothing is open, or too late ──▶ Ending ──┐
//! (none) ◀── ready ── Starting ◀── exited ─────────────────────────────────────────────────────────────┘
//! ```
//! Requests wait from `Draining` on ([`super::revive`]). What modern clients share is retired instead: those
//! who come get another server at once, and the old one ends when its requests are answered. A credential
//! counts as placed when no process is left that was started before it.

use super::server::{Role, Server};
use super::state::State;
use crate::app::audition::Audition;
use crate::app::overlap::again_after;
use crate::app::replace::{DRAIN, Replacing};
use crate::app::stdio::START_LIMIT;
use crate::config::Replace;
use crate::proxy::Outbox;
use crate::supervise::Due;
use std::time::Instant;

impl State {
    /// Processes that run now are of yesterday, because of `why`.
    pub(super) fn retire(&mut self, why: &str, now: Instant) {
        let never = self.config.server.replace == Replace::Never;
        let mut count = 0;
        for cell in self.cells() {
            self.with(cell, |state, server| {
                // One that is not there yet is started with what is in force then.
                if !server.process.runs || server.restarts.waiting() || server.restarts.absent() {
                    return;
                }
                server.process.outdated = true;
                let beside = server.role.is_beside();
                if never || beside || server.retired || server.process.life.ending() {
                    return;
                }
                count += 1;
                if matches!(server.role, Role::Spare | Role::Modern) {
                    server.retired = true;
                    state.metrics.replacements.inc();
                } else {
                    state.replace(server, now);
                }
            });
        }
        match never {
            true => tracing::warn!(
                "{why}: pending, servers keep the old one until they end (server.replace = \"never\")"
            ),
            false => tracing::info!("{why}: {count} servers are replaced"),
        }
        self.settle_placed(now);
        self.wake(Some(now));
    }

    fn replace(&mut self, server: &mut Server, now: Instant) {
        if matches!(server.replacing, Some(Replacing::Ending { .. })) {
            return;
        }
        self.dismiss(server, "another one is started in its place", now);
        self.replace_now(server, now);
    }

    fn replace_now(&mut self, server: &mut Server, now: Instant) {
        let process = &server.process;
        let serves = process.started && process.ended.is_none() && !server.restarts.down();
        let overlaps = self.config.server.replace == Replace::Overlap;
        if overlaps && serves && self.prepare(server, now) {
            return;
        }
        // One that is being started may have got the old value: it is replaced when it is up.
        let since = match server.replacing {
            Some(Replacing::Draining { since }) => since,
            _ => now,
        };
        server.replacing = Some(Replacing::Draining { since });
    }

    /// Tries once more to give a server the process that it was to have.
    pub(super) fn step_again(&mut self, server: &mut Server, now: Instant) {
        if self.frozen || !server.beside.waiting() || server.beside.step(now) != Some(Due::Start) {
            return;
        }
        let process = &server.process;
        let serves = process.started && process.ended.is_none() && !server.restarts.down();
        let goes = self.stopping || server.retired || process.life.ending();
        if serves && !goes && server.replacing.is_none() && process.outdated {
            self.replace_now(server, now);
        }
    }

    /// Starts another process beside the one that serves; false when there is no room for it.
    fn prepare(&mut self, server: &mut Server, now: Instant) -> bool {
        let Some(cell) = self.free_cell(server.cell) else {
            return false;
        };
        let asked = self.spawner.as_mut().map(|spawner| spawner.start(cell));
        if !matches!(asked, Some(Ok(()))) {
            return false;
        }
        self.place(cell, Role::Next(server.serial));
        server.newcomer = Some(cell);
        server.replacing = Some(Replacing::Preparing { since: now });
        true
    }

    /// The server whose process this one is to follow.
    fn awaits(&self, newcomer: &Server) -> Option<u32> {
        let Role::Next(serial) = newcomer.role else {
            return None;
        };
        let mut servers = self.servers.iter().flatten();
        let server = servers.find(|server| server.serial == serial)?;
        (server.newcomer == Some(newcomer.cell)).then_some(server.cell)
    }

    /// A newcomer runs: it is told what the client knows, or is ready at once.
    pub(super) fn newcomer_started(&mut self, newcomer: &mut Server, now: Instant) {
        let Some(cell) = self.awaits(newcomer) else {
            return;
        };
        let begun = self.with(cell, |_, server| Audition::begin(&mut server.session));
        if let Some((audition, question)) = begun {
            newcomer.process.inlet.send(&question, true);
            newcomer.audition = Some(Box::new(audition));
            self.newcomer_ready(newcomer, cell, now);
        }
    }

    /// A newcomer has said something.
    pub(super) fn hear_newcomer(&mut self, newcomer: &mut Server, line: &[u8], now: Instant) {
        let Some((cell, mut audition)) = self.awaits(newcomer).zip(newcomer.audition.take()) else {
            return;
        };
        let heard = self.with(cell, |_, server| audition.hear(line, &mut server.session));
        newcomer.audition = Some(audition);
        match heard {
            Some(Ok(())) => self.newcomer_ready(newcomer, cell, now),
            Some(Err(why)) => self.give_up_newcomer(cell, &why, now),
            None => {}
        }
    }

    fn newcomer_ready(&mut self, newcomer: &Server, cell: u32, now: Instant) {
        if !newcomer.audition.as_ref().is_some_and(|it| it.is_over()) {
            return;
        }
        self.with(cell, |_, server| {
            if let Some(Replacing::Preparing { .. }) = server.replacing {
                server.replacing = Some(Replacing::Draining { since: now });
            }
        });
        self.wake(Some(now));
    }

    /// The newcomer of a server is not wanted any more, because of `why`, and none is tried again.
    pub(super) fn dismiss(&mut self, server: &mut Server, why: &str, now: Instant) {
        server.beside.healthy(now);
        self.unseat(server, why, now);
    }

    /// The newcomer of a server is not taken, because of `why`; whoever serves goes on.
    fn unseat(&mut self, server: &mut Server, why: &str, now: Instant) {
        if server.newcomer.take().is_none() {
            return;
        }
        if matches!(
            server.replacing,
            Some(Replacing::Preparing { .. } | Replacing::Draining { .. })
        ) {
            server.replacing = None;
        }
        tracing::error!("the next server is not taken, the one that serves goes on: {why}");
        // It is ended by the clock: it may be the one that is worked on.
        self.wake(Some(now));
    }

    /// What is due of a process that is to take over: it has time to become ready, and somebody has to
    /// wait for it.
    pub(super) fn step_newcomer(&mut self, newcomer: &mut Server, now: Instant) {
        if !matches!(newcomer.role, Role::Next(_)) {
            return;
        }
        let ready = newcomer.audition.as_ref().is_some_and(|it| it.is_over());
        let late = !ready && newcomer.process.begun + START_LIMIT <= now;
        let cell = self.awaits(newcomer);
        if late && let Some(cell) = cell {
            self.give_up_newcomer(cell, "it does not answer the handshake in time", now);
        }
        if late || cell.is_none() {
            newcomer.role = Role::Leaving;
            newcomer.process.life.stop(now);
            let act = newcomer.process.life.stuck();
            self.act(newcomer, act);
        }
    }

    /// A process that was to take over has ended, or did not start.
    pub(super) fn newcomer_ended(&mut self, newcomer: &Server, how: &str, now: Instant) {
        if let Some(cell) = self.awaits(newcomer) {
            self.give_up_newcomer(cell, how, now);
        }
    }

    fn give_up_newcomer(&mut self, cell: u32, why: &str, now: Instant) {
        self.with(cell, |state, server| {
            state.unseat(server, why, now);
            again_after(&mut server.beside, now);
            state.wake(server.beside.due());
        });
        let kept = format!("a server keeps the old one: the next is not taken: {why}");
        self.known.placed(Err(&kept), self.desk.audit(), now);
        self.rest_soon();
    }

    /// The process that serves is drained: another takes over, or it ends first.
    pub(super) fn move_on(&mut self, cell: u32, now: Instant) {
        let server = self.servers.get(cell as usize).and_then(Option::as_ref);
        let Some(newcomer) = server.map(|server| server.newcomer) else {
            return;
        };
        match newcomer {
            Some(newcomer) => self.take_over(cell, newcomer, now),
            None => {
                self.with(cell, |state, server| {
                    if let Some(replacing) = server.replacing {
                        let since = replacing.since();
                        server.replacing = Some(Replacing::Ending { since });
                        let act = server.process.life.replaced(now);
                        state.act(server, act);
                        state.wake(server.process.life.due());
                    }
                });
            }
        }
    }

    /// The newcomer's process serves from here on, in its own cell, and the old one ends beside it.
    fn take_over(&mut self, from: u32, to: u32, now: Instant) {
        let (mut server, mut leaving) = match (self.lift(from), self.lift(to)) {
            (Some(server), Some(leaving)) => (server, leaving),
            (one, other) => {
                // The other is being worked on.
                one.into_iter()
                    .chain(other)
                    .for_each(|it| self.set_down(it));
                return self.wake(Some(now));
            }
        };
        let mut out = Outbox::default();
        let unsent = server.process.inlet.take_back();
        let how = "it was replaced";
        server.session.server_lost(how, &unsent, now, &mut out);
        // The old one need not hear of it.
        out.to_server.clear();
        self.send(&mut server, out, now);

        std::mem::swap(&mut server.process, &mut leaving.process);
        (server.cell, leaving.cell) = (to, from);
        let answered = server.session.has_answered();
        server.restarts.taken_over(answered, now);
        server.beside.healthy(now);
        (server.replacing, server.newcomer) = (None, None);
        leaving.role = Role::Leaving;
        let audition = leaving.audition.take();
        let mine = self.visits.values_mut();
        for visit in mine.filter(|visit| visit.serial == server.serial) {
            visit.cell = to;
        }
        for (_, exchange) in server.exchanges.iter() {
            let seat = &exchange.place.seat;
            let about = seat.about.get();
            seat.about
                .set(about.map(|about| super::seat::About { cell: to, ..about }));
        }
        let begun = server.process.begun;
        self.set_down(server);
        self.set_down(leaving);
        self.with(from, |state, leaving| {
            let act = leaving.process.life.replaced(now);
            state.act(leaving, act);
            state.wake(leaving.process.life.due());
        });
        self.with(to, |state, server| {
            let Some(audition) = audition else { return };
            let mut out = Outbox::default();
            let lines = audition.take_over(&mut server.session, now, &mut out);
            state.send(server, out, now);
            for line in lines {
                state.server_line(server, &line, now);
            }
        });
        self.moved = true;
        self.replaced(begun, now);
    }

    /// A server has another process than the one that it had at `since`.
    pub(super) fn replaced(&mut self, since: Instant, now: Instant) {
        self.metrics.replacements.inc();
        let took = now.saturating_duration_since(since);
        tracing::info!("the server was replaced within {} ms", took.as_millis());
        self.wake(Some(now));
    }

    /// Says that credentials are placed, once no process is left that was started before them.
    pub(super) fn settle_placed(&mut self, now: Instant) {
        let mut servers = self.servers.iter().flatten();
        if servers.all(|server| !server.process.outdated) {
            self.known.placed(Ok(()), self.desk.audit(), now);
            self.rest_soon();
        }
    }
}

impl Server {
    /// True when it is to be replaced, and nothing is open that the next process could not be asked
    /// without harm, or too late.
    pub(super) fn is_drained(&self, now: Instant) -> bool {
        let Some(Replacing::Draining { since }) = self.replacing else {
            return false;
        };
        let process = &self.process;
        let there = process.started && process.ended.is_none() && !self.restarts.down();
        if !there || process.inlet.closed {
            return false;
        }
        let late = now >= since + DRAIN;
        if late {
            tracing::warn!(
                "calls in flight have taken {} s; the server is replaced without their answers",
                DRAIN.as_secs()
            );
        }
        late || process.inlet.waiting() == 0 && !self.session.is_busy()
    }
}
