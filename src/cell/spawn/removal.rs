//! Removes a tree that a server filled as it liked: any depth, any rights, few descriptors.
//!
//! What lies two levels down is moved up one and the directory between removed, so the tree gets
//! wider and never deeper; whatever ends a removal early has made it smaller.

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

/// Names tried for a directory that is moved up.
const NAMES: u32 = 1000;
/// Rounds through one directory: each but the last takes something out, or moves something.
const ROUNDS: u32 = 100_000;

/// Removes `path` and all below; links are removed, never followed. False when something is left, at
/// the latest at `end`.
pub(super) fn remove(path: &Path, end: Option<Instant>) -> bool {
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return true,
        Err(_) => {}
    }
    let Ok(top) = open(CWD, path) else {
        return false;
    };
    let mut hoist = Hoist {
        top,
        next: 0,
        end,
        late: false,
    };
    for _ in 0..ROUNDS {
        match hoist.round() {
            Progress::Empty => break,
            Progress::Some => {}
            Progress::None => return false,
        }
    }
    unlinkat(CWD, path, AtFlags::REMOVEDIR).is_ok()
}

enum Progress {
    /// There was nothing.
    Empty,
    Some,
    None,
}

struct Hoist {
    top: OwnedFd,
    /// For the next name of what is moved up.
    next: u32,
    end: Option<Instant>,
    late: bool,
}

impl Hoist {
    fn is_late(&mut self) -> bool {
        self.late = self.late || self.end.is_some_and(|end| Instant::now() >= end);
        self.late
    }

    /// Everything that lies in the top directory now.
    fn round(&mut self) -> Progress {
        let Ok(entries) = Dir::read_from(&self.top) else {
            return Progress::None;
        };
        let (mut found, mut done) = (false, false);
        for entry in entries.flatten().filter(is_real) {
            found = true;
            if self.is_late() {
                return Progress::None;
            }
            let name = entry.file_name();
            done |= if is_directory(self.top.as_fd(), name, entry.file_type()) {
                self.empty(name)
            } else {
                unlinkat(&self.top, name, AtFlags::empty()).is_ok()
            };
        }
        match (found, done) {
            (false, _) => Progress::Empty,
            (true, true) => Progress::Some,
            (true, false) => Progress::None,
        }
    }

    /// Removes a directory of the top one and moves up what is in it; whether anything was done.
    fn empty(&mut self, name: &CStr) -> bool {
        let mut done = false;
        for _ in 0..ROUNDS {
            if unlinkat(&self.top, name, AtFlags::REMOVEDIR).is_ok() {
                return true;
            }
            let Ok(middle) = open(self.top.as_fd(), name) else {
                return done;
            };
            let Ok(entries) = Dir::read_from(&middle) else {
                return done;
            };
            let mut now = false;
            for entry in entries.flatten().filter(is_real) {
                if self.is_late() {
                    return done;
                }
                let name = entry.file_name();
                now |= if is_directory(middle.as_fd(), name, entry.file_type()) {
                    self.take_up(&middle, name)
                } else {
                    unlinkat(&middle, name, AtFlags::empty()).is_ok()
                };
            }
            done |= now;
            if !now {
                return done;
            }
        }
        done
    }

    fn take_up(&mut self, middle: &OwnedFd, name: &CStr) -> bool {
        if unlinkat(middle, name, AtFlags::REMOVEDIR).is_ok() {
            return true;
        }
        let mut allowed = false;
        for _ in 0..NAMES {
            let up = format!("up.{}", self.next);
            self.next = self.next.wrapping_add(1);
            match renameat(middle, name, &self.top, up.as_str()) {
                Ok(()) => return true,
                // A directory that moves must be writable itself: its `..` changes.
                Err(Errno::ACCESS) if !allowed => {
                    allowed = true;
                    let _ = chmodat(middle, name, Mode::RWXU, AtFlags::empty());
                }
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

/// Not the directory itself and the one above.
fn is_real(entry: &rustix::fs::DirEntry) -> bool {
    !matches!(entry.file_name().to_bytes(), b"." | b"..")
}

fn is_directory(dir: std::os::fd::BorrowedFd<'_>, name: &CStr, kind: FileType) -> bool {
    let look = || statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    match kind {
        // Some file systems do not say.
        FileType::Unknown => {
            look().is_ok_and(|facts| FileType::from_raw_mode(facts.st_mode) == FileType::Directory)
        }
        kind => kind == FileType::Directory,
    }
}

/// A directory, which we may list and change from then on.
fn open<P: rustix::path::Arg + Copy>(dir: impl AsFd, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(&dir, name, flags, Mode::empty());
    let opened = match opened {
        Err(Errno::ACCESS) => {
            let facts = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(facts.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            chmodat(&dir, name, Mode::RWXU, AtFlags::empty())?;
            openat(&dir, name, flags, Mode::empty())
        }
        opened => opened,
    }?;
    // Listing it was allowed; changing and entering it may not be.
    if rustix::fs::fstat(&opened)?.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    /// Directories in one another, deeper than any path can name.
    fn nest(base: &Path, depth: u32) {
        let mut here = open(CWD, base).unwrap();
        for _ in 0..depth {
            mkdirat(&here, c"deeper", Mode::RWXU).unwrap();
            openat(&here, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            here = open(&here, c"deeper").unwrap();
        }
    }

    #[test]
    fn any_depth_is_removed_with_few_descriptors() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("deep");
        fs::create_dir(&path).unwrap();
        nest(&path, 12_000);
        assert!(remove(&path, None));
        assert!(!path.exists());
    }

    #[test]
    fn a_removal_that_is_cut_short_goes_on_where_it_was() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("deep");
        fs::create_dir(&path).unwrap();
        nest(&path, 6_000);
        let mut rounds = 1;
        while !remove(&path, Some(Instant::now() + Duration::from_millis(2))) {
            rounds += 1;
            assert!(rounds < 5_000, "it makes no progress");
        }
        assert!(rounds > 1, "too fast to be cut short");
    }

    #[test]
    fn rights_that_lack_and_names_that_are_taken_keep_nothing() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("tree");
        let outside = base.path().join("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let mut deep = path.clone();
        for at in 0..120 {
            deep.push(format!("d{at}"));
        }
        fs::create_dir_all(deep.join("up.1/x/y")).unwrap();
        fs::create_dir_all(path.join("up.0/up.1/up.2")).unwrap();
        fs::write(path.join("up.3"), "a file").unwrap();
        symlink(&outside, path.join("link")).unwrap();
        symlink(&outside, deep.join("link")).unwrap();
        // From within, for root too passes through them.
        for (at, dir) in deep.ancestors().take(100).enumerate() {
            let mode = [0, 0o500, 0o300, 0o100][at % 4];
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).ok();
        }
        if nix::unistd::geteuid().is_root() {
            // Root needs no rights.
            give_away(&path, 65534);
            fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).unwrap();
            std::thread::scope(|scope| {
                let removed = scope.spawn(|| {
                    // Whose rights count is a thread's own affair (setfsuid(2)).
                    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
                    remove(&path, None)
                });
                assert!(removed.join().unwrap());
            });
        } else {
            assert!(remove(&path, None));
        }
        assert!(!path.exists());
        assert!(outside.join("kept").exists());
    }

    fn give_away(path: &Path, user: u32) {
        std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path).unwrap().flatten() {
                give_away(&entry.path(), user);
            }
        }
    }
}
