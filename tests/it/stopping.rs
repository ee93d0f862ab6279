//! What a signal and an edited file do to what runs: an end in order, another configuration.

use crate::rig::Rig;
use crate::web::{Site, modern};
use crate::wire::{Wire, eventually, refused_by, rule, said};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ADMIN: [&str; 2] = ["--admin", "unix:{dir}/admin.sock"];

#[test]
fn a_signal_waits_for_what_is_open_and_refuses_what_is_new() {
    let mut wire = Wire::hostile(&[], &[]);
    wire.alive();
    for id in 1..=50 {
        wire.begin(&id.to_string(), "late", &json!({"ms": 700}));
    }
    wire.alive();
    let begun = Instant::now();
    wire.terminate();
    wire.until_stderr("draining: nothing new is begun; 50 requests are open");
    let refused = wire.call("51", "echo", &json!({"text": "?"}));
    refused_by(&refused, "server.unavailable");
    for id in 1..=50 {
        assert_eq!(said(&wire.answer(&id.to_string())), "late");
    }
    let over = wire.wait();
    assert_eq!(over.code, 0, "{}", over.text());
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_second_signal_ends_at_once_and_one_is_enough_when_nobody_can_wait() {
    // Nothing is open; the client has closed its end; nothing answers: twice.
    for (open, closed, signals) in [(false, false, 1), (true, true, 1), (true, false, 2)] {
        let mut wire = Wire::hostile(&[], &[]);
        wire.alive();
        if open {
            wire.begin("1", "hang", &json!({}));
            wire.alive();
        }
        if closed {
            wire.close_input();
        }
        if signals == 2 {
            wire.terminate();
            wire.until_stderr("draining: nothing new is begun; 1 requests are open");
            std::thread::sleep(Duration::from_millis(600));
            wire.alive_is_refused();
        }
        let begun = Instant::now();
        wire.terminate();
        if open {
            assert_eq!(wire.answer("1")["result"]["isError"], true);
        }
        let over = wire.wait();
        assert_eq!(over.code, 0, "{}", over.text());
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
}

#[test]
fn what_takes_longer_than_a_signal_waits_is_answered_by_us() {
    if !crate::support::full() {
        // Eight seconds.
        return;
    }
    let mut wire = Wire::hostile(&[], &[]);
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    wire.alive();
    let begun = Instant::now();
    wire.terminate();
    assert_eq!(wire.answer("1")["result"]["isError"], true);
    let over = wire.wait();
    assert_eq!(over.code, 0, "{}", over.text());
    let took = begun.elapsed();
    assert!((8..10).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_signal_lets_the_listener_answer_what_is_open() {
    let site = Site::in_rig(Rig::new(), &[], &[]);
    let mut waiting: Vec<_> = (0..20).map(|_| site.connect()).collect();
    let params = json!({"name": "late", "arguments": {"ms": 700}});
    for (id, waits) in waiting.iter_mut().enumerate() {
        waits.send(modern(&json!(id), "tools/call", &params, ""));
    }
    std::thread::sleep(Duration::from_millis(250));
    site.wire.terminate();
    site.wire
        .until_stderr("draining: nothing new is begun; 20 requests are open");
    let refused = site.call(&json!(99), "echo", &json!({"text": "?"}));
    assert_eq!(refused.status, 503, "{refused:?}");
    for waits in &mut waiting {
        assert_eq!(said(&waits.reply().json()), "late");
    }
    let over = site.wire.wait();
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn a_second_signal_ends_the_listener_at_once() {
    let site = Site::in_rig(Rig::new(), &[], &[]);
    let mut waits = site.connect();
    let params = json!({"name": "hang", "arguments": {}});
    waits.send(modern(&json!(1), "tools/call", &params, ""));
    std::thread::sleep(Duration::from_millis(250));
    site.wire.terminate();
    site.wire
        .until_stderr("draining: nothing new is begun; 1 requests are open");
    let begun = Instant::now();
    site.wire.terminate();
    assert_eq!(waits.reply().json()["result"]["isError"], true);
    let over = site.wire.wait();
    assert_eq!(over.code, 0, "{}", over.text());
    assert!(begun.elapsed() < Duration::from_millis(1500));
}

fn config(text: &str) -> String {
    format!("[server]\nname = \"it\"\n{text}")
}

fn write(wire: &Wire, text: &str) {
    std::fs::write(wire.path().join("c.toml"), config(text)).unwrap();
}

fn reloads(wire: &Wire) -> usize {
    let stderr = wire.stderr();
    [
        "the configuration was read again",
        "the configuration was not taken",
    ]
    .iter()
    .map(|words| stderr.matches(words).count())
    .sum()
}

#[test]
fn an_edited_file_counts_a_bad_one_does_not_and_the_same_again_is_nothing() {
    let rig = Rig::new().file("c.toml", config(""));
    let flags = [&["--config", "{dir}/c.toml"], &ADMIN[..]].concat();
    let mut wire = Wire::in_rig(rig, &flags, &[]);
    wire.alive();
    let echo =
        |wire: &mut Wire, id: &str| -> Value { wire.call(id, "echo", &json!({"text": "x"})) };
    let deny = "[tools.echo]\nallow = false\n";
    write(&wire, deny);
    assert!(eventually(|| reloads(&wire) == 1), "{}", wire.stderr());
    assert_eq!(rule(&echo(&mut wire, "1")), "tools.deny");
    // A file that cannot be used changes nothing, and is said once.
    write(&wire, "[tools.echo]\nallow = flase\n");
    wire.until_stderr("the configuration was not taken, what was in force stays");
    assert_eq!(rule(&echo(&mut wire, "2")), "tools.deny");
    // What lies beside it, what it said last, and a moment without a file, are nothing.
    std::fs::write(wire.path().join("other"), "x").unwrap();
    write(&wire, "[tools.echo]\nallow = flase\n");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(reloads(&wire), 2, "{}", wire.stderr());
    // Renamed into place, and after a moment without any.
    let path = wire.path().join("c.toml");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(wire.path().join("new"), config("")).unwrap();
    std::fs::rename(wire.path().join("new"), &path).unwrap();
    assert!(eventually(|| reloads(&wire) == 3), "{}", wire.stderr());
    assert_eq!(said(&echo(&mut wire, "3")), "x");
    assert!(wire.stderr().contains("protects less than before"));
    // In two steps, of which the first is valid alone and protects less.
    write(&wire, deny);
    assert!(eventually(|| reloads(&wire) == 4), "{}", wire.stderr());
    write(&wire, "");
    std::fs::write(wire.path().join("other"), "y").unwrap();
    std::thread::sleep(Duration::from_millis(120));
    write(&wire, &format!("{deny}[limits]\nrequest = \"64KiB\"\n"));
    assert!(eventually(|| reloads(&wire) == 5), "{}", wire.stderr());
    assert_eq!(rule(&echo(&mut wire, "4")), "tools.deny");
    assert_eq!(wire.metric("cofferdam_config_last_reload_successful"), 1.0);
    let count = wire.stderr().matches("protects less than before").count();
    assert_eq!(count, 1, "{}", wire.stderr());
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn an_edited_file_counts_behind_a_listener_too() {
    let rig = Rig::new().file("c.toml", config(""));
    let site = Site::in_rig(rig, &["--config", "{dir}/c.toml"], &[]);
    let echo = |id: u32| site.call(&json!(id), "echo", &json!({"text": "x"})).json();
    assert_eq!(said(&echo(1)), "x");
    write(&site.wire, "[tools.echo]\nallow = false\n");
    assert!(eventually(|| reloads(&site.wire) == 1));
    assert_eq!(rule(&echo(2)), "tools.deny");
}
