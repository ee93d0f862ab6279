//! The server's life as a state machine: no descriptor, no clock, only what to do next and when.
//!
//! ```text
//! Starting ── started ──▶ Running ── end of input, or asked to stop ──▶ Ending ──▶ Terminating ──▶ Killing
//!    │                       │                                            │            │             │
//!    └────── failed ─────────┴──────────────────── exited ────────────────┴────────────┴─────────────┴──▶ Gone
//! ```
//! A client that closes our input gives us 2 s before SIGTERM and 4 s before SIGKILL (every SDK that
//! was measured), so the server gets [`EXIT_GRACE`] to end by itself, [`TERM_GRACE`] after SIGTERM,
//! and the whole tree is gone before the 2 s are over.

mod restart;

pub use restart::{Due, Next, Restarts};

use crate::cell::spawn::Exit;
use std::time::{Duration, Instant};

/// From the end of its input until SIGTERM.
pub const EXIT_GRACE: Duration = Duration::from_millis(1200);
/// From SIGTERM until the whole tree is killed.
pub const TERM_GRACE: Duration = Duration::from_millis(400);

/// From the end of its input until SIGTERM, for a server whose place another one waits to take.
pub const REPLACE_GRACE: Duration = Duration::from_millis(300);

/// What the loop has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Close the server's input, once everything before it is written.
    CloseInput,
    /// Send SIGTERM to the server.
    Terminate,
    /// Kill the whole tree.
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    Ending,
    Terminating,
    Killing,
    Gone,
}

/// Where the server is in its life.
#[derive(Debug)]
pub struct Life {
    state: State,
    /// When the next step is due.
    due: Option<Instant>,
    /// True once we, not the server, began the end.
    ours: bool,
    exit: Option<Exit>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            state: State::Starting,
            due: None,
            ours: false,
            exit: None,
        }
    }
}

impl Life {
    /// The server is up.
    pub fn started(&mut self) {
        if self.state == State::Starting {
            self.state = State::Running;
        }
    }

    /// The client will send nothing more, and everything it sent has been passed on.
    pub fn end_of_input(&mut self, now: Instant) -> Option<Act> {
        if !matches!(self.state, State::Starting | State::Running) {
            return None;
        }
        self.ours = true;
        self.state = State::Ending;
        self.due = Some(now + EXIT_GRACE);
        Some(Act::CloseInput)
    }

    /// Another one is to take its place, and everything it was asked is answered.
    pub fn replaced(&mut self, now: Instant) -> Option<Act> {
        let act = self.end_of_input(now);
        self.due = self.due.map(|_| now + REPLACE_GRACE);
        act
    }

    /// Somebody asked us to stop (SIGTERM, SIGINT), or the client does not read any more.
    pub fn stop(&mut self, now: Instant) -> Option<Act> {
        self.ours = true;
        self.terminate(now)
    }

    /// The server reads no more and does not go: it is of no use, and its end is its own doing.
    pub fn deaf(&mut self, now: Instant) -> Option<Act> {
        self.terminate(now)
    }

    /// The server has closed its stdout, so nothing can be answered any more. That is how most ends
    /// begin; one that does not end within the grace is ended, which is its own doing too.
    pub fn mute(&mut self, now: Instant) {
        if matches!(self.state, State::Starting | State::Running) {
            self.state = State::Ending;
            self.due = Some(now + EXIT_GRACE);
        }
    }

    /// It does not do anything any more: nothing milder would reach it.
    pub fn stuck(&mut self) -> Option<Act> {
        if matches!(self.state, State::Killing | State::Gone) {
            return None;
        }
        self.state = State::Killing;
        self.due = None;
        Some(Act::Kill)
    }

    fn terminate(&mut self, now: Instant) -> Option<Act> {
        if matches!(
            self.state,
            State::Terminating | State::Killing | State::Gone
        ) {
            return None;
        }
        self.state = State::Terminating;
        self.due = Some(now + TERM_GRACE);
        Some(Act::Terminate)
    }

    /// The server is gone.
    pub fn exited(&mut self, exit: Exit) {
        self.state = State::Gone;
        self.due = None;
        self.exit = Some(exit);
    }

    /// When [`Life::step`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The next step, if it is due.
    pub fn step(&mut self, now: Instant) -> Option<Act> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        match self.state {
            State::Ending => {
                self.state = State::Terminating;
                self.due = Some(now + TERM_GRACE);
                Some(Act::Terminate)
            }
            State::Terminating => {
                self.state = State::Killing;
                self.due = None;
                Some(Act::Kill)
            }
            _ => {
                self.due = None;
                None
            }
        }
    }

    /// True while the end was asked for by us or the client, and the server is still there.
    #[must_use]
    pub fn ending(&self) -> bool {
        self.ours
            && matches!(
                self.state,
                State::Ending | State::Terminating | State::Killing
            )
    }

    /// The code that cofferdam exits with: the server's own, but 0 where we had to end a server
    /// that did not go by itself after an orderly end of input or a request to stop.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.exit {
            Some(Exit::Signal(_)) | None if self.ours => 0,
            Some(exit) => exit.code(),
            None => Exit::Signal(9).code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deaf_server_is_gone_within_two_seconds_of_the_end_of_input() {
        let start = Instant::now();
        let mut life = Life::default();
        life.started();
        assert_eq!(life.end_of_input(start), Some(Act::CloseInput));
        assert_eq!(life.step(start), None);
        let term = life.due().unwrap();
        assert_eq!(life.step(term), Some(Act::Terminate));
        let kill = life.due().unwrap();
        assert_eq!(life.step(kill), Some(Act::Kill));
        assert_eq!(life.due(), None);
        assert!(kill - start < Duration::from_millis(1800));
        life.exited(Exit::Signal(9));
        assert_eq!(life.exit_code(), 0);
    }

    #[test]
    fn the_server_s_own_end_is_passed_on() {
        for (exit, code) in [
            (Exit::Code(0), 0),
            (Exit::Code(3), 3),
            (Exit::Signal(11), 139),
        ] {
            let mut life = Life::default();
            life.started();
            life.exited(exit);
            assert_eq!(life.exit_code(), code);
        }
        let mut life = Life::default();
        life.started();
        life.end_of_input(Instant::now());
        life.exited(Exit::Code(3));
        assert_eq!(life.exit_code(), 3);
    }

    #[test]
    fn a_mute_server_has_the_grace_and_its_end_is_its_own() {
        let start = Instant::now();
        let mut life = Life::default();
        life.started();
        life.mute(start);
        assert!(!life.ending());
        assert_eq!(life.step(start), None);
        assert_eq!(life.step(start + EXIT_GRACE), Some(Act::Terminate));
        life.exited(Exit::Signal(15));
        assert_eq!(life.exit_code(), 143);

        let mut life = Life::default();
        life.started();
        life.mute(start);
        life.exited(Exit::Code(0));
        assert_eq!(life.exit_code(), 0);
    }

    #[test]
    fn a_stop_during_the_grace_does_not_start_it_anew() {
        let start = Instant::now();
        let mut life = Life::default();
        life.started();
        life.end_of_input(start);
        assert_eq!(life.stop(start), Some(Act::Terminate));
        assert_eq!(life.stop(start), None);
        assert_eq!(life.end_of_input(start), None);
    }
}
