//! The process that makes connections to a server on HTTP: beside its cell, or in the place of one where the
//! server runs elsewhere.

use super::cell::{Cell, Launched, StartError};
use super::protocol::Facts;
use super::stdio::{Ends, pass_on};
use super::tempdir::TempDir;
use crate::cell::{CellSpec, Serves};
use crate::config::Endpoint;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// What could not be done.
const STARTING: &str = "start the process that makes connections";

impl Cell {
    /// Starts `cofferdam __dial`. The message process gets, besides the ends that it has of any cell,
    /// those that the server would have, and where to ask for connections: it speaks for the server.
    pub(super) fn dial(
        number: u32,
        place: &Endpoint,
        facts: Facts,
        directory: TempDir,
    ) -> Result<Self, StartError> {
        let os = |doing| move |source| StartError::Os { doing, source };
        let ends = Ends::bridged().map_err(os("make the pipes of a bridge"))?;
        let (ours, theirs) = pair().map_err(os("make a socket pair"))?;
        let launched = start(place, &theirs, ends.stderr).map_err(os(STARTING))?;
        let mut descriptors = ends.ours;
        descriptors.push(ours);
        Ok(Self::bare(number, launched, facts, descriptors, directory))
    }
}

fn start(place: &Endpoint, control: &OwnedFd, stderr: Stdio) -> io::Result<Launched> {
    let (status, theirs) = io::pipe()?;
    let theirs = OwnedFd::from(theirs);
    rustix::io::ioctl_fionbio(&status, true)?;
    let words = [place.host.clone(), place.port.to_string()];
    let pid = spawn(control, &theirs, &words, stderr)?;
    Ok(Launched::new(pid, status))
}

fn spawn(control: &OwnedFd, other: &OwnedFd, words: &[String], stderr: Stdio) -> io::Result<Pid> {
    pass_on(control)?;
    pass_on(other)?;
    let child = Command::new("/proc/self/exe")
        .arg0("cofferdam")
        .arg("__dial")
        .arg(control.as_raw_fd().to_string())
        .arg(other.as_raw_fd().to_string())
        .arg(getpid().as_raw_nonzero().to_string())
        .args(words)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// What becomes of the spec of a server on HTTP before its cell is launched.
#[derive(Debug)]
pub(super) struct Door {
    serves: Serves,
    outside: u16,
    /// The end of whoever connects.
    ours: OwnedFd,
}

impl Door {
    /// `None` for a server that does not listen; and the end of whoever stands in the cell, which the
    /// launcher inherits.
    pub(super) fn of(spec: &mut CellSpec) -> Result<Option<(Self, OwnedFd)>, StartError> {
        let os = |doing| move |source| StartError::Os { doing, source };
        let Some(serves) = &mut spec.serves else {
            return Ok(None);
        };
        let outside = free_port().map_err(os("find a free port"))?;
        serves.outside = Some(outside);
        let serves = *serves;
        let (ours, theirs) = pair().map_err(os("make a socket pair"))?;
        pass_on(&theirs).map_err(os("pass on a descriptor"))?;
        spec.door = Some(theirs.as_raw_fd());
        let door = Self {
            serves,
            outside,
            ours,
        };
        Ok(Some((door, theirs)))
    }
}

/// A port that nobody uses. Who takes it meanwhile keeps the server from listening, and is never
/// connected to: the supervisor says where the server listens.
fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// One that stands beside a cell.
#[derive(Debug)]
pub(super) struct Dialer {
    /// `None` when it has ended and its number may be somebody else's.
    pid: Option<Pid>,
}

impl Dialer {
    /// Starts it; where it is asked for connections.
    pub(super) fn beside(door: Door) -> Result<(Self, OwnedFd), StartError> {
        let os = |doing| move |source| StartError::Os { doing, source };
        let (ours, theirs) = pair().map_err(os("make a socket pair"))?;
        let words = [
            "inside".to_owned(),
            door.serves.port.to_string(),
            door.outside.to_string(),
        ];
        let pid = spawn(&theirs, &door.ours, &words, Stdio::inherit()).map_err(os(STARTING))?;
        Ok((Self { pid: Some(pid) }, ours))
    }

    /// Its number, while it is its own.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Hears which of our children has ended.
    pub(super) fn note(&mut self, ended: Pid) {
        self.pid = self.pid.filter(|pid| *pid != ended);
    }

    /// Ends it at once, as [`super::relay::Relay::end`] does.
    pub(super) fn end(&mut self) {
        let Some(pid) = self.pid.take() else {
            return;
        };
        if kill_process(pid, Signal::KILL).is_ok() {
            while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
        }
    }
}
