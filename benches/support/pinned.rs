//! One CPU for everything that is compared: a round trip across two is mostly the wake-up of an idle one.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::io;
use std::sync::Mutex;

/// Puts this process, and what it starts from now on, on the last CPU or back on all of them.
pub(crate) fn pin(pinned: bool) -> io::Result<()> {
    static ALL: Mutex<Option<CpuSet>> = Mutex::new(None);
    let mut all = ALL.lock().map_err(|_| io::Error::other("poisoned"))?;
    let every = match *all {
        Some(set) => set,
        None => *all.insert(sched_getaffinity(Pid::this())?),
    };
    let set = if pinned {
        let mut one = CpuSet::new();
        one.set(last_cpu(&every))?;
        one
    } else {
        every
    };
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The CPU that `pin` chooses.
pub(crate) fn last_cpu(every: &CpuSet) -> usize {
    (0..CpuSet::count())
        .rev()
        .find(|cpu| every.is_set(*cpu).unwrap_or(false))
        .unwrap_or(0)
}
