//! The inotify descriptors of the server, on which the supervisor puts the watches.
//!
//! Where the kernel lets us, a descriptor is borrowed for each watch (`pidfd_getfd(2)`, Linux 5.6).
//! Where a filter around us refuses that, as in most pods, the supervisor makes the descriptors itself,
//! gives the server one end of the same open file, and keeps the other.

use super::grants::of_rustix;
use super::notice::{process, status_flags};
use super::serve::read;
use crate::cell::sys::{self, Unotify};
use nix::errno::Errno;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, inotify};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How many are kept. A user has 128 (`fs.inotify.max_user_instances`); we cannot know when the server
/// is done with one, and the oldest takes no further watches.
const KEPT: usize = 64;

/// How a watch gets on a descriptor of the server's.
#[derive(Debug)]
pub(super) enum Watchers {
    Borrowed,
    /// Newest first.
    Made(VecDeque<OwnedFd>),
}

impl Watchers {
    /// Tries to borrow one of that process, which is ours.
    pub(super) fn of(child: Pid) -> Self {
        match borrow(child, 0) {
            Ok(_) | Err(Errno::EBADF) => Self::Borrowed,
            Err(_) => Self::Made(VecDeque::new()),
        }
    }

    /// Answers a call for a new one by making it.
    pub(super) fn give(
        &mut self,
        listener: BorrowedFd<'_>,
        call: u64,
        flags: i32,
    ) -> Result<(), Errno> {
        let Self::Made(kept) = self else {
            return Err(Errno::ENOSYS);
        };
        let open = inotify::CreateFlags::CLOEXEC
            | (inotify::CreateFlags::from_bits_retain(flags.cast_unsigned())
                & inotify::CreateFlags::NONBLOCK);
        let made = inotify::init(open).map_err(of_rustix)?;
        give(listener, call, &made, flags & libc::IN_CLOEXEC != 0)?;
        kept.push_front(made);
        kept.truncate(KEPT);
        Ok(())
    }

    /// The descriptor that a thread of the server calls by that number.
    pub(super) fn find(&self, thread: i32, number: i32) -> Result<OwnedFd, Errno> {
        if number < 0 {
            return Err(Errno::EBADF);
        }
        let kept = match self {
            Self::Borrowed => return borrow_of(thread, number),
            Self::Made(kept) => kept,
        };
        let theirs = format!("/proc/{thread}/fdinfo/{number}");
        let appends = || -> Option<bool> {
            let flags = status_flags(&read(theirs.clone()).ok()?)?;
            Some(flags & libc::O_APPEND.cast_unsigned() != 0)
        };
        if appends().is_none() {
            return Err(Errno::EBADF);
        }
        let found = kept.iter().find(|ours| is_seen(ours, &appends));
        let found = found.ok_or(Errno::EINVAL)?;
        found.try_clone().map_err(|_| Errno::ENOMEM)
    }
}

/// `SECCOMP_ADDFD_FLAG_SEND` (Linux 5.14): the number of the new descriptor answers the call.
const ANSWERS: u32 = 2;

/// Whether it is the same open file: its status flags are one for all who hold it, and O_APPEND means
/// nothing on this one. What the server does to them meanwhile confuses its own watches alone.
fn is_seen(ours: &OwnedFd, appends: &dyn Fn() -> Option<bool>) -> bool {
    let Ok(before) = fcntl_getfl(ours) else {
        return false;
    };
    let follows = |mark: bool| {
        let mut flags = before;
        flags.set(OFlags::APPEND, mark);
        fcntl_setfl(ours, flags).is_ok() && appends() == Some(mark)
    };
    let seen = follows(true) && follows(false);
    fcntl_setfl(ours, before).ok();
    seen
}

/// Answers a call with a descriptor of ours.
pub(super) fn give(
    listener: BorrowedFd<'_>,
    call: u64,
    ours: &OwnedFd,
    closes: bool,
) -> Result<(), Errno> {
    let addition = libc::seccomp_notif_addfd {
        id: call,
        flags: ANSWERS,
        srcfd: ours.as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: if closes {
            libc::O_CLOEXEC.cast_unsigned()
        } else {
            0
        },
    };
    sys::listen(listener, &mut Unotify::Add(addition))
}

/// What a thread calls by that number, here.
pub(super) fn borrow_of(thread: i32, number: i32) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    let status = read(format!("/proc/{thread}/status"))?;
    let process = process(&status).and_then(Pid::from_raw);
    borrow(process.ok_or(Errno::ESRCH)?, number)
}

/// A descriptor of that process, here.
fn borrow(process: Pid, number: i32) -> Result<OwnedFd, Errno> {
    let process = pidfd_open(process, PidfdFlags::empty()).map_err(|_| Errno::EACCES)?;
    let lent = pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty());
    lent.map_err(|error| match of_rustix(error) {
        Errno::EBADF => Errno::EBADF,
        _ => Errno::EACCES,
    })
}
