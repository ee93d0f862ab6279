//! The system calls that no crate offers safely, each behind a small function.

use nix::errno::Errno;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A system call whose arguments are all plain integers.
#[expect(
    unsafe_code,
    reason = "nix wraps none of the calls below and the standard library neither"
)]
fn scalar(number: libc::c_long, args: [libc::c_ulong; 5]) -> Result<i64, Errno> {
    let [a, b, c, d, e] = args;
    // SAFETY: private to this file, and every caller below passes only integers or NULL where the
    // kernel takes a pointer, so the kernel neither reads nor writes our memory.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    Errno::result(result)
}

/// Takes over the two descriptors that the spawner names on our command line.
///
/// # Errors
/// `EBADF` when one of them is not open, or when they are the same or a standard stream.
#[expect(
    unsafe_code,
    reason = "a descriptor that arrives as a number has no owner yet"
)]
pub(super) fn adopt(spec: RawFd, status: RawFd) -> Result<(OwnedFd, OwnedFd), Errno> {
    if spec < 3 || status < 3 || spec == status {
        return Err(Errno::EBADF);
    }
    for fd in [spec, status] {
        let arg = libc::c_ulong::try_from(fd).map_err(|_| Errno::EBADF)?;
        scalar(
            libc::SYS_fcntl,
            [arg, libc::F_GETFD as libc::c_ulong, 0, 0, 0],
        )?;
    }
    // SAFETY: both are open (just asked), distinct, not a standard stream, and nothing else in this
    // fresh single-threaded process owns a descriptor that it did not open itself.
    Ok(unsafe { (OwnedFd::from_raw_fd(spec), OwnedFd::from_raw_fd(status)) })
}

/// Closes every descriptor from 3 on but one (`close_range(2)`, Linux 5.9).
pub(super) fn close_all_but(keep: RawFd) -> Result<(), Errno> {
    let keep = libc::c_ulong::try_from(keep).map_err(|_| Errno::EBADF)?;
    let last = libc::c_ulong::from(u32::MAX);
    if keep > 3 {
        scalar(libc::SYS_close_range, [3, keep - 1, 0, 0, 0])?;
    }
    scalar(libc::SYS_close_range, [keep.max(2) + 1, last, 0, 0, 0]).map(drop)
}

/// Keeps a descriptor out of the program that is executed next.
pub(super) fn close_on_exec(fd: RawFd) -> Result<(), Errno> {
    let fd = libc::c_ulong::try_from(fd).map_err(|_| Errno::EBADF)?;
    let [command, flag] = [libc::F_SETFD, libc::FD_CLOEXEC].map(|word| word as libc::c_ulong);
    scalar(libc::SYS_fcntl, [fd, command, flag, 0, 0]).map(drop)
}

/// Leaves the session keyring that we inherited (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`).
pub(super) fn join_new_keyring() -> Result<(), Errno> {
    scalar(libc::SYS_keyctl, [1, 0, 0, 0, 0]).map(drop)
}

/// Makes stdin the controlling terminal of our session (`TIOCSCTTY`).
pub(super) fn take_terminal() -> Result<(), Errno> {
    // `ioctl_tty(2)`; libc types the constant differently for each C library.
    const TIOCSCTTY: libc::c_ulong = 0x540e;
    scalar(libc::SYS_ioctl, [0, TIOCSCTTY, 0, 0, 0]).map(drop)
}

/// Removes one capability from the bounding set; needs `CAP_SETPCAP`.
pub(super) fn drop_bounding(capability: u8) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, u64::from(capability)).map(drop)
}

/// Whether the bounding set has that capability; `EINVAL` for numbers the kernel does not know.
pub(super) fn has_bounding(capability: u8) -> Result<bool, Errno> {
    prctl(libc::PR_CAPBSET_READ, u64::from(capability)).map(|set| set == 1)
}

/// Sets the secure bits (`capabilities(7)`); needs `CAP_SETPCAP`.
pub(super) fn set_securebits(bits: u64) -> Result<(), Errno> {
    prctl(libc::PR_SET_SECUREBITS, bits).map(drop)
}

/// The secure bits.
pub(super) fn securebits() -> Result<i64, Errno> {
    prctl(libc::PR_GET_SECUREBITS, 0)
}

fn prctl(option: libc::c_int, arg: u64) -> Result<i64, Errno> {
    let option = libc::c_ulong::try_from(option).map_err(|_| Errno::EINVAL)?;
    scalar(libc::SYS_prctl, [option, arg, 0, 0, 0])
}

/// The landlock ABI of the running kernel (`LANDLOCK_CREATE_RULESET_VERSION`); an error when
/// landlock is not built in (`ENOSYS`), not enabled (`EOPNOTSUPP`) or filtered away (`EPERM`).
pub(super) fn landlock_abi() -> Result<u8, Errno> {
    let version = scalar(libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0])?;
    Ok(u8::try_from(version).unwrap_or(u8::MAX))
}

/// What the kernel says to `io_uring_setup(0, NULL)`: never a ring, for it needs a real argument.
pub(super) fn try_io_uring() -> Errno {
    scalar(libc::SYS_io_uring_setup, [0, 0, 0, 0, 0])
        .err()
        .unwrap_or(Errno::UnknownErrno)
}

/// Whether the kernel has seccomp filters: `EFAULT` for a filter at NULL means yes (`seccomp(2)`).
pub(super) fn has_seccomp_filters() -> bool {
    let mode = libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER);
    scalar(libc::SYS_seccomp, [mode, 0, 0, 0, 0]) == Err(Errno::EFAULT)
}
