//! Nothing lost, nothing crossed: thousands of mixed requests while the server dies, stops, floods,
//! answers twice, unasked or half, at seeded random points.
//!
//! When the server dies, what is open is answered, cofferdam ends with its code and the driver
//! starts the next one. 5,000 requests; `COFFERDAM_FULL=1` makes it 100,000. `COFFERDAM_SEED`
//! repeats a run.

use crate::fidelity::examples;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Requests open at any time, at most.
const OPEN: usize = 32;
/// A server that is stopped answers nothing: then it is ended, as an operator would.
const STALLED: Duration = Duration::from_secs(2);
/// One request must be answered within this once its server has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a request was, so that its answer can be judged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sent {
    Call {
        key: u64,
        bytes: usize,
    },
    Ping,
    Unknown,
    /// Cancelled since: at most one answer, of whatever kind.
    Cancelled,
}

#[derive(Debug, Default)]
struct Tally {
    lives: u32,
    answered: usize,
    by_server: usize,
    by_us: usize,
    cancelled_unanswered: usize,
    /// Requests that the process never read because it had ended: nobody lost them.
    untaken: usize,
    /// Lives by their exit code.
    ends: BTreeMap<Option<i32>, u32>,
    faults: Vec<String>,
}

/// The exit codes that a life may end with: end of input, the server's own, or its signal's.
const ENDS: [i32; 4] = [0, 7, 9, 128 + 9];

#[test]
fn every_request_is_answered_once_and_with_its_own_answer() {
    let total = if crate::support::full() {
        100_000
    } else {
        5_000
    };
    let seed = std::env::var("COFFERDAM_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_261_121);
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir(state.path().join("tmp")).unwrap();
    let tally = drive(total, seed, |seed| wrapped(state.path(), seed));
    println!("chaos: seed {seed}: {tally:?}");
    assert!(
        tally.faults.is_empty(),
        "seed {seed}: {} faults, the first:\n{}",
        tally.faults.len(),
        first(&tally)
    );
    assert!(tally.lives > 3, "the chaos was not chaotic: {tally:?}");
    assert!(
        tally.by_server > total / 2,
        "most requests are answered by the server: {tally:?}"
    );
    assert_eq!(
        leftovers(),
        Vec::<String>::new(),
        "left behind, seed {seed}"
    );
    let temporary = entries(&state.path().join("tmp"), "");
    assert_eq!(
        temporary,
        Vec::<String>::new(),
        "temporary directories left behind"
    );
}

/// Without cofferdam the same drive must find lost and crossed answers, or it could not find ours.
#[test]
fn the_driver_sees_what_a_bare_server_loses() {
    let tally = drive(3_000, 7, |seed| {
        let mut command = Command::new(examples().join("chaos"));
        command.arg(seed.to_string());
        command
    });
    let all = tally.faults.join("\n");
    for expected in ["lost", "twice or unasked", "no JSON"] {
        assert!(
            all.contains(expected),
            "not seen: {expected}; {} faults:\n{}",
            tally.faults.len(),
            first(&tally)
        );
    }
}

fn wrapped(state: &Path, seed: u64) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command
        .args(["run", "--restart", "never", "--audit"])
        .arg(state.join("audit.jsonl"))
        .arg("--");
    command.arg(examples().join("chaos")).arg(seed.to_string());
    command
        .env("XDG_STATE_HOME", state)
        .env("TMPDIR", state.join("tmp"))
        .env_remove("XDG_RUNTIME_DIR");
    command
}

fn drive(total: usize, seed: u64, start: impl Fn(u64) -> Command) -> Tally {
    let mut tally = Tally::default();
    let mut random = Random(seed);
    let mut sent = 0;
    while sent < total && tally.faults.len() < 200 {
        tally.lives += 1;
        let mut life = Life::start(start(random.next()));
        sent += life.work(total - sent, &mut random, &mut tally);
        life.end(&mut tally);
        assert!(
            u64::from(tally.lives) < 50 + total as u64 / 10,
            "nothing gets done: {tally:?}"
        );
    }
    tally
}

/// One process and the requests that are open on it.
struct Life {
    child: Child,
    input: Option<PipeWriter>,
    /// The other end of its stdin: what stands in it at the end was never taken.
    rest: PipeReader,
    lines: Receiver<String>,
    open: HashMap<u64, Sent>,
    next: u64,
    fd_start: Option<usize>,
    /// An answer said that the server has ended: a client sends nothing more on this connection,
    /// and what it had sent before must be answered.
    over: bool,
}

impl Life {
    fn start(mut command: Command) -> Self {
        let (rest, input) = pipe().unwrap();
        command
            .stdin(rest.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        let mut life = Self {
            child,
            input: Some(input),
            rest,
            lines,
            open: HashMap::new(),
            next: 10,
            fd_start: None,
            over: false,
        };
        life.write(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"chaos","version":"1"}}}"#);
        let first = life.lines.recv_timeout(PATIENCE).unwrap_or_default();
        assert!(
            first.contains("\"result\""),
            "no answer to initialize: {first}"
        );
        life.write(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        life.write(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#);
        let listed = life.lines.recv_timeout(PATIENCE).unwrap_or_default();
        assert!(listed.contains("\"work\""), "no tools: {listed}");
        life.fd_start = life.descriptors();
        life
    }

    /// Sends until `limit` or until the process is gone; returns how many requests were sent.
    fn work(&mut self, limit: usize, random: &mut Random, tally: &mut Tally) -> usize {
        let mut sent = 0;
        let mut heard = Instant::now();
        while (sent < limit && !self.over) || self.wanting() > 0 {
            while sent < limit && self.wanting() < OPEN && !self.over {
                sent += usize::from(self.send(random));
                if self.input.is_none() {
                    return sent;
                }
            }
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    heard = Instant::now();
                    self.judge(&line, tally);
                }
                Err(RecvTimeoutError::Disconnected) => return sent,
                Err(RecvTimeoutError::Timeout) => {
                    if heard.elapsed() > STALLED {
                        self.kill_stopped();
                        heard = Instant::now();
                    }
                }
            }
        }
        let (before, after) = (self.fd_start, self.descriptors());
        if let (Some(before), Some(after)) = (before, after)
            && after > before + 4
        {
            tally
                .faults
                .push(format!("descriptors grew from {before} to {after}"));
        }
        sent
    }

    /// Open requests that must still be answered; a cancelled one may be.
    fn wanting(&self) -> usize {
        self.open
            .values()
            .filter(|sent| **sent != Sent::Cancelled)
            .count()
    }

    /// One message of a random kind; true when it was a request that wants an answer.
    fn send(&mut self, random: &mut Random) -> bool {
        let id = self.next;
        self.next += 1;
        let (line, kind) = match random.below(100) {
            0..=4 => (
                format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"no/such/{id}"}}"#),
                Sent::Unknown,
            ),
            5..=14 => (
                format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#),
                Sent::Ping,
            ),
            15..=19 => {
                self.write(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#);
                return false;
            }
            20..=22 => {
                let open = self.open.keys().copied().min();
                if let Some(open) = open {
                    self.open.insert(open, Sent::Cancelled);
                    self.write(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{open}}}}}"#));
                }
                return false;
            }
            other => {
                let bytes = if other < 27 { 100_000 } else { 0 };
                let key = random.below(1 << 40);
                let line = format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"work","arguments":{{"key":{key},"bytes":{bytes}}}}}}}"#
                );
                (line, Sent::Call { key, bytes })
            }
        };
        // What could not be written was never sent.
        if self.write(&line) {
            self.open.insert(id, kind);
            return true;
        }
        false
    }

    fn write(&mut self, line: &str) -> bool {
        let Some(input) = &mut self.input else {
            return false;
        };
        let written = input
            .write_all(line.as_bytes())
            .and_then(|()| input.write_all(b"\n"));
        if written.is_err() {
            self.input = None;
        }
        written.is_ok()
    }

    fn judge(&mut self, line: &str, tally: &mut Tally) {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            // A flood of junk is one fault.
            if !tally
                .faults
                .last()
                .is_some_and(|last| last.starts_with("no JSON"))
            {
                tally.faults.push(format!("no JSON: {}", short(line)));
            }
            return;
        };
        if message.get("method").is_some() {
            return;
        }
        let Some(sent) = message["id"].as_u64().and_then(|id| self.open.remove(&id)) else {
            let late = message["id"].as_u64().is_some_and(|id| id < self.next);
            tally.faults.push(format!(
                "answered twice or unasked ({late}): {}",
                short(line)
            ));
            return;
        };
        tally.answered += 1;
        let text = message["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_default();
        let from_server = match sent {
            Sent::Call { key, bytes } => text == format!("work {key} {}", "y".repeat(bytes)),
            Sent::Ping => message["result"]
                .as_object()
                .is_some_and(serde_json::Map::is_empty),
            Sent::Unknown => message["error"]["code"] == -32601,
            Sent::Cancelled => true,
        };
        self.over |= line.contains("server.gone");
        // An answer of ours says itself that it failed; anything else belongs to another request.
        let refused = message["result"]["isError"] == true || message.get("error").is_some();
        match (from_server, refused) {
            (true, _) => tally.by_server += 1,
            (false, true) => tally.by_us += 1,
            (false, false) => tally
                .faults
                .push(format!("crossed: {sent:?} got {}", short(line))),
        }
    }

    /// Ends the input, hears the rest, and judges what stays open and how the process ends.
    fn end(mut self, tally: &mut Tally) {
        let by_client = self.input.is_some() && self.wanting() == 0;
        if by_client {
            self.input = None;
        }
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            match self.lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => self.judge(&line, tally),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.kill_stopped(),
            }
        }
        let ended = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if ended.elapsed() > PATIENCE => break None,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        self.forget_untaken(tally);
        for (id, sent) in self.open.drain() {
            match sent {
                Sent::Cancelled => tally.cancelled_unanswered += 1,
                _ => tally.faults.push(format!("lost: {id} {sent:?}")),
            }
        }
        *tally
            .ends
            .entry(status.and_then(|status| status.code()))
            .or_default() += 1;
        match status.map(|status| status.code()) {
            Some(Some(code)) if ENDS.contains(&code) => {}
            Some(None) => tally.faults.push("ended by a signal itself".into()),
            Some(code) => tally.faults.push(format!("ended with {code:?}")),
            None => {
                tally.faults.push("did not end".into());
                self.child.kill().ok();
                self.child.wait().ok();
            }
        }
    }

    /// Takes back what still stands in the pipe; the process has ended.
    fn forget_untaken(&mut self, tally: &mut Tally) {
        self.input = None;
        let mut rest = String::new();
        self.rest.read_to_string(&mut rest).unwrap();
        let id_of = |line: &str| serde_json::from_str::<Value>(line).ok()?["id"].as_u64();
        let mut untaken: Vec<u64> = rest.lines().filter_map(id_of).collect();
        let torn = rest
            .lines()
            .next()
            .is_some_and(|line| serde_json::from_str::<Value>(line).is_err());
        if torn {
            // Half of it was read: the last one that was sent before the first whole one.
            let before = untaken.first().copied().unwrap_or(u64::MAX);
            untaken.extend(self.open.keys().copied().filter(|id| *id < before).max());
        }
        for id in untaken {
            tally.untaken += usize::from(self.open.remove(&id).is_some());
        }
    }

    /// Ends a server that has stopped itself: the only one of our tree that is in state T.
    fn kill_stopped(&self) {
        for pid in tree(self.child.id()) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().unwrap_or_default();
            if state.starts_with('T') {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
            }
        }
    }

    fn descriptors(&self) -> Option<usize> {
        Some(
            std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
                .ok()?
                .count(),
        )
    }
}

fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        at += 1;
        for task in entries(Path::new(&format!("/proc/{pid}/task")), "") {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/children"));
            found.extend(
                children
                    .unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|c| c.parse::<u32>().ok()),
            );
        }
    }
    found
}

/// Processes of ours that outlived their life: each carries this test's own state directory or seed.
fn leftovers() -> Vec<String> {
    thread::sleep(Duration::from_millis(300));
    let server = examples().join("chaos").display().to_string();
    let own = std::process::id();
    let alive = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let mine = ancestors_or_orphan(pid, own);
        (line.contains(&server) && mine).then(|| format!("{pid}: {line}"))
    };
    entries(Path::new("/proc"), "")
        .iter()
        .filter(|name| name.parse::<u32>().is_ok())
        .filter_map(alive)
        .collect()
}

/// True for a child of this process and for one that lost its parent.
fn ancestors_or_orphan(pid: &str, own: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap_or_default();
    let parent: u32 = parent.trim().parse().unwrap_or(0);
    parent == own || parent <= 1
}

fn entries(directory: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn first(tally: &Tally) -> String {
    tally
        .faults
        .iter()
        .take(20)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n")
}

fn short(line: &str) -> String {
    line.chars().take(160).collect()
}

/// xorshift64*: repeatable, and nothing here needs better.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 |= 1;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
