//! One server process, many clients: what one of them may not do to the others.

use crate::http_front::{Elsewhere, rule, site};
use crate::http_identity::program;
use crate::rig::Rig;
use crate::support::example;
use crate::web::{Conn, Reply, Site, call, initialize, modern, post};
use crate::wire::{Wire, eventually, mark, said};
use serde_json::{Value, json};
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The server `fixture` behind a listener that two clients have keys for.
fn two_clients(more: &str) -> (Site, [String; 2]) {
    let rig = Rig::new().file(
        "c.toml",
        format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\nauth = \"required\"\n[identity]\nkeys = \"clients.json\"\n{more}"
        ),
    );
    let keys = ["one", "two"].map(|name| {
        let key = program(&rig, &["client", "add", name, "--keys", "clients.json"]);
        format!("Authorization: Bearer {key}\r\n")
    });
    let mark = mark();
    let path = example("fixture").to_str().unwrap().to_owned();
    let flags = ["--config", "{dir}/c.toml"];
    let site = Site::around(Wire::start(rig, &mark, &flags, &[&path, &mark]));
    (site, keys)
}

/// A stream that is listened on, or the error in its place.
fn listen(address: SocketAddr, who: &str) -> Result<Conn, Value> {
    let params = json!({"notifications": {"toolsListChanged": true}});
    let mut conn = Conn::to(address);
    conn.send(modern(&json!("l"), "subscriptions/listen", &params, who));
    let (status, head) = conn.head();
    assert_eq!(status, 200, "{head}");
    if head.to_lowercase().contains("text/event-stream") {
        conn.until("acknowledged");
        return Ok(conn);
    }
    let reply = Reply {
        status,
        head,
        body: String::new(),
    };
    let length = reply.header("content-length").unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    conn.reader.read_exact(&mut body).unwrap();
    Err(serde_json::from_slice(&body).unwrap())
}

#[test]
fn a_client_listens_on_so_many_streams_and_others_find_room() {
    let (site, [one, two]) = two_clients("");
    let mut streams: Vec<Conn> = (0..32)
        .map(|_| listen(site.address, &one).unwrap())
        .collect();
    let refused = listen(site.address, &one).unwrap_err();
    assert_eq!(refused["error"]["code"], -32603, "{refused}");
    listen(site.address, &two).unwrap();
    streams.pop();
    assert!(eventually(|| listen(site.address, &one).is_ok()));
}

#[test]
fn streams_leave_connections_to_a_server_on_http_for_requests() {
    let there = Elsewhere::start(&[]);
    let site = site(&there, &[]);
    let _streams: Vec<Conn> = (0..128)
        .map(|_| listen(site.address, "").unwrap())
        .collect();
    let refused = listen(site.address, "").unwrap_err();
    assert_eq!(refused["error"]["code"], -32603, "{refused}");
    let reply = site.call(&json!(1), "echo", &json!({"text": "here"}));
    assert_eq!(said(&reply.json()), "here");
    // Where requests take all connections, the next one is told so, and does not wait for ever.
    let hang = json!({"name": "hang", "arguments": {}});
    let calls: Vec<Conn> = (0..128)
        .map(|at| {
            let mut conn = site.connect();
            conn.send(modern(&json!(at), "tools/call", &hang, ""));
            conn
        })
        .collect();
    let hung = || {
        there
            .seen()
            .iter()
            .filter(|it| it["body"]["params"]["name"] == "hang")
            .count()
    };
    assert!(eventually(|| hung() == 128));
    let begun = Instant::now();
    let reply = site.call(&json!(1), "echo", &json!({"text": "here"}));
    assert_eq!(rule(&reply.json()), "limits.waiting", "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    drop(calls);
    let again = || site.call(&json!(1), "echo", &json!({"text": "here"}));
    assert!(eventually(|| said(&again().json()) == "here"));
}

#[test]
fn a_task_is_for_whoever_began_it() {
    let (site, [one, two]) = two_clients("");
    let ask = |who: &str, method: &str, params: &Value| {
        let more = match params["taskId"].as_str() {
            Some(task) => format!("{who}Mcp-Name: {task}\r\n"),
            None => who.to_owned(),
        };
        site.ask(&modern(&json!(1), method, params, &more)).json()
    };
    let call = json!({"name": "task", "arguments": {"ms": 0}});
    let begun = ask(&one, "tools/call", &call);
    assert_eq!(begun["result"]["resultType"], "task", "{begun}");
    let task = json!({"taskId": begun["result"]["taskId"]});
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let answer = ask(&two, method, &task);
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        assert!(!answer.to_string().contains("done as a task"), "{answer}");
    }
    let found = ask(&one, "tasks/get", &task);
    assert_eq!(found["result"]["taskId"], task["taskId"], "{found}");
    assert_ne!(found["result"]["status"], "cancelled", "{found}");
    let unknown = ask(&two, "tasks/get", &json!({"taskId": "task-99"}));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
}

#[test]
fn who_hangs_up_or_cancels_keeps_its_place_while_the_server_works() {
    let (site, [one, two]) = two_clients("[limits]\nconcurrency = 1\n");
    let sleeps = |ms: u32| json!({"name": "sleep", "arguments": {"ms": ms}});
    let echo = json!({"name": "echo", "arguments": {"text": "here"}});
    let wait = || {
        let begun = Instant::now();
        let reply = site.ask(&modern(&json!(1), "tools/call", &echo, &two));
        assert_eq!(said(&reply.json()), "here", "{reply:?}");
        begun.elapsed()
    };
    assert!(wait() < Duration::from_secs(2));
    // The fixture says nothing to a request that was cancelled: its place is free again after a while.
    let mut leaves = site.connect();
    leaves.send(modern(&json!(1), "tools/call", &sleeps(100), &one));
    std::thread::sleep(Duration::from_millis(50));
    drop(leaves);
    let waited = wait();
    assert!(waited > Duration::from_secs(8), "{waited:?}");
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    // The same in a session.
    let opened = site.ask(&post(&initialize("2025-11-25"), &one));
    let session = opened.header("mcp-session-id").unwrap();
    let header = format!("{one}Mcp-Session-Id: {session}\r\n");
    let noted = json!({"jsonrpc":"2.0","method":"notifications/initialized"});
    assert_eq!(site.ask(&post(&noted, &header)).status, 202);
    let mut calls = site.connect();
    calls.send(post(
        &call(&json!(7), "sleep", &json!({"ms": 100})),
        &header,
    ));
    std::thread::sleep(Duration::from_millis(50));
    let cancelled =
        json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}});
    assert_eq!(site.ask(&post(&cancelled, &header)).status, 202);
    assert!(wait() > Duration::from_secs(8));
}

#[test]
fn a_place_is_free_again_with_the_late_answer() {
    let rig = Rig::new().file("c.toml", "[limits]\nconcurrency = 1\n");
    let site = Site::in_rig(rig, &["--config", "{dir}/c.toml"], &[]);
    let mut leaves = site.connect();
    let late = json!({"name": "late", "arguments": {"ms": 1500}});
    leaves.send(modern(&json!(1), "tools/call", &late, ""));
    std::thread::sleep(Duration::from_millis(200));
    drop(leaves);
    let begun = Instant::now();
    let reply = site.call(&json!(1), "echo", &json!({"text": "here"}));
    assert_eq!(said(&reply.json()), "here", "{reply:?}");
    let waited = begun.elapsed();
    assert!(waited > Duration::from_secs(1), "{waited:?}");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
}

#[test]
fn clients_that_share_a_server_get_the_revision_that_they_asked_for() {
    let rig = Rig::new().file("c.toml", "[listen]\nhttp = \"127.0.0.1:0\"\nshare = true\n");
    std::fs::create_dir(rig.path().join("log")).unwrap();
    let flags = "--config {dir}/c.toml --user root --write {dir}/log";
    let flags: Vec<&str> = flags.split(' ').collect();
    let server = ["log={dir}/log/lines"];
    let site = Site::around(Wire::in_rig(rig, &flags, &server));
    let revisions = ["2025-11-25", "2025-03-26", "2025-06-18"];
    // `initialize` looks at what the answer says.
    let sessions = [revisions, revisions]
        .concat()
        .iter()
        .map(|revision| site.initialize(revision))
        .collect::<Vec<_>>();
    for session in &sessions {
        let reply = site.post(session, &call(&json!(1), "echo", &json!({"text": "here"})));
        assert_eq!(said(&reply.json()), "here");
    }
    assert_eq!(site.reached().matches("\"initialize\"").count(), 3);
}

#[test]
fn what_waits_for_the_list_of_tools_is_bounded_in_bytes() {
    let site = Site::hostile(&[], &["nolist"]);
    let call = json!({"name": "echo", "arguments": {"text": "x".repeat(900_000)}});
    let ask = |conn: &mut Conn| conn.send(modern(&json!(1), "tools/call", &call, ""));
    let mut waiting: Vec<Conn> = (0..10).map(|_| site.connect()).collect();
    waiting.iter_mut().for_each(ask);
    std::thread::sleep(Duration::from_millis(500));
    let mut more = site.connect();
    ask(&mut more);
    let begun = Instant::now();
    let reply = more.reply();
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}
