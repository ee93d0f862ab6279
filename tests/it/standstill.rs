//! Servers that stand still, by themselves or because somebody wants it so: what that costs, and what is
//! made of it.

use crate::rig::Rig;
use crate::web::{Site, post};
use crate::wire::{Wire, refused_by, said};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::time::{Duration, Instant};

/// Longer than a server may take to answer a ping.
const PATIENCE: Duration = Duration::from_millis(5500);

fn flags<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let own = [
        "--name",
        "it",
        "--timeout",
        "1s",
        "--admin",
        "unix:{dir}/admin.sock",
    ];
    [&own, more].concat()
}

fn start(config: &str) -> Wire {
    let rig = Rig::new().file("c.toml", config);
    let mut wire = Wire::mortal(rig, &flags(&["--config", "{dir}/c.toml"]), &[]);
    wire.greet(&json!({}));
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    wire
}

fn site() -> (Site, String) {
    let site = Site::around(Wire::mortal(
        Rig::new(),
        &flags(&["--listen", "127.0.0.1:0"]),
        &[],
    ));
    let session = site.initialize("2025-11-25");
    assert_eq!(said(&ask(&site, &session, "work")), "1");
    (site, session)
}

fn message(tool: &str) -> serde_json::Value {
    let params = json!({"name": tool, "arguments": {"key": 1}});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
}

fn ask(site: &Site, session: &str, tool: &str) -> serde_json::Value {
    let reply = site.post(session, &message(tool));
    assert_eq!(reply.status, 200, "{reply:?}; {}", site.wire.stderr());
    match reply.header("content-type") {
        Some("text/event-stream") => reply.events().pop().unwrap(),
        _ => reply.json(),
    }
}

fn operator(wire: &Wire, words: &[&str]) {
    let output = wire.rig().command(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn stop(wire: &Wire) {
    kill(Pid::from_raw(wire.server()), Signal::SIGSTOP).unwrap();
}

/// That the message process does next to nothing for a while.
fn is_idle(wire: &Wire) {
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", wire.pid())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields
            .skip(11)
            .take(2)
            .map(|it| it.parse::<u64>().unwrap())
            .sum()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    // Of a hundred in a second.
    let used = ticks() - before;
    assert!(used <= 5, "{used} ticks; {}", wire.stderr());
}

#[test]
fn one_that_may_not_be_followed_by_another_is_left_as_it_is() {
    let mut wire = start("[server]\nrestart = \"never\"\n");
    stop(&wire);
    refused_by(
        &wire.call("2", "work", &json!({"key": 2})),
        "limits.timeout",
    );
    std::thread::sleep(PATIENCE);
    is_idle(&wire);
    kill(Pid::from_raw(wire.server()), Signal::SIGCONT).unwrap();
    assert_eq!(said(&wire.call("3", "work", &json!({"key": 3}))), "3");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn one_that_is_switched_off_leaves_nothing_to_wait_for() {
    let mut wire = start("");
    let (site, session) = site();
    stop(&wire);
    stop(&site.wire);
    refused_by(
        &wire.call("2", "work", &json!({"key": 2})),
        "limits.timeout",
    );
    refused_by(&ask(&site, &session, "work"), "limits.timeout");
    operator(&wire, &["kill", "it"]);
    operator(&site.wire, &["kill", "it"]);
    std::thread::sleep(PATIENCE);
    is_idle(&wire);
    is_idle(&site.wire);
    refused_by(&wire.call("3", "work", &json!({"key": 3})), "switch.server");
    refused_by(&ask(&site, &session, "work"), "switch.server");
}

#[test]
fn one_behind_the_listener_is_killed_once() {
    let (site, session) = site();
    stop(&site.wire);
    refused_by(&ask(&site, &session, "work"), "limits.timeout");
    site.wire.until_stderr("not even to a ping");
    site.wire.until_stderr("the server has ended");
    assert_eq!(said(&ask(&site, &session, "work")), "1");
    let said = site.wire.stderr();
    assert_eq!(said.matches("it is killed").count(), 1, "{said}");
}

#[test]
fn one_that_is_frozen_is_not_taken_for_one_that_has_stopped() {
    let mut wire = start("");
    wire.begin("2", "hang", &json!({}));
    operator(&wire, &["freeze", "it"]);
    refused_by(&wire.answer("2"), "limits.timeout");
    std::thread::sleep(PATIENCE);
    is_idle(&wire);
    operator(&wire, &["resume", "it"]);
    wire.until_stderr("the server goes on");
    assert_eq!(said(&wire.call("3", "work", &json!({"key": 3}))), "3");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(said(&wire.call("4", "work", &json!({"key": 4}))), "4");
    assert!(!wire.stderr().contains("it is killed"), "{}", wire.stderr());
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn those_behind_the_listener_are_frozen_until_they_go_on() {
    let (site, session) = site();
    let mut hangs = site.connect();
    hangs.send(post(
        &message("hang"),
        &format!("Mcp-Session-Id: {session}\r\n"),
    ));
    std::thread::sleep(Duration::from_millis(200));
    operator(&site.wire, &["freeze", "it"]);
    let phase = || site.wire.admin("/health");
    assert!(phase().contains("frozen"), "{}", phase());
    operator(&site.wire, &["kill", "it", "--tool", "file"]);
    site.wire.until_stderr("what is switched off: 1 tools");
    assert!(phase().contains("frozen"), "{}", phase());
    let ready = site.wire.admin("/health/ready");
    assert!(ready.contains(" 503 "), "{ready}");
    refused_by(&hangs.reply().json(), "limits.timeout");
    std::thread::sleep(PATIENCE);
    is_idle(&site.wire);
    operator(&site.wire, &["resume", "it"]);
    site.wire.until_stderr("the servers go on");
    assert!(phase().contains("serving"), "{}", phase());
    assert_eq!(said(&ask(&site, &session, "work")), "1");
    let said = site.wire.stderr();
    assert!(!said.contains("it is killed"), "{said}");
}

#[test]
fn a_crash_behind_the_listener_is_told_at_once() {
    let (site, session) = site();
    let told = (0..5).map(|_| {
        let begun = Instant::now();
        refused_by(&ask(&site, &session, "die"), "server.gone");
        let took = begun.elapsed();
        assert_eq!(said(&ask(&site, &session, "work")), "1");
        took
    });
    let fastest = told.min().unwrap();
    println!("{fastest:?}");
    assert!(fastest < Duration::from_millis(250), "{fastest:?}");
}
