//! Opens what should be a regular file, and never waits for what is none.
//!
//! A FIFO that nobody writes would hold whoever opens it, and a terminal could become ours. What the
//! path names is looked at once it is open: it may be another thing a moment later.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a regular file to read it.
///
/// # Errors
/// What open(2) says; [`io::ErrorKind::InvalidInput`] for anything else than a regular file.
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Close-on-exec is always set.
    let options = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open_file`], what read(2) says, and [`io::ErrorKind::FileTooLarge`].
pub fn read_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_file(path)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let begun = Instant::now();
        for path in [&fifo, &socket, dir.path(), Path::new("/dev/null")] {
            assert!(open_file(path).is_err(), "{}", path.display());
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        let file = dir.path().join("file");
        std::fs::write(&file, "1234").unwrap();
        assert_eq!(read_file(&file, 4).unwrap(), b"1234");
        let error = read_file(&file, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
