//! Pid 1's part: makes every address local, opens what the relay will serve, and hands it out.

use super::handover::{self, Kind};
use super::rules::Rules;
use super::watch;
use crate::config::EgressRule;
use nix::errno::Errno as NixErrno;
use nix::sys::socket::{
    AddressFamily as NixFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Connections that wait to be accepted, at one listener.
const BACKLOG: i32 = 128;
/// Always the first device of a network namespace.
const LOOPBACK: i32 = 1;

/// Opens the sockets of the cell's network, in which loopback is up, and sends them over `control`.
///
/// # Errors
/// What could not be done, as one sentence; the network then leads nowhere.
pub(in crate::cell) fn open(rules: &[EgressRule], control: OwnedFd) -> Result<(), String> {
    let failed =
        |doing: &'static str| move |error: &dyn std::fmt::Display| format!("{doing}: {error}");
    // Every address is this host's: what nobody listens on is refused at once, and nothing of the
    // cell can wait for an answer that never comes.
    route(NixFamily::Inet).map_err(|error| failed("route")(&error.desc()))?;
    // Kernels without IPv6 have nothing to refuse.
    route(NixFamily::Inet6).ok();
    let names = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let refused = |at: SocketAddr| move |error: Errno| format!("listen on {at}: {error}");
    let mut sockets = vec![
        (Kind::Questions, datagrams(names).map_err(refused(names))?),
        (Kind::Names, listen(names).map_err(refused(names))?),
    ];
    // Without it less is told; nothing more is open.
    sockets.extend(watch::open().map(|socket| (Kind::Attempts, socket)));
    for address in Rules::new(rules).listeners() {
        match listen(address) {
            Ok(listener) => sockets.push((Kind::Connections, listener)),
            Err(_) if address.is_ipv6() => {}
            Err(error) => return Err(refused(address)(error)),
        }
        if sockets.len() > handover::MOST {
            return Err(format!("more than {} hosts and ports", handover::MOST));
        }
    }
    handover::send(control.as_fd(), &sockets).map_err(|error| failed("hand out")(&error))
}

fn plain(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let protocol = (kind == SocketType::STREAM).then_some(ipproto::TCP);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn datagrams(address: SocketAddr) -> Result<OwnedFd, Errno> {
    plain(address, SocketType::DGRAM)
}

fn listen(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = plain(address, SocketType::STREAM)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// `RTM_NEWROUTE` over `rtnetlink(7)`: `ip route add local default dev lo`.
fn route(family: NixFamily) -> Result<(), NixErrno> {
    let netlink = socket(
        NixFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(netlink.as_raw_fd(), &request(family), MsgFlags::empty())?;
    let mut answer = [0; 128];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // `struct nlmsgerr`: after the header, 0 or a negative errno.
    let code = answer.get(16..20).and_then(|word| word.first_chunk());
    match code.map(|word| i32::from_ne_bytes(*word)) {
        Some(0) if length >= 20 => Ok(()),
        Some(code) if length >= 20 => Err(NixErrno::from_raw(code.saturating_neg())),
        _ => Err(NixErrno::EBADMSG),
    }
}

/// `struct nlmsghdr`, `struct rtmsg`, and one attribute: the device.
fn request(family: NixFamily) -> Vec<u8> {
    const LENGTH: u32 = 36;
    // NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL and NLM_F_CREATE.
    const FLAGS: u16 = 0x01 | 0x04 | 0x200 | 0x400;
    // RTA_OIF, with a header of four bytes before the number of the device.
    const DEVICE: [u16; 2] = [8, 4];
    let family = u8::try_from(family as i32).unwrap_or_default();
    [
        &LENGTH.to_ne_bytes()[..],
        &libc::RTM_NEWROUTE.to_ne_bytes(),
        &FLAGS.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &[0; 4],
        // Family, lengths of destination and source (0: all), type of service.
        &[family, 0, 0, 0],
        // Table of local addresses, made by a user program, valid on this host, local.
        &[
            libc::RT_TABLE_LOCAL,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_HOST,
            libc::RTN_LOCAL,
        ],
        &[0; 4],
        &DEVICE[0].to_ne_bytes(),
        &DEVICE[1].to_ne_bytes(),
        &LOOPBACK.to_ne_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_it_says() {
        assert_eq!(request(NixFamily::Inet).len(), 36);
    }
}
