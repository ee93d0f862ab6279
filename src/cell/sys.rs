//! The system calls that no crate offers safely, each behind a small function.

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::resource::Resource;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use seccompiler::sock_filter;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

/// A system call whose arguments are all plain integers.
#[expect(
    unsafe_code,
    reason = "nix wraps none of the calls below and the standard library neither"
)]
fn scalar(number: libc::c_long, args: [libc::c_ulong; 5]) -> Result<i64, Errno> {
    let [a, b, c, d, e] = args;
    // SAFETY: private to this file, and every caller below passes only integers or NULL where the
    // kernel takes a pointer, so the kernel neither reads nor writes our memory. The one call that
    // returns twice, clone, is a plain fork: its caller takes out the flags that share memory.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    Errno::result(result)
}

/// Gives back the pages of a mapping; what is asked for again comes from its file.
pub(super) fn give_back(start: usize, length: usize) -> Result<(), Errno> {
    let advice = libc::c_ulong::try_from(libc::MADV_DONTNEED).unwrap_or(0);
    let args = [
        start as libc::c_ulong,
        length as libc::c_ulong,
        advice,
        0,
        0,
    ];
    scalar(libc::SYS_madvise, args).map(drop)
}

/// Takes over descriptors that were named on our command line.
///
/// # Errors
/// `EBADF` when one of them is not open, or when two are the same or one is a standard stream.
#[expect(
    unsafe_code,
    reason = "a descriptor that arrives as a number has no owner yet"
)]
pub(super) fn adopt(fds: &[RawFd]) -> Result<Vec<OwnedFd>, Errno> {
    for (at, fd) in fds.iter().enumerate() {
        if *fd < 3 || fds.iter().skip(at + 1).any(|other| other == fd) {
            return Err(Errno::EBADF);
        }
        let arg = libc::c_ulong::try_from(*fd).map_err(|_| Errno::EBADF)?;
        scalar(
            libc::SYS_fcntl,
            [arg, libc::F_GETFD as libc::c_ulong, 0, 0, 0],
        )?;
    }
    // SAFETY: all are open (just asked), distinct, not a standard stream, and nothing else in this
    // fresh single-threaded process owns a descriptor that it did not open itself.
    let own = |fd: &RawFd| unsafe { OwnedFd::from_raw_fd(*fd) };
    Ok(fds.iter().map(own).collect())
}

/// Closes every descriptor from 3 on but these (`close_range(2)`, Linux 5.9).
pub(super) fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut keep: Vec<libc::c_ulong> = keep
        .iter()
        .filter_map(|fd| libc::c_ulong::try_from(*fd).ok())
        .filter(|fd| *fd >= 3)
        .collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep {
        if fd > from {
            scalar(libc::SYS_close_range, [from, fd - 1, 0, 0, 0])?;
        }
        from = fd + 1;
    }
    let last = libc::c_ulong::from(u32::MAX);
    scalar(libc::SYS_close_range, [from, last, 0, 0, 0]).map(drop)
}

/// Keeps a descriptor out of the program that is executed next.
pub(super) fn close_on_exec(fd: RawFd) -> Result<(), Errno> {
    let fd = libc::c_ulong::try_from(fd).map_err(|_| Errno::EBADF)?;
    let [command, flag] = [libc::F_SETFD, libc::FD_CLOEXEC].map(|word| word as libc::c_ulong);
    scalar(libc::SYS_fcntl, [fd, command, flag, 0, 0]).map(drop)
}

/// A read lease on a file, until it is closed: `EAGAIN` while somebody has it open to write
/// (`fcntl(2)`, `F_SETLEASE`). Whoever opens it to write meanwhile waits, and we are told by a signal
/// that is ignored unless somebody asks for it; SIGIO would end us.
pub(super) fn lease(file: BorrowedFd<'_>) -> Result<(), Errno> {
    /// `asm-generic/fcntl.h`; libc has no constant for it.
    const F_SETSIG: libc::c_int = 10;
    let fd = libc::c_ulong::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    for (command, word) in [(F_SETSIG, libc::SIGURG), (libc::F_SETLEASE, libc::F_RDLCK)] {
        let [command, word] = [command, word].map(|word| word as libc::c_ulong);
        scalar(libc::SYS_fcntl, [fd, command, word, 0, 0])?;
    }
    Ok(())
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

/// A change of the user leaves the capabilities as they are (`capabilities(7)`).
pub(super) const NO_SETUID_FIXUP: u64 = 1 << 2;

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

/// What the kernel says to the first of a few calls without effect that is not among `numbers`;
/// `None` when all of them are.
pub(super) fn first_harmless_call_but(numbers: &[u32]) -> Option<Result<(), Errno>> {
    // With all arguments 0 they are about the caller itself.
    let harmless = [
        libc::SYS_sched_yield,
        libc::SYS_getsid,
        libc::SYS_getpgid,
        libc::SYS_sched_getscheduler,
    ];
    let listed = |call: libc::c_long| u32::try_from(call).is_ok_and(|n| numbers.contains(&n));
    let call = harmless.into_iter().find(|call| !listed(*call))?;
    Some(scalar(call, [0; 5]).map(drop))
}

/// Whether the kernel has seccomp filters: `EFAULT` for a filter at NULL means yes (`seccomp(2)`).
pub(super) fn has_seccomp_filters() -> bool {
    let mode = libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER);
    scalar(libc::SYS_seccomp, [mode, 0, 0, 0, 0]) == Err(Errno::EFAULT)
}

/// Copies this process into new namespaces, or none (`clone(2)`): `None` in the copy.
///
/// The copy has its own memory, as after fork(2), and all of it is ours: these processes have one
/// thread, so no lock is held by a thread that the copy lacks.
pub(super) fn fork_into(namespaces: CloneFlags) -> Result<Option<Pid>, Errno> {
    // CLONE_VM and its like, with which the copy would write into our memory, are not namespaces.
    let known = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET;
    let flags = (namespaces & known).bits() | libc::SIGCHLD;
    let flags = libc::c_ulong::from(flags.cast_unsigned());
    // No stack and no thread pointer: the copy goes on with copies of ours.
    let pid = scalar(libc::SYS_clone, [flags, 0, 0, 0, 0])?;
    let pid = i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Gives a signal its default action again; EINVAL for numbers that are none.
#[expect(
    unsafe_code,
    reason = "no crate offers a safe way to set a signal's action, not even back to the default"
)]
pub(super) fn default_action(signal: libc::c_int) -> Result<(), Errno> {
    // SAFETY: SIG_DFL installs no code of ours, so there is no handler that could be unsound.
    let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    if before == libc::SIG_ERR {
        return Err(Errno::last());
    }
    Ok(())
}

/// Ends this process by that signal, so that whoever waits for it sees the same end as the server's.
/// Returns the code of a shell only when the kernel would not.
pub(super) fn die_by(signal: i32) -> ExitCode {
    nix::sys::resource::setrlimit(Resource::RLIMIT_CORE, 0, 0).ok();
    default_action(signal).ok();
    // This one alone: another that waits (a late SIGTERM for a server that is dead) would win.
    let only = Signal::try_from(signal).ok();
    only.map(|signal| SigSet::from_iter([signal]).thread_unblock());
    let us = libc::c_ulong::try_from(nix::unistd::getpid().as_raw());
    if let (Ok(us), Ok(number)) = (us, libc::c_ulong::try_from(signal)) {
        scalar(libc::SYS_kill, [us, number, 0, 0, 0]).ok();
    }
    ExitCode::from(u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX))
}

/// Adds attributes to a mount and all below it (`mount_setattr(2)`, Linux 5.12). None is taken away,
/// so flags that an outer namespace has locked stay.
pub(super) fn restrict_mount(mount: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    change_mount(mount, attributes, 0, true)
}

/// Translates the owners in a mount, `below` it too, as a user namespace maps them; EINVAL where a
/// file system cannot, EPERM where it is not ours to do.
pub(super) fn map_mount(
    mount: BorrowedFd<'_>,
    users: BorrowedFd<'_>,
    below: bool,
) -> Result<(), Errno> {
    let users = u64::try_from(users.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    change_mount(mount, libc::MOUNT_ATTR_IDMAP, users, below)
}

#[expect(
    unsafe_code,
    reason = "neither rustix nor nix wraps mount_setattr, and a remount reaches one mount only"
)]
fn change_mount(
    mount: BorrowedFd<'_>,
    attributes: u64,
    users: u64,
    below: bool,
) -> Result<(), Errno> {
    let change = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users,
    };
    let reach = if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure lives until the call returns; the
    // kernel reads as many bytes as it is told and writes none.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | reach,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Installs a filter and returns the descriptor on which its notifications are heard, close-on-exec
/// (`seccomp(2)`, `SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0).
#[expect(
    unsafe_code,
    reason = "seccompiler installs filters without a listener only, and no other safe crate does"
)]
pub(super) fn load_with_listener(
    filter: &[sock_filter],
    flags: libc::c_ulong,
) -> Result<OwnedFd, Errno> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog {
        len,
        // seccompiler's instruction and libc's are the same four fields of `linux/filter.h`.
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program and the instructions that it points at outlive the call; the kernel copies
    // as many as `len` says and writes to neither.
    let fd = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    })?;
    // The kernel has just opened it for us, and nobody else has seen the number.
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    adopt(&[fd])?.pop().ok_or(Errno::EBADF)
}

/// One request on a listener (`seccomp_unotify(2)`), with the structure that its number stands for.
pub(super) fn listen(listener: BorrowedFd<'_>, request: &mut Unotify) -> Result<(), Errno> {
    // `SECCOMP_IOCTL_NOTIF_RECV`, `_SEND`, `_ID_VALID`, `_ADDFD` and `_SET_FLAGS` (`linux/seccomp.h`); the
    // size of the structure is a part of each number.
    let (number, argument): (libc::c_ulong, *mut libc::c_void) = match request {
        Unotify::Receive(notice) => (0xc050_2100, (&raw mut *notice).cast()),
        Unotify::Send(answer) => (0xc018_2101, (&raw mut *answer).cast()),
        Unotify::IsValid(id) => (0x4008_2102, (&raw mut *id).cast()),
        Unotify::Add(addition) => (0x4018_2103, (&raw mut *addition).cast()),
        // `_SET_FLAGS` takes the flags themselves where the others have an address.
        Unotify::StayNear => (0x4008_2104, std::ptr::without_provenance_mut(1)),
    };
    ioctl(listener, number, argument)
}

/// The requests of [`listen`].
#[derive(Debug)]
pub(super) enum Unotify {
    /// Waits; all zero before.
    Receive(libc::seccomp_notif),
    Send(libc::seccomp_notif_resp),
    /// Whether that call still waits: then its process is the one it was.
    IsValid(u64),
    /// A descriptor of ours also becomes the caller's.
    Add(libc::seccomp_notif_addfd),
    /// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (Linux 6.6): one of the two always waits for the other, so
    /// both may as well run on one processor.
    StayNear,
}

#[expect(
    unsafe_code,
    reason = "rustix and nix offer ioctls only through unsafe functions"
)]
fn ioctl(
    fd: BorrowedFd<'_>,
    number: libc::c_ulong,
    argument: *mut libc::c_void,
) -> Result<(), Errno> {
    // SAFETY: private to this file; the one caller passes a live structure of exactly the size that
    // is a part of the number, and the kernel touches no more than that; or a number that is no address,
    // with a request that takes none.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), number, argument) };
    Errno::result(result).map(drop)
}
