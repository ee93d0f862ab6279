//! A server that dies as it is told, and that is worth nothing until it has been greeted.
//!
//! `mortal MARK DIR`: in `DIR`, `log` gets `LIFE<TAB>LINE` for each line it reads, `ledger` one line for
//! each call that it runs, `lives` counts its processes, `offer.json` replaces its answer to
//! `initialize` (after `slow=MS`, a start that takes time), and `stillborn` holds how many of the next processes end before they read anything.
//! `tools.json` holds tools that it lists besides; it knows nothing of them and repeats their `key`.
//! One whose token begins with `bad` ends so too. With `linger` it stays until it is killed.

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

fn main() -> ExitCode {
    let dir = PathBuf::from(std::env::args().nth(2).unwrap_or_default());
    let life = number(&dir.join("lives")) + 1;
    put(&dir.join("lives"), life);
    let stillborn = number(&dir.join("stillborn"));
    if stillborn > 0 {
        put(&dir.join("stillborn"), stillborn - 1);
        return ExitCode::from(5);
    }
    let token = std::env::var("TOKEN").unwrap_or_default();
    if token.starts_with("bad") {
        return ExitCode::from(9);
    }
    let lingers = std::env::args().any(|arg| arg == "linger");
    if lingers {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        if set.thread_block().is_err() {
            return ExitCode::FAILURE;
        }
    }
    let kept = Arc::new(Mutex::new(from_file()));
    if std::env::args().any(|arg| arg == "reload") {
        reread_when_told(&kept);
    }
    if let Some(wait) = std::env::args().find_map(|arg| arg.strip_prefix("slow=")?.parse().ok()) {
        std::thread::sleep(std::time::Duration::from_millis(wait));
    }
    let (mut greeted, mut asked) = (false, None);
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        note(&dir.join("log"), &format!("{life}\t{line}"));
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let (id, params) = (&message["id"], &message["params"]);
        let method = message["method"].as_str().unwrap_or_default();
        match method {
            "initialize" => reply(id, &offer(&dir, params)),
            "notifications/initialized" => greeted = true,
            "server/discover" => reply(id, &json!({"resultType": "complete"})),
            "" => {
                if let Some(call) = asked.take() {
                    reply(&call, &text(&message["result"].to_string()));
                }
            }
            _ if !greeted && params["_meta"].is_null() => {
                say(
                    &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32600, "message": "not greeted"}}),
                );
            }
            "tools/list" => {
                let tools = [
                    "work", "look", "hang", "gaze", "die", "exit", "ask", "token", "leak",
                ];
                let plain = |name| json!({"name": name, "inputSchema": {"type": "object"}});
                let mut tools: Vec<Value> = tools.into_iter().map(plain).collect();
                tools.extend(["file", "kept", "say", "fail", "sight", "search"].map(plain));
                tools.push(json!({"name": "given", "inputSchema": {
                    "type": "object",
                    "properties": {"key": {"type": "integer"}, "token": {"type": "string", "minLength": 4}},
                    "required": ["key", "token"],
                    "additionalProperties": false,
                }}));
                let own = std::fs::read(dir.join("tools.json")).ok();
                let own = own.and_then(|text| serde_json::from_slice::<Vec<Value>>(&text).ok());
                tools.extend(own.unwrap_or_default());
                reply(id, &json!({ "tools": tools }));
            }
            "tools/call" => {
                let (name, arguments) = (params["name"].as_str(), &params["arguments"]);
                note(
                    &dir.join("ledger"),
                    &format!("{life} {} {}", params["name"], arguments["key"]),
                );
                match name.unwrap_or_default() {
                    "work" | "look" | "other" => reply(id, &text(&arguments["key"].to_string())),
                    // Never in its first life; afterwards at once.
                    "hang" | "gaze" if life == 1 => {}
                    "hang" | "gaze" => reply(id, &text(&format!("in life {life}"))),
                    // Like most servers it reads its token once, when it starts.
                    "token" => reply(id, &text(&fingerprint(&token))),
                    // And some read it again: each time, or when they are told to.
                    "file" => reply(id, &text(&fingerprint(&from_file()))),
                    "kept" if arguments["raw"] == true => {
                        reply(id, &text(&format!("it is {}.", lock(&kept))));
                    }
                    "kept" => reply(id, &text(&fingerprint(&lock(&kept)))),
                    "given" => {
                        let token = arguments["token"].as_str().unwrap_or_default();
                        let said = match arguments["key"].as_i64() {
                            Some(0) => fingerprint(token),
                            _ => format!("it is {token}."),
                        };
                        reply(id, &text(&said));
                    }
                    "search" => {
                        let reversed = arguments["reversed"].as_str().unwrap_or_default();
                        reply(id, &text(&search(reversed.as_bytes())));
                    }
                    "sight" => reply(id, &text(&sight())),
                    "say" => reply(id, &text(arguments["text"].as_str().unwrap_or_default())),
                    "fail" => {
                        let mut result = text(arguments["text"].as_str().unwrap_or_default());
                        result["isError"] = json!(true);
                        reply(id, &result);
                    }
                    "leak" => reply(id, &text(&format!("the token is {token}."))),
                    "ask" => {
                        asked = Some(id.clone());
                        say(&json!({"jsonrpc": "2.0", "id": 0, "method": "roots/list"}));
                    }
                    "exit" => {
                        return ExitCode::from(
                            u8::try_from(arguments["code"].as_u64().unwrap_or(0)).unwrap_or(0),
                        );
                    }
                    _ => {
                        let signal =
                            i32::try_from(arguments["signal"].as_u64().unwrap_or(9)).unwrap_or(9);
                        let signal = Signal::try_from(signal);
                        signal.and_then(nix::sys::signal::raise).ok();
                    }
                }
            }
            _ if id.is_null() => {}
            _ => reply(id, &json!({})),
        }
    }
    if lingers {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
    ExitCode::SUCCESS
}

fn from_file() -> String {
    let path = std::env::var("TOKEN_FILE").unwrap_or_default();
    std::fs::read_to_string(path).unwrap_or_default()
}

fn lock(kept: &Mutex<String>) -> String {
    kept.lock().map(|text| text.clone()).unwrap_or_default()
}

/// Before anything else is started, so that the signal never ends the process.
fn reread_when_told(kept: &Arc<Mutex<String>>) {
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    if set.thread_block().is_err() {
        return;
    }
    let kept = Arc::clone(kept);
    drop(std::thread::spawn(move || {
        while set.wait().is_ok() {
            if let Ok(mut text) = kept.lock() {
                *text = from_file();
            }
        }
    }));
}

/// What the file looks like from inside, and what can be done to it.
fn sight() -> String {
    let path = PathBuf::from(std::env::var("TOKEN_FILE").unwrap_or_default());
    let facts = std::fs::metadata(&path);
    let Ok(facts) = facts else {
        return "nothing".to_owned();
    };
    let beside = path.with_extension("mine");
    format!(
        "mode {:o} mine {} write {} replace {} beside {}",
        facts.mode() & 0o777,
        facts.uid() == nix::unistd::geteuid().as_raw(),
        OpenOptions::new().append(true).open(&path).is_ok(),
        std::fs::remove_file(&path).is_ok(),
        std::fs::write(beside, "x").is_ok(),
    )
}

/// Looks for a text wherever this process can look. It is given from behind, so that the search itself
/// puts it nowhere.
fn search(reversed: &[u8]) -> String {
    let holds = |bytes: &[u8]| {
        let last = reversed.first().copied();
        let mut ends = (0..bytes.len()).filter(|at| bytes.get(*at).copied() == last);
        ends.any(|at| {
            let from = (at + 1).checked_sub(reversed.len());
            from.is_some_and(|from| bytes[from..=at].iter().rev().eq(reversed))
        })
    };
    let mut found = Vec::new();
    let mut looked = 0;
    // By name too: where the list is closed, its entries need not be.
    let listed = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = (1..64).map(|pid| PathBuf::from(format!("/proc/{pid}")));
    let processes = listed.map(|entry| entry.path()).chain(named);
    for path in processes.chain([PathBuf::from("/proc/self")]) {
        for name in ["environ", "cmdline", "mountinfo", "status", "maps"] {
            if let Ok(bytes) = std::fs::read(path.join(name)) {
                looked += 1;
                if holds(&bytes) {
                    found.push(path.join(name));
                }
            }
        }
        let maps = std::fs::read_to_string(path.join("maps")).unwrap_or_default();
        let Ok(memory) = std::fs::File::open(path.join("mem")) else {
            continue;
        };
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let range = line.split(' ').next().unwrap_or_default().split_once('-');
            let Some((from, to)) = range else { continue };
            let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            let (from, to) = (number(from), number(to));
            let mut bytes = vec![0; usize::try_from((to - from).min(64 << 20)).unwrap_or(0)];
            let read = std::os::unix::fs::FileExt::read_at(&memory, &mut bytes, from);
            if let Ok(read) = read {
                looked += 1;
                if holds(&bytes[..read]) {
                    found.push(path.join("mem"));
                }
            }
        }
    }
    let mut directories: Vec<PathBuf> = ["HOME", "TMPDIR", "XDG_RUNTIME_DIR"]
        .into_iter()
        .filter_map(|name| Some(PathBuf::from(std::env::var_os(name)?)))
        .flat_map(|path| [path.clone(), path.join("..")])
        .chain(std::env::var_os("TOKEN_FILE").map(|path| PathBuf::from(path).with_file_name("")))
        .chain(["/run", "/tmp", "/dev/shm", "/etc"].map(PathBuf::from))
        .collect();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let bytes = std::fs::read(entry.path()).unwrap_or_default();
                    looked += 1;
                    if holds(&bytes) {
                        found.push(entry.path());
                    }
                }
                _ => {}
            }
        }
    }
    format!("found {} of {looked} {found:?}", found.len())
}

/// Which token it is, in a form that nobody takes for the token.
fn fingerprint(token: &str) -> String {
    let sum = token.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    format!("token {sum}")
}

fn offer(dir: &Path, params: &Value) -> Value {
    if let Ok(text) = std::fs::read_to_string(dir.join("offer.json"))
        && let Ok(offer) = serde_json::from_str(&text)
    {
        return offer;
    }
    json!({
        "protocolVersion": params["protocolVersion"],
        "capabilities": {"tools": {"listChanged": true}, "logging": {}, "resources": {"subscribe": true}},
        "serverInfo": {"name": "mortal", "version": "1"},
    })
}

fn text(said: &str) -> Value {
    json!({"content": [{"type": "text", "text": said}]})
}

fn reply(id: &Value, result: &Value) {
    say(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
}

fn say(message: &Value) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{message}").and_then(|()| out.flush()));
}

fn number(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn put(path: &Path, number: u64) {
    drop(std::fs::write(path, number.to_string()));
}

fn note(path: &Path, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    drop(file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())));
}
