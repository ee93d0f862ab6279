//! The process above the spawner: whatever kills the spawner, its tree has a parent that ends it.
//!
//! The message process cannot do it: its cage lets it signal nobody. The guardian does nothing else,
//! hears nobody and reads nothing but signals; it has no part in the protocol.

use super::housework::{self, QUIET};
use super::signals::Signals;
use super::{tempdir, tree};
use crate::cell::{Code, cgroup, sys};
use nix::sys::prctl;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, Signal, WaitStatus, getpid, getppid, kill_process, set_parent_process_death_signal, setsid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the spawner may go on after the message process has died, before it is killed.
const PATIENCE: Duration = Duration::from_secs(6);

/// Which of the two processes this one is.
#[derive(Debug)]
pub enum Role {
    /// The guardian; the spawner and everything that it started is gone.
    Guardian {
        /// The code to exit with: the spawner's.
        code: u8,
        /// The spawner was killed, and has put nothing away.
        felled: bool,
        /// The message process that started us.
        parent: Option<Pid>,
    },
    /// The spawner, with its end of the socket.
    Spawner(OwnedFd),
}

/// Divides this process in two: the spawner is the child, and the guardian returns after its end.
///
/// Call it before any thread is started.
///
/// # Errors
/// No more processes, or a kernel that lacks what holds a tree together; nothing was started.
pub fn guard(control: OwnedFd) -> io::Result<Role> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM))?;
    tree::adopt_orphans()?;
    // A signal to the whole group of the message process is not for us. It fails only when we lead
    // a group already, as when started by hand.
    let _ = setsid();
    let signals = Signals::open()?;
    // What `ps` shows: all of ours have the command line of the message process.
    prctl::set_name(c"cofferdam-guard")?;
    let us = getpid();
    let Some(spawner) = sys::fork_into(nix::sched::CloneFlags::empty())? else {
        super::server::born_of(us, parent);
        // It is not inherited across fork(2), so the guardian may have died before this.
        set_parent_process_death_signal(Some(Signal::TERM))?;
        if getppid() != Some(us) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        prctl::set_name(c"cofferdam-spawn")?;
        return Ok(Role::Spawner(control));
    };
    // The message process must see the end of file when the spawner dies.
    drop(control);
    let spawner = Pid::from_raw(spawner.as_raw());
    let status = await_end(&signals, spawner, parent);
    let orderly = status.and_then(WaitStatus::exit_status);
    let killed = tree::kill_descendants();
    let code = match orderly {
        Some(code) => u8::try_from(code).unwrap_or(u8::MAX),
        None => {
            tempdir::sweep(Some(Instant::now() + housework::PATIENCE));
            cgroup::sweep(spawner.map(|pid| pid.as_raw_nonzero().get()));
            70
        }
    };
    if !killed.survivors.is_empty() {
        return Err(io::Error::other(format!(
            "processes {:?} outlived SIGKILL",
            killed.survivors
        )));
    }
    Ok(Role::Guardian {
        code,
        felled: orderly.is_none(),
        parent,
    })
}

/// Waits for the spawner; `None` when it had to be left.
fn await_end(signals: &Signals, spawner: Option<Pid>, parent: Option<Pid>) -> Option<WaitStatus> {
    let mut deadline: Option<Instant> = None;
    let mut quiet = Some(Instant::now() + QUIET);
    loop {
        let mut end = None;
        let nobody = tree::reap(&mut |pid, status| {
            if Some(pid) == spawner {
                end = Some(status);
            }
        });
        if nobody || end.is_some() {
            return end;
        }
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            // It hangs: what it started is killed with it.
            let _ = spawner.map(|pid| kill_process(pid, Signal::KILL));
            return None;
        }
        if quiet.take_if(|at| *at <= Instant::now()).is_some()
            && let Some(code) = Code::find()
        {
            code.shed();
        }
        let rest = quiet.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.into_iter().chain(rest).min();
        let left = left.map(super::cell::timespec);
        let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        if poll(&mut fds, left.as_ref()).is_err_and(|error| error != rustix::io::Errno::INTR) {
            return None;
        }
        if signals.take().terminate && getppid() != parent {
            deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }
}
