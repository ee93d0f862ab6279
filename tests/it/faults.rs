//! Every fault of a server, for every era, on stdio and behind a listener: each request has exactly one
//! answer of the right type, no call runs twice, and nothing is left.
//!
//! A round is two dozen mixed requests with a call among them that makes the server fail; then the server
//! must answer again. Each fault once for each way in; `COFFERDAM_FULL=1` takes the slow ones everywhere
//! too, and twenty seeded rounds of each (two of the slow ones; `COFFERDAM_SEED`). The clock of the host is not moved: nothing
//! here could have one of its own, and deadlines are `Instant`s.

use crate::rig::Rig;
use crate::support::full;
use crate::web::{self, Conn, Site};
use crate::wire::{Wire, eventually, rule, said};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Faults that are over at once, or that end the server.
const QUICK: [&str; 10] = [
    "kill",
    "exit",
    "stillborn",
    "half",
    "garbage",
    "flood",
    "bomb",
    "drip",
    "twice",
    "foreign",
];
/// Faults that are known by what does not happen: a call has to expire, then a ping.
const SLOW: [&str; 3] = ["stop", "deaf", "mute"];
/// Requests of a round.
const MIXED: u64 = 24;
const MODERN: &str = "2026-07-28";
const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// Expiry, the ping and a start; two cores run many tests.
const BACK: Duration = Duration::from_secs(20);

/// Rules under which cofferdam answers in the place of a server.
const OURS: [&str; 4] = [
    "server.gone",
    "server.unavailable",
    "limits.timeout",
    "server.busy",
];

const CONFIG: &str =
    "[server]\nname = \"it\"\n[limits]\ntimeout = \"1s\"\n[cell]\nmemory = \"256MiB\"\n";

fn rounds(fault: &str) -> u64 {
    match (full(), SLOW.contains(&fault)) {
        (false, _) => 1,
        (true, true) => 2,
        (true, false) => 20,
    }
}

/// What was asked, so that its answer can be judged.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Asked {
    Work(u64),
    Ping,
    Unknown,
    Fail,
    Cancelled(u64),
}

/// xorshift64*: repeatable, and nothing here needs better.
struct Dice(u64);

impl Dice {
    fn seeded(salt: &str) -> Self {
        let seed = std::env::var("COFFERDAM_SEED").ok();
        let seed: u64 = seed
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(20_261_122);
        let salt = salt
            .bytes()
            .fold(seed, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        Self(salt | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    /// The requests of a round, numbered from `first`.
    fn round(&mut self, first: u64) -> Vec<(u64, Asked)> {
        let at = 2 + self.below(MIXED - 8);
        let kind = |id: u64, dice: u64| match dice {
            0 => Asked::Ping,
            1 => Asked::Unknown,
            2 => Asked::Cancelled(id),
            _ => Asked::Work(id),
        };
        (0..MIXED)
            .map(|n| {
                (
                    first + n,
                    if n == at {
                        Asked::Fail
                    } else {
                        kind(first + n, self.below(10))
                    },
                )
            })
            .collect()
    }
}

/// Method and parameters, without what a revision adds.
fn message(asked: Asked, fault: &str, legacy: bool) -> (&'static str, Value) {
    let call = |tool: &str, arguments: Value| {
        ("tools/call", json!({"name": tool, "arguments": arguments}))
    };
    match asked {
        Asked::Work(key) | Asked::Cancelled(key) => call("work", json!({"key": key})),
        Asked::Fail => call("fail", json!({"kind": fault})),
        Asked::Ping if legacy => ("ping", json!({})),
        Asked::Ping => ("tools/list", json!({})),
        Asked::Unknown => ("no/such", json!({})),
    }
}

/// True when the server itself has answered; panics when the answer is none of this request's.
fn judge(asked: Asked, answer: &Value, about: &str) -> bool {
    let own = match asked {
        Asked::Work(key) | Asked::Cancelled(key) => said(answer) == format!("did {key}"),
        Asked::Fail => said(answer) == "failed",
        Asked::Ping => answer["result"].is_object(),
        Asked::Unknown => answer["error"]["code"] == -32601,
    };
    let tool = !matches!(asked, Asked::Ping | Asked::Unknown);
    let ours = OURS.contains(&rule(answer)) && (answer["result"]["isError"] == true) == tool;
    assert!(own || ours, "{about}: {asked:?} was answered {answer}");
    own
}

/// Each key that was run, none twice.
fn ledger(notes: &Path, about: &str) -> usize {
    let text = std::fs::read_to_string(notes.join("ledger")).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for key in text.lines() {
        assert!(seen.insert(key.to_owned()), "{about}: {key} was run twice");
    }
    seen.len()
}

/// Threads and descriptors of a process.
fn belongings(pid: u32) -> (usize, usize) {
    let count = |what| {
        std::fs::read_dir(format!("/proc/{pid}/{what}"))
            .unwrap()
            .count()
    };
    (count("task"), count("fd"))
}

fn lives(notes: &Path) -> usize {
    std::fs::read_to_string(notes.join("lives"))
        .unwrap_or_default()
        .lines()
        .count()
}

/// Faults that this way in has to bear now.
fn table(slow: &[&'static str]) -> Vec<&'static str> {
    let mut all = QUICK.to_vec();
    all.extend(if full() { &SLOW[..] } else { slow });
    all
}

fn on_stdio(revision: &str, slow: &[&'static str]) {
    let legacy = revision != MODERN;
    let rig = Rig::new().file("c.toml", CONFIG);
    let mut wire = Wire::noting("faulty", rig, &["--config", "{dir}/c.toml"], &[]);
    let notes = wire.path().join("notes");
    if legacy {
        let hello = json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
        assert_eq!(
            wire.ask("1", "initialize", &hello)["result"]["protocolVersion"],
            revision
        );
        wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    }
    let send = |wire: &mut Wire, id: u64, asked, fault: &str| {
        let (method, mut params) = message(asked, fault, legacy);
        if !legacy {
            params = web::modern_body(&json!(id), method, &params)["params"].clone();
        }
        wire.request(&id.to_string(), method, &params);
    };
    send(&mut wire, 2, Asked::Work(2), "");
    assert_eq!(said(&wire.answer("2")), "did 2");
    let before = belongings(wire.pid());
    let (mut id, mut dice) = (10, Dice::seeded(revision));
    for fault in table(slow) {
        for _ in 0..rounds(fault) {
            let about = format!("stdio, {revision}, {fault}");
            let round = dice.round(id + 1);
            id += MIXED;
            for (id, asked) in &round {
                send(&mut wire, *id, *asked, fault);
                if matches!(asked, Asked::Cancelled(_)) {
                    wire.send(format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#));
                }
            }
            let mut cancelled = BTreeSet::new();
            for (id, asked) in round {
                if matches!(asked, Asked::Cancelled(_)) {
                    cancelled.insert(id);
                } else {
                    judge(asked, &wire.answer(&id.to_string()), &about);
                }
            }
            let begun = Instant::now();
            loop {
                id += 1;
                send(&mut wire, id, Asked::Work(id), "");
                if judge(Asked::Work(id), &wire.answer(&id.to_string()), &about) {
                    break;
                }
                assert!(
                    begun.elapsed() < BACK,
                    "{about}: it does not come back: {}",
                    wire.stderr()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            // At most one for what was cancelled; nothing else that answers.
            for other in wire.others() {
                let late = other["id"].as_u64().is_some_and(|id| cancelled.remove(&id));
                assert!(late || other.get("method").is_some(), "{about}: {other}");
            }
            ledger(&notes, &about);
        }
    }
    assert!(ledger(&notes, revision) > 50, "the server has worked");
    assert!(lives(&notes) > 7, "the server has failed");
    assert!(
        eventually(|| belongings(wire.pid()) == before),
        "{revision}: threads and descriptors were {before:?}, are {:?}",
        belongings(wire.pid())
    );
    let stderr = wire.stderr();
    let (over, rig) = {
        wire.close_input();
        wire.wait_in_rig()
    };
    assert!(
        [0, 128 + 6, 128 + 9].contains(&over.code),
        "{}: {stderr}",
        over.code
    );
    nothing_is_left(&rig);
}

fn nothing_is_left(rig: &Rig) {
    let left = || -> Vec<_> {
        let run = std::fs::read_dir(rig.path().join("run")).unwrap();
        let all = run.map(|it| it.unwrap().path());
        all.flat_map(|path| match path.is_dir() && path.ends_with("cofferdam") {
            true => std::fs::read_dir(path)
                .unwrap()
                .map(|it| it.unwrap().path())
                .collect(),
            false => vec![path],
        })
        .collect()
    };
    assert!(
        eventually(|| left().is_empty()),
        "left behind: {:?}",
        left()
    );
}

#[test]
fn on_stdio_in_the_revisions_with_sessions() {
    let slow: [&[&'static str]; 4] = [&[], &[], &["deaf"], &["stop"]];
    std::thread::scope(|scope| {
        for (revision, slow) in LEGACY.into_iter().zip(slow) {
            scope.spawn(move || on_stdio(revision, slow));
        }
    });
}

#[test]
fn on_stdio_in_the_revision_without() {
    on_stdio(MODERN, &["mute"]);
}

/// What a listener said to one request: its only answer.
fn only_answer(reply: &web::Reply, id: u64, about: &str) -> Value {
    let streams = reply
        .header("content-type")
        .is_some_and(|it| it.starts_with("text/event-stream"));
    let mut all = match streams {
        true => reply.events(),
        false => vec![reply.json()],
    };
    all.retain(|it| it.get("method").is_none());
    assert!(
        all.len() == 1,
        "{about}: {} answers in {reply:?}",
        all.len()
    );
    let answer = all.remove(0);
    assert_eq!(answer["id"], id, "{about}: {reply:?}");
    answer
}

fn over_http(revision: &'static str, share: bool, slow: &[&'static str]) {
    let legacy = revision != MODERN;
    let config = format!("{CONFIG}[listen]\nhttp = \"127.0.0.1:0\"\nshare = {share}\n");
    let rig = Rig::new().file("c.toml", config);
    let wire = Wire::noting("faulty", rig, &["--config", "{dir}/c.toml"], &[]);
    let site = Site::around(wire);
    let notes = site.wire.path().join("notes");
    let session = legacy.then(|| site.initialize(revision));
    let request = |session: &Option<String>, id: u64, asked, fault: &str| {
        let (method, params) = message(asked, fault, legacy);
        match session {
            Some(session) => {
                let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
                web::post(&body, &format!("Mcp-Session-Id: {session}\r\n"))
            }
            None => web::modern(&json!(id), method, &params, ""),
        }
    };
    let first = site.ask(&request(&session, 2, Asked::Work(2), ""));
    assert_eq!(said(&only_answer(&first, 2, revision)), "did 2");
    let before = belongings(site.wire.pid());
    let (mut id, mut dice) = (10, Dice::seeded(revision));
    for fault in table(slow) {
        for _ in 0..rounds(fault) {
            let about = format!("HTTP, {revision}, share {share}, {fault}");
            let round = dice.round(id + 1);
            id += MIXED;
            let mut waiting: Vec<(u64, Asked, Conn)> = Vec::new();
            for (id, asked) in round {
                let mut conn = site.connect();
                conn.send(request(&session, id, asked, fault));
                // Who leaves has cancelled.
                if !matches!(asked, Asked::Cancelled(_)) {
                    waiting.push((id, asked, conn));
                }
            }
            for (id, asked, mut conn) in waiting {
                let reply = conn.reply();
                assert!([200, 404].contains(&reply.status), "{about}: {reply:?}");
                // Modern clients are told by the status too that there is no such method.
                let unknown = reply.status == 404;
                assert!(!unknown || asked == Asked::Unknown && !legacy, "{about}");
                judge(asked, &only_answer(&reply, id, &about), &about);
            }
            let begun = Instant::now();
            loop {
                id += 1;
                let reply = site.ask(&request(&session, id, Asked::Work(id), ""));
                // The session lives on, whatever becomes of its server.
                assert_eq!(reply.status, 200, "{about}: {reply:?}");
                if judge(Asked::Work(id), &only_answer(&reply, id, &about), &about) {
                    break;
                }
                assert!(
                    begun.elapsed() < BACK,
                    "{about}: it does not come back: {}",
                    site.wire.stderr()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            ledger(&notes, &about);
        }
    }
    assert!(ledger(&notes, revision) > 50, "the server has worked");
    assert!(lives(&notes) > 7, "the server has failed");
    assert!(
        eventually(|| belongings(site.wire.pid()) <= before),
        "{revision}: threads and descriptors were {before:?}, are {:?}",
        belongings(site.wire.pid())
    );
    site.wire.terminate();
    let (over, rig) = site.wire.wait_in_rig();
    assert!(
        [0, 128 + 6, 128 + 9].contains(&over.code),
        "{}",
        over.text()
    );
    nothing_is_left(&rig);
}

#[test]
fn behind_a_listener_in_the_revisions_with_sessions() {
    let ways = [
        (LEGACY[1], false, &[][..]),
        (LEGACY[2], false, &["stop"]),
        (LEGACY[3], false, &[]),
        (LEGACY[3], true, &[]),
    ];
    std::thread::scope(|scope| {
        for (revision, share, slow) in ways {
            scope.spawn(move || over_http(revision, share, slow));
        }
    });
}

#[test]
fn behind_a_listener_in_the_revision_without() {
    over_http(MODERN, false, &["deaf"]);
}

#[test]
fn a_crash_loop_is_left_alone_and_everything_is_answered() {
    let rig = Rig::new().file("c.toml", CONFIG);
    let mut wire = Wire::noting("faulty", rig, &["--config", "{dir}/c.toml"], &[]);
    let hello = json!({"protocolVersion": LEGACY[3], "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    wire.ask("1", "initialize", &hello);
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert_eq!(said(&wire.call("2", "work", &json!({"key": 2}))), "did 2");
    for (id, asked) in Dice::seeded("loop").round(10) {
        let (method, params) = message(asked, "loop", true);
        wire.request(&id.to_string(), method, &params);
        if !matches!(asked, Asked::Cancelled(_)) {
            // The next one is asked while the server is being started again.
            judge(asked, &wire.answer(&id.to_string()), "loop");
        }
    }
    wire.until_stderr("the server is left alone");
    let parked = lives(&wire.path().join("notes"));
    let begun = Instant::now();
    for id in 100..120 {
        let answer = wire.call(&id.to_string(), "work", &json!({"key": id}));
        assert_eq!(rule(&answer), "server.unavailable", "{answer}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "who is refused need not wait"
    );
    assert_eq!(
        lives(&wire.path().join("notes")),
        parked,
        "it is not started for them"
    );
    ledger(&wire.path().join("notes"), "loop");
    let (_, rig) = {
        wire.close_input();
        wire.wait_in_rig()
    };
    nothing_is_left(&rig);
}

/// The judge is judged: what a server does that nobody wraps must be seen.
#[test]
fn a_wrong_answer_is_seen() {
    let wrong = [
        (
            Asked::Work(1),
            json!({"result": {"content": [{"type": "text", "text": "did 2"}]}}),
        ),
        (Asked::Ping, json!({"error": {"code": -32601}})),
        (Asked::Unknown, json!({"result": {}})),
        (
            Asked::Work(1),
            json!({"error": {"data": {"rule": "server.gone"}}}),
        ),
    ];
    for (asked, answer) in wrong {
        let judged = std::panic::catch_unwind(|| judge(asked, &answer, ""));
        assert!(judged.is_err(), "{asked:?} {answer}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ledger"), "1\n2\n1\n").unwrap();
    assert!(std::panic::catch_unwind(|| ledger(dir.path(), "")).is_err());
}
