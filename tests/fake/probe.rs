//! A hostile server: tries to get out of its cell, act by act, and says on stdout what worked.
//!
//! `probe TARGETS` prints one JSON line for each act: `{act, category, seen, through, errno, got}`.
//! `TARGETS` is a JSON object that names what the test planted outside. Every act runs in a child of
//! its own, so that none changes the conditions of the next. An act is `through` when it worked, or
//! when the kernel answered about its arguments instead of refusing it; `seen` ones leave something
//! that can be told from outside, or tell (`got`) what they read there. `probe --list` names the
//! acts, `probe --victim` is what some of them are aimed at.

#![expect(
    unsafe_code,
    reason = "attacks are made of raw system calls; this is a test program"
)]
#![expect(clippy::print_stdout, reason = "its output is its result")]
#![expect(clippy::unwrap_used, reason = "a broken probe must fail loudly")]

#[path = "support/acts_bombs.rs"]
mod acts_bombs;
#[path = "support/acts_exec.rs"]
mod acts_exec;
#[path = "support/acts_files.rs"]
mod acts_files;
#[path = "support/acts_honest.rs"]
mod acts_honest;
#[path = "support/acts_host.rs"]
mod acts_host;
#[path = "support/acts_kernel.rs"]
mod acts_kernel;
#[path = "support/acts_leaks.rs"]
mod acts_leaks;
#[path = "support/acts_metadata.rs"]
mod acts_metadata;
#[path = "support/acts_mounts.rs"]
mod acts_mounts;
#[path = "support/acts_network.rs"]
mod acts_network;
#[path = "support/acts_objects.rs"]
mod acts_objects;
#[path = "support/acts_processes.rs"]
mod acts_processes;
#[path = "support/acts_races.rs"]
mod acts_races;
#[path = "support/acts_reach.rs"]
mod acts_reach;
#[path = "support/acts_resources.rs"]
mod acts_resources;
#[path = "support/acts_victims.rs"]
mod acts_victims;
#[path = "support/calls.rs"]
mod calls;
#[path = "support/filtered.rs"]
mod filtered;

use calls::{Act, Targets, Value, Write, io, sys, tell_to};
use serde_json::json;
use std::os::fd::AsRawFd;

/// Seconds after which an act that hangs is ended.
const PATIENCE: u32 = 20;

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next().unwrap();
    match first.as_str() {
        "--exit" => return,
        "--victim" => return acts_victims::be_one(),
        "--plant" => return acts_objects::plant(number(args.next()), &args.next().unwrap()),
        "--unplant" => return acts_objects::remove(number(args.next())),
        "--list" => {
            for act in all(&Targets::read(Value::Null)) {
                println!("{}", about(&act));
            }
            return;
        }
        _ => {}
    }
    let targets = Targets::read(serde_json::from_str(&first).unwrap());
    for act in all(&targets) {
        let (errno, got) = isolated(&act);
        let mut line = about(&act);
        line["through"] = (errno == 0).into();
        line["errno"] = errno.into();
        line["got"] = String::from_utf8_lossy(&got).into();
        println!("{line}");
    }
}

fn number(text: Option<String>) -> usize {
    text.unwrap().parse().unwrap()
}

fn about(act: &Act) -> Value {
    json!({"act": act.name, "category": act.category, "seen": act.seen})
}

fn all(t: &Targets) -> Vec<Act> {
    let rooms = [
        acts_files::acts,
        acts_races::acts,
        acts_metadata::acts,
        acts_exec::acts,
        acts_processes::acts,
        acts_victims::acts,
        acts_leaks::acts,
        acts_network::acts,
        acts_reach::acts,
        acts_kernel::acts,
        filtered::acts,
        acts_objects::acts,
        acts_mounts::acts,
        acts_host::acts,
        acts_resources::acts,
        acts_bombs::acts,
        acts_honest::acts,
    ];
    rooms.iter().flat_map(|room| room(t)).collect()
}

/// Runs an act in a child: 0 when it got through, else the errno, or 255 when a signal ended it;
/// and what it told.
fn isolated(act: &Act) -> (i32, Vec<u8>) {
    io::stdout().flush().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    // Out of the way of the acts that look for descriptors that were left open.
    let high = |end: &dyn AsRawFd| {
        let end = usize::try_from(end.as_raw_fd()).unwrap();
        sys(libc::SYS_fcntl, &[end, 1030, 900]).unwrap()
    };
    let [from, to] = [high(&reader), high(&writer)];
    drop((reader, writer));
    // SAFETY: this program has one thread; the child runs one act and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the default action of the alarm ends this child.
        unsafe { libc::alarm(PATIENCE) };
        tell_to(i32::try_from(to).unwrap());
        let errno = match (act.run)() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(254),
        };
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(errno) };
    }
    drop(sys(libc::SYS_close, &[to]));
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    // Not to the end: what an act left behind may still hold the other end.
    let mut got = vec![0; 512];
    let flags = usize::try_from(libc::O_NONBLOCK).unwrap();
    drop(sys(libc::SYS_fcntl, &[from, 4, flags]));
    let length = sys(libc::SYS_read, &[from, got.as_mut_ptr() as usize, 512]);
    got.truncate(length.unwrap_or(0));
    drop(sys(libc::SYS_close, &[from]));
    if libc::WIFEXITED(status) {
        (libc::WEXITSTATUS(status), got)
    } else {
        (255, got)
    }
}
