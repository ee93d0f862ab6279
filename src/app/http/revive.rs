//! A server behind the listener has lost its process: its sessions stay, and another process takes the
//! place of the one that ended, told what that one knew.
//!
//! ```text
//! asked ── its process ended ──▶ settled ──▶ waits ── due ──▶ started ── handshake replayed ──▶ asked
//!   │                              │  ▲                          │  │ it is another
//!   │                              │  └── ended, not in time ────┘  └──▶ buried: its sessions are gone (404)
//!   │                              └─ too often, or off ──▶ absent: answered in its place, until it is tried again
//!   └── nobody's any more, or it never answered ──▶ buried
//! ```
//! What decides is [`crate::supervise::Restarts`] and [`crate::proxy::Session`], as on stdin and stdout;
//! messages that come meanwhile wait in [`Server::waiting`], which is bounded.

use super::post::{Post, Reply, Sender, bare, id_of, no_room, no_server};
use super::route::json;
use super::seat::{Answer, Seat};
use super::server::{Held, Process, Role, Server};
use super::state::{NoServer, State};
use crate::admin::Phase;
use crate::app::replace::Replacing;
use crate::app::revive::{answer_absent, leave_alone};
use crate::cell::spawn::Stop;
use crate::mcp::method::CANCELLED;
use crate::mcp::{Direction, Envelope, Era, Kind, cancelled_request, flatten, parse};
use crate::proxy::{NOBODY, Outbox, Party};
use crate::supervise::{Due, Next};
use crate::transport::http::StatusCode;
use std::rc::Rc;
use std::time::Instant;

impl State {
    /// The process of a server is over, and its output: true when another takes its place.
    pub(super) fn goes_on(&mut self, cell: u32, now: Instant) -> bool {
        if self.stopping || self.orphaned {
            return false;
        }
        self.with(cell, |state, server| state.survives(server, now)) == Some(true)
    }

    fn survives(&mut self, server: &mut Server, now: Instant) -> bool {
        let Some((how, _)) = &server.process.ended else {
            return false;
        };
        let how = how.clone();
        let crowd = self.counts_as_stillborn(server, &how, now);
        let wanted = match server.role {
            Role::Own(party) => self.visits.contains_key(&party),
            Role::Modern | Role::Shared => !server.retired,
            Role::Spare | Role::Next(_) | Role::Leaving => false,
        };
        if !wanted || crowd || server.session.estranged().is_some() {
            return false;
        }
        let next = match server.replacing {
            Some(Replacing::Ending { .. }) if !server.restarts.off() => None,
            _ => {
                let owes = server.session.owes() || !server.waiting.is_empty();
                let answered = server.session.has_answered();
                Some(server.restarts.ended(answered, owes, now))
            }
        };
        if next == Some(Next::End) {
            return false;
        }
        self.dismiss(server, "the server that it was to replace has ended", now);
        self.lose(server, &how, next, now);
        true
    }

    /// Counts the end of a process that has never answered anybody, in a row with those of others: each
    /// who comes would start one more. True when nothing is started any more.
    fn counts_as_stillborn(&mut self, server: &Server, how: &str, now: Instant) -> bool {
        if server.proven || server.role.is_beside() || server.process.life.ending() {
            return false;
        }
        let parks = self.fresh.ended(false, true, now) == Next::Park;
        if parks {
            tracing::error!(
                "the server is left alone: its processes end again and again without an answer, the last one because {how}; it is tried again when somebody asks after a minute"
            );
            self.moved = true;
        }
        parks
    }

    /// What the process left is settled; `next`: what follows, `None` where that was planned.
    fn lose(&mut self, server: &mut Server, how: &str, next: Option<Next>, now: Instant) {
        let none = Process::none(self.number());
        let mut old = std::mem::replace(&mut server.process, none);
        // One that is killed may not be gone yet.
        server.process.runs = old.runs;
        let unsent = old.inlet.take_back();
        // What waits for the tool list waits for the process that will be asked for it.
        for held in std::mem::take(&mut server.held).into_iter().rev() {
            server.waiting.push_front(held);
        }
        let mut out = Outbox::default();
        let how = next.map_or("it was replaced", |_| how);
        server.session.server_lost(how, &unsent, now, &mut out);
        server.replacing = match (next, server.replacing) {
            (None, Some(replacing)) => {
                let answered = server.session.has_answered();
                server.restarts.planned(answered, now);
                Some(Replacing::Starting {
                    since: replacing.since(),
                })
            }
            _ => None,
        };
        if next == Some(Next::Park) {
            leave_alone(&mut server.session, &server.restarts, how, now, &mut out);
        }
        // Nobody is there to be told.
        out.to_server.clear();
        self.send(server, out, now);
        self.moved = true;
        self.step_restart(server, now);
    }

    /// The next processes would be others than those that failed: where none was started any more one is.
    pub(super) fn try_again(&mut self, now: Instant) {
        self.moved |= self.fresh.renewed(now);
        for cell in self.cells() {
            self.with(cell, |state, server| {
                if server.restarts.renewed(now) {
                    state.moved = true;
                    state.wake(Some(now));
                }
            });
        }
    }

    /// The next process is to be started, or a start is to be given up.
    pub(super) fn step_restart(&mut self, server: &mut Server, now: Instant) {
        // A cell is used again when it is empty.
        let full = server.restarts.waiting() && server.process.runs;
        if self.frozen || full {
            return;
        }
        let due = server.restarts.step(now);
        self.wake(server.restarts.due());
        let cell = server.cell;
        let Some(spawner) = &mut self.spawner else {
            return;
        };
        // A spawner that is gone says so by itself.
        match due {
            None => {}
            Some(Due::Start) => {
                drop(spawner.start(cell));
                let number = self.number();
                server.process = Process {
                    runs: true,
                    ..Process::none(number)
                };
            }
            Some(Due::GiveUp) => {
                tracing::warn!(
                    "a server does not answer the handshake in time; it is started anew"
                );
                drop(spawner.stop(cell, Stop::Kill));
            }
        }
    }

    /// The process runs: it is told what its clients know.
    pub(super) fn hail(&mut self, server: &mut Server, now: Instant) {
        if !server.restarts.starting() {
            return;
        }
        let mut out = Outbox::default();
        server.session.server_back(now, &mut out);
        self.send(server, out, now);
    }

    /// Notes that the process can be asked, once it can; one that its clients cannot go on with is ended,
    /// and their sessions with it.
    pub(super) fn settle_restart(&mut self, server: &mut Server, now: Instant) {
        if !server.process.started || server.process.ended.is_some() {
            return;
        }
        if let Some(why) = server.session.estranged() {
            let act = server.process.life.deaf(now);
            if act.is_some() {
                tracing::error!(
                    "a session ends: the server that took the place of the lost one is another: {why}"
                );
                self.close_visits(server);
                for held in std::mem::take(&mut server.waiting) {
                    self.refuse(server, &held, StatusCode::NOT_FOUND);
                }
            }
            return self.act(server, act);
        }
        if !server.restarts.starting() || server.session.reviving() {
            return;
        }
        server.restarts.ready(now);
        self.moved = true;
        if let Some(Replacing::Starting { since }) = server
            .replacing
            .take_if(|it| matches!(it, Replacing::Starting { .. }))
        {
            self.replaced(since, now);
        }
        self.settle_placed(now);
        self.ask_for_tools_again(server, now);
    }

    /// Calls wait for the tool list, which the lost process was asked for.
    fn ask_for_tools_again(&mut self, server: &mut Server, now: Instant) {
        let Some(held) = server.held.first() else {
            return;
        };
        let line = flatten(&held.body);
        if let Ok(envelope) = parse(&line, Direction::ToServer) {
            let mut out = Outbox::default();
            server.session.ask_for_tools(&envelope, now, &mut out);
            self.send(server, out, now);
        }
    }

    /// Forgets the sessions of a server.
    pub(super) fn close_visits(&mut self, server: &Server) {
        let mine = self.visits.iter();
        let mine = mine.filter(|(_, visit)| visit.serial == server.serial);
        let mine: Vec<Party> = mine.map(|(party, _)| *party).collect();
        for party in mine {
            self.close_visit(party);
        }
    }

    /// Keeps a message until there is a process that can be asked.
    pub(super) fn keep(&mut self, server: &mut Server, held: Held) {
        let seat = Rc::clone(&held.seat);
        let body = held.body.clone();
        if !server.queue(held) {
            let line = flatten(&body);
            if let Ok(envelope) = parse(&line, Direction::ToServer)
                && let Some(id) = id_of(&envelope)
            {
                seat.answer(no_room(id));
            }
        }
    }

    /// A message of a session came while no process can be asked: true when that is all for now.
    pub(super) fn keeps(
        &mut self,
        server: &mut Server,
        post: &Post<'_>,
        (party, seat): (Party, Option<&Rc<Seat>>),
        now: Instant,
    ) -> bool {
        match &post.envelope.kind {
            Kind::Notification { method, params } if method == CANCELLED => {
                let Some(id) = cancelled_request(*params) else {
                    return true;
                };
                let key = id.key();
                let at = server
                    .waiting
                    .iter()
                    .position(|held| held.party == party && is_request(&flatten(&held.body), &key));
                let held = at.and_then(|at| server.waiting.remove(at));
                if let Some(held) = &held {
                    held.seat.open();
                    held.seat.end();
                }
                held.is_some()
            }
            Kind::Request { .. } | Kind::Notification { .. } => {
                let nobody = || Rc::new(Seat::new(0, now));
                let seat = seat.cloned().unwrap_or_else(nobody);
                self.keep(server, post.held(party, seat));
                true
            }
            // What a lost process has asked nobody waits for.
            Kind::Result { .. } | Kind::Error { .. } => false,
        }
    }

    /// What waited goes on, or is answered: there is a process, or there will be none soon.
    pub(super) fn settle_waiting(&mut self, server: &mut Server, now: Instant) {
        if server.restarts.absent() {
            for held in std::mem::take(&mut server.waiting) {
                self.answer_away(server, &held, now);
            }
            return self.wake(server.restarts.due());
        }
        while !server.keeps_waiting() {
            let Some(held) = server.waiting.pop_front() else {
                return;
            };
            self.take_held(server, held, now);
        }
    }

    fn take_held(&mut self, server: &mut Server, held: Held, now: Instant) {
        let body = held.body.clone();
        let line = flatten(&body);
        let Ok(envelope) = parse(&line, Direction::ToServer) else {
            return;
        };
        if held.party == NOBODY {
            return self.take_modern(server, &envelope, held, now);
        }
        let from = Sender {
            party: held.party,
            caller: &held.caller,
            pass: held.pass,
        };
        self.take_legacy(server, &envelope, from, Some(&held.seat), now);
    }

    /// The answer of a server that will not be there soon.
    fn answer_away(&mut self, server: &mut Server, held: &Held, now: Instant) {
        let line = flatten(&held.body);
        let withheld = self.known.withholds(&self.config);
        let (session, restarts) = (&mut server.session, &mut server.restarts);
        let mut out = Outbox::default();
        answer_absent(&line, session, restarts, withheld, now, &mut out);
        if out.to_client.pop().is_some() {
            held.seat.answer(json(out.to_client));
        }
    }

    /// The answer of a server that will never be there.
    pub(super) fn refuse(&mut self, server: &mut Server, held: &Held, status: StatusCode) {
        let line = flatten(&held.body);
        let mut out = Outbox::default();
        server.session.after_the_end(&line, &mut out);
        if out.to_client.pop().is_some() {
            held.seat.answer(Answer {
                status,
                ..json(out.to_client)
            });
        }
    }

    /// The answer to a request for which there is no server.
    pub(super) fn without_server(&mut self, post: &Post<'_>, why: NoServer) -> Reply {
        let Some(id) = id_of(post.envelope) else {
            return bare(StatusCode::ACCEPTED);
        };
        let line = post.envelope.line;
        let mut out = Outbox::default();
        self.desk
            .set_era(Era::of(post.envelope).unwrap_or_default());
        let wait = match why {
            NoServer::Full | NoServer::Unavailable => return no_server(id, why),
            NoServer::Parked(wait) => {
                self.desk.while_away(line, wait, &mut out);
                Some(wait.as_secs().max(1))
            }
            NoServer::Off => {
                match self.known.withholds(&self.config) {
                    true => self.desk.while_withheld(line, &mut out),
                    false => self.desk.while_off(line, &mut out),
                }
                None
            }
        };
        self.rest_soon();
        out.to_client.pop();
        let told = parse(&out.to_client, Direction::ToClient);
        let status = match told.map(|it| it.kind) {
            Ok(Kind::Result { .. }) => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Reply::Now(Answer {
            status,
            retry_after: wait,
            ..json(out.to_client)
        })
    }

    /// How all of it is, in one word.
    pub(super) fn phase(&self) -> Phase {
        let all = || self.servers.iter().flatten();
        let servers = || all().filter(|it| !it.role.is_beside());
        match () {
            () if self.frozen => Phase::Frozen,
            () if self.off => Phase::Off,
            () if servers().any(|it| !it.restarts.down()) => Phase::Serving,
            () if self.parked() > 0 => Phase::Parked,
            () if servers().next().is_some() => Phase::Restarting,
            () => Phase::Serving,
        }
    }

    /// Servers that are left alone, counting the one that nobody has yet.
    pub(super) fn parked(&self) -> i64 {
        let servers = self.servers.iter().flatten();
        let parked = servers.filter(|server| server.restarts.parked()).count();
        i64::try_from(parked).unwrap_or(i64::MAX) + i64::from(self.fresh.parked())
    }

    /// Sees to it that the clock is looked at, at this time or before.
    pub(super) fn wake(&mut self, when: Option<Instant>) {
        if let Some(when) = when {
            self.wake_at = Some(self.wake_at.map_or(when, |at| at.min(when)));
        }
    }
}

fn is_request(line: &[u8], key: &crate::mcp::RequestId) -> bool {
    let envelope: Result<Envelope<'_>, _> = parse(line, Direction::ToServer);
    envelope.is_ok_and(|it| matches!(it.kind, Kind::Request { id, .. } if id.key() == *key))
}
