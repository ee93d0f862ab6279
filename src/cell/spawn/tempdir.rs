//! One private directory for each cell: unpredictable, ours alone, gone with the cell.
//!
//! ```text
//! $XDG_RUNTIME_DIR or /tmp / cofferdam.<128 random bits> /
//!     lock     held (flock) by the spawner; outside of what the cell may touch
//!     ...      what the plan makes of it: HOME, TMPDIR
//! ```
//!
//! A spawner that is killed leaves the directory behind without the lock; the next run removes it.

use super::removal;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Finished directories; the lock is held before this name appears.
const PREFIX: &str = "cofferdam.";
/// Directories that are being made. One that is this old was never finished.
const UNFINISHED: &str = "cofferdam-new.";
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);
/// How long the end of a run may take over what its server left.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Names looked at in one sweep of a shared directory.
const SWEEP_LIMIT: usize = 10_000;

/// The directory of one cell; dropping it removes it.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    _lock: File,
    gone: bool,
}

impl TempDir {
    /// Makes a directory below `$XDG_RUNTIME_DIR` when that is ours, else below the system's
    /// temporary directory.
    ///
    /// # Errors
    /// What the file system says; also when no random bytes are to be had.
    pub fn create() -> io::Result<Self> {
        Self::create_in(&base())
    }

    fn create_in(base: &Path) -> io::Result<Self> {
        let name = random_name()?;
        let unfinished = base.join(format!("{UNFINISHED}{name}"));
        let path = base.join(format!("{PREFIX}{name}"));
        let mut private = DirBuilder::new();
        private.mode(0o700);
        private.create(&unfinished)?;
        let made = (|| {
            let lock = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(unfinished.join("lock"))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            fs::rename(&unfinished, &path)?;
            Ok(lock)
        })();
        match made {
            Ok(lock) => Ok(Self {
                path,
                _lock: lock,
                gone: false,
            }),
            Err(error) => {
                removal::remove(&unfinished, None);
                Err(error)
            }
        }
    }

    /// Holds nothing but the lock at first.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now, as far as that takes no longer than `patience`; false when a [`sweep`] has to do
    /// the rest, as it may once this is dropped.
    pub(super) fn clear(mut self, patience: Duration) -> bool {
        self.gone = true;
        removal::remove(&self.path, Some(Instant::now() + patience))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !self.gone {
            removal::remove(&self.path, Some(Instant::now() + PATIENCE));
        }
    }
}

/// Removes what killed runs of this user left behind. Never touches what a live spawner holds. What is
/// left at `end` is for the next one.
pub fn sweep(end: Option<Instant>) {
    sweep_in(&base(), end);
}

fn sweep_in(base: &Path, end: Option<Instant>) {
    let Ok(names) = fs::read_dir(base) else {
        return;
    };
    for entry in names.take(SWEEP_LIMIT).flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let finished = name.starts_with(PREFIX);
        if !finished && !name.starts_with(UNFINISHED) {
            continue;
        }
        // `metadata` of an entry does not follow links: another user's bait is not a directory
        // of ours.
        let Ok(facts) = entry.metadata() else {
            continue;
        };
        if !facts.is_dir() || facts.uid() != geteuid().as_raw() {
            continue;
        }
        let stale = if finished {
            unlocked(&entry.path())
        } else {
            old(&facts)
        };
        if stale {
            removal::remove(&entry.path(), end);
        }
    }
}

/// True when nobody holds the lock. A directory of this name without a lock file is half removed.
fn unlocked(directory: &Path) -> bool {
    match File::open(directory.join("lock")) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn old(facts: &fs::Metadata) -> bool {
    let age = facts
        .modified()
        .ok()
        .and_then(|t| SystemTime::now().duration_since(t).ok());
    age.is_some_and(|age| age > UNFINISHED_AGE)
}

/// `$XDG_RUNTIME_DIR` counts only when it is absolute, a directory, and this user's: under `sudo`
/// it often names another user's. Root's must let others through, for its server is one of them.
fn base() -> PathBuf {
    let open = |facts: &fs::Metadata| !geteuid().is_root() || facts.mode() & 1 == 1;
    let ours = |path: &PathBuf| {
        path.is_absolute()
            && fs::metadata(path)
                .is_ok_and(|f| f.is_dir() && f.uid() == geteuid().as_raw() && open(&f))
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.filter(ours).unwrap_or_else(std::env::temp_dir)
}

/// 128 random bits in hexadecimal digits.
pub(super) fn random_name() -> io::Result<String> {
    use std::fmt::Write as _;
    let mut random = [0u8; 16];
    let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    if got != random.len() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let mut name = String::with_capacity(32);
    for byte in random {
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(base: &Path) -> Vec<String> {
        let entries = fs::read_dir(base).unwrap().flatten();
        entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn it_is_private_while_it_lives_and_gone_afterwards() {
        let base = tempfile::tempdir().unwrap();
        let ours = TempDir::create_in(base.path()).unwrap();
        assert_eq!(fs::metadata(ours.path()).unwrap().mode() & 0o777, 0o700);
        let deep = ours.path().join("tmp/a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o0)).unwrap();
        drop(ours);
        assert_eq!(names(base.path()), Vec::<String>::new());
    }

    #[test]
    fn a_sweep_removes_what_nobody_holds_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let held = TempDir::create_in(base.path()).unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();

        let stale = base.path().join("cofferdam.0123");
        fs::create_dir_all(stale.join("tmp/deep")).unwrap();
        fs::write(stale.join("lock"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), stale.join("tmp/link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), base.path().join("cofferdam.link")).unwrap();
        fs::create_dir(base.path().join("cofferdam-new.fresh")).unwrap();
        fs::create_dir(base.path().join("other")).unwrap();

        sweep_in(base.path(), None);
        let mut left = names(base.path());
        left.sort();
        let held_name = held
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let mut expected = vec![
            held_name,
            "cofferdam.link".into(),
            "cofferdam-new.fresh".into(),
            "other".into(),
        ];
        expected.sort();
        assert_eq!(left, expected);
        assert!(outside.path().join("kept").exists());
    }
}
