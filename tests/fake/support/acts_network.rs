//! Sockets of every family, and the ways around a rule about `connect`.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK};
    use libc::{SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
    let net = |name, run: Box<dyn Fn() -> Outcome>| act(name, "network", run);
    let open = |name, family, kind, protocol| {
        net(
            name,
            Box::new(move || socket(family, kind, protocol).map(drop)),
        )
    };
    let (tcp, udp) = (inet(t.tcp), inet(t.udp));
    let path = unix_path(&t.unix);
    let hidden = unix(&[&[0], t.abstract_name.as_bytes()].concat());
    let data = b"x".as_ptr() as usize;
    vec![
        net(
            "tcp_connect",
            Box::new(move || connect(socket(AF_INET, SOCK_STREAM, 0)?, &tcp)),
        ),
        net(
            "mptcp_connect",
            Box::new(move || connect(socket(AF_INET, SOCK_STREAM, 262)?, &tcp)),
        ),
        net(
            "tcp_fast_open",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                sys(
                    libc::SYS_sendto,
                    &[fd, data, 1, 0x2000_0000, tcp.as_ptr() as usize, 16],
                )
                .map(drop)
            }),
        ),
        net(
            "tcp_fast_open_by_option",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                let on = 1i32;
                // TCP_FASTOPEN_CONNECT (30): connect() returns at once, the first write connects.
                sys(
                    libc::SYS_setsockopt,
                    &[fd, 6, 30, &raw const on as usize, 4],
                )?;
                connect(fd, &tcp)?;
                sys(libc::SYS_write, &[fd, data, 1]).map(drop)
            }),
        ),
        net(
            "tcp_fast_open_by_message",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                let part = [data, 1];
                // struct msghdr: name, its length, parts, their number, no control data, flags.
                let message = [
                    tcp.as_ptr() as usize,
                    16,
                    part.as_ptr() as usize,
                    1,
                    0,
                    0,
                    0,
                ];
                let message = message.as_ptr() as usize;
                sys(libc::SYS_sendmsg, &[fd, message, 0x2000_0000]).map(drop)
            }),
        ),
        net(
            "tcp_mapped_connect",
            Box::new(move || {
                let mut address = [0u8; 28];
                address[..2].copy_from_slice(&10u16.to_ne_bytes());
                address[2..4].copy_from_slice(&tcp[2..4]);
                address[18..24].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
                connect(socket(AF_INET6, SOCK_STREAM, 0)?, &address)
            }),
        ),
        net(
            "udp_send",
            Box::new(move || {
                let fd = socket(AF_INET, SOCK_DGRAM, 0)?;
                sys(
                    libc::SYS_sendto,
                    &[fd, data, 1, 0, udp.as_ptr() as usize, 16],
                )
                .map(drop)
            }),
        ),
        net(
            "listen",
            Box::new(|| {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                let any = inet(0);
                sys(libc::SYS_bind, &[fd, any.as_ptr() as usize, 16])?;
                sys(libc::SYS_listen, &[fd, 1]).map(drop)
            }),
        ),
        net(
            "listen_without_bind",
            Box::new(|| {
                let fd = socket(AF_INET, SOCK_STREAM, 0)?;
                sys(libc::SYS_listen, &[fd, 1]).map(drop)
            }),
        ),
        net(
            "unix_connect",
            Box::new(move || connect(socket(AF_UNIX, SOCK_STREAM, 0)?, &path)),
        ),
        net(
            "abstract_connect",
            Box::new(move || connect(socket(AF_UNIX, SOCK_STREAM, 0)?, &hidden)),
        ),
        open("ipv6_socket", AF_INET6, SOCK_STREAM, 0),
        open("vsock", AF_VSOCK, SOCK_STREAM, 0),
        open("netlink_route", AF_NETLINK, SOCK_RAW, 0),
        open("netlink_netfilter", AF_NETLINK, SOCK_RAW, 12),
        open("netlink_uevent", AF_NETLINK, SOCK_RAW, 15),
        open("packet", AF_PACKET, SOCK_RAW, 0),
        open("raw_icmp", AF_INET, SOCK_RAW, 1),
        open("kernel_crypto", 38, libc::SOCK_SEQPACKET, 0),
        net(
            "socketpair_of_datagrams_to_no_one",
            Box::new(|| {
                let mut pair = [0i32; 2];
                sys(
                    libc::SYS_socketpair,
                    &[30, 1, 0, pair.as_mut_ptr() as usize],
                )
                .map(drop)
            }),
        ),
    ]
}
