//! Namespaces of the cell's own, where the kernel gives them to users: users, processes, mounts,
//! names, System V objects and the network, which is empty but for the relay's sockets when hosts are
//! allowed (`cell/egress`).
//!
//! ```text
//! launcher ── clone ──▶ pid 1 ── fork ──▶ goes on with the launch, becomes the server
//!    stays outside: relays        reaps, relays signals,
//!    signals, ends as the         ends with the server and
//!    server ended                 takes every process along
//! ```
//!
//! The launcher itself never enters anything. What fails before the server's process exists ends
//! pid 1 and nothing else, and the launcher goes on with today's floor: all of it or none.

mod init;
mod layout;
mod loopback;
mod mapped;
mod view;

use super::account::Account;
use super::egress::Ways;
use super::{CellSpec, caps, probe, seccomp, signals, sys, variables};
use crate::config::EgressRule;
use layout::Layout;
pub(super) use layout::Own;
use mapped::{Failure, Trees};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, getppid};
use rustix::process::{Pid as Child, WaitOptions, WaitStatus, waitpid};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

/// Shows the cell's own processes.
pub(super) const PROCESSES: &str = "/proc";
/// What `gethostname(2)` says inside.
pub(super) const HOST_NAME: &str = "cofferdam";

/// The first byte of what pid 1 tells the launcher.
const READY: u8 = b'R';
const FAILED: u8 = b'F';
const EXITED: u8 = b'E';
const SIGNALED: u8 = b'S';

/// Who this process is after [`enter`].
#[derive(Debug)]
pub(super) enum Entry {
    /// The process that was started; nothing about it changed, and this is why.
    Floor {
        status: File,
        ways: Ways,
        reason: String,
    },
    /// The same, and no cell can give this user what the policy lists.
    Refused { status: File, reason: String },
    /// A child of pid 1 inside, on its way to become the server.
    Inside {
        status: File,
        own: Own,
        notes: Vec<String>,
    },
    /// The launcher or pid 1, after the server has ended.
    Watched(ExitCode),
}

/// What pid 1 needs to know.
struct Plan<'a> {
    layout: Layout<'a>,
    own_network: bool,
    egress: &'a [EgressRule],
    user: Uid,
    group: Gid,
    /// The user that everything inside runs as, when that is not the launcher's own.
    account: Option<&'a Account>,
    /// The spawner.
    parent: i32,
    /// What the operator should hear of the mounts.
    notes: Vec<String>,
}

/// Whether the cell gets a network of its own: an empty one, so only where no host is allowed or
/// somebody outside brings the hosts to it.
pub(super) fn own_network(spec: &CellSpec) -> bool {
    spec.relayed || (spec.connect_ports.is_empty() && !spec.datagrams)
}

/// Enters the namespaces. Returns in up to three processes; [`Entry`] says which one this is.
///
/// `status` stays open in the process that becomes the server and nowhere else, because the spawner
/// takes its closing for the execution of the server.
///
/// `ways` lead out of what is entered; who stays outside drops them.
pub(super) fn enter(spec: &CellSpec, status: File, ways: Ways) -> Entry {
    let (ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => return floor((status, ways), format!("socketpair: {error}")),
    };
    let signals = signals::relayed();
    let before = signals.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
    let before = match before {
        Ok(before) => before,
        Err(error) => return floor((status, ways), format!("signal mask: {error}")),
    };
    let mut plan = Plan {
        layout: Layout::of(spec),
        own_network: own_network(spec),
        egress: &spec.egress,
        user: geteuid(),
        group: getegid(),
        account: spec.account(),
        parent: spec.parent,
        notes: Vec::new(),
    };
    // An ignored SIGCHLD is inherited, and then nothing can be waited for (wait(2)).
    if let Err(error) = sys::default_action(libc::SIGCHLD) {
        return floor((status, ways), format!("SIGCHLD: {error}"));
    }
    let trees = match plan.account {
        Some(account) => mapped::trees(&plan.layout, account, &mut plan.notes),
        None => Ok(Trees::new()),
    };
    let trees = match trees {
        Ok(trees) => trees,
        Err(failure) => {
            before.thread_set_mask().ok();
            return match failure {
                Failure::Floor(reason) => floor((status, ways), reason),
                Failure::Refused(reason) => Entry::Refused { status, reason },
            };
        }
    };
    let mut flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    flags.set(CloneFlags::CLONE_NEWNET, plan.own_network);
    let reason = match sys::fork_into(flags) {
        Ok(None) => {
            drop(ours);
            return init::run(&plan, trees, theirs, status, ways);
        }
        Ok(Some(init)) => {
            drop((theirs, trees));
            match watch(init, ours, (status, ways), &signals, &plan) {
                Ok(entry) => return entry,
                Err((back, reason)) => {
                    before.thread_set_mask().ok();
                    return floor(back, reason);
                }
            }
        }
        Err(error) => {
            let switch = probe::namespace_switch();
            let switch = switch.map_or_else(String::new, |text| format!(" ({text})"));
            format!("the kernel refuses them: {}{switch}", error.desc())
        }
    };
    before.thread_set_mask().ok();
    floor((status, ways), reason)
}

/// What goes on with whoever becomes the server.
type Kept = (File, Ways);

fn floor((status, ways): Kept, reason: String) -> Entry {
    Entry::Floor {
        status,
        ways,
        reason,
    }
}

/// The launcher's part: waits for pid 1 to be ready, then for its end.
fn watch(
    init: Pid,
    mut link: UnixStream,
    kept: Kept,
    signals: &SigSet,
    plan: &Plan<'_>,
) -> Result<Entry, (Kept, String)> {
    if let Some(account) = plan.account
        && let Err(reason) = let_in(init, account, &mut link)
    {
        // It waits for what will not come: at the end of file it gives up.
        drop(link);
        wait_for(init, signals, false);
        return Err((kept, reason));
    }
    let mut first = [0];
    if !matches!(link.read(&mut first), Ok(1)) || first != [READY] {
        let mut reason = String::new();
        drop(link.read_to_string(&mut reason));
        if reason.is_empty() {
            "pid 1 ended before it was ready".clone_into(&mut reason);
        }
        wait_for(init, signals, false);
        return Err((kept, reason));
    }
    drop(kept);
    if let Some(account) = plan.account {
        step_down(account, plan.parent);
    }
    withdraw(false);
    let end = wait_for(init, signals, true);
    let mut last = Vec::new();
    drop(link.take(2).read_to_end(&mut last));
    Ok(Entry::Watched(match (last.as_slice(), end) {
        ([EXITED, code], _) => ExitCode::from(*code),
        ([SIGNALED, signal], _) => sys::die_by(i32::from(*signal)),
        // Somebody killed pid 1: the server died of the same.
        (_, Some(end)) => match (end.exit_status(), end.terminating_signal()) {
            (_, Some(signal)) => sys::die_by(signal),
            (code, None) => ExitCode::from(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(70)),
        },
        (_, None) => ExitCode::from(70),
    }))
}

/// Maps the one user inside, which is not us: only root may write that, and from outside.
fn let_in(init: Pid, account: &Account, link: &mut UnixStream) -> Result<(), String> {
    for (file, id) in [("uid_map", account.uid), ("gid_map", account.gid)] {
        mapped::write_map(init.as_raw(), file, &format!("{id} {id} 1\n"))?;
    }
    link.write_all(&[READY])
        .map_err(|error| format!("maps: {error}"))
}

/// Root has nothing left to do here: watching is for the server's own user, whom pid 1 belongs to.
///
/// Best effort, as [`withdraw`]. The change clears the parent-death signal; a parent that died
/// meanwhile has left the cell to us, and it ends with us.
fn step_down(account: &Account, parent: i32) {
    drop(account.assume());
    prctl::set_pdeathsig(Signal::SIGKILL).ok();
    if parent != 0 && getppid().as_raw() != parent {
        sys::die_by(libc::SIGKILL);
    }
}

/// Waits for one child; meanwhile signals go on to it.
fn wait_for(child: Pid, signals: &SigSet, relay: bool) -> Option<WaitStatus> {
    let id = Child::from_raw(child.as_raw())?;
    loop {
        match waitpid(Some(id), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return Some(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) if relay => kill(child, signal).unwrap_or(()),
            Ok(_) => {}
        }
    }
}

/// Leaves what only the server shall hold, and every power that watching does not need.
///
/// Best effort: the server's own cell does not depend on it, and nobody is left to hear of an error.
///
/// `hands_out`: it makes the sockets that reach the server.
fn withdraw(hands_out: bool) {
    variables::forget();
    // The other end must see the end of file when the server closes its own.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        rustix::stdio::dup2_stdin(&null).ok();
        rustix::stdio::dup2_stdout(&null).ok();
        rustix::stdio::dup2_stderr(&null).ok();
    }
    prctl::set_dumpable(false).ok();
    drop(caps::clear());
    prctl::set_no_new_privs().ok();
    drop(seccomp::allow::watch_only(hands_out));
}

/// Says how the server ended, in the form that [`watch`] reads.
fn tell_end(link: &mut UnixStream, end: WaitStatus) {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    let words = match (end.exit_status(), end.terminating_signal()) {
        (Some(code), _) => [EXITED, byte(code)],
        (None, signal) => [SIGNALED, byte(signal.unwrap_or(libc::SIGKILL))],
    };
    drop(link.write_all(&words));
}

/// Whether a path leads into a directory that the view makes by itself.
fn is_own(path: &Path) -> bool {
    path.starts_with(PROCESSES)
}
