//! Lines for people, on stderr, and steps that show that they are alive.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a silent step says that it still runs.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Prints one line to stderr; a closed stderr is no reason to fail.
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::say::line(format_args!($($arg)*))
    };
}
pub(crate) use say;

pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Runs a chatty `command` quietly under a progress line; its output is shown only when it fails.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<(), String> {
    let started = Instant::now();
    say!("xtask: {what} ...");
    let log = std::env::temp_dir().join(format!("xtask-{}.log", std::process::id()));
    let file = std::fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let errors = file
        .try_clone()
        .map_err(|e| format!("{}: {e}", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let mut told = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(format!("cannot wait for {program}: {error}")),
        }
        if told.elapsed() >= ALIVE_EVERY {
            say!(
                "xtask: {what} ... still running after {} s",
                started.elapsed().as_secs()
            );
            told = Instant::now();
        }
    };
    let output = std::fs::read_to_string(&log).unwrap_or_default();
    drop(std::fs::remove_file(&log));
    if status.success() {
        say!(
            "xtask: {what} done in {:.1} s",
            started.elapsed().as_secs_f64()
        );
        return Ok(());
    }
    for line in output
        .lines()
        .rev()
        .take(30)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        say!("    {line}");
    }
    Err(format!("{what}: {program} ended with {status}"))
}
