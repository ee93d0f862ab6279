//! Many clients: what a session costs, and that streams do not wait for each other.

use crate::web::{Conn, Site, call, get, modern, post};
use crate::wire::{Wire, said};
use serde_json::json;
use std::time::Instant;

/// Memory of the message process that nothing else has, in KiB.
fn own_kib(site: &Site) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", site.wire.pid());
    let text = std::fs::read_to_string(path).unwrap();
    let kib = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    kib("Private_Dirty:") + kib("Private_Clean:")
}

fn shared(connections: usize) -> Site {
    let config = format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\nshare = true\nsessions = 4096\nconnections = {connections}\n"
    );
    let rig = crate::rig::Rig::new().file("c.toml", config);
    Site::around(Wire::in_rig(rig, &["--config", "{dir}/c.toml"], &[]))
}

#[test]
fn a_thousand_idle_sessions_cost_at_most_16_kib_each() {
    const SESSIONS: u64 = 1000;
    let site = shared(4096);
    // What the first ones need is not what each needs.
    let warm: Vec<String> = (0..20).map(|_| site.initialize("2025-11-25")).collect();
    let mut held: Vec<Conn> = Vec::new();
    let before = own_kib(&site);
    for n in 0..SESSIONS {
        let session = site.initialize("2025-11-25");
        let mut conn = site.connect();
        let text = n.to_string();
        let message = call(&json!(1), "echo", &json!({"text":text}));
        conn.send(post(&message, &format!("Mcp-Session-Id: {session}\r\n")));
        assert_eq!(said(&conn.reply().json()), text);
        // The connection stays open, and idle.
        held.push(conn);
    }
    let each = own_kib(&site).saturating_sub(before) / SESSIONS;
    println!("{each} KiB for each of {SESSIONS} idle sessions with a connection");
    // Without optimisation what a task keeps is larger.
    let most = if cfg!(debug_assertions) { 32 } else { 16 };
    assert!(each <= most, "{each} KiB");
    assert_eq!(
        said(
            &site
                .post(&warm[0], &call(&json!(1), "echo", &json!({"text":"x"})))
                .json()
        ),
        "x"
    );
}

#[test]
fn two_hundred_streams_do_not_wait_for_one_that_is_stuck() {
    let site = shared(1024);
    let sessions: Vec<String> = (0..200).map(|_| site.initialize("2025-11-25")).collect();
    let mut streams: Vec<Conn> = Vec::new();
    for session in &sessions {
        let mut conn = site.connect();
        conn.send(get(session, ""));
        assert_eq!(conn.head().0, 200);
        streams.push(conn);
    }
    let changed = json!({"jsonrpc":"2.0","method":"notifications/tools/list_changed"});
    let done = json!({"jsonrpc":"2.0","id":"@ID@","result":{"content":[]}});
    let begun = Instant::now();
    for _ in 0..20 {
        let arguments = crate::web::lines(&[changed.clone(), done.clone()]);
        let request = modern(
            &json!(1),
            "tools/call",
            &json!({"name":"echo","arguments":{"text":"m"}}),
            "",
        );
        assert_eq!(said(&site.ask(&request).json()), "m");
        site.post(&sessions[0], &call(&json!(1), "emit", &arguments));
    }
    // The first one never reads; all others have everything.
    for conn in &mut streams[1..] {
        for _ in 0..20 {
            conn.until("list_changed");
        }
    }
    println!("20 notices on 200 streams in {:?}", begun.elapsed());
}
