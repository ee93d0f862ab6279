//! Health checks of a server on HTTP: who is down is refused at once and comes back by itself, and nobody is asked
//! anything unless the operator wants it.

use crate::http_front::{Elsewhere, front, rule};
use crate::rig::Rig;
use crate::support::{example, free_port};
use crate::web::Site;
use crate::wire::{Wire, eventually, mark, said};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server that does as it is told.
#[derive(Clone)]
struct Moody {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    mood: &'static str,
    /// What it was asked: the method of MCP, or the path of a GET.
    asked: Vec<String>,
}

impl Moody {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let moody = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(Mutex::new(State {
                mood: "well",
                asked: Vec::new(),
            })),
        };
        let own = moody.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let moody = own.clone();
                std::thread::spawn(move || while moody.answer(&stream).is_some() {});
            }
        });
        moody
    }

    fn feel(&self, mood: &'static str) {
        self.state.lock().unwrap().mood = mood;
    }

    fn mood(&self) -> &'static str {
        self.state.lock().unwrap().mood
    }

    fn count(&self, what: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.asked.iter().filter(|it| *it == what).count()
    }

    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default();
        let what = body["method"].as_str().unwrap_or(path).to_owned();
        self.state.lock().unwrap().asked.push(what.clone());
        while self.mood() == "deaf" {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (status, body) = match (self.mood(), &*what) {
            ("ill", _) => ("503 Unavailable", String::new()),
            ("rude", "tools/list") => ("500 Oops", String::new()),
            (_, "/healthz") => ("200 OK", "fine".to_owned()),
            (_, "tools/list") => {
                let result = json!({"jsonrpc": "2.0", "id": body["id"], "result": {"tools": []}});
                ("200 OK", result.to_string())
            }
            _ => ("404 Not Found", String::new()),
        };
        let text = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = stream;
        stream.write_all(text.as_bytes()).ok()
    }

    fn front(&self, health: &str) -> Wire {
        let mark = mark();
        let wire = Wire::start(
            self.rig(health),
            &mark,
            &[&FLAGS[..], &["--name", &mark]].concat(),
            &[],
        );
        wire.until_stderr("runs elsewhere");
        wire
    }

    fn rig(&self, health: &str) -> Rig {
        let url = format!("http://127.0.0.1:{}/mcp", self.port);
        Rig::new().file(
            "c.toml",
            format!("[server]\nurl = \"{url}\"\nhealth = {health}\n"),
        )
    }
}

const FLAGS: [&str; 4] = [
    "--config",
    "{dir}/c.toml",
    "--admin",
    "unix:{dir}/admin.sock",
];

fn health(wire: &Wire) -> Value {
    let text = wire.admin("/health");
    serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

fn is_down(wire: &Wire) -> bool {
    health(wire)["upstream"]["check"]["down"] == true
}

fn list(wire: &mut Wire, id: u32) -> Value {
    wire.ask(&id.to_string(), "tools/list", &json!({}))
}

/// Whether a check with this configuration sees a server in this mood.
fn goes_down_and_comes_back(config: &str, asks: &str, mood: &'static str) {
    let there = Moody::start();
    let mut wire = there.front(config);
    assert!(eventually(|| there.count(asks) > 0), "nobody asks");
    assert!(list(&mut wire, 1)["result"].is_object());
    assert!(eventually(
        || health(&wire)["upstream"]["check"]["at"].is_number()
    ));
    assert!(!is_down(&wire) && health(&wire)["ready"] == true);
    there.feel(mood);
    assert!(eventually(|| is_down(&wire)), "{}", health(&wire));
    let before = there.count("tools/list");
    let begun = Instant::now();
    let refused = list(&mut wire, 2);
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(rule(&refused), "server.unavailable", "{refused}");
    assert!(refused.to_string().contains("health check"), "{refused}");
    assert!(refused["error"]["data"]["retryAfterMs"].as_u64().unwrap() >= 1000);
    assert_eq!(there.count("tools/list"), before, "it was asked");
    let seen = health(&wire);
    assert_eq!(
        (&seen["ready"], &seen["upstream"]["answers"]),
        (&json!(false), &json!(false))
    );
    assert!(seen["upstream"]["problem"].is_string(), "{seen}");
    assert!(wire.admin("/health/ready").starts_with("HTTP/1.1 503"));
    assert!(wire.admin("/health/live").starts_with("HTTP/1.1 200"));
    assert!(wire.metric("cofferdam_upstream_up") < 0.5);
    let failures = "cofferdam_upstream_checks_total{outcome=\"failure\"}";
    assert!(wire.metric(failures) > 1.5);
    assert!(wire.metric("cofferdam_upstream_checks_total") > 2.5);
    let status = wire
        .rig()
        .command(&["status", &wire.mark])
        .output()
        .unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains(", down: "), "{status}");
    there.feel("well");
    assert!(eventually(|| !is_down(&wire)));
    assert!(list(&mut wire, 3)["result"].is_object());
    assert!(health(&wire)["ready"] == true && wire.metric("cofferdam_upstream_up") > 0.5);
    let said = wire.stderr();
    for words in ["the server is down: ", "passes its health check again"] {
        assert_eq!(said.matches(words).count(), 1, "{words}: {said}");
    }
    assert_eq!(wire.finish().code, 0);
}

const SOON: &str = "{ every = \"1s\", timeout = \"300ms\", failures = 2 }";
const BY_PATH: &str = "{ every = \"1s\", timeout = \"300ms\", failures = 2, path = \"/healthz\" }";

#[test]
fn one_that_says_nothing_is_down_until_it_does() {
    goes_down_and_comes_back(SOON, "server/discover", "deaf");
}

#[test]
fn one_that_says_so_itself_is_down_until_it_does_not() {
    goes_down_and_comes_back(BY_PATH, "/healthz", "ill");
}

#[test]
fn requests_that_fail_count_and_are_checked_at_once() {
    let there = Moody::start();
    let mut wire = there.front("{ every = \"1h\", timeout = \"1s\" }");
    assert!(eventually(|| there.count("server/discover") == 1));
    // A request that fails for reasons of its own: the check clears the server.
    there.feel("rude");
    assert_eq!(rule(&list(&mut wire, 1)), "server.status");
    assert!(eventually(|| there.count("server/discover") == 2));
    assert!(eventually(
        || health(&wire)["upstream"]["check"]["failures"] == 0
    ));
    assert!(!is_down(&wire));
    // All of them do: it is down long before the hour is over, and back again.
    there.feel("ill");
    assert_eq!(rule(&list(&mut wire, 2)), "server.busy");
    assert_eq!(rule(&list(&mut wire, 3)), "server.busy");
    assert!(eventually(|| is_down(&wire)), "{}", health(&wire));
    assert_eq!(rule(&list(&mut wire, 4)), "server.unavailable");
    there.feel("well");
    assert!(eventually(|| !is_down(&wire)), "{}", health(&wire));
    assert!(list(&mut wire, 5)["result"].is_object());
}

#[test]
fn who_wants_no_checks_asks_nobody() {
    let there = Elsewhere::start(&[]);
    let wire = front(&there.url, &["--admin", "unix:{dir}/admin.sock"]);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(there.seen(), Vec::<Value>::new());
    let seen = health(&wire);
    assert!(seen["upstream"]["check"].is_null() && seen["upstream"]["answers"].is_null());
    assert!(!wire.admin("/metrics").contains("cofferdam_upstream_up "));
}

#[test]
fn behind_the_listener_sessions_make_one_check_together() {
    let there = Moody::start();
    let mark = mark();
    let flags = [&FLAGS[..], &["--listen", "127.0.0.1:0", "--name", &mark]].concat();
    let wire = Wire::start(there.rig(SOON), &mark, &flags, &[]);
    wire.until_stderr("runs elsewhere");
    let site = Site::listening(wire);
    // A modern request has a bridge, and so has each that opens a session.
    let asked = |_| {
        let mut conn = site.connect();
        conn.send(crate::web::post(&crate::web::initialize("2025-11-25"), ""));
        conn
    };
    let waiting: Vec<_> = (0..8).map(asked).collect();
    assert!(site.modern(&json!(1), "tools/list", &json!({})).json()["result"].is_object());
    let before = there.count("server/discover");
    std::thread::sleep(Duration::from_millis(3200));
    let checks = there.count("server/discover") - before;
    assert!((2..=5).contains(&checks), "{checks}");
    there.feel("ill");
    assert!(eventually(|| is_down(&site.wire)));
    let refused = site.modern(&json!(2), "tools/list", &json!({}));
    assert_eq!(rule(&refused.json()), "server.unavailable", "{refused:?}");
    there.feel("well");
    assert!(eventually(|| {
        site.modern(&json!(3), "tools/list", &json!({})).json()["result"].is_object()
    }));
    drop(waiting);
}

#[test]
fn a_server_in_the_cell_may_take_its_time_to_start() {
    let mark = mark();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/mcp");
    let rig = Rig::new().file(
        "c.toml",
        format!("[server]\nurl = \"{url}\"\ncommand = [\"x\"]\nhealth = {SOON}\n"),
    );
    let serving = example("serving");
    let command = [
        serving.to_str().unwrap(),
        &format!("127.0.0.1:{port}"),
        "late=2500",
        &mark,
    ];
    let flags = [&FLAGS[..], &["--url", &url, "--name", &mark]].concat();
    let mut wire = Wire::start(rig, &mark, &flags, &command);
    let answer = wire.ask("1", "tools/list", &json!({}));
    assert!(answer["result"].is_object(), "{answer}");
    assert!(eventually(
        || health(&wire)["upstream"]["check"]["at"].is_number()
    ));
    assert!(!is_down(&wire));
    assert_eq!(
        said(&wire.call("2", "echo", &json!({"text": "there"}))),
        "there"
    );
    // The next one starts as slowly, and is not held to what was known of this one.
    wire.begin("3", "act", &json!({"act": "exit 3"}));
    wire.answer("3");
    let answer = wire.ask("4", "tools/list", &json!({}));
    assert!(answer["result"].is_object(), "{answer}");
    assert_eq!(wire.finish().code, 0);
}
