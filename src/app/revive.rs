//! A server that was lost, and the one that takes its place: the client's connection stays as it is.

use super::ending::LAST_WORDS;
use super::lane::Incoming;
use super::replace::Replacing;
use super::stdio::{Loop, LoopError};
use crate::admin::Phase;
use crate::cell::spawn::{Exit, Stop};
use crate::config::{Replace, Restart};
use crate::proxy::{Outbox, Passage, Session};
use crate::supervise::{Due, Life, Next, Restarts};
use std::os::fd::AsFd;
use std::time::Instant;

/// No other server is started by itself after one has ended (`how`): whoever waits is answered.
pub(super) fn leave_alone(
    session: &mut Session,
    restarts: &Restarts,
    how: &str,
    now: Instant,
    out: &mut Outbox,
) {
    if restarts.off() {
        return session.give_up_waiting("it was switched off", now, out);
    }
    tracing::error!(
        "the server is left alone: it ended again and again without an answer, the last time because {how}; it is tried again when somebody asks after a minute"
    );
    session.give_up_waiting(how, now, out);
}

/// The answer to a line of a client in the place of a server that will not be there soon; `withheld`: it
/// would hold a credential that was revoked.
pub(super) fn answer_absent(
    line: &[u8],
    session: &mut Session,
    restarts: &mut Restarts,
    withheld: bool,
    now: Instant,
    out: &mut Outbox,
) {
    match restarts.off() {
        true if withheld => session.while_withheld(line, out),
        true => session.while_off(line, out),
        false => session.while_away(line, restarts.asked(now), out),
    }
}

impl Loop {
    /// The server has ended (`how`) unasked: what it left is settled, and its place is filled if that
    /// may be. False when its end is the end.
    pub(super) fn replace_lost(&mut self, how: &str, exit: Exit, now: Instant) -> bool {
        let ending = self.life.ending() && !self.restarts.off();
        if self.client_in.is_none() || self.client_out.is_none() || ending {
            return false;
        }
        let wanted = self.session.owes() || self.to_server.has_output();
        let next = self
            .restarts
            .ended(self.session.has_answered(), wanted, now);
        if next == Next::End || self.session.estranged().is_some() {
            return false;
        }
        // The next one is started with what is in force then.
        self.lost_beside(now);
        self.replacing = None;
        self.life.exited(exit);
        self.last_exit = Some(self.life.exit_code());
        let mut out = self.settle_lost(how, now);
        if next == Next::Park {
            leave_alone(&mut self.session, &self.restarts, how, now, &mut out);
            self.metrics.child_parked.set(self.restarts.parked().into());
        }
        self.send(out);
        self.enter(match next {
            Next::Park if self.restarts.off() => Phase::Off,
            Next::Park => Phase::Parked,
            _ => Phase::Restarting,
        });
        self.life = Life::default();
        true
    }

    /// The server that served is out (`how`): what it has said is passed on, and what it has not read
    /// waits for the next one. What there is to say to the client besides.
    pub(super) fn settle_lost(&mut self, how: &str, now: Instant) -> Outbox {
        self.settle_output(now);
        let unsent = self.to_server.recall();
        let mut out = Outbox::default();
        self.session.server_lost(how, &unsent, now, &mut out);
        out
    }

    /// What the dead server has said is passed on; its half line is no message.
    pub(super) fn settle_output(&mut self, now: Instant) {
        self.server_in = None;
        self.started = false;
        self.server_since = Some(now);
        self.hear_out(now + LAST_WORDS);
        let mut out = Outbox::default();
        let session = &mut self.session;
        self.to_client.cut(|incoming| match incoming {
            Incoming::Line(line) => session.server_line(line, now, &mut out),
            Incoming::TooLong { id, bytes } => {
                session.oversize_from_server(id, bytes, now, &mut out);
                Passage::Stop
            }
        });
        self.send(out);
        if let Some(stderr) = self.stderr.take() {
            self.seldom.forget(stderr.as_fd());
        }
    }

    /// True when what a server has not read is kept for the next one.
    pub(super) fn keeps_lines(&self) -> bool {
        let follows = self.replacing.is_some_and(Replacing::holds_back);
        follows || self.config.server.restart == Restart::Always
    }

    /// The next server is to be started, or a start is to be given up.
    pub(super) fn step_restart(&mut self, now: Instant) -> Result<(), LoopError> {
        let asked = match self.restarts.step(now) {
            None => return Ok(()),
            Some(Due::Start) => {
                self.begun = now;
                self.spawner.start(self.cell)
            }
            Some(Due::GiveUp) => {
                tracing::warn!(
                    "the server does not answer the handshake in time; it is started anew"
                );
                self.spawner.stop(self.cell, Stop::Kill)
            }
        };
        asked.map_err(LoopError::unreached)
    }

    /// A server that has stopped answering altogether is ended, so that another can take its place.
    pub(super) fn end_stopped(&mut self, now: Instant) -> Result<(), LoopError> {
        let stopped = self.session.has_stopped(now);
        let idle = !self.started || self.restarts.down();
        if !stopped || idle || self.config.server.restart == Restart::Never {
            return Ok(());
        }
        // A process that is stopped (SIGSTOP) would not see SIGTERM.
        let act = self.life.stuck();
        if act.is_some() {
            tracing::warn!(
                "the server let a call expire and has said nothing since, not even to a ping: it is killed"
            );
        }
        self.act(act)
    }

    /// The next server runs: it is told what its client knows.
    pub(super) fn greet(&mut self, now: Instant) {
        if !self.restarts.down() {
            return;
        }
        let mut out = Outbox::default();
        self.session.server_back(now, &mut out);
        self.send(out);
    }

    /// Notes that the next server can be asked, once it can; one that its client cannot go on with is
    /// ended, and the session with it.
    pub(super) fn settle_restart(&mut self, now: Instant) -> Result<(), LoopError> {
        if let Some(why) = self.session.estranged()
            && self.started
        {
            let act = self.life.deaf(now);
            if act.is_some() {
                tracing::error!(
                    "the session ends: the server that took the place of the lost one is another: {why}"
                );
            }
            return self.act(act);
        }
        if self.started && self.restarts.starting() && !self.session.reviving() {
            self.restarts.ready(now);
            self.replaced(now);
            if self.replacing.is_none() && self.config.server.replace != Replace::Never {
                // Whatever it was started for, it got what is in force.
                self.known.placed(Ok(()), self.session.audit(), now);
            }
            self.metrics.child_parked.set(0);
            self.enter(Phase::Serving);
        }
        Ok(())
    }

    /// The way out when neither a server nor a client is there: the code to exit with.
    pub(super) fn nobody_left(&mut self) -> Option<u8> {
        let server = self.started || !self.restarts.down();
        let client =
            self.client_out.is_some() && (self.client_in.is_some() || !self.restarts.absent());
        if server || client {
            return None;
        }
        self.leave();
        if self.restarts.off() {
            // Its end was ours, and its client's is orderly.
            return Some(0);
        }
        Some(self.last_exit.unwrap_or_else(|| self.life.exit_code()))
    }

    /// True while lines of the client wait in their pipe for a server that is on its way.
    pub(super) fn keeps_client_waiting(&self) -> bool {
        !self.started && !self.restarts.absent()
            || self.session.reviving()
            || self.holds_back() && !self.session.asks_client()
    }

    /// True from the time when calls wait for another server.
    fn holds_back(&self) -> bool {
        self.replacing.is_some_and(Replacing::holds_back)
    }

    /// Answers the client in the place of a server that will not be there soon.
    pub(super) fn answer_while_away(&mut self, now: Instant) {
        let mut out = Outbox::default();
        let withheld = self.known.withholds(&self.config);
        let (session, restarts) = (&mut self.session, &mut self.restarts);
        self.to_server.process(|incoming| {
            match incoming {
                Incoming::Line(line) => {
                    answer_absent(line, session, restarts, withheld, now, &mut out);
                }
                Incoming::TooLong { id, bytes } => {
                    session.oversize_from_client(id, bytes, &mut out);
                }
            }
            Passage::Stop
        });
        self.send(out);
    }
}
