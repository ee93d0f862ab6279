//! The message process's side: starts the spawner, asks, listens, and outlives it safely. Once it is
//! caged it can neither signal nor open anything, so the guardian above the spawner clears away.

use super::channel::{Channel, Received};
use super::event::Event;
use super::protocol::{HEADER_BYTES, MAX_BODY, Mode, ProtocolError};
use super::request::{Request, Stop};
use super::tree;
use crate::cell::sys;
use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use rustix::stdio::{dup2_stdin, dup2_stdout};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the spawner, or the guardian in its place, may take to end the tree.
const FAREWELL: Duration = Duration::from_secs(6);

/// The code of a guardian that could not begin.
const GUARDIAN_FAILED: u8 = 70;

/// Why there is no spawner to talk to.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot start the spawner: {source}")]
    Launch { source: io::Error },
    /// It died or was killed. Everything that it had started is dead by the time this is returned.
    #[error("the spawner is gone{survivors}")]
    Gone { survivors: String },
    /// It sent what no spawner sends. Nothing it says counts any more.
    #[error("the spawner does not keep to the protocol: {source}")]
    Protocol { source: ProtocolError },
    #[error("cannot read from the spawner: {source}")]
    Read { source: io::Error },
}

/// The running spawner. Dropping it ends the spawner and everything that it started.
#[derive(Debug)]
pub struct Spawner {
    channel: Channel,
    /// The guardian; the spawner is its child.
    child: Pid,
    /// Readable once the guardian has ended.
    ended: OwnedFd,
    gone: bool,
}

impl Spawner {
    /// Divides this process: the copy does `serve` with its end of the socket and ends with the code that
    /// it gives. A copy has read the configuration already and costs a third of what an exec does.
    ///
    /// Call it on the main thread before any other thread exists: the copy has only that one, and dies
    /// with it. This process becomes a subreaper: from now on it inherits what the spawner leaves behind.
    ///
    /// # Errors
    /// No more processes or descriptors.
    pub fn launch(mode: Mode, serve: impl FnOnce(OwnedFd) -> u8) -> Result<Self, SpawnError> {
        let launch = |source| SpawnError::Launch { source };
        tree::adopt_orphans().map_err(launch)?;
        let (channel, theirs) = Channel::pair().map_err(launch)?;
        // Stdin and stdout are the client's connection: nobody else holds them.
        let mut nothing = File::options();
        let nothing = nothing.read(true).write(true);
        let nothing = (mode == Mode::Run).then(|| nothing.open("/dev/null"));
        let nothing = nothing.transpose().map_err(launch)?;
        let copied = sys::fork_into(CloneFlags::empty());
        let Some(child) = copied.map_err(|error| launch(error.into()))? else {
            drop(channel);
            let code = match part(nothing.as_ref()) {
                Ok(()) => serve(theirs),
                Err(_) => GUARDIAN_FAILED,
            };
            end(code);
        };
        let child = Pid::from_raw(child.as_raw()).ok_or(rustix::io::Errno::SRCH);
        let child = child.map_err(|error| launch(error.into()))?;
        let ended = pidfd_open(child, PidfdFlags::empty());
        let ended = ended.map_err(|error| launch(error.into()))?;
        Ok(Self {
            channel,
            child,
            ended,
            gone: false,
        })
    }

    /// Asks for cell `cell`; `Started` or `Failed` will follow.
    ///
    /// # Errors
    /// The spawner is gone, or has not read its requests for a long time.
    pub fn start(&mut self, cell: u32) -> io::Result<()> {
        self.channel.send(&Request::Start { cell }.encode(), &[])
    }

    /// Asks for the end of cell `cell`; `Exited` follows when it ends. Without effect when it has
    /// ended already.
    ///
    /// # Errors
    /// As [`Spawner::start`].
    pub fn stop(&mut self, cell: u32, how: Stop) -> io::Result<()> {
        self.channel
            .send(&Request::Stop { cell, how }.encode(), &[])
    }

    /// Asks for a new audit log in place of one that is full; `Rotated` follows.
    ///
    /// # Errors
    /// As [`Spawner::start`].
    pub fn rotate(&mut self) -> io::Result<()> {
        self.channel.send(&Request::Rotate.encode(), &[])
    }

    /// Asks for the credential files to be read now; `Credentials` follows if something has changed.
    ///
    /// # Errors
    /// As [`Spawner::start`].
    pub fn reread(&mut self) -> io::Result<()> {
        self.channel.send(&Request::Reread.encode(), &[])
    }

    /// Asks for everything to be killed, and for nothing to be started until the switch says so.
    ///
    /// # Errors
    /// As [`Spawner::start`].
    pub fn switch_off(&mut self) -> io::Result<()> {
        self.channel.send(&Request::SwitchOff.encode(), &[])
    }

    /// Asks for the configuration to be read again; `Config` follows.
    ///
    /// # Errors
    /// As [`Spawner::start`].
    pub fn reload(&mut self) -> io::Result<()> {
        self.channel.send(&Request::Reload.encode(), &[])
    }

    /// Says that what servers say is searched for the values of the last `Credentials`.
    ///
    /// # Errors
    /// As [`Spawner::start`].
    pub fn taken(&mut self) -> io::Result<()> {
        self.channel.send(&Request::Taken.encode(), &[])
    }

    /// The next event, `None` when there is none yet (poll the descriptor, it becomes readable).
    ///
    /// # Errors
    /// The spawner is gone or talks nonsense. Before this returns, whatever of its tree was left
    /// has been killed.
    pub fn next_event(&mut self) -> Result<Option<Event>, SpawnError> {
        if self.gone {
            return Err(SpawnError::Gone {
                survivors: String::new(),
            });
        }
        match self.channel.receive(HEADER_BYTES + MAX_BODY) {
            Ok(Received::Datagram(datagram)) => {
                match Event::decode(&datagram.bytes, datagram.fds) {
                    Ok(event) => Ok(Some(event)),
                    Err(source) => {
                        self.clear_away();
                        Err(SpawnError::Protocol { source })
                    }
                }
            }
            Ok(Received::Empty) => Ok(None),
            Ok(Received::Closed) => Err(SpawnError::Gone {
                survivors: self.clear_away(),
            }),
            Err(source) => {
                self.clear_away();
                Err(SpawnError::Read { source })
            }
        }
    }

    /// The guardian ends what the spawner has left, or the spawner does if that was killed; we see to
    /// it that one of them knows, and wait until we have no descendant any more.
    fn clear_away(&mut self) -> String {
        self.gone = true;
        let _ = shutdown(&self.channel, Shutdown::Both);
        let until = Instant::now() + FAREWELL;
        if self.ends_in(FAREWELL) {
            self.wait();
        }
        // What both of them have left is ours by re-parenting.
        while !tree::reap(&mut |_, _| {}) {
            if Instant::now() >= until {
                return "; something that it started is still there".to_owned();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        String::new()
    }

    /// The code of a guardian that has ended.
    fn wait(&self) -> Option<i32> {
        let ended = waitpid(Some(self.child), WaitOptions::empty()).ok()??;
        ended.1.exit_status()
    }

    /// Waits until the guardian has ended; false when it takes too long.
    fn ends_in(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.ended.as_fd(), PollFlags::IN)];
        let limit = super::cell::timespec(limit);
        loop {
            match poll(&mut fds, Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                result => return result.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

/// What a copy that will be the guardian must not share with the message process; `nothing` is what it has
/// for the client's connection.
fn part(nothing: Option<&File>) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    if let Some(nothing) = nothing {
        dup2_stdin(nothing)?;
        dup2_stdout(nothing)?;
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "the copy must not go on as the message process, and nothing here is its own to drop"
)]
fn end(code: u8) -> ! {
    std::process::exit(i32::from(code))
}

impl AsFd for Spawner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let _ = shutdown(&self.channel, Shutdown::Both);
        let ended = self.ends_in(FAREWELL);
        let clean = ended && self.wait() == Some(0);
        if !clean {
            self.clear_away();
        }
    }
}
