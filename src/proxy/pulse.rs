//! Whether a server that let a call expire is still there.
//!
//! ```text
//! Beating ── a call expired, and nothing was said since it was asked ──▶ Asked (a ping of ours)
//!  │ ▲  ▲                                                                  │   │
//!  │ │  └─────────── it says anything, or another one serves ──────────────┘   └── [`PATIENCE`] ──▶ Stopped, told once
//!  │ └── goes on ── Held ◀── frozen ── any                                                              │
//!  └──◀─────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Silence alone is no sign: a tool may work for hours, and its caller has limits for that. A server
//! that also leaves a ping unanswered (an error is an answer) is of no use to any caller.

use std::time::{Duration, Instant};

/// How long a server may take to say anything once it is asked whether it is there.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pulse {
    /// When the server last said anything.
    heard: Instant,
    asked: Option<Instant>,
    /// It cannot say anything, and nobody expects it to.
    held: bool,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            asked: None,
            held: false,
        }
    }

    /// The server has said something.
    pub(super) fn beat(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    /// The server is made to stand still, or goes on.
    pub(super) fn hold(&mut self, held: bool, now: Instant) {
        self.held = held;
        self.beat(now);
    }

    /// A call that was asked at `since` has expired; true when the server is to be asked.
    pub(super) fn doubt(&mut self, since: Instant, now: Instant) -> bool {
        let doubt = self.heard < since && self.asked.is_none() && !self.held;
        if doubt {
            self.asked = Some(now);
        }
        doubt
    }

    /// When it is known that it has stopped.
    pub(super) fn due(&self) -> Option<Instant> {
        self.asked.map(|asked| asked + PATIENCE)
    }

    /// True once when it was asked and has said nothing for too long: whoever does nothing about it then is
    /// not woken for it again.
    pub(super) fn has_stopped(&mut self, now: Instant) -> bool {
        let stopped = self.due().is_some_and(|due| due <= now);
        if stopped {
            self.beat(now);
        }
        stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_after_a_question_is_an_end() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut pulse = Pulse::new(start);
        pulse.beat(second(5));
        assert!(!pulse.doubt(second(4), second(10)), "it has spoken since");
        assert!(pulse.doubt(second(6), second(10)));
        assert!(!pulse.doubt(second(7), second(11)), "it is asked already");
        assert!(!pulse.has_stopped(second(14)));
        assert!(pulse.has_stopped(second(15)));
        assert!(!pulse.has_stopped(second(15)) && pulse.due().is_none());
        assert!(pulse.doubt(second(16), second(20)));
        pulse.beat(second(24));
        assert!(!pulse.has_stopped(second(30)) && pulse.due().is_none());
    }

    #[test]
    fn one_that_is_made_to_stand_still_is_not_asked() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut pulse = Pulse::new(start);
        assert!(pulse.doubt(second(1), second(2)));
        pulse.hold(true, second(3));
        assert!(!pulse.has_stopped(second(9)));
        assert!(!pulse.doubt(second(4), second(9)) && pulse.due().is_none());
        pulse.hold(false, second(10));
        assert!(!pulse.doubt(second(9), second(11)), "it could not answer");
        assert!(pulse.doubt(second(11), second(12)));
    }
}
