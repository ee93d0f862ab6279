//! `cofferdam __cell SPEC_FD STATUS_FD [EGRESS_FD]`: puts itself into the cell, then becomes the server.
//!
//! This is a fresh process with one thread, so every restriction reaches all of it. The steps of
//! [`ORDER`](steps) run one after the other; the first that fails is reported on the status descriptor
//! and ends the launch. Nothing is skipped silently: a layer that the host lacks is either listed
//! as optional by the operator and reported as missing, or the launch ends with 77.

mod steps;

use super::egress::{Door, Ways};
use super::namespaces::{self, Entry};
use super::report::{LaunchFailure, LaunchMessage};
use super::supervise::{self, Beside, Side};
use super::{CellSpec, descriptors, serving, sys, variables};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use steps::{Cell, ORDER};

/// Bytes of notes in a report, which must stay below [`super::MESSAGE_LIMIT`] as JSON too.
const NOTES: usize = 2048;

/// The terminal of whoever asks.
const TERMINAL: &str = "/dev/tty";

/// Our own bug: the spawner called us in a way that it should not.
const SOFTWARE: u8 = 70;
/// A layer is missing and required.
const UNENFORCEABLE: u8 = 77;
/// The spec, or a path in it, is wrong.
const CONFIG: u8 = 78;

/// Runs the launch. Returns when it failed, and in the processes that only watch over the server;
/// otherwise this process is the server.
#[must_use]
pub fn enter(descriptors: &[RawFd]) -> ExitCode {
    let owned = sys::adopt(descriptors).map(Vec::into_iter);
    let taken = owned.and_then(|mut fds| match (fds.next(), fds.next(), fds.next()) {
        (Some(spec), Some(status), egress) => Ok((spec, File::from(status), egress)),
        _ => Err(Errno::EBADF),
    });
    let (spec, mut status, egress) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            let text = format!("cofferdam: __cell is started by cofferdam itself: {error}\n");
            drop(std::io::stderr().write_all(text.as_bytes()));
            return ExitCode::from(SOFTWARE);
        }
    };
    let mut spec = match prepare(spec, &status, egress.as_ref()) {
        Ok(spec) => spec,
        Err(failure) => return give_up(&mut status, failure),
    };
    variables::set_aside(&mut spec.env);
    let mut ways = match take_ways(&mut spec, egress) {
        Ok(ways) => ways,
        Err(failure) => return give_up(&mut status, failure),
    };
    let mut beside = Beside::Nobody("switched off".to_owned());
    let mut inside = Err("switched off".to_owned());
    let mut heard = Vec::new();
    if spec.namespaces {
        spec.relayed = ways.egress.is_some();
        match namespaces::enter(&spec, status, std::mem::take(&mut ways)) {
            Entry::Watched(code) => return code,
            Entry::Inside {
                status: ours,
                own,
                notes,
            } => {
                (status, heard) = (ours, notes);
                inside = Ok(());
                beside = Beside::Unneeded;
                move_in(&mut spec, own);
            }
            Entry::Refused {
                status: mut ours,
                reason,
            } => return give_up(&mut ours, failure(UNENFORCEABLE, &reason)),
            Entry::Floor {
                status: ours,
                ways: back,
                reason,
            } => {
                (status, ways) = (ours, back);
                inside = Err(reason);
                spec.relayed = false;
            }
        }
    }
    if spec.supervision && inside.is_err() {
        match supervise::stand_by(&spec, status, std::mem::take(&mut ways)) {
            Side::Watched(code) => return code,
            Side::Server { status: ours, link } => {
                (status, spec.parent) = (ours, link.parent);
                spec.by_name = link.by_name;
                beside = Beside::Supervisor(link);
            }
            Side::Alone {
                status: ours,
                reason,
            } => (status, beside) = (ours, Beside::Nobody(reason)),
        }
    }
    // Before all descriptors are closed by their numbers.
    drop(ways);
    spec.env = variables::take_back();
    if spec.by_name {
        stay(&mut spec);
    }
    match launch(&spec, inside, (beside, heard), &mut status) {
        Ok(never) => match never {},
        Err(failure) => give_up(&mut status, failure),
    }
}

fn give_up(status: &mut File, failure: LaunchFailure) -> ExitCode {
    let code = failure.code;
    // The spawner may be gone; then nobody is left to tell.
    drop(status.write_all(&LaunchMessage::Failed(failure).encode()));
    ExitCode::from(code)
}

/// The ways out of the cell that the spawner gave.
fn take_ways(spec: &mut CellSpec, egress: Option<OwnedFd>) -> Result<Ways, LaunchFailure> {
    let door = spec.door.take().map(|fd| sys::adopt(&[fd])).transpose();
    let door = door.map_err(|error| failure(SOFTWARE, &error))?;
    Ok(Ways {
        egress: egress.filter(|_| !spec.egress.is_empty()),
        door: door.and_then(|mut fds| fds.pop()).map(Door::new),
    })
}

/// What holds for every process of a launch, the watching ones too.
fn prepare(
    spec: OwnedFd,
    status: &File,
    egress: Option<&OwnedFd>,
) -> Result<CellSpec, LaunchFailure> {
    let mut spec = descriptors::read_spec(spec).map_err(|error| failure(CONFIG, &error))?;
    if spec.terminal {
        spec.terminals.push(TERMINAL.into());
    }
    bind_to_parent(&spec)?;
    let egress = egress.map(AsRawFd::as_raw_fd);
    let kept = [Some(status.as_raw_fd()), spec.refusals, spec.door, egress];
    let kept: Vec<RawFd> = kept.into_iter().flatten().collect();
    sys::close_all_but(&kept).map_err(|error| failure(SOFTWARE, &error))?;
    Ok(spec)
}

/// What is different for a process inside: pid 1 is its parent, and what is its own it may use.
fn move_in(spec: &mut CellSpec, own: namespaces::Own) {
    spec.parent = 1;
    spec.counted_apart = true;
    spec.write.extend(own.write);
    spec.terminals = own.terminals;
    spec.bind_ports.extend(spec.serves.map(|it| it.port));
    if namespaces::own_network(spec) {
        // Shows the cell's own processes and an empty network, so that children can read theirs.
        // With the host's network, `/proc/PID/net` would tell of the host.
        spec.read.push(namespaces::PROCESSES.into());
        // Ours stand there, where no host was allowed.
        for (path, _) in &spec.covers {
            if !spec.read.contains(path) {
                spec.read.push(path.clone());
            }
        }
    }
}

/// What is different on the floor where the supervisor makes the connections.
fn stay(spec: &mut CellSpec) {
    spec.connect_ports.clear();
    spec.datagrams = false;
    for (name, value) in std::mem::take(&mut spec.floor_env) {
        if spec.env.iter().all(|(known, _)| *known != name) {
            spec.env.push((name, value));
        }
    }
}

fn launch(
    spec: &CellSpec,
    inside: Result<(), String>,
    (beside, notes): (Beside, Vec<String>),
    status: &mut File,
) -> Result<std::convert::Infallible, LaunchFailure> {
    let mut cell = Cell::new(spec, status.as_raw_fd());
    cell.beside = beside;
    let notes = serving::note(spec, inside.is_err())
        .into_iter()
        .chain(notes);
    let mut room = NOTES;
    let fits = |note: &String| {
        room = room.saturating_sub(note.len());
        room > 0
    };
    cell.report.notes = notes.take_while(fits).collect();
    cell.note_namespaces(inside)?;
    for step in ORDER {
        cell.take(step)?;
    }
    let entered = LaunchMessage::Entered(cell.report);
    status
        .write_all(&entered.encode())
        .map_err(|error| failure(SOFTWARE, &error))?;
    Err(execute(spec))
}

/// Becomes the server; the standard library resets SIGPIPE on the way, but not the signal mask, and
/// whoever started us may block what the server must hear.
fn execute(spec: &CellSpec) -> LaunchFailure {
    let mut args = spec.args.iter();
    let mut command = Command::new(&spec.program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return failure(SOFTWARE, &error);
    }
    let envs = spec.env.iter().map(|(name, value)| (name, value));
    let error = command.args(args).env_clear().envs(envs).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    failure(
        code,
        &format!("cannot execute {}: {error}", spec.program.display()),
    )
}

/// SIGKILL when the parent dies, and proof that it had not died before we asked.
pub(super) fn bind_to_parent(spec: &CellSpec) -> Result<(), LaunchFailure> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| failure(SOFTWARE, &error))?;
    let parent = Pid::from_raw(spec.parent);
    if parent.as_raw() != 0 && getppid() != parent {
        return Err(failure(
            SOFTWARE,
            &"the spawner died before the server was started",
        ));
    }
    Ok(())
}

fn failure(code: u8, text: &dyn std::fmt::Display) -> LaunchFailure {
    LaunchFailure {
        code,
        text: text.to_string(),
    }
}
