//! Requests that their client gives up, in front of a server on HTTP: what they held is free at once, and the
//! server counts who is still there.

use crate::http_front::{Elsewhere, events, front_in, modern};
use crate::rig::Rig;
use crate::web::{Site, until_reached};
use crate::wire::{Wire, eventually, said};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Far less than any deadline.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What a server may have said before nobody wants to hear the rest.
fn beginnings() -> Vec<(&'static str, String)> {
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#;
    vec![
        ("nothing", String::new()),
        ("half a head", "HTTP/1.1 200 OK\r\ncontent-".to_owned()),
        ("a head", events("")),
        ("an event", events(&format!("data: {note}\n\n"))),
        ("half an event", events(&format!("data: {}", &note[..20]))),
        (
            "half a body",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"
                .to_owned(),
        ),
    ]
}

fn cancelled(id: &Value) -> String {
    json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":id}})
        .to_string()
}

fn connections(there: &Elsewhere) -> usize {
    there.count("opened") - there.count("closed")
}

/// Audit lines of calls that were given up.
fn given_up(wire: &Wire) -> usize {
    let text = std::fs::read_to_string(wire.path().join("audit.jsonl")).unwrap_or_default();
    text.matches(r#""status":"cancelled""#).count()
}

const FLAGS: [&str; 6] = [
    "--config",
    "{dir}/c.toml",
    "--admin",
    "unix:{dir}/admin.sock",
    "--audit",
    "{dir}/audit.jsonl",
];

fn one_at_a_time() -> Rig {
    Rig::new().file("c.toml", "[limits]\nconcurrency = 1\nwait = \"20s\"\n")
}

#[test]
fn on_stdin_a_cancelled_request_holds_nothing() {
    let there = Elsewhere::start(&[]);
    let mut wire = front_in(one_at_a_time(), &there.url, &FLAGS);
    for (at, (what, bytes)) in beginnings().iter().enumerate() {
        let arguments = json!({"bytes": bytes, "then": "wait"});
        let id = json!(format!("given up {at}"));
        wire.request(&id.to_string(), "tools/call", &modern("raw", arguments));
        assert!(
            eventually(|| there.count("tools/call") == 2 * at + 1),
            "{what}"
        );
        // The place is another's, who need not wait.
        let begun = Instant::now();
        let next = format!("\"next {at}\"");
        wire.request(&next, "tools/call", &modern("echo", json!({"text": what})));
        wire.send(cancelled(&id));
        assert_eq!(said(&wire.answer(&next)), *what);
        assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        // Nor is the server kept.
        assert!(eventually(|| there.count("left") == at + 1), "{what}");
        assert!(eventually(|| connections(&there) <= 1), "{what}");
        assert!(wire.metric("cofferdam_requests_in_flight") < 0.5, "{what}");
    }
    assert_eq!(there.count("notifications/cancelled"), 0);
    assert!(
        eventually(|| given_up(&wire) == beginnings().len()),
        "{}",
        given_up(&wire)
    );
    let over = wire.finish();
    assert!(over.took < Duration::from_secs(1), "{:?}", over.took);
}

#[test]
fn behind_the_listener_a_client_that_leaves_holds_nothing() {
    let there = Elsewhere::start(&[]);
    let site = site_in(&there);
    for (at, (what, bytes)) in beginnings().iter().enumerate() {
        let params = json!({"name": "raw", "arguments": {"bytes": bytes, "then": "wait"}});
        let mut gone = site.connect();
        gone.send(crate::web::modern(&json!(1), "tools/call", &params, ""));
        assert!(
            eventually(|| there.count("tools/call") == 2 * at + 1),
            "{what}"
        );
        let begun = Instant::now();
        let mut next = site.connect();
        let params = json!({"name": "echo", "arguments": {"text": what}});
        next.send(crate::web::modern(&json!(1), "tools/call", &params, ""));
        drop(gone);
        assert_eq!(said(&next.reply().json()), *what);
        assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        assert!(eventually(|| there.count("left") == at + 1), "{what}");
        assert!(eventually(|| connections(&there) <= 1), "{what}");
        assert!(
            site.wire.metric("cofferdam_requests_in_flight") < 0.5,
            "{what}"
        );
    }
    assert!(eventually(|| given_up(&site.wire) == beginnings().len()));
}

fn site_in(there: &Elsewhere) -> Site {
    let flags = [
        &FLAGS[..],
        &["--url", &there.url, "--listen", "127.0.0.1:0"],
    ]
    .concat();
    let mark = crate::wire::mark();
    let flags = [&flags[..], &["--name", &mark]].concat();
    Site::listening(Wire::start(one_at_a_time(), &mark, &flags, &[]))
}

#[test]
fn more_than_there_are_connections_are_given_up_and_the_next_is_served() {
    let there = Elsewhere::start(&[]);
    let flags = ["--admin", "unix:{dir}/admin.sock"];
    let mut wire = front_in(Rig::new(), &there.url, &flags);
    // Its list is known then, for which no more than 256 calls may wait.
    wire.ask(
        "\"first\"",
        "tools/call",
        &modern("echo", json!({"text": "x"})),
    );
    // The most connections at one time are 256; the others wait for one.
    let ids: Vec<Value> = (0..300).map(|id| json!(id)).collect();
    for id in &ids {
        wire.request(&id.to_string(), "tools/call", &modern("hang", json!({})));
    }
    assert!(eventually(|| there.count("tools/call") == 257));
    for id in ids.iter().rev() {
        wire.send(cancelled(id));
    }
    let begun = Instant::now();
    wire.request(
        "\"next\"",
        "tools/call",
        &modern("echo", json!({"text": "served"})),
    );
    assert_eq!(said(&wire.answer("\"next\"")), "served");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert!(
        eventually(|| connections(&there) <= 1),
        "{}",
        connections(&there)
    );
    assert_eq!(
        there.count("left"),
        256,
        "those that waited were never asked"
    );
    assert!(wire.metric("cofferdam_requests_in_flight") < 0.5);
    assert_eq!(wire.finish().rest, Vec::<Value>::new());
}

#[test]
fn on_http_2_its_stream_alone_is_closed() {
    // A listener of ours is the server elsewhere, and what it tells its own server shows what it was told.
    let rig = Rig::new();
    let made = rig
        .command(&["tls", "self-signed", "--dir", "tls"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let config = "[listen]\nhttp = \"127.0.0.1:0\"\ntls = { cert = \"tls/server.crt\", key = \"tls/server.key\" }\n";
    let rig = rig.file("c.toml", config);
    std::fs::create_dir(rig.path().join("log")).unwrap();
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--user",
        "root",
        "--write",
        "{dir}/log",
    ];
    let upstream = Site::around(Wire::in_rig(rig.again(), &flags, &["log={dir}/log/lines"]));
    let url = format!("https://localhost:{}/mcp", upstream.address.port());
    let mut wire = front_in(rig.again(), &url, &["--ca", "tls/ca.crt"]);
    wire.request("1", "tools/call", &modern("late", json!({"ms": 1500})));
    wire.request("2", "tools/call", &modern("hang", json!({})));
    until_reached(&upstream, "\"hang\"");
    wire.send(cancelled(&json!(2)));
    until_reached(&upstream, "notifications/cancelled");
    assert_eq!(
        upstream
            .reached()
            .matches("notifications/cancelled")
            .count(),
        1
    );
    assert_eq!(said(&wire.answer("1")), "late");
    assert_eq!(wire.finish().code, 0);
}
