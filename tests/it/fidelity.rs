//! Through cofferdam a session is the session: real servers, real SDK clients, every era, both cells
//! (with namespaces, and the floor with its supervisor), compared byte for byte with the direct run;
//! and the cell refuses nothing in it but what `tests/fidelity/harmless.json` names with a reason.
//!
//! The quick set takes every server in both cells, and every client and every era once;
//! `COFFERDAM_FULL=1` takes their whole product. `COFFERDAM_WRAPPER='CMD ARGS'` judges another wrapper. The sessions
//! themselves are in `tests/fidelity/`; they need what `cargo xtask setup` installs.

use crate::support::{namespaces_work, skip};
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

/// One place in the matrix.
#[derive(Clone, Copy)]
struct Case<'a> {
    server: &'a str,
    /// An SDK, or `raw` for the driver that speaks any era.
    client: &'a str,
    era: &'a str,
    /// `a`: with namespaces. `b`: the floor. `any`: what the machine has.
    tier: &'a str,
    /// Whether strace looks on, and what the kernel refuses counts too.
    traced: bool,
}

/// The places of a server: of the whole matrix, or of the quick set.
fn cases<'a>(server: &'a str, quick: &[(&'a str, &'a str)]) -> Vec<Case<'a>> {
    let full = crate::support::full();
    let mut sessions: Vec<(&str, &str)> = quick.to_vec();
    if full {
        sessions = ERAS.map(|era| ("raw", era)).to_vec();
        for client in CLIENTS {
            if !(client.ends_with("-pin") && LEGACY_ONLY.contains(&server)) {
                sessions.push((client, "2025-11-25"));
            }
        }
    }
    let case = |tier, (client, era), traced| Case {
        server,
        client,
        era,
        tier,
        traced,
    };
    let mut cases = Vec::new();
    if namespaces_work() {
        cases.extend(sessions.iter().map(|session| case("a", *session, false)));
    }
    // Another session than the first with namespaces: two of them show more than one twice.
    let floor = match full {
        true => &sessions[..],
        false => &sessions[sessions.len() - 1..],
    };
    cases.extend(floor.iter().map(|session| case("b", *session, false)));
    if !strace_works() {
        skip("fidelity.strace", "no strace, or it may trace nobody");
        return cases;
    }
    let tiers = match full && namespaces_work() {
        true => &["a", "b"][..],
        false => &["b"],
    };
    cases.extend(tiers.iter().map(|tier| case(*tier, sessions[0], true)));
    cases
}

fn strace_works() -> bool {
    let tried = Command::new("strace")
        .args(["-qq", "--pidns-translation", "-o", "/dev/null", "true"])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

fn check(server: &str, quick: &[(&str, &str)]) {
    let Some(fixtures) = fixtures() else {
        println!("SKIPPED: fidelity.{server}: no fixtures, run `cargo xtask setup`");
        return;
    };
    let wrapper = std::env::var("COFFERDAM_WRAPPER").ok();
    let mut failed = Vec::new();
    for case in cases(server, quick) {
        let output = run(&fixtures, "cells", case, wrapper.as_deref());
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let Case {
                client, era, tier, ..
            } = case;
            failed.push(format!("{client} {era} in tier {tier}"));
        }
    }
    assert!(
        failed.is_empty(),
        "{server}: not the direct session: {failed:?}"
    );
}

/// `work` keeps cells that run at once out of each other's directories.
fn run(fixtures: &Path, work: &str, case: Case<'_>, wrapper: Option<&str>) -> Output {
    let Case {
        server,
        client,
        era,
        tier,
        traced,
    } = case;
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
    command.args(["--tier", tier]);
    if traced {
        command.arg("--traced");
    }
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

pub(crate) fn fixtures() -> Option<PathBuf> {
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

/// Where defects are planted.
const PLANTED: Case<'_> = Case {
    server: "fixture",
    client: "raw",
    era: "2025-11-25",
    tier: "any",
    traced: false,
};

/// A server that swallows what was refused to it: the session is the same, and the judge sees it.
#[test]
fn planted_denials_are_seen() {
    let Some(fixtures) = fixtures() else {
        println!("SKIPPED: fidelity.defects: no fixtures, run `cargo xtask setup`");
        return;
    };
    for traced in [false, true] {
        if traced && !strace_works() {
            skip("fidelity.strace", "no strace, or it may trace nobody");
            continue;
        }
        let case = Case {
            server: "nosy",
            tier: "b",
            traced,
            ..PLANTED
        };
        let output = run(&fixtures, "denials", case, None);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("denied: change the mode of /"), "{text}");
        let seen = text.contains("chmod(\"") && text.contains("-1 EPERM");
        assert_eq!(seen, traced, "{text}");
    }
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
        let output = run(&fixtures, "defects", PLANTED, Some(&wrapper));
        let expected = i32::from(defect != "none");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(expected),
            "defect {defect}: {text}"
        );
    }
}
