//! Calls that were begun and may not run twice, kept where they outlive this process: whoever starts
//! next says that their outcome is unknown.
//!
//! ```text
//! free ── passed on to the server ──▶ begun ── answered, expired or given up, which its client was told ──▶ free
//!                                      └── this process is killed ──▶ found by the next one ──▶ said, free
//! ```
//! A file of a fixed size that is mapped into memory: a call costs some stores and no system call, and
//! what is stored survives the process (not the machine). It is mapped before the process is caged, and
//! the cage cannot map it again. Each instance holds one of `begun/0`, `begun/1`, … by a lock.

use nix::fcntl::{Flock, FlockArg, posix_fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::statfs::{
    EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use std::cell::{Cell, RefCell};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DIRECTORY: &str = "begun";
/// Instances of one server that keep a journal.
const INSTANCES: u32 = 64;
/// First word of the file; the last digit is the version.
const MAGIC: u64 = u64::from_le_bytes(*b"CFDjrnl2");
/// Words of 64 bits of one place, which is one line of the processor's cache: a busy client has hundreds
/// of calls open, and each is written and freed. Of a call: when it began in ms since 1970 (0: none); the
/// numbers of the names of its tool and client, 16 bits each, and the length of its id; the id.
const WORDS: usize = 8;
/// Bytes of an id that are kept.
const ID: usize = 24;
/// Calls that are named; what is open besides is counted. The first place is that of the header.
const CALLS: u16 = 255;
/// Names of tools and clients, which are few and stay: two places for each, its length and its text.
const NAMES: usize = 128;
const NAME: usize = 64;
const SIZE: usize = (CALLS as usize + 1 + 2 * NAMES) * WORDS * 8;

/// A call of which nobody knows how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub tool: String,
    /// The id as it stood on the wire, at most its first 24 bytes.
    pub id: String,
    /// Who asked, behind a listener.
    pub client: Option<String>,
    /// When it was passed on.
    pub since: SystemTime,
}

/// What instances that are gone have left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub calls: Vec<Unfinished>,
    /// Calls besides, of which nothing is known.
    pub more: u64,
}

/// The journal of this instance.
#[derive(Debug)]
pub struct Journal {
    words: &'static [AtomicU64],
    free: RefCell<Vec<u16>>,
    names: RefCell<Vec<Box<str>>>,
    /// The numbers of the tool and of the client of the call before: next to always the same again.
    last: [Cell<u16>; 2],
    /// The same moment on both clocks; that of the day in ms since 1970, and never 0.
    began: (Instant, u64),
}

/// A call that is under way; dropped when its client has been told how it ended, or that nobody knows.
#[derive(Debug)]
pub struct Begun {
    journal: Rc<Journal>,
    /// `None`: it is only counted.
    slot: Option<u16>,
}

impl Journal {
    /// Takes a journal below the state directory, and what others have left there that are gone.
    ///
    /// # Errors
    /// What the file system says; `Unsupported` where a full disk could end us when we write into memory.
    pub fn open(state: &Path) -> io::Result<(Self, Left)> {
        let directory = state.join(DIRECTORY);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory)?;
        let (mut left, mut own) = (Left::default(), None);
        for number in 0..INSTANCES {
            let path = directory.join(number.to_string());
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).truncate(false).mode(0o600);
            // They are made in order and never removed: behind the first gap there is none.
            let file = match options.create(own.is_none()).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                file => file?,
            };
            let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            take(&file, &mut left)?;
            own = own.or(Some(file));
        }
        let file = own.ok_or(io::ErrorKind::AlreadyExists)?;
        let kind = fstatfs(&*file)?.filesystem_type();
        // Elsewhere a page that is there may still need room when it is written.
        let kinds = [
            EXT4_SUPER_MAGIC,
            XFS_SUPER_MAGIC,
            TMPFS_MAGIC,
            OVERLAYFS_SUPER_MAGIC,
        ];
        if !kinds.contains(&kind) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        posix_fallocate(&*file, 0, SIZE as i64)?;
        file.set_len(SIZE as u64)?;
        let words = map(&file)?;
        // The mapping holds the lock too, until this process is gone. Caged it could not give it back.
        std::mem::forget(file);
        if let Some(first) = words.first()
            && first.load(Ordering::Relaxed) != MAGIC
        {
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            first.store(MAGIC, Ordering::Release);
        }
        let (now, unix) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH));
        let unix = unix.map_or(1, |unix| u64::try_from(unix.as_millis()).unwrap_or(1));
        let journal = Self {
            words,
            free: RefCell::new((1..=CALLS).rev().collect()),
            names: RefCell::default(),
            last: Default::default(),
            began: (now, unix.max(1)),
        };
        Ok((journal, left))
    }

    /// Notes that a call is passed on at `now`.
    pub(super) fn begin(
        self: &Rc<Self>,
        tool: &str,
        id: &[u8],
        client: Option<&str>,
        now: Instant,
    ) -> Begun {
        let slot = self.write(tool, id, client, now);
        if slot.is_none() {
            self.count(1);
        }
        Begun {
            journal: Rc::clone(self),
            slot,
        }
    }

    fn write(&self, tool: &str, id: &[u8], client: Option<&str>, now: Instant) -> Option<u16> {
        let [tools, clients] = &self.last;
        let tool = self.name(tool, tools)?;
        let client = client.map_or(Some(0), |client| self.name(client, clients))?;
        let slot = self.free.borrow_mut().pop()?;
        let [when, about, rest @ ..] = self.place(slot)?;
        let mut kept = [0; ID];
        let length = id.len().min(ID);
        kept.get_mut(..length)?.copy_from_slice(id.get(..length)?);
        for (word, bytes) in rest.iter().zip(kept.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        let names = u64::from(tool) << 32 | u64::from(client) << 16;
        about.store(names | length as u64, Ordering::Relaxed);
        let passed = now.saturating_duration_since(self.began.0);
        let passed = passed.as_secs() * 1000 + u64::from(passed.subsec_millis());
        // Last: a call that is there is there whole.
        when.store(self.began.1 + passed, Ordering::Release);
        Some(slot)
    }

    /// The number of a name, from 1; `None` when there is no room for another.
    fn name(&self, name: &str, last: &Cell<u16>) -> Option<u16> {
        let name = cut(name, NAME);
        let mut names = self.names.borrow_mut();
        let is_last = |last: usize| names.get(last).is_some_and(|it| **it == *name);
        if last.get() > 0 && is_last(usize::from(last.get()) - 1) {
            return Some(last.get());
        }
        let known = names.iter().position(|it| **it == *name);
        let at = match known {
            Some(at) => at,
            None => {
                let at = names.len();
                let [length, text @ ..] = self.name_place(at)?;
                let mut kept = [0; NAME];
                kept.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
                for (word, bytes) in text.iter().zip(kept.as_chunks::<8>().0) {
                    word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
                }
                length.store(name.len() as u64, Ordering::Release);
                names.push(name.into());
                at
            }
        };
        let number = u16::try_from(at + 1).ok()?;
        last.set(number);
        Some(number)
    }

    fn name_place(&self, at: usize) -> Option<&[AtomicU64; 2 * WORDS]> {
        let names = self.words.get((usize::from(CALLS) + 1) * WORDS..)?;
        names.as_chunks::<{ 2 * WORDS }>().0.get(at)
    }

    fn place(&self, slot: u16) -> Option<&[AtomicU64; WORDS]> {
        let (places, _) = self.words.as_chunks::<WORDS>();
        places.get(usize::from(slot))
    }

    /// Calls that have no place of their own.
    fn count(&self, by: u64) {
        if let Some(more) = self.words.get(1) {
            let there = more.load(Ordering::Relaxed);
            more.store(there.wrapping_add(by), Ordering::Relaxed);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // A panic that unwinds has told nobody anything.
        if std::thread::panicking() {
            return;
        }
        let Some(slot) = self.slot else {
            return self.journal.count(u64::MAX);
        };
        if let Some([when, ..]) = self.journal.place(slot) {
            when.store(0, Ordering::Release);
        }
        self.journal.free.borrow_mut().push(slot);
    }
}

/// Takes what a file holds; from then on it holds nothing.
fn take(file: &File, left: &mut Left) -> io::Result<()> {
    let mut bytes = vec![0; SIZE];
    let mut got = 0;
    while let more @ 1.. = file.read_at(bytes.get_mut(got..).unwrap_or_default(), got as u64)? {
        got += more;
    }
    let (places, _) = bytes.as_chunks::<{ WORDS * 8 }>();
    let word = |place: &[u8; WORDS * 8], at: usize| {
        let words = place.as_chunks::<8>().0;
        words.get(at).map_or(0, |word| u64::from_le_bytes(*word))
    };
    let Some((head, places)) = places
        .split_first()
        .filter(|(head, _)| word(head, 0) == MAGIC)
    else {
        return Ok(());
    };
    let (more, found) = (word(head, 1), left.calls.len());
    left.more = left.more.saturating_add(more);
    let (calls, names) = places.split_at(places.len().min(usize::from(CALLS)));
    let names = names.as_flattened().as_chunks::<{ 2 * WORDS * 8 }>().0;
    let name = |number: u64| {
        let at = usize::try_from(number & 0xffff).ok()?.checked_sub(1)?;
        let (length, text) = names.get(at)?.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        Some(String::from_utf8_lossy(text.get(..length.min(NAME))?).into_owned())
    };
    left.calls.extend(calls.iter().filter_map(|call| {
        let (when, about) = (word(call, 0), word(call, 1));
        let length = usize::try_from(about & 0xffff).ok()?.min(ID);
        let id = call.get(16..16 + length)?;
        (when > 0).then(|| Unfinished {
            tool: name(about >> 32).unwrap_or_default(),
            id: String::from_utf8_lossy(id).into_owned(),
            client: name(about >> 16),
            since: UNIX_EPOCH + Duration::from_millis(when),
        })
    }));
    // Next to always nothing was left, and nobody has to wait for that to be written down.
    match more == 0 && left.calls.len() == found {
        true => Ok(()),
        false => file.write_all_at(&vec![0; got], 0),
    }
}

/// At most so many bytes of a text.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The whole file as memory that others may change, until this process ends.
#[expect(unsafe_code, reason = "no crate maps a shared file without it")]
fn map(file: &File) -> io::Result<&'static [AtomicU64]> {
    let size = NonZeroUsize::new(SIZE).ok_or(io::ErrorKind::InvalidInput)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping at an address that the kernel chooses touches no memory of ours. It is
    // page-aligned, SIZE bytes long, as the file is, and never unmapped; every value is a valid
    // AtomicU64, and another process that writes into the file cannot break what atomics promise.
    let words = unsafe {
        let start = mmap(None, size, access, MapFlags::MAP_SHARED, file, 0)?;
        std::slice::from_raw_parts(start.cast::<AtomicU64>().as_ptr(), SIZE / 8)
    };
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS_AND_TEN: usize = CALLS as usize + 10;

    fn open(state: &Path) -> (Rc<Journal>, Left) {
        let (journal, left) = Journal::open(state).unwrap();
        (Rc::new(journal), left)
    }

    /// What a process leaves that is killed: nothing is dropped. Its lock would be gone; here it stays
    /// with a file that is there no more.
    fn kill(state: &Path, number: u32, journal: Rc<Journal>, begun: Vec<Begun>) {
        let path = state.join(DIRECTORY).join(number.to_string());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, bytes).unwrap();
        std::mem::forget((journal, begun));
    }

    #[test]
    fn what_was_begun_and_not_answered_is_found_once() {
        let state = tempfile::tempdir().unwrap();
        let (journal, left) = open(state.path());
        assert_eq!(left, Left::default());
        let now = Instant::now();
        let answered = journal.begin("answered", b"1", None, now);
        let begun = vec![
            journal.begin("create_issue", b"\"x-7\"", Some("ci"), now),
            journal.begin(&"ü".repeat(99), &[b'9'; 99], Some(&"c".repeat(99)), now),
        ];
        drop(answered);
        kill(state.path(), 0, journal, begun);
        let (journal, left) = open(state.path());
        let names: Vec<_> = left
            .calls
            .iter()
            .map(|call| (&*call.tool, &*call.id, call.client.as_deref()))
            .collect();
        let (tool, id, client) = ("ü".repeat(32), "9".repeat(24), "c".repeat(64));
        let mut expected = [
            ("create_issue", "\"x-7\"", Some("ci")),
            (&*tool, &*id, Some(&*client)),
        ];
        expected.sort();
        let mut names = names;
        names.sort();
        assert_eq!(names, expected);
        let age = left.calls[0].since.elapsed().unwrap();
        assert!(age < Duration::from_secs(60), "{age:?}");
        kill(state.path(), 0, journal, Vec::new());
        assert_eq!(open(state.path()).1, Left::default(), "it was said before");
    }

    #[test]
    fn what_has_no_place_is_counted_and_places_are_used_again() {
        let state = tempfile::tempdir().unwrap();
        let (journal, _) = open(state.path());
        let now = Instant::now();
        let mut begun: Vec<Begun> = (0..CALLS + 20)
            .map(|id| journal.begin("t", id.to_string().as_bytes(), None, now))
            .collect();
        begun.truncate(CALLS_AND_TEN);
        for _ in 0..1000 {
            drop(begun.swap_remove(0));
            begun.push(journal.begin("again", b"1", None, now));
        }
        let named = begun.iter().filter(|it| it.slot.is_some()).count();
        kill(state.path(), 0, journal, begun);
        let (_, left) = open(state.path());
        assert_eq!(
            (left.calls.len(), left.more),
            (named, (CALLS_AND_TEN - named) as u64)
        );
    }

    #[test]
    fn names_are_kept_once_and_calls_by_more_names_than_that_are_counted() {
        let state = tempfile::tempdir().unwrap();
        let (journal, _) = open(state.path());
        let begin = |n: usize| {
            journal.begin(
                &format!("tool-{}", n % (NAMES + 5)),
                b"1",
                None,
                Instant::now(),
            )
        };
        let begun: Vec<Begun> = (0..NAMES + 20).map(begin).collect();
        kill(state.path(), 0, journal, begun);
        let (_, left) = open(state.path());
        assert_eq!((left.calls.len(), left.more), (NAMES + 15, 5));
        let second = |call: &&Unfinished| call.tool == "tool-7";
        assert_eq!(left.calls.iter().filter(second).count(), 2);
    }

    #[test]
    fn instances_have_one_each_and_the_living_are_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let (one, _) = open(state.path());
        let (two, _) = open(state.path());
        let now = Instant::now();
        let alive = one.begin("alive", b"1", None, now);
        let dead = two.begin("dead", b"2", None, now);
        kill(state.path(), 1, two, vec![dead]);
        let (three, left) = open(state.path());
        let tools: Vec<&str> = left.calls.iter().map(|call| &*call.tool).collect();
        assert_eq!(tools, ["dead"]);
        assert_eq!(
            std::fs::read_dir(state.path().join(DIRECTORY))
                .unwrap()
                .count(),
            2
        );
        drop((alive, three));
    }

    #[test]
    fn any_bytes_are_read() {
        use proptest::prelude::*;
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(DIRECTORY).join("0");
        kill(state.path(), 0, open(state.path()).0, Vec::new());
        proptest!(ProptestConfig::with_cases(64), |(tail in proptest::collection::vec(any::<u8>(), 0..2 * SIZE))| {
            let bytes = [&MAGIC.to_le_bytes()[..], &tail].concat();
            std::fs::write(&path, bytes).unwrap();
            let (journal, left) = open(state.path());
            prop_assert!(left.calls.len() < CALLS_AND_TEN);
            prop_assert_eq!(path.metadata().unwrap().len(), SIZE as u64);
            kill(state.path(), 0, journal, Vec::new());
        });
    }
}
