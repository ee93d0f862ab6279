//! What a server elsewhere makes of the credential that requests carry, and who still uses an older one.

use crate::authority::Authority;
use crate::rig::Rig;
use crate::rotation::{fingerprint, replace, value};
use crate::wire::{Wire, eventually, mark, refused_by, said};
use serde_json::{Value, json};

fn front(authority: &Authority, more: &str) -> Wire {
    let mark = mark();
    let config = format!(
        "[server]\nurl = \"{}\"\nname = \"{mark}\"\n[credentials.api]\nfile = \"token\"\ninject = {{ header = \"Authorization\" }}\n{more}",
        authority.url
    );
    let rig = Rig::new().file("c.toml", config).file("token", value(0));
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--admin",
        "unix:{dir}/admin.sock",
    ];
    let mut wire = Wire::start(rig, &mark, &flags, &[]);
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    wire.ask("\"hello\"", "initialize", &hello);
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    wire
}

fn health(wire: &Wire) -> Value {
    let text = wire.admin("/health");
    let body = text.split("\r\n\r\n").nth(1).unwrap_or(&text);
    let health: Value = serde_json::from_str(body).unwrap();
    health["credentials"][0].clone()
}

/// The lines of the audit log about credentials, of this kind.
fn audit(wire: Wire, act: &str) -> Vec<Value> {
    let path = wire.path().join(format!(
        "home/.local/state/cofferdam/{}/audit.jsonl",
        wire.mark
    ));
    let rig = wire.rig().again();
    let over = wire.finish();
    assert_eq!(over.code, 0, "{}", over.text());
    let text = std::fs::read_to_string(path).unwrap();
    drop(rig);
    assert!(!text.contains("Zq7vLm2Xw9") && !over.text().contains("Zq7vLm2Xw9"));
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|it| it["direction"] == "credential" && it["type"] == act)
        .collect()
}

#[test]
fn a_credential_that_is_refused_is_counted_said_and_not_tried_for_ever() {
    let authority = Authority::start(true);
    authority.admit(&value(0));
    let mut wire = front(&authority, "");
    assert_eq!(
        said(&wire.call("1", "token", &json!({}))),
        fingerprint(&value(0))
    );
    authority.revoke(&value(0));
    for id in 2..=4 {
        let answer = wire.call(&id.to_string(), "token", &json!({}));
        refused_by(&answer, "server.denied");
        let said = said(&answer);
        assert!(
            said.contains("Credential problem")
                && said.contains("arguments are fine; do not retry"),
            "{answer}"
        );
    }
    let asked = authority.refusals();
    for id in 5..=9 {
        let answer = wire.call(&id.to_string(), "token", &json!({}));
        refused_by(&answer, "credentials.breaker");
        assert!(said(&answer).contains("do not retry"), "{answer}");
    }
    assert_eq!(authority.refusals(), asked, "it is left alone");
    let problem = health(&wire)["problem"].as_str().unwrap().to_owned();
    assert!(
        problem.contains("401 to generation 1 (3 times)"),
        "{problem}"
    );
    let metrics = wire.admin("/metrics");
    let line =
        "cofferdam_credential_refusals_total{generation=\"1\",name=\"api\",status=\"401\"} 3";
    assert!(metrics.contains(line), "{metrics}");
    // Another value is another chance, at once.
    authority.admit(&value(1));
    replace(&wire.path().join("token"), &value(1));
    assert!(eventually(|| health(&wire)["generation"] == 2));
    assert_eq!(
        said(&wire.call("20", "token", &json!({}))),
        fingerprint(&value(1))
    );
    assert!(health(&wire)["problem"].is_null());
    let refused = audit(wire, "refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(
        (&refused[0]["target"], &refused[0]["generation"]),
        (&json!("api"), &json!(1))
    );
}

#[test]
fn a_right_that_is_lacking_stops_that_tool_alone() {
    let authority = Authority::start(true);
    authority.admit(&value(0));
    let mut wire = front(&authority, "");
    for id in 1..=3 {
        let answer = wire.call(&id.to_string(), "lacking", &json!({}));
        refused_by(&answer, "server.denied");
        assert!(said(&answer).contains("lacks a right"), "{answer}");
    }
    let answer = wire.call("4", "lacking", &json!({}));
    refused_by(&answer, "credentials.breaker");
    assert_eq!(
        said(&wire.call("5", "token", &json!({}))),
        fingerprint(&value(0))
    );
    assert_eq!(wire.metric("cofferdam_credential_refusals_total"), 3.0);
    assert_eq!(audit(wire, "refused").len(), 1);
}

#[test]
fn who_still_uses_an_older_one_is_reported() {
    let authority = Authority::start(true);
    for round in 0..=1 {
        authority.admit(&value(round));
    }
    let mut wire = front(&authority, "overlap = \"1s\"\n");
    assert!(eventually(|| authority.books().streams == 1));
    wire.begin("1", "token", &json!({"wait": 4000}));
    std::thread::sleep(std::time::Duration::from_millis(100));
    replace(&wire.path().join("token"), &value(1));
    assert!(eventually(|| health(&wire)["generation"] == 2));
    assert_eq!(
        said(&wire.call("2", "token", &json!({}))),
        fingerprint(&value(1))
    );
    assert_eq!(wire.metric("cofferdam_credential_misuses_total"), 0.0);
    // The overlap ends at the next look; HUP makes one.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(wire.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    wire.until_stderr("open after its overlap");
    // The call and the stream; the stream is taken up again with the new one, the call is let be.
    assert_eq!(wire.metric("cofferdam_credential_misuses_total"), 2.0);
    assert!(eventually(|| {
        let books = authority.books();
        books.streams == 1 && books.taken.get(&value(1)).is_some_and(|count| *count >= 2)
    }));
    assert_eq!(said(&wire.answer("1")), fingerprint(&value(0)));
    assert_eq!(wire.metric("cofferdam_credential_misuses_total"), 3.0);
    let used = audit(wire, "used");
    assert!(
        used.iter()
            .all(|it| it["generation"] == 1 && it["status"] == "error"),
        "{used:?}"
    );
    assert_eq!(used.len(), 2, "{used:?}");
}

#[test]
fn what_was_asked_with_a_revoked_one_ends_and_nothing_is_asked_without() {
    let authority = Authority::start(true);
    for round in 0..=1 {
        authority.admit(&value(round));
    }
    let mut wire = front(&authority, "");
    assert!(eventually(|| authority.books().streams == 1));
    wire.begin("1", "token", &json!({"wait": 8000}));
    std::thread::sleep(std::time::Duration::from_millis(200));
    let begun = std::time::Instant::now();
    let revoke = ["credentials", "revoke", "api", "--server", &wire.mark];
    let output = wire.rig().command(&revoke).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer = wire.answer("1");
    refused_by(&answer, "credentials.missing");
    assert!(
        said(&answer).contains("revoked") && said(&answer).contains("outcome is unknown"),
        "{answer}"
    );
    assert!(begun.elapsed().as_secs() < 4, "it was not waited for");
    assert!(eventually(|| authority.books().streams == 0));
    let before: u64 = authority.books().taken.values().sum();
    refused_by(&wire.call("2", "token", &json!({})), "credentials.missing");
    assert_eq!(authority.books().taken.values().sum::<u64>(), before);
    assert_eq!(authority.refusals(), 0, "nothing was asked without");
    replace(&wire.path().join("token"), &value(1));
    let mut id = 2;
    assert!(eventually(|| {
        id += 1;
        said(&wire.call(&id.to_string(), "token", &json!({}))) == fingerprint(&value(1))
    }));
    assert!(
        audit(wire, "used")
            .iter()
            .all(|it| it["status"] != "incident")
    );
}

#[test]
fn a_value_that_ends_on_its_way_is_replaced_by_the_one_in_force() {
    let authority = Authority::start(true);
    for round in 0..=1 {
        authority.admit(&value(round));
    }
    let mut wire = front(&authority, "");
    wire.call("1", "token", &json!({}));
    // It is looked at when the old one is dead already.
    wire.begin("2", "token", &json!({"late": 1500}));
    std::thread::sleep(std::time::Duration::from_millis(100));
    replace(&wire.path().join("token"), &value(1));
    assert!(eventually(|| health(&wire)["generation"] == 2));
    authority.revoke(&value(0));
    let answer = wire.answer("2");
    assert_eq!(said(&answer), fingerprint(&value(1)), "{answer}");
    assert_eq!(authority.refusals(), 1);
    assert!(health(&wire)["problem"].is_null());
    assert_eq!(wire.finish().code, 0);
}
