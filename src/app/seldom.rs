//! What is quiet while messages pass, behind one descriptor: `poll` pays for each one that it is
//! given, at every message.

use super::wake::Ready;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

const SPAWNER: u64 = 0;
const SIGNALS: u64 = 1;
const ASKED: u64 = 2;
const ALARM: u64 = 3;
const STDERR: u64 = 4;
const CLIENT_OUT: u64 = 5;
const NEWCOMER: u64 = 6;
const NEWCOMER_STDERR: u64 = 7;
const KINDS: usize = 8;

/// The quiet descriptors, and the alarm clock among them.
#[derive(Debug)]
pub(super) struct Seldom {
    epoll: Epoll,
    alarm: Alarm,
}

impl Seldom {
    /// The three must stay open as long as this does.
    pub(super) fn new(
        spawner: BorrowedFd<'_>,
        signals: BorrowedFd<'_>,
        asked: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm = Alarm::new()?;
        for (fd, which) in [
            (spawner, SPAWNER),
            (signals, SIGNALS),
            (asked, ASKED),
            (alarm.timer.as_fd(), ALARM),
        ] {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, which))?;
        }
        Ok(Self { epoll, alarm })
    }

    /// Watches the server's stderr for lines, until it is [forgotten](Self::forget).
    pub(super) fn watch_stderr(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, STDERR))?)
    }

    /// Watches what the next server says, until each is [forgotten](Self::forget).
    pub(super) fn watch_newcomer(
        &self,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> io::Result<()> {
        for (fd, which) in [(stdout, NEWCOMER), (stderr, NEWCOMER_STDERR)] {
            self.epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, which))?;
        }
        Ok(())
    }

    /// Watches our stdout for a client that stops reading (EPOLLERR, EPOLLHUP), until it is
    /// [forgotten](Self::forget). A file cannot be watched (`EPERM`), and has no reader that could leave.
    pub(super) fn watch_client_out(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::empty(), CLIENT_OUT))
        {
            Ok(()) | Err(Errno::EPERM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Closing would not be enough: another process may hold the same description open (epoll(7)).
    pub(super) fn forget(&self, fd: BorrowedFd<'_>) {
        // Only a descriptor that was never watched fails here.
        _ = self.epoll.delete(fd);
    }

    /// Sees to it that the descriptor wakes its poller at `due`, or earlier.
    ///
    /// # Errors
    /// Those of `timerfd_settime(2)`.
    pub(super) fn wake_at(&mut self, due: Option<Instant>) -> io::Result<()> {
        due.map_or(Ok(()), |due| self.alarm.set(due))
    }

    /// Which of them has news.
    pub(super) fn look(&mut self, ready: &mut Ready) {
        let mut news = [EpollEvent::empty(); KINDS];
        // Interrupted: the next wait says it again.
        let count = self.epoll.wait(&mut news, EpollTimeout::ZERO).unwrap_or(0);
        for event in &news[..count] {
            match event.data() {
                SPAWNER => ready.spawner = true,
                SIGNALS => ready.signals = true,
                ASKED => ready.asked = true,
                ALARM => self.alarm.ring(),
                STDERR => ready.stderr = true,
                NEWCOMER => ready.newcomer = true,
                NEWCOMER_STDERR => ready.newcomer_stderr = true,
                _ => ready.client_gone = true,
            }
        }
    }
}

impl AsFd for Seldom {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// One timer that is set as seldom as possible.
///
/// A timeout handed to each `poll` is a timer set and cancelled at each message. One that ends
/// before the next tick of the kernel reprograms the hardware both times, which costs a virtual
/// machine about 10 us: with it one call in twelve took half as long again.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    /// When it rings; it may ring for something that is settled by then.
    set_for: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Self {
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            set_for: None,
        })
    }

    /// Rings at `due`, or earlier.
    ///
    /// # Errors
    /// Those of `timerfd_settime(2)`.
    pub(super) fn set(&mut self, due: Instant) -> io::Result<()> {
        if self.set_for.is_some_and(|earlier| earlier <= due) {
            return Ok(());
        }
        // Zero would disarm it (timerfd_settime(2)).
        let left = due
            .saturating_duration_since(Instant::now())
            .max(Duration::from_nanos(1));
        let left = TimeSpec::nanoseconds(i64::try_from(left.as_nanos()).unwrap_or(i64::MAX));
        self.timer
            .set(Expiration::OneShot(left), TimerSetTimeFlags::empty())?;
        self.set_for = Some(due);
        Ok(())
    }

    /// It has rung: nothing is set any more.
    pub(super) fn ring(&mut self) {
        // Reading is what silences it; a timer that was set anew meanwhile has nothing to read.
        _ = self.timer.wait();
        self.set_for = None;
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    /// The pipes that stand for what is watched, and what watches them.
    fn seldom() -> (Seldom, Vec<std::os::fd::OwnedFd>) {
        let ends: Vec<_> = (0..3).map(|_| nix::unistd::pipe().unwrap()).collect();
        let seldom = Seldom::new(ends[0].0.as_fd(), ends[1].0.as_fd(), ends[2].0.as_fd()).unwrap();
        let all = ends.into_iter().flat_map(|(read, write)| [read, write]);
        (seldom, all.collect())
    }

    fn wakes_within(seldom: &Seldom, millis: u16) -> bool {
        let mut fds = [PollFd::new(seldom.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(millis)).unwrap() == 1
    }

    #[test]
    fn it_wakes_at_the_earliest_time_it_was_told_and_then_no_more() {
        let (mut seldom, _ends) = seldom();
        let now = Instant::now();
        seldom.wake_at(None).unwrap();
        assert!(!wakes_within(&seldom, 20));
        seldom.wake_at(Some(now + Duration::from_secs(60))).unwrap();
        seldom
            .wake_at(Some(now + Duration::from_millis(30)))
            .unwrap();
        seldom.wake_at(Some(now + Duration::from_secs(90))).unwrap();
        assert!(wakes_within(&seldom, 5000));
        assert!(now.elapsed() >= Duration::from_millis(30));
        let mut ready = Ready::default();
        seldom.look(&mut ready);
        assert!(!ready.spawner && !ready.stderr && !ready.client_gone);
        assert!(!wakes_within(&seldom, 20));
        // A time that is past wakes at once.
        seldom.wake_at(Some(now)).unwrap();
        assert!(wakes_within(&seldom, 5000));
    }

    #[test]
    fn a_reader_that_left_is_news_until_it_is_forgotten() {
        let (mut seldom, _ends) = seldom();
        let (read, write) = nix::unistd::pipe().unwrap();
        seldom.watch_client_out(write.as_fd()).unwrap();
        assert!(!wakes_within(&seldom, 0));
        drop(read);
        assert!(wakes_within(&seldom, 5000));
        let mut ready = Ready::default();
        seldom.look(&mut ready);
        assert!(ready.client_gone);
        seldom.forget(write.as_fd());
        assert!(!wakes_within(&seldom, 0));
        let file = tempfile::tempfile().unwrap();
        seldom.watch_client_out(file.as_fd()).unwrap();
    }
}
