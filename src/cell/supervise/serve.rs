//! Answers one call: copies what it points at, finds the file, asks the grants, acts on the descriptor.
//!
//! Nothing is decided by memory or by a name that the caller could change afterwards: the bytes are
//! copied once, the file is pinned by an `O_PATH` descriptor, the grants are asked about that
//! descriptor, and the act is done on it. The call itself is never let through.

use super::grants::{Grants, handle, of_rustix};
use super::notice::{Act, Form, PATH_BYTES, Place, Request, Times, WORKING_DIRECTORY};
use super::notice::{address, times};
use super::refusals::Refusals;
use super::sockets::Sockets;
use super::watchers::Watchers;
use crate::cell::sys::{self, Unotify};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, chmodat, inotify,
    openat, openat2, utimensat,
};
use std::ffi::OsStr;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// No page is smaller, so that a copy ends at an address where memory can end.
const PAGE: u64 = 4096;
/// More than `/proc` writes about a thread or a descriptor.
const FACTS: usize = 8192;

/// How the memory of another process can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// `process_vm_readv(2)`.
    Call,
    /// `/proc/PID/mem`: some containers refuse the call.
    File,
}

impl Memory {
    /// Tries both on a process that is ours.
    ///
    /// # Errors
    /// Neither works.
    pub(super) fn find(pid: i32) -> Result<Self, Errno> {
        // Nothing is mapped at 0: only a process that may not be read gives another error.
        match by_call(pid, 0, 1) {
            Err(Errno::EFAULT) | Ok(_) => return Ok(Self::Call),
            Err(_) => {}
        }
        openat(
            CWD,
            format!("/proc/{pid}/mem"),
            OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(|_| Self::File)
        .map_err(of_rustix)
    }

    /// Up to `length` bytes; fewer where the memory ends before.
    fn copy(self, pid: i32, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
        match self {
            Self::Call => by_call(pid, at, length),
            Self::File => by_file(pid, at, length),
        }
    }
}

fn by_call(pid: i32, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let whole = u64::try_from(length).map_err(|_| Errno::EFAULT)?;
    // Part by part, because one that is not all there is not copied at all.
    let first = (PAGE - at % PAGE).min(whole);
    let part = |base: u64, len: u64| -> Result<RemoteIoVec, Errno> {
        Ok(RemoteIoVec {
            base: usize::try_from(base).map_err(|_| Errno::EFAULT)?,
            len: usize::try_from(len).map_err(|_| Errno::EFAULT)?,
        })
    };
    let next = at.checked_add(first).ok_or(Errno::EFAULT)?;
    let parts = [part(at, first)?, part(next, whole - first)?];
    let mut bytes = vec![0; length];
    let pid = nix::unistd::Pid::from_raw(pid);
    let copied = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &parts)?;
    bytes.truncate(copied);
    Ok(bytes)
}

fn by_file(pid: i32, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let file = openat(
        CWD,
        format!("/proc/{pid}/mem"),
        OFlags::CLOEXEC,
        Mode::empty(),
    );
    let file = file.map_err(of_rustix)?;
    let mut bytes = vec![0; length];
    let copied = rustix::io::pread(&file, bytes.as_mut_slice(), at);
    let copied = copied.map_err(|error| match of_rustix(error) {
        Errno::EIO => Errno::EFAULT,
        other => other,
    })?;
    bytes.truncate(copied);
    Ok(bytes)
}

/// What answers for one cell.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) listener: OwnedFd,
    pub(super) grants: Grants,
    pub(super) memory: Memory,
    pub(super) watchers: Watchers,
    pub(super) refusals: Refusals,
    /// Where it makes the connections too.
    pub(super) sockets: Option<Sockets>,
}

impl Supervisor {
    /// Takes one call and answers it; false when there will be no more.
    pub(super) fn answer(&mut self) -> bool {
        let mut received = Unotify::Receive(EMPTY);
        match sys::listen(self.listener.as_fd(), &mut received) {
            Ok(_) => {}
            // The caller died while it waited.
            Err(Errno::ENOENT | Errno::EINTR) => return true,
            Err(_) => return false,
        }
        let Unotify::Receive(call) = received else {
            return false;
        };
        let answer = match self.serve(&call) {
            Ok(Answer::Given) => return true,
            Ok(Answer::Value(value)) => (value, 0),
            Err(error) => (0, -(error as i32)),
        };
        let answer = libc::seccomp_notif_resp {
            id: call.id,
            val: answer.0,
            error: answer.1,
            flags: 0,
        };
        // It fails when the caller died; then nobody waits for it.
        sys::listen(self.listener.as_fd(), &mut Unotify::Send(answer)).ok();
        true
    }

    fn serve(&mut self, call: &libc::seccomp_notif) -> Result<Answer, Errno> {
        let request = Request::read(call.data.nr, call.data.args).unwrap_or(Err(Errno::ENOSYS))?;
        let caller = Caller {
            thread: i32::try_from(call.pid).map_err(|_| Errno::ESRCH)?,
            memory: self.memory,
        };
        if let Act::Watcher { flags } = request.act {
            self.watchers.give(self.listener.as_fd(), call.id, flags)?;
            return Ok(Answer::Given);
        }
        let listener = self.listener.as_fd();
        let still = || sys::listen(listener, &mut Unotify::IsValid(call.id));
        let sockets = self.sockets.as_mut().ok_or(Errno::ENOSYS);
        match request.act {
            Act::Socket {
                family,
                kind,
                protocol,
            } => {
                sockets?.make(listener, call.id, (family, kind, protocol))?;
                return Ok(Answer::Given);
            }
            Act::Connect { socket, at, length } => {
                let (memory, whose) = (caller.copy(at, length)?, (caller.thread, socket));
                return sockets?.connect(whose, &memory, still).map(Answer::Value);
            }
            Act::Bind { socket, at, length } => {
                let meant = address(&caller.copy(at, length)?)?;
                let done = sockets?.bind((caller.thread, socket), meant, still);
                if done == Err(Errno::EACCES) && meant.port() != 0 {
                    let thread = caller.thread;
                    let name = || read(format!("/proc/{thread}/comm")).unwrap_or_default();
                    self.refusals.tell_port(meant.port(), thread, name);
                }
                return done.map(Answer::Value);
            }
            Act::Listen { socket, backlog } => {
                let whose = (caller.thread, socket);
                return sockets?.listen(whose, backlog, still).map(Answer::Value);
            }
            _ => {}
        }
        let memory;
        let place = match request.path {
            Some(at) => {
                memory = caller.copy(at, PATH_BYTES)?;
                request.place(&memory)?
            }
            None => Place::Base,
        };
        let stamps = match request.act {
            Act::Times(form, at) => Some(caller.times(form, at)?),
            _ => None,
        };
        let file = caller.find(&request, place)?;
        let watcher = match request.act {
            Act::Watch { inotify, .. } => Some(self.watchers.find(caller.thread, inotify)?),
            _ => None,
        };
        // Only now is it certain that all of it was the caller's, and not of a later process with
        // the same number: while the call waits, the caller lives.
        sys::listen(self.listener.as_fd(), &mut Unotify::IsValid(call.id))?;
        if let Some(error) = self.refusal(request.act, &file) {
            let name = || read(format!("/proc/{}/comm", caller.thread)).unwrap_or_default();
            self.refusals
                .tell(request.act, file.as_fd(), caller.thread, name);
            return Err(error);
        }
        act(request.act, &file, stamps, watcher).map(Answer::Value)
    }

    /// The error, when no grant allows the act.
    fn refusal(&self, act: Act, file: &OwnedFd) -> Option<Errno> {
        let (granted, error) = match act {
            Act::Mode(_) | Act::Times(..) => {
                let granted = self.grants.may_write(file) && !is_device(file);
                (granted, Errno::EPERM)
            }
            Act::Watch { .. } => (self.grants.may_read(file), Errno::EACCES),
            Act::Watcher { .. }
            | Act::Connect { .. }
            | Act::Bind { .. }
            | Act::Listen { .. }
            | Act::Socket { .. } => (true, Errno::EPERM),
        };
        (!granted).then_some(error)
    }
}

/// Devices are the host's, whoever may write to them.
fn is_device(file: &OwnedFd) -> bool {
    let device = |facts: rustix::fs::Stat| {
        let kind = FileType::from_raw_mode(facts.st_mode);
        matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
    };
    rustix::fs::fstat(file).map_or(true, device)
}

/// Does it, on the file that was judged.
fn act(
    act: Act,
    file: &OwnedFd,
    stamps: Option<Times>,
    watcher: Option<OwnedFd>,
) -> Result<i64, Errno> {
    let handle = handle(file.as_fd());
    match (act, stamps, watcher) {
        (Act::Mode(mode), ..) => {
            let mode = Mode::from_raw_mode(mode & 0o1777);
            chmodat(CWD, &handle, mode, AtFlags::empty()).map_err(of_rustix)?;
        }
        (Act::Times(..), Some(stamps), _) => {
            let [last_access, last_modification] =
                stamps.map(|(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec });
            let stamps = Timestamps {
                last_access,
                last_modification,
            };
            utimensat(CWD, &handle, &stamps, AtFlags::empty()).map_err(of_rustix)?;
        }
        (Act::Watch { mask, .. }, _, Some(watcher)) => {
            // The handle is a link to the file that was meant, and that one has to be followed.
            let mask = inotify::WatchFlags::from_bits_retain(mask & !libc::IN_DONT_FOLLOW);
            let watch = inotify::add_watch(&watcher, &handle, mask).map_err(of_rustix)?;
            return Ok(watch.into());
        }
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

/// What a call gets.
enum Answer {
    Value(i64),
    /// It has it already.
    Given,
}

/// What [`Unotify::Receive`] starts from.
const EMPTY: libc::seccomp_notif = libc::seccomp_notif {
    id: 0,
    pid: 0,
    flags: 0,
    data: libc::seccomp_data {
        nr: 0,
        arch: 0,
        instruction_pointer: 0,
        args: [0; 6],
    },
};

/// The thread that waits.
struct Caller {
    thread: i32,
    memory: Memory,
}

impl Caller {
    fn copy(&self, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
        self.memory.copy(self.thread, at, length).map_err(hidden)
    }

    fn times(&self, form: Form, at: Option<u64>) -> Result<Times, Errno> {
        match at {
            Some(at) => times(form, &self.copy(at, form.bytes())?),
            // Both now; the kernel treats it as it treats no times at all.
            None => Ok([(0, libc::UTIME_NOW); 2]),
        }
    }

    fn find(&self, request: &Request, place: Place<'_>) -> Result<OwnedFd, Errno> {
        let path = match place {
            Place::Base => return self.base(request.base),
            Place::Descriptor(number) => return self.base(number),
            Place::Path(path) => path,
        };
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !request.follow {
            flags |= OFlags::NOFOLLOW;
        }
        // A magic link would lead to a descriptor or a directory of ours.
        let how = ResolveFlags::NO_MAGICLINKS;
        let name = OsStr::from_bytes(path);
        let held = if path.starts_with(b"/") {
            openat2(CWD, name, flags, Mode::empty(), how)
        } else {
            openat2(self.base(request.base)?, name, flags, Mode::empty(), how)
        };
        held.map_err(of_rustix)
    }

    /// A directory, or whatever the caller calls one.
    fn base(&self, number: i32) -> Result<OwnedFd, Errno> {
        let thread = self.thread;
        let link = match number {
            WORKING_DIRECTORY => format!("/proc/{thread}/cwd"),
            number if number < 0 => return Err(Errno::EBADF),
            number => format!("/proc/{thread}/fd/{number}"),
        };
        openat(CWD, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
            match of_rustix(error) {
                Errno::ENOENT => Errno::EBADF,
                other => hidden(other),
            }
        })
    }
}

/// A process that hides itself from being traced hides its memory too: what it means stays unknown.
fn hidden(error: Errno) -> Errno {
    match error {
        Errno::EACCES | Errno::ENOENT | Errno::ESRCH => Errno::EPERM,
        other => other,
    }
}

pub(super) fn read(path: String) -> Result<Vec<u8>, Errno> {
    let file = openat(CWD, path, OFlags::CLOEXEC, Mode::empty()).map_err(of_rustix)?;
    let mut bytes = vec![0; FACTS];
    let length = rustix::io::read(&file, bytes.as_mut_slice()).map_err(of_rustix)?;
    bytes.truncate(length);
    Ok(bytes)
}
