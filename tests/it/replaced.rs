//! Replacement of servers that do not go, or do not come, as they should.

use crate::rig::Rig;
use crate::rotation::{fingerprint, replace, value};
use crate::web::{Site, post};
use crate::wire::{Wire, eventually, refused_by, said};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::Duration;

/// A rig with a credential, and more configuration; in it the flags of a session.
fn rig(config: &str) -> Rig {
    let config = format!(
        "[server]\nname = \"it\"\n{config}[credentials.t]\nfile = \"token\"\ninject = {{ env = \"TOKEN\" }}\n"
    );
    Rig::new().file("token", value(0)).file("c.toml", config)
}

/// How long calls in flight are waited for.
const DRAIN: Duration = Duration::from_secs(30);

const FLAGS: [&str; 4] = [
    "--config",
    "{dir}/c.toml",
    "--admin",
    "unix:{dir}/admin.sock",
];

fn start(config: &str, server: &[&str]) -> Wire {
    let mut wire = Wire::mortal(rig(config), &FLAGS, server);
    wire.greet(&json!({}));
    wire
}

fn listen(config: &str, server: &[&str]) -> Site {
    let flags = [&FLAGS[..], &["--listen", "127.0.0.1:0"]].concat();
    Site::around(Wire::mortal(rig(config), &flags, server))
}

fn ask(site: &Site, session: &str, tool: &str, arguments: &Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let reply = site.ask(&post(&call, &format!("Mcp-Session-Id: {session}\r\n")));
    assert_eq!(reply.status, 200, "{reply:?}; {}", site.wire.stderr());
    match reply.header("content-type") {
        Some("text/event-stream") => reply.events().pop().unwrap(),
        _ => reply.json(),
    }
}

fn rotate(wire: &Wire, token: &str) {
    replace(&wire.path().join("token"), token);
}

#[test]
fn a_value_that_no_server_starts_with_costs_no_session_and_the_next_one_is_tried_at_once() {
    let mut wire = start("", &[]);
    let token = |wire: &mut Wire| said(&wire.call("1", "token", &json!({}))).to_owned();
    assert_eq!(token(&mut wire), fingerprint(&value(0)));
    rotate(&wire, "bad-1-Zq7vLm2Xw9");
    wire.until_stderr("the server is left alone");
    refused_by(&wire.call("2", "token", &json!({})), "server.unavailable");
    assert_eq!(wire.metric("cofferdam_child_parked"), 1.0);
    rotate(&wire, &value(2));
    wire.until_stderr("generation 3");
    assert!(eventually(|| token(&mut wire) == fingerprint(&value(2))));
    assert_eq!(wire.metric("cofferdam_child_parked"), 0.0);
    assert_eq!(wire.finish().code, 0);

    let site = listen("", &[]);
    let session = site.initialize("2025-11-25");
    let token = || said(&ask(&site, &session, "token", &json!({}))).to_owned();
    assert_eq!(token(), fingerprint(&value(0)));
    rotate(&site.wire, "bad-1-Zq7vLm2Xw9");
    site.wire.until_stderr("the server is left alone");
    let refused = ask(&site, &session, "token", &json!({}));
    refused_by(&refused, "server.unavailable");
    rotate(&site.wire, &value(2));
    assert!(eventually(|| token() == fingerprint(&value(2))));
}

#[test]
fn what_changes_while_the_old_server_ends_is_for_the_next_and_the_session_goes_on() {
    for mode in ["swap", "overlap"] {
        let mut wire = start(&format!("replace = \"{mode}\"\n"), &["linger"]);
        assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
        if mode == "overlap" {
            // One that is lost while another comes is not beside it: it ends first.
            refused_by(&wire.call("2", "die", &json!({})), "server.gone");
        }
        let before = wire.stderr().matches(" runs as ").count();
        rotate(&wire, &value(1));
        wire.until_stderr("the server is replaced");
        rotate(&wire, &value(2));
        assert!(eventually(|| {
            said(&wire.call("3", "token", &json!({}))) == fingerprint(&value(2))
        }));
        if mode == "swap" {
            wire.until_stderr("generation 3");
            let said = wire.stderr();
            assert!(said.contains("; the next server gets it"), "{said}");
            assert_eq!(said.matches(" runs as ").count(), before + 1, "{said}");
        }
        assert_eq!(wire.finish().code, 0);
    }
}

#[test]
fn a_server_that_does_not_read_is_replaced_when_it_has_had_its_time() {
    let mut wire = start("", &[]);
    let site = listen("", &[]);
    let session = site.initialize("2025-11-25");
    assert_eq!(said(&wire.call("1", "work", &json!({"key": 1}))), "1");
    ask(&site, &session, "work", &json!({"key": 1}));
    for wire in [&wire, &site.wire] {
        kill(Pid::from_raw(wire.server()), Signal::SIGSTOP).unwrap();
    }
    let filler = "x".repeat(40_000);
    let large = |key: u32| json!({"key": key, "filler": filler});
    let mut calls: Vec<_> = (2..5)
        .map(|key| {
            wire.begin(&key.to_string(), "work", &large(key));
            let params = json!({"name": "work", "arguments": large(key)});
            let call =
                json!({"jsonrpc": "2.0", "id": key, "method": "tools/call", "params": params});
            let mut conn = site.connect();
            conn.send(post(&call, &format!("Mcp-Session-Id: {session}\r\n")));
            (key, conn)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for wire in [&wire, &site.wire] {
        rotate(wire, &value(1));
    }
    wire.until_stderr("the server is replaced");
    std::thread::sleep(DRAIN);
    for wire in [&wire, &site.wire] {
        wire.until_stderr("the server is replaced without their answers");
        wire.until_stderr("the server was replaced within");
    }
    let mut here = 0;
    for (key, conn) in &mut calls {
        // What it has not read the next one reads.
        let key = key.to_string();
        here += usize::from(said(&wire.answer(&key)) == key);
        let reply = conn.reply();
        let answer = match reply.header("content-type") {
            Some("text/event-stream") => reply.events().pop().unwrap(),
            _ => reply.json(),
        };
        // The listener has made room in the pipe for more of it: nobody knows what became of that.
        if said(&answer) != key {
            refused_by(&answer, "server.gone");
        }
    }
    assert!(here > 0, "{}", wire.stderr());
    assert_eq!(
        said(&wire.call("7", "token", &json!({}))),
        fingerprint(&value(1))
    );
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn what_the_next_server_has_read_before_it_serves_is_taken_out_of_what_it_says() {
    let text = |x: u32| {
        format!(
            "[server]\nname = \"it\"\nreplace = \"overlap\"\n[cell]\nenv = [\"X={x}\"]\n[credentials.t]\n\
             file = \"token\"\ninject = {{ file = \"token\", env = \"TOKEN_FILE\" }}\noverlap = \"1s\"\n"
        )
    };
    let rig = Rig::new().file("token", value(0)).file("c.toml", text(1));
    let mut wire = Wire::mortal(rig, &FLAGS, &["slow=1500"]);
    wire.greet(&json!({}));
    let raw = json!({"raw": true});
    assert!(said(&wire.call("1", "kept", &raw)).starts_with("it is CFD-REDACTED"));
    replace(&wire.path().join("c.toml"), &text(2));
    wire.until_stderr("the configuration was read again");
    // It reads its token when it begins, and answers later.
    std::thread::sleep(Duration::from_millis(800));
    rotate(&wire, &value(1));
    wire.until_stderr("the server was replaced within");
    assert_eq!(
        said(&wire.call("2", "kept", &json!({}))),
        fingerprint(&value(0))
    );
    std::thread::sleep(Duration::from_millis(1300));
    rotate(&wire, &value(2));
    wire.until_stderr("generation 3");
    let told = wire.call("3", "kept", &raw);
    assert!(said(&told).starts_with("it is CFD-REDACTED"), "{told}");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_server_with_other_tools_is_announced_and_goes_by_its_own_schemas() {
    let tool = |required: &str| {
        let schema = json!({
            "type": "object",
            "properties": {"key": {"type": "integer"}, required: {"type": "string"}},
            "required": [required],
            "additionalProperties": false,
        });
        json!([{"name": "other", "inputSchema": schema}]).to_string()
    };
    let mut wire = start("", &[]);
    let tools = wire.path().join("notes/tools.json");
    std::fs::write(&tools, tool("old")).unwrap();
    let (old, new) = (json!({"key": 1, "old": "a"}), json!({"key": 2, "new": "a"}));
    assert_eq!(said(&wire.call("1", "other", &old)), "1");
    refused_by(&wire.call("2", "other", &new), "schema.arguments");
    rotate(&wire, &value(1));
    wire.until_stderr("the server was replaced within");
    assert_eq!(said(&wire.call("3", "other", &old)), "1");
    assert_eq!(wire.others(), [] as [Value; 0], "it is the same");
    std::fs::write(&tools, tool("new")).unwrap();
    rotate(&wire, &value(2));
    let told = wire.next().unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed", "{told}");
    assert_eq!(said(&wire.call("4", "other", &new)), "2");
    refused_by(&wire.call("5", "other", &old), "schema.arguments");
    assert_eq!(wire.others(), [] as [Value; 0]);
    assert_eq!(wire.finish().code, 0);

    // Nor is the list of one that has crashed taken for that of the next.
    let site = listen("", &[]);
    std::fs::write(site.wire.path().join("notes/tools.json"), tool("old")).unwrap();
    let session = site.initialize("2025-11-25");
    assert_eq!(said(&ask(&site, &session, "other", &old)), "1");
    std::fs::write(site.wire.path().join("notes/tools.json"), tool("new")).unwrap();
    refused_by(&ask(&site, &session, "die", &json!({})), "server.gone");
    assert_eq!(said(&ask(&site, &session, "other", &new)), "2");
    refused_by(&ask(&site, &session, "other", &old), "schema.arguments");
}
