//! Ends every descendant of this process, and knows when none is left.
//!
//! Without a pid namespace or a cgroup of our own the only handle on a tree is descent. We are a
//! subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)), so whatever detaches itself (double fork, setsid)
//! becomes our child instead of init's: as long as anything lives, it hangs below us, and
//! `waitpid` answers ECHILD only when nothing does. That is the proof the loop waits for; the scan
//! of `/proc` only says whom to signal.
//!
//! What remains: when the guardian and the spawner are killed at the same instant, the
//! server's main process goes with them (its parent-death signal), but processes that it forked
//! re-parent to init with nobody left to look for them. They keep their cell, lose their pipes, and
//! end at the first read or write. Only a pid namespace or a cgroup closes this.

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, pidfd_send_signal,
    set_child_subreaper, wait,
};
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// How long a tree is hunted before the survivors are reported. A process survives SIGKILL only
/// while the kernel holds it in an uninterruptible wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long everything found is stopped, rather than killed, at first: a stopped process keeps
/// its place under RLIMIT_NPROC, so a fork bomb runs out of room instead of refilling.
const FREEZE: Duration = Duration::from_millis(150);
/// Between two looks, once everything seen has its signal.
const PAUSE: Duration = Duration::from_micros(300);

/// What became of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Felled {
    /// Processes that got SIGKILL from us.
    pub killed: usize,
    /// Processes that outlived SIGKILL for five seconds; empty but for kernel trouble.
    pub survivors: Vec<i32>,
}

/// Makes orphans of our descendants our children, from now on.
///
/// # Errors
/// Kernels before 3.4.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Kills every descendant of this process and returns when none is left (at most five seconds).
///
/// Reaps every child: call it only where nobody else waits for one.
pub fn kill_descendants() -> Felled {
    kill_all_but(&[], &mut |_, _| {})
}

/// Kills every descendant except the processes in `spare` and what hangs below those; what is
/// reaped on the way is told to `reaped`.
///
/// A detached process of a spared tree is our own child and looks like any other orphan: it is
/// killed too. Nothing that could have belonged to the ended tree survives.
pub fn kill_all_but(spare: &[Pid], reaped: &mut dyn FnMut(Pid, WaitStatus)) -> Felled {
    let begin = Instant::now();
    let mut killed = HashMap::new();
    let mut quiet = 0;
    loop {
        let nobody = reap(reaped);
        if nobody {
            break;
        }
        let freezing = begin.elapsed() < FREEZE;
        let round = strike(spare, freezing, &mut killed);
        if freezing && round.fresh > 0 {
            continue;
        }
        if freezing && round.seen > 0 {
            // Nobody forks any more: the frozen tree can be killed as a whole.
            strike(spare, false, &mut killed);
        }
        // Spared children keep ECHILD away, so two empty looks in a row have to do.
        quiet = if round.seen == 0 { quiet + 1 } else { 0 };
        if !spare.is_empty() && quiet >= 2 && living(spare).is_empty() {
            break;
        }
        if begin.elapsed() > PATIENCE {
            let survivors = living(spare);
            let killed = killed.len();
            return Felled { killed, survivors };
        }
        std::thread::sleep(PAUSE);
    }
    Felled {
        killed: killed.len(),
        survivors: vec![],
    }
}

/// Collects every child that has ended. True when there is no child at all.
///
/// Not rustix's `waitpid(None)`: that waits for our process group only, and every server leads a
/// session of its own.
pub(super) fn reap(reaped: &mut dyn FnMut(Pid, WaitStatus)) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => reaped(pid, status),
            Ok(None) => return false,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

/// One look at the tree.
struct Round {
    /// Descendants that still live.
    seen: usize,
    /// Of those, the ones that had no signal from us yet.
    fresh: usize,
}

/// Signals every living descendant that is not spared; `struck` remembers who got what.
fn strike(spare: &[Pid], freeze: bool, struck: &mut HashMap<(i32, u64), bool>) -> Round {
    let us = getpid().as_raw_nonzero().get();
    let spared: Vec<i32> = spare.iter().map(|p| p.as_raw_nonzero().get()).collect();
    let mut round = Round { seen: 0, fresh: 0 };
    let mut hit = |process: &Process| {
        round.seen += 1;
        let signal = if freeze { Signal::STOP } else { Signal::KILL };
        let done = struck.get(&process.key()).copied();
        if done == Some(true) || (done == Some(false) && freeze) {
            return;
        }
        if done.is_none() {
            round.fresh += 1;
        }
        if process.signal(signal) {
            struck.insert(process.key(), !freeze);
        }
    };
    visit_living(us, &spared, &mut hit);
    round
}

/// Visits every living descendant of ours that is not spared, and does not hang below one that is.
pub(super) fn visit(spare: &[Pid], visit: &mut dyn FnMut(&Process)) {
    let spared: Vec<i32> = spare.iter().map(|p| p.as_raw_nonzero().get()).collect();
    visit_living(getpid().as_raw_nonzero().get(), &spared, visit);
}

fn visit_living(us: i32, spared: &[i32], hit: &mut dyn FnMut(&Process)) {
    if visit_below(us, spared, hit) {
        return;
    }
    // Our own children are struck as they are found: a process that only forks and exits is alive
    // for microseconds, and a list that is complete before the first signal never catches it.
    let mut rest = Vec::new();
    for process in processes() {
        if process.parent == us && !spared.contains(&process.pid) {
            if process.lives() {
                hit(&process);
            }
        } else if process.pid != us {
            rest.push(process);
        }
    }
    let parents: HashMap<i32, i32> = rest.iter().map(|p| (p.pid, p.parent)).collect();
    for process in &rest {
        if process.parent != us && process.lives() && descends(process.pid, us, spared, &parents) {
            hit(process);
        }
    }
}

/// Visits the living descendants that are not spared, each before its own children are asked for, so
/// that one which is stopped by the visit has no more. False where the kernel does not list children
/// (CONFIG_PROC_CHILDREN).
///
/// This reads a few files where a look at every process of the host reads hundreds: on a busy machine
/// the difference is the time in which a tree ends. A list may lack somebody while others come and
/// go (proc_pid_task_tid_children(5)); the caller looks again until there is nobody to wait for.
fn visit_below(us: i32, spared: &[i32], visit: &mut dyn FnMut(&Process)) -> bool {
    let Some(mut next) = children(us) else {
        return false;
    };
    let mut seen = HashSet::from([us]);
    while let Some(pid) = next.pop() {
        if spared.contains(&pid) || !seen.insert(pid) {
            continue;
        }
        // Whose parent is nobody of ours has taken the number of one that ended.
        let Some(process) = Process::read(pid).filter(|p| seen.contains(&p.parent)) else {
            continue;
        };
        if process.lives() {
            visit(&process);
        }
        next.extend(children(pid).unwrap_or_default());
    }
    true
}

/// The children of every thread of a process; `None` when it is gone or the kernel does not say.
fn children(pid: i32) -> Option<Vec<i32>> {
    let mut all = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end meanwhile; its children then belong to another, or to us.
        let Ok(path) = thread.map(|thread| thread.path().join("children")) else {
            continue;
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => all.extend(
                text.split_ascii_whitespace()
                    .filter_map(|p| p.parse::<i32>().ok()),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent()?.exists() => {
                return None;
            }
            Err(_) => {}
        }
    }
    Some(all)
}

/// The living descendants that are not spared.
fn living(spare: &[Pid]) -> Vec<i32> {
    let us = getpid().as_raw_nonzero().get();
    let spared: Vec<i32> = spare.iter().map(|p| p.as_raw_nonzero().get()).collect();
    let all: Vec<Process> = processes().collect();
    let parents: HashMap<i32, i32> = all.iter().map(|p| (p.pid, p.parent)).collect();
    let ours = |p: &&Process| p.lives() && descends(p.pid, us, &spared, &parents);
    all.iter().filter(ours).map(|p| p.pid).collect()
}

/// Whether `pid` hangs below `us` without passing a spared process. A parent that is missing from
/// the list ended while it was made: its child is ours in the next look.
fn descends(pid: i32, us: i32, spared: &[i32], parents: &HashMap<i32, i32>) -> bool {
    let mut at = pid;
    // A chain is never longer than the list; the bound also ends a loop from pid reuse.
    for _ in 0..=parents.len() {
        if at == us || spared.contains(&at) {
            return false;
        }
        match parents.get(&at) {
            Some(&parent) if parent == us => return true,
            Some(&parent) => at = parent,
            None => return false,
        }
    }
    false
}

/// One line of `/proc/PID/stat`, proc_pid_stat(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) state: u8,
    pub(super) threads: u32,
    /// In clock ticks since boot; with the pid it names one process for good.
    started: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name is in parentheses and may hold any byte, so the last `)` ends it.
    fn parse(pid: i32, stat: &[u8]) -> Option<Self> {
        let name_ends = stat.iter().rposition(|&b| b == b')')?;
        let rest = std::str::from_utf8(stat.get(name_ends + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        // Fields 20 and 22; state was field 3 and parent 4.
        let threads = fields.nth(15)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        Some(Self {
            pid,
            parent,
            state,
            threads,
            started,
        })
    }

    fn key(&self) -> (i32, u64) {
        (self.pid, self.started)
    }

    /// Neither a zombie nor on its way out. A process whose first thread has ended looks like a
    /// zombie while others live.
    pub(super) fn lives(&self) -> bool {
        match self.state {
            b'Z' => self.threads > 1,
            state => !matches!(state, b'X' | b'x'),
        }
    }

    /// SIGSTOP has reached it, or a tracer holds it.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// Signals this very process: the pidfd pins it, the second look at its start time makes sure
    /// that the number was not reused between the list and the pidfd.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return false;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        let same = Self::read(self.pid).is_some_and(|now| now.started == self.started);
        same && pidfd_send_signal(&handle, signal).is_ok()
    }
}

/// Every process that `/proc` shows us, read one by one while the caller acts.
fn processes() -> impl Iterator<Item = Process> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse_the_parser() {
        let stat =
            b"42 (a) R 1 (b) S 17 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3\n";
        let read = Process::parse(42, stat).unwrap();
        assert_eq!(
            read,
            Process {
                pid: 42,
                parent: 17,
                state: b'S',
                threads: 1,
                started: 987_654
            }
        );
    }

    #[test]
    fn our_own_line_says_what_we_know_of_ourselves() {
        let us = getpid().as_raw_nonzero().get();
        let read = Process::read(us).unwrap();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert_eq!((read.parent, read.lives()), (parent, true));
    }

    #[test]
    fn a_zombie_with_a_second_thread_lives() {
        let line = |threads| {
            format!("42 (x) Z 17 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 {threads} 0 9 1 2 3\n")
        };
        let lives = |threads| {
            Process::parse(42, line(threads).as_bytes())
                .unwrap()
                .lives()
        };
        assert!(lives(2) && !lives(1));
    }

    #[test]
    fn the_children_of_every_thread_are_found_and_visited_once() {
        let spawn = || {
            std::process::Command::new("sleep")
                .arg("60")
                .spawn()
                .unwrap()
        };
        let mut first = spawn();
        let (sender, receiver) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            sender.send(spawn()).unwrap();
            assert!(wait.recv().is_err());
        });
        let mut second = receiver.recv().unwrap();
        let us = getpid().as_raw_nonzero().get();
        let [a, b] = [first.id(), second.id()].map(|id| i32::try_from(id).unwrap());
        let mut found = Vec::new();
        let listed = visit_below(us, &[a], &mut |process| found.push(process.pid));
        for child in [&mut first, &mut second] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        drop(end);
        thread.join().unwrap();
        // Other tests of this program have children too.
        assert_eq!(found.iter().filter(|pid| **pid == b).count(), 1);
        assert!(listed && !found.contains(&a));
    }

    #[test]
    fn half_a_line_is_nobody() {
        for cut in [
            &b""[..],
            b"42",
            b"42 (x",
            b"42 (x)",
            b"42 (x) S",
            b"42 (x) S 1 2 3",
        ] {
            assert_eq!(Process::parse(42, cut), None);
        }
    }

    #[test]
    fn descent_stops_at_spared_processes_and_at_gaps() {
        // 1 ── 10 ── 11 ── 12;  1 ── 20 ── 21 (spared 20);  30's parent is unknown;  40 ⇄ 41
        let parents = [
            (10, 1),
            (11, 10),
            (12, 11),
            (20, 1),
            (21, 20),
            (30, 99),
            (40, 41),
            (41, 40),
        ];
        let parents = HashMap::from(parents);
        let below = |pid| descends(pid, 1, &[20], &parents);
        let found: Vec<i32> = [10, 11, 12, 20, 21, 30, 40]
            .into_iter()
            .filter(|&p| below(p))
            .collect();
        assert_eq!(found, [10, 11, 12]);
    }
}
