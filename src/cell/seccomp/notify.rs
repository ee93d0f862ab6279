//! The second filter of a cell without namespaces: a few calls wait for the answer of the supervisor.
//!
//! It stands beside the main filter, and for each call the stricter verdict counts (`seccomp(2)`): an
//! error of the main filter, such as the one for set-id bits, is given without asking anybody.

use super::{
    ARCH, JUMP_EQUAL, LOAD_WORD, NUMBER, RETURN, SeccompError, audit_arch, host_arch, search, step,
    table,
};
use crate::cell::sys;
use nix::errno::Errno;
use seccompiler::{BpfProgram, TargetArch};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

const SUPERVISED: &str = include_str!("../../../policy/seccomp/supervised.toml");
const WATCHERS: &str = include_str!("../../../policy/seccomp/watchers.toml");
const CONNECTIONS: &str = include_str!("../../../policy/seccomp/connections.toml");
const LISTENING: &str = include_str!("../../../policy/seccomp/listening.toml");
const SOCKETS: &str = include_str!("../../../policy/seccomp/sockets.toml");

/// Installs the filter for this process and its children; the descriptor is for whoever answers.
/// `no_new_privs` is set. With `makes` it also makes what it cannot borrow, with `connects` the
/// connections, with `serves` it decides where the server listens.
///
/// # Errors
/// When the table does not compile or the kernel refuses: `EBUSY` where a filter around us has a
/// listener already, `EINVAL` before Linux 5.0.
pub(in crate::cell) fn install(
    makes: bool,
    connects: bool,
    serves: bool,
) -> Result<OwnedFd, SeccompError> {
    let mut tables = vec![SUPERVISED];
    tables.extend(makes.then_some(WATCHERS));
    // One that only listens has sockets too, and nowhere to connect to.
    tables.extend((connects || serves).then_some(CONNECTIONS));
    tables.extend(serves.then_some(LISTENING));
    tables.extend((makes && (connects || serves)).then_some(SOCKETS));
    let filter = compile(&tables, host_arch()?)?;
    // Without it a signal that comes while a call waits has it made again after it was answered.
    let patient = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let listener = match sys::load_with_listener(&filter, patient) {
        Err(Errno::EINVAL) => sys::load_with_listener(&filter, 0),
        done => done,
    };
    listener.map_err(|error| SeccompError::Kernel {
        reason: error.to_string(),
    })
}

/// Foreign architectures and x32 numbers fall through: the main filter has an error for them.
fn compile(tables: &[&str], arch: TargetArch) -> Result<BpfProgram, SeccompError> {
    let ask = vec![step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF)];
    let mut calls: BTreeMap<u32, BpfProgram> = BTreeMap::new();
    for text in tables {
        for entry in table::parse(text).map_err(|reason| SeccompError::Table { reason })? {
            let number = match arch {
                TargetArch::aarch64 => entry.aarch64,
                _ => entry.x86_64,
            };
            if let Some(number) = number {
                calls.insert(number, ask.clone());
            }
        }
    }
    let calls: Vec<(u32, BpfProgram)> = calls.into_iter().collect();
    let allow = step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let mut program = vec![
        step(LOAD_WORD, 0, 0, ARCH),
        step(JUMP_EQUAL, 1, 0, audit_arch(arch)),
        allow.clone(),
        step(LOAD_WORD, 0, 0, NUMBER),
    ];
    program.extend(search(&calls));
    program.push(allow);
    Ok(program)
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::super::allow;
    use super::super::proof::{answer, is_constant};
    use super::super::tests::{AARCH64, X86_64};
    use super::*;

    #[test]
    fn what_is_listed_waits_and_nothing_else_does() {
        for (arch, token) in [(TargetArch::x86_64, X86_64), (TargetArch::aarch64, AARCH64)] {
            let tables = [SUPERVISED, WATCHERS, CONNECTIONS, LISTENING, SOCKETS];
            let filter = compile(&tables, arch).unwrap();
            let entries = tables.map(|text| table::parse(text).unwrap());
            let listed: Vec<u32> = entries
                .iter()
                .flatten()
                .filter_map(|entry| {
                    assert_eq!((entry.errno, entry.when.len()), ("", 0), "{}", entry.call);
                    let number = match arch {
                        TargetArch::aarch64 => entry.aarch64,
                        _ => entry.x86_64,
                    };
                    assert_eq!(number, allow::number(entry.call, arch), "{}", entry.call);
                    number
                })
                .collect();
            for number in 0..600 {
                let said = answer(&filter, token, number, [u64::MAX; 6]);
                let waits = said == libc::SECCOMP_RET_USER_NOTIF;
                assert_eq!(waits, listed.contains(&number), "{number}");
                assert!(waits || said == libc::SECCOMP_RET_ALLOW, "{number}");
                // Nothing that is not listed runs the filter: open, stat and read stay as fast.
                assert!(waits || is_constant(&filter, token, number), "{number}");
                let foreign = answer(&filter, 0x4000_0003, number, [0; 6]);
                let x32 = answer(&filter, token, number | 0x4000_0000, [0; 6]);
                assert_eq!(
                    (foreign, x32),
                    (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ALLOW)
                );
            }
        }
    }
}
