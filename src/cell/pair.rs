//! Two ends that carry whole messages and descriptors: how our processes talk to each other.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::fd::OwnedFd;

/// Both ends of a SOCK_SEQPACKET pair (`unix(7)`), close-on-exec: a message keeps its edges, and the end
/// of one side is seen on the other.
///
/// # Errors
/// Those of `socketpair(2)`: no more descriptors, or no more memory.
pub(super) fn packets() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}
