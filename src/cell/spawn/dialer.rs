//! The process that makes connections to a server on HTTP: beside its cell, or in the place of one where the
//! server runs elsewhere.

use super::cell::{Cell, Launched, StartError};
use super::companion::{self, Companion};
use super::protocol::Facts;
use super::stdio::{Ends, pass_on};
use super::tempdir::TempDir;
use crate::cell::egress::dial::INSIDE;
use crate::cell::{CellSpec, Serves, pair};
use crate::config::Endpoint;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
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
        let (ours, theirs) = pair::packets().map_err(os("make a socket pair"))?;
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
    let pid = companion::spawn(command([control, &theirs], &words)?.stderr(stderr))?;
    Ok(Launched::new(pid, status))
}

fn command(fds: [&OwnedFd; 2], words: &[String]) -> io::Result<Command> {
    let mut command = companion::command("__dial", fds)?;
    command.args(words);
    Ok(command)
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
        let (ours, theirs) = pair::packets().map_err(os("make a socket pair"))?;
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

/// Starts one that stands beside a cell; where it is asked for connections.
pub(super) fn beside(door: Door) -> Result<(Companion, OwnedFd), StartError> {
    let os = |doing| move |source| StartError::Os { doing, source };
    let (ours, theirs) = pair::packets().map_err(os("make a socket pair"))?;
    let (port, outside) = (door.serves.port.to_string(), door.outside.to_string());
    let words = [INSIDE.to_owned(), port, outside];
    let companion = command([&theirs, &door.ours], &words)
        .and_then(|mut command| Companion::start(&mut command))
        .map_err(os(STARTING))?;
    Ok((companion, ours))
}
