//! The smallest MCP client: one question at a time, with a deadline for each answer.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot start {what}: {source}")]
    Start {
        what: &'static str,
        source: io::Error,
    },
    #[error("cannot write to the server: {source}")]
    Write { source: io::Error },
    #[error("no answer to {method}: {reason}")]
    Answer {
        method: String,
        reason: &'static str,
    },
    #[error("the process did not end: {source}")]
    End { source: io::Error },
}

pub(super) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    next_id: u64,
    /// The last line that came, at most its first 4 KiB.
    pub(super) last_line: String,
    /// Its whole length.
    pub(super) last_len: usize,
}

impl Client {
    /// The server behind cofferdam.
    pub(super) fn enclosed() -> Result<Self, Error> {
        Self::start("cofferdam", |own, command| {
            command.args(["run", "--quiet", "--audit", "off", "--name", "demo", "--"]);
            command.arg(own).arg("__demo-server");
        })
    }

    /// The server as it is.
    pub(super) fn bare() -> Result<Self, Error> {
        Self::start("the server", |_, command| {
            command.arg("__demo-server");
        })
    }

    fn start(
        what: &'static str,
        arguments: impl FnOnce(&std::path::Path, &mut Command),
    ) -> Result<Self, Error> {
        let failed = |source| Error::Start { what, source };
        let own = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(&own);
        arguments(&own, &mut command);
        command.env("DEMO_SECRET", "in everybody's environment");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // Without a receiver the demo is over.
                if line.map_or(true, |line| sender.send(line).is_err()) {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            lines,
            next_id: 0,
            last_line: String::new(),
            last_len: 0,
        })
    }

    pub(super) fn initialize(&mut self) -> Result<(), Error> {
        self.ask(
            "initialize",
            &json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": { "name": "cofferdam-demo", "version": env!("CARGO_PKG_VERSION") },
            }),
        )?;
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
    }

    /// Calls a tool: its result.
    pub(super) fn call(&mut self, tool: &str, arguments: &Value) -> Result<Value, Error> {
        self.ask(
            "tools/call",
            &json!({ "name": tool, "arguments": arguments }),
        )
    }

    fn ask(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        self.next_id += 1;
        let id = self.next_id;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .map_err(|error| Error::Answer {
                    method: method.to_owned(),
                    reason: match error {
                        RecvTimeoutError::Timeout => "it took too long",
                        RecvTimeoutError::Disconnected => "the process ended",
                    },
                })?;
            let Ok(mut message) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if message["id"] == id {
                self.last_len = line.len();
                self.last_line = line.chars().take(4096).collect();
                return Ok(message["result"].take());
            }
        }
    }

    fn send(&mut self, message: &Value) -> Result<(), Error> {
        let Some(stdin) = &mut self.stdin else {
            return Ok(());
        };
        writeln!(stdin, "{message}").map_err(|source| Error::Write { source })
    }

    /// Waits for the end: the exit code.
    pub(super) fn finish(mut self) -> Result<i32, Error> {
        self.stdin = None;
        let status = self.child.wait().map_err(|source| Error::End { source })?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stdin = None;
        // End of input ends it; waiting leaves no zombie behind.
        drop(self.child.wait());
    }
}
