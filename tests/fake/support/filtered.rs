//! Acts that only the system-call filter can stop: landlock has no right for any of them.

use crate::calls::{
    Act, Outcome, Targets, act, c, connect, inet, ptr, reached, refused, socket, sys, unix,
};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A user id that runs nothing but the act.
const NOBODY_ELSE: usize = 54_321;

pub(super) fn acts(t: &Targets) -> Vec<Act> {
    let mut acts = user_wide();
    acts.extend(datagrams(t));
    acts.extend(sockets(t));
    acts.extend(filesystems(t));
    acts.push(act("older_asynchronous_io", "kernel", || {
        let mut context = 0usize;
        sys(libc::SYS_io_setup, &[1, &raw mut context as usize]).map(drop)
    }));
    acts
}

/// 0 means the caller in most of these calls, but every process of the user in two of them.
fn user_wide() -> Vec<Act> {
    let alone = || -> Outcome {
        let becomes_another = sys(libc::SYS_setresuid, &[NOBODY_ELSE; 3]).is_ok();
        // Outside of a cell the act must not touch what else this user runs.
        if becomes_another || sys(libc::SYS_prctl, &[21, 0, 0, 0, 0])? != 0 {
            Ok(())
        } else {
            refused()
        }
    };
    vec![
        act("renice_all_of_the_user", "process", move || {
            alone()?;
            sys(libc::SYS_setpriority, &[2, 0, 1]).map(drop)
        }),
        // A class that does not exist (7), so that nothing changes where the call is reached.
        act("io_priority_of_all_of_the_user", "process", || {
            reached(libc::SYS_ioprio_set, &[3, 0, 7 << 13])
        }),
    ]
}

/// One end of a pair of datagram sockets sends to any other socket by its path.
fn datagrams(t: &Targets) -> Vec<Act> {
    let address = unix(c(t.outside.join("datagram")).as_bytes_with_nul());
    let pair = |kind: usize| -> io::Result<usize> {
        let mut pair = [0i32; 2];
        sys(
            libc::SYS_socketpair,
            &[1, kind, 0, pair.as_mut_ptr() as usize],
        )?;
        Ok(usize::try_from(pair[0]).unwrap())
    };
    let send = move |address: &[u8], kind| -> Outcome {
        let (to, data) = (address.as_ptr() as usize, b"x".as_ptr() as usize);
        sys(
            libc::SYS_sendto,
            &[pair(kind)?, data, 1, 0, to, address.len()],
        )
        .map(drop)
    };
    let (a, b, d) = (address.clone(), address.clone(), address);
    vec![
        act("send_from_a_pair", "network", move || send(&a, 2)),
        act("send_from_a_raw_pair", "network", move || send(&b, 3)),
        act("connect_one_of_a_pair", "network", move || {
            connect(pair(2)?, &d)
        }),
    ]
}

fn sockets(t: &Targets) -> Vec<Act> {
    let tcp = inet(t.tcp);
    let stream = || socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    vec![
        act("tcp_fast_open_by_messages", "network", move || {
            let fd = stream()?;
            let part = [b"x".as_ptr() as usize, 1];
            // struct mmsghdr: a msghdr (name, its length, parts, their number, no control data,
            // flags), and the length that was sent.
            let to = tcp.as_ptr() as usize;
            let message = [to, 16, part.as_ptr() as usize, 1, 0, 0, 0, 0];
            sys(
                libc::SYS_sendmmsg,
                &[fd, message.as_ptr() as usize, 1, 0x2000_0000],
            )
            .map(drop)
        }),
        act("fast_open_listener", "network", move || {
            let on = 5i32;
            sys(
                libc::SYS_setsockopt,
                &[stream()?, 6, 23, &raw const on as usize, 4],
            )
            .map(drop)
        }),
        act("another_protocol_by_option", "network", move || {
            let name = b"smc".as_ptr() as usize;
            let fd = stream()?;
            reached(libc::SYS_setsockopt, &[fd, 6, 31, name, 3])
        }),
        act("program_on_a_socket", "kernel", || {
            let mut pair = [0i32; 2];
            sys(libc::SYS_socketpair, &[1, 1, 0, pair.as_mut_ptr() as usize])?;
            let fd = usize::try_from(pair[0]).unwrap();
            // struct sock_fprog: one instruction, `ret 0`.
            let instruction = 0x06u64;
            let program = [1, &raw const instruction as usize];
            let program = program.as_ptr() as usize;
            sys(libc::SYS_setsockopt, &[fd, 1, 26, program, 16]).map(drop)
        }),
    ]
}

/// Requests that change a filesystem through a descriptor that is open for reading. Most
/// filesystems do not know them; what counts is that the request arrives.
fn filesystems(t: &Targets) -> Vec<Act> {
    let work = t.work.clone();
    let request = |name, command: usize| {
        let work = work.clone();
        act(name, "fs-write", move || {
            let directory = File::open(&work)?;
            let fd = usize::try_from(directory.as_raw_fd()).unwrap();
            let name = c("x");
            reached(libc::SYS_ioctl, &[fd, command, ptr(&name)])
        })
    };
    vec![
        request("btrfs_subvolume", 0x5000_940e),
        request("btrfs_snapshot", 0x5000_9417),
        request("bcachefs_subvolume", 0x4020_bc10),
        request("encryption_policy", 0x800c_6613),
        request("inode_generation", 0x4008_7602),
        request("encryption_key_taken_away", 0xc040_6618),
        request("encryption_key_of_all_taken_away", 0xc040_6619),
        request("verity_for_good", 0x4080_6685),
        request("received_subvolume_of_32_bits", 0xc0c0_9425),
        request("attributes_of_fat", 0x4004_7211),
        request("extents_of_ext4", 0x6609),
    ]
}
