//! The process that makes a cell's connections: started beside the launcher, heard, and ended with
//! the cell.

use super::channel::{Channel, Received};
use super::stdio::pass_on;
use crate::cell::CellSpec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, getpid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The longest line that it tells, in bytes.
const LINE: usize = 1024;
/// Lines that are read at once, so that other cells have their turn.
const LINES: usize = 16;

/// What of it is ours.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) pid: Pid,
    events: Option<Channel>,
}

/// The way by which the sockets of a cell get out, its two ends; `None` when no host is allowed, or
/// the cell will have the host's network.
pub(super) fn way_out(spec: &CellSpec) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    if spec.egress.is_empty() || !spec.namespaces {
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
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Self {
            pid: pid.ok_or(io::ErrorKind::InvalidData)?,
            events: Some(events),
        })
    }

    /// What to poll, while it lives.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// The lines that it has told; afterwards [`Relay::events`] says whether it still lives.
    pub(super) fn hear(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(events) = &self.events
            && lines.len() < LINES
        {
            match events.receive(LINE) {
                Ok(Received::Datagram(line)) => {
                    lines.push(String::from_utf8_lossy(&line.bytes).into_owned());
                }
                Ok(Received::Empty) => break,
                Ok(Received::Closed) => self.events = None,
                // Too long: it is cut off by being passed over.
                Err(_) => {}
            }
        }
        lines
    }
}
