//! What the wrap costs: cofferdam beside the bare server and beside a relay that only copies bytes.
//!
//! `cargo bench --bench stdio` prints ratios against the relay, from slices that take turns in one
//! run pinned to one CPU: a round trip across CPUs is mostly the wake-up of an idle one and says
//! nothing about the work. `-- --check` fails when a target is missed, `COFFERDAM_BENCH=quick`
//! takes a tenth of the time, `-- --peer 'CMD ARGS'` measures
//! another wrapper in cofferdam's place (it gets the server's command appended). The figures also go to `target/bench-stdio.json`.

#[path = "../../tests/fake/support/echo.rs"]
mod echo;
mod footprint;
mod peer;
mod phases;
#[path = "../support/pinned.rs"]
mod pinned;
#[path = "../../tests/fake/support/relay.rs"]
mod relay;
mod report;
#[path = "../../tests/fake/support/text.rs"]
mod text;

use peer::Target;
use report::Report;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// How long the parts take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds, of which the median counts.
    pub(crate) rounds: usize,
    /// Rounds of the run over all CPUs.
    pub(crate) free_rounds: usize,
    /// One phase of one target in one round.
    pub(crate) slice: Duration,
    /// Starts of each target.
    pub(crate) starts: usize,
    /// How long idle processes are watched for wake-ups.
    pub(crate) idle: Duration,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The server and the relay are this very program, so that one build makes all of them.
    let done = match args.first().map(String::as_str) {
        Some("__echo") => echo::serve().map(|()| ExitCode::SUCCESS),
        Some("__relay") => relay::run(&args[1..]),
        _ => bench(&args),
    };
    done.unwrap_or_else(|error| {
        report::say(&format!("stdio bench: {error}"));
        ExitCode::FAILURE
    })
}

fn bench(args: &[String]) -> io::Result<ExitCode> {
    let check = args.iter().any(|arg| arg == "--check");
    let peer = args.iter().skip_while(|arg| *arg != "--peer").nth(1);
    let quick = std::env::var_os("COFFERDAM_BENCH").is_some_and(|value| value == "quick");
    let plan = if quick {
        Plan {
            rounds: 3,
            free_rounds: 1,
            slice: ms(60),
            starts: 5,
            idle: ms(1000),
        }
    } else {
        Plan {
            rounds: 7,
            free_rounds: 3,
            slice: ms(250),
            starts: 21,
            idle: ms(5000),
        }
    };
    let directory = tempfile::tempdir()?;
    let targets = Target::all(directory.path(), peer.map(String::as_str))?;
    let mut report = Report::default();
    peer::watch_for_silence();

    report::say("stdio bench: pinned to one CPU");
    pinned::pin(true)?;
    phases::run(&targets, plan.rounds, plan.slice, "", &mut report)?;
    footprint::first_reply(&targets, plan.starts, &mut report)?;
    footprint::idle_and_peak(&targets, plan.idle, &mut report)?;
    report::say("stdio bench: free to use every CPU");
    pinned::pin(false)?;
    phases::run(
        &targets,
        plan.free_rounds,
        plan.slice,
        " (free)",
        &mut report,
    )?;

    let met = report.finish()?;
    Ok(if met || !check {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
