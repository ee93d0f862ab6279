//! What policy costs, at one look at the clock for many messages.

use crate::mcp::Direction;
use crate::telemetry::Tally;
use std::time::Instant;

/// One clock read for the lines that were read together: more would cost as much as a rule.
pub(super) struct Stopwatch {
    pub(super) last: Instant,
}

impl Stopwatch {
    pub(super) fn start(now: Instant) -> Self {
        Self { last: now }
    }

    /// Notes the time that `lines` took in policy since the last lap.
    pub(super) fn lap(&mut self, tally: &mut Tally, direction: Direction, lines: u32) {
        if lines > 0 {
            let now = Instant::now();
            tally.overhead(direction, now.saturating_duration_since(self.last), lines);
            self.last = now;
        }
    }
}
