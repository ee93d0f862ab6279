//! Reads a small file whole, and not while somebody writes it.
//!
//! A writer that truncates and writes in place has the file open while it holds half of what it will
//! hold. Where the kernel does not say who has it open ([`Look`]), a file has to be [`STILL`].

use crate::config::open_file;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use zeroize::Zeroizing;

/// Asks whether somebody has a file open to write; `None` where nobody can tell. Whoever opens it to
/// write afterwards waits until it is closed.
pub type Look = fn(&File) -> Option<bool>;

/// From the last change of a file until it is read, where nobody can tell who writes it.
const STILL: Duration = Duration::from_millis(300);
/// How long whoever has nothing to go on with waits for a writer, and how often it looks.
const PATIENCE: Duration = Duration::from_millis(800);
const BETWEEN: Duration = Duration::from_millis(50);

/// There is always room for so many bytes: also a file that grows meanwhile has it.
const SMALL: u64 = 64 * 1024;

/// What a file holds.
#[derive(Debug)]
pub struct Whole {
    pub bytes: Zeroizing<Vec<u8>>,
    pub written: Option<SystemTime>,
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is too large")]
    TooLarge,
    #[error("another process has it open to write, or has just written it")]
    BeingWritten,
}

/// Reads the file, of at most `most` bytes.
///
/// # Errors
/// [`Lack`].
pub fn read_whole(path: &Path, most: u64, look: Look) -> Result<Whole, Lack> {
    let file = match open_file(path) {
        Ok(file) => file,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::InvalidInput => Lack::NotAFile,
                // A lease to write, of somebody else.
                io::ErrorKind::WouldBlock => Lack::BeingWritten,
                _ => Lack::Unreadable(error),
            });
        }
    };
    let writers = look(&file);
    let about = file.metadata()?;
    let written = about.modified().ok();
    // A time that is still to come is that of another clock.
    let age = written.and_then(|at| SystemTime::now().duration_since(at).ok());
    let is_new = age.is_some_and(|age| age < STILL);
    if writers == Some(true) || (writers.is_none() && is_new) {
        return Err(Lack::BeingWritten);
    }
    if about.len() > most {
        return Err(Lack::TooLarge);
    }
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let room = about.len().max(most.min(SMALL)).saturating_add(1);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    (&file)
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Lack::TooLarge);
    }
    if writers.is_none() && file.metadata()?.modified().ok() != written {
        return Err(Lack::BeingWritten);
    }
    Ok(Whole { bytes, written })
}

/// Does it again for a while, as long as `is_written` says of its error that a file is being written.
///
/// # Errors
/// The last one of `read`.
pub fn patiently<T, E>(
    mut read: impl FnMut() -> Result<T, E>,
    is_written: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match read() {
            Err(error) if is_written(&error) && begun.elapsed() < PATIENCE => {
                std::thread::sleep(BETWEEN);
            }
            done => return done,
        }
    }
}
