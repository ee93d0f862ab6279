//! The process that makes a cell's connections: started beside the launcher, heard, and ended with
//! the cell.

use super::channel::{Channel, Received};
use super::stdio::pass_on;
use crate::cell::CellSpec;
use crate::cell::egress::{LONGEST, News};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take over what it has not told when the cell has ended.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// Messages that are read at once, so that other cells have their turn.
const AT_ONCE: usize = 16;

/// What of it is ours.
#[derive(Debug)]
pub(super) struct Relay {
    /// `None` when it has ended and its number may be somebody else's.
    pid: Option<Pid>,
    events: Option<Channel>,
}

/// The way by which the sockets of a cell get out, its two ends; `None` when no host is allowed, or
/// nobody will use it.
pub(super) fn way_out(spec: &CellSpec) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    if spec.egress.is_empty() || !(spec.namespaces || spec.supervision) {
        return Ok(None);
    }
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(Some(socketpair(family, kind, SocketFlags::CLOEXEC, None)?))
}

impl Relay {
    /// Starts `cofferdam __egress`, which gets the sockets of the cell over `control`.
    pub(super) fn start(spec: &CellSpec, control: OwnedFd) -> io::Result<Self> {
        let (events, theirs) = Channel::pair()?;
        pass_on(&control)?;
        pass_on(&theirs)?;
        let child = Command::new("/proc/self/exe")
            .arg0("cofferdam")
            .arg("__egress")
            .arg(control.as_raw_fd().to_string())
            .arg(theirs.as_raw_fd().to_string())
            .arg(getpid().as_raw_nonzero().to_string())
            .args(spec.egress.iter().map(ToString::to_string))
            .arg("--")
            .args(&spec.egress_private)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok(Self {
            pid: i32::try_from(child.id()).ok().and_then(Pid::from_raw),
            events: Some(events),
        })
    }

    /// Its number, while it is its own.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Hears which of our children has ended.
    pub(super) fn note(&mut self, ended: Pid) {
        self.pid = self.pid.filter(|pid| *pid != ended);
    }

    /// Asks it to end, and returns what it still had to tell; the cell has ended.
    pub(super) fn finish(&mut self) -> Vec<News> {
        let mut lines = Vec::new();
        let begin = Instant::now();
        if let Some(events) = self.events() {
            rustix::net::shutdown(events, Shutdown::Write).ok();
        }
        while let Some(events) = self.events() {
            let left = LAST_WORDS.saturating_sub(begin.elapsed());
            if left.is_zero() {
                break;
            }
            let mut fds = [PollFd::from_borrowed_fd(events, PollFlags::IN)];
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: left.subsec_nanos().into(),
            };
            poll(&mut fds, Some(&patience)).ok();
            lines.extend(self.hear());
        }
        self.end();
        lines
    }

    /// Ends it at once: a search for processes of the cell that are left would come upon it, and
    /// spend a pause on it.
    pub(super) fn end(&mut self) {
        let Some(pid) = self.pid.take() else {
            return;
        };
        if kill_process(pid, Signal::KILL).is_ok() {
            // SIGKILL leaves nothing to wait for but the kernel.
            while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
        }
    }

    /// What to poll, while it lives.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// What it has told; afterwards [`Relay::events`] says whether it still lives.
    pub(super) fn hear(&mut self) -> Vec<News> {
        let mut all = Vec::new();
        while let Some(events) = &self.events
            && all.len() < AT_ONCE
        {
            match events.receive(LONGEST) {
                // What is no news does not come from a relay that is itself.
                Ok(Received::Datagram(told)) => all.extend(News::decode(&told.bytes)),
                Ok(Received::Empty) => break,
                Ok(Received::Closed) => self.events = None,
                // Too long.
                Err(_) => {}
            }
        }
        all
    }
}
