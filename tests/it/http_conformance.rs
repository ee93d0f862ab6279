//! The public conformance suite against a server that cofferdam exposes, on stdio or on HTTP, in the cell or
//! elsewhere: every scenario that a revision requires passes. `tests/servers/conformance.mjs` offers what the scenarios want.

use crate::support::{free_port, installed, newer_node, which};
use crate::web::Site;
use crate::wire::{Wire, mark};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The suite, its Node.js, and the server; `None` where they are not installed.
fn tools() -> Option<(PathBuf, PathBuf)> {
    let modules = installed("conformance")?.join("node_modules");
    Some((modules, newer_node()?))
}

/// What the suite speaks to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A stdio server behind our listener.
    Stdio,
    /// Another of ours in front of that: HTTP to HTTP.
    Http,
    /// A server in the cell that speaks HTTP itself.
    Inside,
}

/// Runs one suite: the scenarios that passed, all of which have to.
fn run(way: Way, suite: &str, words: &[&str]) -> Vec<String> {
    let Some((modules, node)) = tools() else {
        println!("SKIPPED: http.conformance: no fixtures, run `cargo xtask setup`");
        return Vec::new();
    };
    let mark = mark();
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/conformance.mjs");
    let server = server.to_str().unwrap();
    let node20 = which("node");
    let config = "[listen]\nhttp = \"127.0.0.1:0\"\n";
    let rig = crate::rig::Rig::new().file("c.toml", config);
    let mut flags = vec![
        "--config",
        "{dir}/c.toml",
        "--preset",
        "node",
        "--read",
        server,
    ];
    let port = free_port();
    let (url, http) = (
        format!("http://127.0.0.1:{port}/mcp"),
        format!("http={port}"),
    );
    let mut command = vec![node20.to_str().unwrap(), server, &mark];
    if way == Way::Inside {
        flags.extend(["--url", &url]);
        command.push(&http);
    }
    let wire = Wire::start(rig, &mark, &flags, &command);
    let there = Site::around(wire);
    let front = (way == Way::Http).then(|| {
        let url = format!("http://{}/mcp", there.address);
        let name = crate::wire::mark();
        let flags = ["--url", &url, "--name", &name, "--listen", "127.0.0.1:0"];
        Site::listening(Wire::start(crate::rig::Rig::new(), &name, &flags, &[]))
    });
    let site = front.as_ref().unwrap_or(&there);
    let output = Command::new(node)
        .arg(modules.join(suite).join("dist/index.js"))
        .args(["server", "--url", &format!("http://{}/mcp", site.address)])
        .args(words)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = text.split("=== SUMMARY ===").nth(1).unwrap_or_else(|| {
        panic!(
            "no summary: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    println!("{summary}");
    assert!(
        output.status.success(),
        "{suite} {words:?}: {summary}\n{}",
        site.wire.stderr()
    );
    let passed = summary
        .lines()
        .filter_map(|line| line.strip_prefix("\u{2713} "));
    passed
        .map(|line| line.split(':').next().unwrap().to_owned())
        .collect()
}

#[test]
fn all_that_2026_07_28_requires() {
    let passed = run(Way::Stdio, "suite-0.2", &["--requirements", "2026-07-28"]);
    if tools().is_some() {
        // The 37 that are required, and three that are not.
        assert!(passed.len() >= 40, "{}: {passed:?}", passed.len());
        for pending in [
            "http-header-validation",
            "http-custom-header-server-validation",
        ] {
            assert!(passed.iter().any(|name| name == pending), "{pending}");
        }
    }
}

#[test]
fn all_that_2025_11_25_requires() {
    let passed = run(Way::Stdio, "suite-0.2", &["--requirements", "2025-11-25"]);
    if tools().is_some() {
        assert!(passed.len() >= 33, "{}: {passed:?}", passed.len());
        for pending in ["server-session-lifecycle", "server-sse-polling"] {
            assert!(passed.iter().any(|name| name == pending), "{pending}");
        }
    }
}

#[test]
fn all_that_is_required_through_two() {
    let modern = run(Way::Http, "suite-0.2", &["--requirements", "2026-07-28"]);
    let legacy = run(Way::Http, "suite-0.2", &["--requirements", "2025-11-25"]);
    if tools().is_some() {
        assert!(modern.len() >= 40, "{}: {modern:?}", modern.len());
        assert!(legacy.len() >= 33, "{}: {legacy:?}", legacy.len());
    }
}

#[test]
fn all_that_is_required_of_a_server_on_http_in_the_cell() {
    let modern = run(Way::Inside, "suite-0.2", &["--requirements", "2026-07-28"]);
    let legacy = run(Way::Inside, "suite-0.2", &["--requirements", "2025-11-25"]);
    if tools().is_some() {
        assert!(modern.len() >= 40, "{}: {modern:?}", modern.len());
        assert!(legacy.len() >= 33, "{}: {legacy:?}", legacy.len());
    }
}

#[test]
fn all_that_the_published_suite_has() {
    let passed = run(Way::Stdio, "suite-0.1", &[]);
    if tools().is_some() {
        assert!(passed.len() >= 30, "{}: {passed:?}", passed.len());
    }
}

/// Runs a scenario that tests a client: an SDK alone, or one on stdio with this program before it.
fn client(version: &str, scenario: &str, through: &[&str]) -> Option<bool> {
    let (modules, node) = tools()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/client.mjs");
    let node = node.to_str().unwrap();
    let command = [&[node, script.to_str().unwrap()], through]
        .concat()
        .join(" ");
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(node)
        .arg(modules.join("suite-0.2/dist/index.js"))
        .args(["client", "--spec-version", version, "--scenario", scenario])
        .args(["--timeout", "20000"])
        .args(["--command", &command])
        .env("HOME", home.path())
        .env("SDK", modules.join("@modelcontextprotocol/sdk"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    if !output.status.success() {
        println!("{scenario} through {through:?}: {text}");
    }
    Some(output.status.success() && text.contains("OVERALL: PASSED"))
}

#[test]
fn the_scenarios_for_clients_pass_as_they_do_without_us() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    // One of the scenarios calls a tool with a null that its schema does not allow.
    std::fs::write(&config, "[schema]\narguments = \"off\"\n").unwrap();
    let bin = env!("CARGO_BIN_EXE_cofferdam");
    let file = config.to_str().unwrap();
    let through = [bin, "run", "--quiet", "--config", file, "--url", "{url}"];
    let legacy = [
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
    ];
    for scenario in legacy {
        let Some(alone) = client("2025-11-25", scenario, &[]) else {
            println!("SKIPPED: http.conformance: no fixtures, run `cargo xtask setup`");
            return;
        };
        let passed = client("2025-11-25", scenario, &through).unwrap();
        assert!(
            alone && passed,
            "{scenario}: {alone} alone, {passed} through us"
        );
    }
    let modern = [
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    ];
    for scenario in modern {
        assert_eq!(
            client("2026-07-28", scenario, &through),
            Some(true),
            "{scenario}"
        );
    }
    // A program that says nothing fails them.
    assert_eq!(
        client("2026-07-28", "http-standard-headers", &["true"]),
        Some(false)
    );
}

#[test]
fn the_suite_sees_what_is_missing() {
    let Some((modules, node)) = tools() else {
        println!("SKIPPED: http.conformance: no fixtures, run `cargo xtask setup`");
        return;
    };
    // A server without any of the tools: the judge must say no.
    let site = Site::hostile(&[], &[]);
    let output = Command::new(node)
        .arg(modules.join("suite-0.2/dist/index.js"))
        .args(["server", "--url", &format!("http://{}/mcp", site.address)])
        .args([
            "--scenario",
            "tools-call-simple-text",
            "--spec-version",
            "2025-11-25",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
}
