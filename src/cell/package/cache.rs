//! The cache directory: entries, their locks, and the places where installs happen.
//!
//! ```text
//! CACHE/npm/@scope+name@1.2.3-0a1b2c3d4e5f/         the sealed entry
//! CACHE/npm/@scope+name@1.2.3-0a1b2c3d4e5f.json     its record: digest, programs, when
//! CACHE/npm/@scope+name@1.2.3-0a1b2c3d4e5f.files    one line for each file, to name a change
//! CACHE/locks/npm-0a1b2c3d4e5f                      held while this request is installed
//! CACHE/staging/ID/{tree,private}                   the only place that an install cell may write
//! CACHE/staging/ID.lock                             held while the install runs
//! ```
//!
//! The record is written last and by rename, so an entry without a record is the rest of a start
//! that was killed, and is removed by the next install. A staging directory whose lock nobody holds
//! is such a rest as well. Locks are `flock`: they end with the process, however it ends.

use super::error::PackageError;
use super::request::Ecosystem;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a lock that another start holds is tried again.
const POLL: Duration = Duration::from_millis(50);
/// How often people are told that we wait.
const TELL: Duration = Duration::from_secs(10);

/// An open cache.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

/// What one request may use: any version of this name that was installed for the same request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) ecosystem: Ecosystem,
    /// `@scope+name`: a plain file name.
    pub(super) name: String,
    /// Twelve hexadecimal digits over everything that was asked.
    pub(super) hash: String,
}

impl Slot {
    /// The file name of an entry.
    pub(super) fn entry_name(&self, version: &str) -> String {
        // A version comes from the package; only what a file name may hold is kept.
        let tidy: String = version
            .chars()
            .take(64)
            .map(|c| {
                if c.is_ascii_alphanumeric() || ".-+!_".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        format!("{}@{tidy}-{}", self.name, self.hash)
    }

    fn owns(&self, file: &str) -> bool {
        file.strip_prefix(&self.name)
            .and_then(|rest| rest.strip_prefix('@'))
            .and_then(|rest| rest.strip_suffix(&self.hash))
            .is_some_and(|version| version.ends_with('-') && !version.contains('@'))
    }
}

impl Cache {
    /// Opens the cache, creates it for the user alone.
    pub(super) fn open(root: &Path) -> Result<Self, PackageError> {
        let make = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| PackageError::cache(path, source))
        };
        make(root)?;
        // Links in the path are resolved once: landlock and the server see one and the same place.
        let root = fs::canonicalize(root).map_err(|source| PackageError::cache(root, source))?;
        for dir in ["npm", "python", "locks", "staging"] {
            make(&root.join(dir))?;
        }
        Ok(Self { root })
    }

    /// Where entries of an ecosystem lie.
    pub(super) fn entries(&self, ecosystem: Ecosystem) -> PathBuf {
        self.root.join(ecosystem.dir())
    }

    /// The paths of all entries with a record that `slot` may use.
    pub(super) fn records(&self, slot: &Slot) -> Result<Vec<PathBuf>, PackageError> {
        let dir = self.entries(slot.ecosystem);
        let mut found = Vec::new();
        for item in fs::read_dir(&dir).map_err(|source| PackageError::cache(&dir, source))? {
            let item = item.map_err(|source| PackageError::cache(&dir, source))?;
            let name = item.file_name();
            if name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .is_some_and(|name| slot.owns(name))
            {
                found.push(item.path());
            }
        }
        Ok(found)
    }

    /// Takes the lock of one request; waits for another start that installs it, but not for ever.
    pub(super) fn lock(
        &self,
        slot: &Slot,
        package: &str,
        limit: Duration,
        pause: &mut dyn FnMut(Duration) -> io::Result<()>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Flock<File>, PackageError> {
        let path = self
            .root
            .join("locks")
            .join(format!("{}-{}", slot.ecosystem.dir(), slot.hash));
        let began = Instant::now();
        let mut told = None;
        loop {
            let file = open_lock(&path)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {}
                Err((_, error)) => return Err(PackageError::cache(path, error.into())),
            }
            let waited = began.elapsed();
            if waited >= limit {
                return Err(PackageError::Busy {
                    package: package.to_owned(),
                    waited,
                });
            }
            if told.is_none_or(|told: Instant| told.elapsed() >= TELL) {
                say(&format!(
                    "waiting for another start that installs {package} ({} s)",
                    waited.as_secs()
                ));
                told = Some(Instant::now());
            }
            pause(POLL).map_err(|source| PackageError::Cell { source })?;
        }
    }

    /// A new place to install to. Removes what killed starts left behind.
    pub(super) fn stage(&self) -> Result<Staging, PackageError> {
        let dir = self.root.join("staging");
        // Without this lock a sweep could take the lock file between its creation and its locking.
        let path = dir.join(".sweep");
        let _sweep = Flock::lock(open_lock(&path)?, FlockArg::LockExclusive)
            .map_err(|(_, error)| PackageError::cache(&path, error.into()))?;
        self.sweep_staging(&dir);
        let began = std::time::SystemTime::now();
        let nanos = began
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let id = format!("{}-{nanos:x}", std::process::id());
        let root = dir.join(&id);
        let path = dir.join(format!("{id}.lock"));
        let lock = Flock::lock(open_lock(&path)?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| PackageError::cache(&path, error.into()))?;
        let staging = Staging {
            tree: root.join("tree"),
            private: root.join("private"),
            root,
            lock: path,
            _held: lock,
        };
        for dir in [
            &staging.root,
            &staging.tree,
            &staging.private,
            &staging.private.join("home"),
            &staging.private.join("tmp"),
        ] {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(dir)
                .map_err(|source| PackageError::cache(dir, source))?;
        }
        Ok(staging)
    }

    /// Removes entries of `slot` that have no record. The lock of the slot must be held.
    pub(super) fn sweep_entries(&self, slot: &Slot) {
        let dir = self.entries(slot.ecosystem);
        let Ok(items) = fs::read_dir(&dir) else {
            return;
        };
        for item in items.flatten() {
            let name = item.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_dir = item.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && slot.owns(name) && !dir.join(format!("{name}.json")).exists() {
                remove_tree(&item.path());
            }
        }
    }

    fn sweep_staging(&self, dir: &Path) {
        let Ok(items) = fs::read_dir(dir) else { return };
        for item in items.flatten() {
            let path = item.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(id) = id.strip_suffix(".lock") {
                let Ok(file) = open_lock(&path) else { continue };
                if let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    remove_tree(&dir.join(id));
                    fs::remove_file(&path).ok();
                }
            } else if id != ".sweep" && !dir.join(format!("{id}.lock")).exists() {
                remove_tree(&path);
            }
        }
    }
}

/// A place where one install happens. Removed when it is dropped.
#[derive(Debug)]
pub(super) struct Staging {
    root: PathBuf,
    tree: PathBuf,
    private: PathBuf,
    lock: PathBuf,
    _held: Flock<File>,
}

impl Staging {
    /// All that the install cell may write.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What becomes the entry.
    pub(super) fn tree(&self) -> &Path {
        &self.tree
    }

    /// Home, temporary files and download cache of the installer.
    pub(super) fn private(&self) -> &Path {
        &self.private
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        remove_tree(&self.root);
        fs::remove_file(&self.lock).ok();
    }
}

/// Removes a tree whose directories may be sealed. What cannot be removed is left for the next time.
pub(super) fn remove_tree(path: &Path) {
    if fs::remove_dir_all(path).is_ok() {
        return;
    }
    fn unseal(path: &Path, depth: u32) {
        let Ok(about) = fs::symlink_metadata(path) else {
            return;
        };
        if !about.is_dir() || depth > 256 {
            return;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).ok();
        for item in fs::read_dir(path).into_iter().flatten().flatten() {
            unseal(&item.path(), depth + 1);
        }
    }
    unseal(path, 0);
    fs::remove_dir_all(path).ok();
}

fn open_lock(path: &Path) -> Result<File, PackageError> {
    let open = || -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
    };
    open().map_err(|source| PackageError::cache(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            ecosystem: Ecosystem::Npm,
            name: "@s+p".to_owned(),
            hash: "0123456789ab".to_owned(),
        }
    }

    #[test]
    fn a_slot_owns_its_versions_and_nothing_else() {
        let slot = slot();
        assert_eq!(slot.entry_name("1.2.3"), "@s+p@1.2.3-0123456789ab");
        assert_eq!(slot.entry_name("../x"), "@s+p@.._x-0123456789ab");
        assert!(slot.owns(&slot.entry_name("1.2.3-rc.1")));
        for other in [
            "@s+p@1.2.3-0123456789ac",
            "@s+pq@1-0123456789ab",
            "@s+p@-x@1-0123456789ab",
            "p@1-0123456789ab",
        ] {
            assert!(!slot.owns(other), "{other}");
        }
    }

    #[test]
    fn rests_of_killed_starts_are_swept_and_running_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let running = cache.stage().unwrap();
        let rest = cache.root.join("staging/1-2");
        fs::create_dir_all(rest.join("tree/sealed/x")).unwrap();
        fs::write(cache.root.join("staging/1-2.lock"), "").unwrap();
        fs::create_dir_all(cache.root.join("staging/3-4/tree")).unwrap();
        fs::set_permissions(rest.join("tree/sealed"), fs::Permissions::from_mode(0o555)).unwrap();
        let next = cache.stage().unwrap();
        assert!(running.tree().exists() && next.tree().exists());
        let left = fs::read_dir(cache.root.join("staging")).unwrap().count();
        assert_eq!(
            left, 5,
            "two places with their locks, and the lock of the sweep"
        );
        let gone = running.root().to_owned();
        drop(running);
        assert!(!gone.exists());
    }

    #[test]
    fn an_entry_without_a_record_is_a_rest() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let npm = cache.entries(Ecosystem::Npm);
        for version in ["1.0.0", "2.0.0"] {
            fs::create_dir_all(npm.join(slot().entry_name(version))).unwrap();
        }
        fs::write(npm.join("@s+p@2.0.0-0123456789ab.json"), "{}").unwrap();
        cache.sweep_entries(&slot());
        assert!(!npm.join("@s+p@1.0.0-0123456789ab").exists());
        assert!(npm.join("@s+p@2.0.0-0123456789ab").exists());
        assert_eq!(cache.records(&slot()).unwrap().len(), 1);
    }

    #[test]
    fn a_lock_is_waited_for_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mut said = Vec::new();
        let held = cache
            .lock(&slot(), "p", Duration::ZERO, &mut |_| Ok(()), &mut |_| {})
            .unwrap();
        let error = cache
            .lock(
                &slot(),
                "p",
                Duration::from_millis(120),
                &mut |time| {
                    std::thread::sleep(time);
                    Ok(())
                },
                &mut |line| {
                    said.push(line.to_owned());
                },
            )
            .unwrap_err();
        assert_eq!(error.exit_code(), 75);
        assert_eq!(said, ["waiting for another start that installs p (0 s)"]);
        let error = cache
            .lock(
                &slot(),
                "p",
                Duration::from_secs(9),
                &mut |_| Err(io::Error::other("gone")),
                &mut |_| {},
            )
            .unwrap_err();
        assert!(
            matches!(error, PackageError::Cell { .. }),
            "nobody waits any more"
        );
        drop(held);
        cache
            .lock(&slot(), "p", Duration::ZERO, &mut |_| Ok(()), &mut |_| {})
            .unwrap();
    }
}
