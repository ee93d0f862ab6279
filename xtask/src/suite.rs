//! `cargo xtask test`: one build, one run of every test, one verdict.

use crate::say::say;
use crate::{full, skips};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Runs the suite as the arguments ask; false when anything is not as it should be.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let whole = args.iter().any(|arg| arg == "--full");
    let filters: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    if let Some(unknown) = args
        .iter()
        .find(|arg| arg.starts_with("--") && *arg != "--full")
    {
        return Err(format!("test does not know {unknown}"));
    }
    let started = Instant::now();
    let fixtures = crate::fixtures::set_up(root)?;

    say!("xtask: building everything once");
    let mut build = crate::cargo(root);
    build.args(["build", "--workspace", "--bins", "--examples"]);
    if !crate::succeeds(&mut build)? {
        return Ok(verdict(started, &["the build failed".to_owned()]));
    }

    let mut failures = Vec::new();
    let output = match tests(root, &fixtures, &filters, &[])? {
        Ran {
            passed: true,
            output,
        } => output,
        Ran { output, .. } => {
            failures.push("tests failed, see above".to_owned());
            output
        }
    };
    failures.extend(judge_skips(root, &output)?);
    if whole && failures.is_empty() {
        failures.extend(full::run(root, &fixtures)?);
    }
    Ok(verdict(started, &failures))
}

/// The outcome of one run of the test runner.
pub(crate) struct Ran {
    /// It exited 0.
    pub(crate) passed: bool,
    /// Everything that tests printed, also those that passed.
    pub(crate) output: String,
}

/// Runs the tests that match every one of `filters`, with `env` added to what they see.
pub(crate) fn tests(
    root: &Path,
    fixtures: &Path,
    filters: &[&str],
    env: &[(&str, &str)],
) -> Result<Ran, String> {
    let nextest = crate::cargo(root).args(["nextest", "--version"]).output();
    let mut command = crate::cargo(root);
    command
        .env("COFFERDAM_FIXTURES", fixtures)
        .envs(env.iter().copied());
    if nextest.is_ok_and(|output| output.status.success()) {
        command
            .args(["nextest", "run", "--workspace", "--profile", "xtask"])
            .args(filters);
        let report = crate::target_dir(root).join("nextest/xtask/junit.xml");
        drop(std::fs::remove_file(&report));
        let passed = crate::succeeds(&mut command)?;
        let output = std::fs::read_to_string(&report).unwrap_or_default();
        if passed && output.is_empty() {
            return Err(format!(
                "the test runner left no report at {}",
                report.display()
            ));
        }
        return Ok(Ran { passed, output });
    }
    say!("xtask: cargo-nextest is not installed, cargo test runs instead (slower)");
    command
        .args(["test", "--workspace"])
        .args(filters)
        .args(["--", "--show-output"]);
    tee(&mut command)
}

/// Passes the runner's stdout on while it keeps a copy.
fn tee(command: &mut Command) -> Result<Ran, String> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    let mut output = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            drop(writeln!(std::io::stdout().lock(), "{line}"));
            output.push_str(&line);
            output.push('\n');
        }
    }
    let status = child
        .wait()
        .map_err(|e| format!("cannot wait for cargo: {e}"))?;
    Ok(Ran {
        passed: status.success(),
        output,
    })
}

/// Prints what was skipped; a skip that no list explains is a failure.
fn judge_skips(root: &Path, output: &str) -> Result<Vec<String>, String> {
    let listed = {
        let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        skips::listed(&root.join("tests/unavailable.toml"), ci)?
    };
    let mut failures = Vec::new();
    for (name, reason) in skips::in_output(output) {
        match listed.get(&name) {
            Some(why) => say!("xtask: skipped {name}: {reason} (listed: {why})"),
            None => failures.push(format!(
                "skipped and not in tests/unavailable.toml: {name}: {reason}"
            )),
        }
    }
    Ok(failures)
}

fn verdict(started: Instant, failures: &[String]) -> bool {
    let seconds = started.elapsed().as_secs();
    for failure in failures {
        say!("xtask: FAILED: {failure}");
    }
    if failures.is_empty() {
        say!("xtask: all green in {seconds} s");
    } else {
        say!("xtask: not green after {seconds} s");
    }
    failures.is_empty()
}
