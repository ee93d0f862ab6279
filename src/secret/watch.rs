//! Tells when a credential file may have changed, whichever way it is written.
//!
//! Directories are watched, never files: an editor, `mv` and Kubernetes all put another file in the
//! place of the old one. Kubernetes swaps a link (`..data`) beside the file, systemd and a new mount
//! replace the directory itself, so the directory above is watched too, and that of every link that the
//! path leads through. What no event tells (another mount in the same place, NFS) is found by looking every
//! [`LOOK`]. inotify(7) needs no permission beyond reading the directory; where there is none of it left,
//! the files are looked at every [`BLIND`].

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From the last event until the files are read: whoever writes several writes them together.
pub const SETTLE: Duration = Duration::from_millis(50);
/// From the first event until they are read in any case.
const AT_MOST: Duration = Duration::from_millis(400);
/// How often they are read without an event: a mount that is put over them is found within a minute.
const LOOK: Duration = Duration::from_secs(45);
/// The same where the kernel tells nothing.
const BLIND: Duration = Duration::from_secs(1);
/// From a look at a file that was being written until the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Links that one path may lead through, as the kernel has it.
const LINKS: usize = 40;

/// The watcher of a set of files.
#[derive(Debug)]
pub struct Watch {
    /// `None`: there was none left.
    inotify: Option<Inotify>,
    /// Why not everything that happens is told.
    lack: Option<Errno>,
    files: Vec<PathBuf>,
    settle: Duration,
    /// The directories above theirs are watched too.
    above: bool,
    /// First and last event since the files were read.
    stirred: Option<(Instant, Instant)>,
    look_at: Instant,
    /// When a file that was being written is read again, and how long after that once more.
    again: Option<Instant>,
    patience: Duration,
}

impl Watch {
    /// Watches the directories of these files; one that is not there yet is found when it comes.
    /// They are to be read `settle` after the last event, or every second where [`Watch::lack`] says
    /// that there are none.
    #[must_use]
    pub fn new(files: Vec<PathBuf>, settle: Duration, now: Instant) -> Self {
        Self::watching(files, settle, true, now)
    }

    /// The same for files whose directories stay: those above, where strangers may be busy, are not
    /// watched.
    #[must_use]
    pub fn beside(files: Vec<PathBuf>, settle: Duration, now: Instant) -> Self {
        Self::watching(files, settle, false, now)
    }

    fn watching(files: Vec<PathBuf>, settle: Duration, above: bool, now: Instant) -> Self {
        let mut watch = Self {
            inotify: None,
            lack: None,
            files,
            settle,
            above,
            stirred: None,
            look_at: now,
            again: None,
            patience: AGAIN.0,
        };
        watch.follow();
        watch.look_at = now + watch.every();
        watch
    }

    /// Why the files are looked at every second, in words for people.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        let limit = |name: &str| {
            format!(
                "the limit fs.inotify.{name} is reached; raise it (sysctl -w fs.inotify.{name}=…)"
            )
        };
        Some(match self.lack? {
            Errno::EMFILE | Errno::ENFILE => limit("max_user_instances"),
            Errno::ENOSPC => limit("max_user_watches"),
            error => error.desc().to_owned(),
        })
    }

    fn every(&self) -> Duration {
        if self.lack.is_some() { BLIND } else { LOOK }
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
        self.lack = None;
        if self.inotify.is_none() {
            match Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) {
                Ok(inotify) => self.inotify = Some(inotify),
                Err(error) => self.lack = Some(error),
            }
        }
        let Some(inotify) = &self.inotify else { return };
        let directories: BTreeSet<PathBuf> = self
            .files
            .iter()
            .flat_map(|file| directories(file, self.above))
            .collect();
        for directory in directories {
            match inotify.add_watch(&directory, events) {
                // One that is not there is found when it comes.
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(Errno::EACCES) => {
                    // Above the files it tells little.
                    let mut files = self.files.iter();
                    if files.any(|file| file.parent() == Some(&directory)) {
                        self.lack = Some(Errno::EACCES);
                    }
                }
                Err(error) => self.lack = Some(error),
            }
        }
    }

    /// Takes the events that have come.
    fn stir(&mut self, now: Instant) {
        let Some(inotify) = &self.inotify else { return };
        loop {
            match inotify.read_events() {
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

    /// When the files are to be read because something has happened, or nothing tells whether it has.
    #[must_use]
    pub fn stirred(&self) -> Option<Instant> {
        let settled = |(first, last): (Instant, Instant)| (last + self.settle).min(first + AT_MOST);
        let blind = self.lack.map(|_| self.look_at);
        let stirred = self.stirred.map(settled);
        stirred.into_iter().chain(blind).chain(self.again).min()
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
        (self.stirred, self.again) = (None, None);
        self.follow();
        self.look_at = now + self.every();
        true
    }

    /// What was just read is to be read again soon, for somebody was writing it; or it is not.
    pub fn unsettled(&mut self, is: bool, now: Instant) {
        self.again = is.then(|| now + self.patience);
        self.patience = match is {
            true => AGAIN.1.min(self.patience * 2),
            false => AGAIN.0,
        };
    }

    /// What becomes readable when something has happened.
    #[must_use]
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }
}

/// The directory of a file, the one `above` it, and those of every link on the way.
fn directories(file: &Path, above: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut around = |at: &Path| {
        let parent = at.parent();
        let over = parent.and_then(Path::parent).filter(|_| above);
        found.extend(parent.into_iter().chain(over).map(Path::to_path_buf));
    };
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    around(&file);
    // What the kernel would walk, each link in the place of its name.
    let mut rest: Vec<PathBuf> = parts(&file);
    let (mut at, mut links, mut on_the_way) = (PathBuf::new(), 0, Vec::new());
    while let Some(part) = rest.pop() {
        if part.as_os_str() == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) if links < LINKS => {
                links += 1;
                if rest.is_empty() {
                    // The file itself: that the directory of its link is replaced is to be seen too.
                    around(&next);
                }
                on_the_way.push(at.clone());
                rest.extend(parts(&target));
            }
            _ => at = next,
        }
    }
    around(&at);
    found.extend(on_the_way);
    found
}

/// The parts of a path, the last one first; the root is one of them, and starts anew.
fn parts(path: &Path) -> Vec<PathBuf> {
    let parts = path
        .components()
        .map(|part| PathBuf::from(part.as_os_str()));
    parts.rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn stirs(watch: &mut Watch) -> bool {
        let mut fds = [PollFd::new(watch.watched().unwrap(), PollFlags::POLLIN)];
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
        let mut watch = Watch::new(vec![file.clone()], SETTLE, Instant::now());
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
        let mut watch = Watch::new(vec![mount.join("token")], SETTLE, Instant::now());
        std::os::unix::fs::symlink("..2", mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        assert!(stirs(&mut watch));
    }

    #[test]
    fn a_burst_is_read_once_and_an_endless_one_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut watch = Watch::new(vec![dir.path().join("token")], SETTLE, now);
        assert_eq!(watch.due(), now + LOOK);
        watch.stirred = Some((now, now + Duration::from_millis(390)));
        assert_eq!(watch.due(), now + AT_MOST);
        watch.stirred = None;
        assert!(watch.take(now + LOOK), "without any event");
    }

    #[test]
    fn a_link_far_above_the_file_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir_all(at(version).join("deep/secrets")).unwrap();
            std::fs::write(at(version).join("deep/secrets/token"), version).unwrap();
        }
        std::fs::create_dir(at("srv")).unwrap();
        std::os::unix::fs::symlink("../v1", at("srv/current")).unwrap();
        let file = at("srv/current/deep/secrets/token");
        for above in [true, false] {
            let mut watch = Watch::watching(vec![file.clone()], SETTLE, above, Instant::now());
            for version in ["../v2", "../v1"] {
                std::os::unix::fs::symlink(version, at("srv/new")).unwrap();
                std::fs::rename(at("srv/new"), at("srv/current")).unwrap();
                assert!(stirs(&mut watch), "{version}");
                std::fs::write(&file, "written").unwrap();
                assert!(stirs(&mut watch), "in the directory that it leads to now");
            }
        }
        // Links that lead in a circle, or nowhere, end.
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        assert!(!directories(&at("circle/token"), true).is_empty());
    }

    #[test]
    fn without_events_the_files_are_looked_at_and_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut watch = Watch::new(vec![dir.path().join("token")], SETTLE, now);
        assert_eq!((watch.lack(), watch.stirred()), (None, None));
        (watch.inotify, watch.lack) = (None, Some(Errno::EMFILE));
        assert!(watch.lack().unwrap().contains("max_user_instances"));
        watch.look_at = now + BLIND;
        assert_eq!(watch.stirred(), Some(now + BLIND));
        assert!(watch.take(now + BLIND));
        assert!(watch.watched().is_some(), "there is one again");
        assert_eq!(watch.due(), now + BLIND + LOOK);
    }

    #[test]
    fn what_is_being_written_is_looked_at_again_less_and_less() {
        let dir = tempfile::tempdir().unwrap();
        let mut now = Instant::now();
        let mut watch = Watch::new(vec![dir.path().join("token")], SETTLE, now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            watch.unsettled(true, now);
            waits.push((watch.due() - now).as_millis());
            now = watch.due();
            assert!(watch.take(now));
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        watch.unsettled(false, now);
        assert_eq!(watch.stirred(), None);
        watch.unsettled(true, now);
        assert_eq!(watch.due(), now + AGAIN.0);
    }
}
