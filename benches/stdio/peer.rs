//! One measured process tree and the pipes to it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::read_to_string;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No reply for so long means that a target hangs; its processes are ended and the bench fails.
const SILENCE: Duration = Duration::from_secs(30);

static BEAT: AtomicU64 = AtomicU64::new(0);
static STARTED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A way to reach the echo server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// How the report calls it.
    pub(crate) name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    state: PathBuf,
}

impl Target {
    /// The bare server, the relay and cofferdam with policy, audit and metrics on, or the `peer`
    /// command in its place.
    pub(crate) fn all(directory: &Path, peer: Option<&str>) -> io::Result<Vec<Self>> {
        let own = std::env::current_exe()?;
        let state = directory.to_path_buf();
        let echo = own.display().to_string();
        let config = directory.join("bench.toml");
        std::fs::write(&config, include_str!("bench.toml"))?;
        let target = |name, program: &Path, args: &[&str]| Self {
            name,
            program: program.to_path_buf(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            state: state.clone(),
        };
        let audit = directory.join("audit.jsonl").display().to_string();
        let config = config.display().to_string();
        let program = env!("CARGO_BIN_EXE_cofferdam");
        let options = [
            "run",
            "--config",
            &config,
            "--audit",
            &audit,
            "--admin",
            "127.0.0.1:0",
            "--",
        ];
        let mut words: Vec<&str> = match peer {
            Some(peer) => peer.split_whitespace().collect(),
            None => std::iter::once(program).chain(options).collect(),
        };
        words.extend([echo.as_str(), "__echo"]);
        let (program, args) = words
            .split_first()
            .ok_or_else(|| io::Error::other("no command"))?;
        Ok(vec![
            target("bare", &own, &["__echo"]),
            target("relay", &own, &["__relay", &echo, "__echo"]),
            target("cofferdam", Path::new(program), args),
        ])
    }

    /// The same without namespaces around the cell; whatever has no cell is the same.
    pub(crate) fn on_the_floor(&self) -> Self {
        let mut floor = self.clone();
        if let Some(run) = floor.args.iter().position(|word| word == "run") {
            let off = ["--off", "namespaces"].map(str::to_owned);
            floor.args.splice(run + 1..run + 1, off);
        }
        floor
    }

    /// Starts it; nothing is sent yet.
    pub(crate) fn start(&self) -> io::Result<Peer> {
        let errors = std::fs::File::create(self.state.join(format!("{}.stderr", self.name)))?;
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .env("XDG_STATE_HOME", &self.state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        if let (Ok(mut started), Ok(pid)) = (STARTED.lock(), i32::try_from(child.id())) {
            started.push(pid);
        }
        Ok(Peer {
            child,
            input: Some(input),
            output,
            buffer: vec![0; 1 << 16],
            start: 0,
            end: 0,
            name: self.name,
            errors: self.state.join(format!("{}.stderr", self.name)),
        })
    }

    /// Starts it, shakes hands and lets it list its tools, so that argument checks are on.
    pub(crate) fn open(&self) -> io::Result<Peer> {
        let mut peer = self.start()?;
        peer.call(INITIALIZE)?;
        peer.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n")?;
        peer.call(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/list\"}\n")?;
        Ok(peer)
    }
}

pub(crate) const INITIALIZE: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"bench\",\"version\":\"1\"}}}\n";

/// A running target.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Its target's name.
    pub(crate) name: &'static str,
    errors: PathBuf,
}

impl Peer {
    /// Writes whole lines.
    pub(crate) fn send(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.input {
            Some(input) => input.write_all(lines),
            None => Err(io::Error::other("already closed")),
        }
    }

    /// The next line, without its end.
    pub(crate) fn receive(&mut self) -> io::Result<&[u8]> {
        let mut scanned = self.start;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[scanned..self.end]) {
                let line = self.start..scanned + at;
                self.start = scanned + at + 1;
                return Ok(&self.buffer[line]);
            }
            scanned = self.end;
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                scanned -= self.start;
                self.end -= self.start;
                self.start = 0;
            }
            if self.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            match self.output.read(&mut self.buffer[self.end..])? {
                0 => return Err(self.gone()),
                n => self.end += n,
            }
        }
    }

    /// True when a whole line is there without another read.
    pub(crate) fn ready(&self) -> bool {
        memchr::memchr(b'\n', &self.buffer[self.start..self.end]).is_some()
    }

    /// One request line and its answer.
    pub(crate) fn call(&mut self, line: &[u8]) -> io::Result<&[u8]> {
        self.send(line)?;
        self.receive()
    }

    /// Every process of the target but the echo server itself.
    pub(crate) fn own_processes(&self) -> Vec<Pid> {
        let server = server_of(&self.tree());
        self.tree()
            .into_iter()
            .filter(|pid| Some(*pid) != server)
            .collect()
    }

    /// CPU time of the whole tree so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.tree().into_iter().map(cpu_of).sum()
    }

    fn tree(&self) -> Vec<Pid> {
        let root = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        let mut found = vec![root];
        let mut at = 0;
        while let Some(pid) = found.get(at).copied() {
            at += 1;
            for task in entries(&format!("/proc/{pid}/task")) {
                let children = read_to_string(format!("/proc/{pid}/task/{task}/children"));
                let children = children.unwrap_or_default();
                let children = children
                    .split_whitespace()
                    .filter_map(|text| text.parse().ok());
                found.extend(children.map(Pid::from_raw));
            }
        }
        found
    }

    fn gone(&mut self) -> io::Error {
        let errors = read_to_string(&self.errors).unwrap_or_default();
        let last: Vec<&str> = errors.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        io::Error::other(format!(
            "{} ended without an answer\n{}",
            self.name,
            last.join("\n")
        ))
    }
}

impl Drop for Peer {
    /// Ends the input as a client does, and insists after two seconds.
    fn drop(&mut self) {
        drop(self.input.take());
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2) {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                _ => break,
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
        if let (Ok(mut started), Ok(pid)) = (STARTED.lock(), i32::try_from(self.child.id())) {
            started.retain(|known| *known != pid);
        }
    }
}

/// The server is the one that was started as such: the last argument says so and no other process
/// of the tree runs this program, but the relay.
fn server_of(tree: &[Pid]) -> Option<Pid> {
    let own = std::env::current_exe().ok()?;
    tree.iter().copied().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .ok()
            .as_deref()
            == Some(&own)
            && words.get(1) == Some(&b"__echo".as_slice())
    })
}

fn cpu_of(pid: Pid) -> Duration {
    let tasks = entries(&format!("/proc/{pid}/task"));
    let spent = tasks.iter().filter_map(|task| {
        let text = read_to_string(format!("/proc/{pid}/task/{task}/schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

fn entries(directory: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// CPU time of this process so far.
pub(crate) fn own_cpu() -> Duration {
    cpu_of(Pid::this())
}

/// Says that something was answered.
pub(crate) fn beat() {
    BEAT.fetch_add(1, Ordering::Relaxed);
}

/// Ends what was started when nothing was answered for long: a read then fails instead of hanging.
pub(crate) fn watch_for_silence() {
    std::thread::spawn(|| {
        loop {
            let before = BEAT.load(Ordering::Relaxed);
            std::thread::sleep(SILENCE);
            if BEAT.load(Ordering::Relaxed) == before
                && let Ok(started) = STARTED.lock()
            {
                for pid in started.iter() {
                    super::report::say(&format!("stdio bench: ending the silent process {pid}"));
                    let pid = Pid::from_raw(*pid);
                    // Already gone is as good.
                    kill(pid, Signal::SIGKILL).ok();
                }
            }
        }
    });
}
