//! What the spawner does once, when nobody waits for it any more.

use super::tempdir;
use crate::cell::{Code, cgroup};
use std::time::{Duration, Instant};

/// Until then the server that was just started answers its client, on the same processor perhaps.
pub(super) const QUIET: Duration = Duration::from_millis(250);

/// Idle until a first server runs, then due, then done.
#[derive(Debug, Default)]
pub(super) struct Housework {
    due: Option<Instant>,
    done: bool,
}

impl Housework {
    /// A server runs: the work is due when its start is over.
    pub(super) fn begin(&mut self) {
        if !self.done && self.due.is_none() {
            self.due = Some(Instant::now() + QUIET);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Does the work if it is time.
    pub(super) fn look(&mut self) {
        if self.due.take_if(|at| *at <= Instant::now()).is_some() {
            self.done = true;
            sweep();
            if let Some(code) = Code::find() {
                code.shed();
            }
        }
    }

    /// The spawner ends: what a short run had no time for is done now.
    pub(super) fn end(&mut self) {
        if self.due.take().is_some() {
            sweep();
        }
    }
}

/// Removes what killed runs left.
fn sweep() {
    tempdir::sweep();
    cgroup::sweep(None);
}
