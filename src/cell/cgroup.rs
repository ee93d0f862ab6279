//! A cgroup of the cell's own, where one is delegated to us: limits for the whole tree, and one word
//! to the kernel that ends all of it.
//!
//! ```text
//! our cgroup ─┬ cofferdam.main     we ourselves, once controllers are handed down
//!             └ cofferdam.PID.RANDOM   one cell; locked (flock) by its spawner, PID, while it lives
//! ```
//!
//! Only version 2 is used (`Documentation/admin-guide/cgroup-v2.rst`). Where we are is said by
//! `/proc/self/cgroup` and `/proc/self/mountinfo`; the paths are arguments, so that tests can play
//! the kernel. A spawner that was killed leaves its leaf behind unlocked, and the next one removes
//! it, with whatever still runs in it.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Cells, and the place where we go ourselves.
const PREFIX: &str = "cofferdam.";
const MAIN: &str = "cofferdam.main";
/// The period of `cpu.max` in microseconds, the kernel's own default.
const PERIOD: u64 = 100_000;
/// How long a killed leaf may take to empty.
const PATIENCE: Duration = Duration::from_secs(2);
/// An empty leaf without a lock that is older than this was left behind; a younger one may be of
/// somebody who is about to lock it.
const UNLOCKED_AGE: Duration = Duration::from_secs(5);
/// Names looked at in one sweep.
const SWEEP_LIMIT: usize = 10_000;

/// What the whole tree of a cell may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// `memory.max` in bytes; swap is then 0.
    pub(super) memory: Option<u64>,
    /// `pids.max`: processes and threads.
    pub(super) processes: Option<u64>,
    /// `cpu.max` in thousandths of a processor.
    pub(super) cpu: Option<u64>,
}

impl Limits {
    /// The controllers that these limits need.
    fn controllers(&self) -> Vec<&'static str> {
        let wanted = [
            ("memory", self.memory.is_some()),
            ("pids", self.processes.is_some()),
            ("cpu", self.cpu.is_some()),
        ];
        let wanted = wanted.into_iter().filter(|(_, wanted)| *wanted);
        wanted.map(|(name, _)| name).collect()
    }
}

/// Where the kernel has a process, of both versions, as `/proc/self` says it: every line of `mountinfo` costs
/// the kernel a walk, so it is read once.
#[derive(Debug)]
pub(super) struct Around {
    /// `cgroup`, or why it cannot be read.
    groups: Result<String, String>,
    /// `mountinfo`.
    mounts: Result<String, String>,
}

impl Around {
    /// Of this process.
    pub(super) fn us() -> Self {
        Self::of(Path::new("/proc/self"))
    }

    fn of(proc: &Path) -> Self {
        let read = |name| fs::read_to_string(proc.join(name)).map_err(|error| error.to_string());
        Self {
            groups: read("cgroup"),
            mounts: read("mountinfo"),
        }
    }

    /// The directory of its cgroup.
    ///
    /// # Errors
    /// One sentence about what the host lacks.
    pub(super) fn own(&self) -> Result<PathBuf, String> {
        let path = unified(self.groups.as_ref()?)?;
        // proc_pid_mountinfo(5): ID, parent, device, root, mount point, …, "-", type, …
        for line in self.mounts.as_ref()?.lines() {
            let Some((place, kind)) = line.split_once(" - ") else {
                continue;
            };
            let mut fields = place.split(' ').skip(3);
            let (Some(root), Some(point)) = (fields.next(), fields.next()) else {
                continue;
            };
            let below = Path::new(path).strip_prefix(root);
            if let (true, Ok(below)) = (kind.starts_with("cgroup2 "), below) {
                // Joining an empty path would leave a slash at the end.
                return Ok(Path::new(point).join(below).components().collect());
            }
        }
        Err("no mounted cgroup v2 hierarchy shows our cgroup".to_owned())
    }

    /// How often the kernel has killed for want of memory in it: the unit's or the container's limit.
    /// Version 1 has the same number under another name.
    pub(super) fn memory_kills(&self) -> u64 {
        if let Ok(own) = self.own()
            && own.join("memory.events").exists()
        {
            return count(&own.join("memory.events"), "oom_kill");
        }
        self.first_version().map_or(0, |path| {
            count(&path.join("memory.oom_control"), "oom_kill")
        })
    }

    /// Where the memory controller of version 1 has it.
    fn first_version(&self) -> Option<PathBuf> {
        let path = self.groups.as_ref().ok()?.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers
                .split(',')
                .any(|name| name == "memory")
                .then_some(path)
        })?;
        self.mounts.as_ref().ok()?.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut fields = place.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            let options = kind.strip_prefix("cgroup ")?.rsplit(' ').next()?;
            let below = Path::new(path).strip_prefix(root).ok()?;
            let memory = options.split(',').any(|option| option == "memory");
            memory.then(|| Path::new(point).join(below))
        })
    }
}

/// The path of our cgroup in the hierarchy.
pub(super) fn membership() -> Result<String, String> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    unified(&text).map(str::to_owned)
}

/// The path in version 2.
fn unified(groups: &str) -> Result<&str, String> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
    path.ok_or_else(|| "the kernel has no cgroup v2".to_owned())
}

/// Whether limits could be set below `own`, asked without changing anything.
///
/// # Errors
/// One sentence about what is missing.
pub(super) fn outlook(own: &Path, limits: &Limits) -> Result<(), String> {
    let writable = |file| {
        let path = own.join(file);
        rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).map_err(|_| {
            format!(
                "our cgroup is not delegated to us: no right to write {}",
                path.display()
            )
        })
    };
    writable("cgroup.procs")?;
    writable("cgroup.subtree_control")?;
    let there = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    let there: Vec<&str> = there.split_ascii_whitespace().collect();
    let missing: Vec<&str> = limits
        .controllers()
        .into_iter()
        .filter(|name| !there.contains(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let text = "the cgroup v2 controllers for these limits are not delegated to us";
    Err(format!("{text}: {}", missing.join(", ")))
}

/// Whether memory, processes and processors of a whole cell could be limited here.
///
/// # Errors
/// One sentence about what is missing.
pub(super) fn prospect() -> Result<(), String> {
    let all = Limits {
        memory: Some(0),
        processes: Some(0),
        cpu: Some(0),
    };
    outlook(&Around::us().own()?, &all)
}

/// The cgroup of one cell; dropping it kills what is in it and removes it.
#[derive(Debug)]
pub(super) struct Leaf {
    path: PathBuf,
    /// The directory, locked: proof that we live, and what `clone3` wants.
    directory: File,
    /// Why it has no limits.
    lack: Option<String>,
}

impl Leaf {
    /// Makes a leaf below `own` and sets what can be set. `ours` are the processes that may be moved
    /// to make room: controllers are handed down only by a cgroup without processes.
    ///
    /// # Errors
    /// There is no leaf at all: the directory cannot be made.
    pub(super) fn make(
        own: &Path,
        limits: &Limits,
        ours: &[i32],
        name: &str,
    ) -> Result<Self, String> {
        let own = match own.parent() {
            Some(parent) if own.ends_with(MAIN) => parent,
            _ => own,
        };
        let ready = outlook(own, limits).and_then(|()| hand_down(own, limits, ours));
        let path = own.join(format!("{PREFIX}{name}"));
        let refused = |error: io::Error| match &ready {
            Err(why) => why.clone(),
            Ok(()) => format!("{}: {error}", path.display()),
        };
        fs::create_dir(&path).map_err(refused)?;
        let locked = File::open(&path).and_then(|directory| {
            // A sweep may hold it for a moment, to find that it is young and empty.
            flock(&directory, FlockOperation::LockExclusive)?;
            Ok(directory)
        });
        let directory = locked.map_err(|error| {
            drop(fs::remove_dir(&path));
            error.to_string()
        })?;
        let set = ready.and_then(|()| set(&path, limits));
        Ok(Self {
            path,
            directory,
            lack: set.err(),
        })
    }

    /// For `CLONE_INTO_CGROUP`.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its last component, as `/proc/PID/cgroup` shows it.
    pub(super) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Why it has no limits; `None` when all are in force.
    pub(super) fn lack(&self) -> Option<&str> {
        self.lack.as_deref()
    }

    /// SIGKILL for everything in it at once, also for what forks meanwhile (`cgroup.kill`, Linux
    /// 5.14). Where there is none, the caller's own hunt is what is left.
    pub(super) fn kill(&self) {
        kill(&self.path);
    }

    /// Stops everything in it (`cgroup.freeze`, Linux 5.2); who stands still then, and nobody where that
    /// does not come about within `patience`.
    pub(super) fn freeze(&self, patience: Duration) -> Vec<i32> {
        self.set_frozen(true);
        let until = Instant::now() + patience;
        while count(&self.path.join("cgroup.events"), "frozen") == 0 {
            if Instant::now() >= until || !self.path.join("cgroup.freeze").exists() {
                self.set_frozen(false);
                return Vec::new();
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        processes(&self.path)
    }

    /// Lets everything in it go on.
    pub(super) fn thaw(&self) {
        self.set_frozen(false);
    }

    fn set_frozen(&self, frozen: bool) {
        // No other file of this name may come to be where the kernel has none.
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).open(self.path.join("cgroup.freeze"));
        let word: &[u8] = if frozen { b"1" } else { b"0" };
        drop(file.and_then(|mut file| io::Write::write_all(&mut file, word)));
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub(super) fn memory_kills(&self) -> u64 {
        count(&self.path.join("memory.events"), "oom_kill")
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        end(&self.path);
    }
}

/// Hands the controllers down to the children of `own`.
fn hand_down(own: &Path, limits: &Limits, ours: &[i32]) -> Result<(), String> {
    let file = own.join("cgroup.subtree_control");
    let there = fs::read_to_string(&file).unwrap_or_default();
    let there: Vec<&str> = there.split_ascii_whitespace().collect();
    let missing: Vec<String> = limits
        .controllers()
        .into_iter()
        .filter(|name| !there.contains(name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let words = missing.join(" ");
    let refused = |error: io::Error| format!("{}: {error}", file.display());
    match fs::write(&file, &words) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            make_room(own, ours)?;
            fs::write(&file, &words).map_err(refused)
        }
        done => done.map_err(refused),
    }
}

/// Moves us out of `own`, if nobody else is in it.
fn make_room(own: &Path, ours: &[i32]) -> Result<(), String> {
    let inside = processes(own);
    if let Some(other) = inside.iter().find(|pid| !ours.contains(pid)) {
        return Err(format!(
            "process {other}, which is not ours, shares our cgroup: start cofferdam in one of its own (systemd-run --user --scope -p Delegate=yes)"
        ));
    }
    let main = own.join(MAIN);
    let failed = |error: io::Error| format!("{}: {error}", main.display());
    match fs::create_dir(&main) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let moved = inside
        .iter()
        .try_for_each(|pid| fs::write(main.join("cgroup.procs"), pid.to_string()));
    moved.map_err(failed)
}

/// Writes the limits and reads them back.
fn set(leaf: &Path, limits: &Limits) -> Result<(), String> {
    let mut wanted = Vec::new();
    if let Some(bytes) = limits.memory {
        // The kernel rounds down to pages.
        wanted.push(("memory.max", (bytes & !4095).to_string()));
        wanted.push(("memory.oom.group", "1".to_owned()));
        // Absent where the kernel has no swap.
        drop(fs::write(leaf.join("memory.swap.max"), "0"));
    }
    if let Some(count) = limits.processes {
        wanted.push(("pids.max", count.to_string()));
    }
    if let Some(thousandths) = limits.cpu {
        let quota = thousandths.saturating_mul(PERIOD / 1000);
        wanted.push(("cpu.max", format!("{quota} {PERIOD}")));
    }
    for (file, value) in wanted {
        let path = leaf.join(file);
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        fs::write(&path, &value).map_err(failed)?;
        let now = fs::read_to_string(&path).map_err(failed)?;
        if now.trim_end() != value {
            return Err(format!(
                "{} reads back as {}",
                path.display(),
                now.trim_end()
            ));
        }
    }
    Ok(())
}

/// Removes what killed spawners left below our cgroup, with all that still runs in it. What the one
/// that is known to be `dead` left goes however young it is.
pub(super) fn sweep(dead: Option<i32>) {
    if let Ok(own) = Around::us().own() {
        sweep_below(&own, dead);
    }
}

fn sweep_below(own: &Path, dead: Option<i32>) {
    let dead = dead.map(|pid| format!("{PREFIX}{pid}."));
    let own = match own.parent() {
        Some(parent) if own.ends_with(MAIN) => parent,
        _ => own,
    };
    let entries = fs::read_dir(own).into_iter().flatten().take(SWEEP_LIMIT);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if !name.starts_with(PREFIX) || name == MAIN || !path.is_dir() {
            continue;
        }
        let Ok(directory) = File::open(&path) else {
            continue;
        };
        let left = flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok();
        let known = dead
            .as_ref()
            .is_some_and(|dead| name.starts_with(dead.as_str()));
        if left && (known || populated(&path) || old(&path)) {
            end(&path);
        }
    }
}

fn old(path: &Path) -> bool {
    let made = path.metadata().and_then(|facts| facts.modified());
    let age = made
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age > UNLOCKED_AGE)
}

fn kill(path: &Path) {
    // No other file of this name may come to be where the kernel has none.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path.join("cgroup.kill"));
    drop(file.and_then(|mut file| io::Write::write_all(&mut file, b"1")));
}

/// Kills what is in it, waits until it is empty, and removes it.
fn end(path: &Path) {
    let until = Instant::now() + PATIENCE;
    while fs::remove_dir(path).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        && Instant::now() < until
    {
        kill(path);
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn populated(path: &Path) -> bool {
    count(&path.join("cgroup.events"), "populated") > 0
}

fn processes(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The number behind a word in a file of such lines; 0 when either is missing.
fn count(file: &Path, word: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(name, _)| *name == word);
    found.and_then(|(_, n)| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
