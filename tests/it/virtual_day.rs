//! 24 hours in seconds: everything that takes the hour as an argument is driven through a day of mixed
//! load, rotations, reloads, replacements and crashes. Each request is answered once, the audit log and the
//! metrics agree with what was counted here, and what is kept is the same at noon as at midnight.
//!
//! A step is 10 s, and 1 s with `COFFERDAM_FULL=1`.

use crate::rig::Rig;
use crate::support::{self, full};
use crate::wire::{Wire, eventually, said};
use cofferdam::audit::Log;
use cofferdam::config::Config;
use cofferdam::policy::{Policy, scrub::Scrubber};
use cofferdam::proxy::{Outbox, Passage, Session};
use cofferdam::secret::Secret;
use cofferdam::supervise::{Due, Next, Restarts};
use cofferdam::telemetry::Metrics;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: u64 = 3600;

fn config(round: u64) -> Config {
    let text = format!(
        "[server]\nname = \"day\"\ncommand = [\"true\"]\n[limits]\ntimeout = \"30s\"\nrequest = \"{}KiB\"\nconcurrency = 64\n\
         [schema]\narguments = \"off\"\n[breaker]\ncalls = 50\npause = \"10s\"\n[repeats]\ncalls = 1000\n[tools.look]\neffect = \"read\"\n[tools.never]\nallow = false\n",
        64 + round % 7
    );
    support::config(&text)
}

fn policy(config: &Config, rotation: u64) -> Arc<Policy> {
    let value = format!("tok-{rotation}-Zq7vLm2Xw9Kd").into_bytes();
    let secret = Secret::new("TOKEN", value);
    Arc::new(Policy::new(config, Scrubber::new(config.scrub, &[secret])))
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// What the client waits for, and what came.
#[derive(Default)]
struct Client {
    next: u64,
    open: HashMap<u64, &'static str>,
    /// Cancelled: an answer may come.
    cancelled: HashMap<u64, ()>,
    ended: BTreeMap<&'static str, u64>,
    sent: u64,
}

impl Client {
    fn take(&mut self, bytes: &[u8]) {
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let message: Value = serde_json::from_slice(line).unwrap();
            if message.get("method").is_some() {
                continue;
            }
            let id = message["id"].as_u64().unwrap();
            if self.cancelled.remove(&id).is_some() {
                continue;
            }
            let asked = self.open.remove(&id);
            let asked = asked.unwrap_or_else(|| panic!("answered twice or unasked: {message}"));
            let rule = crate::wire::rule(&message);
            let how = match (asked, rule) {
                (_, "limits.timeout") => "timeout",
                ("never", "tools.deny") => "refused",
                (_, "server.gone") => "unavailable",
                (_, "breaker.tool" | "breaker.server") => "breaker",
                (_, "") if message["result"]["isError"] == true => "tool_error",
                (_, "") => {
                    let text = said(&message);
                    assert!(
                        text == format!("did {id}") || asked == "other",
                        "{asked}: {message}"
                    );
                    "success"
                }
                (asked, rule) => panic!("{asked} got {rule}: {message}"),
            };
            *self.ended.entry(how).or_default() += 1;
        }
    }
}

/// A server that answers when its hour has come.
#[derive(Default)]
struct Server {
    up: bool,
    /// When, and what it says then.
    later: Vec<(Instant, Value)>,
    runs: HashMap<u64, u32>,
}

impl Server {
    fn hear(&mut self, bytes: &[u8], now: Instant, dice: &mut Dice) {
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let message: Value = serde_json::from_slice(line).unwrap();
            let id = &message["id"];
            let result = match message["method"].as_str().unwrap_or_default() {
                _ if id.is_null() => continue,
                "initialize" => {
                    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "day", "version": "1"}})
                }
                "tools/list" => {
                    let tools = ["work", "look", "never"]
                        .map(|name| json!({"name": name, "inputSchema": {"type": "object"}}));
                    json!({"tools": tools})
                }
                "tools/call" => {
                    if message["params"]["name"] == "work" {
                        *self.runs.entry(id.as_u64().unwrap()).or_default() += 1;
                    }
                    let text = json!([{"type": "text", "text": format!("did {id}")}]);
                    let mut result = json!({"content": text});
                    match dice.below(100) {
                        0 => continue,
                        1 => {
                            // Long after it has expired.
                            let answer = json!({"jsonrpc": "2.0", "id": id, "result": result});
                            self.later
                                .push((now + Duration::from_secs(40 + dice.below(60)), answer));
                            continue;
                        }
                        2 | 3 => result["isError"] = json!(true),
                        4..=8 => {
                            let progress = json!({"progressToken": id, "progress": 1});
                            self.later.push((now, json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})));
                        }
                        _ => {}
                    }
                    result
                }
                _ => json!({}),
            };
            let calm = message["method"] == "initialize" || message["method"] == "tools/list";
            let wait = if calm { 0 } else { dice.below(9) };
            let answer = json!({"jsonrpc": "2.0", "id": id, "result": result});
            self.later.push((now + Duration::from_secs(wait), answer));
        }
    }
}

/// Everything together, and the hour.
struct Day {
    session: Session,
    restarts: Restarts,
    client: Client,
    server: Server,
    dice: Dice,
    now: Instant,
    crashes: u64,
}

impl Day {
    fn send(&mut self, out: &Outbox) {
        self.client.take(&out.to_client);
        if self.server.up {
            self.server.hear(&out.to_server, self.now, &mut self.dice);
        } else {
            assert!(out.to_server.is_empty(), "nobody is there to be told");
        }
    }

    fn say(&mut self, message: &Value) {
        let line = message.to_string();
        let mut out = Outbox::default();
        let passed = match self
            .session
            .client_line(line.as_bytes(), self.now, &mut out)
        {
            Passage::Pass => line.into_bytes(),
            Passage::Replace(line) => line,
            Passage::Stop => Vec::new(),
        };
        self.server.hear(&passed, self.now, &mut self.dice);
        self.send(&out);
    }

    fn ask(&mut self) {
        self.client.next += 1;
        let id = self.client.next;
        let call = |name: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name, "arguments": {"n": id % 50}, "_meta": {"progressToken": id}}});
        let (kind, message) = match self.dice.below(20) {
            0 => ("never", call("never")),
            1 => (
                "other",
                json!({"jsonrpc": "2.0", "id": id, "method": "resources/list"}),
            ),
            2..=6 => ("look", call("look")),
            _ => ("work", call("work")),
        };
        self.client.sent += 1;
        self.client.open.insert(id, kind);
        self.say(&message);
        if self.dice.below(40) == 0 && self.client.open.remove(&id).is_some() {
            self.client.cancelled.insert(id, ());
            self.say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}));
        }
    }

    /// The server ends, asked or not.
    fn lose(&mut self, how: &str) {
        self.server.up = false;
        self.server.later.clear();
        let mut out = Outbox::default();
        self.session.server_lost(how, b"", self.now, &mut out);
        out.to_server.clear();
        self.send(&out);
    }

    fn step(&mut self) {
        let (now, mut due) = (self.now, Vec::new());
        self.server.later.retain(|(at, message)| {
            let is_due = *at <= now;
            if is_due {
                due.push(message.clone());
            }
            !is_due
        });
        for message in due {
            let line = message.to_string();
            let mut out = Outbox::default();
            match self.session.server_line(line.as_bytes(), now, &mut out) {
                Passage::Pass => self.client.take(line.as_bytes()),
                Passage::Replace(line) => self.client.take(&line),
                Passage::Stop => {}
            }
            self.send(&out);
        }
        if self.session.next_due().is_some_and(|due| due <= now) {
            let mut out = Outbox::default();
            self.session.tick(now, &mut out);
            if !self.server.up {
                out.to_server.clear();
            }
            self.send(&out);
        }
        if self.restarts.step(now) == Some(Due::Start) {
            self.server.up = true;
            let mut out = Outbox::default();
            self.session.server_back(now, &mut out);
            self.send(&out);
        }
        if self.restarts.starting() && !self.session.reviving() {
            self.restarts.ready(now);
        }
    }
}

/// What all tables hold, in the only form that shows all of them.
fn size(session: &Session) -> usize {
    format!("{session:?}").len()
}

#[test]
fn a_day_of_load_rotations_reloads_and_crashes_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let now = Instant::now();
    let first = config(0);
    let metrics = Arc::new(Metrics::new().unwrap());
    let log = Log::open(Some(&path), "day", "p").unwrap();
    let mut day = Day {
        session: Session::new(&first, policy(&first, 0), log, Arc::clone(&metrics)),
        restarts: Restarts::new(true, Duration::from_secs(30), now),
        client: Client::default(),
        server: Server {
            up: true,
            ..Server::default()
        },
        dice: Dice(20_261_122),
        now,
        crashes: 0,
    };
    day.client.open.insert(0, "other");
    day.say(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "day", "version": "1"}}}));
    day.step();
    day.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let step = Duration::from_secs(if full() { 1 } else { 10 });
    let (mut seconds, mut sizes, mut rotation, mut reload) = (0, BTreeMap::new(), 0, 0);
    while day.now < now + DAY {
        day.now += step;
        seconds += step.as_secs();
        day.step();
        let serves = day.server.up && !day.restarts.down();
        if serves && (1..HOUR - 300).contains(&(seconds % HOUR)) {
            for _ in 0..1 + day.dice.below(4) {
                day.ask();
            }
        }
        if serves && seconds % 700 == 0 {
            day.crashes += 1;
            let next = day
                .restarts
                .ended(day.session.has_answered(), day.session.owes(), day.now);
            assert!(matches!(next, Next::Start(_)), "{next:?}");
            day.lose("it crashed");
        }
        if seconds % 600 == 0 {
            rotation += 1;
            day.session.adopt(policy(&config(reload), rotation));
            if day.server.up && !day.restarts.down() && !day.session.is_busy() {
                day.lose("it was replaced");
                day.restarts.planned(day.session.has_answered(), day.now);
            }
        }
        if seconds % 900 == 0 {
            reload += 1;
            let config = config(reload);
            day.session.renew(&config, policy(&config, rotation));
        }
        if seconds % 60 == 0 {
            day.session.tally().publish();
            day.session.audit().flush();
        }
        // Five quiet minutes end each hour: everything has been answered.
        if seconds % HOUR == 0 {
            assert!(
                day.client.open.is_empty(),
                "hour {}: {:?}",
                seconds / HOUR,
                day.client.open
            );
            assert_eq!(day.session.open(), 0);
            sizes.insert(seconds / HOUR, size(&day.session));
        }
    }
    day.session.tally().publish();
    day.session.audit().flush();
    println!(
        "{} requests, {} crashes, {rotation} rotations, {reload} reloads: {:?}; {sizes:?}",
        day.client.sent, day.crashes, day.client.ended
    );

    // What is kept is the same in both halves of the day, but for digits.
    let most = |from, to| sizes.range(from..=to).map(|(_, size)| *size).max().unwrap();
    let (before, after) = (most(6, 12), most(13, 24));
    assert!(
        after < before + before / 20,
        "{before} until noon, {after} until midnight: {sizes:?}"
    );
    for (id, times) in &day.server.runs {
        assert_eq!(*times, 1, "{id} was run {times} times");
    }
    // Everything happened, and is counted alike here, in the audit log and in the metrics.
    assert!(day.crashes > 100 && rotation == 144 && reload == 96);
    let ended = &day.client.ended;
    for how in ["success", "timeout", "unavailable", "tool_error", "refused"] {
        assert!(ended[how] > 10, "{how}: {ended:?}");
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let mut noted: BTreeMap<String, u64> = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["direction"] != "guard" {
            *noted
                .entry(line["status"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
    }
    // Of those that were cancelled nobody here knows how they ended.
    for how in ["unavailable", "tool_error", "refused"] {
        let (noted, ended) = (noted[how], ended[how]);
        assert!(
            noted >= ended && noted <= ended + ended / 10 + 5,
            "{how}: {noted} noted, {ended} seen"
        );
    }
    let rendered = String::from_utf8(metrics.render()).unwrap();
    let metric = |name: &str| -> u64 {
        let lines = rendered.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    assert_eq!(
        metric("cofferdam_timeouts_total"),
        noted["timeout"]
            + cancelled_and_expired(&day, metric("cofferdam_timeouts_total"), noted["timeout"])
    );
    assert_eq!(metric("cofferdam_requests_in_flight"), 0);
    assert_eq!(
        metric("cofferdam_refusals_total{direction=\"to_server\",rule=\"tools.deny\"}"),
        ended["refused"]
    );
}

/// Timeouts that no audit line has: their clients had cancelled, and are told nothing.
fn cancelled_and_expired(day: &Day, counted: u64, noted: u64) -> u64 {
    let more = counted - noted;
    assert!(
        more <= day.client.sent / 20,
        "{more} of {}",
        day.client.sent
    );
    more
}

/// Descriptors, threads and memory (KiB) of a process of ours.
fn belongings(pid: u32) -> (usize, usize, u64) {
    let count = |what| std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let memory = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    (count("fd"), count("task"), memory.unwrap_or(0))
}

/// What no virtual hour shows: descriptors and memory of the real processes, three minutes in the long run.
#[test]
fn real_minutes_of_the_same_leave_descriptors_threads_and_memory_as_they_were() {
    let minutes = if full() { 3.0 } else { 0.1 };
    let config = |round: u32| {
        let size = 64 + round % 7;
        format!(
            "[server]\nname = \"it\"\n[limits]\nrequest = \"{size}KiB\"\n[tools.look]\neffect = \"read\"\n[credentials.t]\nfile = \"token\"\ninject = {{ env = \"TOKEN\" }}\noverlap = \"5s\"\n"
        )
    };
    let rig = Rig::new()
        .file("c.toml", config(0))
        .file("token", "tok-0-Zq7vLm2Xw9");
    let flags = [
        "--config",
        "{dir}/c.toml",
        "--admin",
        "unix:{dir}/admin.sock",
    ];
    let mut wire = Wire::mortal(rig, &flags, &[]);
    wire.greet(&json!({}));
    let put = |wire: &Wire, name: &str, text: String| {
        let new = wire.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, wire.path().join(name)).unwrap();
    };
    let ours = |wire: &Wire| -> Vec<u32> {
        let all = crate::wire::processes(&wire.mark);
        let is_ours = |line: &str| {
            let mut words = line.split(' ');
            words.next().is_some_and(|it| it.ends_with("cofferdam"))
                && words.next() != Some("__cell")
        };
        all.iter()
            .filter(|(_, line)| is_ours(line))
            .map(|(pid, _)| *pid)
            .collect()
    };
    let begun = Instant::now();
    let (mut id, mut round, mut first) = (0_u32, 0, None);
    while begun.elapsed().as_secs_f64() < minutes * 60.0 {
        round += 1;
        for _ in 0..20 {
            id += 1;
            let name = if id % 3 == 0 { "look" } else { "work" };
            let answer = wire.call(&id.to_string(), name, &json!({"key": id}));
            assert_eq!(said(&answer), id.to_string(), "{answer}");
        }
        match round % 3 {
            0 => put(&wire, "token", format!("tok-{round}-Zq7vLm2Xw9")),
            1 => put(&wire, "c.toml", config(round)),
            _ => {
                id += 1;
                let answer = wire.call(&id.to_string(), "exit", &json!({"code": 3}));
                assert_eq!(crate::wire::rule(&answer), "server.gone", "{answer}");
            }
        }
        std::thread::sleep(Duration::from_millis(400));
        // After the first rounds everything that is needed once has been made.
        if round == 9 {
            first = Some(
                ours(&wire)
                    .into_iter()
                    .map(|pid| (pid, belongings(pid)))
                    .collect::<Vec<_>>(),
            );
        }
    }
    let first = first.unwrap();
    assert_eq!(
        first.len(),
        3,
        "the message process, its guardian, its spawner"
    );
    for (pid, (descriptors, threads, memory)) in first {
        let mut now = belongings(pid);
        // One more while a server is being replaced.
        assert!(
            eventually(|| {
                now = belongings(pid);
                now.0 <= descriptors + 1 && now.1 == threads
            }),
            "{pid}: {descriptors} descriptors, {threads} threads, now {now:?}"
        );
        assert!(
            now.2 < memory + 1024,
            "{pid}: {memory} KiB, now {} KiB",
            now.2
        );
        println!(
            "{pid}: {descriptors} descriptors, {threads} threads, {memory} KiB; after {round} rounds {now:?}"
        );
    }
    let ledger = std::fs::read_to_string(wire.path().join("notes/ledger")).unwrap();
    let runs = ledger.lines().filter(|line| !line.contains("exit")).count();
    let exits = ledger.lines().count() - runs;
    assert_eq!(runs + exits, id as usize, "each once");
    assert_eq!(wire.finish().code, 0);
}
