//! A client on stdio that waits for nothing, in front of a server on HTTP that takes its time: the session begins in
//! the order in which it was asked for.

use crate::http_front::{Elsewhere, front, modern, rule};
use crate::wire::{Wire, eventually, said};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const GREETING: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn hello() -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string()
}

fn request(id: u32, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

fn echo(id: u32) -> String {
    let params = json!({"name": "echo", "arguments": {"text": id.to_string()}});
    request(id, "tools/call", &params)
}

fn cancelled(id: u32) -> String {
    json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":id}})
        .to_string()
}

/// Everything in one write.
fn burst(wire: &mut Wire, lines: &[String]) {
    wire.send(lines.join("\n"));
}

/// What the server was sent by POST, each with the session that it names.
fn posted(there: &Elsewhere) -> Vec<(String, Option<String>)> {
    let all = there.seen().into_iter().filter(|it| it["method"] == "POST");
    let text = |it: &Value| it.as_str().map(str::to_owned);
    all.map(|it| {
        let method = text(&it["body"]["method"]).unwrap_or_default();
        (method, text(&it["head"]["mcp-session-id"]))
    })
    .collect()
}

#[test]
fn what_follows_the_opening_waits_for_it() {
    let there = Elsewhere::start(&["slow"]);
    let mut wire = front(&there.url, &[]);
    let mut lines = vec![hello(), GREETING.to_owned()];
    lines.push(request(1, "tools/list", &json!({})));
    lines.extend((2..20).map(echo));
    // Nobody is asked what is given up before its turn.
    lines.push(echo(30).replace("\"30\"", "\"given up\""));
    lines.push(cancelled(30));
    burst(&mut wire, &lines);
    assert_eq!(
        wire.answer("0")["result"]["serverInfo"]["name"],
        "elsewhere"
    );
    assert!(wire.answer("1")["result"]["tools"].is_array());
    for id in 2..20 {
        assert_eq!(said(&wire.answer(&id.to_string())), id.to_string());
    }
    let posted = posted(&there);
    let session = Some("session-1".to_owned());
    assert_eq!(posted[0], ("initialize".to_owned(), None));
    assert_eq!(
        posted[1],
        ("notifications/initialized".to_owned(), session.clone())
    );
    assert!(
        posted[2..].iter().all(|(_, named)| *named == session),
        "{posted:?}"
    );
    let seen = format!("{:?}", there.seen());
    assert!(
        !seen.contains("given up") && !seen.contains("cancelled"),
        "{seen}"
    );
    let over = wire.finish();
    assert_eq!((over.code, over.rest.len()), (0, 0), "{:?}", over.rest);
}

#[test]
fn modern_requests_and_the_end_of_the_opening_itself_wait_for_nothing() {
    let there = Elsewhere::start(&["slow"]);
    let mut wire = front(&there.url, &[]);
    let begun = Instant::now();
    let meta = &modern("", json!({}))["_meta"];
    let list = request(2, "tools/list", &json!({"_meta": meta}));
    burst(&mut wire, &[hello(), echo(1), list]);
    assert_eq!(wire.answer("2")["result"]["resultType"], "complete");
    assert!(
        begun.elapsed() < Duration::from_millis(600),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(said(&wire.answer("1")), "1");
    assert!(wire.answer("0")["result"].is_object());
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn an_opening_that_fails_keeps_nobody() {
    let there = Elsewhere::start(&["unready"]);
    let mut wire = front(&there.url, &[]);
    burst(&mut wire, &[hello(), GREETING.to_owned(), echo(1)]);
    assert_eq!(rule(&wire.answer("0")), "server.busy");
    // It goes on as it would have without us: this server asks for no session.
    assert_eq!(said(&wire.answer("1")), "1");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn so_many_may_wait_and_the_others_are_told_at_once() {
    let there = Elsewhere::start(&["slow"]);
    let mut wire = front(&there.url, &[]);
    let list = |id| request(id, "tools/list", &json!({}));
    let mut lines = vec![hello(), GREETING.to_owned()];
    lines.extend((1..=1100).map(list));
    burst(&mut wire, &lines);
    let (mut served, mut refused) = (0, Vec::new());
    for id in 1..=1100 {
        let answer = wire.answer(&id.to_string());
        match rule(&answer).as_str() {
            "" if answer["result"]["tools"].is_array() => served += 1,
            "limits.waiting" => refused.push(id),
            _ => panic!("{answer}"),
        }
    }
    // 1024 lines wait, and one of them is the greeting.
    assert_eq!(
        (served, refused),
        (1023, (1024..=1100).collect::<Vec<u32>>())
    );
    assert!(eventually(|| there.count("tools/list") == 1023));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn who_hangs_up_at_once_is_answered_too() {
    let there = Elsewhere::start(&["slow"]);
    let mut wire = front(&there.url, &["--timeout", "10s"]);
    burst(&mut wire, &[hello(), GREETING.to_owned(), echo(1)]);
    let over = wire.finish();
    let answered: Vec<&Value> = over.rest.iter().map(|it| &it["id"]).collect();
    assert_eq!(answered, [&json!(0), &json!(1)], "{:?}", over.rest);
}
