//! What is due by the clock: deadlines of requests, the life of servers, idle sessions, signs of life
//! on quiet streams, audit lines.

use super::server::{Role, Server};
use super::state::{Gate, State};
use super::who::unix_now;
use crate::app::stdio::START_LIMIT;
use crate::audit::FLUSH_AFTER;
use crate::proxy::{NOBODY, Outbox, Party};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often quiet streams are looked for, and how long one may be quiet before that: together at
/// most 15 s (MCP 2026-07-28, transports).
pub(super) const SWEEP: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_secs(10);
/// How often idle sessions are looked for.
const IDLE_STEP: Duration = Duration::from_secs(5);

impl Gate {
    /// Does what is due, and finds out when to look again.
    pub(super) fn tick(self: &Rc<Self>, now: Instant) {
        let idle = self.listen.session_idle;
        let next = self.work(|state| {
            state.servers_due(now);
            if state.sweep_at.is_some_and(|due| due <= now) {
                state.sweep(now);
            }
            if state.rest_at.is_some_and(|due| due <= now) {
                state.rest(now);
            }
            if let Some(open) = state.moved_breakers() {
                self.health.update(|facts| facts.breakers = open);
            }
            state.end_idle(idle, now);
            state.next_due(idle, now)
        });
        self.step_farewell(now);
        self.fetch_due(now);
        self.health.pat(now);
        self.wake_by(next);
        self.wake_by(self.health.watchdog_due());
        if self.state.borrow().servers.iter().all(Option::is_none) && self.is_over() {
            self.over.notify_one();
        }
    }

    fn is_over(&self) -> bool {
        let state = self.state.borrow();
        state.stopping || state.orphaned || state.code.is_some()
    }
}

impl State {
    fn servers_due(&mut self, now: Instant) {
        for cell in self.cells() {
            self.with(cell, |state, server| {
                if server.session.next_due().is_some_and(|due| due <= now) {
                    // Where there is no process its inlet is closed: nobody was asked what is cancelled.
                    let mut out = Outbox::default();
                    server.session.tick(now, &mut out);
                    state.send(server, out, now);
                }
                state.step_restart(server, now);
                state.step_newcomer(server, now);
                state.step_again(server, now);
                state.release(server, now);
                let serves = server.process.started && !server.restarts.down();
                let ends = server.process.life.ending();
                if server.session.has_stopped(now) && serves && !ends {
                    // A process that is stopped (SIGSTOP) would not see SIGTERM.
                    let act = server.process.life.stuck();
                    if act.is_some() {
                        tracing::warn!(
                            "a server let a call expire and has said nothing since, not even to a ping: it is killed"
                        );
                    }
                    state.act(server, act);
                }
                let act = server.process.life.step(now);
                state.act(server, act);
            });
            let late = |server: &Server| {
                server
                    .process
                    .ended
                    .as_ref()
                    .is_some_and(|(_, by)| *by <= now)
            };
            let server = self.servers.get(cell as usize).and_then(Option::as_ref);
            if server.is_some_and(|server| late(server)) {
                self.bury(cell, now);
            }
        }
    }

    pub(super) fn cells(&self) -> Vec<u32> {
        self.servers
            .iter()
            .flatten()
            .map(|server| server.cell)
            .collect()
    }

    /// Says on every quiet stream that it is alive; a request that waits becomes one.
    fn sweep(&mut self, now: Instant) {
        let since = now.checked_sub(QUIET).unwrap_or(now);
        let mut any = false;
        for server in self.servers.iter_mut().flatten() {
            any |= !server.exchanges.is_empty();
            let silent = |seat: &super::seat::Seat| seat.is_silent(since);
            let waiting = server
                .exchanges
                .iter()
                .filter(|(_, exchange)| silent(&exchange.place.seat));
            let waiting: Vec<(i64, Party)> = waiting
                .map(|(number, exchange)| (number, exchange.party))
                .collect();
            for (number, party) in waiting {
                // A session's stream has a number and an opening event.
                if party != NOBODY
                    && let Some(visit) =
                        self.visits.get_mut(&party).filter(|v| v.revision.is_some())
                {
                    server.stream_of(number, visit, now);
                } else if party != NOBODY {
                    continue;
                }
                if let Some(exchange) = server.exchanges.find(number) {
                    exchange.place.seat.pulse(now);
                }
            }
        }
        self.end_streams(
            |caller| caller.expires.is_some_and(|end| end <= unix_now()),
            now,
        );
        for visit in self.visits.values() {
            if let Some(get) = &visit.get {
                any = true;
                if get.is_silent(since) {
                    get.pulse(now);
                }
            }
        }
        self.sweep_at = any.then(|| now + SWEEP);
    }

    fn end_idle(&mut self, idle: Duration, now: Instant) {
        if self.visits.is_empty() {
            return;
        }
        let expired: Vec<Party> = self
            .visits
            .iter()
            .filter(|(party, visit)| {
                let open = visit.get.as_ref().is_some_and(|get| !get.gone.get());
                !open && visit.used + idle <= now && !self.works_for(**party, visit.cell)
            })
            .map(|(party, _)| *party)
            .collect();
        for party in expired {
            let Some((cell, serial)) = self.visits.get(&party).map(|v| (v.cell, v.serial)) else {
                continue;
            };
            tracing::info!("a session that nobody used has ended");
            self.with_same(cell, serial, |state, server| {
                state.leave(server, party, now);
            });
            self.close_visit(party);
        }
    }

    pub(super) fn works_for(&self, party: Party, cell: u32) -> bool {
        let server = self.servers.get(cell as usize).and_then(Option::as_ref);
        server.is_some_and(|server| match server.role {
            Role::Own(_) => !server.exchanges.is_empty() || !server.waiting.is_empty(),
            _ => server
                .exchanges
                .iter()
                .any(|(_, exchange)| exchange.party == party),
        })
    }

    /// Audit lines and counts; the memory of a burst when nothing more has come meanwhile.
    pub(super) fn rest(&mut self, now: Instant) {
        let mut restless = false;
        if let Some(bridges) = &self.bridges {
            bridges.settings().write_down(self.desk.audit(), now);
        }
        for server in self.servers.iter_mut().flatten() {
            if server.beside.parked() {
                // Somebody has asked for something.
                server.beside.asked(now);
            }
        }
        let sessions = self
            .servers
            .iter_mut()
            .flatten()
            .map(|server| &mut server.session);
        for session in sessions.chain([&mut self.desk]) {
            if !session.restless() {
                session.shrink();
                continue;
            }
            restless = true;
            session.tally().publish();
            session.audit().flush();
        }
        if self.desk.audit().wants_rotation()
            && let Some(spawner) = &mut self.spawner
            && let Err(error) = spawner.rotate()
        {
            self.desk.audit().replace(Err(error.to_string()));
        }
        let (records, lost) = self.desk.audit().counts();
        let metrics = &self.metrics;
        metrics
            .audit_records
            .inc_by(records.saturating_sub(metrics.audit_records.get()));
        metrics
            .audit_lost
            .inc_by(lost.saturating_sub(metrics.audit_lost.get()));
        self.rest_at = restless.then(|| now + FLUSH_AFTER);
    }

    fn next_due(&self, idle: Duration, now: Instant) -> Option<Instant> {
        let servers = self.servers.iter().flatten().flat_map(|server| {
            let process = &server.process;
            let burial = process.ended.as_ref().map(|(_, by)| *by);
            // Nothing is started where the last one is still there.
            let waits = self.frozen || server.restarts.waiting() && process.runs;
            let restart = server.restarts.due().filter(|_| !waits);
            let replace = server.replacing.and_then(|it| it.due());
            let newcomer = matches!(server.role, Role::Next(_));
            let newcomer = newcomer.then(|| process.begun + START_LIMIT);
            let again = server.beside.due();
            let again = again.filter(|_| server.beside.waiting() && !self.frozen);
            // What was late already is looked at when something happens.
            let later = |due: &Instant| *due > now;
            let [replace, newcomer] = [replace, newcomer].map(|due| due.filter(later));
            [
                server.session.next_due(),
                process.life.due(),
                burial,
                restart,
                replace,
                newcomer,
                again,
            ]
        });
        let used = self.visits.values().map(|visit| visit.used).min();
        // Sessions that are used do not need a timer for each use.
        let idle = used.map(|used| (used + idle).max(now + IDLE_STEP));
        servers
            .chain([idle, self.rest_at, self.sweep_at])
            .flatten()
            .min()
    }
}
