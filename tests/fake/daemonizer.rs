//! A server that will not go: it detaches helpers which ignore SIGTERM, or never stops forking.
//!
//! `daemonizer KIND MARKER [N]`; the marker only makes its processes countable.
#![expect(clippy::expect_used, reason = "a fake says no by panicking")]
#![expect(clippy::print_stdout, reason = "its stdout is what the test reads")]

use nix::sys::signal::{SigSet, Signal};
use std::process::{Command, Stdio};
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let kind = args.first().map_or("", String::as_str);
    let marker = args.get(1).map_or("none", String::as_str);
    let number: u32 = args.get(2).and_then(|n| n.parse().ok()).unwrap_or(0);
    match kind {
        // The main process: three detached helpers, then it waits.
        "daemons" => {
            for _ in 0..3 {
                spawn("leave", marker, 0)
                    .wait()
                    .expect("the one in between ends");
            }
            println!("ready");
            linger();
        }
        // The one in between: its child is an orphan as soon as it ends.
        "leave" => drop(spawn("deaf", marker, 0)),
        "deaf" => {
            nix::unistd::setsid().expect("a new session");
            let mut all = SigSet::empty();
            for signal in [
                Signal::SIGTERM,
                Signal::SIGHUP,
                Signal::SIGINT,
                Signal::SIGPIPE,
            ] {
                all.add(signal);
            }
            all.thread_block().expect("a mask");
            linger();
        }
        // A tree of 3^N processes in which everybody lives.
        "tree" => {
            for _ in 0..3 {
                if number > 0 {
                    drop(spawn("tree", marker, number - 1));
                }
            }
            println!("ready");
            linger();
        }
        // Starts ten comets: each lives only until its successor does.
        "comets" => {
            for _ in 0..10 {
                drop(spawn("comet", marker, 20_000));
            }
            println!("ready");
            linger();
        }
        "comet" if number > 0 => drop(spawn("comet", marker, number - 1)),
        // Detaches helpers and ends at once.
        "quit" => {
            spawn("leave", marker, 0)
                .wait()
                .expect("the one in between ends");
            std::thread::sleep(Duration::from_millis(50));
        }
        _ => {}
    }
}

/// Stdout and stderr are inherited: the helpers hold the pipes open.
fn spawn(kind: &str, marker: &str, number: u32) -> std::process::Child {
    Command::new(std::env::current_exe().expect("our path"))
        .args([kind, marker, &number.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("a process")
}

/// Bounded, so that a failed test does not leave processes for ever.
fn linger() {
    std::thread::sleep(Duration::from_secs(120));
}
