//! Stops all that runs in cells without ending it, and lets it go on.
//!
//! The cgroup's freezer reaches also what forks meanwhile. Without a cgroup each process gets SIGSTOP,
//! which no process can block, not even the init of a pid namespace when it comes from outside
//! (pid_namespaces(7)); a tree that forks is looked at again until it stands still.

use super::tree::{self, Process};
use crate::cell::cgroup::Leaf;
use rustix::process::Signal;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long a tree may take to stand still. A process that the kernel holds stops when it is let go.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a cgroup may; a process in an uninterruptible wait is not frozen.
const IN_CGROUP: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(1);

/// One process that was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frozen {
    pub pid: i32,
    pub parent: i32,
    /// As the kernel shows it, 15 bytes; a server chooses it.
    pub name: String,
    /// `T` for one that SIGSTOP has reached; one in a frozen cgroup shows what it waited for.
    pub state: char,
    pub threads: u32,
}

impl Frozen {
    fn of(process: &Process) -> Self {
        let name = std::fs::read(format!("/proc/{}/comm", process.pid)).unwrap_or_default();
        Self {
            pid: process.pid,
            parent: process.parent,
            name: String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
            state: process.state.into(),
            threads: process.threads,
        }
    }
}

/// Stops everything below us; what stands still then.
pub(super) fn stop<'l>(leaves: impl Iterator<Item = &'l Leaf>) -> Vec<Frozen> {
    let until = Instant::now() + PATIENCE;
    // A process in a frozen cgroup does not show that it was stopped, and needs no signal.
    let held: Vec<i32> = leaves.flat_map(|leaf| leaf.freeze(IN_CGROUP)).collect();
    loop {
        let mut found = Vec::new();
        let mut moving = false;
        tree::visit(&[], &mut |process| {
            if !process.is_stopped() && !held.contains(&process.pid) {
                moving = true;
                process.signal(Signal::STOP);
            }
            found.push(Frozen::of(process));
        });
        if !moving || Instant::now() >= until {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Lets everything go on.
pub(super) fn go_on<'l>(leaves: impl Iterator<Item = &'l Leaf>) {
    leaves.for_each(Leaf::thaw);
    tree::visit(&[], &mut |process| {
        process.signal(Signal::CONT);
    });
}
