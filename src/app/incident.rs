//! What is known when a server is frozen, in one file: the processes that stand still, what is open,
//! what has happened lately, by whom and to which tools, and which credentials were in force.
//!
//! The spawner writes it, because the message process opens nothing. It holds no values: names,
//! sizes, times and digests, as the audit log does.

use super::audit_path;
use super::clerk::answer;
use crate::cell::spawn::Frozen;
use crate::config::Config;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long the message process may take to say what it knows.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of what it says.
const MOST: u64 = 1 << 20;
/// Bytes of the audit log that are looked at, and lines of it that are kept, from its end.
const TAIL: u64 = 4 << 20;
const LINES: usize = 5000;
/// Version of the file.
const VERSION: u32 = 1;

/// A file that is to be written.
#[derive(Debug)]
pub(super) struct Incident {
    /// The operator.
    reply: OwnedFd,
    facts: Option<UnixStream>,
}

impl Incident {
    /// Begins; the other end is for the message process.
    pub(super) fn begin(reply: OwnedFd) -> (Option<OwnedFd>, Self) {
        let (theirs, facts) = match UnixStream::pair() {
            Ok((theirs, ours)) => (Some(theirs.into()), Some(ours)),
            // It stands still all the same, and the file lacks what only that process knows.
            Err(_) => (None, None),
        };
        (theirs, Self { reply, facts })
    }

    /// Writes it, and answers the operator.
    pub(super) fn write(self, config: &Config, processes: &[Frozen], credentials: Vec<Value>) {
        let facts = self.facts.and_then(|facts| read_facts(facts).ok());
        let now = jiff::Timestamp::now();
        let timeline = timeline(config);
        let pack = json!({
            "version": VERSION,
            "cofferdam": env!("CARGO_PKG_VERSION"),
            "server": config.server.name,
            "command": config.server.command,
            "time": now.to_string(),
            "processes": processes,
            "credentials": credentials,
            "instance": facts,
            "callers": by(&timeline, |line| {
                let caller = &line["caller"]["client"];
                caller.as_str().or(line["client"].as_str())
            }),
            "tools": by(&timeline, |line| match line["type"] == "tool" {
                true => line["target"].as_str(),
                false => None,
            }),
            "timeline": timeline,
        });
        let written = store(config, &pack, now);
        let count = processes.len();
        let said = match written {
            Ok(path) => json!({
                "ok": true,
                "processes": count,
                "pack": path.to_string_lossy(),
                "text": format!("{count} processes stand still; what is known is in {}", path.display()),
            }),
            Err(error) => json!({
                "ok": true,
                "processes": count,
                "pack": Value::Null,
                "text": format!("{count} processes stand still; what is known cannot be written: {error}"),
            }),
        };
        answer(self.reply, &said);
    }
}

fn read_facts(facts: UnixStream) -> io::Result<Value> {
    facts.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    facts.take(MOST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The last lines of the audit log, as far as they are this server's.
fn timeline(config: &Config) -> Vec<Value> {
    let read = || -> io::Result<Vec<u8>> {
        let path = audit_path(config).ok_or(io::ErrorKind::NotFound)?;
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        file.take(TAIL).read_to_end(&mut text)?;
        Ok(text)
    };
    // What begins in the middle of a line is none, and is left out.
    let text = read().unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut lines: Vec<Value> = lines
        .filter(|line| line["server"] == config.server.name.as_str())
        .collect();
    lines.drain(..lines.len().saturating_sub(LINES));
    lines
}

/// Sums over the timeline.
#[derive(Debug, Default, serde::Serialize)]
struct Sums {
    messages: u64,
    refused: u64,
    failed: u64,
    request_bytes: u64,
    response_bytes: u64,
    first: Value,
    last: Value,
}

fn by<'l>(
    timeline: &'l [Value],
    name: impl Fn(&'l Value) -> Option<&'l str>,
) -> Map<String, Value> {
    let mut sums: BTreeMap<&str, Sums> = BTreeMap::new();
    for line in timeline {
        let Some(name) = name(line) else { continue };
        let sum = sums.entry(name).or_default();
        sum.messages += 1;
        sum.refused += u64::from(line["decision"] == "refuse");
        sum.failed += u64::from(line["status"] != "success");
        sum.request_bytes += line["request_bytes"].as_u64().unwrap_or(0);
        sum.response_bytes += line["response_bytes"].as_u64().unwrap_or(0);
        if sum.first.is_null() {
            sum.first = line["time"].clone();
        }
        sum.last = line["time"].clone();
    }
    let named = sums.into_iter();
    named
        .map(|(name, sums)| (name.to_owned(), json!(sums)))
        .collect()
}

fn store(config: &Config, pack: &Value, now: jiff::Timestamp) -> io::Result<PathBuf> {
    let directory = config.state_dir.join("incidents");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    let name = format!(
        "{}-{}.json",
        now.strftime("%Y%m%dT%H%M%S%.3fZ"),
        std::process::id()
    );
    let path = directory.join(name);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(format!("{pack:#}\n").as_bytes())?;
    file.sync_data()?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_by_name_and_skip_what_has_none() {
        let line = |tool: Option<&str>, decision: &str, bytes: u64| {
            json!({"type": "tool", "target": tool, "decision": decision, "status": "success",
                   "request_bytes": bytes, "response_bytes": 1, "time": bytes.to_string()})
        };
        let timeline = [
            line(Some("a"), "forward", 1),
            line(Some("a"), "refuse", 2),
            line(None, "forward", 3),
            line(Some("b"), "forward", 4),
        ];
        let tools = by(&timeline, |line| line["target"].as_str());
        assert_eq!(tools.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            tools["a"],
            json!({"messages": 2, "refused": 1, "failed": 0, "request_bytes": 3,
                   "response_bytes": 2, "first": "1", "last": "2"})
        );
    }
}
