//! The audit file: appended, shared by every instance of a server, rotated under a lock.
//!
//! Lines are gathered and written together. The owner of the loop calls [`Log::flush`] at most
//! [`FLUSH_AFTER`] after the first line, so a busy path pays for one `write(2)` in many calls and a
//! crash loses at most that long. Two instances of one
//! server may share the file: every write is whole lines with `O_APPEND`, and only the holder of the
//! lock rotates.
//!
//! The process that writes the log may be caged and open no path. So it only says that the log
//! [has grown to its limit](Log::wants_rotation); whoever may calls [`rotate`] and hands the new
//! file [in](Log::replace).

use super::credential::Rotation;
use super::journal::{Begun, Journal};
use super::record::{Context, Denial, Notice, Operator, Outbound, Record};
use nix::fcntl::{Flock, FlockArg};
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a gathered line may wait.
pub const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// Gathered bytes that are written at once, without waiting: about 2,500 calls. The page cache takes
/// them in 0.5 ms and pushes the message path out of the processor's caches, so each call that
/// waits for a write makes the next ones slow too.
const GATHER: usize = 1024 * 1024;
/// Memory that is kept at rest.
const REST: usize = 8 * 1024;
/// Size at which the file is rotated.
const ROTATE_AT: u64 = 32 * 1024 * 1024;
/// After a rotation that failed, it is tried again when so much more has been written.
const RETRY_AFTER: u64 = 1024 * 1024;
/// Rotated files that are kept.
const KEEP: u32 = 4;

/// Why there can be no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file, or its directory, cannot be made or opened.
    #[error("the audit log {path} cannot be opened: {source}")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// The open log, or none where audit is off.
#[derive(Debug)]
pub struct Log {
    /// Shared by the [siblings](Log::sibling).
    target: Option<Rc<RefCell<Target>>>,
    context: Context,
    gathered: Vec<u8>,
    waiting: u64,
    /// Shared like the file.
    journal: Option<Rc<Journal>>,
}

#[derive(Debug)]
struct Target {
    path: PathBuf,
    file: File,
    size: u64,
    /// Size at which a rotation is asked for; none while one is under way.
    rotate_at: Option<u64>,
    records: u64,
    lost: u64,
}

impl Log {
    /// Opens (makes, with mode 0600) the log at `path`; `None` keeps no log.
    ///
    /// # Errors
    /// When the directory or the file cannot be made or opened.
    pub fn open(path: Option<&Path>, server: &str, policy: &str) -> Result<Self, AuditError> {
        let target = path.map(Target::open).transpose()?;
        Ok(Self {
            target: target.map(|target| Rc::new(RefCell::new(target))),
            context: Context::new(server, policy),
            gathered: Vec::new(),
            waiting: 0,
            journal: None,
        })
    }

    /// Another log into the same file, for a conversation with a client of its own.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self {
            target: self.target.clone(),
            context: self.context.anonymous(),
            gathered: Vec::new(),
            waiting: 0,
            journal: self.journal.clone(),
        }
    }

    /// Where calls are noted that may not run twice, here and by each sibling that is made from now on.
    pub fn keep_journal(&mut self, journal: Journal) {
        self.journal = Some(Rc::new(journal));
    }

    /// Notes in the journal, where there is one, that a call of `tool` is passed on at `now`, until what
    /// is returned is dropped.
    #[must_use]
    pub fn begin(
        &self,
        tool: &str,
        id: &[u8],
        client: Option<&str>,
        now: Instant,
    ) -> Option<Begun> {
        let journal = self.journal.as_ref()?;
        Some(journal.begin(tool, id, client, now))
    }

    /// Names the client in the lines that follow.
    pub fn client(&mut self, name: &str) {
        self.context.name_client(name);
    }

    /// Gathers one line about what happened at `now`.
    pub fn record(&mut self, record: &Record<'_>, now: Instant) {
        if self.target.is_none() {
            return;
        }
        record.write(&mut self.gathered, now, &mut self.context);
        self.count();
    }

    /// Gathers one line about what the cell refused at `now`.
    pub fn denial(&mut self, denial: &Denial<'_>, now: Instant) {
        if self.target.is_none() {
            return;
        }
        denial.write(&mut self.gathered, now, &mut self.context);
        self.count();
    }

    /// Gathers one line about what a guard noticed at `now`.
    pub fn notice(&mut self, notice: &Notice<'_>, now: Instant) {
        if self.target.is_none() {
            return;
        }
        notice.write(&mut self.gathered, now, &mut self.context);
        self.count();
    }

    /// Gathers one line about the server's way to a host.
    pub fn outbound(&mut self, outbound: &Outbound<'_>, now: Instant) {
        if self.target.is_none() {
            return;
        }
        outbound.write(&mut self.gathered, now, &mut self.context);
        self.count();
    }

    /// Gathers one line about what has become of a credential.
    pub fn rotation(&mut self, rotation: &Rotation<'_>, now: Instant) {
        if self.target.is_none() {
            return;
        }
        rotation.write(&mut self.gathered, now, &mut self.context);
        self.count();
    }

    /// Gathers one line about what an operator has done.
    pub fn operator(&mut self, operator: &Operator<'_>, now: Instant) {
        if self.target.is_none() {
            return;
        }
        operator.write(&mut self.gathered, now, &mut self.context);
        self.count();
    }

    /// Another policy decides from here on.
    pub fn policy(&mut self, digest: &str) {
        self.context.name_policy(digest);
    }

    fn count(&mut self) {
        self.waiting += 1;
        if self.gathered.len() >= GATHER {
            self.flush();
        }
    }

    /// True when lines wait for [`Log::flush`].
    #[must_use]
    pub fn waiting(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// Writes what was gathered; what cannot be written is counted as lost.
    pub fn flush(&mut self) {
        let Some(target) = &self.target else {
            return;
        };
        if self.gathered.is_empty() {
            return;
        }
        target.borrow_mut().take(&self.gathered, self.waiting);
        self.waiting = 0;
        self.gathered.clear();
        self.context.set_clock();
    }

    /// True, once, when the file is to be rotated: [`Log::replace`] must follow.
    pub fn wants_rotation(&mut self) -> bool {
        let Some(target) = &self.target else {
            return false;
        };
        let mut target = target.borrow_mut();
        let due = target.rotate_at.is_some_and(|limit| target.size >= limit);
        if due {
            target.rotate_at = None;
        }
        due
    }

    /// Goes on in a file that [`rotate`] made, of `size` bytes; or in the old one, when there is none.
    pub fn replace(&mut self, made: Result<(OwnedFd, u64), String>) {
        let Some(target) = &self.target else {
            return;
        };
        let mut target = target.borrow_mut();
        match made {
            Ok((file, size)) => {
                target.file = file.into();
                target.size = size;
                target.rotate_at = Some(ROTATE_AT.max(size.saturating_add(RETRY_AFTER)));
            }
            Err(reason) => {
                let path = target.path.display();
                tracing::error!("the audit log {path} cannot be rotated: {reason}");
                target.rotate_at = Some(target.size.saturating_add(RETRY_AFTER));
            }
        }
    }

    /// For when nothing has happened for a while: gives the memory of a burst back.
    pub fn shrink(&mut self) {
        self.gathered.shrink_to(REST);
    }

    /// Records written and records lost since the start, by all siblings.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let target = self.target.as_ref().map(|target| target.borrow());
        target.map_or((0, 0), |target| (target.records, target.lost))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Target {
    fn open(path: &Path) -> Result<Self, AuditError> {
        let attempt = || {
            if let Some(directory) = path.parent() {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)?;
            }
            append_to(path)
        };
        let (file, size) = attempt().map_err(|source| AuditError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            rotate_at: Some(ROTATE_AT),
            records: 0,
            lost: 0,
        })
    }

    fn take(&mut self, lines: &[u8], records: u64) {
        match self.append(lines) {
            Ok(()) => self.records += records,
            Err(error) => {
                // Said once, not for each line: a full disk must not flood stderr.
                if self.lost == 0 {
                    tracing::error!("the audit log {} fails: {error}", self.path.display());
                }
                self.lost += records;
            }
        }
    }

    fn append(&mut self, lines: &[u8]) -> std::io::Result<()> {
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }
}

/// Moves the log at `path` aside, unless another instance has just done so, and opens the log to go
/// on with; its size comes with it.
///
/// # Errors
/// What the file system says; the log is where it was, or aside.
pub fn rotate(path: &Path) -> std::io::Result<(File, u64)> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(numbered(path, "lock"))?;
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    // Several may ask at the same time, and each asks early rather than late: the first has made
    // it small.
    if fs::metadata(path).is_ok_and(|there| there.len() >= ROTATE_AT) {
        for n in (1..KEEP).rev() {
            // A gap in the numbers is no error: there are fewer files than we may keep.
            drop(fs::rename(
                numbered(path, &n.to_string()),
                numbered(path, &(n + 1).to_string()),
            ));
        }
        fs::rename(path, numbered(path, "1"))?;
    }
    append_to(path)
}

fn append_to(path: &Path) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn numbered(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Arguments;
    use crate::mcp::Direction;
    use std::os::unix::fs::PermissionsExt;

    fn record() -> Record<'static> {
        Record {
            direction: Direction::ToServer,
            subject: None,
            id: None,
            decision: "drop",
            rule: None,
            status: "malformed",
            latency: None,
            request_bytes: 1,
            response_bytes: 0,
            arguments: &Arguments::Absent,
            caller: None,
        }
    }

    #[test]
    fn lines_reach_the_file_with_owner_only_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/audit.jsonl");
        let mut log = Log::open(Some(&path), "s", "p").unwrap();
        log.record(&record(), Instant::now());
        assert!(log.waiting());
        log.flush();
        assert_eq!(log.counts(), (1, 0));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    /// As the message process and its spawner do it together.
    fn rest(log: &mut Log, path: &Path) {
        log.record(&record(), Instant::now());
        log.flush();
        if log.wants_rotation() {
            assert!(!log.wants_rotation(), "asked twice");
            let made = rotate(path).map_err(|error| error.to_string());
            log.replace(made.map(|(file, size)| (file.into(), size)));
        }
    }

    #[test]
    fn two_instances_rotate_without_losing_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut one = Log::open(Some(&path), "one", "p").unwrap();
        let mut two = Log::open(Some(&path), "two", "p").unwrap();
        rest(&mut one, &path);
        for log in [&mut one, &mut two] {
            let mut target = log.target.as_ref().unwrap().borrow_mut();
            target.file.set_len(ROTATE_AT).unwrap();
            target.size = ROTATE_AT;
        }
        for _ in 0..3 {
            rest(&mut one, &path);
            rest(&mut two, &path);
        }
        let lines = |name: &str| {
            let text = fs::read(dir.path().join(name)).unwrap();
            text.iter().filter(|byte| **byte == b'\n').count()
        };
        // One line made the first ask, one of the other came before it asked.
        assert_eq!((lines("audit.jsonl.1"), lines("audit.jsonl")), (3, 4));
        assert!(!dir.path().join("audit.jsonl.2").exists());
        assert_eq!((one.counts(), two.counts()), ((4, 0), (3, 0)));
    }

    #[test]
    fn a_rotation_that_fails_loses_nothing_and_is_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = Log::open(Some(&path), "s", "p").unwrap();
        let full =
            |log: &mut Log, more| log.target.as_ref().unwrap().borrow_mut().size = ROTATE_AT + more;
        full(&mut log, 0);
        assert!(log.wants_rotation());
        log.replace(Err("no room".to_owned()));
        log.record(&record(), Instant::now());
        log.flush();
        assert!(!log.wants_rotation());
        assert_eq!(log.counts(), (1, 0));
        full(&mut log, RETRY_AFTER);
        assert!(log.wants_rotation());
    }

    #[test]
    fn an_unwritable_place_is_an_error_that_names_it() {
        let error = Log::open(Some(Path::new("/proc/nowhere/audit.jsonl")), "s", "p").unwrap_err();
        assert!(
            error.to_string().contains("/proc/nowhere/audit.jsonl"),
            "{error}"
        );
    }
}
