//! A writer that never blocks the loop, whatever its descriptor is and whoever shares it. What it does
//! not take stays with the caller.
//!
//! Standard output is shared: a pipe's O_NONBLOCK lives in the open file description, so setting it
//! would change the client's other programs too. A pipe is therefore opened once more through
//! `/proc/self/fd` (a description of our own), a socket is written with MSG_DONTWAIT, and files and
//! terminals are written plainly.

use super::grow_pipe;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::MsgFlags;
use nix::sys::stat::{Mode, SFlag};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a pipe holds unless it was grown (pipe(7)).
const PIPE_DEFAULT: usize = 64 << 10;

/// What `poll` promises that a pipe takes without blocking (PIPE_BUF in pipe(7)).
const PIPE_ATOM: usize = 4096;

/// How the descriptor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A pipe with a description of our own: O_NONBLOCK.
    Pipe,
    /// A pipe whose description is shared: asked first, then written in steps that cannot block.
    SharedPipe,
    /// A socket: MSG_DONTWAIT.
    Socket,
    /// A file, a terminal, `/dev/null`.
    Plain,
}

/// One descriptor to write to.
#[derive(Debug)]
pub struct Outlet {
    fd: OwnedFd,
    way: Way,
    grown: bool,
}

impl Outlet {
    /// Takes a descriptor over.
    ///
    /// # Errors
    /// That the descriptor cannot be asked what it is (`fstat(2)`).
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(nix::sys::stat::fstat(&fd)?.st_mode) & SFlag::S_IFMT;
        let (fd, way) = match kind {
            SFlag::S_IFIFO => match reopen(&fd) {
                Ok(own) => (own, Way::Pipe),
                // No /proc, or the pipe belongs to another user.
                Err(_) => (fd, Way::SharedPipe),
            },
            SFlag::S_IFSOCK => (fd, Way::Socket),
            _ => (fd, Way::Plain),
        };
        Ok(Self {
            fd,
            way,
            grown: false,
        })
    }

    /// Takes over a pipe whose description nobody shares and which does not block already.
    #[must_use]
    pub fn exclusive(fd: OwnedFd) -> Self {
        Self {
            fd,
            way: Way::Pipe,
            grown: false,
        }
    }

    /// Writes as much as the descriptor takes now; 0 when it takes nothing.
    ///
    /// # Errors
    /// Those of `write(2)` but `EAGAIN` and `EINTR`; `BrokenPipe` when the reader is gone.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.grow_for(bytes.len());
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let count = write_some(self.fd.as_fd(), self.way, rest)?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    fn grow_for(&mut self, bytes: usize) {
        if bytes > PIPE_DEFAULT && !self.grown {
            self.grown = true;
            if let Way::Pipe | Way::SharedPipe = self.way {
                grow_pipe(&self.fd);
            }
        }
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A description of our own for the pipe behind `fd` (proc_pid_fd(5)).
fn reopen(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    nix::fcntl::open(path.as_str(), flags, Mode::empty())
}

/// Writes once; 0 when the descriptor takes nothing now.
fn write_some(fd: BorrowedFd<'_>, way: Way, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let outcome = match way {
            Way::Pipe | Way::Plain => nix::unistd::write(fd, bytes),
            Way::SharedPipe => write_atom(fd, bytes),
            Way::Socket => nix::sys::socket::send(
                fd.as_raw_fd(),
                bytes,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ),
        };
        match outcome {
            Ok(count) => return Ok(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A pipe that `poll` calls writable takes PIPE_BUF bytes without blocking.
fn write_atom(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let mut ask = [PollFd::new(fd, PollFlags::POLLOUT)];
    if nix::poll::poll(&mut ask, PollTimeout::ZERO)? == 0 {
        return Ok(0);
    }
    nix::unistd::write(fd, bytes.get(..PIPE_ATOM).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn pipe() -> (std::fs::File, Outlet) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        (read.into(), Outlet::new(write).unwrap())
    }

    #[test]
    fn a_full_pipe_takes_a_part_and_the_shared_description_stays_blocking() {
        let (mut read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let shared = write.try_clone().unwrap();
        let mut outlet = Outlet::new(write).unwrap();
        assert_eq!(outlet.way, Way::Pipe);
        let flags = nix::fcntl::fcntl(&shared, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));

        let run = [vec![b'a'; 3 << 20], b"\n".to_vec()].concat();
        let mut taken = outlet.write(&run).unwrap();
        assert!(taken > 0 && taken < run.len(), "{taken}");
        let mut got = Vec::new();
        let mut piece = vec![0; 1 << 20];
        while got.len() < run.len() {
            let count = nix::unistd::read(&mut read, &mut piece).unwrap();
            got.extend_from_slice(&piece[..count]);
            taken += outlet.write(&run[taken..]).unwrap();
        }
        assert!(got == run);
    }

    #[test]
    fn a_socket_takes_a_part_and_a_gone_reader_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut outlet = Outlet::new(near.into()).unwrap();
        assert_eq!(outlet.way, Way::Socket);
        let run = vec![b'\n'; 8 << 20];
        let taken = outlet.write(&run).unwrap();
        assert!(taken > 0 && taken < run.len());
        drop(far);
        let error = outlet.write(&run).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

        let (read, mut outlet) = pipe();
        drop(read);
        let error = outlet.write(b"x\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_pipe_that_cannot_be_reopened_is_written_in_steps() {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut outlet = Outlet {
            fd: write,
            way: Way::SharedPipe,
            grown: false,
        };
        let run = vec![b'\n'; 60 << 10];
        assert_eq!(outlet.write(&run).unwrap(), run.len());
        assert_eq!(outlet.write(&run).unwrap(), 4 << 10);
        assert_eq!(outlet.write(&run).unwrap(), 0);
        let mut got = vec![0; 64 << 10];
        std::fs::File::from(read).read_exact(&mut got).unwrap();
    }
}
