//! The system-call filter: tables from `policy/seccomp`, a prologue of our own, one filter for
//! each error that callers see.
//!
//! seccompiler turns a table into BPF but knows one action for each filter and nothing of x32, so
//! the tables are split by error and the prologue, which each filter opens with, refuses foreign
//! architectures, x32 numbers and numbers that were not assigned when this was written. The kernel
//! runs all filters on every call and the strictest answer counts.

pub(super) mod own;
mod table;

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use std::collections::BTreeMap;

/// The newest system call that was weighed (`file_setattr`, Linux 6.17): a later kernel must not
/// widen the cell. Both architectures share the numbers from 424 on.
const NEWEST: u32 = 469;

const BASE: &str = include_str!("../../policy/seccomp/base.toml");

/// Which sockets there are; everything else is the same in every cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Off,
    Tcp,
    TcpAndUdp,
}

impl Network {
    fn table(self) -> &'static str {
        match self {
            Self::Off => include_str!("../../policy/seccomp/network-off.toml"),
            Self::Tcp => include_str!("../../policy/seccomp/network-tcp.toml"),
            Self::TcpAndUdp => include_str!("../../policy/seccomp/network-udp.toml"),
        }
    }
}

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeccompError {
    #[error("the architecture {arch} is not supported")]
    Arch { arch: &'static str },
    #[error("the table is not valid: {reason}")]
    Table { reason: String },
    #[error("entry {call}: {reason}")]
    Entry { call: String, reason: String },
    #[error("the kernel refuses the filter: {reason}")]
    Kernel { reason: String },
}

/// Compiles and installs the filters for this process and its children; `no_new_privs` is set.
///
/// # Errors
/// When the tables do not compile or the kernel refuses.
pub(super) fn install(network: Network) -> Result<(), SeccompError> {
    let filters = compile(network, host_arch()?)?;
    for filter in &filters {
        seccompiler::apply_filter(filter).map_err(|error| SeccompError::Kernel {
            reason: error.to_string(),
        })?;
    }
    Ok(())
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

/// For the launcher and pid 1 while the server runs: an allow list, small because every filter costs
/// the start of a server its compilation.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn watch_only() -> Result<(), SeccompError> {
    let failed = |reason: String| SeccompError::Kernel { reason };
    let rules = WATCHING.map(|number| (number, Vec::new())).into();
    let refuse = SeccompAction::Errno(Errno::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, host_arch()?)
        .map_err(|error| failed(error.to_string()))?;
    let program = BpfProgram::try_from(filter).map_err(|error| failed(error.to_string()))?;
    seccompiler::apply_filter(&program).map_err(|error| failed(error.to_string()))
}

fn host_arch() -> Result<TargetArch, SeccompError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(TargetArch::x86_64),
        "aarch64" => Ok(TargetArch::aarch64),
        arch => Err(SeccompError::Arch { arch }),
    }
}

/// The filters, one for each error.
fn compile(network: Network, arch: TargetArch) -> Result<Vec<BpfProgram>, SeccompError> {
    let mut by_errno: BTreeMap<u32, BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
    for text in [BASE, network.table()] {
        let entries = table::parse(text).map_err(|reason| SeccompError::Table { reason })?;
        for entry in entries {
            let call = entry.call;
            let number = match arch {
                TargetArch::aarch64 => entry.aarch64,
                _ => entry.x86_64,
            };
            let Some(number) = number else { continue };
            let wrong = |reason: String| SeccompError::Entry {
                call: call.to_owned(),
                reason,
            };
            let errno = errno(entry.errno).ok_or_else(|| wrong("unknown errno".into()))?;
            let mut rules = Vec::new();
            for clause in &entry.when {
                rules.extend(parse_clause(clause).map_err(&wrong)?);
            }
            if by_errno
                .entry(errno)
                .or_default()
                .insert(number, rules)
                .is_some()
            {
                return Err(wrong("named twice".into()));
            }
        }
    }
    by_errno
        .into_iter()
        .map(|(errno, rules)| assemble(errno, rules, arch))
        .collect()
}

fn errno(name: &str) -> Option<u32> {
    let errno = match name {
        "EPERM" => Errno::EPERM,
        "EACCES" => Errno::EACCES,
        "ENOSYS" => Errno::ENOSYS,
        _ => return None,
    };
    u32::try_from(errno as i32).ok()
}

/// One filter: our prologue in place of the one that seccompiler writes.
fn assemble(
    errno: u32,
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    arch: TargetArch,
) -> Result<BpfProgram, SeccompError> {
    let failed = |reason: String| SeccompError::Table { reason };
    // What is refused whatever its arguments goes into a search tree of our own; seccompiler writes
    // one chain of five instructions for each, and the kernel walks the filter once for each call
    // number when it is installed, then for every call that it does not always allow.
    let (always, rules): (BTreeMap<_, _>, BTreeMap<_, _>) = rules
        .into_iter()
        .partition(|(_, clauses)| clauses.is_empty());
    let action = SeccompAction::Errno(errno);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch)
        .map_err(|error| failed(error.to_string()))?;
    let body = BpfProgram::try_from(filter).map_err(|error| failed(error.to_string()))?;
    // seccompiler opens with: load the architecture, compare, kill. We answer ENOSYS instead, as
    // a kernel without that architecture would.
    match body.split_at_checked(3) {
        Some(([load, compare, kill], rest)) if is_arch_check(load, compare, kill) => {
            let mut program = prologue(compare.k);
            let numbers: Vec<u32> = always
                .into_keys()
                .map(|number| u32::try_from(number).map_err(|error| failed(error.to_string())))
                .collect::<Result<_, _>>()?;
            let verdict = step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno);
            program.extend(search(&numbers, &verdict));
            program.extend_from_slice(rest);
            Ok(program)
        }
        _ => Err(failed(
            "seccompiler writes another prologue than the one we know".into(),
        )),
    }
}

// Classic BPF, `linux/filter.h` and `linux/bpf_common.h`.
const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data` (`linux/seccomp.h`).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

fn is_arch_check(load: &sock_filter, compare: &sock_filter, kill: &sock_filter) -> bool {
    (load.code, load.k) == (LOAD_WORD, ARCH)
        && compare.code == JUMP_EQUAL
        && (kill.code, kill.k) == (RETURN, libc::SECCOMP_RET_KILL_PROCESS)
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Foreign architecture (`int 0x80` on x86-64), x32 (bit 30 makes the number huge) and numbers
/// above [`NEWEST`]: ENOSYS.
fn prologue(arch: u32) -> BpfProgram {
    let absent = libc::SECCOMP_RET_ERRNO | (Errno::ENOSYS as u32);
    vec![
        step(LOAD_WORD, 0, 0, ARCH),
        step(JUMP_EQUAL, 1, 0, arch),
        step(RETURN, 0, 0, absent),
        step(LOAD_WORD, 0, 0, NUMBER),
        step(JUMP_GREATER, 0, 1, NEWEST),
        step(RETURN, 0, 0, absent),
    ]
}

/// Numbers that are compared one after the other: fewer are not worth a branch.
const LEAF: usize = 4;

/// Returns `verdict` when the loaded number is one of `numbers`, which are sorted; else goes on with
/// what follows the last instruction.
fn search(numbers: &[u32], verdict: &sock_filter) -> BpfProgram {
    let (low, high) = numbers.split_at(numbers.len() / 2);
    let (true, Some(pivot)) = (numbers.len() > LEAF, high.first()) else {
        let test = |number: &u32| [step(JUMP_EQUAL, 0, 1, *number), verdict.clone()];
        return numbers.iter().flat_map(test).collect();
    };
    let (low, high) = (search(low, verdict), search(high, verdict));
    // Conditional jumps reach 255 instructions, plain ones reach all; lengths are in the hundreds.
    let over = |program: &BpfProgram| u32::try_from(program.len()).unwrap_or(u32::MAX);
    let mut program = vec![
        step(JUMP_AT_LEAST, 0, 1, *pivot),
        step(JUMP, 0, 0, over(&low) + 1),
    ];
    let leave = step(JUMP, 0, 0, over(&high));
    program.extend(low);
    program.push(leave);
    program.extend(high);
    program
}

/// A clause such as `arg0 != 2 && arg1 & 0xf == 3`, or with `argN any MASK` as its last term, which
/// becomes one rule for each bit of the mask.
fn parse_clause(clause: &str) -> Result<Vec<SeccompRule>, String> {
    let mut conditions = Vec::new();
    let mut bits = Vec::new();
    for term in clause.split(" && ") {
        let words: Vec<&str> = term.split(' ').collect();
        let (arg, condition) = match words.as_slice() {
            [arg, "any", mask] => {
                let mask = number(mask)?;
                for bit in (0..32).map(|bit| 1 << bit).filter(|bit| mask & bit != 0) {
                    bits.push(test(arg, SeccompCmpOp::MaskedEq(bit), bit)?);
                }
                continue;
            }
            [arg, "==", value] => (arg, (SeccompCmpOp::Eq, number(value)?)),
            [arg, "!=", value] => (arg, (SeccompCmpOp::Ne, number(value)?)),
            [arg, "&", mask, "==", value] => {
                (arg, (SeccompCmpOp::MaskedEq(number(mask)?), number(value)?))
            }
            _ => return Err(format!("cannot read {term:?}")),
        };
        conditions.push(test(arg, condition.0, condition.1)?);
    }
    let rules: Vec<Vec<SeccompCondition>> = if bits.is_empty() {
        vec![conditions]
    } else {
        bits.into_iter()
            .map(|bit| [conditions.clone(), vec![bit]].concat())
            .collect()
    };
    rules
        .into_iter()
        .map(|rule| SeccompRule::new(rule).map_err(|error| error.to_string()))
        .collect()
}

/// All arguments are compared as 32 bits: the kernel takes `int` or `unsigned int` for each of
/// them, and a comparison of 64 bits could be passed by with garbage in the upper half.
fn test(arg: &str, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, String> {
    let index = arg
        .strip_prefix("arg")
        .and_then(|digits| digits.parse().ok());
    let index = index.ok_or_else(|| format!("{arg:?} is not an argument"))?;
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
        .map_err(|error| error.to_string())
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is not a number"))
}

// The verdicts are computed for both architectures, but the numbers come from the libc of one.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests;
