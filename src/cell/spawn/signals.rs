//! The signals that the spawner listens to, as a descriptor.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What came since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// A child changed its state.
    pub(super) child: bool,
    /// SIGTERM: the death notice of the parent, or somebody else's, which does not count.
    pub(super) terminate: bool,
}

/// Blocks what a terminal or a service manager sends to a whole group, and reads it in peace.
///
/// Blocked rather than ignored: an ignored signal stays ignored across exec and would reach the
/// server; the launcher empties the mask before it executes one.
#[derive(Debug)]
pub(super) struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    pub(super) fn open() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGTSTP,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            descriptor: SignalFd::with_flags(&set, flags)?,
        })
    }

    /// Takes everything that is waiting; each kind waits at most once, so this ends.
    pub(super) fn take(&self) -> Seen {
        let mut seen = Seen::default();
        while let Ok(Some(signal)) = self.descriptor.read_signal() {
            let is = |s: Signal| i64::from(signal.ssi_signo) == i64::from(s as i32);
            seen.child |= is(Signal::SIGCHLD);
            seen.terminate |= is(Signal::SIGTERM);
        }
        seen
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
