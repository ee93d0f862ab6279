//! Brings loopback up in a new network namespace, where even `127.0.0.1` is unreachable at first.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::os::fd::AsRawFd;

/// Always the first device of a network namespace.
const LOOPBACK: i32 = 1;

/// `RTM_NEWLINK` with `IFF_UP` over `rtnetlink(7)`: the same as the ioctl, in plain bytes.
pub(super) fn raise() -> Result<(), Errno> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(netlink.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut answer = [0; 128];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // `struct nlmsgerr`: after the header, 0 or a negative errno.
    let code = answer.get(16..20).and_then(|word| word.first_chunk());
    match code.map(|word| i32::from_ne_bytes(*word)) {
        Some(0) if length >= 20 => Ok(()),
        Some(code) if length >= 20 => Err(Errno::from_raw(code.saturating_neg())),
        _ => Err(Errno::EBADMSG),
    }
}

/// `struct nlmsghdr` and `struct ifinfomsg`.
fn request() -> Vec<u8> {
    const LENGTH: u32 = 32;
    // NLM_F_REQUEST and NLM_F_ACK, which libc types wider than the field.
    const FLAGS: u16 = 0x01 | 0x04;
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    [
        &LENGTH.to_ne_bytes()[..],
        &libc::RTM_NEWLINK.to_ne_bytes(),
        &FLAGS.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &[0; 4],
        &[0; 4],
        &LOOPBACK.to_ne_bytes(),
        &up,
        &up,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_it_says() {
        assert_eq!(request().len(), 32);
    }
}
