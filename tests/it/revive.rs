//! A server that dies is replaced, and its client does not notice more than it must.

use crate::rig::Rig;
use crate::wire::{Wire, refused_by, rule, said};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A session with a greeted server that may write its notes.
fn session(rig: Rig, flags: &[&str]) -> Wire {
    let mut wire = Wire::mortal(rig, flags, &[]);
    wire.greet(&json!({"roots": {}}));
    wire
}

fn works(wire: &mut Wire, id: u32) {
    let answer = wire.call(&id.to_string(), "work", &json!({ "key": id }));
    assert_eq!(said(&answer), id.to_string(), "{answer}");
}

fn notes(wire: &Wire, name: &str) -> String {
    std::fs::read_to_string(wire.path().join("notes").join(name)).unwrap_or_default()
}

#[test]
fn the_session_goes_on_after_every_end_and_the_next_server_knows_what_the_last_one_knew() {
    let mut wire = session(Rig::new(), &[]);
    assert!(wire.ask("1", "logging/setLevel", &json!({"level": "debug"}))["result"].is_object());
    for uri in ["file:///a", "file:///b"] {
        wire.ask("2", "resources/subscribe", &json!({ "uri": uri }));
    }
    wire.ask("3", "resources/unsubscribe", &json!({"uri": "file:///a"}));
    let ends = [
        ("die", json!({"signal": 9})),
        ("die", json!({"signal": 6})),
        ("exit", json!({"code": 0})),
        ("exit", json!({"code": 3})),
    ];
    for (at, (tool, arguments)) in ends.iter().enumerate() {
        let id = 10 * (u32::try_from(at).unwrap() + 1);
        works(&mut wire, id);
        let answer = wire.call(&(id + 1).to_string(), tool, arguments);
        refused_by(&answer, "server.gone");
        assert!(said(&answer).contains("outcome is unknown"), "{answer}");
        works(&mut wire, id + 2);
    }
    assert_eq!(notes(&wire, "lives"), "5");
    let log = notes(&wire, "log");
    for life in 2..=5 {
        let begin = format!("{life}\t");
        let methods: Vec<String> = log
            .lines()
            .filter_map(|line| line.strip_prefix(&begin))
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|message| message["method"].as_str().unwrap_or_default().to_owned())
            // Which tools it has cofferdam asks itself.
            .filter(|method| method != "tools/list")
            .collect();
        let expected = [
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "resources/subscribe",
            "tools/call",
        ];
        assert_eq!(methods[..5], expected, "life {life}");
    }
    assert!(wire.others().is_empty(), "the client heard of none of it");
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn what_may_run_twice_is_asked_again_and_the_rest_is_not() {
    let text = "[tools.gaze]\neffect = \"read\"\n[tools.look]\nidempotent = true\n";
    let rig = Rig::new().file("c.toml", text);
    let mut wire = session(rig, &["--config", "{dir}/c.toml"]);
    wire.begin("1", "gaze", &json!({"key": 1}));
    wire.begin("2", "hang", &json!({"key": 2}));
    wire.begin("3", "die", &json!({}));
    refused_by(&wire.answer("2"), "server.gone");
    refused_by(&wire.answer("3"), "server.gone");
    assert_eq!(said(&wire.answer("1")), "in life 2");
    let ledger = notes(&wire, "ledger");
    assert_eq!(ledger.matches("\"gaze\"").count(), 2, "{ledger}");
    assert_eq!(ledger.matches("\"hang\"").count(), 1, "{ledger}");
    assert_eq!(ledger.matches("\"die\"").count(), 1, "{ledger}");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn what_a_stopped_server_has_not_read_is_read_by_the_next_and_nothing_runs_twice() {
    let mut wire = session(Rig::new(), &[]);
    works(&mut wire, 1);
    let server = wire.server();
    let signal =
        |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), signal).unwrap();
    signal(nix::sys::signal::Signal::SIGSTOP);
    let filler = "x".repeat(50_000);
    let ids: Vec<u32> = (100..180).collect();
    let lines: Vec<String> = ids
        .iter()
        .map(|id| {
            let params = json!({"name": "work", "arguments": {"key": id, "filler": filler}});
            json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
                .to_string()
        })
        .collect();
    let mut input = wire.take_input();
    // More than all pipes and buffers hold: it goes on when somebody reads again.
    let writer = std::thread::spawn(move || {
        for line in lines {
            std::io::Write::write_all(&mut input, format!("{line}\n").as_bytes()).unwrap();
        }
        input
    });
    std::thread::sleep(Duration::from_millis(200));
    signal(nix::sys::signal::Signal::SIGKILL);
    let (mut lost, mut done) = (0, 0);
    for id in &ids {
        let answer = wire.answer(&id.to_string());
        match rule(&answer) {
            "" => {
                assert_eq!(said(&answer), id.to_string());
                done += 1;
            }
            other => {
                assert_eq!(other, "server.gone");
                lost += 1;
            }
        }
    }
    assert!(
        done >= 5 && lost >= 1,
        "{done} done, {lost} of unknown outcome"
    );
    let ledger = notes(&wire, "ledger");
    for id in &ids {
        assert!(
            ledger
                .lines()
                .filter(|line| line.ends_with(&format!(" {id}")))
                .count()
                <= 1
        );
    }
    drop(writer.join().unwrap());
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_crash_loop_is_parked_and_answered() {
    let mut wire = session(Rig::new(), &[]);
    works(&mut wire, 1);
    std::fs::write(wire.path().join("notes/stillborn"), "100").unwrap();
    refused_by(&wire.call("2", "die", &json!({})), "server.gone");
    let begun = Instant::now();
    let answer = loop {
        let answer = wire.call("3", "work", &json!({"key": 3}));
        refused_by(&answer, "server.unavailable");
        if wire.stderr().contains("left alone") {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(said(&answer).contains("ask again in"), "{answer}");
    let error = wire.ask("4", "resources/list", &json!({}));
    assert!(
        error["error"]["data"]["retryAfterMs"].as_u64().unwrap() >= 1000,
        "{error}"
    );
    let lives: u32 = notes(&wire, "lives").parse().unwrap();
    assert!((5..=8).contains(&lives), "{lives} starts");
    let over = wire.finish();
    assert_eq!(over.code, 5, "the server's own: {}", over.text());
}

#[test]
fn a_server_that_starts_badly_and_then_well_is_no_loop() {
    let mut wire = session(Rig::new(), &[]);
    works(&mut wire, 1);
    std::fs::write(wire.path().join("notes/stillborn"), "3").unwrap();
    refused_by(&wire.call("2", "die", &json!({})), "server.gone");
    works(&mut wire, 3);
    assert_eq!(notes(&wire, "lives"), "5");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn another_server_in_its_place_is_announced_or_ends_the_session() {
    let offer = |version: &str, capabilities: Value, name: &str| {
        json!({"protocolVersion": version, "capabilities": capabilities, "serverInfo": {"name": name, "version": "1"}}).to_string()
    };
    let all =
        json!({"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}});
    let mut wire = session(Rig::new(), &[]);
    works(&mut wire, 1);
    std::fs::write(
        wire.path().join("notes/offer.json"),
        offer("2025-11-25", all.clone(), "other"),
    )
    .unwrap();
    refused_by(&wire.call("2", "die", &json!({})), "server.gone");
    works(&mut wire, 3);
    let others = wire.others();
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(others[0]["method"], "notifications/tools/list_changed");
    drop(wire);

    for (changed, why) in [
        (
            offer("2025-06-18", all, "mortal"),
            "another protocol version",
        ),
        (
            offer("2025-11-25", json!({"tools": {}}), "mortal"),
            "does not offer",
        ),
    ] {
        let mut wire = session(Rig::new(), &[]);
        works(&mut wire, 1);
        std::fs::write(wire.path().join("notes/offer.json"), changed).unwrap();
        refused_by(&wire.call("2", "die", &json!({})), "server.gone");
        wire.begin("3", "work", &json!({"key": 3}));
        assert!(!rule(&wire.answer("3")).is_empty());
        let over = wire.wait();
        assert_eq!(over.code, 75, "{}", over.text());
        assert!(over.text().contains(why), "{}", over.text());
    }
}

#[test]
fn an_answer_to_the_dead_is_not_taken_for_one_to_the_living() {
    let mut wire = session(Rig::new(), &[]);
    wire.begin("1", "ask", &json!({}));
    let first = wire.next().unwrap();
    assert_eq!(
        (&first["method"], &first["id"]),
        (&json!("roots/list"), &json!(0))
    );
    wire.begin("2", "die", &json!({}));
    refused_by(&wire.answer("1"), "server.gone");
    refused_by(&wire.answer("2"), "server.gone");
    wire.begin("3", "ask", &json!({}));
    let second = loop {
        let message = wire.next().unwrap();
        if message["method"] == "roots/list" {
            break message;
        }
        assert_eq!(message["method"], "notifications/cancelled");
    };
    assert_ne!(second["id"], json!(0), "the old question is still open");
    wire.send(r#"{"jsonrpc":"2.0","id":0,"result":"old"}"#);
    wire.send(json!({"jsonrpc": "2.0", "id": second["id"], "result": "new"}).to_string());
    assert_eq!(said(&wire.answer("3")), "\"new\"");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn fifty_deaths_leave_nothing_open_and_cost_little_time() {
    let mut wire = session(Rig::new(), &[]);
    works(&mut wire, 1);
    let open = |wire: &Wire| {
        std::fs::read_dir(format!("/proc/{}/fd", wire.pid()))
            .unwrap()
            .count()
    };
    let before = open(&wire);
    let mut longest = Duration::ZERO;
    for id in 0..50 {
        refused_by(&wire.call("\"die\"", "die", &json!({})), "server.gone");
        let begun = Instant::now();
        works(&mut wire, 1000 + id);
        longest = longest.max(begun.elapsed());
    }
    assert!(
        open(&wire) <= before + 1,
        "{before} before, {} now",
        open(&wire)
    );
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    println!("the longest blackout of 50: {longest:?}");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_modern_session_needs_no_handshake() {
    let mut wire = Wire::mortal(Rig::new(), &[], &[]);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let call =
        |name: &str, key: u32| json!({"name": name, "arguments": {"key": key}, "_meta": meta});
    assert_eq!(said(&wire.ask("1", "tools/call", &call("work", 7))), "7");
    refused_by(&wire.ask("2", "tools/call", &call("die", 0)), "server.gone");
    assert_eq!(said(&wire.ask("3", "tools/call", &call("work", 8))), "8");
    assert!(!notes(&wire, "log").contains("initialize"));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_server_that_stands_still_is_killed_and_replaced_and_one_that_is_only_slow_is_not() {
    let mut wire = session(Rig::new(), &["--timeout", "1s"]);
    works(&mut wire, 1);
    // Slow at one thing: it says nothing of that call, and answers the ping.
    refused_by(&wire.call("2", "hang", &json!({})), "limits.timeout");
    std::thread::sleep(Duration::from_secs(6));
    works(&mut wire, 3);
    assert_eq!(notes(&wire, "lives"), "1");

    let server = nix::unistd::Pid::from_raw(wire.server());
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGSTOP).unwrap();
    refused_by(
        &wire.call("4", "work", &json!({"key": 4})),
        "limits.timeout",
    );
    let begun = Instant::now();
    wire.until_stderr("not even to a ping");
    wire.until_stderr("the server has ended");
    works(&mut wire, 5);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(notes(&wire, "lives"), "2");
    assert_eq!(wire.finish().code, 0);
}
