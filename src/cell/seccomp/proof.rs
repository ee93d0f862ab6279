//! Proves the tables over the bytes that the kernel would run: every line, every condition on both
//! sides of its boundary, on both architectures, in every network.
//!
//! The kernel that runs the tests has one architecture and maybe no x32, so the filter is run in an
//! interpreter of classic BPF, and what it must answer is computed from the text of the tables by
//! other code than the one that compiles them.

use super::table::{self, Entry};
use super::*;

const ARCHES: [TargetArch; 2] = [TargetArch::x86_64, TargetArch::aarch64];
/// `AUDIT_ARCH_I386`, `AUDIT_ARCH_ARM`, nothing at all, and all bits.
const FOREIGN: [u32; 4] = [0x4000_0003, 0x4000_0028, 0, u32::MAX];
/// `__X32_SYSCALL_BIT`.
const X32: u32 = 0x4000_0000;

/// The errno that the call is answered with, 0 when it is allowed. Any other answer fails the test.
pub(super) fn run(filter: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    match answer(filter, arch, number, args) {
        libc::SECCOMP_RET_ALLOW => 0,
        k if k & !0xfff == libc::SECCOMP_RET_ERRNO => k & 0xfff,
        other => panic!("answer {other:#x}"),
    }
}

/// Classic BPF as far as the filters use it: what the kernel would be told.
pub(super) fn answer(filter: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0x5555_5555_5555_5555u64.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut at, mut acc) = (0usize, 0u32);
    // Programs only jump forward, so this ends.
    loop {
        let sock_filter { code, jt, jf, k } = filter[at].clone();
        at += 1;
        let taken = match code {
            0x20 => {
                let from = usize::try_from(k).unwrap();
                acc = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                continue;
            }
            0x54 => {
                acc &= k;
                continue;
            }
            0x05 => {
                at += usize::try_from(k).unwrap();
                continue;
            }
            0x06 => return k,
            0x15 => acc == k,
            0x25 => acc > k,
            0x35 => acc >= k,
            other => panic!("instruction {other:#x} with {k:#x}"),
        };
        at += usize::from(if taken { jt } else { jf });
    }
}

/// Whether the kernel can give a verdict on this number once and for all: no argument is loaded on
/// any way (`seccomp_is_const_allow`).
pub(super) fn is_constant(filter: &[sock_filter], arch: u32, number: u32) -> bool {
    let mut at = 0;
    let mut acc = 0;
    loop {
        let sock_filter { code, jt, jf, k } = filter[at].clone();
        at += 1;
        let taken = match (code, k) {
            (0x20, NUMBER) => {
                acc = number;
                continue;
            }
            (0x20, ARCH) => {
                acc = arch;
                continue;
            }
            (0x05, _) => {
                at += usize::try_from(k).unwrap();
                continue;
            }
            (0x06, _) => return true,
            (0x15, _) => acc == k,
            (0x25, _) => acc > k,
            (0x35, _) => acc >= k,
            _ => return false,
        };
        at += usize::from(if taken { jt } else { jf });
    }
}

/// Every filter that there is for an architecture.
fn filters() -> impl Iterator<Item = (Network, Processes)> {
    let all = |network| Processes::ALL.map(|processes| (network, processes));
    Network::ALL.into_iter().flat_map(all)
}

fn entries((network, processes): (Network, Processes)) -> Vec<Entry<'static>> {
    [BASE, processes.table(), network.table()]
        .into_iter()
        .flat_map(|text| table::parse(text).unwrap())
        .collect()
}

fn number_of(entry: &Entry<'_>, arch: TargetArch) -> Option<u32> {
    match arch {
        TargetArch::aarch64 => entry.aarch64,
        _ => entry.x86_64,
    }
}

fn value(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

/// What a line of `when` says of arguments, of which the lower half counts unless it says otherwise.
fn holds(clause: &str, wide: &[u64; 6]) -> bool {
    let args = wide.map(|arg| u32::try_from(arg & 0xffff_ffff).unwrap());
    clause.split(" && ").all(|term| {
        let words: Vec<&str> = term.split(' ').collect();
        let at = usize::from(words[0].as_bytes()[3] - b'0');
        let arg = args[at];
        match words[1..] {
            ["wide", "!=", x] => wide[at] != u64::from(value(x)),
            ["==", x] => arg == value(x),
            ["!=", x] => arg != value(x),
            ["any", mask] => arg & value(mask) != 0,
            ["&", mask, "==", x] => arg & value(mask) == value(x),
            _ => panic!("{term}"),
        }
    })
}

/// What is worth trying for each argument: every number that a condition mentions, its neighbours,
/// each of its bits, and the ends.
fn interesting(entry: &Entry<'_>) -> [Vec<u32>; 6] {
    let mut values: [Vec<u32>; 6] = Default::default();
    for term in entry.when.iter().flat_map(|clause| clause.split(" && ")) {
        let words: Vec<&str> = term.split(' ').collect();
        let at = usize::from(words[0].as_bytes()[3] - b'0');
        let of = &mut values[at];
        for word in words[2..].iter().filter(|word| !word.ends_with('=')) {
            let x = value(word);
            of.extend([x, x.wrapping_add(1), x.wrapping_sub(1), x ^ 0x8000_0000]);
            if words.contains(&"any") {
                of.extend((0..32).map(|bit| 1 << bit));
                of.push(!x);
            }
        }
    }
    for of in &mut values {
        if !of.is_empty() {
            of.extend([0, u32::MAX]);
        }
        of.sort_unstable();
        of.dedup();
    }
    values
}

/// All combinations; arguments that no condition looks at hold junk.
fn combinations(values: &[Vec<u32>; 6]) -> Vec<[u32; 6]> {
    let mut all = vec![[0x5a5a_5a5a; 6]];
    for (at, of) in values.iter().enumerate().filter(|(_, of)| !of.is_empty()) {
        all = all
            .iter()
            .flat_map(|args| {
                of.iter().map(move |x| {
                    let mut args = *args;
                    args[at] = *x;
                    args
                })
            })
            .collect();
    }
    all
}

#[test]
fn every_line_refuses_what_it_says_and_nothing_else() {
    let (mut lines, mut verdicts) = (0, 0);
    for (network, processes) in filters() {
        for arch in ARCHES {
            let filter = compile(network, processes, arch).unwrap();
            assert!(filter.len() < 4096, "BPF_MAXINSNS");
            for entry in entries((network, processes)) {
                let Some(number) = number_of(&entry, arch) else {
                    continue;
                };
                lines += 1;
                let errno = errno(entry.errno).unwrap();
                let (mut refused, mut allowed) = (0, 0);
                for args in combinations(&interesting(&entry)) {
                    // The kernel looks at 32 bits of all but pointers; what stands in the others must
                    // not matter.
                    for upper in [0, 1, 0x8000_0000, u32::MAX] {
                        let wide = args.map(|arg| u64::from(arg) | (u64::from(upper) << 32));
                        let refuse = entry.when.is_empty()
                            || entry.when.iter().any(|clause| holds(clause, &wide));
                        let expected = if refuse { errno } else { 0 };
                        refused += u32::from(refuse);
                        allowed += u32::from(!refuse);
                        let answer = run(&filter, audit_arch(arch), number, wide);
                        assert_eq!(answer, expected, "{} {wide:x?} {network:?}", entry.call);
                        verdicts += 1;
                    }
                }
                assert!(refused > 0, "{} is never refused", entry.call);
                let sides = entry.when.is_empty() || allowed > 0;
                assert!(sides, "{} is never allowed", entry.call);
            }
        }
    }
    println!("{lines} lines, {verdicts} verdicts");
    assert!(lines > 700 && verdicts > 100_000);
}

#[test]
fn numbers_without_a_line_are_allowed_and_the_kernel_can_remember_it() {
    for (network, processes) in filters() {
        for arch in ARCHES {
            let filter = compile(network, processes, arch).unwrap();
            let named: Vec<u32> = entries((network, processes))
                .iter()
                .filter_map(|entry| number_of(entry, arch))
                .collect();
            let gap = |number| gaps(arch).iter().any(|gap| gap.contains(&number));
            for number in (0..=NEWEST).filter(|number| !named.contains(number)) {
                for args in [[0; 6], [u64::MAX; 6], [0x20_0000_0002; 6]] {
                    let answer = run(&filter, audit_arch(arch), number, args);
                    let expected = if gap(number) { libc::ENOSYS } else { 0 };
                    assert_eq!(i64::from(answer), i64::from(expected), "{number} {arch:?}");
                }
                assert!(is_constant(&filter, audit_arch(arch), number), "{number}");
            }
        }
    }
}

#[test]
fn foreign_architectures_x32_and_unassigned_numbers_do_not_exist() {
    let enosys = u32::try_from(libc::ENOSYS).unwrap();
    let strict = |arch| allow::program(&(0..=NEWEST).collect::<Vec<_>>(), Errno::ENOSYS, arch);
    for arch in ARCHES {
        let filters = filters().map(|(network, own)| compile(network, own, arch).unwrap());
        for filter in filters.chain([strict(arch)]) {
            let ours = audit_arch(arch);
            let other = ARCHES.map(audit_arch).into_iter().filter(|a| *a != ours);
            for foreign in other.chain(FOREIGN) {
                for number in 0..=NEWEST + 200 {
                    assert_eq!(run(&filter, foreign, number, [0; 6]), enosys, "{number}");
                }
            }
            for number in 0..=NEWEST + 200 {
                assert_eq!(run(&filter, ours, number | X32, [0; 6]), enosys, "{number}");
            }
            // x32 has numbers of its own from 512 to 547, which count even without the bit.
            let newer = (NEWEST + 1..NEWEST + 2000).chain([X32 - 1, X32, 1 << 31, u32::MAX]);
            for number in newer.chain(gaps(arch).iter().cloned().flatten()) {
                assert_eq!(run(&filter, ours, number, [0; 6]), enosys, "{number}");
            }
        }
    }
}

#[test]
fn names_and_numbers_are_those_of_the_kernel_on_both_architectures() {
    for (network, processes) in filters() {
        for entry in entries((network, processes)) {
            // The kernel's headers have a name for it, its table of calls another.
            let name = entry.call.trim_start_matches('_');
            for arch in ARCHES {
                let theirs = allow::number(entry.call, arch).or_else(|| allow::number(name, arch));
                let ours = number_of(&entry, arch);
                assert_eq!(ours, theirs, "{} on {arch:?}", entry.call);
            }
        }
    }
}

#[test]
fn no_call_falls_into_a_gap_and_none_is_newer() {
    use syscalls::{aarch64, x86_64};
    let x86: Vec<u32> = (0..2000)
        .filter(|n| x86_64::Sysno::new(*n as usize).is_some())
        .collect();
    // `include/uapi/asm-generic/unistd.h` has 403 to 423 for systems of 32 bits only; the crate
    // lists them for all that use that file.
    let arm: Vec<u32> = (0..2000)
        .filter(|n| !(403..=423).contains(n) && aarch64::Sysno::new(*n as usize).is_some())
        .collect();
    for (arch, known) in [(TargetArch::x86_64, x86), (TargetArch::aarch64, arm)] {
        assert_eq!(known.last(), Some(&NEWEST));
        for gap in gaps(arch) {
            assert!(!known.iter().any(|number| gap.contains(number)), "{gap:?}");
            let around = [gap.start() - 1, gap.end() + 1];
            let filled = around.iter().filter(|n| known.contains(n)).count();
            assert_eq!(filled, 2, "{gap:?} could be wider");
        }
    }
}

#[test]
fn what_runs_all_the_time_asks_for_no_argument() {
    let hot = [
        "read",
        "write",
        "close",
        "fstat",
        "lseek",
        "mmap",
        "munmap",
        "mprotect",
        "brk",
        "futex",
        "epoll_pwait",
        "ppoll",
        "clock_gettime",
        "getpid",
        "gettid",
        "statx",
        "readv",
        "writev",
        "pread64",
        "pwrite64",
        "fcntl",
        "recvfrom",
        "recvmsg",
        "getrandom",
        "sched_yield",
        "madvise",
        "rt_sigprocmask",
        "getdents64",
        "nanosleep",
        "wait4",
        "execve",
        "readlinkat",
        "faccessat",
        "unlinkat",
        "renameat2",
        "mkdirat",
        "pipe2",
        "dup3",
        "eventfd2",
        "connect",
        "fsync",
        "ftruncate",
        "epoll_ctl",
        "timerfd_settime",
        "rseq",
        "membarrier",
    ];
    for (network, processes) in filters() {
        for arch in ARCHES {
            let filter = compile(network, processes, arch).unwrap();
            // Where nothing can be connected nobody does it all the time.
            let off = network == Network::Off;
            for name in hot.into_iter().filter(|name| !(off && *name == "connect")) {
                let Some(number) = allow::number(name, arch) else {
                    assert_eq!((name, arch), ("renameat2", TargetArch::aarch64));
                    continue;
                };
                assert!(is_constant(&filter, audit_arch(arch), number), "{name}");
                assert_eq!(run(&filter, audit_arch(arch), number, [0; 6]), 0, "{name}");
            }
        }
    }
}

#[test]
fn an_allow_list_allows_its_calls_and_no_other() {
    let enosys = u32::try_from(libc::ENOSYS).unwrap();
    for arch in ARCHES {
        let list = allow::read_for("openat = \"x\"\ngetpid = \"x\"", arch).unwrap();
        let filter = allow::program(&list.numbers, Errno::ENOSYS, arch);
        for number in 0..=NEWEST {
            let expected = if list.numbers.contains(&number) {
                0
            } else {
                enosys
            };
            for args in [[0; 6], [u64::MAX; 6]] {
                assert_eq!(run(&filter, audit_arch(arch), number, args), expected);
            }
            assert!(is_constant(&filter, audit_arch(arch), number));
        }
        let getpid = allow::number("getpid", arch).unwrap();
        assert!(list.numbers.contains(&getpid));
    }
}
