//! The server's TCP sockets, which the supervisor connects for it where hosts are allowed by name.
//!
//! A socket is borrowed where the kernel lets us (`pidfd_getfd(2)`). Where a filter around us refuses that,
//! as in most pods, the supervisor makes the sockets, and keeps one end of each until it is connected.

use super::grants::of_rustix;
use super::notice::address;
use super::watchers::{borrow_of, give};
use crate::cell::egress::Way;
use nix::errno::Errno;
use rustix::fs::{CWD, fstat, readlinkat};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Sockets that are kept for whom has not connected them; the oldest can then not be connected any more.
const KEPT: usize = 64;

#[derive(Debug)]
pub(super) struct Sockets {
    way: Way,
    /// Newest first; `None` where they can be borrowed.
    kept: Option<VecDeque<OwnedFd>>,
}

impl Sockets {
    pub(super) fn new(way: Way, borrowed: bool) -> Self {
        let kept = (!borrowed).then(VecDeque::new);
        Self { way, kept }
    }

    /// Answers a call for a new one by making it; the main filter has said what there may be.
    pub(super) fn make(
        &mut self,
        listener: BorrowedFd<'_>,
        call: u64,
        (family, kind, protocol): (i32, i32, i32),
    ) -> Result<(), Errno> {
        let kept = self.kept.as_mut().ok_or(Errno::ENOSYS)?;
        let family = u16::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?;
        let family = AddressFamily::from_raw(family);
        let flags = SocketFlags::from_bits_retain(kind.cast_unsigned());
        let known = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let plain = SocketType::from_raw((kind & !known).cast_unsigned());
        let stream = [AddressFamily::INET, AddressFamily::INET6].contains(&family);
        let protocol = match (stream, protocol) {
            (true, 0 | libc::IPPROTO_TCP) if plain == SocketType::STREAM => Some(ipproto::TCP),
            (false, 0) if family == AddressFamily::NETLINK => None::<Protocol>,
            _ => return Err(Errno::EACCES),
        };
        let ours = SocketFlags::CLOEXEC | flags & SocketFlags::NONBLOCK;
        let made = socket_with(family, plain, ours, protocol).map_err(of_rustix)?;
        give(listener, call, &made, flags.contains(SocketFlags::CLOEXEC))?;
        if stream {
            kept.push_front(made);
            kept.truncate(KEPT);
        }
        Ok(())
    }

    /// Connects what a thread of the server calls by that number to what `memory` says, once `still` has said
    /// that it was that thread's.
    pub(super) fn connect(
        &mut self,
        (thread, number): (i32, i32),
        memory: &[u8],
        still: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<i64, Errno> {
        let meant = address(memory)?;
        let (socket, place) = match &self.kept {
            None => (borrow_of(thread, number)?, None),
            Some(kept) => {
                let place = found(kept, thread, number)?;
                let socket = kept.get(place).ok_or(Errno::EACCES)?;
                (socket.try_clone().map_err(|_| Errno::ENOMEM)?, Some(place))
            }
        };
        still()?;
        self.way.connect(socket.as_fd(), meant)?;
        // What we keep would keep the connection open when the server has closed its end.
        if let (Some(kept), Some(place)) = (&mut self.kept, place) {
            kept.remove(place);
        }
        Ok(0)
    }
}

/// The name of a socket is its inode.
fn found(kept: &VecDeque<OwnedFd>, thread: i32, number: i32) -> Result<usize, Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    let link = readlinkat(CWD, format!("/proc/{thread}/fd/{number}"), Vec::new());
    let link = link.map_err(|_| Errno::EBADF)?;
    let is_it = |ours: &OwnedFd| {
        fstat(ours)
            .is_ok_and(|facts| link.to_bytes() == format!("socket:[{}]", facts.st_ino).as_bytes())
    };
    kept.iter().position(is_it).ok_or(Errno::EACCES)
}
