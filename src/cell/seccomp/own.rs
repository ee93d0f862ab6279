//! The filter of our own message process: an allow list, because we know what we call.

use super::{
    RETURN, SeccompError, host_arch, is_arch_check, parse_clause, prologue, search, step, table,
};
use nix::errno::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;

const OWN: &str = include_str!("../../../policy/seccomp/own.toml");

/// Compiles and installs the filter for this thread and those that it starts; `no_new_privs` is set.
///
/// # Errors
/// When the table does not compile or the kernel refuses.
pub(in crate::cell) fn install() -> Result<(), SeccompError> {
    let filter = compile(host_arch()?, std::process::id())?;
    seccompiler::apply_filter(&filter).map_err(|error| SeccompError::Kernel {
        reason: error.to_string(),
    })
}

/// The filter of the process `own`.
///
/// Numbers that are always answered the same come first, in search trees: for those that are allowed
/// the kernel then needs no look at the arguments and remembers them. What is left of the table goes
/// through seccompiler.
fn compile(arch: TargetArch, own: u32) -> Result<BpfProgram, SeccompError> {
    let failed = |reason: String| SeccompError::Table { reason };
    // Sorted numbers for each verdict, as `search` wants them.
    let mut always: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for entry in table::parse(OWN).map_err(failed)? {
        let number = match arch {
            TargetArch::aarch64 => entry.aarch64,
            _ => entry.x86_64,
        };
        let Some(number) = number else { continue };
        let wrong = |reason: String| SeccompError::Entry {
            call: entry.call.to_owned(),
            reason,
        };
        let verdict = verdict(entry.errno).ok_or_else(|| wrong("unknown errno".into()))?;
        if entry.when.is_empty() {
            let number = u32::try_from(number).map_err(|error| wrong(error.to_string()))?;
            always.entry(verdict).or_default().push(number);
            continue;
        }
        let mut clauses = Vec::new();
        for clause in &entry.when {
            let clause = clause.replace("SELF", &own.to_string());
            clauses.extend(parse_clause(&clause).map_err(&wrong)?);
        }
        if verdict != libc::SECCOMP_RET_ALLOW || rules.insert(number, clauses).is_some() {
            return Err(wrong("conditions are for what is allowed, once".into()));
        }
    }
    let refused = SeccompAction::Errno(Errno::EPERM as u32);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)
        .map_err(|error| failed(error.to_string()))?;
    let body = BpfProgram::try_from(filter).map_err(|error| failed(error.to_string()))?;
    match body.split_at_checked(3) {
        Some(([load, compare, kill], rest)) if is_arch_check(load, compare, kill) => {
            let mut program = prologue(compare.k);
            for (verdict, mut numbers) in always {
                numbers.sort_unstable();
                program.extend(search(&numbers, &step(RETURN, 0, 0, verdict)));
            }
            program.extend_from_slice(rest);
            Ok(program)
        }
        _ => Err(failed(
            "seccompiler writes another prologue than the one we know".into(),
        )),
    }
}

/// What the word of a line means; no word allows.
fn verdict(errno: &str) -> Option<u32> {
    match errno {
        "" => Some(libc::SECCOMP_RET_ALLOW),
        "KILL" => Some(libc::SECCOMP_RET_KILL_PROCESS),
        word => Some(libc::SECCOMP_RET_ERRNO | super::errno(word)?),
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::super::tests::{AARCH64, X86_64, run};
    use super::*;
    use std::collections::BTreeSet;

    const SELF: u32 = 4711;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

    fn x86(number: libc::c_long, args: &[u64]) -> u32 {
        let filter = compile(TargetArch::x86_64, SELF).unwrap();
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        run(&filter, X86_64, u32::try_from(number).unwrap(), all)
    }

    #[test]
    fn nothing_that_is_not_on_the_list_gets_through_on_either_architecture() {
        let entries = table::parse(OWN).unwrap();
        let column = |pick: fn(&table::Entry<'_>) -> Option<i64>| -> BTreeSet<i64> {
            let allowed = entries.iter().filter(|entry| entry.errno.is_empty());
            allowed.filter_map(pick).collect()
        };
        let sides = [
            (TargetArch::x86_64, X86_64, column(|entry| entry.x86_64)),
            (TargetArch::aarch64, AARCH64, column(|entry| entry.aarch64)),
        ];
        for (arch, token, listed) in sides {
            let filter = compile(arch, SELF).unwrap();
            assert!(filter.len() < 4096);
            for number in 0..600u32 {
                for args in [[0; 6], [u64::MAX; 6], [1; 6], [u64::from(SELF); 6]] {
                    let answer = run(&filter, token, number, args);
                    let known = listed.contains(&i64::from(number));
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
        let filter = compile(TargetArch::x86_64, SELF).unwrap();
        let arguments = filter
            .iter()
            .position(|step| step.code == super::super::LOAD_WORD && step.k >= 16)
            .unwrap();
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
            let answer = run(&filter[..arguments], X86_64, number, [0; 6]);
            assert_eq!(answer, ALLOW, "{call}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_kernel_and_the_reader_reads_what_toml_says() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Toml {
            x86_64: Option<i64>,
            aarch64: Option<i64>,
            #[serde(default)]
            errno: String,
            #[serde(default)]
            when: Vec<String>,
            why: String,
        }
        let toml: BTreeMap<String, BTreeMap<String, Toml>> = toml::from_str(OWN).unwrap();
        let slow: BTreeMap<&String, &Toml> = toml.values().flatten().collect();
        let fast = table::parse(OWN).unwrap();
        assert_eq!(fast.len(), slow.len());
        let numbers = [
            ("read", libc::SYS_read),
            ("preadv2", libc::SYS_preadv2),
            ("write", libc::SYS_write),
            ("poll", libc::SYS_poll),
            ("ppoll", libc::SYS_ppoll),
            ("epoll_wait", libc::SYS_epoll_wait),
            ("epoll_pwait", libc::SYS_epoll_pwait),
            ("epoll_ctl", libc::SYS_epoll_ctl),
            ("timerfd_settime", libc::SYS_timerfd_settime),
            ("clock_gettime", libc::SYS_clock_gettime),
            ("futex", libc::SYS_futex),
            ("sched_yield", libc::SYS_sched_yield),
            ("close", libc::SYS_close),
            ("fcntl", libc::SYS_fcntl),
            ("ioctl", libc::SYS_ioctl),
            ("fstat", libc::SYS_fstat),
            ("dup2", libc::SYS_dup2),
            ("sendto", libc::SYS_sendto),
            ("recvfrom", libc::SYS_recvfrom),
            ("sendmsg", libc::SYS_sendmsg),
            ("recvmsg", libc::SYS_recvmsg),
            ("writev", libc::SYS_writev),
            ("readv", libc::SYS_readv),
            ("accept4", libc::SYS_accept4),
            ("shutdown", libc::SYS_shutdown),
            ("getsockopt", libc::SYS_getsockopt),
            ("getsockname", libc::SYS_getsockname),
            ("getpeername", libc::SYS_getpeername),
            ("brk", libc::SYS_brk),
            ("mmap", libc::SYS_mmap),
            ("mprotect", libc::SYS_mprotect),
            ("munmap", libc::SYS_munmap),
            ("mremap", libc::SYS_mremap),
            ("madvise", libc::SYS_madvise),
            ("getrandom", libc::SYS_getrandom),
            ("clone", libc::SYS_clone),
            ("clone3", libc::SYS_clone3),
            ("rseq", libc::SYS_rseq),
            ("set_robust_list", libc::SYS_set_robust_list),
            ("prctl", libc::SYS_prctl),
            ("sigaltstack", libc::SYS_sigaltstack),
            ("rt_sigaction", libc::SYS_rt_sigaction),
            ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
            ("rt_sigreturn", libc::SYS_rt_sigreturn),
            ("restart_syscall", libc::SYS_restart_syscall),
            ("sched_getaffinity", libc::SYS_sched_getaffinity),
            ("sched_getattr", libc::SYS_sched_getattr),
            ("sched_setattr", libc::SYS_sched_setattr),
            ("clock_nanosleep", libc::SYS_clock_nanosleep),
            ("nanosleep", libc::SYS_nanosleep),
            ("getpid", libc::SYS_getpid),
            ("gettid", libc::SYS_gettid),
            ("tgkill", libc::SYS_tgkill),
            ("wait4", libc::SYS_wait4),
            ("waitid", libc::SYS_waitid),
            ("exit", libc::SYS_exit),
            ("exit_group", libc::SYS_exit_group),
            ("execve", libc::SYS_execve),
            ("execveat", libc::SYS_execveat),
            ("ptrace", libc::SYS_ptrace),
            ("process_vm_readv", libc::SYS_process_vm_readv),
            ("process_vm_writev", libc::SYS_process_vm_writev),
            ("bpf", libc::SYS_bpf),
            ("init_module", libc::SYS_init_module),
            ("finit_module", libc::SYS_finit_module),
        ];
        for entry in fast {
            let there = slow[&entry.call.to_owned()];
            assert_eq!((entry.x86_64, entry.aarch64), (there.x86_64, there.aarch64));
            assert_eq!(entry.errno, there.errno);
            assert_eq!(entry.when, there.when);
            assert!(!there.why.is_empty());
            let number = numbers.iter().find(|(name, _)| *name == entry.call);
            assert_eq!(
                entry.x86_64,
                number.map(|(_, number)| *number),
                "{}",
                entry.call
            );
        }
    }
}
