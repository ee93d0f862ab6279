//! The server's TCP sockets, which the supervisor connects for it where hosts are allowed by name, and binds
//! where it listens.
//!
//! A socket is borrowed where the kernel lets us (`pidfd_getfd(2)`). Where a filter around us refuses that,
//! as in most pods, the supervisor makes the sockets, and keeps one end of each until it is connected.

use super::Net;
use super::grants::of_rustix;
use super::notice::address;
use super::watchers::{borrow_of, give};
use nix::errno::Errno;
use rustix::fs::{CWD, fstat, readlinkat};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Sockets that are kept for whom has not connected them; the oldest can then not be connected any more.
const KEPT: usize = 64;
/// Sockets that listen and are known by their inodes; more are forgotten.
const LISTENING: usize = 16;

#[derive(Debug)]
pub(super) struct Sockets {
    net: Net,
    /// Newest first; `None` where they can be borrowed.
    kept: Option<VecDeque<OwnedFd>>,
    /// Those that were kept until they listened, newest first.
    listening: VecDeque<u64>,
}

impl Sockets {
    /// `None` where nothing is to be done for any.
    pub(super) fn new(net: Net, borrowed: bool) -> Option<Self> {
        let kept = (!borrowed).then(VecDeque::new);
        let needed = net.way.is_some() || net.host.is_some();
        needed.then(|| Self {
            net,
            kept,
            listening: VecDeque::new(),
        })
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
        whose: (i32, i32),
        memory: &[u8],
        still: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<i64, Errno> {
        let meant = address(memory)?;
        let (socket, place) = self.find(whose)?;
        still()?;
        let way = self.net.way.as_ref().ok_or(Errno::EACCES)?;
        way.connect(socket.as_fd(), meant)?;
        self.let_go(place);
        Ok(0)
    }

    /// The same for the address that it is to have.
    ///
    /// # Errors
    /// `EACCES` for one that is not the server's own.
    pub(super) fn bind(
        &mut self,
        whose: (i32, i32),
        meant: SocketAddr,
        still: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<i64, Errno> {
        let (socket, _) = self.find(whose)?;
        still()?;
        let host = self.net.host.as_ref().ok_or(Errno::EACCES)?;
        host.bind(socket.as_fd(), meant)?;
        Ok(0)
    }

    /// Lets it listen, if it was bound like that.
    pub(super) fn listen(
        &mut self,
        whose: (i32, i32),
        backlog: i32,
        still: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<i64, Errno> {
        let (socket, place) = match self.find(whose) {
            // Another length of the queue, for one that was let go.
            Err(Errno::EACCES) if self.listens(whose) => return Ok(0),
            found => found?,
        };
        still()?;
        let host = self.net.host.as_mut().ok_or(Errno::EACCES)?;
        host.listen(socket.as_fd(), backlog)?;
        if place.is_some() {
            let facts = fstat(&socket).map_err(of_rustix)?;
            self.listening.push_front(facts.st_ino);
            self.listening.truncate(LISTENING);
        }
        self.let_go(place);
        Ok(0)
    }

    /// The socket, and where it is kept.
    fn find(&self, (thread, number): (i32, i32)) -> Result<(OwnedFd, Option<usize>), Errno> {
        let Some(kept) = &self.kept else {
            return Ok((borrow_of(thread, number)?, None));
        };
        let is_it = |ours: &OwnedFd, inode: u64| fstat(ours).is_ok_and(|it| it.st_ino == inode);
        let inode = inode(thread, number)?;
        let place = kept.iter().position(|ours| is_it(ours, inode));
        let place = place.ok_or(Errno::EACCES)?;
        let socket = kept.get(place).ok_or(Errno::EACCES)?;
        Ok((socket.try_clone().map_err(|_| Errno::ENOMEM)?, Some(place)))
    }

    /// What we keep would keep it open when the server has closed its end.
    fn let_go(&mut self, place: Option<usize>) {
        if let (Some(kept), Some(place)) = (&mut self.kept, place) {
            kept.remove(place);
        }
    }

    fn listens(&self, (thread, number): (i32, i32)) -> bool {
        inode(thread, number).is_ok_and(|inode| self.listening.contains(&inode))
    }
}

/// The name of a socket is its inode; what is no socket is none of ours.
fn inode(thread: i32, number: i32) -> Result<u64, Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    let link = readlinkat(CWD, format!("/proc/{thread}/fd/{number}"), Vec::new());
    let link = link.map_err(|_| Errno::EBADF)?;
    let inode = link.to_str().ok();
    let inode = inode.and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
    let inode = inode.and_then(|digits| digits.parse().ok());
    inode.ok_or(Errno::EACCES)
}
