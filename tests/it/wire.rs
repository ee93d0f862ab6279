//! The built program between a client that is this test and a server in its cell.

use crate::rig::Rig;
use crate::support::{example, spawn};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything may take before a test says that it hangs; two cores run many tests at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session, and everything that has been seen of it.
pub(crate) struct Wire {
    pub(crate) rig: Rig,
    /// In the command line of every process of this session, ours included.
    pub(crate) mark: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    /// Lines that came while another was waited for.
    early: Vec<Value>,
    /// Every line that the client got, as it was.
    pub(crate) seen: Vec<Vec<u8>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

/// A session that has ended.
#[derive(Debug)]
pub(crate) struct Over {
    /// 128 + n for a signal.
    pub(crate) code: i32,
    pub(crate) stderr: Vec<u8>,
    /// What came after the last line that was waited for.
    pub(crate) rest: Vec<Value>,
    /// From the end of input to the end of the process.
    pub(crate) took: Duration,
}

impl Over {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A name that no other process on this machine has.
pub(crate) fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "mark-{}-{}-end",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

impl Wire {
    /// The fake server `hostile` with these arguments, under `run` with these flags.
    pub(crate) fn hostile(flags: &[&str], server: &[&str]) -> Self {
        Self::in_rig(Rig::new(), flags, server)
    }

    /// The fake server `mortal`, which may write its notes.
    pub(crate) fn mortal(rig: Rig, flags: &[&str], server: &[&str]) -> Self {
        Self::noting("mortal", rig, flags, server)
    }

    /// A fake server that takes its mark and `{dir}/notes`, which it may write.
    pub(crate) fn noting(name: &str, rig: Rig, flags: &[&str], server: &[&str]) -> Self {
        let mark = mark();
        let path = example(name).to_str().unwrap().to_owned();
        let notes = rig.path().join("notes");
        std::fs::create_dir_all(&notes).unwrap();
        // Root's server is somebody else, who needs no more than this.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(notes, open).unwrap();
        let flags = [&["--write", "{dir}/notes"], flags].concat();
        let command = [&[path.as_str(), &mark, "{dir}/notes"], server].concat();
        Self::start(rig, &mark, &flags, &command)
    }

    /// Begins a session of a revision that has sessions, with `mortal`.
    pub(crate) fn greet(&mut self, capabilities: &Value) {
        let told = self.ask(
            "\"hello\"",
            "initialize",
            &json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "it", "version": "1"}}),
        );
        assert_eq!(told["result"]["serverInfo"]["name"], "mortal", "{told}");
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    }

    /// The same in a directory that is prepared: `{dir}` in flags and arguments is its path.
    pub(crate) fn in_rig(rig: Rig, flags: &[&str], server: &[&str]) -> Self {
        let mark = mark();
        let path = example("hostile").to_str().unwrap().to_owned();
        let command = [&[path.as_str(), mark.as_str()], server].concat();
        Self::start(rig, &mark, flags, &command)
    }

    /// Any server; the mark must be in its command line. Without a command the flags say which.
    pub(crate) fn start(rig: Rig, mark: &str, flags: &[&str], command: &[&str]) -> Self {
        Self::start_with(rig, mark, flags, command, &[])
    }

    /// The same with more variables, each as `NAME=value`.
    pub(crate) fn start_with(
        rig: Rig,
        mark: &str,
        flags: &[&str],
        command: &[&str],
        env: &[&str],
    ) -> Self {
        let dir = rig.path().to_str().unwrap().to_owned();
        let dashes: &[&str] = if command.is_empty() { &[] } else { &["--"] };
        let words: Vec<String> = [&["run"], flags, dashes, command]
            .concat()
            .iter()
            .map(|word| word.replace("{dir}", &dir))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = rig.command(&words);
        command
            .envs(env.iter().filter_map(|it| it.split_once('=')))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        let (sender, lines) = channel();
        let stdout = child.stdout.take().unwrap();
        drop(std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        }));
        let mut errors = child.stderr.take().unwrap();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&stderr);
        let stderr_reader = Some(std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(got @ 1..) = errors.read(&mut piece) {
                kept.lock().unwrap().extend_from_slice(&piece[..got]);
            }
        }));
        Self {
            rig,
            mark: mark.to_owned(),
            stdin: child.stdin.take(),
            child,
            lines,
            early: Vec::new(),
            seen: Vec::new(),
            stderr,
            stderr_reader,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One line, as it is.
    pub(crate) fn send(&mut self, line: impl AsRef<[u8]>) {
        let bytes = [line.as_ref(), b"\n"].concat();
        self.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
    }

    pub(crate) fn request(&mut self, id: &str, method: &str, params: &Value) {
        self.send(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#
        ));
    }

    /// Sends a call; its answer is still to come.
    pub(crate) fn begin(&mut self, id: &str, tool: &str, arguments: &Value) {
        self.request(
            id,
            "tools/call",
            &json!({"name": tool, "arguments": arguments}),
        );
    }

    /// A call and its answer.
    pub(crate) fn call(&mut self, id: &str, tool: &str, arguments: &Value) -> Value {
        self.begin(id, tool, arguments);
        self.answer(id)
    }

    /// The answer to a method.
    pub(crate) fn ask(&mut self, id: &str, method: &str, params: &Value) -> Value {
        self.request(id, method, params);
        self.answer(id)
    }

    /// Makes the server print these bytes (`@ID@` becomes the id) and nothing else.
    pub(crate) fn emit(&mut self, id: &str, bytes: impl AsRef<[u8]>) {
        self.begin(id, "emit", &json!({"hex": hex(bytes.as_ref())}));
    }

    /// That the session is alive: a call with a new id is answered by the server itself.
    pub(crate) fn alive(&mut self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("\"alive-{}\"", NEXT.fetch_add(1, Ordering::Relaxed));
        let answer = self.call(&id, "echo", &json!({"text": "still here"}));
        assert_eq!(said(&answer), "still here", "{answer}");
    }

    /// That the session lives, and begins nothing new.
    pub(crate) fn alive_is_refused(&mut self) {
        let answer = self.call("\"refused\"", "echo", &json!({"text": "?"}));
        refused_by(&answer, "server.unavailable");
    }

    /// The next message; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Value> {
        if !self.early.is_empty() {
            return Some(self.early.remove(0));
        }
        self.receive(PATIENCE)
    }

    /// The next message, if one comes in time.
    pub(crate) fn within(&mut self, patience: Duration) -> Option<Value> {
        if !self.early.is_empty() {
            return Some(self.early.remove(0));
        }
        let line = self.lines.recv_timeout(patience).ok()?;
        let message = serde_json::from_slice(&line).unwrap();
        self.seen.push(line);
        Some(message)
    }

    fn receive(&mut self, patience: Duration) -> Option<Value> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                let message = serde_json::from_slice(&line).unwrap_or_else(|error| {
                    panic!(
                        "the client got what is no JSON ({error}): {}",
                        String::from_utf8_lossy(&line)
                    )
                });
                self.seen.push(line);
                Some(message)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("nothing came for {patience:?}; stderr: {}", self.stderr())
            }
        }
    }

    /// The message with this id; others are kept for later.
    pub(crate) fn answer(&mut self, id: &str) -> Value {
        let id: Value = serde_json::from_str(id).unwrap();
        let wanted = |message: &Value| message["id"] == id && message.get("method").is_none();
        if let Some(at) = self.early.iter().position(wanted) {
            return self.early.remove(at);
        }
        loop {
            let Some(message) = self.receive(PATIENCE) else {
                panic!(
                    "the session ended before {id} was answered; stderr: {}",
                    self.stderr()
                )
            };
            if wanted(&message) {
                return message;
            }
            self.early.push(message);
        }
    }

    /// What came and was not waited for.
    pub(crate) fn others(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.early)
    }

    /// Our end of the input, for a writer of its own; from then on nothing can be sent here.
    pub(crate) fn take_input(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    pub(crate) fn rig(&self) -> &Rig {
        &self.rig
    }

    /// The directory of this session.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.rig.path()
    }

    /// The pid of the server itself: the last process that was started with the mark.
    pub(crate) fn server(&self) -> i32 {
        let all = processes(&self.mark);
        let program = |line: &str| line.split(' ').next().map(str::to_owned);
        let is_ours = |line: &str| program(line).is_some_and(|it| it.ends_with("cofferdam"));
        let servers = all.iter().filter(|(_, line)| !is_ours(line));
        i32::try_from(servers.map(|(pid, _)| *pid).max().unwrap()).unwrap()
    }

    /// Asks the program to end, as a client's SIGTERM does.
    pub(crate) fn terminate(&self) {
        self.signal(self.pid(), nix::sys::signal::Signal::SIGTERM);
    }

    /// kill -9 of what the client started.
    pub(crate) fn kill_message_process(&self) {
        self.signal(self.pid(), nix::sys::signal::Signal::SIGKILL);
    }

    fn signal(&self, pid: u32, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    /// Waits until stderr says so.
    pub(crate) fn until_stderr(&self, text: &str) {
        assert!(
            eventually(|| self.stderr().contains(text)),
            "no `{text}` in {}",
            self.stderr()
        );
    }

    /// Closes our end of the input.
    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Ends the input and waits for the end of the session.
    pub(crate) fn finish(mut self) -> Over {
        self.close_input();
        self.wait()
    }

    /// Waits for the end of the session, and that nothing of it is left.
    pub(crate) fn wait(mut self) -> Over {
        self.await_end()
    }

    /// The same, and what it has left in its directory.
    pub(crate) fn wait_in_rig(mut self) -> (Over, Rig) {
        let over = self.await_end();
        (over, std::mem::take(&mut self.rig))
    }

    fn await_end(&mut self) -> Over {
        let begun = Instant::now();
        let mut rest = self.others();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the program does not end; stderr: {}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = begun.elapsed();
        while let Some(message) = self.receive(PATIENCE) {
            rest.push(message);
        }
        self.stderr_reader.take().unwrap().join().unwrap();
        self.nothing_is_left(Duration::from_millis(200));
        use std::os::unix::process::ExitStatusExt;
        Over {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stderr: self.stderr.lock().unwrap().clone(),
            rest,
            took,
        }
    }

    /// That no process of this session is alive after so long.
    pub(crate) fn nothing_is_left(&self, within: Duration) {
        let until = Instant::now() + within;
        loop {
            let left = processes(&self.mark);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left behind: {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// kill -9 of the guardian.
    pub(crate) fn kill_guardian(&self) {
        let name = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let mut all = processes(&self.mark).into_iter();
        let guardian = all.find(|(pid, _)| name(*pid) == "cofferdam-guard\n");
        self.signal(guardian.unwrap().0, nix::sys::signal::Signal::SIGKILL);
    }

    /// The same, once it has given back what its start has touched.
    pub(crate) fn rested_kib(&self) -> u64 {
        std::thread::sleep(Duration::from_millis(250));
        self.peak_kib()
    }

    /// The largest resident size of the message process so far, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What the admin socket `admin.sock` says (`--admin unix:{dir}/admin.sock`).
    pub(crate) fn admin(&self, path: &str) -> String {
        let mut socket = UnixStream::connect(self.rig.path().join("admin.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    /// The value of a metric; the sum when there are several series.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics");
        let values = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        values
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A failed test must not leave its session behind.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Pid and command line of every live process whose command line holds the mark.
pub(crate) fn processes(mark: &str) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(mark).then_some((pid, line))
    })
    .collect()
}

pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The text of a tool's answer.
pub(crate) fn said(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_default()
}

/// The rule that made this answer, in whichever shape it has.
pub(crate) fn rule(answer: &Value) -> &str {
    let places = [
        &answer["error"]["data"]["rule"],
        &answer["result"]["_meta"]["dev.cofferdam/rule"],
    ];
    places
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or_default()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// That an answer is a refusal by this rule.
pub(crate) fn refused_by(answer: &Value, wanted: &str) {
    assert_eq!(rule(answer), wanted, "{answer}");
}
