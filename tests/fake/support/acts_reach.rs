//! Sockets to somebody who listens outside, and from there: each act says its name to him.

use crate::calls::*;
use libc::{AF_INET, AF_INET6, AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};

fn inet6(port: u16) -> Vec<u8> {
    let mut address = vec![0; 28];
    address[..2].copy_from_slice(&10u16.to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[23] = 1;
    address
}

fn say(fd: usize, name: &str) -> Outcome {
    sys(libc::SYS_write, &[fd, name.as_ptr() as usize, name.len()]).map(drop)
}

fn port(t: &Targets, key: &str) -> u16 {
    u16::try_from(t.number(key)).unwrap()
}

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let to = |name: &'static str, kind: [c_int; 3], address: Vec<u8>| {
        seen(name, "network", move || {
            let fd = socket(kind[0], kind[1], kind[2])?;
            connect(fd, &address)?;
            say(fd, name)
        })
    };
    let hidden = |suffix: &str| {
        let name = format!("\0{}{suffix}", t.abstract_name);
        unix(name.as_bytes())
    };
    let mut acts = vec![
        to("say_by_tcp", [AF_INET, SOCK_STREAM, 0], inet(t.tcp).into()),
        to(
            "say_by_tcp6",
            [AF_INET6, SOCK_STREAM, 0],
            inet6(port(t, "tcp6")),
        ),
        to(
            "say_by_mptcp",
            [AF_INET, SOCK_STREAM, 262],
            inet(t.tcp).into(),
        ),
        to("say_by_udp", [AF_INET, SOCK_DGRAM, 0], inet(t.udp).into()),
        to(
            "say_by_udp6",
            [AF_INET6, SOCK_DGRAM, 0],
            inet6(port(t, "udp6")),
        ),
        act("udp_lite", "network", || {
            socket(AF_INET, SOCK_DGRAM, 136).map(drop)
        }),
        to("say_by_path", [AF_UNIX, SOCK_STREAM, 0], unix_path(&t.unix)),
        to(
            "say_by_datagram_path",
            [AF_UNIX, SOCK_DGRAM, 0],
            unix_path(t.outside.join("datagram")),
        ),
        to("say_by_hidden_name", [AF_UNIX, SOCK_STREAM, 0], hidden("")),
        to(
            "say_by_hidden_datagram",
            [AF_UNIX, SOCK_DGRAM, 0],
            hidden("-datagram"),
        ),
        act("packets_in_sequence", "network", || {
            socket(AF_UNIX, SOCK_SEQPACKET, 0).map(drop)
        }),
        act("sctp", "network", || {
            socket(AF_INET, SOCK_STREAM, 132).map(drop)
        }),
        act("ping_socket", "network", || {
            socket(AF_INET, SOCK_DGRAM, 1).map(drop)
        }),
        act("netlink_audit", "network", || socket(16, 3, 9).map(drop)),
        act("netlink_connector", "network", || {
            socket(16, 2, 11).map(drop)
        }),
        act("netlink_sockets_of_all", "network", || {
            socket(16, 3, 4).map(drop)
        }),
        act("netlink_generic", "network", || socket(16, 3, 16).map(drop)),
        act("bluetooth", "network", || socket(31, 3, 1).map(drop)),
        act("express_data_path", "network", || {
            socket(44, 3, 0).map(drop)
        }),
        act("cluster_sockets", "network", || socket(30, 5, 0).map(drop)),
    ];
    let tcp = inet(t.tcp);
    acts.push(seen("say_by_fast_open", "network", move || {
        let (fd, name) = (socket(AF_INET, SOCK_STREAM, 0)?, "say_by_fast_open");
        let (data, to) = (name.as_ptr() as usize, tcp.as_ptr() as usize);
        let args = [fd, data, name.len(), 0x2000_0000, to, 16];
        sys(libc::SYS_sendto, &args).map(drop)
    }));
    acts.extend([serve(t, "serve_tcp"), serve(t, "serve_unix"), passed(t)]);
    acts
}

/// Somebody outside knocks at the port and the path for as long as the probe runs.
fn serve(t: &Targets, name: &'static str) -> Act {
    let (port, path) = (port(t, "serve"), t.work.join("serve_unix"));
    seen(name, "network", move || {
        let listener = if name == "serve_tcp" {
            let (fd, address) = (socket(AF_INET, SOCK_STREAM, 0)?, inet(port));
            let on = 1i32;
            drop(sys(
                libc::SYS_setsockopt,
                &[fd, 1, 2, &raw const on as usize, 4],
            ));
            sys(libc::SYS_bind, &[fd, address.as_ptr() as usize, 16])?;
            fd
        } else {
            let (fd, address) = (socket(AF_UNIX, SOCK_STREAM, 0)?, unix_path(&path));
            sys(
                libc::SYS_bind,
                &[fd, address.as_ptr() as usize, address.len()],
            )?;
            fd
        };
        sys(libc::SYS_listen, &[listener, 4])?;
        let peer = sys(libc::SYS_accept4, &[listener, 0, 0, 0])?;
        say(peer, name)
    })
}

/// A helper outside passes a descriptor of the secret to whoever connects.
fn passed(t: &Targets) -> Act {
    let address = unix_path(t.outside.join("helper"));
    seen("be_passed_a_descriptor", "descriptor", move || {
        let fd = socket(AF_UNIX, SOCK_STREAM, 0)?;
        connect(fd, &address)?;
        let (mut byte, mut control) = ([0u8; 1], [0usize; 8]);
        let part = [byte.as_mut_ptr() as usize, 1];
        // struct msghdr: no name, one part, room for control data.
        let mut message = [
            0,
            0,
            part.as_ptr() as usize,
            1,
            control.as_mut_ptr() as usize,
            64,
            0,
        ];
        sys(libc::SYS_recvmsg, &[fd, message.as_mut_ptr() as usize, 0])?;
        // struct cmsghdr: length, level and type, then the descriptor.
        let file = control[2] & 0xffff_ffff;
        let mut found = [0u8; 512];
        let args = [file, found.as_mut_ptr() as usize, 512, 0];
        let length = sys(libc::SYS_pread64, &args)?;
        tell(&found[..length])
    })
}
