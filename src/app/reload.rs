//! The configuration, read again while everything runs.
//!
//! ```text
//! in force ── edited, SIGHUP, or an operator asks ──▶ read by the spawner ── it can be used ──▶ in force: the new one
//!    ▲                                                        │
//!    └──────────── it cannot: said, counted ──────────────────┘
//! ```
//! The spawner reads the file, proves it and goes by it; the message process gets the very text that was
//! proved and builds the same from it. Calls in flight finish on the rules that they began with.

use super::clerk::answer;
use super::sealed::Unpacked;
use crate::admin::{Health, Reloaded};
use crate::audit::{Log, Operator};
use crate::config::{Changes, Config, renew};
use crate::telemetry::Metrics;
use crate::transport::terminal::sanitize;
use serde_json::json;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

/// Bytes of a configuration file.
const MOST: u64 = 1 << 20;

/// What the process was started with, to be read again.
pub trait Again: fmt::Debug {
    /// Where the file is, if there is one.
    fn path(&self) -> Option<&Path>;

    /// The text of the file as it is now; `None` where there is none, and everything comes from flags.
    ///
    /// # Errors
    /// It cannot be read; in words for people.
    fn read(&self) -> Result<Option<String>, String>;

    /// The configuration that a text of the file and the flags come to. Looks at nothing else.
    ///
    /// # Errors
    /// It is not valid; in words for people, of more than one line.
    fn build(&self, text: Option<&str>) -> Result<Config, String>;

    /// Looks for what a configuration names on this host.
    ///
    /// # Errors
    /// The server would not start with it.
    fn check(&self, config: &Config) -> Result<(), String>;
}

/// What the spawner has read, as the configuration that follows `old`.
pub(super) fn take(
    text: Result<OwnedFd, String>,
    old: &Config,
    again: &dyn Again,
) -> Result<(Config, Changes), String> {
    let read = |text| -> std::io::Result<Option<Vec<u8>>> {
        let mut texts = Unpacked::read(text, 1, MOST)?;
        Ok(texts.next()?.map(<[u8]>::to_vec))
    };
    let text = read(text?).map_err(|error| error.to_string())?;
    let text = text.map(String::from_utf8).transpose();
    let text = text.map_err(|error| error.to_string())?;
    Ok(renew(old, again.build(text.as_deref())?))
}

/// Those who are told what came of it.
pub(super) struct Told<'a> {
    pub(super) health: &'a Health,
    pub(super) metrics: &'a Metrics,
    pub(super) audit: &'a mut Log,
    /// The server keeps its process until its session ends.
    pub(super) keeps_server: bool,
}

/// Says what came of it, everywhere.
pub(super) fn tell(
    outcome: &Result<Changes, String>,
    reply: Option<OwnedFd>,
    to: Told<'_>,
    now: Instant,
) {
    let reloaded = match outcome {
        Ok(changes) => Reloaded {
            ok: true,
            error: None,
            live: words(&changes.live),
            server: words(&changes.server),
            later: words(&changes.later),
            weaker: changes.weaker.clone(),
            keeps_server: to.keeps_server && !changes.server.is_empty(),
            at: jiff::Timestamp::now().as_second(),
        },
        Err(error) => Reloaded {
            error: Some(error.trim_end().to_owned()),
            at: jiff::Timestamp::now().as_second(),
            ..Reloaded::default()
        },
    };
    let text = describe(&reloaded);
    match &reloaded.error {
        None => tracing::info!("{text}"),
        Some(_) => tracing::error!("{}", sanitize(text.as_bytes())),
    }
    for weaker in &reloaded.weaker {
        tracing::warn!("protects less than before: {}", sanitize(weaker.as_bytes()));
    }
    to.metrics.reloaded(reloaded.ok, reloaded.at);
    let weaker = reloaded.weaker.join("; ");
    let detail = match weaker.is_empty() {
        true => text,
        false => format!("{text}; protects less than before: {weaker}"),
    };
    let record = Operator {
        act: "reload",
        done: reloaded.ok,
        text: &detail,
    };
    to.audit.operator(&record, now);
    if let Some(reply) = reply {
        let mut said = json!(reloaded);
        said["text"] = json!(detail);
        answer(reply, &said);
    }
    to.health.reloaded(reloaded);
}

fn words(keys: &[&'static str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// One sentence.
fn describe(reloaded: &Reloaded) -> String {
    if let Some(error) = &reloaded.error {
        return format!("the configuration was not taken, what was in force stays: {error}");
    }
    let server = match reloaded.keeps_server {
        true => "pending until the session ends (server.replace = \"never\")",
        false => "with another server process",
    };
    let parts: Vec<String> = [
        ("at once", &reloaded.live),
        (server, &reloaded.server),
        ("not before cofferdam is started again", &reloaded.later),
    ]
    .into_iter()
    .filter(|(_, keys)| !keys.is_empty())
    .map(|(when, keys)| format!("{when}: {}", keys.join(", ")))
    .collect();
    match parts.is_empty() {
        true => "the configuration was read again; nothing is another".to_owned(),
        false => format!("the configuration was read again; {}", parts.join("; ")),
    }
}
