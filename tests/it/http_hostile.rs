//! Hostile and broken HTTP: each request gets its status, nothing reaches the server, and the listener
//! lives on.

use crate::web::{Conn, Site, call, get, lines, modern, modern_body, post, raw_post};
use crate::wire::{Wire, eventually, said};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const H: &str = "Host: localhost\r\n";
const A: &str = "Accept: application/json, text/event-stream\r\n";
const C: &str = "Content-Type: application/json\r\n";

fn body() -> String {
    modern_body(
        &json!(1),
        "tools/call",
        &json!({"name":"echo","arguments":{"text":"x"}}),
    )
    .to_string()
}

fn mirrors() -> &'static str {
    "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n"
}

/// A request from its parts, with the length of its body.
fn made(line: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let mirrors = mirrors();
    format!("{line}\r\n{headers}{mirrors}Content-Length: {length}\r\n\r\n{body}")
}

#[test]
fn every_bad_request_has_its_status_and_none_reaches_the_server() {
    let site = Site::logging(&["--request-limit", "64KiB"], &[]);
    let b = body();
    let post = "POST /mcp HTTP/1.1";
    let large = " ".repeat(64 * 1024) + &b;
    let chunked = format!(
        "{post}\r\n{H}{A}{C}{}Transfer-Encoding: chunked\r\n",
        mirrors()
    );
    let hex = format!("{:x}", b.len());
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let rows: Vec<(&str, String, &[u16])> = vec![
        ("no host", made(post, &format!("{A}{C}"), &b), &[403, 400]),
        (
            "another host",
            made(post, &format!("Host: evil.example\r\n{A}{C}"), &b),
            &[403],
        ),
        (
            "a host that begins like ours",
            made(post, &format!("Host: localhost.evil.example\r\n{A}{C}"), &b),
            &[403],
        ),
        (
            "another address",
            made(post, &format!("Host: 10.1.1.1\r\n{A}{C}"), &b),
            &[403],
        ),
        (
            "a host with a user",
            made(post, &format!("Host: a@localhost\r\n{A}{C}"), &b),
            &[403],
        ),
        (
            "two hosts",
            made(post, &format!("{H}{H}{A}{C}"), &b),
            &[403, 400],
        ),
        (
            "another host in the target",
            made(
                "POST http://evil.example/mcp HTTP/1.1",
                &format!("{H}{A}{C}"),
                &b,
            ),
            &[403],
        ),
        (
            "an empty host",
            made(post, &format!("Host:\r\n{A}{C}"), &b),
            &[403],
        ),
        (
            "another origin",
            made(
                post,
                &format!("{H}Origin: https://evil.example\r\n{A}{C}"),
                &b,
            ),
            &[403],
        ),
        (
            "no origin by name",
            made(post, &format!("{H}Origin: null\r\n{A}{C}"), &b),
            &[403],
        ),
        (
            "an origin that begins like ours",
            made(
                post,
                &format!("{H}Origin: http://localhost.evil.example\r\n{A}{C}"),
                &b,
            ),
            &[403],
        ),
        (
            "two origins",
            made(
                post,
                &format!("{H}Origin: http://localhost\r\nOrigin: http://evil.example\r\n{A}{C}"),
                &b,
            ),
            &[403],
        ),
        (
            "another scheme",
            made(post, &format!("{H}Origin: file://localhost\r\n{A}{C}"), &b),
            &[403],
        ),
        (
            "another path",
            made("POST / HTTP/1.1", &format!("{H}{A}{C}"), &b),
            &[404],
        ),
        (
            "a path below",
            made("POST /mcp/ HTTP/1.1", &format!("{H}{A}{C}"), &b),
            &[404],
        ),
        (
            "a path around",
            made("POST /x/../mcp HTTP/1.1", &format!("{H}{A}{C}"), &b),
            &[404],
        ),
        (
            "a coded path",
            made("POST /%6dcp HTTP/1.1", &format!("{H}{A}{C}"), &b),
            &[404],
        ),
        (
            "a token in the query",
            made(
                "POST /mcp?access_token=x HTTP/1.1",
                &format!("{H}{A}{C}"),
                &b,
            ),
            &[400],
        ),
        (
            "PUT",
            made("PUT /mcp HTTP/1.1", &format!("{H}{A}{C}"), &b),
            &[405],
        ),
        (
            "CONNECT",
            made("CONNECT localhost:80 HTTP/1.1", &format!("{H}{A}{C}"), &b),
            &[400, 403, 404, 405],
        ),
        (
            "TRACE",
            made("TRACE /mcp HTTP/1.1", &format!("{H}{A}{C}"), &b),
            &[405],
        ),
        ("no accept", made(post, &format!("{H}{C}"), &b), &[406]),
        (
            "JSON alone accepted",
            made(post, &format!("{H}Accept: application/json\r\n{C}"), &b),
            &[406],
        ),
        (
            "events alone accepted",
            made(post, &format!("{H}Accept: text/event-stream\r\n{C}"), &b),
            &[406],
        ),
        ("no type", made(post, &format!("{H}{A}"), &b), &[415]),
        (
            "a form",
            made(
                post,
                &format!("{H}{A}Content-Type: application/x-www-form-urlencoded\r\n"),
                &b,
            ),
            &[415],
        ),
        (
            "plain text, as pages may send it",
            made(post, &format!("{H}{A}Content-Type: text/plain\r\n"), &b),
            &[415],
        ),
        (
            "another charset",
            made(
                post,
                &format!("{H}{A}Content-Type: application/json; charset=utf-7\r\n"),
                &b,
            ),
            &[415],
        ),
        (
            "two types",
            made(post, &format!("{H}{A}{C}{C}"), &b),
            &[415],
        ),
        (
            "a compressed body",
            made(post, &format!("{H}{A}{C}Content-Encoding: gzip\r\n"), &b),
            &[415],
        ),
        ("no body", made(post, &format!("{H}{A}{C}"), ""), &[400]),
        (
            "a body above the limit",
            made(post, &format!("{H}{A}{C}"), &large),
            &[413],
        ),
        (
            "a chunked body above the limit",
            format!("{chunked}\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len()),
            &[413],
        ),
        ("no JSON", made(post, &format!("{H}{A}{C}"), "{"), &[400]),
        (
            "no UTF-8",
            made(post, &format!("{H}{A}{C}"), "\u{0}"),
            &[400],
        ),
        (
            "an array",
            made(post, &format!("{H}{A}{C}"), &format!("[{b}]")),
            &[400],
        ),
        (
            "two messages",
            made(post, &format!("{H}{A}{C}"), &format!("{b}\n{b}")),
            &[400],
        ),
        (
            "a string",
            made(post, &format!("{H}{A}{C}"), "\"x\""),
            &[400],
        ),
        (
            "a line break in a string",
            made(post, &format!("{H}{A}{C}"), &b.replace("\"x\"", "\"x\ny\"")),
            &[400],
        ),
        (
            "a carriage return that hides a call",
            made(
                post,
                &format!("{H}{A}{C}"),
                &b.replace("\"x\"", &format!("\"x\r{b}\r\"")),
            ),
            &[400],
        ),
        (
            "a key twice",
            made(
                post,
                &format!("{H}{A}{C}"),
                &b.replacen("\"id\":1", "\"id\":1,\"id\":2", 1),
            ),
            &[400],
        ),
        (
            "two names",
            made(
                post,
                &format!("{H}{A}{C}"),
                &b.replacen("\"name\"", "\"name\":\"hang\",\"name\"", 1),
            ),
            &[400],
        ),
        (
            "a body in two lengths",
            format!(
                "{post}\r\n{H}{A}{C}{}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{hex}\r\n{b}\r\n0\r\n\r\n",
                mirrors()
            ),
            &[400],
        ),
        (
            "the same the other way round",
            format!("{chunked}Content-Length: 3\r\n\r\n{hex}\r\n{b}\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "two lengths that differ",
            format!(
                "{post}\r\n{H}{A}{C}{}Content-Length: 3\r\nContent-Length: {}\r\n\r\n{b}",
                mirrors(),
                b.len()
            ),
            &[400],
        ),
        (
            "a length that is a list",
            format!(
                "{post}\r\n{H}{A}{C}{}Content-Length: 3, 3\r\n\r\n{b}",
                mirrors()
            ),
            &[400],
        ),
        (
            "a length with a sign",
            format!(
                "{post}\r\n{H}{A}{C}{}Content-Length: +{}\r\n\r\n{b}",
                mirrors(),
                b.len()
            ),
            &[400],
        ),
        (
            "a length below zero",
            format!(
                "{post}\r\n{H}{A}{C}{}Content-Length: -1\r\n\r\n{b}",
                mirrors()
            ),
            &[400],
        ),
        (
            "a coding that is not known",
            format!(
                "{post}\r\n{H}{A}{C}{}Transfer-Encoding: chunked, identity\r\n\r\n{hex}\r\n{b}\r\n0\r\n\r\n",
                mirrors()
            ),
            &[400],
        ),
        (
            "a coding in two",
            format!("{chunked}Transfer-Encoding: x\r\n\r\n{hex}\r\n{b}\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a size of a chunk that is none",
            format!("{chunked}\r\nzz\r\n{b}\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a chunk that is longer than its size",
            format!("{chunked}\r\n1\r\n{b}\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a space before a colon",
            made(post, &format!("{H}{A}{C}X-A : b\r\n"), &b),
            &[400],
        ),
        (
            "a folded header",
            made(post, &format!("{H}{A}{C}X-A: b\r\n c\r\n"), &b),
            &[400],
        ),
        (
            "a header without a name",
            made(post, &format!("{H}{A}{C}: b\r\n"), &b),
            &[400],
        ),
        (
            "a NUL in a header",
            made(post, &format!("{H}{A}{C}X-A: b\u{0}c\r\n"), &b),
            &[400],
        ),
        (
            "a bare CR in a header",
            made(post, &format!("{H}{A}{C}X-A: b\rX-B: c\r\n"), &b),
            &[400],
        ),
        (
            "too many headers",
            made(post, &format!("{H}{A}{C}{many}"), &b),
            &[431, 400],
        ),
        (
            "a header that is too large",
            made(
                post,
                &format!("{H}{A}{C}X-A: {}\r\n", "y".repeat(64 * 1024)),
                &b,
            ),
            &[431, 400],
        ),
        (
            "a target that is too long",
            made(
                &format!("POST /{} HTTP/1.1", "y".repeat(80 * 1024)),
                &format!("{H}{A}{C}"),
                &b,
            ),
            &[414, 431, 400],
        ),
        (
            "no HTTP",
            "\u{16}\u{3}\u{1}garbage\r\n\r\n".to_owned(),
            &[400],
        ),
        (
            "a version that is not known",
            made("POST /mcp HTTP/3.0", &format!("{H}{A}{C}"), &b),
            &[400, 505],
        ),
        (
            "another coding inside of the chunks",
            chunked.replace(": chunked", ": gzip, chunked")
                + &format!("\r\n{hex}\r\n{b}\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a line of a header that ends in LF",
            made(post, &format!("{H}{A}{C}X: y\n"), &b),
            &[400],
        ),
        (
            "HTTP/1.0 in chunks",
            format!(
                "POST /mcp HTTP/1.0\r\n{H}{A}{C}{}Transfer-Encoding: chunked\r\n\r\n{hex}\r\n{b}\r\n0\r\n\r\n",
                mirrors()
            ),
            &[400],
        ),
        (
            "an answer that nobody wants",
            raw_post(
                r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
                "MCP-Protocol-Version: 2026-07-28\r\n",
            ),
            &[400],
        ),
        (
            "an upgrade",
            made(
                "GET /mcp HTTP/1.1",
                &format!("{H}{A}Connection: Upgrade\r\nUpgrade: websocket\r\n"),
                "",
            ),
            &[405],
        ),
        ("events of no session", get("none", ""), &[404]),
        (
            "events of the modern era",
            get("none", "").replace("Mcp-Session-Id: none", "X: y"),
            &[405],
        ),
    ];
    assert!(rows.len() >= 60, "{}", rows.len());
    for (what, request, statuses) in &rows {
        let mut conn = site.connect();
        // A server that has answered already may close while the rest is being sent.
        drop(conn.reader.get_mut().write_all(request.as_bytes()));
        let (status, head) = conn.head();
        assert!(statuses.contains(&status), "{what}: {status}\n{head}");
    }
    assert_eq!(site.reached(), "");
    // Local pages, absolute targets and chunked bodies are honest.
    for request in [
        made(
            post,
            &format!("{H}Origin: http://localhost:6274\r\n{A}{C}"),
            &b,
        ),
        made(
            "POST http://localhost/mcp HTTP/1.1",
            &format!("{H}{A}{C}"),
            &b,
        ),
        format!("{chunked}\r\n{hex}\r\n{b}\r\n0\r\n\r\n"),
        made(post, &format!("{H}{A}{C}"), &b.replace(',', ",\r\n\t")),
    ] {
        let reply = site.ask(&request);
        assert_eq!((reply.status, said(&reply.json())), (200, "x"), "{request}");
    }
}

#[test]
fn who_sends_a_large_body_before_it_reads_hears_why_it_is_refused() {
    let site = Site::logging(&[], &[]);
    let mut rows = vec![("Host: localhost\r\n", 3_000_000, 413)];
    // Nobody reads what comes from another host.
    rows.extend([60_000, 900_000, 3_000_000].map(|size| ("Host: evil.example\r\n", size, 403)));
    for (host, size, status) in rows {
        let large = " ".repeat(size);
        let mut conn = site.connect();
        conn.send(made("POST /mcp HTTP/1.1", &format!("{host}{A}{C}"), &large));
        let reply = conn.reply();
        assert_eq!(reply.status, status, "{size}: {reply:?}");
        let closes = reply.header("connection") == Some("close");
        assert_eq!(closes, size > 64 * 1024, "{size}: {reply:?}");
    }
    assert_eq!(site.reached(), "");
}

#[test]
fn what_follows_a_chunked_body_is_nobody_s_request() {
    let site = Site::logging(&[], &[]);
    let b = body();
    let smuggled = made(
        "POST /mcp HTTP/1.1",
        &format!("{H}{A}{C}"),
        &b.replace("\"x\"", "\"smuggled\""),
    );
    let first = format!(
        "POST /mcp HTTP/1.1\r\n{H}{A}{C}{}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{b}\r\n0\r\n\r\n",
        mirrors(),
        b.len()
    );
    let mut conn = site.connect();
    conn.send(format!("{first}{smuggled}"));
    let reply = conn.reply();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(conn.is_closed());
    assert!(!site.reached().contains("smuggled"), "{}", site.reached());
}

#[test]
fn who_is_slow_loses_the_connection_and_nobody_else_waits() {
    let rig = crate::rig::Rig::new().file(
        "c.toml",
        "[listen]\nhttp = \"127.0.0.1:0\"\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n",
    );
    let site = Site::around(Wire::in_rig(rig, &["--config", "{dir}/c.toml"], &[]));
    let begun = Instant::now();
    let mut silent = site.connect();
    let mut half = site.connect();
    half.send("POST /mcp HTTP/1.1\r\nHost: loc");
    let mut dripping = site.connect();
    dripping
        .reader
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut bodiless = site.connect();
    let request = raw_post(&body(), mirrors());
    bodiless.send(&request[..request.len() - 10]);
    assert_eq!(
        said(
            &site
                .call(&json!(1), "echo", &json!({"text":"quick"}))
                .json()
        ),
        "quick"
    );
    let reply = bodiless.reply();
    assert_eq!(
        (reply.status, reply.header("connection")),
        (408, Some("close"))
    );
    assert!(silent.is_closed() && half.is_closed());
    // One byte at a time is no progress of a header.
    let closed = eventually(|| {
        let sent = dripping.reader.get_mut().write_all(b"P");
        let mut byte = [0; 1];
        match dripping.reader.get_mut().read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => sent.is_err() || error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    assert!(
        closed && begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn connections_are_bounded() {
    let rig = crate::rig::Rig::new().file(
        "c.toml",
        "[listen]\nhttp = \"127.0.0.1:0\"\nconnections = 3\n",
    );
    let site = Site::around(Wire::in_rig(rig, &["--config", "{dir}/c.toml"], &[]));
    let held: Vec<Conn> = (0..3).map(|_| site.connect()).collect();
    let refused = eventually(|| {
        let mut conn = site.connect();
        conn.head().0 == 503
    });
    assert!(refused);
    drop(held);
    assert!(eventually(|| {
        let mut conn = site.connect();
        let request = modern(
            &json!(1),
            "tools/call",
            &json!({"name":"echo","arguments":{"text":"x"}}),
            "",
        );
        drop(conn.reader.get_mut().write_all(request.as_bytes()));
        conn.head().0 == 200
    }));
}

#[test]
fn a_stuck_reader_slows_nobody() {
    let site = Site::hostile(&["--response-limit", "4MiB"], &[]);
    let mut stuck = site.connect();
    let flood = json!({"name":"stdout_flood","arguments":{"lines":20000}});
    let log = "io.modelcontextprotocol/logLevel";
    let mut params = flood;
    params["_meta"][log] = json!("info");
    stuck.send(modern(&json!(1), "tools/call", &params, ""));
    let begun = Instant::now();
    for n in 0..50 {
        let text = n.to_string();
        let reply = site.call(&json!(1), "echo", &json!({"text":text}));
        assert_eq!(said(&reply.json()), text);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    // A session's stream that is not read is ended, and the session lives on.
    let session = site.initialize("2025-06-18");
    let header = format!("Mcp-Session-Id: {session}\r\n");
    let mut slow = site.connect();
    slow.send(post(
        &call(&json!(1), "stdout_flood", &json!({"lines":20000})),
        &header,
    ));
    assert_eq!(slow.head().0, 200);
    let reply = site.post(&session, &call(&json!(2), "echo", &json!({"text":"alive"})));
    let events = if reply.header("content-type") == Some("application/json") {
        vec![reply.json()]
    } else {
        reply.events()
    };
    assert_eq!(said(events.last().unwrap()), "alive");
}

#[test]
fn an_answer_above_the_limit_is_replaced() {
    let site = Site::hostile(&["--response-limit", "64KiB"], &[]);
    let reply = site.call(&json!("big"), "big", &json!({"bytes": 100_000}));
    let answer = reply.json();
    assert_eq!((reply.status, &answer["id"]), (200, &json!("big")));
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    assert_eq!(crate::wire::rule(&answer), "limits.response");
}

#[test]
fn policy_is_the_same_as_on_stdio() {
    let site = Site::logging(&["--deny-tool", "hang"], &[]);
    let reply = site.call(&json!("h"), "hang", &json!({}));
    let answer = reply.json();
    assert_eq!(
        (reply.status, &answer["id"]),
        (200, &json!("h")),
        "{answer}"
    );
    assert!(
        !crate::wire::rule(&answer).is_empty() || answer["error"]["code"] == -32602,
        "{answer}"
    );
    let listed = site.modern(&json!(2), "tools/list", &json!({})).json();
    let names: Vec<&Value> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| &tool["name"])
        .collect();
    assert!(
        names.contains(&&json!("echo")) && !names.contains(&&json!("hang")),
        "{names:?}"
    );
    let secret = json!({"jsonrpc":"2.0","id":"@ID@","result":{"content":[{"type":"text","text":"AKIAQ3EGPZYWVUTSRQ5N"}]}});
    let reply = site.call(&json!("s"), "emit", &lines(&[secret]));
    assert!(
        !reply.body.contains("AKIAQ3EGPZYWVUTSRQ5N") && reply.json()["id"] == "s",
        "{reply:?}"
    );
    assert!(!site.reached().contains("\"hang\""));
}

#[test]
fn another_address_or_required_identity_does_not_start() {
    let rig = crate::rig::Rig::new();
    let shown = rig.run(&["run", "--listen", "0.0.0.0:0", "--", "/bin/true"]);
    assert!(
        shown.starts_with("exit: 78") && shown.contains("not a loopback address"),
        "{shown}"
    );
    let rig = rig.file("c.toml", "[server]\ncommand = [\"/bin/true\"]\n[listen]\nhttp = \"127.0.0.1:0\"\nauth = \"required\"\n");
    let shown = rig.run(&["run", "--config", "c.toml"]);
    assert!(
        shown.starts_with("exit: 78") && shown.contains("listen.auth"),
        "{shown}"
    );
    let shown = rig.run(&["check", "--listen", "127.0.0.1:0", "--", "/bin/true"]);
    assert!(shown.contains("identity: none"), "{shown}");
}

#[test]
fn a_name_that_is_refused_is_told_once_and_not_for_ever() {
    let site = Site::hostile(&[], &[]);
    let ask = |host: &str| {
        let text = format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(site.ask(&text).status, 403);
    };
    (0..3).for_each(|_| ask("gate.example"));
    (0..40).for_each(|at| ask(&format!("host-{at}.example")));
    site.wire.until_stderr("host-14.example");
    assert!(eventually(|| site.wire.stderr().contains("gate.example")));
    let said = site.wire.stderr();
    let told: Vec<&str> = said
        .lines()
        .filter(|it| it.contains("listen.public_url"))
        .collect();
    assert_eq!(told.len(), 16, "{said}");
    assert_eq!(said.matches("gate.example").count(), 1, "{said}");
}

#[test]
fn a_listener_for_a_network_without_a_name_says_so_at_the_start() {
    let rig = crate::rig::Rig::new().file(
        "c.toml",
        "[listen]\nhttp = \"0.0.0.0:0\"\nauth = \"required\"\n\
         tls = { cert = \"tls/server.crt\", key = \"tls/server.key\" }\n[identity]\nkeys = \"clients.json\"\n",
    );
    crate::http_identity::certify(&rig, "tls");
    let add = ["client", "add", "one", "--keys", "clients.json"];
    crate::http_identity::program(&rig, &add);
    let site = Site::around(Wire::in_rig(rig, &["--config", "{dir}/c.toml"], &[]));
    let said = site.wire.stderr();
    let warned = "without `listen.public_url`, requests are served whose Host is `0.0.0.0:";
    assert!(said.contains(warned), "{said}");
}

#[test]
fn a_server_that_cannot_start_ends_the_listener_with_its_code() {
    let rig = crate::rig::Rig::new();
    let shown = rig.run(&[
        "run",
        "--listen",
        "127.0.0.1:0",
        "--audit",
        "off",
        "--preset",
        "none",
        "--",
        "/etc/hostname",
    ]);
    assert!(shown.starts_with("exit: 126"), "{shown}");
}

#[test]
fn a_socket_file_is_served_too() {
    let rig = crate::rig::Rig::new();
    let wire = Wire::in_rig(
        rig,
        &[
            "--listen",
            "unix:{dir}/mcp.sock",
            "--admin",
            "unix:{dir}/admin.sock",
        ],
        &[],
    );
    wire.until_stderr(" runs as ");
    let path = wire.rig.path().join("mcp.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let request = modern(
        &json!(1),
        "tools/call",
        &json!({"name":"echo","arguments":{"text":"unix"}}),
        "Connection: close\r\n",
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("unix"),
        "{text}"
    );
    let health = wire.admin("/health");
    assert!(
        health.contains("\"identity\": \"unix peer\"") && health.contains("\"state\": \"session\""),
        "{health}"
    );
    wire.terminate();
    let (over, rig) = wire.wait_in_rig();
    assert_eq!(over.code, 0, "{}", over.text());
    assert!(!rig.path().join("mcp.sock").exists());
}
