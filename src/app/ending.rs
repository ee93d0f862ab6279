//! The way out: what the dead server still said is passed on, and every open request is answered.

use super::lane::Incoming;
use super::stdio::Loop;
use super::wake::{readable, writable};
use crate::cell::spawn::Exit;
use crate::proxy::{Outbox, Passage};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Time for the last answers to leave towards a client that reads slowly.
const FAREWELL: Duration = Duration::from_millis(500);
/// Bytes of answers that are made for a client that goes on sending.
const LAST_ANSWERS: usize = 8 << 20;
/// Time for the last output of a server whose whole tree is dead.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// The code of a session that cannot go on with the server that took the lost one's place:
/// EX_TEMPFAIL, since a new session can.
const ESTRANGED: u8 = 75;

/// A filter killed the server; the same number on every architecture that we have filters for.
const SIGSYS: u8 = 31;

/// The end of a server as metrics call it, and in words.
pub(super) fn how_it_ended(exit: Exit, cause: &str, limit: Option<&str>) -> (&'static str, String) {
    match (exit, limit) {
        (_, Some("memory")) => ("memory", cause.to_owned()),
        (_, Some(limit)) => ("limit", format!("it reached its limit {limit}")),
        (Exit::Code(code), None) => ("code", format!("it exited with code {code}")),
        (Exit::Signal(signal), None) if cause.is_empty() => {
            ("signal", format!("signal {signal} ended it"))
        }
        (Exit::Signal(SIGSYS), None) => ("seccomp", cause.to_owned()),
        (Exit::Signal(_), None) => ("signal", cause.to_owned()),
    }
}

impl Loop {
    /// The server is gone, and its whole tree with it: the code to exit with, unless another one
    /// takes its place.
    pub(super) fn end(
        &mut self,
        exit: Exit,
        cause: &str,
        limit: Option<&str>,
        now: Instant,
    ) -> Option<u8> {
        let orderly = self.life.ending();
        self.metrics.child_up.set(0);
        let (kind, how) = how_it_ended(exit, cause, limit);
        self.metrics
            .child_exit(if orderly { "end_of_input" } else { kind });
        if !orderly {
            tracing::warn!("the server has ended: {how}");
        }
        let settled = match orderly && !self.restarts.off() {
            true => self.replace_ended(exit, now),
            false => self.replace_lost(&how, exit, now),
        };
        if settled {
            return None;
        }
        self.life.exited(exit);
        self.last_words(&how);
        let estranged = self.session.estranged().map(|_| ESTRANGED);
        Some(estranged.unwrap_or_else(|| self.life.exit_code()))
    }

    /// Passes on what the dead server still said, then answers everything that is open.
    ///
    /// The client's input is closed before anything more is written: a client that reads our last
    /// answers and then sends on gets `EPIPE`, and nothing that it sent waits in a pipe unread.
    pub(super) fn last_words(&mut self, how: &str) {
        let until = Instant::now() + LAST_WORDS;
        self.server_in = None;
        let unavailable = self.hang_up();
        self.hear_out(until);
        // A failing turn means a spawner that is gone too, which changes nothing for the answers.
        drop(self.turn(Instant::now()));
        let mut out = Outbox::default();
        self.session.server_gone(how, Instant::now(), &mut out);
        self.send(out);
        self.send(unavailable);
        self.farewell();
    }

    /// Everything that the dead server has said reaches its client, as far as it reads.
    pub(super) fn hear_out(&mut self, until: Instant) {
        while let Some(fd) = &self.server_out
            && Instant::now() < until
        {
            if !self.to_client.wants_input() {
                let Some(client) = &self.client_out else {
                    break;
                };
                writable(
                    client.as_fd(),
                    until.saturating_duration_since(Instant::now()),
                );
            } else if readable(fd.as_fd(), Duration::ZERO) {
                self.read_server();
            } else {
                // The tree is dead, so what is in the pipe is all that there will ever be.
                self.server_out = None;
            }
            if self.turn(Instant::now()).is_err() {
                break;
            }
        }
        self.server_out = None;
        while let Some(stderr) = &self.stderr
            && readable(stderr.as_fd(), Duration::ZERO)
            && Instant::now() < until
        {
            self.drain_stderr(Instant::now());
        }
    }

    /// Takes what the client has sent already, answers it in the server's place, and closes the input.
    pub(super) fn hang_up(&mut self) -> Outbox {
        let until = Instant::now() + FAREWELL;
        let mut out = Outbox::default();
        while let Some(fd) = &self.client_in
            && readable(fd.as_fd(), Duration::ZERO)
            && Instant::now() < until
            && out.to_client.len() < LAST_ANSWERS
        {
            self.read_client();
            self.answer_in_its_place(&mut out, false);
        }
        self.client_in = None;
        // Our copy was one of two; the other is the process's own stdin.
        if let Some(nothing) = &self.nothing {
            _ = nix::unistd::dup2_stdin(nothing);
        }
        self.answer_in_its_place(&mut out, true);
        out
    }

    fn answer_in_its_place(&mut self, out: &mut Outbox, last: bool) {
        let session = &mut self.session;
        let answer = |incoming: Incoming<'_>| {
            match incoming {
                Incoming::Line(line) => session.after_the_end(line, out),
                Incoming::TooLong { id, bytes } => session.oversize_from_client(id, bytes, out),
            }
            Passage::Stop
        };
        if last {
            self.to_server.finish(answer);
        } else {
            self.to_server.process(answer);
        }
    }

    /// The way out when no server ever ran.
    pub(super) fn leave(&mut self) {
        let unavailable = self.hang_up();
        self.send(unavailable);
        self.farewell();
    }

    /// Lets everything that waits for the client leave, as far as it reads.
    pub(super) fn farewell(&mut self) {
        let until = Instant::now() + FAREWELL;
        while let Some(client) = &mut self.client_out {
            if self.to_client.write(client).is_err() || !self.to_client.has_output() {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !writable(client.as_fd(), left) {
                tracing::warn!("the client does not read; its last answers are lost");
                break;
            }
        }
        self.rest(Instant::now());
    }
}
