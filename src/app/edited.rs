//! The configuration file, watched: another text in it is read once it stands still.
//!
//! ```text
//! Known ── something has happened beside it, and it says something else ──▶ Seen ── still, after [`STILL`] ──▶ Known,
//!   ▲                                                                        │ ▲                        to be read
//!   └──────────────────────── what it said before ───────────────────────────┘ └── something else again
//! ```
//! A file that is written in two steps may be valid in between, with fewer rules than it will have; it does
//! not stand still while somebody has it open to write.

use super::reload::Again;
use crate::cell::is_being_written;
use crate::config::open_file;
use crate::secret::{SETTLE, Watch};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the file must say the same.
const STILL: Duration = Duration::from_millis(200);

/// What was read, or why nothing could be.
pub(super) type Text = Result<Option<String>, String>;

/// The watcher of one file.
#[derive(Debug)]
pub(super) struct Edited {
    watch: Watch,
    path: PathBuf,
    /// A print of what is in force, or was refused.
    known: u64,
    /// A print of what the file says now, and until when it has to.
    seen: Option<(u64, Instant)>,
}

impl Edited {
    /// Watches the file that this reads; `None` where there is none.
    pub(super) fn of(again: &dyn Again) -> Option<Self> {
        Self::open(again.path()?, &again.read(), Instant::now())
    }

    /// Watches the file at `path`, which says `text` now; `None` where nobody knows where that is.
    fn open(path: &Path, text: &Text, now: Instant) -> Option<Self> {
        let path: PathBuf = std::path::absolute(path).ok()?;
        Some(Self {
            watch: Watch::beside(vec![path.clone()], SETTLE, now),
            path,
            known: print(text),
            seen: None,
        })
    }

    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.watched()
    }

    /// Why changes are found late.
    pub(super) fn lack(&self) -> Option<String> {
        self.watch.lack()
    }

    /// When to look; an idle file wakes nobody.
    pub(super) fn due(&self) -> Option<Instant> {
        let seen = self.seen.map(|(_, until)| until);
        self.watch.stirred().into_iter().chain(seen).min()
    }

    /// True when the file says something that was not read yet; `read` reads it.
    pub(super) fn look(&mut self, now: Instant, read: impl FnOnce() -> Text) -> bool {
        let stirred = self.watch.take(now);
        let still = self.seen.is_some_and(|(_, until)| until <= now);
        if !stirred && !still {
            return false;
        }
        let there = print(&read());
        match self.seen {
            _ if there == self.known => self.seen = None,
            Some((seen, _)) if seen == there && still && !self.is_being_written() => return true,
            Some((seen, _)) if seen == there && still => self.seen = Some((there, now + STILL)),
            Some((seen, _)) if seen == there => {}
            _ => self.seen = Some((there, now + STILL)),
        }
        false
    }

    /// True while somebody has the file open to write: it may hold half of what it will hold.
    pub(super) fn is_being_written(&self) -> bool {
        let open = open_file(&self.path);
        open.is_ok_and(|file| is_being_written(&file) == Some(true))
    }

    /// The file was read, for whatever reason.
    pub(super) fn taken(&mut self, text: &Text) {
        self.known = print(text);
        self.seen = None;
    }
}

fn print(text: &Text) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_does_not_stand_still_while_it_is_being_written() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let says = |text: &str| -> Text { Ok(Some(text.to_owned())) };
        let mut now = Instant::now();
        let mut edited = Edited::open(&path, &says("1"), now).unwrap();
        let mut writer = std::fs::File::create(&path).unwrap();
        writer.write_all(b"half").unwrap();
        for _ in 0..4 {
            assert!(!edited.look(now, || says("half")));
            now += STILL;
        }
        assert!(edited.is_being_written());
        drop(writer);
        // It has said the same for long enough, and nobody writes any more.
        assert!(edited.look(now, || says("half")));
    }

    #[test]
    fn what_stands_still_and_is_another_text_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let says = |text: &str| -> Text { Ok(Some(text.to_owned())) };
        std::fs::write(&path, "1").unwrap();
        let mut now = Instant::now();
        let mut edited = Edited::open(&path, &says("1"), now).unwrap();
        assert_eq!(edited.due(), None);
        let step = Duration::from_millis(60);
        // Half, then all of it; it is due when nothing more has come.
        for text in ["2", "22"] {
            std::fs::write(&path, text).unwrap();
            assert!(!edited.look(now, || says(text)));
            assert_eq!(edited.due(), Some(now + SETTLE));
            now += step;
            assert!(!edited.look(now, || says(text)));
            assert_eq!(edited.due(), Some(now + STILL));
        }
        now += STILL;
        assert!(edited.look(now, || says("22")));
        edited.taken(&says("22"));
        assert_eq!(edited.due(), None);
        assert!(!edited.look(now + step, || panic!("nothing has happened")));
        // What was read by request, and what it said before, is not read again.
        for text in ["22", "3", "22"] {
            std::fs::write(&path, text).unwrap();
            assert!(!edited.look(now, || says(text)));
            now += step;
            assert!(!edited.look(now, || says(text)));
        }
        assert_eq!(edited.due(), None);
        // A file that is gone says something else too, and changes its mind while it is looked at.
        std::fs::remove_file(&path).unwrap();
        assert!(!edited.look(now, || unreachable!()));
        now += step;
        assert!(!edited.look(now, || Err("gone".to_owned())));
        now += STILL;
        assert!(!edited.look(now, || says("4")));
        now += STILL;
        assert!(edited.look(now, || says("4")));
    }
}
