//! Tells when a credential file may have changed, whichever way it is written.
//!
//! Directories are watched, never files: an editor, `mv` and Kubernetes all put another file in the
//! place of the old one. Kubernetes swaps a link (`..data`) beside the file, systemd and a new mount
//! replace the directory itself, so the directory above is watched too, and everything that a link
//! leads through. What no event tells (another mount in the same place, NFS) is found by looking every
//! [`LOOK`]. inotify(7) needs no permission beyond reading the directory.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From the last event until the files are read: whoever writes several writes them together.
pub const SETTLE: Duration = Duration::from_millis(50);
/// From the first event until they are read in any case.
const AT_MOST: Duration = Duration::from_millis(400);
/// How often they are read without an event: a mount that is put over them is found within a minute.
const LOOK: Duration = Duration::from_secs(45);
/// Links that one path may lead through.
const LINKS: usize = 16;

/// The watcher of a set of files.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    files: Vec<PathBuf>,
    settle: Duration,
    /// The directories above theirs are watched too.
    above: bool,
    /// First and last event since the files were read.
    stirred: Option<(Instant, Instant)>,
    look_at: Instant,
}

impl Watch {
    /// Watches the directories of these files; one that is not there yet is found when it comes.
    /// They are to be read `settle` after the last event.
    ///
    /// # Errors
    /// The kernel gives no inotify instance.
    pub fn new(files: Vec<PathBuf>, settle: Duration, now: Instant) -> io::Result<Self> {
        Self::watching(files, settle, true, now)
    }

    /// The same for files whose directories stay: those above, where strangers may be busy, are not
    /// watched.
    ///
    /// # Errors
    /// The kernel gives no inotify instance.
    pub fn beside(files: Vec<PathBuf>, settle: Duration, now: Instant) -> io::Result<Self> {
        Self::watching(files, settle, false, now)
    }

    fn watching(
        files: Vec<PathBuf>,
        settle: Duration,
        above: bool,
        now: Instant,
    ) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut watch = Self {
            inotify,
            files,
            settle,
            above,
            stirred: None,
            look_at: now + LOOK,
        };
        watch.follow();
        Ok(watch)
    }

    /// These files from here on; what was watched besides is watched still.
    pub fn set_files(&mut self, files: Vec<PathBuf>) {
        if self.files != files {
            self.files = files;
            self.follow();
        }
    }

    /// Watches what the paths lead through now. Adding a directory again changes nothing.
    fn follow(&mut self) {
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        let directories: BTreeSet<PathBuf> = self
            .files
            .iter()
            .flat_map(|file| directories(file, self.above))
            .collect();
        for directory in directories {
            // Not there, not readable, or too many watches: the regular look finds what it can.
            self.inotify.add_watch(&directory, events).ok();
        }
    }

    /// Takes the events that have come.
    fn stir(&mut self, now: Instant) {
        loop {
            match self.inotify.read_events() {
                Ok(events) if events.is_empty() => return,
                Ok(_) => {
                    let first = self.stirred.map_or(now, |(first, _)| first);
                    self.stirred = Some((first, now));
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// When the files are to be read because something has happened.
    #[must_use]
    pub fn stirred(&self) -> Option<Instant> {
        let settled = |(first, last): (Instant, Instant)| (last + self.settle).min(first + AT_MOST);
        self.stirred.map(settled)
    }

    /// When the files are to be read.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.stirred()
            .map_or(self.look_at, |due| due.min(self.look_at))
    }

    /// True when they are to be read now, after what has come until now; notes that they are.
    pub fn take(&mut self, now: Instant) -> bool {
        self.stir(now);
        if self.due() > now {
            return false;
        }
        self.stirred = None;
        self.look_at = now + LOOK;
        self.follow();
        true
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The directory of a file, the one `above` it, and those of every link on the way.
fn directories(file: &Path, above: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut at = file.to_path_buf();
    for _ in 0..LINKS {
        let Some(parent) = at.parent().map(Path::to_path_buf) else {
            break;
        };
        found.push(parent.clone());
        found.extend(parent.parent().filter(|_| above).map(Path::to_path_buf));
        // The file may be a link, and so may its directory (`..data`).
        let next = std::fs::read_link(&at)
            .map(|target| parent.join(target))
            .ok();
        let through = std::fs::read_link(&parent).ok().and_then(|target| {
            let above = parent.parent()?.join(target);
            Some(above.join(at.file_name()?))
        });
        match next.or(through) {
            Some(next) => at = next,
            None => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn stirs(watch: &mut Watch) -> bool {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(1000_u16)).unwrap() == 1;
        let now = Instant::now();
        watch.stir(now);
        let due = watch.due();
        ready && due <= now + SETTLE && watch.take(due) && !watch.take(due)
    }

    #[test]
    fn every_way_to_write_a_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (at, file) = (dir.path().join("d"), dir.path().join("d/token"));
        std::fs::create_dir(&at).unwrap();
        std::fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(vec![file.clone()], SETTLE, Instant::now()).unwrap();
        std::fs::write(&file, "2").unwrap();
        assert!(stirs(&mut watch), "in place");
        std::fs::write(at.join("new"), "3").unwrap();
        std::fs::rename(at.join("new"), &file).unwrap();
        assert!(stirs(&mut watch), "by a rename");
        std::fs::remove_file(&file).unwrap();
        assert!(stirs(&mut watch), "removed");
        std::fs::rename(&at, dir.path().join("old")).unwrap();
        std::fs::create_dir(&at).unwrap();
        assert!(stirs(&mut watch), "another directory");
        std::fs::write(&file, "4").unwrap();
        assert!(stirs(&mut watch), "in the other directory");
    }

    #[test]
    fn a_projected_secret_is_seen_when_its_link_is_swapped() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("secret");
        for version in ["..1", "..2"] {
            std::fs::create_dir_all(mount.join(version)).unwrap();
            std::fs::write(mount.join(version).join("token"), version).unwrap();
        }
        std::os::unix::fs::symlink("..1", mount.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/token", mount.join("token")).unwrap();
        let mut watch = Watch::new(vec![mount.join("token")], SETTLE, Instant::now()).unwrap();
        std::os::unix::fs::symlink("..2", mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        assert!(stirs(&mut watch));
    }

    #[test]
    fn a_burst_is_read_once_and_an_endless_one_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut watch = Watch::new(vec![dir.path().join("token")], SETTLE, now).unwrap();
        assert_eq!(watch.due(), now + LOOK);
        watch.stirred = Some((now, now + Duration::from_millis(390)));
        assert_eq!(watch.due(), now + AT_MOST);
        watch.stirred = None;
        assert!(watch.take(now + LOOK), "without any event");
    }
}
