//! Bytes from one connection to another and back, through the kernel's pipes, never through memory
//! of ours (`splice(2)`).

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a pipe holds, and so what is on its way in one direction, in bytes.
const ROOM: usize = 256 * 1024;

/// One direction.
struct Flow<'a> {
    read: OwnedFd,
    write: OwnedFd,
    room: usize,
    /// Bytes in the pipe.
    held: usize,
    /// Nothing more comes.
    ended: bool,
    /// The other side was told so.
    told: bool,
    /// Bytes that have left the pipe.
    moved: &'a AtomicU64,
}

/// What a move did.
#[derive(PartialEq, Eq)]
enum Moved {
    Some,
    Nothing,
}

impl<'a> Flow<'a> {
    fn new(moved: &'a AtomicU64) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user's pipes may be small when he has many (pipe(7), pipe-user-pages-soft).
        let room = fcntl_setpipe_size(&write, ROOM).unwrap_or(4096);
        Ok(Self {
            read,
            write,
            room,
            held: 0,
            ended: false,
            told: false,
            moved,
        })
    }

    /// Whether there is room for more of what `from` has to say.
    fn listens(&self) -> bool {
        !self.ended && self.held == 0
    }

    fn fill(&mut self, from: &TcpStream) -> io::Result<Moved> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match splice(from, None, &self.write, None, self.room, flags) {
            Ok(0) => {
                self.ended = true;
                Ok(Moved::Some)
            }
            Ok(count) => {
                self.held += count;
                Ok(Moved::Some)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    fn drain(&mut self, to: &TcpStream) -> io::Result<Moved> {
        if self.held == 0 {
            if self.ended && !self.told {
                self.told = true;
                // It may have closed by itself.
                to.shutdown(Shutdown::Write).ok();
                return Ok(Moved::Some);
            }
            return Ok(Moved::Nothing);
        }
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match splice(&self.read, None, to, None, self.held, flags) {
            Ok(count) => {
                self.held = self.held.saturating_sub(count);
                self.moved.fetch_add(count as u64, Ordering::Relaxed);
                Ok(Moved::Some)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    fn done(&self) -> bool {
        self.told
    }
}

/// Looks at what the client says first; `false` when it is not to go on.
pub(super) type Inspect<'a> = &'a mut dyn FnMut(&TcpStream) -> Option<bool>;

/// Carries bytes both ways until both sides have ended, one of them failed, or neither said anything
/// for `idle` seconds.
///
/// `inspect` is asked before the first bytes of the client pass, each time that more of them are
/// there: `None` waits for more, `Some(false)` ends it all. The sockets do not block afterwards. What is
/// `sent` to the host and `received` from it is counted as it passes.
///
/// # Errors
/// No pipes, or a connection that broke.
pub(super) fn carry(
    client: &TcpStream,
    host: &TcpStream,
    idle: i64,
    mut inspect: Option<Inspect<'_>>,
    (sent, received): (&AtomicU64, &AtomicU64),
) -> io::Result<()> {
    let (mut up, mut down) = (Flow::new(sent)?, Flow::new(received)?);
    client.set_nonblocking(true)?;
    host.set_nonblocking(true)?;
    let patience = Timespec {
        tv_sec: idle,
        tv_nsec: 0,
    };
    loop {
        if up.done() && down.done() {
            return Ok(());
        }
        if let Some(asked) = &mut inspect {
            match asked(client) {
                None => {}
                Some(true) => inspect = None,
                Some(false) => return Err(io::ErrorKind::PermissionDenied.into()),
            }
        }
        let passes = inspect.is_none();
        match step(&mut up, &mut down, client, host, passes) {
            Ok(Moved::Some) => continue,
            Ok(Moved::Nothing) => {}
            Err(error) => return Err(error),
        }
        let wants = |read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            flags
        };
        // What is not asked for cannot wake us, but an error or the end of both ways can.
        let ours = wants(up.listens(), down.held > 0);
        let theirs = wants(down.listens(), up.held > 0);
        let mut fds = Vec::with_capacity(2);
        for (stream, wanted) in [(client, ours), (host, theirs)] {
            if !wanted.is_empty() {
                fds.push(PollFd::from_borrowed_fd(stream.as_fd(), wanted));
            }
        }
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !passes {
            // Bytes that are only looked at stay where they are and would wake us again at once.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

fn step<'a>(
    up: &mut Flow<'a>,
    down: &mut Flow<'a>,
    client: &TcpStream,
    host: &TcpStream,
    passes: bool,
) -> io::Result<Moved> {
    let mut moved = Moved::Nothing;
    for (flow, from, to, open) in [(up, client, host, passes), (down, host, client, true)] {
        if open && flow.listens() && flow.fill(from)? == Moved::Some {
            moved = Moved::Some;
        }
        if flow.drain(to)? == Moved::Some {
            moved = Moved::Some;
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn both_ways_pass_and_each_end_is_told_apart() {
        let (mut client, inner) = pair();
        let (outer, mut host) = pair();
        let relay = std::thread::spawn(move || {
            let counts = (AtomicU64::new(0), AtomicU64::new(0));
            carry(&inner, &outer, 10, None, (&counts.0, &counts.1)).unwrap();
            (counts.0.into_inner(), counts.1.into_inner())
        });
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let sent = data.clone();
        let mut writer = client.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        host.read_to_end(&mut got).unwrap();
        assert_eq!(got, data);
        // The client has ended its way; the host's is open still.
        host.write_all(b"answer").unwrap();
        drop(host);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        sender.join().unwrap();
        assert_eq!(relay.join().unwrap(), (3_000_000, 6));
    }

    #[test]
    fn nothing_passes_before_it_was_looked_at() {
        let (mut client, inner) = pair();
        let (outer, mut host) = pair();
        let relay = std::thread::spawn(move || {
            let mut look = |stream: &TcpStream| {
                let mut bytes = [0; 4];
                match stream.peek(&mut bytes) {
                    Ok(n) if n >= 4 => Some(bytes == *b"good"),
                    _ => None,
                }
            };
            let counts = (AtomicU64::new(0), AtomicU64::new(0));
            carry(&inner, &outer, 10, Some(&mut look), (&counts.0, &counts.1))
        });
        host.write_all(b"hello").unwrap();
        let mut hello = [0; 5];
        client.read_exact(&mut hello).unwrap();
        client.write_all(b"ba").unwrap();
        client.write_all(b"d!").unwrap();
        let refused = relay.join().unwrap().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let mut got = Vec::new();
        host.read_to_end(&mut got).unwrap_or(0);
        assert_eq!(got, b"");
    }

    #[test]
    fn silence_ends_after_its_time() {
        let (_client, inner) = pair();
        let (outer, _host) = pair();
        let none = AtomicU64::new(0);
        let end = carry(&inner, &outer, 1, None, (&none, &none)).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
    }
}
