//! Files that commands write: whole or not at all, and never readable by others when they are secret.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Read and write for the owner alone.
pub(super) const SECRET: u32 = 0o600;
pub(super) const PUBLIC: u32 = 0o644;

/// Keeps other commands of ours out of a directory while a file in it is read and written again.
pub(super) struct Turn {
    _lock: Flock<File>,
    path: PathBuf,
}

impl Turn {
    /// Waits until nobody else changes files there. A link is followed: what it names is the file.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let path = match path.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(error),
        };
        let lock = Flock::lock(File::open(directory(&path))?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        Ok(Self { _lock: lock, path })
    }

    /// What the file holds; nothing when it is not there.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Puts new content in the file's place, under the same owner: whoever reads sees the old or the new.
    pub(super) fn replace(&self, content: &[u8]) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let beside = self.path.with_file_name(name);
        let written = create(&beside, content, SECRET).and_then(|file| {
            if let Ok(old) = std::fs::metadata(&self.path) {
                let new = file.metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
            }
            std::fs::rename(&beside, &self.path)?;
            File::open(directory(&self.path))?.sync_all()
        });
        if written.is_err() {
            // What is left of it must not stand in the way of the next attempt.
            std::fs::remove_file(&beside).ok();
        }
        written
    }
}

/// Creates a file that is not there yet, on disk before it returns.
pub(super) fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(file)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients.json");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("clients.json", &link).unwrap();
        std::fs::write(&path, "old").unwrap();
        let turn = Turn::take(&link).unwrap();
        assert_eq!(turn.read().unwrap(), b"old");
        turn.replace(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SECRET);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn nothing_is_overwritten_by_create() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"one", SECRET).unwrap();
        assert!(create(&path, b"two", SECRET).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn two_commands_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("count");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let turn = Turn::take(&path).unwrap();
                    let mut content = turn.read().unwrap();
                    content.push(b'x');
                    // Process ids do not tell threads apart, so only the turn keeps them apart.
                    turn.replace(&content).unwrap();
                });
            }
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"xxxxxxxx");
    }
}
