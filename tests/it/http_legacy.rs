//! Sessions of 2025-03-26 to 2025-11-25 on HTTP.

use crate::web::{Site, call, get, initialize, lines, post, until_reached};
use crate::wire::{eventually, processes, said};
use serde_json::{Value, json};

fn finished() -> Value {
    json!({"jsonrpc":"2.0","id":"@ID@","result":{"content":[{"type":"text","text":"done"}]}})
}

fn log(text: &str) -> Value {
    json!({"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":text}})
}

#[test]
fn every_revision_has_sessions() {
    let site = Site::hostile(&[], &[]);
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = site.initialize(revision);
        assert!(session.len() >= 32 && session.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let reply = site.post(&session, &call(&json!("a"), "echo", &json!({"text":"hi"})));
        assert_eq!((reply.status, said(&reply.json())), (200, "hi"));
        assert_eq!(reply.json()["id"], "a");
        // Primes and retry are of the last revision alone: older clients fail on an event without data.
        let reply = site.post(
            &session,
            &call(&json!(2), "emit", &lines(&[log("x"), finished()])),
        );
        assert_eq!(reply.header("content-type"), Some("text/event-stream"));
        assert_eq!(
            reply.body.contains("retry: "),
            revision == "2025-11-25",
            "{reply:?}"
        );
        assert_eq!(reply.events().len(), 2, "{reply:?}");
    }
}

#[test]
fn a_session_has_a_process_that_ends_with_it() {
    let site = Site::hostile(&[], &[]);
    let (one, two) = (site.initialize("2025-11-25"), site.initialize("2025-11-25"));
    assert_ne!(one, two);
    let running = || {
        let all = processes(&site.wire.mark).into_iter();
        all.filter(|(_, line)| line.contains("examples/hostile") && !line.contains("cofferdam"))
            .count()
    };
    assert_eq!(running(), 2);
    let delete = |session: &str| {
        let text =
            format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: {session}\r\n\r\n");
        site.ask(&text).status
    };
    assert_eq!(delete(&one), 204);
    assert!(eventually(|| running() == 1));
    let ping = json!({"jsonrpc":"2.0","id":1,"method":"ping"});
    assert_eq!(site.post(&one, &ping).status, 404);
    assert_eq!(delete(&one), 404);
    assert_eq!(site.post(&two, &ping).status, 200);
    // The server ends by itself: its session goes on with another.
    let reply = site.post(&two, &call(&json!(3), "exit", &json!({"code":3})));
    assert!(
        said(&reply.json()).contains("The server ended"),
        "{reply:?}"
    );
    assert_eq!(site.post(&two, &ping).status, 200);
    assert_eq!(delete(&two), 204);
    assert!(eventually(|| running() == 0));
}

#[test]
fn sessions_are_bounded() {
    let rig =
        crate::rig::Rig::new().file("c.toml", "[listen]\nhttp = \"127.0.0.1:0\"\nsessions = 2\n");
    let site = Site::around(crate::wire::Wire::in_rig(
        rig,
        &["--config", "{dir}/c.toml"],
        &[],
    ));
    let first = site.initialize("2025-06-18");
    site.initialize("2025-06-18");
    let reply = site.ask(&post(&initialize("2025-06-18"), ""));
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.json()["id"], 0);
    let text =
        format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: {first}\r\n\r\n");
    assert_eq!(site.ask(&text).status, 204);
    site.initialize("2025-06-18");
}

#[test]
fn a_session_whose_stream_breaks_off_makes_no_room_at_once() {
    let rig =
        crate::rig::Rig::new().file("c.toml", "[listen]\nhttp = \"127.0.0.1:0\"\nsessions = 2\n");
    let flags = ["--config", "{dir}/c.toml"];
    let site = Site::around(crate::wire::Wire::in_rig(rig, &flags, &[]));
    let (first, _) = (site.initialize("2025-11-25"), site.initialize("2025-11-25"));
    let mut stream = site.connect();
    stream.send(get(&first, ""));
    assert_eq!(stream.head().0, 200);
    drop(stream);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let reply = site.ask(&post(&initialize("2025-11-25"), ""));
    assert_eq!(reply.status, 503, "{reply:?}");
    let mut again = site.connect();
    again.send(get(&first, ""));
    assert_eq!(again.head().0, 200);
}

#[test]
fn a_get_brings_what_belongs_to_no_request() {
    let site = Site::hostile(&[], &[]);
    let session = site.initialize("2025-11-25");
    let mut stream = site.connect();
    stream.send(get(&session, ""));
    assert_eq!(stream.head().0, 200);
    stream.until("retry: ");
    let changed = json!({"jsonrpc":"2.0","method":"notifications/tools/list_changed"});
    let reply = site.post(
        &session,
        &call(&json!(1), "emit", &lines(&[changed, finished()])),
    );
    assert_eq!(
        reply.header("content-type"),
        Some("application/json"),
        "{reply:?}"
    );
    let seen = stream.until("list_changed");
    assert!(seen.contains("id: 0-"), "{seen}");
    // The newer replaces the older, which ends.
    let mut newer = site.connect();
    newer.send(get(&session, ""));
    assert_eq!(newer.head().0, 200);
    while stream.chunk().is_some() {}
}

#[test]
fn a_question_of_the_server_rides_the_open_request_and_its_answer_goes_back() {
    let site = Site::logging(&[], &[]);
    let session = site.initialize("2025-06-18");
    let question = json!({"jsonrpc":"2.0","id":0,"method":"roots/list"});
    let mut conn = site.connect();
    let header = format!("Mcp-Session-Id: {session}\r\n");
    conn.send(post(&call(&json!(0), "emit", &lines(&[question])), &header));
    assert_eq!(conn.head().0, 200);
    let seen = conn.until("roots/list");
    assert!(seen.contains("\"id\":0"), "{seen}");
    let answer = json!({"jsonrpc":"2.0","id":0,"result":{"roots":[]}});
    let reply = site.post(&session, &answer);
    assert_eq!((reply.status, reply.body.as_str()), (202, ""));
    until_reached(&site, "\"id\":0,\"result\":{\"roots\":[]}");
}

#[test]
fn a_stream_that_broke_off_goes_on_after_its_last_event() {
    let site = Site::hostile(&[], &[]);
    let session = site.initialize("2025-11-25");
    let header = format!("Mcp-Session-Id: {session}\r\n");
    let mut conn = site.connect();
    conn.send(post(
        &call(&json!("slow"), "emit", &lines(&[log("one"), log("two")])),
        &header,
    ));
    assert_eq!(conn.head().0, 200);
    let seen = conn.until("\"two\"");
    let first = seen
        .split("id: ")
        .find(|part| part.contains("\"one\""))
        .unwrap();
    let id = first.lines().next().unwrap().to_owned();
    drop(conn);
    // What comes while nobody listens is kept.
    site.post(&session, &call(&json!(2), "echo", &json!({"text":"x"})));
    let mut again = site.connect();
    again.send(get(&session, &format!("Last-Event-ID: {id}\r\n")));
    assert_eq!(again.head().0, 200);
    let seen = again.until("\"two\"");
    assert!(!seen.contains("\"one\""), "{seen}");
    // The answer comes on the stream that goes on; the server calls the request 2, after initialize.
    let mut answer = finished();
    answer["id"] = json!(2);
    site.post(
        &session,
        &call(&json!(3), "emit", &lines(&[answer, finished()])),
    );
    let seen = again.until("done");
    assert!(seen.contains("\"id\":\"slow\""), "{seen}");
    assert!(again.chunk().is_none());
    for wrong in ["x", "1", "1-", "-1", "1-x"] {
        let mut conn = site.connect();
        conn.send(get(&session, &format!("Last-Event-ID: {wrong}\r\n")));
        assert_eq!(conn.head().0, 400, "{wrong}");
    }
}

#[test]
fn a_lost_connection_cancels_nothing_and_a_notification_does() {
    let site = Site::logging(&[], &[]);
    let session = site.initialize("2025-11-25");
    let header = format!("Mcp-Session-Id: {session}\r\n");
    let mut conn = site.connect();
    conn.send(post(&call(&json!("h"), "hang", &json!({})), &header));
    until_reached(&site, "\"hang\"");
    drop(conn);
    site.post(&session, &call(&json!(1), "echo", &json!({"text":"x"})));
    assert!(!site.reached().contains("cancelled"));
    let cancel = |id: Value| json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":id}});
    assert_eq!(site.post(&session, &cancel(json!("unknown"))).status, 202);
    assert_eq!(site.post(&session, &cancel(json!("h"))).status, 202);
    until_reached(&site, "cancelled");
    let reached = site.reached();
    let find = |words: &str| -> Value {
        serde_json::from_str(reached.lines().find(|line| line.contains(words)).unwrap()).unwrap()
    };
    assert_eq!(
        find("cancelled")["params"]["requestId"],
        find("\"hang\"")["id"]
    );
    assert_eq!(reached.matches("cancelled").count(), 1);
}

#[test]
fn sessions_of_others_and_forged_ones_are_unknown() {
    let site = Site::logging(&[], &[]);
    let session = site.initialize("2025-11-25");
    until_reached(&site, "initialized");
    let before = site.reached();
    let ping = json!({"jsonrpc":"2.0","id":1,"method":"ping"});
    let mut forged = session.clone();
    forged.replace_range(0..1, if session.starts_with('0') { "1" } else { "0" });
    for id in [
        forged.as_str(),
        "",
        "x",
        &session.to_uppercase(),
        &format!("{session}0"),
        "../etc",
    ] {
        if id == session {
            continue;
        }
        let reply = site.post(id, &ping);
        assert_eq!(reply.status, 404, "{id}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.json()["error"]["code"], -32600, "{reply:?}");
        assert_eq!(reply.json()["id"], ping["id"]);
    }
    let twice = format!("Mcp-Session-Id: {session}\r\nMcp-Session-Id: {session}\r\n");
    assert_eq!(site.ask(&post(&ping, &twice)).status, 404);
    assert_eq!(site.ask(&post(&ping, "")).status, 400);
    let version = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 1999-01-01\r\n");
    assert_eq!(site.ask(&post(&ping, &version)).status, 400);
    let again = format!("Mcp-Session-Id: {session}\r\n");
    assert_eq!(
        site.ask(&post(&initialize("2025-11-25"), &again)).status,
        400
    );
    let batch = crate::web::raw_post(&json!([ping]).to_string(), &again);
    let reply = site.ask(&batch);
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (400, &json!(-32600))
    );
    assert_eq!(site.reached(), before);
}

#[test]
fn a_server_that_is_safe_to_share_has_one_process_for_all_sessions() {
    let rig =
        crate::rig::Rig::new().file("c.toml", "[listen]\nhttp = \"127.0.0.1:0\"\nshare = true\n");
    std::fs::create_dir(rig.path().join("log")).unwrap();
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--user",
        "root",
        "--write",
        "{dir}/log",
    ];
    let site = Site::around(crate::wire::Wire::in_rig(
        rig,
        &flags,
        &["log={dir}/log/lines"],
    ));
    let sessions: Vec<String> = (0..20).map(|_| site.initialize("2025-11-25")).collect();
    for (n, session) in sessions.iter().enumerate() {
        let text = n.to_string();
        let reply = site.post(session, &call(&json!(1), "echo", &json!({"text":text})));
        assert_eq!(
            (said(&reply.json()), &reply.json()["id"]),
            (text.as_str(), &json!(1))
        );
    }
    let reached = site.reached();
    assert_eq!(reached.matches("\"initialize\"").count(), 1);
    assert_eq!(reached.matches("notifications/initialized").count(), 1);
    assert!(
        !reached.contains("\"roots\""),
        "its questions could be answered by nobody: {reached}"
    );
    // Nobody is asked, and the server hears so at once.
    let question = json!({"jsonrpc":"2.0","id":77,"method":"roots/list"});
    let reply = site.post(
        &sessions[0],
        &call(&json!(2), "emit", &lines(&[question, finished()])),
    );
    assert_eq!(reply.header("content-type"), Some("application/json"));
    until_reached(&site, "\"id\":77,\"error\"");
    // One session's end is nobody else's.
    let text = format!(
        "DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: {}\r\n\r\n",
        sessions[0]
    );
    assert_eq!(site.ask(&text).status, 204);
    let ping = json!({"jsonrpc":"2.0","id":1,"method":"ping"});
    assert_eq!(site.post(&sessions[0], &ping).status, 404);
    assert_eq!(site.post(&sessions[1], &ping).status, 200);
}

#[test]
fn sessions_that_nobody_uses_end() {
    let rig = crate::rig::Rig::new().file(
        "c.toml",
        "[listen]\nhttp = \"127.0.0.1:0\"\nsession_idle = \"1s\"\n",
    );
    let site = Site::around(crate::wire::Wire::in_rig(
        rig,
        &["--config", "{dir}/c.toml"],
        &[],
    ));
    let session = site.initialize("2025-06-18");
    let ping = json!({"jsonrpc":"2.0","id":1,"method":"ping"});
    assert_eq!(site.post(&session, &ping).status, 200);
    site.wire
        .until_stderr("a session that nobody used has ended");
    assert_eq!(site.post(&session, &ping).status, 404);
}

#[test]
fn stateless_serves_the_modern_era_alone() {
    let rig = crate::rig::Rig::new().file(
        "c.toml",
        "[listen]\nhttp = \"127.0.0.1:0\"\nstate = \"stateless\"\n",
    );
    let site = Site::around(crate::wire::Wire::in_rig(
        rig,
        &["--config", "{dir}/c.toml"],
        &[],
    ));
    let reply = site.ask(&post(&initialize("2025-11-25"), ""));
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (400, &json!(-32022)),
        "{reply:?}"
    );
    assert_eq!(reply.json()["error"]["data"]["requested"], "2025-11-25");
    assert_eq!(
        said(&site.call(&json!(1), "echo", &json!({"text":"x"})).json()),
        "x"
    );
}
