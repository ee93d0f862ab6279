//! Sees what the cell's network refuses by itself: attempts at addresses and ports on which nobody
//! listens, so that the operator hears of them too.
//!
//! A packet socket (`packet(7)`) on the cell's loopback, with a filter for the first packet of a TCP
//! connection and for datagrams, both to anywhere but the cell's own loopback. It only looks.

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use socket2::{SockFilter, Socket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

/// Bytes of a packet that are of interest: both headers, with room for options.
const LOOK: usize = 64;
/// Packets that are looked at before others have their turn.
pub(super) const AT_ONCE: usize = 32;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) to: SocketAddr,
    pub(super) datagram: bool,
}

/// Opens the socket in this network; needs CAP_NET_RAW there.
pub(super) fn open() -> io::Result<OwnedFd> {
    // ETH_P_IP; the protocol is in network order.
    let protocol = NonZeroU32::new(u32::from(0x0800_u16.to_be())).map(Protocol::from_raw);
    let kind = SocketType::DGRAM;
    let socket =
        rustix::net::socket_with(AddressFamily::PACKET, kind, SocketFlags::CLOEXEC, protocol)?;
    let socket = Socket::from(socket);
    socket.attach_filter(&filter())?;
    Ok(socket.into())
}

/// Classic BPF (`linux/filter.h`), from the first byte of the IP header on.
fn filter() -> [SockFilter; 15] {
    const BYTE: u16 = 0x30;
    const BYTE_AT_X: u16 = 0x50;
    const WORD: u16 = 0x20;
    const HEADER_LENGTH: u16 = 0xb1;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    const HALF: u16 = 0x28;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let step = SockFilter::new;
    let take = || step(RETURN, 0, 0, 64);
    let pass = step(RETURN, 0, 0, 0);
    [
        // To 127.0.0.0/8: the server's own, and questions to our name server.
        step(WORD, 0, 0, 16),
        step(AND, 0, 0, 0xff00_0000),
        step(EQUAL, 11, 0, 0x7f00_0000),
        // Later fragments have no ports.
        step(HALF, 0, 0, 6),
        step(ANY_BIT, 9, 0, 0x1fff),
        step(BYTE, 0, 0, 9),
        step(EQUAL, 0, 1, u32::from(UDP)),
        take(),
        step(EQUAL, 0, 5, u32::from(TCP)),
        step(HEADER_LENGTH, 0, 0, 0),
        // SYN without ACK.
        step(BYTE_AT_X, 0, 0, 13),
        step(AND, 0, 0, 0x12),
        step(EQUAL, 0, 1, 0x02),
        take(),
        pass,
    ]
}

/// The next attempt; `None` when there is none that can be read.
pub(super) fn next(socket: &OwnedFd) -> Option<Attempt> {
    let mut packet = [0; LOOK];
    let flags = rustix::net::RecvFlags::DONTWAIT;
    let (length, _) = rustix::net::recv(socket, &mut packet[..], flags).ok()?;
    read(packet.get(..length)?)
}

fn read(packet: &[u8]) -> Option<Attempt> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let to: [u8; 4] = *packet.get(16..20)?.first_chunk()?;
    let [p0, p1] = *packet.get(header + 2..header + 4)?.first_chunk()?;
    let datagram = match *packet.get(9)? {
        TCP => false,
        UDP => true,
        _ => return None,
    };
    let address = IpAddr::V4(Ipv4Addr::from(to));
    Some(Attempt {
        to: SocketAddr::new(address, u16::from_be_bytes([p0, p1])),
        datagram,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_packet_is_read() {
        let mut packet = vec![0x45; 28];
        packet[9] = UDP;
        packet[16..20].copy_from_slice(&[203, 0, 113, 5]);
        packet[22..24].copy_from_slice(&9999u16.to_be_bytes());
        let expected = Attempt {
            to: "203.0.113.5:9999".parse().unwrap(),
            datagram: true,
        };
        assert_eq!(read(&packet), Some(expected));
        for cut in 0..24 {
            assert_eq!(read(&packet[..cut]), None, "{cut}");
        }
        packet[0] = 0x4f;
        assert_eq!(read(&packet), None, "options that are not there");
    }
}
