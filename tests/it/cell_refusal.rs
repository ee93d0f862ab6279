//! A layer that the kernel cannot enforce stops the start, unless the operator listed it.

use crate::support::skip;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// cofferdam on a kernel that seems to have no landlock; `None` without Python.
fn without_landlock(args: &[&str]) -> Option<Output> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/refusing.py");
    let output = Command::new("python3")
        .args([&script, Path::new("landlock_create_ruleset")])
        .arg(env!("CARGO_BIN_EXE_cofferdam"))
        .args(args)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            skip("cell.runtime.python3", &error.to_string());
            None
        }
    }
}

#[test]
fn without_landlock_nothing_starts() {
    for command in ["run", "exec"] {
        let args = [command, "--", "/bin/echo", "started"];
        let Some(output) = without_landlock(&args) else {
            return;
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(77), "{command}: {stderr}");
        assert!(stderr.contains("landlock cannot be enforced"), "{stderr}");
        assert!(output.stdout.is_empty(), "{command}: it ran");
    }
}

#[test]
fn what_the_operator_listed_may_be_missing_and_is_named() {
    let mut args = vec!["exec", "--verbose"];
    for layer in ["landlock", "landlock-net", "landlock-scopes"] {
        args.extend(["--optional", layer]);
    }
    args.extend(["--", "/bin/echo", "started"]);
    let Some(output) = without_landlock(&args) else {
        return;
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(output.stdout, b"started\n");
    for layer in ["landlock", "landlock-net", "landlock-scopes"] {
        assert!(
            stderr.contains(&format!("{layer} MISSING")),
            "{layer}: {stderr}"
        );
    }
}

#[test]
fn doctor_says_so_with_the_same_exit_code() {
    let Some(output) = without_landlock(&["doctor"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(77));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--optional landlock"));
}
