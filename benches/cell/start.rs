//! From the start of a server to its first reply: bare, in both cells, and in bubblewrap.

use super::{Failure, median};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const INITIALIZE: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"bench\",\"version\":\"1\"}}}\n";

/// Prints the table.
pub(super) fn report(rounds: usize) -> Result<(), Failure> {
    let state = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let own = own.to_str().ok_or("a path that is no text")?;
    let cofferdam = env!("CARGO_BIN_EXE_cofferdam");
    let bwrap = "bwrap --unshare-all --die-with-parent --new-session --clearenv --cap-drop ALL --ro-bind /usr /usr \
         --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/bin /bin --proc /proc --dev /dev \
         --tmpfs /tmp --ro-bind";
    let bwrap = bwrap.split_whitespace().chain([own, own, "--"]);
    let targets: [(&str, Vec<&str>); 4] = [
        ("bare server", vec![]),
        ("bubblewrap", bwrap.collect()),
        (
            "cofferdam, tier A",
            vec![cofferdam, "run", "-q", "--require", "namespaces", "--"],
        ),
        (
            "cofferdam, tier B",
            vec![cofferdam, "run", "-q", "--off", "namespaces", "--"],
        ),
    ];
    let there = Command::new("bwrap").arg("--version").output().is_ok();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); targets.len()];
    for round in 0..=rounds {
        for (at, (name, before)) in targets.iter().enumerate() {
            if *name == "bubblewrap" && !there {
                continue;
            }
            let took = first_reply(before, own, state.path())?;
            if round > 0 {
                times[at].push(took);
            }
        }
    }
    println!("From the start to the first reply, medians of {rounds} starts.\n");
    println!("| | time | more than the bare server |\n|---|---|---|");
    let bare = median(times[0].iter().copied());
    for ((name, _), times) in targets.iter().zip(&times) {
        if times.is_empty() {
            println!("| {name} | not installed | |");
            continue;
        }
        let middle = median(times.iter().copied());
        println!("| {name} | {middle:.1} ms | {:+.1} ms |", middle - bare);
    }
    println!();
    Ok(())
}

/// In milliseconds.
fn first_reply(before: &[&str], own: &str, state: &Path) -> Result<f64, Failure> {
    let mut words = before.iter().copied().chain([own, "__echo"]);
    let program = words.next().ok_or("no words")?;
    let begin = Instant::now();
    let mut child = Command::new(program)
        .args(words)
        .env("XDG_STATE_HOME", state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What is missing on the floor is said each time.
        .stderr(Stdio::null())
        .spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("no pipes".into());
    };
    input.write_all(INITIALIZE)?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let took = begin.elapsed();
    drop(input);
    child.wait()?;
    match line.contains("serverInfo") {
        true => Ok(took.as_secs_f64() * 1e3),
        false => Err(format!("{before:?} answered {line:?}").into()),
    }
}
