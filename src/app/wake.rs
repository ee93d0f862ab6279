//! What the loop waits for.

use super::farewell::Farewell;
use super::overlap::{Leaving, Newcomer};
use super::replace::Replacing;
use super::stdio::{Loop, LoopError};
use crate::mcp::Direction;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What woke the loop up.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Ready {
    pub(super) client_in: bool,
    /// The client has closed our input, and a server that does not read is in the way of its end.
    pub(super) hangup: bool,
    pub(super) client_gone: bool,
    pub(super) server_out: bool,
    pub(super) stderr: bool,
    pub(super) spawner: bool,
    pub(super) signals: bool,
    pub(super) asked: bool,
    pub(super) newcomer: bool,
    pub(super) newcomer_stderr: bool,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    ClientIn,
    ClientHangup,
    ServerOut,
    Write,
    Seldom,
}

/// Messages that were read without asking `poll`, since it was asked last.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Which way the last one went.
    last: Option<Direction>,
    count: u8,
}

impl Followed {
    /// After so many `poll` is asked in any case: stderr, signals and the spawner may have news.
    const MOST: u8 = 16;

    /// `poll` said that there is something to read.
    pub(super) fn read(&mut self, direction: Direction) {
        self.last = Some(direction);
    }

    fn give_up(&mut self) -> bool {
        *self = Self::default();
        false
    }
}

impl Loop {
    /// Reads what has come back while the last message was written, which saves a `poll`: whoever is
    /// woken by our write often runs first, and has answered when we are back.
    pub(super) fn follow(&mut self) -> bool {
        self.followed.count += 1;
        let direction = match self.followed.last {
            Some(last) if self.followed.count <= Followed::MOST => last,
            _ => return self.followed.give_up(),
        };
        let read = match (direction, &self.client_in, &self.server_out) {
            (Direction::ToServer, _, Some(fd)) if self.reads_server() => {
                self.to_client.read_now(fd.as_fd())
            }
            (Direction::ToClient, Some(fd), _) if self.reads_client() => {
                self.to_server.read_now(fd.as_fd())
            }
            _ => false,
        };
        if !read {
            return self.followed.give_up();
        }
        self.followed.last = Some(match direction {
            Direction::ToServer => Direction::ToClient,
            Direction::ToClient => Direction::ToServer,
        });
        true
    }

    fn reads_client(&self) -> bool {
        !self.keeps_client_waiting() && self.to_server.wants_input() && !self.to_client.is_clogged()
    }

    fn reads_server(&self) -> bool {
        self.to_client.wants_input() && !self.to_server.is_clogged()
    }

    /// Waits for something to do.
    pub(super) fn wait(&mut self) -> Result<Ready, LoopError> {
        let system = |doing| move |source| LoopError::System { doing, source };
        self.seldom
            .wake_at(self.due())
            .map_err(system("set its timer"))?;
        let (mut ready, mut news) = (Ready::default(), false);
        {
            // Two lists in step: what is polled, and what its readiness means.
            let mut fds: [Option<(BorrowedFd<'_>, PollFlags, Slot)>; 6] = [None; 6];
            let mut count = 0;
            let mut add = |fd, flags, slot| {
                fds[count] = Some((fd, flags, slot));
                count += 1;
            };
            if let Some(fd) = &self.client_in
                && self.reads_client()
            {
                add(fd.as_fd(), PollFlags::POLLIN, Slot::ClientIn);
            }
            if let Some(fd) = &self.server_out
                && self.reads_server()
            {
                add(fd.as_fd(), PollFlags::POLLIN, Slot::ServerOut);
            }
            // A server that does not read must not hide that the client has gone: POLLHUP comes
            // without being asked for. It would come again at once, so it is noted only once.
            if let Some(fd) = &self.client_in
                && self.started
                && self.to_server.has_output()
                && !self.hung_up
            {
                add(fd.as_fd(), PollFlags::empty(), Slot::ClientHangup);
            }
            if let Some(outlet) = &self.server_in
                && self.to_server.has_output()
            {
                add(outlet.as_fd(), PollFlags::POLLOUT, Slot::Write);
            }
            if let Some(outlet) = &self.client_out
                && self.to_client.has_output()
            {
                add(outlet.as_fd(), PollFlags::POLLOUT, Slot::Write);
            }
            add(self.seldom.as_fd(), PollFlags::POLLIN, Slot::Seldom);

            let idle = self.signals.as_fd();
            let mut polled: [PollFd<'_>; 6] = std::array::from_fn(|at| match fds[at] {
                Some((fd, flags, _)) => PollFd::new(fd, flags),
                None => PollFd::new(idle, PollFlags::empty()),
            });
            match poll(&mut polled[..count], PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(system("poll")(error.into())),
            }
            for (place, entry) in polled.iter().zip(fds.iter().flatten()) {
                let got = place.revents().unwrap_or(PollFlags::empty());
                if got.is_empty() {
                    continue;
                }
                match entry.2 {
                    Slot::ClientIn => ready.client_in = true,
                    Slot::ClientHangup => ready.hangup = true,
                    Slot::ServerOut => ready.server_out = true,
                    Slot::Write => {}
                    Slot::Seldom => news = true,
                }
            }
        }
        if news {
            self.seldom.look(&mut ready);
        }
        Ok(ready)
    }

    /// The next deadline; none when there is none, so that an idle pair never wakes up.
    fn due(&self) -> Option<Instant> {
        let due = [
            self.session.next_due(),
            self.life.due(),
            self.restarts.due().filter(|_| !self.frozen),
            self.replacing
                .as_ref()
                .and_then(Replacing::due)
                .filter(|_| !self.frozen && self.is_drainable()),
            self.farewell.as_ref().map(Farewell::due),
            self.newcomer.as_ref().and_then(Newcomer::due),
            self.again_due(),
            self.leaving.iter().filter_map(Leaving::due).min(),
            self.rest_at,
            self.health.watchdog_due(),
        ];
        due.into_iter().flatten().min()
    }
}

pub(super) fn readable(fd: BorrowedFd<'_>, within: Duration) -> bool {
    becomes(fd, PollFlags::POLLIN, within)
}

pub(super) fn writable(fd: BorrowedFd<'_>, within: Duration) -> bool {
    becomes(fd, PollFlags::POLLOUT, within)
}

fn becomes(fd: BorrowedFd<'_>, flags: PollFlags, within: Duration) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    let timeout = PollTimeout::try_from(within.as_millis()).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|count| count > 0)
}
