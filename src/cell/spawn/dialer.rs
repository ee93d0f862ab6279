//! In the place of a cell: the process that makes connections to a server that runs elsewhere.

use super::cell::{Cell, Launched, StartError};
use super::protocol::Facts;
use super::stdio::{Ends, pass_on};
use super::tempdir::TempDir;
use crate::config::Endpoint;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, getpid};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

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
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let pair = socketpair(family, kind, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|error| os("make a socket pair")(error.into()))?;
        let doing = "start the process that makes connections";
        let launched = start(place, &theirs, ends.stderr).map_err(os(doing))?;
        let mut descriptors = ends.ours;
        descriptors.push(ours);
        Ok(Self::bare(number, launched, facts, descriptors, directory))
    }
}

fn start(place: &Endpoint, control: &OwnedFd, stderr: Stdio) -> io::Result<Launched> {
    let (status, theirs) = io::pipe()?;
    let theirs = OwnedFd::from(theirs);
    rustix::io::ioctl_fionbio(&status, true)?;
    pass_on(control)?;
    pass_on(&theirs)?;
    let child = Command::new("/proc/self/exe")
        .arg0("cofferdam")
        .arg("__dial")
        .arg(control.as_raw_fd().to_string())
        .arg(theirs.as_raw_fd().to_string())
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(&place.host)
        .arg(place.port.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Launched::new(pid, status))
}
