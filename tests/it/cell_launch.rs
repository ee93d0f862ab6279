//! How a launch fails: one message, one code, and the server never ran.

use crate::support::{cofferdam, enter, planned, run};
use cofferdam::cell::{CellSpec, LaunchMessage, Layer, LayerState};
use cofferdam::config::Cell;
use std::path::Path;
use std::process::Command;

fn refused(spec: &CellSpec) -> (u8, String) {
    let ended = enter(spec);
    assert_eq!(ended.stdout, "", "the server ran");
    let Some(LaunchMessage::Failed(failure)) = ended.messages.last() else {
        panic!("no failure: {ended:?}");
    };
    assert_eq!(ended.code, Some(i32::from(failure.code)));
    (failure.code, failure.text.clone())
}

fn plain(tmp: &Path) -> CellSpec {
    planned(&Cell::default(), &["echo", "hello"], tmp)
}

#[test]
fn a_plain_program_runs_and_every_layer_is_reported() {
    let ended = run(&Cell::default(), &["echo", "hello"]);
    assert_eq!(
        (ended.stdout.as_str(), ended.code),
        ("hello\n", Some(0)),
        "{ended:?}"
    );
    let [LaunchMessage::Entered(report)] = ended.messages.as_slice() else {
        panic!("{:?}", ended.messages)
    };
    let mut layers: Vec<Layer> = report.layers.iter().map(|(layer, _)| *layer).collect();
    layers.sort_by_key(|layer| layer.name());
    // No spawner tried to make a cgroup, and in namespaces nothing needs a supervisor.
    let mut all: Vec<Layer> = Layer::ALL
        .into_iter()
        .filter(|layer| !matches!(layer, Layer::Cgroup | Layer::Supervision))
        .collect();
    all.sort_by_key(|layer| layer.name());
    assert_eq!(layers, all);
    assert!(
        report
            .layers
            .iter()
            .all(|(_, state)| *state == LayerState::Enforced)
    );
}

#[test]
fn the_kernel_agrees_with_the_report() {
    let ended = run(
        &Cell::default(),
        &["cat", "/proc/self/status", "/proc/self/limits"],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let words = |key: &str| {
        let line = ended.stdout.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    let zero = "0000000000000000";
    for (key, value) in [
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("CapEff:", zero),
        ("CapPrm:", zero),
        ("CapInh:", zero),
        ("CapAmb:", zero),
        ("SigBlk:", zero),
        ("Threads:", "1"),
    ] {
        assert_eq!(words(key), [value], "{key}");
    }
    // What the host ignores stays ignored; SIGPIPE, which the Rust runtime ignores, does not.
    let ignored = u64::from_str_radix(words("SigIgn:")[0], 16).unwrap();
    assert_eq!(ignored & (1 << (libc::SIGPIPE - 1)), 0);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(words("CapBnd:"), [zero]);
    }
    assert_eq!(words("Max core file size")[..2], ["0", "0"]);
    assert_eq!(words("Max open files")[..2], ["1024", "1024"]);
}

#[test]
fn what_cannot_be_executed_has_the_code_of_a_shell() {
    let tmp = tempfile::tempdir().unwrap();
    let missing = CellSpec {
        program: "/usr/bin/no-such-program".into(),
        ..plain(tmp.path())
    };
    let (code, text) = refused(&missing);
    assert_eq!(code, 127);
    assert!(text.contains("no-such-program"), "{text}");
    let spec = plain(tmp.path());
    let ungranted = CellSpec {
        program: "/bin/sh".into(),
        namespaces: false,
        ..spec
    };
    assert_eq!(refused(&ungranted).0, 126);
    // In a file tree of the cell's own it is not there.
    let other = tempfile::tempdir().unwrap();
    let absent = CellSpec {
        program: "/bin/sh".into(),
        ..plain(other.path())
    };
    if crate::support::namespaces_work() {
        assert_eq!(refused(&absent).0, 127);
    }
}

#[test]
fn a_cell_that_does_not_hold_is_not_entered() {
    let tmp = tempfile::tempdir().unwrap();
    let mut spec = plain(tmp.path());
    spec.read.push(tmp.path().to_owned());
    let (code, text) = refused(&spec);
    assert_eq!(code, 77);
    assert!(text.contains("canary"), "{text}");
}

#[test]
fn a_launcher_whose_parent_is_gone_does_not_start_the_server() {
    let tmp = tempfile::tempdir().unwrap();
    let orphan = CellSpec {
        parent: 1,
        ..plain(tmp.path())
    };
    let (code, text) = refused(&orphan);
    assert_eq!(code, 70);
    assert!(text.contains("died"), "{text}");
}

#[test]
fn bad_specs_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let mut spec = plain(tmp.path());
    spec.read.push("/no/such/directory".into());
    let (code, text) = refused(&spec);
    assert_eq!(code, 78);
    assert!(text.contains("/no/such/directory"), "{text}");

    let spec = CellSpec {
        cwd: "/no/such/directory".into(),
        ..plain(tmp.path())
    };
    assert_eq!(refused(&spec).0, 78);
    let spec = CellSpec {
        env: vec![("A=B".into(), "x".into())],
        ..plain(tmp.path())
    };
    assert_eq!(refused(&spec).0, 78);
}

#[test]
fn a_human_who_calls_the_launcher_is_told_so() {
    for args in [
        &["__cell"][..],
        &["__cell", "0", "1"],
        &["__cell", "7000", "7001"],
    ] {
        let output = Command::new(cofferdam()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(70), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("started by cofferdam itself"));
    }
}
