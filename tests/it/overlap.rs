//! Replacement without a pause: the next server is ready before the one that serves is drained.

use crate::rig::Rig;
use crate::wire::{Wire, eventually, refused_by, said};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the fake server takes to start.
const SLOW: u64 = 700;

fn start(server: &[&str]) -> Wire {
    let rig = Rig::new().file(
        "c.toml",
        "[server]\nname = \"it\"\nreplace = \"overlap\"\n[credentials.t]\nfile = \"token\"\ninject = { env = \"TOKEN\" }\n",
    );
    std::fs::write(rig.path().join("token"), "tok-0-Zq7vLm2Xw9").unwrap();
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--admin",
        "unix:{dir}/admin.sock",
    ];
    let mut wire = Wire::mortal(rig, &flags, server);
    wire.greet(&json!({}));
    wire
}

fn notes(wire: &Wire, name: &str) -> PathBuf {
    wire.path().join("notes").join(name)
}

fn rotate(wire: &Wire, round: u32) {
    let new = wire.path().join("new");
    std::fs::write(&new, format!("tok-{round}-Zq7vLm2Xw9")).unwrap();
    std::fs::rename(new, wire.path().join("token")).unwrap();
}

fn servers(wire: &Wire) -> usize {
    let all = crate::wire::processes(&wire.mark);
    let is_ours = |line: &str| {
        let program = line.split(' ').next();
        program.is_some_and(|it| it.ends_with("cofferdam"))
    };
    all.iter().filter(|(_, line)| !is_ours(line)).count()
}

#[test]
fn calls_go_on_while_the_next_server_starts_and_none_is_lost() {
    let mut wire = start(&[&format!("slow={SLOW}")]);
    let mut id = 0;
    for round in 1..=3 {
        rotate(&wire, round);
        let begun = Instant::now();
        let mut longest = Duration::ZERO;
        let mut beside = 0;
        let mut after = 0;
        while after < 5 {
            id += 1;
            let asked = Instant::now();
            let answer = wire.call(&id.to_string(), "work", &json!({"key": id}));
            longest = longest.max(asked.elapsed());
            assert_eq!(said(&answer), id.to_string(), "{answer}");
            beside = beside.max(servers(&wire));
            let replaced = wire.stderr().matches("the server was replaced").count();
            after += usize::from(replaced == round as usize);
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{}",
                wire.stderr()
            );
        }
        println!(
            "round {round}: {:?}, the longest call {longest:?}",
            begun.elapsed()
        );
        assert!(begun.elapsed() > Duration::from_millis(SLOW));
        assert!(longest < Duration::from_millis(SLOW) / 2, "{longest:?}");
        assert!(beside >= 2, "they were never there at the same time");
        assert!(eventually(|| servers(&wire) == 1), "the old one ends");
    }
    assert_eq!(wire.metric("cofferdam_child_replacements_total"), 3.0);
    assert_eq!(wire.metric("cofferdam_child_up"), 1.0);
    let ledger = std::fs::read_to_string(notes(&wire, "ledger")).unwrap();
    assert_eq!(ledger.lines().count(), id, "each call ran once");
    // Each was greeted in full, with the client's own words.
    let log = std::fs::read_to_string(notes(&wire, "log")).unwrap();
    for life in 1..=4 {
        let own: Vec<&str> = log
            .lines()
            .filter(|line| line.starts_with(&format!("{life}\t")))
            .collect();
        assert!(own[0].contains("\"clientInfo\""), "{own:?}");
        assert!(own[1].contains("notifications/initialized"), "{own:?}");
    }
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
    assert!(!over.text().contains("Zq7vLm2Xw9"));
}

#[test]
fn one_that_starts_before_the_client_is_greeted_is_greeted_too() {
    let rig = Rig::new().file(
        "c.toml",
        "[server]\nname = \"it\"\nreplace = \"overlap\"\n[credentials.t]\nfile = \"token\"\ninject = { env = \"TOKEN\" }\n",
    );
    std::fs::write(rig.path().join("token"), "tok-0-Zq7vLm2Xw9").unwrap();
    let slow = format!("slow={SLOW}");
    let mut wire = Wire::mortal(rig, &["--config", "{dir}/c.toml"], &[&slow]);
    wire.until_stderr(" runs as ");
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    wire.request("0", "initialize", &hello);
    rotate(&wire, 1);
    wire.until_stderr("the next server is ready after");
    assert_eq!(wire.answer("0")["result"]["serverInfo"]["name"], "mortal");
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    wire.until_stderr("the server was replaced within");
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    let ledger = std::fs::read_to_string(notes(&wire, "ledger")).unwrap();
    assert!(ledger.starts_with("2 "), "{ledger}");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn one_that_cannot_take_over_changes_nothing_and_is_tried_again() {
    let mut wire = start(&[]);
    std::fs::write(notes(&wire, "stillborn"), "1").unwrap();
    rotate(&wire, 1);
    wire.until_stderr("the next server is not taken, the one that serves goes on: it has ");
    // The next one can, and is tried at once.
    wire.until_stderr("the server was replaced within");
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");

    std::fs::write(
        notes(&wire, "offer.json"),
        r#"{"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "mortal"}}"#,
    )
    .unwrap();
    rotate(&wire, 2);
    wire.until_stderr("it speaks another protocol version");
    assert_eq!(said(&wire.call("2", "work", &json!({"key": 2}))), "2");
    wire.until_stderr("the server keeps what it was started with");
    let tries = wire.stderr().matches("another protocol version").count();
    assert_eq!(tries, 7, "{}", wire.stderr());
    assert!(eventually(|| servers(&wire) == 1));
    assert_eq!(wire.metric("cofferdam_child_replacements_total"), 1.0);
    let lives = |wire: &Wire| {
        let ledger = std::fs::read_to_string(notes(wire, "ledger")).unwrap();
        let lives = ledger.lines().filter_map(|line| line.chars().next());
        lives.collect::<String>()
    };
    assert_eq!(lives(&wire), "33", "the third one serves");

    std::fs::remove_file(notes(&wire, "offer.json")).unwrap();
    rotate(&wire, 3);
    assert!(eventually(|| {
        wire.metric("cofferdam_child_replacements_total") == 2.0
    }));
    assert_eq!(said(&wire.call("3", "work", &json!({"key": 3}))), "3");
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn what_is_open_is_answered_by_the_server_that_was_asked() {
    let mut wire = start(&[]);
    wire.begin("\"long\"", "ask", &json!({}));
    let question = wire.next().unwrap();
    assert_eq!(question["method"], "roots/list");
    rotate(&wire, 1);
    wire.until_stderr("the next server is ready after");
    // Both are there, and the old one still waits for its answer.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(servers(&wire), 2);
    wire.send(
        json!({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": [7]}}).to_string(),
    );
    let answer = wire.answer("\"long\"");
    assert!(said(&answer).contains("[7]"), "{answer}");
    wire.until_stderr("the server was replaced within");
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    let ledger = std::fs::read_to_string(notes(&wire, "ledger")).unwrap();
    let lives: Vec<&str> = ledger
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(lives, ["1", "2"]);
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn whatever_happens_meanwhile_leaves_one_server_or_none() {
    // The one that serves dies while the next one starts.
    let mut wire = start(&[&format!("slow={SLOW}")]);
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    rotate(&wire, 1);
    assert!(eventually(|| servers(&wire) == 2));
    wire.begin("2", "die", &json!({}));
    assert_eq!(wire.answer("2")["result"]["isError"], true);
    assert_eq!(said(&wire.call("3", "work", &json!({"key": 3}))), "3");
    assert!(eventually(|| servers(&wire) == 1));

    // It is rotated again before the next one is ready.
    rotate(&wire, 2);
    assert!(eventually(|| servers(&wire) == 2));
    rotate(&wire, 3);
    wire.until_stderr("another one is started in its place");
    wire.until_stderr("the server was replaced within");
    assert!(eventually(|| servers(&wire) == 1));
    assert_eq!(said(&wire.call("4", "work", &json!({"key": 4}))), "4");

    // It is switched off, and on.
    rotate(&wire, 4);
    assert!(eventually(|| servers(&wire) == 2));
    let kill = wire.rig().command(&["kill", "it"]).output().unwrap();
    assert!(kill.status.success());
    assert!(eventually(|| servers(&wire) == 0));
    refused_by(&wire.call("5", "work", &json!({"key": 5})), "switch.server");
    let resume = wire.rig().command(&["resume", "it"]).output().unwrap();
    assert!(resume.status.success());
    wire.until_stderr("switched on again");
    assert_eq!(said(&wire.call("6", "work", &json!({"key": 6}))), "6");

    // The client leaves while two are there.
    rotate(&wire, 5);
    assert!(eventually(|| servers(&wire) == 2));
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
}
