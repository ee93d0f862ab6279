//! What the spawner has done once nobody waits for it any more, by a process of its own: what dead servers
//! left may take long to remove, and the spawner has others to watch over meanwhile.

use super::companion::Companion;
use super::tempdir;
use crate::cell::{Code, cgroup, sys};
use rustix::process::{Pid, Signal, getpid, getppid, nice, set_parent_process_death_signal};
use std::time::{Duration, Instant};

/// Until then the server that was just started answers its client, on the same processor perhaps.
pub(super) const QUIET: Duration = Duration::from_millis(250);
/// How long the end of a run may take over what others left.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Idle until a first server runs, then due, then done, unless more is found to do.
#[derive(Debug, Default)]
pub(super) struct Housework {
    due: Option<Instant>,
    done: bool,
    /// A server of ours has left something.
    left: bool,
    sweeper: Companion,
}

impl Housework {
    /// A server runs: the work is due when its start is over.
    pub(super) fn begin(&mut self) {
        if !self.done {
            self.again();
        }
    }

    /// A server of ours has left more than there was time for.
    pub(super) fn go_on(&mut self) {
        self.left = true;
        self.again();
    }

    fn again(&mut self) {
        if self.due.is_none() {
            self.due = Some(Instant::now() + QUIET);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Does the work if it is time.
    pub(super) fn look(&mut self) {
        if self.due.take_if(|at| *at <= Instant::now()).is_none() {
            return;
        }
        if self.sweeper.pid().is_some() {
            self.again();
            return;
        }
        self.sweeper = sweeper();
        if !std::mem::replace(&mut self.done, true)
            && let Some(code) = Code::find()
        {
            code.shed();
        }
    }

    /// Hears which of our children has ended.
    pub(super) fn note(&mut self, ended: Pid) {
        self.sweeper.note(ended);
    }

    /// Every process that is no cell's is about to be hunted: the work is taken up afterwards.
    pub(super) fn interrupt(&mut self) {
        if self.sweeper.pid().is_some() {
            self.sweeper.end();
            self.again();
        }
    }

    /// The spawner ends, and its servers have: what a short run had no time for is done now.
    pub(super) fn end(&mut self) {
        if self.due.take().is_some() {
            let patience = if self.left {
                tempdir::PATIENCE
            } else {
                PATIENCE
            };
            tempdir::sweep(Some(Instant::now() + patience));
            cgroup::sweep(None);
        }
    }
}

/// Removes what killed runs left. It ends with us, and everything else is more urgent; without it the next
/// run will do it.
fn sweeper() -> Companion {
    let us = getpid();
    match sys::fork_into(nix::sched::CloneFlags::empty()) {
        Ok(None) => {}
        Ok(Some(pid)) => return Companion::of(Pid::from_raw(pid.as_raw())),
        Err(_) => return Companion::default(),
    }
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    if bound.is_ok() && getppid() == Some(us) {
        let _ = nice(19);
        let _ = nix::sys::prctl::set_name(c"cofferdam-sweep");
        // The message process must see the end of file when the spawner dies.
        let _ = sys::close_all_but(&[]);
        tempdir::sweep(None);
        cgroup::sweep(None);
    }
    leave()
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a copy of the spawner must not return into what the spawner does next"
)]
fn leave() -> ! {
    std::process::exit(0)
}
