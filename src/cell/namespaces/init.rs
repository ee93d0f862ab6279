//! Pid 1 of a cell: prepares what is inside, starts the server, and is the whole tree's end.
//!
//! The kernel kills every process of a pid namespace when its first one ends
//! (`pid_namespaces(7)`), however that one ended. Signals from inside reach it only where it asks
//! for them, SIGKILL not at all.

use super::mapped::{self, Trees};
use super::{Entry, FAILED, HOST_NAME, Plan, READY, loopback, tell_end, view, withdraw};
use crate::cell::egress::{Door, Ways};
use crate::cell::{egress, signals, sys};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus, wait};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

/// Runs as pid 1. The process that becomes the server returns too, as [`Entry::Inside`].
pub(super) fn run(
    plan: &Plan<'_>,
    trees: Trees,
    mut link: UnixStream,
    status: File,
    ways: Ways,
) -> Entry {
    let Ways { egress, door } = ways;
    let started = prepare(plan, trees, &mut link, egress)
        .and_then(|()| door.map(Doorway::open).transpose())
        .and_then(|doorway| match sys::fork_into(CloneFlags::empty()) {
            Ok(server) => Ok((server, doorway)),
            Err(error) => Err(format!("fork: {}", error.desc())),
        });
    match started {
        Ok((None, _)) => {
            let own = plan.layout.own();
            let notes = plan.notes.clone();
            Entry::Inside { status, own, notes }
        }
        Ok((Some(server), doorway)) => {
            // Not before it is certain that this is the cell. Who does not hear it asks for nothing.
            let doorway = doorway.filter(|open| open.door.is_inside().is_ok());
            drop(status);
            drop(link.write_all(&[READY]));
            withdraw(doorway.is_some());
            serve(server, &mut link, doorway);
            Entry::Watched(ExitCode::SUCCESS)
        }
        Err(reason) => {
            let words = [&[FAILED], reason.as_bytes()].concat();
            drop(link.write_all(&words));
            Entry::Watched(ExitCode::FAILURE)
        }
    }
}

fn prepare(
    plan: &Plan<'_>,
    mut trees: Trees,
    link: &mut UnixStream,
    egress: Option<OwnedFd>,
) -> Result<(), String> {
    let failed =
        |doing: &'static str| move |error: nix::errno::Errno| format!("{doing}: {}", error.desc());
    match plan.account {
        Some(account) => {
            // The launcher writes the maps, and says so.
            link.read_exact(&mut [0])
                .map_err(|error| format!("maps: {error}"))?;
            if trees.is_empty() {
                // Still as root, for whom the host's directories are open.
                trees = mapped::copies(&plan.layout).map_err(|error| error.to_string())?;
            }
            account.assume()?;
        }
        None => {
            map("setgroups", "deny".to_owned())?;
            map("uid_map", format!("{0} {0} 1\n", plan.user))?;
            map("gid_map", format!("{0} {0} 1\n", plan.group))?;
        }
    }
    // After the change of the user, which would undo it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("parent-death signal"))?;
    // The parent has no number in here, so getppid(2) cannot tell whether it died before we asked.
    // It holds the only other end of this socket, which it loses before its children are told.
    let mut fds = [PollFd::new(link.as_fd(), PollFlags::empty())];
    if poll(&mut fds, PollTimeout::ZERO) != Ok(0) {
        return Err("the launcher died".to_owned());
    }
    nix::unistd::sethostname(HOST_NAME).map_err(failed("host name"))?;
    if plan.own_network {
        loopback::raise().map_err(failed("loopback"))?;
    }
    if let Some(control) = egress {
        egress::open(plan.egress, control).map_err(|error| format!("egress: {error}"))?;
    }
    view::build(&plan.layout, trees).map_err(|error| error.to_string())
}

/// One identity, mapped to itself, so that the uid stays what it is (`user_namespaces(7)`). Without
/// CAP_SETGID outside, the groups can only be mapped once nobody inside can drop one.
fn map(file: &str, text: String) -> Result<(), String> {
    std::fs::write(format!("/proc/self/{file}"), text).map_err(|error| format!("{file}: {error}"))
}

/// Where a server on HTTP is asked for, and signals in a form that can be waited for beside it.
struct Doorway {
    door: Door,
    signals: SignalFd,
}

impl Doorway {
    /// The signals are blocked already.
    fn open(door: Door) -> Result<Self, String> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&signals::relayed(), flags);
        let signals = signals.map_err(|error| format!("signals: {}", error.desc()))?;
        Ok(Self { door, signals })
    }

    /// Waits for a signal, and makes sockets meanwhile; false when nobody asks any more.
    fn wait(&self) -> (Option<Signal>, bool) {
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.door.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return (None, true);
        }
        let [_, asked] = &fds;
        let open = !asked.any().unwrap_or(true) || self.door.attend();
        let heard = self.signals.read_signal().ok().flatten();
        let signal = heard.and_then(|it| i32::try_from(it.ssi_signo).ok()?.try_into().ok());
        (signal, open)
    }
}

/// Reaps whatever ends, relays whatever comes, until the server has ended.
fn serve(server: Pid, link: &mut UnixStream, mut doorway: Option<Doorway>) {
    let signals = signals::relayed();
    loop {
        if let Some(end) = reap(server) {
            return tell_end(link, end);
        }
        let signal = match &doorway {
            None => signals.wait().ok(),
            Some(open) => {
                let (signal, stays) = open.wait();
                if !stays {
                    doorway = None;
                }
                signal
            }
        };
        match signal {
            Some(Signal::SIGCHLD) | None => {}
            Some(signal) => kill(server, signal).unwrap_or(()),
        }
    }
}

fn reap(server: Pid) -> Option<WaitStatus> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, end))) if pid.as_raw_nonzero().get() == server.as_raw() => {
                return Some(end);
            }
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}
