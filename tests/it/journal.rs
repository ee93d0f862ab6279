//! Calls that were under way when cofferdam itself was killed: the next start says so, once.

use crate::rig::Rig;
use crate::web::{Site, modern};
use crate::wire::{Wire, eventually, said};
use serde_json::{Value, json};

const ADMIN: [&str; 4] = ["--name", "it", "--admin", "unix:{dir}/admin.sock"];
const METRIC: &str = "cofferdam_calls_outcome_unknown_total";

fn unknown(rig: &Rig) -> Vec<Value> {
    let state = rig
        .path()
        .join("home/.local/state/cofferdam/it/audit.jsonl");
    let text = std::fs::read_to_string(state).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["status"] == "unknown")
        .collect()
}

fn all_gone(mark: &str) -> bool {
    eventually(|| crate::wire::processes(mark).is_empty())
}

#[test]
fn what_was_under_way_at_a_kill_is_said_by_the_next_start_and_only_once() {
    let config = "[tools.gaze]\neffect = \"read\"\n[tools.say]\nallow = false\n";
    let rig = Rig::new().file("c.toml", config);
    let flags = [&ADMIN[..], &["--config", "{dir}/c.toml"]].concat();
    let mut wire = Wire::mortal(rig.again(), &flags, &[]);
    wire.greet(&json!({}));
    // Answered; may run twice; refused; cancelled; and two of which nobody will know.
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    wire.begin("2", "gaze", &json!({}));
    wire.begin("3", "say", &json!({"text": "y"}));
    wire.begin("4", "hang", &json!({}));
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":4}}"#);
    wire.begin("5", "hang", &json!({}));
    wire.begin("\"six\"", "hang", &json!({}));
    assert!(eventually(|| {
        let ledger = std::fs::read_to_string(rig.path().join("notes/ledger"));
        ledger.unwrap_or_default().matches("hang").count() == 3
    }));
    assert_eq!(said(&wire.call("8", "work", &json!({"key": 8}))), "8");
    let mark = wire.mark.clone();
    wire.kill_message_process();
    drop(wire);
    assert!(all_gone(&mark));
    std::fs::remove_dir_all(rig.path().join("notes")).unwrap();

    let mut next = Wire::mortal(rig.again(), &flags, &[]);
    next.greet(&json!({}));
    next.until_stderr("the outcome of 2 calls is unknown");
    let text = next.stderr();
    assert!(
        text.contains("hang (id 5, ") && text.contains("hang (id \"six\", "),
        "{text}"
    );
    assert_eq!(next.metric(METRIC), 2.0);
    let said: Vec<Value> = unknown(&rig);
    let ids: Vec<&Value> = said.iter().map(|line| &line["id"]).collect();
    assert!(
        ids.len() == 2 && ids.contains(&&json!(5)) && ids.contains(&&json!("six")),
        "{said:?}"
    );
    assert!(
        said.iter()
            .all(|line| line["target"] == "hang" && line["type"] == "tool")
    );
    // While it lives its own are nobody's business; and an orderly end tells its client.
    next.begin("7", "hang", &json!({}));
    std::fs::remove_dir_all(rig.path().join("notes")).unwrap();
    let beside = Wire::mortal(rig.again(), &ADMIN[..2], &[]);
    beside.until_stderr("runs as");
    assert!(
        !beside.stderr().contains("unknown, because"),
        "{}",
        beside.stderr()
    );
    assert_eq!(beside.finish().code, 0);
    next.finish();
    let last = Wire::mortal(rig.again(), &ADMIN, &[]);
    last.until_stderr("runs as");
    assert_eq!(last.metric(METRIC), 0.0);
    assert_eq!(last.finish().code, 0);
    assert_eq!(unknown(&rig).len(), 2);
    let journals = rig.path().join("home/.local/state/cofferdam/it/begun");
    let sizes: Vec<u64> = std::fs::read_dir(journals)
        .unwrap()
        .map(|it| it.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes, [32768, 32768], "one for each that ran at one time");
}

#[test]
fn behind_a_listener_and_when_all_of_it_is_killed_at_once() {
    let rig = Rig::new();
    let flags = [&ADMIN[..2], &["--listen", "127.0.0.1:0"]].concat();
    let site = Site::around(Wire::mortal(rig.again(), &flags, &[]));
    let mut waits = site.connect();
    let params = json!({"name": "hang", "arguments": {}});
    waits.send(modern(&json!(1), "tools/call", &params, ""));
    assert!(eventually(|| {
        let ledger = std::fs::read_to_string(rig.path().join("notes/ledger"));
        ledger.unwrap_or_default().contains("hang")
    }));
    let mark = site.wire.mark.clone();
    for (pid, _) in crate::wire::processes(&mark) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        // One may be gone with another already.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
    }
    assert!(all_gone(&mark));
    let next = Wire::mortal(rig.again(), &ADMIN[..2], &[]);
    next.until_stderr("the outcome of 1 calls is unknown");
    let over = next.finish();
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn where_nothing_is_to_be_written_there_is_none() {
    let rig = Rig::new();
    let flags = [&ADMIN[..2], &["--audit", "off"]].concat();
    let mut wire = Wire::mortal(rig.again(), &flags, &[]);
    wire.greet(&json!({}));
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    assert!(
        !rig.path()
            .join("home/.local/state/cofferdam/it/begun")
            .exists()
    );
    assert_eq!(wire.finish().code, 0);
}
