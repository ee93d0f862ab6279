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
/// Time for the last output of a server whose whole tree is dead.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Loop {
    /// The server is gone, and its whole tree with it.
    pub(super) fn end(&mut self, exit: Exit, cause: &str, limit: Option<&str>) -> u8 {
        let orderly = self.life.ending();
        self.life.exited(exit);
        self.metrics.child_up.set(0);
        let (kind, how) = match (exit, limit) {
            (_, Some(limit)) => ("limit", format!("it reached its limit {limit}")),
            (Exit::Code(code), None) => ("code", format!("it exited with code {code}")),
            (Exit::Signal(signal), None) if cause.is_empty() => {
                ("signal", format!("signal {signal} ended it"))
            }
            (Exit::Signal(_), None) => ("signal", cause.to_owned()),
        };
        self.metrics
            .child_exit(if orderly { "end_of_input" } else { kind });
        if !orderly {
            tracing::warn!("the server has ended: {how}");
        }
        self.last_words(&how);
        self.life.exit_code()
    }

    /// Passes on what the dead server still said, then answers everything that is open.
    pub(super) fn last_words(&mut self, how: &str) {
        let until = Instant::now() + LAST_WORDS;
        self.server_in = None;
        while let Some(fd) = &self.server_out
            && Instant::now() < until
        {
            if self.to_client.wants_input() {
                // The tree is dead, so what is in the pipe is all that there will ever be.
                if !readable(fd.as_fd(), Duration::ZERO) {
                    self.server_out = None;
                } else {
                    self.read_server();
                }
            } else if let Some(client) = &self.client_out {
                writable(
                    client.as_fd(),
                    until.saturating_duration_since(Instant::now()),
                );
            }
            if self.turn(Instant::now()).is_err() {
                break;
            }
        }
        self.server_out = None;
        while self.stderr.is_some() && Instant::now() < until {
            let more = self
                .stderr
                .as_ref()
                .is_some_and(|e| readable(e.as_fd(), Duration::ZERO));
            if !more {
                break;
            }
            self.drain_stderr(Instant::now());
        }
        // A failing turn means a spawner that is gone too, which changes nothing for the answers.
        drop(self.turn(Instant::now()));
        let mut out = Outbox::default();
        self.session.server_gone(how, Instant::now(), &mut out);
        self.send(out);
        self.farewell();
    }

    /// Answers what the client has sent already and nobody will read, and lets it all leave.
    pub(super) fn farewell(&mut self) {
        let until = Instant::now() + FAREWELL;
        let mut out = Outbox::default();
        while let Some(fd) = &self.client_in
            && readable(fd.as_fd(), Duration::ZERO)
            && Instant::now() < until
        {
            self.read_client();
            let session = &mut self.session;
            self.to_server.process(|incoming| {
                match incoming {
                    Incoming::Line(line) => session.after_the_end(line, &mut out),
                    Incoming::TooLong { id, bytes } => {
                        session.oversize_from_client(id, bytes, &mut out);
                    }
                }
                Passage::Stop
            });
        }
        self.send(out);
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
        self.rest();
    }
}
