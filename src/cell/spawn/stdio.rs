//! Which stdin, stdout and stderr a cell gets, and which ends the message process gets.

use super::protocol::Mode;
use crate::cell::Account;
use crate::cell::pty::Pty;
use crate::cell::sys;
use nix::unistd::{Gid, Uid, fchown, geteuid};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::termios::isatty;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::process::Stdio;

/// Takes over a descriptor whose number came on the command line, and closes it on exec.
///
/// # Errors
/// The number is a standard stream or not an open socket.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    let link = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
    if number < 3 || !link.as_os_str().as_encoded_bytes().starts_with(b"socket:") {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut owned = sys::adopt(&[number])?;
    let owned = owned.pop().ok_or(io::ErrorKind::InvalidInput)?;
    fcntl_setfd(&owned, fcntl_getfd(&owned)? | FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Lets `fd` pass through the next exec. Only in a process with one thread: another thread's child
/// would inherit it too.
pub(super) fn pass_on(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, fcntl_getfd(fd)? - FdFlags::CLOEXEC)?)
}

/// Gives what we have just made to the server's user. A stream that we were given stays as it is.
///
/// Best effort: without CAP_CHOWN the server uses its ends, and cannot open them a second time.
fn give_to<const N: usize>(user: Option<&Account>, made: [BorrowedFd<'_>; N]) {
    if let Some(user) = user.filter(|_| geteuid().is_root()) {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        for end in made {
            fchown(end, Some(uid), Some(gid)).ok();
        }
    }
}

/// What the cell gets and what stays with us.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stdin: Stdio,
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
    /// For the message process: see [`super::Event::Started`].
    pub(super) ours: Vec<OwnedFd>,
    /// Whether stdin is a terminal that the cell shall control.
    pub(super) terminal: bool,
    /// What keeps the stdin of a server open that gets nothing on it.
    pub(super) held: Option<OwnedFd>,
}

/// Which of our standard streams are terminals; both processes of `exec` see the same three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminals {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Terminals {
    /// Asks the kernel.
    #[must_use]
    pub fn here() -> Self {
        Self {
            stdin: isatty(io::stdin()),
            stdout: isatty(io::stdout()),
            stderr: isatty(io::stderr()),
        }
    }

    /// Whether the cell gets a terminal of its own.
    #[must_use]
    pub fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

impl Ends {
    /// `user` is whom the server will run as, when that is not us: it may open its own ends again,
    /// as `/dev/stdout` does.
    pub(super) fn new(mode: Mode, user: Option<&Account>) -> io::Result<Self> {
        match mode {
            Mode::Run => Self::pipes(user),
            Mode::Exec => Self::inherited(Terminals::here(), user),
        }
    }

    fn pipes(user: Option<&Account>) -> io::Result<Self> {
        let (stdin, our_stdin) = io::pipe()?;
        let (our_stdout, stdout) = io::pipe()?;
        let (our_stderr, stderr) = io::pipe()?;
        give_to(user, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        // Nobody shares this description with the message process, which cannot set it by itself.
        rustix::io::ioctl_fionbio(&our_stdin, true)?;
        Ok(Self {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            ours: vec![our_stdin.into(), our_stdout.into(), our_stderr.into()],
            terminal: false,
            held: None,
        })
    }

    /// For a server on HTTP in the cell: its output is log lines, and what it would have said on it comes
    /// over HTTP, so the ends of those streams are the message process's too. Its own stdin stays open and
    /// empty until it is to end, which is how some find out.
    pub(super) fn serving(user: Option<&Account>) -> io::Result<Self> {
        let bridged = Self::bridged()?;
        let (our_log, log) = io::pipe()?;
        let (stdin, held) = io::pipe()?;
        give_to(user, [stdin.as_fd(), log.as_fd()]);
        let mut ours = bridged.ours;
        if let Some(place) = ours.get_mut(2) {
            *place = our_log.into();
        }
        Ok(Self {
            stdin: stdin.into(),
            stdout: log.try_clone()?.into(),
            stderr: log.into(),
            ours,
            terminal: false,
            held: Some(held.into()),
        })
    }

    /// For a server that runs elsewhere: both ends of its streams are the message process's, which
    /// speaks for it. Its stderr is that of whoever makes the connections.
    pub(super) fn bridged() -> io::Result<Self> {
        let (stdin, our_stdin) = io::pipe()?;
        let (our_stdout, stdout) = io::pipe()?;
        let (our_stderr, stderr) = io::pipe()?;
        // The message process cannot set any of this by itself.
        rustix::io::ioctl_fionbio(&our_stdin, true)?;
        rustix::io::ioctl_fionbio(&stdin, true)?;
        rustix::io::ioctl_fionbio(&stdout, true)?;
        Ok(Self {
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: stderr.into(),
            ours: vec![
                our_stdin.into(),
                our_stdout.into(),
                our_stderr.into(),
                stdin.into(),
                stdout.into(),
            ],
            terminal: false,
            held: None,
        })
    }

    /// A stream that is a terminal becomes the cell's own terminal, the others pass as they are;
    /// only stderr is a pipe, because denials are explained on it.
    fn inherited(are: Terminals, user: Option<&Account>) -> io::Result<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let mut ours = Vec::new();
        let mut slave = None;
        if are.any() {
            let like = match are {
                Terminals { stdin: true, .. } => stdin.as_fd(),
                Terminals { stdout: true, .. } => stdout.as_fd(),
                Terminals { .. } => stderr.as_fd(),
            };
            let pty = Pty::open_like(like)?;
            ours.push(pty.master);
            give_to(user, [pty.slave.as_fd()]);
            slave = Some(pty.slave);
        }
        let give = |is_terminal: bool, stream: BorrowedFd<'_>| -> io::Result<Stdio> {
            let given = match &slave {
                Some(slave) if is_terminal => slave.try_clone()?,
                Some(_) | None => stream.try_clone_to_owned()?,
            };
            Ok(given.into())
        };
        let to_cell = if are.stderr {
            give(true, stderr.as_fd())?
        } else {
            let (read, write) = io::pipe()?;
            give_to(user, [write.as_fd()]);
            ours.push(read.into());
            write.into()
        };
        Ok(Self {
            stdin: give(are.stdin, stdin.as_fd())?,
            stdout: give(are.stdout, stdout.as_fd())?,
            stderr: to_cell,
            ours,
            terminal: are.stdin,
            held: None,
        })
    }
}
