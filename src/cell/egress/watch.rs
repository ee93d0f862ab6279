//! Sees what the cell's network refuses by itself: attempts at addresses and ports on which nobody
//! listens, so that the operator hears of them too.
//!
//! A packet socket (`packet(7)`) on the cell's loopback, with a filter for the first packet of a TCP
//! connection and for datagrams, both to anywhere but the cell's own loopback. It only looks.

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use socket2::{SockFilter, Socket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

/// Bytes of a packet that are of interest: both headers, with room for options.
const LOOK: usize = 64;
/// Packets that are looked at before others have their turn.
pub(super) const AT_ONCE: usize = 32;

/// Bytes of the IPv6 header.
const SIX: u32 = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) to: SocketAddr,
    pub(super) datagram: bool,
}

/// `linux/if_ether.h`.
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Opens the sockets in this network, one for each version of IP; needs CAP_NET_RAW there.
pub(super) fn open() -> impl Iterator<Item = OwnedFd> {
    let four = open_one(ETH_P_IP, &filter());
    let six = open_one(ETH_P_IPV6, &filter_six());
    [four, six].into_iter().flatten()
}

fn open_one(protocol: u16, filter: &[SockFilter]) -> io::Result<OwnedFd> {
    // It is in network order.
    let protocol = NonZeroU32::new(u32::from(protocol.to_be())).map(Protocol::from_raw);
    let kind = SocketType::DGRAM;
    let socket =
        rustix::net::socket_with(AddressFamily::PACKET, kind, SocketFlags::CLOEXEC, protocol)?;
    let socket = Socket::from(socket);
    socket.attach_filter(filter)?;
    Ok(socket.into())
}

// Classic BPF, `linux/filter.h`.
const BYTE: u16 = 0x30;
const BYTE_AT_X: u16 = 0x50;
const WORD: u16 = 0x20;
const HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const HALF: u16 = 0x28;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// All of it: the reader cuts it short.
fn take() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, u32::MAX)
}

/// From the first byte of the IPv4 header on.
fn filter() -> [SockFilter; 15] {
    let step = SockFilter::new;
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

/// From the first byte of the IPv6 header on. Headers between it and TCP or UDP, which no socket of the
/// cell can add, are not followed.
fn filter_six() -> [SockFilter; 17] {
    let step = SockFilter::new;
    let pass = step(RETURN, 0, 0, 0);
    [
        // To ::1.
        step(WORD, 0, 0, 24),
        step(EQUAL, 0, 6, 0),
        step(WORD, 0, 0, 28),
        step(EQUAL, 0, 4, 0),
        step(WORD, 0, 0, 32),
        step(EQUAL, 0, 2, 0),
        step(WORD, 0, 0, 36),
        step(EQUAL, 8, 0, 1),
        step(BYTE, 0, 0, 6),
        step(EQUAL, 0, 1, u32::from(UDP)),
        take(),
        step(EQUAL, 0, 4, u32::from(TCP)),
        // SYN without ACK.
        step(BYTE, 0, 0, SIX + 13),
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

pub(super) fn read(packet: &[u8]) -> Option<Attempt> {
    let (header, protocol, address) = match packet.first()? >> 4 {
        4 => {
            let to: [u8; 4] = *packet.get(16..20)?.first_chunk()?;
            let header = usize::from(packet.first()? & 0xf) * 4;
            (header, packet.get(9)?, IpAddr::V4(Ipv4Addr::from(to)))
        }
        6 => {
            let to: [u8; 16] = *packet.get(24..40)?.first_chunk()?;
            let to = Ipv6Addr::from(to).to_canonical();
            (SIX as usize, packet.get(6)?, to)
        }
        _ => return None,
    };
    let [p0, p1] = *packet.get(header + 2..header + 4)?.first_chunk()?;
    let datagram = match *protocol {
        TCP => false,
        UDP => true,
        _ => return None,
    };
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
        let mut six = vec![0x60; 48];
        six[6] = TCP;
        six[24..40].copy_from_slice(&"2001:db8::5".parse::<Ipv6Addr>().unwrap().octets());
        six[42..44].copy_from_slice(&443u16.to_be_bytes());
        let expected = Attempt {
            to: "[2001:db8::5]:443".parse().unwrap(),
            datagram: false,
        };
        assert_eq!(read(&six), Some(expected));
        assert_eq!(read(&six[..43]), None);
        packet[0] = 0x4f;
        assert_eq!(read(&packet), None, "options that are not there");
    }
}
