//! A writer that never blocks the loop, whatever its descriptor is and whoever shares it.
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
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a pipe holds unless it was grown (pipe(7)).
const PIPE_DEFAULT: usize = 64 << 10;

/// What `poll` promises that a pipe takes without blocking (PIPE_BUF in pipe(7)).
const PIPE_ATOM: usize = 4096;

/// Messages given to one `writev(2)`; Linux allows 1024.
const MAX_SLICES: usize = 64;

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

/// The queue of an [`Outlet`] has no room for the message, which is handed back.
#[derive(Debug, thiserror::Error)]
#[error("the queue of the writer is full")]
pub struct QueueFull {
    /// The message that was not taken.
    pub message: Vec<u8>,
}

/// One descriptor to write to, with a bounded queue of messages that it has not taken yet.
///
/// Lines never mix: when a run was cut inside a line, what is queued waits until the rest of the
/// run is written (or given to [`keep_rest`](Self::keep_rest)).
#[derive(Debug)]
pub struct Outlet {
    fd: OwnedFd,
    way: Way,
    /// Whole messages, but for the first `sent` bytes of the first one.
    queue: VecDeque<Vec<u8>>,
    sent: usize,
    queued: usize,
    limit: usize,
    /// The last byte of a run that was taken was not its last: the caller holds the rest.
    cut: bool,
    grown: bool,
}

impl Outlet {
    /// Takes a descriptor over; at most `limit` bytes are queued.
    ///
    /// # Errors
    /// That the descriptor cannot be asked what it is (`fstat(2)`).
    pub fn new(fd: OwnedFd, limit: usize) -> io::Result<Self> {
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
            queue: VecDeque::new(),
            sent: 0,
            queued: 0,
            limit,
            cut: false,
            grown: false,
        })
    }

    /// True when readiness can be waited for; a file or terminal is always written at once.
    #[must_use]
    pub fn is_pollable(&self) -> bool {
        self.way != Way::Plain
    }

    /// Bytes that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that [`push`](Self::push) would still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.queued)
    }

    /// Writes as much of a run of whole lines as the descriptor takes now, after what is queued.
    /// What it did not take stays with the caller, who offers it again or calls
    /// [`keep_rest`](Self::keep_rest); until then nothing else is written.
    ///
    /// # Errors
    /// Those of `write(2)` but `EAGAIN` and `EINTR`; `BrokenPipe` when the reader is gone.
    pub fn write_run(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.cut && !self.flush()? {
            return Ok(0);
        }
        self.grow_for(bytes.len());
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let count = write_some(self.fd.as_fd(), self.way, &[IoSlice::new(rest)])?;
            if count == 0 {
                break;
            }
            done += count;
        }
        if done > 0 {
            self.cut = done < bytes.len() && bytes.get(done - 1) != Some(&b'\n');
        }
        Ok(done)
    }

    /// Queues the rest of a run that [`write_run`](Self::write_run) did not take. It counts against
    /// the limit but is never turned away: half a line may be written already.
    pub fn keep_rest(&mut self, rest: Vec<u8>) {
        if rest.is_empty() {
            return;
        }
        self.queued += rest.len();
        if std::mem::take(&mut self.cut) {
            // A run is only begun when the queue is empty: what was pushed since is not begun.
            self.queue.push_front(rest);
        } else {
            self.queue.push_back(rest);
        }
    }

    /// Queues whole lines.
    ///
    /// # Errors
    /// [`QueueFull`] when the limit would be passed. A queue that is empty takes any message.
    pub fn push(&mut self, message: Vec<u8>) -> Result<(), QueueFull> {
        if message.len() > self.room() && self.queued > 0 {
            return Err(QueueFull { message });
        }
        if !message.is_empty() {
            self.queued += message.len();
            self.queue.push_back(message);
        }
        Ok(())
    }

    /// Writes what is queued; true when nothing is left.
    ///
    /// # Errors
    /// As for [`write_run`](Self::write_run).
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.cut && !self.queue.is_empty() {
            self.grow_for(self.queue.front().map_or(0, Vec::len));
            let first = self.queue.front().and_then(|first| first.get(self.sent..));
            let slices: Vec<_> = first
                .into_iter()
                .chain(self.queue.iter().skip(1).map(Vec::as_slice))
                .take(MAX_SLICES)
                .map(IoSlice::new)
                .collect();
            let count = write_some(self.fd.as_fd(), self.way, &slices)?;
            if count == 0 {
                return Ok(false);
            }
            self.advance(count);
        }
        Ok(self.queue.is_empty())
    }

    fn advance(&mut self, count: usize) {
        self.queued -= count;
        self.sent += count;
        while let Some(first) = self.queue.front().filter(|first| first.len() <= self.sent) {
            self.sent -= first.len();
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(MAX_SLICES);
        }
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
fn write_some(fd: BorrowedFd<'_>, way: Way, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        let outcome = match way {
            Way::Pipe | Way::Plain => nix::sys::uio::writev(fd, slices),
            Way::SharedPipe => write_atom(fd, slices),
            Way::Socket => nix::sys::socket::sendmsg::<()>(
                fd.as_raw_fd(),
                slices,
                &[],
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                None,
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
fn write_atom(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> nix::Result<usize> {
    let mut ask = [PollFd::new(fd, PollFlags::POLLOUT)];
    if nix::poll::poll(&mut ask, PollTimeout::ZERO)? == 0 {
        return Ok(0);
    }
    let first = slices.first().map(|slice| &**slice).unwrap_or_default();
    nix::unistd::write(fd, first.get(..PIPE_ATOM).unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn pipe() -> (std::fs::File, Outlet) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        (read.into(), Outlet::new(write, 1 << 20).unwrap())
    }

    #[test]
    fn a_full_pipe_takes_a_part_and_the_shared_description_stays_blocking() {
        let (mut read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let shared = write.try_clone().unwrap();
        let mut outlet = Outlet::new(write, 1 << 20).unwrap();
        assert_eq!(outlet.way, Way::Pipe);
        let flags = nix::fcntl::fcntl(&shared, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));

        let run = [vec![b'a'; 3 << 20], b"\n".to_vec()].concat();
        let taken = outlet.write_run(&run).unwrap();
        assert!(taken > 0 && taken < run.len(), "{taken}");
        outlet.push(b"later\n".to_vec()).unwrap();
        assert!(!outlet.flush().unwrap(), "a cut run must not be mixed");
        outlet.keep_rest(run[taken..].to_vec());

        let mut got = Vec::new();
        let mut piece = vec![0; 1 << 20];
        while got.len() < run.len() + 6 {
            let count = nix::unistd::read(&mut read, &mut piece).unwrap();
            got.extend_from_slice(&piece[..count]);
            outlet.flush().unwrap();
        }
        assert_eq!(outlet.queued(), 0);
        assert!(got.starts_with(&run) && got.ends_with(b"a\nlater\n"));
    }

    #[test]
    fn a_rest_that_was_not_begun_goes_behind_what_is_queued() {
        let (mut read, mut outlet) = pipe();
        outlet
            .push([vec![b'q'; 100 << 10], b"\n".to_vec()].concat())
            .unwrap();
        outlet
            .push([vec![b'q'; 1 << 20], b"\n".to_vec()].concat())
            .unwrap_err();
        outlet.push(vec![b'q'; 900 << 10]).unwrap();
        outlet.push(vec![b'\n'; 4 << 10]).unwrap();
        while outlet.write_run(b"x").unwrap() == 1 {}
        outlet.keep_rest(b"rest\n".to_vec());
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            read.read_to_end(&mut got).unwrap();
            got
        });
        while !outlet.flush().unwrap() {
            std::thread::yield_now();
        }
        drop(outlet);
        assert!(reader.join().unwrap().ends_with(b"rest\n"));
    }

    #[test]
    fn a_socket_takes_a_part_and_a_gone_reader_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut outlet = Outlet::new(near.into(), 10).unwrap();
        assert_eq!(outlet.way, Way::Socket);
        let run = vec![b'\n'; 8 << 20];
        let taken = outlet.write_run(&run).unwrap();
        assert!(taken > 0 && taken < run.len());
        drop(far);
        let error = outlet.write_run(&run).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

        let (read, mut outlet) = pipe();
        drop(read);
        let error = outlet.write_run(b"x\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_pipe_that_cannot_be_reopened_is_written_in_steps() {
        let (mut read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut outlet = Outlet::new(write, 1 << 20).unwrap();
        let (own_read, own_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        drop(read);
        read = own_read;
        outlet.fd = own_write;
        outlet.way = Way::SharedPipe;
        let run = vec![b'\n'; 60 << 10];
        assert_eq!(outlet.write_run(&run).unwrap(), run.len());
        assert_eq!(outlet.write_run(&run).unwrap(), 4 << 10);
        assert_eq!(outlet.write_run(&run).unwrap(), 0);
        let mut got = vec![0; 64 << 10];
        std::fs::File::from(read).read_exact(&mut got).unwrap();
        assert!(outlet.flush().unwrap());
    }

    #[test]
    fn a_file_is_written_whole_and_the_queue_is_bounded() {
        let file = tempfile::tempfile().unwrap();
        let mut outlet = Outlet::new(file.into(), 4).unwrap();
        assert!(!outlet.is_pollable());
        outlet.push(b"one more than the limit\n".to_vec()).unwrap();
        assert_eq!(outlet.push(b"x\n".to_vec()).unwrap_err().message, b"x\n");
        assert!(outlet.flush().unwrap());
        assert_eq!(outlet.room(), 4);
    }
}
