//! The kill switch: in force at once, for what runs and what will, until it is switched on again.

use crate::rig::Rig;
use crate::support::example;
use crate::wire::{Wire, eventually, mark, processes, refused_by, said};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn start(rig: Rig, flags: &[&str]) -> (Wire, String) {
    let mark = mark();
    let path = example("hostile").to_str().unwrap().to_owned();
    let flags = [&["--name", "victim"], flags].concat();
    (Wire::start(rig, &mark, &flags, &[&path, &mark]), mark)
}

fn file(wire: &Wire) -> PathBuf {
    wire.path()
        .join("home/.local/state/cofferdam/victim/switch")
}

fn cofferdam(wire: &Wire, words: &[&str]) -> String {
    let output = wire.rig().command(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn servers(mark: &str) -> usize {
    let all = processes(mark);
    all.iter()
        .filter(|(_, line)| !line.contains("cofferdam "))
        .count()
}

#[test]
fn a_hundred_calls_in_flight_are_answered_and_the_tree_is_gone() {
    let (mut wire, mark) = start(Rig::new(), &["--admin", "unix:{dir}/admin.sock"]);
    wire.alive();
    for id in 1..=100 {
        wire.begin(&id.to_string(), "hang", &json!({}));
    }
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    let said_so = cofferdam(&wire, &["kill", "victim"]);
    assert!(said_so.contains("switched off"), "{said_so}");
    for id in 1..=100 {
        assert!(wire.answer(&id.to_string())["result"]["isError"] == true);
    }
    let took = begun.elapsed();
    assert!(eventually(|| servers(&mark) == 0));
    println!("100 calls answered {took:?} after `kill` was typed");
    assert!(took < Duration::from_secs(2), "{took:?}");
    refused_by(
        &wire.call("200", "echo", &json!({"text": "?"})),
        "switch.server",
    );
    let health = wire.admin("/health").replace(' ', "");
    assert!(health.contains("\"phase\":\"off\""), "{health}");

    // It is off for those who start later too, and their sessions wait for it.
    let rig = wire.rig().again();
    let (mut later, later_mark) = start(rig, &[]);
    refused_by(
        &later.call("1", "echo", &json!({"text": "?"})),
        "switch.server",
    );
    assert_eq!(servers(&later_mark), 0);

    cofferdam(&wire, &["resume", "victim"]);
    wire.until_stderr("switched on again");
    wire.alive();
    later.until_stderr("switched on again");
    later.alive();
    assert_eq!(later.finish().code, 0);
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn one_tool_is_switched_off_and_no_second_spelling_reaches_it() {
    let (mut wire, _) = start(Rig::new(), &[]);
    wire.alive();
    cofferdam(&wire, &["kill", "victim", "--tool", "secret"]);
    wire.until_stderr("switched off: the tool secret");
    for name in ["secret", "SECRET", "se\u{200b}cret", "ſecret"] {
        refused_by(&wire.call("1", name, &json!({})), "switch.tool");
    }
    wire.alive();
    cofferdam(&wire, &["resume", "victim", "--tool", "secret"]);
    assert!(eventually(|| {
        let answer = wire.call("2", "stderr_flood", &json!({}));
        said(&answer) == "flooded"
            && !wire.call("3", "secret", &json!({}))["result"]["isError"]
                .as_bool()
                .unwrap_or(false)
    }));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_signal_switches_off_and_it_lasts() {
    let (mut wire, mark) = start(Rig::new(), &[]);
    wire.alive();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(wire.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    assert!(eventually(|| servers(&mark) == 0));
    wire.until_stderr("switched off: ");
    refused_by(
        &wire.call("1", "echo", &json!({"text": "?"})),
        "switch.server",
    );
    let text = std::fs::read_to_string(file(&wire)).unwrap();
    assert!(text.contains("server off"));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn what_cannot_be_read_is_off() {
    for harm in ["garbage", "empty", "removed", "directory"] {
        let (mut wire, mark) = start(Rig::new(), &[]);
        wire.alive();
        let file = file(&wire);
        match harm {
            "garbage" => std::fs::write(&file, "server on\n").unwrap(),
            "empty" => std::fs::write(&file, "").unwrap(),
            "removed" => std::fs::remove_file(&file).unwrap(),
            _ => std::fs::remove_dir_all(file.parent().unwrap()).unwrap(),
        }
        wire.until_stderr("switched off: ");
        assert!(eventually(|| servers(&mark) == 0), "{harm}");
        refused_by(
            &wire.call("1", "echo", &json!({"text": "?"})),
            "switch.server",
        );
        if harm != "directory" {
            cofferdam(&wire, &["resume", "victim"]);
            wire.until_stderr("switched on again");
            wire.alive();
        }
        assert_eq!(wire.finish().code, 0, "{harm}");
    }
}

#[test]
fn a_switch_that_is_named_has_to_be_there() {
    let rig = Rig::new().file("c.toml", "[server]\nkill_file = \"switch\"\n");
    let (mut wire, mark) = start(rig, &["--config", "{dir}/c.toml"]);
    refused_by(
        &wire.call("1", "echo", &json!({"text": "?"})),
        "switch.server",
    );
    assert_eq!(servers(&mark), 0);
    let path = wire.path().join("switch");
    cofferdam(&wire, &["resume", "--file", path.to_str().unwrap()]);
    wire.until_stderr("switched on again");
    wire.alive();
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_name_that_nobody_has_is_no_success() {
    let (mut wire, _) = start(Rig::new(), &[]);
    wire.alive();
    for words in [
        &["kill", "victm"][..],
        &["kill", "victm", "--tool", "echo", "--json"],
        &["resume", "victm"],
    ] {
        let output = wire.rig().command(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{errors}");
        for said in [
            "no instance of victm runs",
            "starts under that name later",
            "these run now: ",
            "victim",
        ] {
            assert!(errors.contains(said), "{words:?}: {errors}");
        }
    }
    // It holds for later all the same.
    let killed = wire.rig().command(&["kill", "victm"]).output().unwrap();
    assert_eq!(killed.status.code(), Some(69));
    let file = wire.path().join("home/.local/state/cofferdam/victm/switch");
    assert!(
        std::fs::read_to_string(file)
            .unwrap()
            .contains("server off")
    );
    wire.alive();
    assert_eq!(wire.finish().code, 0);
}
