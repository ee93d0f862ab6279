//! What the wrap costs besides time for each message: the start, memory, wake-ups.

use crate::peer::{self, INITIALIZE, Target};
use crate::report::{Report, Unit};
use nix::unistd::Pid;
use std::fs::read_to_string;
use std::io;
use std::time::{Duration, Instant};

/// The largest message of the peak measurement.
const LARGE: usize = 8 << 20;

/// From spawn to the answer to `initialize`, in milliseconds: with the best cell that the host has,
/// and on the floor alone.
pub(crate) fn first_reply(
    targets: &[Target],
    starts: usize,
    report: &mut Report,
) -> io::Result<()> {
    let floor: Vec<Target> = targets.iter().map(Target::on_the_floor).collect();
    for (metric, targets) in [("first reply", targets), ("first reply, floor", &floor)] {
        for round in 0..=starts {
            for target in targets {
                peer::beat();
                let started = Instant::now();
                let mut peer = target.start()?;
                peer.call(INITIALIZE)?;
                let took = started.elapsed().as_secs_f64() * 1e3;
                if round > 0 {
                    report.add(metric, Unit::Time, target.name, took);
                }
            }
        }
    }
    Ok(())
}

/// Memory at rest, wake-ups at rest, and the peak that one large message leaves.
pub(crate) fn idle_and_peak(
    targets: &[Target],
    idle: Duration,
    report: &mut Report,
) -> io::Result<()> {
    for target in targets.iter().filter(|target| target.name != "bare") {
        peer::beat();
        let mut peer = target.open()?;
        // Give what runs once after the start the time to end.
        std::thread::sleep(Duration::from_millis(500));
        let processes = peer.own_processes();
        let pss = sum(&processes, "smaps_rollup", "Pss:")?;
        report.add("idle PSS", Unit::Size, target.name, pss as f64 / 1024.0);
        report.add(
            "processes",
            Unit::Count,
            target.name,
            processes.len() as f64,
        );

        let before = switches(&processes)?;
        std::thread::sleep(idle);
        let woken = switches(&processes)?.saturating_sub(before);
        report.add("idle wake-ups", Unit::Count, target.name, woken as f64);

        let rest = sum(&processes, "status", "VmRSS:")?;
        for pid in &processes {
            // 5 resets the high-water mark (proc_pid_clear_refs(5)).
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        let call = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"tools/call\",\"params\":{{\"name\":\"blob\",\"arguments\":{{\"bytes\":{LARGE}}}}}}}\n"
        );
        if peer.call(call.as_bytes())?.len() < LARGE {
            return Err(io::Error::other(format!(
                "{}: the large result was cut",
                target.name
            )));
        }
        let peak = sum(&processes, "status", "VmHWM:")?;
        let grown = peak.saturating_sub(rest) * 1024;
        report.add(
            "peak over idle",
            Unit::Count,
            target.name,
            grown as f64 / LARGE as f64,
        );
    }
    Ok(())
}

/// Sum of one kB field of /proc/PID/`file`.
fn sum(processes: &[Pid], file: &str, key: &str) -> io::Result<u64> {
    let mut total = 0;
    for pid in processes {
        total += field(&read_to_string(format!("/proc/{pid}/{file}"))?, key);
    }
    Ok(total)
}

fn field(text: &str, key: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Context switches of every thread: a process that sleeps makes none.
fn switches(processes: &[Pid]) -> io::Result<u64> {
    let mut total = 0;
    for pid in processes {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = read_to_string(task?.path().join("status")).unwrap_or_default();
            total += field(&status, "voluntary_ctxt_switches:");
        }
    }
    Ok(total)
}
