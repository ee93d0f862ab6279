//! The system-call filter: tables from `policy/seccomp`, and a prologue and a search of our own.
//!
//! seccompiler turns the conditions of one call into BPF; it knows one error for each filter and
//! nothing of x32, and writes the calls one after the other. So each call is compiled alone, the
//! pieces hang below a search by number, and the prologue refuses foreign architectures, x32 numbers
//! and numbers that were not assigned when this was written. A call without a line, or with one
//! that asks for no argument, gets the same verdict for all arguments: the kernel remembers it
//! (`seccomp_cache_prepare`, Linux 5.11) and no longer runs the filter for those that are allowed.

pub(in crate::cell) mod allow;
pub(super) mod notify;
pub(super) mod own;
mod table;

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The newest system call that was weighed (`file_setattr`, Linux 6.17): a later kernel must not
/// widen the cell. Both architectures share the numbers from 424 on.
const NEWEST: u32 = 469;

/// Numbers that were left out below 424, in which later kernels may yet find place for calls of one
/// architecture, as x86-64 did for `uretprobe` (335) and `uprobe` (336).
fn gaps(arch: TargetArch) -> &'static [RangeInclusive<u32>] {
    match arch {
        TargetArch::aarch64 => &[244..=259, 295..=423],
        _ => &[337..=423],
    }
}

const BASE: &str = include_str!("../../policy/seccomp/base.toml");
const FLOOR: &str = include_str!("../../policy/seccomp/floor.toml");
const APART: &str = include_str!("../../policy/seccomp/apart.toml");

/// Which sockets there are; everything else is the same in every cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Off,
    Tcp,
    TcpAndUdp,
    /// TCP, and listening: the supervisor, or a network of the cell's own, sees to where.
    Serve,
    /// TCP, UDP and listening, in a network that has no way out by itself.
    Own,
}

impl Network {
    #[cfg(test)]
    const ALL: [Self; 5] = [
        Self::Off,
        Self::Tcp,
        Self::TcpAndUdp,
        Self::Serve,
        Self::Own,
    ];

    fn table(self) -> &'static str {
        match self {
            Self::Off => include_str!("../../policy/seccomp/network-off.toml"),
            Self::Tcp => include_str!("../../policy/seccomp/network-tcp.toml"),
            Self::TcpAndUdp => include_str!("../../policy/seccomp/network-udp.toml"),
            Self::Serve => include_str!("../../policy/seccomp/network-serve.toml"),
            Self::Own => include_str!("../../policy/seccomp/network-own.toml"),
        }
    }
}

/// Whose processes the cell sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processes {
    /// All of the host's.
    Shared,
    /// Those of a namespace of its own.
    Own,
}

impl Processes {
    #[cfg(test)]
    const ALL: [Self; 2] = [Self::Shared, Self::Own];

    fn table(self) -> &'static str {
        match self {
            Self::Shared => FLOOR,
            Self::Own => APART,
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

/// Compiles and installs the filter for this process and its children; `no_new_privs` is set.
///
/// # Errors
/// When the tables do not compile or the kernel refuses.
pub(super) fn install(network: Network, processes: Processes) -> Result<(), SeccompError> {
    load(&compile(network, processes, host_arch()?)?)
}

/// Gives a filter to the kernel.
fn load(filter: &BpfProgram) -> Result<(), SeccompError> {
    seccompiler::apply_filter(filter).map_err(|error| SeccompError::Kernel {
        reason: error.to_string(),
    })
}

fn host_arch() -> Result<TargetArch, SeccompError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(TargetArch::x86_64),
        "aarch64" => Ok(TargetArch::aarch64),
        arch => Err(SeccompError::Arch { arch }),
    }
}

/// The filter of the tables.
fn compile(
    network: Network,
    processes: Processes,
    arch: TargetArch,
) -> Result<BpfProgram, SeccompError> {
    let tables = [BASE, processes.table(), network.table()];
    let calls = gather(&tables, arch, |entry| {
        let errno = errno(entry.errno).ok_or("unknown errno")?;
        let verdicts = (SeccompAction::Errno(errno), SeccompAction::Allow);
        Ok((rules(entry.when.iter())?, verdicts))
    })?;
    Ok(program(&calls, libc::SECCOMP_RET_ALLOW, arch))
}

/// What a line means: its rules, and the two verdicts of [`piece`].
type Meaning = (Vec<SeccompRule>, (SeccompAction, SeccompAction));

/// The pieces of all lines that the architecture has a number for, sorted.
fn gather(
    texts: &[&str],
    arch: TargetArch,
    meaning: impl Fn(&table::Entry<'_>) -> Result<Meaning, String>,
) -> Result<Vec<(u32, BpfProgram)>, SeccompError> {
    let mut calls: BTreeMap<u32, BpfProgram> = BTreeMap::new();
    for text in texts {
        for entry in table::parse(text).map_err(|reason| SeccompError::Table { reason })? {
            let number = match arch {
                TargetArch::aarch64 => entry.aarch64,
                _ => entry.x86_64,
            };
            let Some(number) = number else { continue };
            let done = meaning(&entry)
                .and_then(|(rules, verdicts)| piece(number, rules, verdicts, arch))
                .and_then(|piece| match calls.insert(number, piece) {
                    None => Ok(()),
                    Some(_) => Err("named twice".to_owned()),
                });
            done.map_err(|reason| SeccompError::Entry {
                call: entry.call.to_owned(),
                reason,
            })?;
        }
    }
    Ok(calls.into_iter().collect())
}

/// A whole filter: what is not among `calls` gets `otherwise`.
fn program(calls: &[(u32, BpfProgram)], otherwise: u32, arch: TargetArch) -> BpfProgram {
    let mut program = prologue(arch);
    program.extend(search(calls));
    program.push(step(RETURN, 0, 0, otherwise));
    program
}

/// The rules of clauses of which any is enough.
fn rules(clauses: impl Iterator<Item = impl AsRef<str>>) -> Result<Vec<SeccompRule>, String> {
    let mut rules = Vec::new();
    for clause in clauses {
        rules.extend(parse_clause(clause.as_ref())?);
    }
    Ok(rules)
}

fn errno(name: &str) -> Option<u32> {
    let errno = match name {
        "EPERM" => Errno::EPERM,
        "EACCES" => Errno::EACCES,
        "ENOSYS" => Errno::ENOSYS,
        "EOPNOTSUPP" => Errno::EOPNOTSUPP,
        _ => return None,
    };
    u32::try_from(errno as i32).ok()
}

/// What is done with one call whose number is loaded; it always returns. The first verdict is for
/// arguments that a rule fits, and for all when there is no rule.
fn piece(
    number: u32,
    rules: Vec<SeccompRule>,
    (verdict, otherwise): (SeccompAction, SeccompAction),
    arch: TargetArch,
) -> Result<BpfProgram, String> {
    if rules.is_empty() {
        return Ok(vec![step(RETURN, 0, 0, verdict.into())]);
    }
    let rules = BTreeMap::from([(i64::from(number), rules)]);
    let filter = SeccompFilter::new(rules, otherwise, verdict, arch);
    let body = filter.and_then(BpfProgram::try_from);
    let body = body.map_err(|error| error.to_string())?;
    // seccompiler opens with: load the architecture, compare, kill. The prologue has done that.
    match body.split_at_checked(3) {
        Some(([load, compare, kill], rest)) if is_arch_check(load, compare, kill) => {
            Ok(rest.to_vec())
        }
        _ => Err("seccompiler writes another prologue than the one we know".into()),
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

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` (`linux/audit.h`).
fn audit_arch(arch: TargetArch) -> u32 {
    match arch {
        TargetArch::aarch64 => 0xc000_00b7,
        _ => 0xc000_003e,
    }
}

/// Foreign architecture (`int 0x80` on x86-64), x32 (bit 30 makes the number huge), numbers above
/// [`NEWEST`] and in the [`gaps`]: ENOSYS. Leaves the number loaded.
fn prologue(arch: TargetArch) -> BpfProgram {
    let absent = libc::SECCOMP_RET_ERRNO | (Errno::ENOSYS as u32);
    let mut program = vec![
        step(LOAD_WORD, 0, 0, ARCH),
        step(JUMP_EQUAL, 1, 0, audit_arch(arch)),
        step(RETURN, 0, 0, absent),
        step(LOAD_WORD, 0, 0, NUMBER),
        step(JUMP_GREATER, 0, 1, NEWEST),
        step(RETURN, 0, 0, absent),
    ];
    for gap in gaps(arch) {
        program.extend([
            step(JUMP_AT_LEAST, 0, 2, *gap.start()),
            step(JUMP_GREATER, 1, 0, *gap.end()),
            step(RETURN, 0, 0, absent),
        ]);
    }
    program
}

/// Numbers that are compared one after the other: fewer are not worth a branch.
const LEAF: usize = 4;

/// Runs the piece of the loaded number, which never comes back, or goes on with what follows the
/// last instruction. `calls` are sorted.
fn search(calls: &[(u32, BpfProgram)]) -> BpfProgram {
    // Conditional jumps reach 255 instructions, plain ones reach all; lengths are in the hundreds.
    let over = |program: &BpfProgram| u32::try_from(program.len()).unwrap_or(u32::MAX);
    let (low, high) = calls.split_at(calls.len() / 2);
    let (true, Some((pivot, _))) = (calls.len() > LEAF, high.first()) else {
        let mut program = BpfProgram::new();
        for (number, piece) in calls {
            program.push(step(JUMP_EQUAL, 1, 0, *number));
            program.push(step(JUMP, 0, 0, over(piece)));
            program.extend_from_slice(piece);
        }
        return program;
    };
    let (low, high) = (search(low), search(high));
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
/// becomes one rule for each bit of the mask. `argN wide != X` compares all 64 bits.
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
            // A pointer: its lower half alone may be nothing.
            [arg, "wide", "!=", value] => {
                let length = SeccompCmpArgLen::Qword;
                let index = argument(arg)?;
                let wide = SeccompCondition::new(index, length, SeccompCmpOp::Ne, number(value)?);
                conditions.push(wide.map_err(|error| error.to_string())?);
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

/// All others are compared as 32 bits: the kernel looks at no more of them, and a comparison of 64
/// bits could be passed by with garbage in the upper half. The one that is longer is the signal of
/// `prctl(PR_SET_PDEATHSIG)`: with an upper half it is no signal, and the kernel says so.
fn test(arg: &str, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument(arg)?, SeccompCmpArgLen::Dword, op, value)
        .map_err(|error| error.to_string())
}

fn argument(arg: &str) -> Result<u8, String> {
    let index = arg
        .strip_prefix("arg")
        .and_then(|digits| digits.parse().ok());
    index.ok_or_else(|| format!("{arg:?} is not an argument"))
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

#[cfg(test)]
mod proof;
