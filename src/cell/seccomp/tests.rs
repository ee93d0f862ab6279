//! Verdicts by example, in the words of `libc`; `proof` holds the tables against them all.

use super::proof::run;
use super::*;

pub(super) const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
pub(super) const AARCH64: u32 = 0xc000_00b7;

/// 0 for allowed, else the errno.
fn verdict(network: Network, arch: (TargetArch, u32), number: u32, args: [u64; 6]) -> u32 {
    let filter = compile(network, Processes::Shared, arch.0).unwrap();
    run(&filter, arch.1, number, args)
}

fn x86(network: Network, number: libc::c_long, args: [u64; 6]) -> u32 {
    let number = u32::try_from(number).unwrap();
    verdict(network, (TargetArch::x86_64, X86_64), number, args)
}

const EPERM: u32 = libc::EPERM as u32;
const EACCES: u32 = libc::EACCES as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;

#[test]
fn the_search_finds_every_number_and_no_other() {
    for count in [0u32, 1, 4, 5, 9, 64, 300] {
        let numbers: Vec<u32> = (0..count).map(|n| n * 3 + n % 2).collect();
        let answer = |errno| step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno);
        let calls: Vec<_> = numbers
            .iter()
            .map(|n| (*n, vec![answer(7); 1 + usize::try_from(*n % 3).unwrap()]))
            .collect();
        let mut filter = vec![step(LOAD_WORD, 0, 0, NUMBER)];
        filter.extend(search(&calls));
        filter.push(answer(1));
        for number in 0..count * 3 + 5 {
            let found = numbers.contains(&number);
            let answer = run(&filter, X86_64, number, [0; 6]);
            assert_eq!(answer, if found { 7 } else { 1 }, "{number} of {count}");
        }
    }
}

#[test]
fn foreign_calls_do_not_exist() {
    let args = [0; 6];
    for network in [Network::Off, Network::Tcp] {
        let i386 = verdict(network, (TargetArch::x86_64, I386), 20, args);
        assert_eq!(i386, ENOSYS, "int 0x80");
        assert_eq!(
            x86(network, libc::SYS_getpid | 0x4000_0000, args),
            ENOSYS,
            "x32"
        );
        assert_eq!(x86(network, 470, args), ENOSYS, "newer than we know");
        assert_eq!(x86(network, 520, args), ENOSYS, "x32 without its bit");
        assert_eq!(
            x86(network, 469, args),
            EPERM,
            "the newest we know has an entry of its own"
        );
    }
    let arm = (TargetArch::aarch64, AARCH64);
    assert_eq!(verdict(Network::Off, (arm.0, X86_64), 101, args), ENOSYS);
    assert_eq!(verdict(Network::Off, arm, 117, args), EPERM, "ptrace");
    assert_eq!(verdict(Network::Off, arm, 172, args), 0, "getpid");
    assert_eq!(
        verdict(Network::Off, arm, 220, [0x1000_0000, 0, 0, 0, 0, 0]),
        EPERM,
        "clone newuser"
    );
}

#[test]
fn sockets_follow_the_network() {
    let socket = |network, family: i32, kind: i32, protocol: i32| {
        let args = [family, kind, protocol].map(|arg| u64::try_from(arg).unwrap());
        x86(
            network,
            libc::SYS_socket,
            [args[0], args[1], args[2], 0, 0, 0],
        )
    };
    use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK};
    use libc::{SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_RAW, SOCK_STREAM};
    let flags = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    for family in [AF_INET, AF_INET6, AF_UNIX, AF_NETLINK, AF_VSOCK] {
        assert_eq!(socket(Network::Off, family, SOCK_STREAM, 0), EACCES);
    }
    for network in [Network::Tcp, Network::TcpAndUdp] {
        for family in [AF_INET, AF_INET6] {
            assert_eq!(socket(network, family, SOCK_STREAM, 0), 0);
            assert_eq!(socket(network, family, flags, 6), 0);
            assert_eq!(socket(network, family, SOCK_STREAM, 262), EACCES, "MPTCP");
            assert_eq!(socket(network, family, SOCK_STREAM, 132), EACCES, "SCTP");
            assert_eq!(socket(network, family, SOCK_STREAM, 256), EACCES, "SMC");
            assert_eq!(socket(network, family, SOCK_RAW, 1), EACCES);
            assert_eq!(socket(network, family, SOCK_DGRAM, 1), EACCES, "ping");
        }
        assert_eq!(socket(network, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0), 0);
        assert_eq!(
            socket(network, AF_NETLINK, SOCK_RAW, 12),
            EACCES,
            "netfilter"
        );
        for family in [AF_UNIX, AF_VSOCK, AF_PACKET, 38, 44] {
            assert_eq!(
                socket(network, family, SOCK_STREAM, 0),
                EACCES,
                "family {family}"
            );
        }
    }
    assert_eq!(socket(Network::Tcp, AF_INET, SOCK_DGRAM, 0), EACCES);
    assert_eq!(socket(Network::TcpAndUdp, AF_INET, SOCK_DGRAM, 17), 0);
}

#[test]
fn numbers_are_the_servers_own_affair_where_it_has_its_own_processes() {
    let with = |processes, number: libc::c_long, args: &[u64]| {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        let filter = compile(Network::Off, processes, TargetArch::x86_64).unwrap();
        run(&filter, X86_64, u32::try_from(number).unwrap(), all)
    };
    let low = 0x7fff_0000_0000;
    for (number, args) in [
        (libc::SYS_sched_setaffinity, &[4711u64, 8, 1][..]),
        (libc::SYS_setpriority, &[0, 4711, 5]),
        (libc::SYS_prlimit64, &[4711, 4, 1, 0]),
        // New limits whose address has an empty lower half.
        (libc::SYS_prlimit64, &[4711, 4, low, 0]),
        (libc::SYS_prctl, &[1, 15]),
    ] {
        assert_eq!(with(Processes::Shared, number, args), EPERM, "{number}");
        assert_eq!(with(Processes::Own, number, args), 0, "{number}");
    }
    for processes in Processes::ALL {
        assert_eq!(with(processes, libc::SYS_prlimit64, &[4711, 4, 0, 1]), 0);
        assert_eq!(with(processes, libc::SYS_prctl, &[1, 9]), 0);
        assert_eq!(with(processes, libc::SYS_prctl, &[1, 0]), EPERM);
        let connect = with(processes, libc::SYS_connect, &[3, 1, 16]);
        assert_eq!(connect, EACCES, "one end of a socketpair");
    }
}

#[test]
fn the_upper_half_of_an_argument_changes_nothing() {
    let garbage = 0xdead_beef_0000_0000;
    let ioctl = |command: u64| x86(Network::Off, libc::SYS_ioctl, [0, command, 0, 0, 0, 0]);
    assert_eq!(ioctl(0x5412), EPERM);
    assert_eq!(ioctl(0x5412 | garbage), EPERM);
    assert_eq!(ioctl(0x5413), 0);
    let socket = [2 | garbage, 1, 0, 0, 0, 0];
    assert_eq!(x86(Network::Tcp, libc::SYS_socket, socket), 0);
}

#[test]
fn arguments_decide_where_the_call_itself_is_honest() {
    let call = |number, args: &[u64]| {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        x86(Network::Tcp, number, all)
    };
    assert_eq!(call(libc::SYS_clone, &[0x003d_0f00]), 0, "a thread");
    assert_eq!(call(libc::SYS_clone, &[17]), 0, "a fork");
    for bit in [
        0x8000,
        0x2_0000,
        0x200_0000,
        0x400_0000,
        0x800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(call(libc::SYS_clone, &[17 | bit]), EPERM, "{bit:#x}");
    }
    assert_eq!(call(libc::SYS_openat, &[0, 0, 0x241, 0o644]), 0);
    assert_eq!(call(libc::SYS_openat, &[0, 0, 0x241, 0o4755]), EPERM);
    assert_eq!(
        call(libc::SYS_openat, &[0, 0, 0x41_0002, 0o2700]),
        EPERM,
        "O_TMPFILE"
    );
    assert_eq!(
        call(libc::SYS_openat, &[0, 0, 0, u64::MAX]),
        0,
        "no mode without O_CREAT"
    );
    assert_eq!(call(libc::SYS_fchmodat, &[0, 0, 0o755]), 0);
    assert_eq!(call(libc::SYS_fchmodat, &[0, 0, 0o4755]), EPERM);
    assert_eq!(call(libc::SYS_mknod, &[0, 0o010_600]), 0, "a fifo");
    assert_eq!(call(libc::SYS_mknod, &[0, 0o020_600]), EPERM);
    assert_eq!(
        call(libc::SYS_sendto, &[0, 0, 0, 0x4000]),
        0,
        "MSG_NOSIGNAL"
    );
    assert_eq!(
        call(libc::SYS_sendto, &[0, 0, 0, 0x2000_4000]),
        EACCES,
        "MSG_FASTOPEN"
    );
    assert_eq!(call(libc::SYS_personality, &[0xffff_ffff]), 0);
    assert_eq!(call(libc::SYS_personality, &[0x4_0000]), EPERM);
    assert_eq!(call(libc::SYS_memfd_create, &[0, 0x1]), ENOSYS);
    assert_eq!(call(libc::SYS_memfd_create, &[0, 0x9]), 0);
    assert_eq!(call(libc::SYS_prctl, &[1, 0]), EPERM);
    assert_eq!(call(libc::SYS_prctl, &[1, 9]), 0);
    assert_eq!(call(libc::SYS_prlimit64, &[0, 7]), 0);
    assert_eq!(call(libc::SYS_prlimit64, &[1, 7]), 0, "it only asks");
    assert_eq!(call(libc::SYS_prlimit64, &[1, 7, 4096]), EPERM);
}

#[test]
fn what_is_refused_is_refused_and_what_servers_live_on_is_allowed() {
    use libc as c;
    for number in [
        c::SYS_ptrace,
        c::SYS_bpf,
        c::SYS_unshare,
        c::SYS_mount,
        c::SYS_keyctl,
        c::SYS_shmget,
    ] {
        assert_eq!(x86(Network::Off, number, [0; 6]), EPERM, "{number}");
    }
    for number in [c::SYS_io_uring_setup, c::SYS_clone3, c::SYS_openat2] {
        assert_eq!(x86(Network::Off, number, [0; 6]), ENOSYS, "{number}");
    }
    for number in [
        c::SYS_read,
        c::SYS_mmap,
        c::SYS_mprotect,
        c::SYS_execve,
        c::SYS_futex,
        c::SYS_kill,
        c::SYS_flock,
        c::SYS_fsync,
        c::SYS_rename,
        c::SYS_epoll_wait,
        c::SYS_getrandom,
        c::SYS_rseq,
        c::SYS_statx,
        c::SYS_pidfd_open,
        c::SYS_inotify_add_watch,
        c::SYS_landlock_restrict_self,
        c::SYS_seccomp,
        c::SYS_vfork,
        c::SYS_fork,
        c::SYS_wait4,
        c::SYS_pipe2,
        c::SYS_eventfd2,
    ] {
        assert_eq!(x86(Network::Off, number, [0; 6]), 0, "{number}");
    }
    assert_eq!(x86(Network::Off, c::SYS_socketpair, [1, 1, 0, 0, 0, 0]), 0);
}

#[test]
fn only_a_network_of_its_own_may_be_listened_on() {
    for network in [Network::Off, Network::Tcp, Network::TcpAndUdp] {
        assert_eq!(x86(network, libc::SYS_listen, [3, 1, 0, 0, 0, 0]), EACCES);
    }
    // There it is landlock or the supervisor that sees to where.
    let serve = |number, args| x86(Network::Serve, number, args);
    assert_eq!(serve(libc::SYS_listen, [3, 1, 0, 0, 0, 0]), 0);
    assert_eq!(serve(libc::SYS_socket, [2, 1, 6, 0, 0, 0]), 0);
    for [family, kind, protocol] in [[1, 1, 0], [2, 2, 17], [2, 3, 255], [16, 3, 1], [2, 1, 262]] {
        let args = [family, kind, protocol, 0, 0, 0];
        assert_eq!(serve(libc::SYS_socket, args), EACCES, "{args:?}");
    }
    let own = |number, args| x86(Network::Own, number, args);
    assert_eq!(own(libc::SYS_listen, [3, 1, 0, 0, 0, 0]), 0);
    assert_eq!(own(libc::SYS_socket, [2, 2, 17, 0, 0, 0]), 0);
    for [family, kind, protocol] in [[1, 1, 0], [2, 3, 255], [17, 3, 3], [40, 1, 0], [2, 1, 262]] {
        let args = [family, kind, protocol, 0, 0, 0];
        assert_eq!(own(libc::SYS_socket, args), EACCES, "{args:?}");
    }
}

#[test]
fn clauses_that_cannot_be_read_are_errors() {
    for clause in [
        "",
        "arg0 = 1",
        "arg9 == 1",
        "arg0 == one",
        "arg0 any 0x",
        "arg0 & 1 != 2",
    ] {
        assert!(parse_clause(clause).is_err(), "{clause:?}");
    }
}
