//! A server behind the listener dies or is replaced, and its clients' sessions live on.

use crate::rig::Rig;
use crate::rotation::{fingerprint, replace, value};
use crate::web::{self, Conn, Site, get};
use crate::wire::{Wire, eventually, processes, refused_by, rule, said};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The fake server `mortal` behind a listener, with this in its configuration.
fn mortal(config: &str, server: &[&str]) -> Site {
    let config = format!("{config}\n[audit]\nfile = \"audit.jsonl\"\n");
    let rig = Rig::new().file("token", value(0)).file("c.toml", config);
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--admin",
        "unix:{dir}/admin.sock",
    ];
    Site::around(Wire::mortal(rig, &flags, server))
}

const LISTEN: &str = "[server]\nname = \"it\"\n[listen]\nhttp = \"127.0.0.1:0\"\n";

fn request(session: &str, id: u64, method: &str, params: &Value) -> String {
    let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    web::post(&body, &format!("Mcp-Session-Id: {session}\r\n"))
}

fn call(session: &str, id: u64, tool: &str, arguments: &Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    request(session, id, "tools/call", &params)
}

fn ask(site: &Site, session: &str, id: u64, tool: &str, arguments: &Value) -> Value {
    ask_at(site.address, session, id, tool, arguments)
}

fn ask_at(at: SocketAddr, session: &str, id: u64, tool: &str, arguments: &Value) -> Value {
    let mut conn = Conn::to(at);
    conn.send(call(session, id, tool, arguments));
    let reply = conn.reply();
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer = match reply.header("content-type") {
        Some("text/event-stream") => reply.events().pop().unwrap(),
        _ => reply.json(),
    };
    assert_eq!(answer["id"], id, "{reply:?}");
    answer
}

fn works(site: &Site, session: &str, id: u64) {
    let answer = ask(site, session, id, "work", &json!({"key": id}));
    assert_eq!(said(&answer), id.to_string(), "{answer}");
}

fn notes(site: &Site, name: &str) -> String {
    let path = site.wire.path().join("notes").join(name);
    std::fs::read_to_string(path).unwrap_or_default()
}

fn note(site: &Site, name: &str, text: &str) {
    std::fs::write(site.wire.path().join("notes").join(name), text).unwrap();
}

fn servers(site: &Site) -> usize {
    let all = processes(&site.wire.mark);
    let is_ours = |line: &str| {
        line.split(' ')
            .next()
            .is_some_and(|it| it.ends_with("cofferdam"))
    };
    all.iter().filter(|(_, line)| !is_ours(line)).count()
}

#[test]
fn the_session_goes_on_after_every_end_and_the_next_server_knows_what_the_last_one_knew() {
    let site = mortal(LISTEN, &[]);
    let session = site.initialize("2025-11-25");
    let mut stream = site.connect();
    stream.send(get(&session, ""));
    assert_eq!(stream.head().0, 200);
    let level = request(&session, 1, "logging/setLevel", &json!({"level": "debug"}));
    assert_eq!(site.ask(&level).status, 200);
    for (id, method, uri) in [
        (2, "resources/subscribe", "file:///a"),
        (3, "resources/subscribe", "file:///b"),
        (4, "resources/unsubscribe", "file:///a"),
    ] {
        assert_eq!(
            site.ask(&request(&session, id, method, &json!({"uri": uri})))
                .status,
            200
        );
    }
    let ends = [
        ("die", json!({"signal": 9})),
        ("die", json!({"signal": 6})),
        ("exit", json!({"code": 0})),
        ("exit", json!({"code": 3})),
    ];
    for (id, (tool, arguments)) in (10..).step_by(10).zip(&ends) {
        works(&site, &session, id);
        let answer = ask(&site, &session, id + 1, tool, arguments);
        refused_by(&answer, "server.gone");
        assert!(said(&answer).contains("outcome is unknown"), "{answer}");
        works(&site, &session, id + 2);
    }
    assert_eq!(notes(&site, "lives"), "5");
    let log = notes(&site, "log");
    for life in 2..=5 {
        let begin = format!("{life}\t");
        let methods: Vec<String> = log
            .lines()
            .filter_map(|line| line.strip_prefix(&begin))
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|message| message["method"].as_str().unwrap_or_default().to_owned())
            // Which tools it has cofferdam asks itself.
            .filter(|method| method != "tools/list")
            .collect();
        let expected = [
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "resources/subscribe",
            "tools/call",
        ];
        assert_eq!(methods[..5], expected, "life {life}");
    }
    assert!(!log.contains("cancelled"), "{log}");

    // One that says something else of itself: the client is told to list again, on the stream that it
    // has had all the while.
    let mut offer = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}},
        "serverInfo": {"name": "mortal", "version": "2"},
    });
    note(&site, "offer.json", &offer.to_string());
    refused_by(&ask(&site, &session, 60, "die", &json!({})), "server.gone");
    works(&site, &session, 61);
    let seen = stream.until("tools/list_changed");
    assert!(
        !seen.contains("\"id\":"),
        "it heard of nothing else: {seen}"
    );

    // One that cannot do what the client was promised: the session ends, clearly.
    offer["capabilities"] = json!({"tools": {"listChanged": true}});
    note(&site, "offer.json", &offer.to_string());
    refused_by(&ask(&site, &session, 70, "die", &json!({})), "server.gone");
    site.wire.until_stderr("it does not offer logging any more");
    assert!(eventually(|| site
        .ask(&call(&session, 71, "work", &json!({"key": 1})))
        .status
        == 404));
    while stream.chunk().is_some() {}
    assert!(eventually(|| servers(&site) == 0));
    assert_eq!(site.wire.metric("cofferdam_http_sessions"), 0.0);
    let again = site.initialize("2025-11-25");
    works(&site, &again, 1);
}

#[test]
fn what_may_run_twice_is_asked_again_and_the_rest_is_not_in_both_eras() {
    let tools = "[tools.gaze]\neffect = \"read\"\n";
    for legacy in [true, false] {
        let site = mortal(&format!("{LISTEN}{tools}"), &[]);
        let session = legacy.then(|| site.initialize("2025-06-18"));
        let begin = |id: u64, tool: &str| {
            let mut conn = site.connect();
            let arguments = json!({"key": id});
            conn.send(match &session {
                Some(session) => call(session, id, tool, &arguments),
                None => {
                    let params = json!({"name": tool, "arguments": arguments});
                    web::modern(&json!(id), "tools/call", &params, "")
                }
            });
            conn
        };
        assert_eq!(said(&begin(9, "work").reply().json()), "9");
        let (mut gaze, mut hang) = (begin(1, "gaze"), begin(2, "hang"));
        assert!(eventually(|| notes(&site, "ledger").contains("\"hang\"")));
        let mut die = begin(3, "die");
        refused_by(&hang.reply().json(), "server.gone");
        refused_by(&die.reply().json(), "server.gone");
        assert_eq!(said(&gaze.reply().json()), "in life 2");
        let ledger = notes(&site, "ledger");
        for (tool, times) in [("gaze", 2), ("hang", 1), ("die", 1)] {
            assert_eq!(
                ledger.matches(&format!("\"{tool}\"")).count(),
                times,
                "{ledger}"
            );
        }
    }
}

#[test]
fn what_comes_while_there_is_no_process_waits_and_runs_once() {
    let site = mortal(LISTEN, &["slow=500"]);
    let session = site.initialize("2025-11-25");
    works(&site, &session, 1);
    let mut die = site.connect();
    die.send(call(&session, 2, "die", &json!({})));
    refused_by(&die.reply().json(), "server.gone");
    let begun = Instant::now();
    let mut waiting: Vec<_> = (10..40)
        .map(|id| {
            let mut conn = site.connect();
            conn.send(call(&session, id, "work", &json!({"key": id})));
            (id, conn)
        })
        .collect();
    // One that its client does not want any more never reaches a server.
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 20}});
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    for noted in [cancel, changed] {
        assert_eq!(site.post(&session, &noted).status, 202);
    }
    for (id, conn) in &mut waiting {
        let reply = conn.reply();
        match id {
            20 => assert_eq!((reply.status, reply.body.as_str()), (200, "")),
            _ => assert_eq!(said(&reply.json()), id.to_string(), "{reply:?}"),
        }
    }
    assert!(
        begun.elapsed() > Duration::from_millis(300),
        "they had to wait"
    );
    let ledger = notes(&site, "ledger");
    for id in (10..40).filter(|id| *id != 20) {
        let ran = ledger
            .lines()
            .filter(|line| line.ends_with(&format!("\"work\" {id}")));
        assert_eq!(ran.count(), 1, "{id}: {ledger}");
    }
    assert!(!ledger.contains("\"work\" 20"), "{ledger}");
    let log = notes(&site, "log");
    let life = log
        .lines()
        .filter_map(|line| line.strip_prefix("2\t"))
        .collect::<Vec<_>>();
    assert!(
        life[0].contains("\"initialize\"") && life[1].contains("initialized"),
        "{life:?}"
    );
    assert!(
        log.contains("roots/list_changed") && !log.contains("cancelled"),
        "{log}"
    );

    // A session that is ended meanwhile leaves nothing behind.
    let mut die = site.connect();
    die.send(call(&session, 50, "die", &json!({})));
    refused_by(&die.reply().json(), "server.gone");
    let text =
        format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: {session}\r\n\r\n");
    assert_eq!(site.ask(&text).status, 204);
    assert!(eventually(|| servers(&site) == 0));
    works(&site, &site.initialize("2025-06-18"), 60);
}

#[test]
fn sessions_that_share_a_server_all_live_on() {
    let site = mortal(&format!("{LISTEN}share = true\n"), &[]);
    let sessions: Vec<String> = (0..5).map(|_| site.initialize("2025-11-25")).collect();
    for (id, session) in (1..).zip(&sessions) {
        works(&site, session, id);
    }
    for round in 1..=3 {
        refused_by(
            &ask(&site, &sessions[0], 100, "die", &json!({})),
            "server.gone",
        );
        for (id, session) in (round * 1000..).zip(&sessions) {
            works(&site, session, id);
        }
    }
    assert_eq!(notes(&site, "lives"), "4");
    assert_eq!(servers(&site), 1);
    // Those who come later are of the same.
    works(&site, &site.initialize("2025-11-25"), 5);
    let log = notes(&site, "log");
    assert_eq!(log.matches("\"initialize\"").count(), 4, "{log}");
}

/// Ends the server so that the next thousand do not start; asks until it is left alone.
fn until_parked(site: &Site, mut ask: impl FnMut(&str) -> Value) {
    note(site, "stillborn", "1000");
    refused_by(&ask("die"), "server.gone");
    let begun = Instant::now();
    while !site.wire.stderr().contains("the server is left alone") {
        let answer = ask("work");
        let rule = rule(&answer);
        assert!(
            ["server.gone", "server.unavailable"].contains(&rule),
            "{answer}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{}",
            site.wire.stderr()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let lives = notes(site, "lives");
    let begun = Instant::now();
    for _ in 0..20 {
        let answer = ask("work");
        assert_eq!(rule(&answer), "server.unavailable", "{answer}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "who is refused need not wait"
    );
    assert_eq!(notes(site, "lives"), lives, "it is not started for them");
    assert!(eventually(
        || site.wire.metric("cofferdam_child_parked") >= 1.0
    ));
}

#[test]
fn a_crash_loop_is_left_alone_and_says_so_for_each_kind_of_client() {
    for (share, revision) in [(false, "2025-11-25"), (true, "2025-06-18")] {
        let site = mortal(&format!("{LISTEN}share = {share}\n"), &[]);
        let session = site.initialize(revision);
        works(&site, &session, 1);
        let mut id = 1;
        until_parked(&site, |tool| {
            id += 1;
            ask(&site, &session, id, tool, &json!({"key": id}))
        });
        assert!(site.wire.admin("/health").contains("parked"));
    }
    let site = mortal(LISTEN, &[]);
    let modern = |tool: &str| {
        let reply = site.call(&json!(1), tool, &json!({"key": 1}));
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    };
    assert_eq!(said(&modern("work")), "1");
    until_parked(&site, modern);
}

#[test]
fn those_who_come_start_no_crash_loop_and_a_session_that_works_goes_on() {
    let site = mortal(LISTEN, &[]);
    let session = site.initialize("2025-11-25");
    works(&site, &session, 1);
    note(&site, "stillborn", "1000");
    let begun = Instant::now();
    let refused = loop {
        let reply = site.ask(&web::post(&web::initialize("2025-11-25"), ""));
        let answer = reply.json();
        assert!(reply.header("mcp-session-id").is_none(), "{reply:?}");
        if rule(&answer) == "server.unavailable" && reply.status == 503 {
            break reply;
        }
        assert_eq!(rule(&answer), "server.gone", "{reply:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{}",
            site.wire.stderr()
        );
    };
    assert!(
        refused
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 5,
        "{refused:?}"
    );
    site.wire.until_stderr("the server is left alone");
    let lives = notes(&site, "lives");
    for _ in 0..10 {
        assert_eq!(
            site.ask(&web::post(&web::initialize("2025-06-18"), ""))
                .status,
            503
        );
    }
    let modern = site.call(&json!(7), "work", &json!({"key": 7}));
    refused_by(&modern.json(), "server.unavailable");
    assert_eq!(notes(&site, "lives"), lives);
    works(&site, &session, 2);
    assert_eq!(servers(&site), 1);
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ten rotations while three sessions ask 60 times a second, all in all.
fn rotate_under_load(way: &str, slow: u64) {
    let config = format!(
        "[server]\nname = \"it\"\nreplace = \"{way}\"\n[listen]\nhttp = \"127.0.0.1:0\"\n\
         [credentials.t]\nfile = \"token\"\ninject = {{ env = \"TOKEN\" }}\n"
    );
    let site = &mortal(&config, &[&format!("slow={slow}")]);
    let begun = Instant::now();
    let sessions: Vec<String> = (0..3).map(|_| site.initialize("2025-11-25")).collect();
    // Each start is alone here; three at a time are slower.
    let start = begun.elapsed();
    let at = site.address;
    let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen: Vec<_> = sessions.iter().map(|_| AtomicU64::new(0)).collect();
    let rounds: BTreeMap<String, u64> = (0..=10)
        .map(|round| (fingerprint(&value(round)), round.into()))
        .collect();
    let placed = || {
        let audit = std::fs::read_to_string(site.wire.path().join("audit.jsonl")).unwrap();
        let placed = |line: &&str| line.contains("\"type\":\"placed\"");
        audit.lines().filter(placed).count()
    };
    let mut worst = Duration::ZERO;
    std::thread::scope(|scope| {
        // However this ends, the load does.
        let _ends = Ends(&over);
        for (session, seen) in sessions.iter().zip(&seen) {
            let (over, calls, rounds) = (&over, &calls, &rounds);
            scope.spawn(move || {
                let mut id = 0;
                while !over.load(Ordering::Relaxed) {
                    id += 1;
                    let answer = ask_at(at, session, id, "token", &json!({}));
                    assert!(answer["result"]["isError"].is_null(), "{way}: {answer}");
                    let round = rounds[said(&answer)];
                    let before = seen.swap(round, Ordering::Relaxed);
                    assert!(before <= round, "{way}: an old value came back");
                    calls.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(45));
                }
            });
        }
        for round in 1..=10 {
            replace(&site.wire.path().join("token"), &value(round));
            let begun = Instant::now();
            let all = || {
                seen.iter()
                    .all(|seen| seen.load(Ordering::Relaxed) == u64::from(round))
            };
            while !all() {
                let late = begun.elapsed() > Duration::from_secs(20);
                assert!(
                    !late,
                    "{way}, round {round}, {seen:?}: {}",
                    site.wire.stderr()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            worst = worst.max(begun.elapsed());
            // Not before nobody holds the old one is it said to be in its place.
            let until = Instant::now() + Duration::from_secs(5);
            while placed() < round as usize && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(placed(), round as usize, "{way}: {}", site.wire.stderr());
        }
    });
    println!("{way}: {calls:?} calls, in use after {worst:?} at most; three starts take {start:?}");
    assert!(
        worst < Duration::from_secs(1) + start,
        "{way}: {worst:?}, a start {start:?}"
    );
    assert_eq!(site.wire.metric("cofferdam_child_replacements_total"), 30.0);
    assert!(eventually(|| servers(site) == 3));
    assert!(!site.wire.stderr().contains("Zq7vLm2Xw9"));
}

#[test]
fn ten_rotations_under_load_lose_no_call_of_any_session() {
    rotate_under_load("overlap", 300);
    rotate_under_load("swap", 0);
}

#[test]
fn a_value_is_not_said_to_be_in_its_place_while_a_session_holds_the_old_one() {
    let config =
        format!("{LISTEN}[credentials.t]\nfile = \"token\"\ninject = {{ env = \"TOKEN\" }}\n");
    let site = mortal(
        &config.replace("[listen]", "replace = \"overlap\"\n[listen]"),
        &[],
    );
    let (one, two) = (site.initialize("2025-11-25"), site.initialize("2025-06-18"));
    let mut long = site.connect();
    let header = format!("Mcp-Session-Id: {two}\r\n");
    long.send(web::post(
        &web::call(&json!("long"), "ask", &json!({})),
        &header,
    ));
    assert_eq!(long.head().0, 200);
    let question = long.until("roots/list");
    assert!(question.contains("\"id\":0"), "{question}");
    replace(&site.wire.path().join("token"), &value(1));
    let new = fingerprint(&value(1));
    assert!(eventually(|| said(&ask(
        &site,
        &one,
        1,
        "token",
        &json!({})
    )) == new));
    let audit = || std::fs::read_to_string(site.wire.path().join("audit.jsonl")).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(!audit().contains("\"placed\""), "{}", audit());
    // The answer of its client reaches the server that has asked; then it is replaced too.
    let answer = json!({"jsonrpc": "2.0", "id": 0, "result": {"roots": [7]}});
    assert_eq!(site.post(&two, &answer).status, 202);
    let told = long.until("[7]");
    assert!(told.contains("\"id\":\"long\""), "{told}");
    assert_eq!(said(&ask(&site, &two, 2, "token", &json!({}))), new);
    assert!(eventually(|| audit().contains("\"placed\"")), "{}", audit());
    assert!(eventually(|| servers(&site) == 2));
}

#[test]
fn one_that_cannot_take_over_changes_nothing_and_the_session_goes_on() {
    let config = "[server]\nname = \"it\"\nreplace = \"overlap\"\n[listen]\nhttp = \"127.0.0.1:0\"\n\
                  [credentials.t]\nfile = \"token\"\ninject = { env = \"TOKEN\" }\n";
    let site = mortal(config, &[]);
    let session = site.initialize("2025-11-25");
    works(&site, &session, 1);
    note(&site, "stillborn", "1");
    replace(&site.wire.path().join("token"), &value(1));
    site.wire
        .until_stderr("the next server is not taken, the one that serves goes on: it exited");
    // The next one can, and is tried at once.
    site.wire.until_stderr("the server was replaced within");
    let answer = ask(&site, &session, 2, "token", &json!({}));
    assert_eq!(said(&answer), fingerprint(&value(1)));
    note(
        &site,
        "offer.json",
        r#"{"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "mortal"}}"#,
    );
    replace(&site.wire.path().join("token"), &value(2));
    site.wire.until_stderr("it speaks another protocol version");
    works(&site, &session, 3);
    site.wire
        .until_stderr("the server keeps what it was started with");
    assert!(eventually(|| servers(&site) == 1));
    std::fs::remove_file(site.wire.path().join("notes/offer.json")).unwrap();
    replace(&site.wire.path().join("token"), &value(3));
    let replaced = || site.wire.stderr().matches("replaced within").count() == 2;
    assert!(eventually(replaced), "{}", site.wire.stderr());
    let answer = ask(&site, &session, 4, "token", &json!({}));
    assert_eq!(said(&answer), fingerprint(&value(3)));
    // The one that serves dies while the next one starts, and the session ends while another does.
    replace(&site.wire.path().join("token"), &value(4));
    refused_by(&ask(&site, &session, 5, "die", &json!({})), "server.gone");
    let new = fingerprint(&value(4));
    assert!(eventually(|| said(&ask(
        &site,
        &session,
        6,
        "token",
        &json!({})
    )) == new));
    assert!(eventually(|| servers(&site) == 1));
    replace(&site.wire.path().join("token"), &value(5));
    let text =
        format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: {session}\r\n\r\n");
    assert_eq!(site.ask(&text).status, 204);
    assert!(eventually(|| servers(&site) == 0));
}
