//! The long lines of `cargo xtask test --full`, resumable: what passed for this state of the tree
//! is kept in `target/xtask-full.json` and not run again.

use crate::say::{say, step};
use crate::suite;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Seconds that each fuzz target runs.
const FUZZ_SECONDS: u32 = 60;

/// What is tested at length, and the filter that finds it.
const TESTS: [(&str, &str); 12] = [
    ("fidelity: every server, client and era", "fidelity"),
    ("https clients: every SDK, proof and era", "https_clients::"),
    (
        "matrix: every source rotates on every way in and out",
        "matrix::",
    ),
    ("rotation: mounts that nobody tells of, too", "rotation::"),
    (
        "issuer: ten rotations of its keys under load",
        "http_issuer::",
    ),
    ("chaos: 100,000 mixed requests", "chaos"),
    ("faults: every fault on every way in", "faults"),
    ("kill: 120 times with 100 calls in flight", "kill_fast"),
    ("a virtual day, and three real minutes", "virtual_day"),
    ("the unit under a booted systemd", "booted"),
    ("what takes seconds to end", "stopping"),
    ("kill -9: 1,000 times in each cell", "kill_nine"),
];

/// Runs every long line that has not passed yet; returns what failed.
pub(crate) fn run(root: &Path, fixtures: &Path) -> Result<Vec<String>, String> {
    let path = crate::target_dir(root).join("xtask-full.json");
    let state = state_of_tree(root)?;
    let mut passed = recall(&path, &state);
    let mut failures = Vec::new();
    let tests = TESTS.map(|(name, filter)| (name.to_owned(), Line::Tests(filter)));
    let mut lines = Vec::from(tests);
    lines.push(("bench: every target met".to_owned(), Line::Bench));
    lines.extend(
        fuzz_targets(root)
            .into_iter()
            .map(|name| (format!("fuzz: {name}"), Line::Fuzz(name))),
    );
    for (name, line) in lines {
        if passed.contains(&name) {
            say!("xtask: {name}: passed before for this state of the tree");
            continue;
        }
        say!("xtask: {name}");
        let started = Instant::now();
        if line.run(root, fixtures)? {
            say!("xtask: {name}: passed in {} s", started.elapsed().as_secs());
            passed.push(name);
            crate::fixtures::write(&path, &json!({"tree": state, "passed": passed}).to_string())?;
        } else {
            failures.push(name);
        }
    }
    Ok(failures)
}

enum Line {
    Tests(&'static str),
    Bench,
    Fuzz(String),
}

impl Line {
    fn run(&self, root: &Path, fixtures: &Path) -> Result<bool, String> {
        let mut cargo = crate::cargo(root);
        match self {
            Self::Tests(filter) => {
                return Ok(
                    suite::tests(root, fixtures, &[filter], &[("COFFERDAM_FULL", "1")])?.passed,
                );
            }
            Self::Bench => cargo.args(["bench", "--bench", "stdio", "--", "--check"]),
            // The fuzzer's own instrumentation needs -Z flags, which a stable compiler takes only so.
            Self::Fuzz(name) => {
                let path = std::env::var("PATH").unwrap_or_default();
                cargo
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("PATH", format!("{}:{path}", fuzzer(root)?.display()))
                    .args(["fuzz", "run", name, "--"])
                    .arg(format!("-max_total_time={FUZZ_SECONDS}"))
            }
        };
        crate::succeeds(&mut cargo)
    }
}

/// Where cargo-fuzz lies; it is compiled once, below `target/`.
fn fuzzer(root: &Path) -> Result<PathBuf, String> {
    let home = crate::target_dir(root).join("tools/cargo");
    if !home.join("bin/cargo-fuzz").is_file() {
        let mut install = crate::cargo(root);
        install
            .args(["install", "--locked", "cargo-fuzz", "--root"])
            .arg(&home);
        step("compiling cargo-fuzz", &mut install)?;
    }
    Ok(home.join("bin"))
}

fn fuzz_targets(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("fuzz/fuzz_targets")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

fn recall(path: &Path, state: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let known: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if known["tree"] != state {
        return Vec::new();
    }
    let names = known["passed"].as_array().cloned().unwrap_or_default();
    names
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// The commit and what differs from it; any edit makes every line run again.
fn state_of_tree(root: &Path) -> Result<String, String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(root).args(args).output();
        output
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .map_err(|e| format!("git: {e}"))
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let mut hasher = DefaultHasher::new();
    git(&["diff", "HEAD"])?.hash(&mut hasher);
    git(&["status", "--porcelain"])?.hash(&mut hasher);
    Ok(format!("{}+{:016x}", commit.trim(), hasher.finish()))
}
