//! Through cofferdam a session is the session: real servers, real SDK clients, every era, compared
//! byte for byte with the direct run.
//!
//! The quick set takes every server, every client and every era once; `COFFERDAM_FULL=1` takes
//! their whole product. `COFFERDAM_WRAPPER='CMD ARGS'` judges another wrapper. The sessions
//! themselves are in `tests/fidelity/`; they need what `cargo xtask setup` installs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ERAS: [&str; 5] = [
    "2024-11-05",
    "2025-03-26",
    "2025-06-18",
    "2025-11-25",
    "2026-07-28",
];
const CLIENTS: [&str; 7] = [
    "ts1",
    "ts2",
    "ts2-auto",
    "ts2-pin",
    "py2",
    "py2-legacy",
    "py2-pin",
];
/// They refuse 2026-07-28, so a client pinned to it has no session to compare.
const LEGACY_ONLY: [&str; 4] = ["everything", "filesystem", "memory", "sequential-thinking"];

/// One cell of the matrix: a client (or the raw driver in an era) and a server.
fn check(server: &str, quick: &[(&str, &str)]) {
    let full = std::env::var_os("COFFERDAM_FULL").is_some();
    let mut cells: Vec<(&str, &str)> = quick.to_vec();
    if full {
        cells = ERAS.map(|era| ("raw", era)).to_vec();
        for client in CLIENTS {
            if !(client.ends_with("-pin") && LEGACY_ONLY.contains(&server)) {
                cells.push((client, "2025-11-25"));
            }
        }
    }
    let Some(fixtures) = fixtures() else {
        println!("SKIPPED: fidelity.{server}: no fixtures, run `cargo xtask setup`");
        return;
    };
    let wrapper = std::env::var("COFFERDAM_WRAPPER").ok();
    let mut failed = Vec::new();
    for (client, era) in cells {
        let output = run(
            &fixtures,
            "cells",
            (server, client, era),
            wrapper.as_deref(),
        );
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            failed.push(format!("{client} {era}"));
        }
    }
    assert!(
        failed.is_empty(),
        "{server}: not the direct session: {failed:?}"
    );
}

/// `work` keeps cells that run at once out of each other's directories.
fn run(fixtures: &Path, work: &str, cell: (&str, &str, &str), wrapper: Option<&str>) -> Output {
    let (server, client, era) = cell;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.arg("-B").arg(root.join("tests/fidelity/matrix.py"));
    command
        .arg("--fixtures")
        .arg(fixtures)
        .arg("--examples")
        .arg(examples());
    command
        .arg("--work")
        .arg(target().join("fidelity").join(work));
    command.args(["--server", server, "--client", client, "--era", era]);
    if work == "defects" {
        // A lost answer is the point there; nobody needs half a minute to see it.
        command.args(["--patience", "3"]);
    }
    match wrapper {
        Some(wrapper) => command.args(["--wrapper", wrapper]),
        None => command.args(["--cofferdam", env!("CARGO_BIN_EXE_cofferdam")]),
    };
    command.output().unwrap()
}

/// Where cargo put the binary; the examples are built beside it.
fn target() -> PathBuf {
    let bin = Path::new(env!("CARGO_BIN_EXE_cofferdam"));
    bin.ancestors().nth(2).unwrap().to_path_buf()
}

pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_cofferdam")).with_file_name("examples")
}

fn fixtures() -> Option<PathBuf> {
    let home = std::env::var_os("COFFERDAM_FIXTURES")
        .map_or_else(|| target().join("fixtures"), PathBuf::from);
    home.join("pypi.stamp").exists().then_some(home)
}

#[test]
fn everything() {
    check(
        "everything",
        &[
            ("raw", "2025-06-18"),
            ("ts1", "2025-11-25"),
            ("ts2-auto", "2025-11-25"),
        ],
    );
}

#[test]
fn filesystem() {
    check(
        "filesystem",
        &[("raw", "2024-11-05"), ("ts2", "2025-11-25")],
    );
}

#[test]
fn memory() {
    check("memory", &[("raw", "2025-03-26"), ("py2", "2025-11-25")]);
}

#[test]
fn sequential_thinking() {
    check(
        "sequential-thinking",
        &[("raw", "2025-11-25"), ("py2-legacy", "2025-11-25")],
    );
}

#[test]
fn git() {
    check("git", &[("raw", "2026-07-28")]);
}

#[test]
fn time() {
    check("time", &[("raw", "2025-11-25"), ("ts2-pin", "2025-11-25")]);
}

#[test]
fn fetch() {
    check("fetch", &[("raw", "2025-11-25"), ("py2-pin", "2025-11-25")]);
}

#[test]
fn fixture() {
    check(
        "fixture",
        &[
            ("raw", "2025-11-25"),
            ("raw", "2026-07-28"),
            ("ts2-auto", "2025-11-25"),
            ("py2", "2025-11-25"),
        ],
    );
}

/// The comparison itself, on wrappers with one planted defect each.
#[test]
fn planted_defects_are_seen() {
    if fixtures().is_none() {
        println!("SKIPPED: fidelity.defects: no fixtures, run `cargo xtask setup`");
        return;
    }
    let fixtures = fixtures().unwrap();
    for defect in [
        "none", "reorder", "number", "drop", "twice", "swap", "late", "exit",
    ] {
        let wrapper = format!("{} {defect} --", examples().join("crooked").display());
        let output = run(
            &fixtures,
            "defects",
            ("fixture", "raw", "2025-11-25"),
            Some(&wrapper),
        );
        let expected = i32::from(defect != "none");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(expected),
            "defect {defect}: {text}"
        );
    }
}
