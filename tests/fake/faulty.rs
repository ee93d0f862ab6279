//! A server that fails in the way that a call asks for, amid other calls, and counts what it runs.
//!
//! `faulty MARK DIR`: in `DIR`, `ledger` gets a line for each call of `work` that it runs, `lives` one for
//! each of its processes, and `stillborn` holds how many of the next ones end before they read anything.
//! The tool `fail` has one argument, `kind`.

use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What is left of a fault that lasts.
#[derive(Default)]
struct Moods {
    /// Answers that are said twice, that have company, that come byte by byte.
    twice: u32,
    foreign: u32,
    drip: u32,
    mute: bool,
}

fn main() -> ExitCode {
    let dir = PathBuf::from(std::env::args().nth(2).unwrap_or_default());
    note(&dir.join("lives"), "1");
    let left: u64 = std::fs::read_to_string(dir.join("stillborn"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    if left > 0 {
        drop(std::fs::write(
            dir.join("stillborn"),
            (left - 1).to_string(),
        ));
        return ExitCode::from(5);
    }
    let (mut greeted, mut moods) = (false, Moods::default());
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let (id, params) = (&message["id"], &message["params"]);
        let result = match message["method"].as_str().unwrap_or_default() {
            "notifications/initialized" => {
                greeted = true;
                continue;
            }
            _ if id.is_null() || moods.mute => continue,
            "initialize" => json!({
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "faulty", "version": "1"},
            }),
            _ if !greeted && params["_meta"].is_null() => {
                let error = json!({"code": -32600, "message": "not greeted"});
                say(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
                continue;
            }
            "server/discover" | "ping" => json!({}),
            "tools/list" => {
                let tool = |name| json!({"name": name, "inputSchema": {"type": "object"}});
                json!({"tools": [tool("work"), tool("fail")]})
            }
            "tools/call" if params["name"] == "fail" => {
                let kind = params["arguments"]["kind"].as_str().unwrap_or_default();
                if let Some(code) = fail(kind, &dir, &mut moods) {
                    return ExitCode::from(code);
                }
                text("failed")
            }
            "tools/call" => {
                let key = &params["arguments"]["key"];
                note(&dir.join("ledger"), &key.to_string());
                text(&format!("did {key}"))
            }
            _ => {
                let error = json!({"code": -32601, "message": "Method not found"});
                say(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
                continue;
            }
        };
        if !moods.mute {
            answer(id, &result, &mut moods);
        }
    }
    ExitCode::SUCCESS
}

/// What a call asks for; a code when the process ends in order.
fn fail(kind: &str, dir: &Path, moods: &mut Moods) -> Option<u8> {
    match kind {
        "kill" => drop(raise(Signal::SIGKILL)),
        "exit" => return Some(7),
        "stop" => drop(raise(Signal::SIGSTOP)),
        // Crashes on start, twice; and again and again.
        "stillborn" | "loop" => {
            let lives = if kind == "loop" { 1000 } else { 2 };
            drop(std::fs::write(dir.join("stillborn"), lives.to_string()));
            return Some(6);
        }
        "half" => {
            put(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"type\":\"te");
            return Some(9);
        }
        "garbage" => {
            put(b"Starting up...\n\n\xff\xfe\x00\x1b[2J\n{\"jsonrpc\":\"2.0\"}\n[]\n42\n{\"a\":\n\r\n");
            put(&[b'x'; 100_000]);
            put(b"\n");
        }
        "flood" => {
            let notice = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "flood"}});
            for round in 0..20_000 {
                say(&notice);
                drop(writeln!(io::stderr(), "flood {round}"));
            }
        }
        "bomb" => {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            for _ in 0..4096 {
                kept.push(vec![1; 1 << 20]);
            }
        }
        // Reads nothing, says nothing, and lives.
        "deaf" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "mute" => moods.mute = true,
        "drip" => moods.drip = 4,
        "twice" => moods.twice = 16,
        "foreign" => moods.foreign = 16,
        _ => {}
    }
    None
}

fn answer(id: &Value, result: &Value, moods: &mut Moods) {
    let answer = |id: &Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
    if take(&mut moods.foreign) {
        // None of them is the id of an open request.
        let other = text("of somebody else");
        let as_text = json!(id.to_string().trim_matches('"'));
        for foreign in [json!(777_000_777), as_text, json!(-1), json!("nobody's")] {
            if foreign != *id {
                say(&json!({"jsonrpc": "2.0", "id": foreign, "result": other}));
            }
        }
    }
    if take(&mut moods.drip) {
        for byte in format!("{}\n", answer(id)).bytes() {
            put(&[byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        return;
    }
    say(&answer(id));
    if take(&mut moods.twice) {
        say(&answer(id));
    }
}

fn take(left: &mut u32) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

fn text(said: &str) -> Value {
    json!({"resultType": "complete", "content": [{"type": "text", "text": said}]})
}

fn say(message: &Value) {
    put(format!("{message}\n").as_bytes());
}

fn put(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    drop(out.write_all(bytes).and_then(|()| out.flush()));
}

fn note(path: &Path, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    drop(file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())));
}
