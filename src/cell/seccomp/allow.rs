//! Filters that name what is allowed: the operator's list, and that of processes which only wait.
//!
//! In strict mode a file narrows the tables that are always in force. The list names calls, with a reason on each line; everything else does not exist (ENOSYS, so that
//! callers fall back instead of giving up). It can only narrow: what the tables refuse stays refused.

use super::{BASE, FLOOR, SeccompError, gaps, gather, host_arch, load, rules, step, table};
use crate::cell::sys;
use nix::errno::Errno;
use seccompiler::{BpfProgram, SeccompAction, TargetArch};
use std::collections::BTreeSet;

/// What no list has to name.
const IMPLIED: &str = include_str!("../../../policy/seccomp/strict.toml");
/// What handing out sockets takes.
pub(super) const DOOR: &str = include_str!("../../../policy/seccomp/door.toml");
/// The largest list, in bytes: all calls of an architecture take a tenth of it.
pub(in crate::cell) const LIMIT: u64 = 256 * 1024;

/// What a list allows on this host.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cell) struct Allowed {
    /// Sorted, with what no list has to name.
    pub(in crate::cell) numbers: Vec<u32>,
    /// Named, and refused nonetheless, with the reason of the table.
    pub(in crate::cell) refused: Vec<(String, &'static str)>,
}

/// Why a text is not a list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(in crate::cell) struct AllowError {
    /// From 1 on.
    pub(in crate::cell) line: usize,
    pub(in crate::cell) reason: String,
}

/// Reads a list for the architecture of this host. A call that only another architecture has is
/// skipped, so that one list serves both.
///
/// # Errors
/// The first line that is not `CALL = "why"`, `[section]`, a comment or empty, that names a call
/// which no supported architecture has, or that names one again.
pub(in crate::cell) fn read(text: &str) -> Result<Allowed, AllowError> {
    let arch = host_arch().map_err(|error| AllowError {
        line: 1,
        reason: error.to_string(),
    })?;
    read_for(text, arch)
}

pub(super) fn read_for(text: &str, arch: TargetArch) -> Result<Allowed, AllowError> {
    let mut numbers: BTreeSet<u32> = names(IMPLIED)?
        .into_iter()
        .filter_map(|(_, name)| number(name, arch))
        .collect();
    let mut refused = Vec::new();
    let mut always = table::parse(BASE).unwrap_or_default();
    always.extend(table::parse(FLOOR).unwrap_or_default());
    for (line, name) in names(text)? {
        let wrong = |reason| AllowError { line, reason };
        let everywhere = [TargetArch::x86_64, TargetArch::aarch64];
        if !everywhere
            .into_iter()
            .any(|arch| number(name, arch).is_some())
        {
            let reason = format!("{name} is not a system call of x86-64 or aarch64 (Linux 6.17)");
            return Err(wrong(reason));
        }
        numbers.extend(number(name, arch));
        let entry = always.iter().find(|entry| entry.call == name);
        if let Some(entry) = entry.filter(|entry| entry.when.is_empty()) {
            refused.push((name.to_owned(), entry.why));
        }
    }
    Ok(Allowed {
        numbers: numbers.into_iter().collect(),
        refused,
    })
}

/// The names of a list, each with its line.
fn names(text: &str) -> Result<Vec<(usize, &str)>, AllowError> {
    let mut names: Vec<(usize, &str)> = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let wrong = |reason: &str| AllowError {
            line,
            reason: reason.to_owned(),
        };
        let content = content.trim();
        if content.is_empty() || content.starts_with(['#', '[']) {
            continue;
        }
        let form = || wrong("write a call and why it is needed: read = \"files\"");
        let (name, why) = content.split_once('=').ok_or_else(form)?;
        let (why, rest) = why
            .trim_start()
            .strip_prefix('"')
            .and_then(|why| why.split_once('"'))
            .ok_or_else(form)?;
        if !(rest.trim_start().is_empty() || rest.trim_start().starts_with('#')) {
            return Err(form());
        }
        if why.trim().is_empty() {
            return Err(wrong("there is no reason"));
        }
        let name = name.trim();
        if let Some((before, _)) = names.iter().find(|(_, other)| *other == name) {
            return Err(wrong(&format!("{name} is named in line {before} already")));
        }
        names.push((line, name));
    }
    Ok(names)
}

/// The number of a call; `None` where the architecture does not have it.
pub(super) fn number(name: &str, arch: TargetArch) -> Option<u32> {
    // The kernel's tables and its headers do not call it the same.
    let name = match (name, arch) {
        ("newfstatat", TargetArch::aarch64) => "fstatat",
        ("fstatat", TargetArch::x86_64) => "newfstatat",
        (name, _) => name,
    };
    let number = match arch {
        TargetArch::aarch64 => name.parse::<syscalls::aarch64::Sysno>().ok()?.id(),
        TargetArch::x86_64 => name.parse::<syscalls::x86_64::Sysno>().ok()?.id(),
        TargetArch::riscv64 => return None,
    };
    // The crate also lists what only 32-bit systems have (`clock_gettime64` and its kin).
    let exists = |number: &u32| !gaps(arch).iter().any(|gap| gap.contains(number));
    u32::try_from(number).ok().filter(exists)
}

/// Allows these calls, which are sorted, and no other, to this process and its children.
///
/// # Errors
/// When the kernel refuses the filter, or a call that is not listed still works.
pub(in crate::cell) fn install(numbers: &[u32]) -> Result<(), SeccompError> {
    load(&program(numbers, Errno::ENOSYS, host_arch()?))?;
    match sys::first_harmless_call_but(numbers) {
        None | Some(Err(Errno::ENOSYS)) => Ok(()),
        Some(other) => Err(SeccompError::Kernel {
            reason: format!("a call that is not listed was tried and gave {other:?}"),
        }),
    }
}

/// All that a process needs which waits for another: it can neither open, nor connect, nor execute.
const WATCHING: [libc::c_long; 26] = [
    libc::SYS_rt_sigtimedwait,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Signals go on to the server, and the launcher ends as the server ended.
    libc::SYS_kill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_prlimit64,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    // The socket between pid 1 and the launcher.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_close,
    libc::SYS_fcntl,
    // Memory of their own.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// For the launcher and pid 1 while the server runs: they can do nothing but wait, and one that
/// `hands_out` makes TCP sockets as well.
///
/// # Errors
/// When the kernel refuses.
pub(in crate::cell) fn watch_only(hands_out: bool) -> Result<(), SeccompError> {
    let arch = host_arch()?;
    if hands_out {
        return load(&hand_out(arch)?);
    }
    load(&program(&watching(), Errno::EPERM, arch))
}

fn watching() -> Vec<u32> {
    let numbers: BTreeSet<u32> = WATCHING.into_iter().flat_map(u32::try_from).collect();
    numbers.into_iter().collect()
}

/// What watching takes, and the table for whoever hands out sockets besides.
fn hand_out(arch: TargetArch) -> Result<BpfProgram, SeccompError> {
    let refused = SeccompAction::Errno(Errno::EPERM as u32);
    let mut calls = gather(&[DOOR], arch, |entry| {
        let verdicts = (SeccompAction::Allow, refused.clone());
        Ok((rules(entry.when.iter())?, verdicts))
    })?;
    let allow = vec![step(super::RETURN, 0, 0, libc::SECCOMP_RET_ALLOW)];
    calls.extend(watching().iter().map(|number| (*number, allow.clone())));
    calls.sort_by_key(|(number, _)| *number);
    Ok(super::program(&calls, refused.into(), arch))
}

/// Allows these calls, which are sorted; all others get `otherwise`, and those that no filter here
/// knows do not exist.
pub(super) fn program(numbers: &[u32], otherwise: Errno, arch: TargetArch) -> BpfProgram {
    let allow = vec![step(super::RETURN, 0, 0, libc::SECCOMP_RET_ALLOW)];
    let calls: Vec<_> = numbers.iter().map(|n| (*n, allow.clone())).collect();
    let refuse = libc::SECCOMP_RET_ERRNO | (otherwise as u32);
    super::program(&calls, refuse, arch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_both(text: &str) -> [Result<Allowed, AllowError>; 2] {
        [TargetArch::x86_64, TargetArch::aarch64].map(|arch| read_for(text, arch))
    }

    #[test]
    fn a_list_has_the_form_of_the_tables_and_each_line_a_reason() {
        let text = "# mine\n[files]\nopenat = \"files\"  # all of them\nopen=\"old programs\"\n\n";
        let [x86, arm] = read_both(text).map(Result::unwrap);
        let [implied_x86, implied_arm] = read_both("").map(Result::unwrap);
        assert_eq!(x86.numbers.len(), implied_x86.numbers.len() + 2);
        assert!(x86.numbers.contains(&257) && x86.numbers.contains(&2));
        // aarch64 never had open.
        assert_eq!(arm.numbers.len(), implied_arm.numbers.len() + 1);
        assert!(x86.numbers.is_sorted() && arm.numbers.contains(&56));
        assert_eq!(x86.refused, []);
    }

    #[test]
    fn what_cannot_be_read_names_its_line() {
        let cases = [
            (
                "openat = \"x\"\nopnat = \"x\"",
                2,
                "opnat is not a system call",
            ),
            ("openat", 1, "write a call and why"),
            ("openat = 257", 1, "write a call and why"),
            ("openat = \"x", 1, "write a call and why"),
            ("openat = \"x\" y", 1, "write a call and why"),
            ("\n\nopenat = \" \"", 3, "no reason"),
            ("read = \"x\"\n#\nread = \"y\"", 3, "named in line 1"),
            ("{} = \"x\"", 1, "not a system call"),
        ];
        for (text, line, reason) in cases {
            for error in read_both(text).map(Result::unwrap_err) {
                assert_eq!(error.line, line, "{text:?}");
                assert!(error.reason.contains(reason), "{text:?}: {error}");
            }
        }
    }

    #[test]
    fn what_the_tables_always_refuse_is_said() {
        for allowed in read_both("ptrace = \"debugger\"\nioctl = \"terminals\"").map(Result::unwrap)
        {
            let [(name, why)] = allowed.refused.as_slice() else {
                panic!("{:?}", allowed.refused);
            };
            assert_eq!(name, "ptrace");
            assert!(why.contains("debugs"), "{why}");
        }
    }

    #[test]
    fn every_implied_call_exists_on_both_architectures() {
        for (line, name) in names(IMPLIED).unwrap() {
            for arch in [TargetArch::x86_64, TargetArch::aarch64] {
                assert!(number(name, arch).is_some(), "line {line}: {name}");
            }
        }
        assert!(IMPLIED.parse::<toml::Table>().is_ok());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn whoever_hands_out_sockets_makes_tcp_ones_and_connects_none() {
        use super::super::proof::answer;
        use super::super::tests::X86_64;
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let filter = hand_out(TargetArch::x86_64).unwrap();
        let ask = |number: libc::c_long, [a, b, c]: [u64; 3]| {
            let number = u32::try_from(number).unwrap();
            answer(&filter, X86_64, number, [a, b, c, 0, 0, 0])
        };
        let stream = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
        for family in [2, 10] {
            assert_eq!(ask(libc::SYS_socket, [family, stream, 6]), 0x7fff_0000);
            for (kind, protocol) in [(2, 17), (3, 255), (1, 262), (1, 0)] {
                assert_eq!(ask(libc::SYS_socket, [family, kind, protocol]), refused);
            }
        }
        for (family, kind) in [(1, 1), (16, 3), (17, 3), (40, 1)] {
            assert_eq!(ask(libc::SYS_socket, [family, kind, 6]), refused);
        }
        for call in [
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_recvmsg,
            libc::SYS_setsockopt,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_clone,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_ptrace,
        ] {
            assert_eq!(ask(call, [0; 3]), refused, "{call}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_list_or_an_error(text in "[a-z_=\"# \\[\n]{0,80}") {
            drop(read_for(&text, TargetArch::x86_64));
        }
    }
}
