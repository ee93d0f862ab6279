//! The filters of our own processes that read what hostile peers write: allow lists, because we know
//! what we call.

use super::{SeccompError, gather, host_arch, load, program, rules};
use nix::errno::Errno;
use seccompiler::{BpfProgram, SeccompAction, TargetArch};

const OWN: &str = include_str!("../../../policy/seccomp/own.toml");

const SUPERVISOR: &str = include_str!("../../../policy/seccomp/supervisor.toml");
const SUPERVISOR_NET: &str = include_str!("../../../policy/seccomp/supervisor-net.toml");
const SUPERVISOR_SERVE: &str = include_str!("../../../policy/seccomp/supervisor-serve.toml");
const SUPERVISOR_SOCKETS: &str = include_str!("../../../policy/seccomp/supervisor-sockets.toml");
const RELAY: &str = include_str!("../../../policy/seccomp/relay.toml");

/// Compiles and installs the filter of the message process, for this thread and those that it starts;
/// `no_new_privs` is set.
///
/// # Errors
/// When the table does not compile or the kernel refuses.
pub(in crate::cell) fn install() -> Result<(), SeccompError> {
    let own = std::process::id().to_string();
    load(&compile(&[OWN], host_arch()?, &[("SELF", &own)])?)
}

/// The same for the supervisor, whose child the server is: one that `connects` makes the server's
/// connections, one with a server that `serves` lets it listen.
///
/// # Errors
/// When the table does not compile or the kernel refuses.
pub(in crate::cell) fn install_supervisor(
    child: u32,
    connects: bool,
    serves: bool,
) -> Result<(), SeccompError> {
    let (own, child) = (std::process::id().to_string(), child.to_string());
    let numbers = [("SELF", own.as_str()), ("CHILD", child.as_str())];
    let mut tables = vec![SUPERVISOR];
    tables.extend(connects.then_some(SUPERVISOR_NET));
    tables.extend(serves.then_some(SUPERVISOR_SERVE));
    tables.extend((connects || serves).then_some(SUPERVISOR_SOCKETS));
    load(&compile(&tables, host_arch()?, &numbers)?)
}

/// The same for the process that makes the connections of a cell, in two steps: what it compiles while
/// it waits for the cell, it installs at once.
#[derive(Debug)]
pub(in crate::cell) struct RelayFilter(BpfProgram);

impl RelayFilter {
    /// # Errors
    /// When the table does not compile.
    pub(in crate::cell) fn compile() -> Result<Self, SeccompError> {
        let own = std::process::id().to_string();
        compile(&[RELAY], host_arch()?, &[("SELF", &own)]).map(Self)
    }

    /// # Errors
    /// When the kernel refuses.
    pub(in crate::cell) fn install(&self) -> Result<(), SeccompError> {
        load(&self.0)
    }
}

/// The filter of a table, in which words stand for numbers. What is allowed without conditions needs
/// no look at the arguments, so the kernel remembers it.
fn compile(
    texts: &[&str],
    arch: TargetArch,
    numbers: &[(&str, &str)],
) -> Result<BpfProgram, SeccompError> {
    let refused = SeccompAction::Errno(Errno::EPERM as u32);
    let calls = gather(texts, arch, |entry| {
        let verdict = verdict(entry.errno).ok_or("unknown errno")?;
        if !entry.when.is_empty() && verdict != SeccompAction::Allow {
            return Err("conditions are for what is allowed".to_owned());
        }
        let clauses = entry.when.iter().map(|clause| {
            let filled = (*clause).to_owned();
            numbers
                .iter()
                .fold(filled, |text, (word, number)| text.replace(word, number))
        });
        Ok((rules(clauses)?, (verdict, refused.clone())))
    })?;
    Ok(program(&calls, refused.into(), arch))
}

/// What the word of a line means; no word allows.
fn verdict(errno: &str) -> Option<SeccompAction> {
    match errno {
        "" => Some(SeccompAction::Allow),
        "KILL" => Some(SeccompAction::KillProcess),
        word => Some(SeccompAction::Errno(super::errno(word)?)),
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::super::allow;
    use super::super::proof::{answer as run, is_constant};
    use super::super::table;
    use super::super::tests::{AARCH64, X86_64};
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const SELF: u32 = 4711;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

    fn message(arch: TargetArch) -> BpfProgram {
        compile(&[OWN], arch, &[("SELF", &SELF.to_string())]).unwrap()
    }

    fn supervisor(arch: TargetArch) -> BpfProgram {
        let numbers = [("SELF", "4711"), ("CHILD", "4712")];
        compile(&[SUPERVISOR], arch, &numbers).unwrap()
    }

    fn x86(number: libc::c_long, args: &[u64]) -> u32 {
        let filter = message(TargetArch::x86_64);
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        run(&filter, X86_64, u32::try_from(number).unwrap(), all)
    }

    #[test]
    fn nothing_that_is_not_on_the_list_gets_through_on_either_architecture() {
        let entries = table::parse(OWN).unwrap();
        let column = |pick: fn(&table::Entry<'_>) -> Option<u32>| -> BTreeSet<u32> {
            let allowed = entries.iter().filter(|entry| entry.errno.is_empty());
            allowed.filter_map(pick).collect()
        };
        let sides = [
            (TargetArch::x86_64, X86_64, column(|entry| entry.x86_64)),
            (TargetArch::aarch64, AARCH64, column(|entry| entry.aarch64)),
        ];
        for (arch, token, listed) in sides {
            let filter = message(arch);
            assert!(filter.len() < 4096);
            for number in 0..600u32 {
                for args in [[0; 6], [u64::MAX; 6], [1; 6], [u64::from(SELF); 6]] {
                    let answer = run(&filter, token, number, args);
                    let known = listed.contains(&number);
                    assert!(answer != ALLOW || known, "{number} {args:?}");
                }
            }
            assert_eq!(run(&filter, 0x4000_0003, 1, [0; 6]), ENOSYS, "int 0x80");
            assert_eq!(run(&filter, token, 0x4000_0001, [0; 6]), ENOSYS, "x32");
        }
    }

    #[test]
    fn processes_programs_files_and_sockets_are_refused() {
        for call in [libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace] {
            assert_eq!(x86(call, &[]), KILL, "{call}");
        }
        for call in [
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_unlink,
            libc::SYS_rename,
            libc::SYS_stat,
            libc::SYS_statx,
            libc::SYS_readlink,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_kill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
            libc::SYS_prlimit64,
            libc::SYS_io_uring_setup,
            libc::SYS_mount,
            libc::SYS_keyctl,
            libc::SYS_ftruncate,
            libc::SYS_pwritev2,
        ] {
            assert_eq!(x86(call, &[]), EPERM, "{call}");
        }
        assert_eq!(x86(libc::SYS_clone3, &[]), ENOSYS);
    }

    #[test]
    fn arguments_tell_a_thread_from_a_process_and_data_from_code() {
        assert_eq!(x86(libc::SYS_clone, &[0x003d_0f00]), ALLOW, "a thread");
        assert_eq!(x86(libc::SYS_clone, &[17]), EPERM, "a fork");
        assert_eq!(x86(libc::SYS_clone, &[0x4111]), EPERM, "a vfork");
        for space in [0x2_0000, 0x200_0000, 0x1000_0000, 0x4000_0000] {
            assert_eq!(x86(libc::SYS_clone, &[0x003d_0f00 | space]), EPERM);
        }
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(x86(call, &[0, 4096, 3]), ALLOW);
            assert_eq!(x86(call, &[0, 4096, 7]), EPERM, "executable memory");
            assert_eq!(x86(call, &[0, 4096, 5]), EPERM, "executable memory");
        }
        assert_eq!(x86(libc::SYS_tgkill, &[u64::from(SELF), 1, 6]), ALLOW);
        assert_eq!(x86(libc::SYS_tgkill, &[1, 1, 9]), EPERM);
        assert_eq!(x86(libc::SYS_ioctl, &[2, 0x541b]), ALLOW, "FIONREAD");
        assert_eq!(x86(libc::SYS_ioctl, &[2, 0x5412]), EPERM, "TIOCSTI");
        assert_eq!(x86(libc::SYS_fcntl, &[2, 3]), ALLOW, "F_GETFL");
        assert_eq!(x86(libc::SYS_fcntl, &[2, 4, 0]), EPERM, "F_SETFL");
        assert_eq!(x86(libc::SYS_prctl, &[15]), ALLOW, "PR_SET_NAME");
        assert_eq!(x86(libc::SYS_prctl, &[4, 1]), EPERM, "PR_SET_DUMPABLE");
        assert_eq!(x86(libc::SYS_sched_setattr, &[1]), EPERM, "init");
    }

    /// The kernel remembers a number as always allowed only when no argument is loaded on the way
    /// (`seccomp_is_const_allow` in kernel/seccomp.c).
    #[test]
    fn the_path_of_a_message_needs_no_argument() {
        let filter = message(TargetArch::x86_64);
        for call in [
            libc::SYS_read,
            libc::SYS_preadv2,
            libc::SYS_write,
            libc::SYS_poll,
            libc::SYS_epoll_wait,
            libc::SYS_timerfd_settime,
            libc::SYS_clock_gettime,
            libc::SYS_futex,
            libc::SYS_sendto,
            libc::SYS_recvmsg,
            libc::SYS_munmap,
        ] {
            let number = u32::try_from(call).unwrap();
            assert!(is_constant(&filter, X86_64, number), "{call}");
            assert_eq!(run(&filter, X86_64, number, [0; 6]), ALLOW, "{call}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_kernel_and_the_reader_reads_what_toml_says() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Toml {
            x86_64: Option<u32>,
            aarch64: Option<u32>,
            #[serde(default)]
            errno: String,
            #[serde(default)]
            when: Vec<String>,
            why: String,
        }
        for text in [
            OWN,
            SUPERVISOR,
            SUPERVISOR_NET,
            SUPERVISOR_SERVE,
            SUPERVISOR_SOCKETS,
            RELAY,
            allow::DOOR,
        ] {
            let toml: BTreeMap<String, BTreeMap<String, Toml>> = toml::from_str(text).unwrap();
            let slow: BTreeMap<&String, &Toml> = toml.values().flatten().collect();
            let fast = table::parse(text).unwrap();
            assert_eq!(fast.len(), slow.len());
            for entry in fast {
                let there = slow[&entry.call.to_owned()];
                assert_eq!((entry.x86_64, entry.aarch64), (there.x86_64, there.aarch64));
                assert_eq!(entry.errno, there.errno);
                assert_eq!(entry.when, there.when);
                assert!(!there.why.is_empty());
                for (arch, ours) in [
                    (TargetArch::x86_64, entry.x86_64),
                    (TargetArch::aarch64, entry.aarch64),
                ] {
                    let theirs = allow::number(entry.call, arch);
                    // Some are called on one architecture only.
                    assert!(ours.is_none() || ours == theirs, "{}", entry.call);
                }
            }
        }
    }

    #[test]
    fn the_supervisor_starts_nothing_connects_to_nothing_and_signals_two() {
        let filter = supervisor(TargetArch::x86_64);
        let ask = |number: libc::c_long, args: [u64; 6]| {
            run(&filter, X86_64, u32::try_from(number).unwrap(), args)
        };
        for call in [
            libc::SYS_execve,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
        ] {
            assert_eq!(ask(call, [0; 6]), KILL, "{call}");
        }
        for call in [
            libc::SYS_clone,
            libc::SYS_fork,
            libc::SYS_open,
            libc::SYS_write,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_fchownat,
            libc::SYS_setxattr,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_mount,
            libc::SYS_tgkill,
            libc::SYS_pidfd_send_signal,
            libc::SYS_mprotect,
        ] {
            assert_eq!(ask(call, [0; 6]), EPERM, "{call}");
        }
        let chmod = |mode| ask(libc::SYS_fchmodat, [0, 0, mode, 0, 0, 0]);
        assert_eq!(
            (chmod(0o755), chmod(0o4755), chmod(0o2755)),
            (ALLOW, EPERM, EPERM)
        );
        let kill = |pid| ask(libc::SYS_kill, [pid, 15, 0, 0, 0, 0]);
        assert_eq!((kill(4711), kill(4712), kill(1)), (ALLOW, ALLOW, EPERM));
        let request = |number| ask(libc::SYS_ioctl, [3, number, 0, 0, 0, 0]);
        for known in [0xc050_2100, 0x4018_2103, 0x4008_2104] {
            assert_eq!(request(known), ALLOW, "{known:x}");
        }
        assert_eq!(request(0x4008_2105), EPERM, "none that there is");
        assert_eq!(request(0x5412), EPERM, "TIOCSTI");
        assert_eq!(ask(libc::SYS_mmap, [0, 4096, 7, 0, 0, 0]), EPERM);
        assert!(supervisor(TargetArch::aarch64).len() < 4096);
    }

    #[test]
    fn the_relay_connects_and_does_nothing_else() {
        let filter = compile(&[RELAY], TargetArch::x86_64, &[("SELF", "4711")]).unwrap();
        let asks = |number: libc::c_long, args: [u64; 3]| {
            let [a, b, c] = args;
            let number = u32::try_from(number).unwrap();
            run(&filter, X86_64, number, [a, b, c, 0, 0, 0])
        };
        let stream = libc::SOCK_STREAM as u64 | libc::SOCK_CLOEXEC as u64;
        for (number, args) in [
            (libc::SYS_socket, [2, stream, 6]),
            (libc::SYS_socket, [10, 2, 0]),
            (libc::SYS_connect, [3, 0, 16]),
            (libc::SYS_accept4, [3, 0, 0]),
            (libc::SYS_splice, [3, 0, 4]),
            (libc::SYS_pipe2, [0, 0, 0]),
            (libc::SYS_setsockopt, [3, 1, 13]),
            (libc::SYS_openat, [0, 0, libc::O_CLOEXEC as u64]),
            (libc::SYS_lseek, [3, 0, 0]),
            (libc::SYS_statx, [3, 0, 0]),
        ] {
            assert_eq!(asks(number, args), ALLOW, "{number} {args:?}");
        }
        for (number, args) in [
            (libc::SYS_socket, [1, 1, 0]),
            (libc::SYS_socket, [2, 3, 255]),
            (libc::SYS_socket, [16, 3, 0]),
            (libc::SYS_socket, [40, 1, 0]),
            (libc::SYS_bind, [3, 0, 16]),
            (libc::SYS_listen, [3, 1, 0]),
            (libc::SYS_openat, [0, 0, libc::O_RDWR as u64]),
            (libc::SYS_unlinkat, [0, 0, 0]),
            (libc::SYS_kill, [1, 9, 0]),
            (libc::SYS_mmap, [0, 4096, 7]),
            (libc::SYS_clone, [17, 0, 0]),
            (libc::SYS_setns, [3, 0, 0]),
        ] {
            assert_eq!(asks(number, args), EPERM, "{number} {args:?}");
        }
        assert_eq!(asks(libc::SYS_execve, [0, 0, 0]), KILL);
    }
}
