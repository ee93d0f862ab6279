//! What `/health` says: live apart from ready, and the layers that are really in force.
//!
//! ```text
//! Starting ──server up──▶ Serving ──end of input, signal or drain──▶ Draining ──▶ (gone)
//!                          ▲   └──server lost──▶ Restarting ──crash loop──▶ Parked
//!                          └────── server up ────────┴─────────────────────────┘
//! any ── switched off ──▶ Off ── switched on ──▶ Restarting
//! any ── frozen ──▶ Frozen ── resumed ──▶ Serving
//! ```
//! Live means that the event loop answers; it is asked, by an eventfd, at each request. Ready means
//! that the server runs and nothing is being drained.

use super::notify::Notifier;
use crate::cell::spawn::CredentialState;
use crate::cell::{LayerReport, LayerState};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// From the last answer until the tree is gone, with a margin.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// Where the sidecar is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting = 0,
    Serving = 1,
    Draining = 2,
    Restarting = 3,
    Parked = 4,
    Off = 5,
    Frozen = 6,
}

/// What does not change while the server runs.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub server: String,
    pub owner: Option<String>,
    pub review_by: Option<String>,
    pub policy: String,
    pub cell: LayerReport,
    /// What confines the message process itself.
    pub own: LayerReport,
    pub pid: Option<i32>,
    pub credentials: Vec<CredentialState>,
    /// `None`: what requests to a server elsewhere carry is taken, as far as is known.
    pub refused: Option<RefusedCredentials>,
    /// Circuit breakers that are not closed: the tool (`None`: the server), and `open` or `half-open`.
    pub breakers: Vec<(Option<String>, &'static str)>,
    /// `None`: one client, on stdin and stdout.
    pub listener: Option<Listener>,
    /// `None`: nobody's keys are fetched.
    pub keys: Option<Keys>,
    /// `None`: the server is a process of ours.
    pub upstream: Option<Fronted>,
    /// `None`: the configuration is that of the start.
    pub reload: Option<Reloaded>,
}

/// What came of reading the configuration again.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reloaded {
    pub ok: bool,
    /// Why what was in force stays.
    pub error: Option<String>,
    /// Keys that count at once.
    pub live: Vec<String>,
    /// Keys that count with another process of the server.
    pub server: Vec<String>,
    /// Keys that count when cofferdam is started again.
    pub later: Vec<String>,
    /// What is protected less than before.
    pub weaker: Vec<String>,
    /// The process of the server is kept until its session ends.
    pub keeps_server: bool,
    /// Seconds since 1970.
    pub at: i64,
}

/// A server that runs elsewhere.
#[derive(Debug, Clone)]
pub struct Fronted {
    url: String,
    /// `None`: nobody has asked it anything yet.
    answers: Option<bool>,
    problem: Option<String>,
    /// `None`: it is not checked.
    pub check: Option<Checked>,
}

/// What checks of a server on HTTP have come to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// Requests are refused until a check succeeds.
    pub down: bool,
    /// Of checks and requests, in a row.
    pub failures: u32,
    /// The last check, in seconds since 1970.
    pub at: Option<u64>,
    pub every_seconds: u64,
}

impl Fronted {
    /// One that was not asked yet.
    #[must_use]
    pub fn new(url: String) -> Self {
        Self {
            url,
            answers: None,
            problem: None,
            check: None,
        }
    }

    /// What came of the last request; true when that is news.
    pub fn note(&mut self, problem: Option<String>) -> bool {
        let recovered = problem.is_none() && self.answers == Some(false);
        let news = recovered || (problem.is_some() && self.problem != problem);
        self.answers = Some(problem.is_none());
        self.problem = problem;
        news
    }
}

/// What a server elsewhere does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCredentials {
    /// With their generations; a request carries all of them.
    pub names: Vec<(String, u32)>,
    /// What it answers, and how often it has.
    pub status: u16,
    pub count: u64,
}

/// The keys of an issuer of tokens that are fetched.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Keys {
    pub url: String,
    /// How many of the set that is in force are of use.
    pub keys: usize,
    /// Why the last fetch changed nothing.
    pub problem: Option<String>,
}

/// The listener for clients on HTTP.
#[derive(Debug, Clone)]
pub struct Listener {
    pub address: String,
    /// How clients say who they are: `none`, or kinds as in `API key, client certificate`.
    pub identity: String,
    /// `session` or `stateless`.
    pub state: &'static str,
    /// Sessions use one server process together.
    pub shared: bool,
    /// The most at one time.
    pub sessions: usize,
}

/// Shared by the message path, which writes, and the admin listener, which reads.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    phase: AtomicU8,
    facts: Mutex<Facts>,
    ask: EventFd,
    beats: AtomicU64,
    /// The server at a URL does not pass its checks.
    down: AtomicBool,
    manager: Notifier,
}

impl Health {
    /// A sidecar that is starting.
    ///
    /// # Errors
    /// When the kernel gives no eventfd, or the service manager that wants to be told cannot be reached.
    pub fn new(facts: Facts) -> io::Result<Self> {
        Ok(Self {
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Starting as u8),
            facts: Mutex::new(facts),
            ask: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            beats: AtomicU64::new(0),
            down: AtomicBool::new(false),
            manager: Notifier::from_environment()?,
        })
    }

    /// Moves to another phase, and tells the service manager.
    pub fn enter(&self, phase: Phase) {
        let before = self.phase.load(Ordering::Relaxed);
        // Whatever happens to the server then, the end is the end.
        if before == phase as u8 || before == Phase::Draining as u8 {
            return;
        }
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.manager.tell(match phase {
            Phase::Starting => "STATUS=starting",
            Phase::Serving => "READY=1\nSTATUS=serving",
            Phase::Draining => "STOPPING=1\nSTATUS=answering what is in flight",
            Phase::Restarting => "STATUS=the server is started anew",
            Phase::Parked => "STATUS=the server crashes in a loop and is left alone",
            // Ready to be switched on, which a start that never ends would not be.
            Phase::Frozen => "STATUS=stopped by the operator, to be looked at",
            Phase::Off => "READY=1\nSTATUS=switched off by the operator",
        });
    }

    /// Nothing new is begun, and what is open is waited for, so long at most.
    pub fn drains(&self, limit: Duration) {
        self.enter(Phase::Draining);
        // The end of the server comes after that.
        let micros = (limit + AFTERWARDS).as_micros();
        self.manager.tell(&format!("EXTEND_TIMEOUT_USEC={micros}"));
    }

    /// The configuration was read again. The service manager is told of the beginning and of the end at
    /// once: nothing lies between them.
    pub fn reloaded(&self, reloaded: Reloaded) {
        let ok = reloaded.ok;
        self.update(|facts| facts.reload = Some(reloaded));
        if self.serves() {
            let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
            let micros = since_boot.map_or(0, |it| it.num_microseconds());
            let status = match ok {
                true => "serving",
                false => "serving; the configuration that was read last could not be taken",
            };
            self.manager
                .tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
            self.manager.tell(&format!("READY=1\nSTATUS={status}"));
        }
    }

    /// When the service manager is owed a sign of life; `None` when it wants none.
    #[must_use]
    pub fn watchdog_due(&self) -> Option<Instant> {
        self.manager.due()
    }

    /// The event loop's sign of life, if one is due.
    pub fn pat(&self, now: Instant) {
        self.manager.pat(now);
    }

    /// True while the server runs, passes its checks where there are some, and nothing is drained.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.serves() && !self.down.load(Ordering::Relaxed)
    }

    fn serves(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == Phase::Serving as u8
    }

    /// The server at a URL does not pass its checks any more, or does again.
    pub fn down(&self, down: bool) {
        let before = self.down.swap(down, Ordering::Relaxed);
        if before != down && self.serves() {
            self.manager.tell(match down {
                true => "STATUS=the server does not pass its health check",
                false => "STATUS=serving",
            });
        }
    }

    /// True once the server has been up.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.phase.load(Ordering::Relaxed) != Phase::Starting as u8
    }

    /// Changes the facts.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        match self.facts.lock() {
            Ok(mut facts) => change(&mut facts),
            Err(poisoned) => change(&mut poisoned.into_inner()),
        }
    }

    /// The descriptor that the event loop polls; readable means that somebody asks for a beat.
    #[must_use]
    pub fn asked(&self) -> BorrowedFd<'_> {
        self.ask.as_fd()
    }

    /// The event loop's answer to [`Health::asked`].
    pub fn beat(&self) {
        // An empty counter means that another beat has answered already.
        _ = self.ask.read();
        self.beats.fetch_add(1, Ordering::Release);
    }

    /// Asks for a beat; the count of beats so far tells when it has come.
    pub(super) fn ask(&self) -> u64 {
        let before = self.beats.load(Ordering::Acquire);
        // A full counter means that the loop has not answered for a very long time, which the
        // caller finds out by waiting.
        _ = self.ask.write(1);
        before
    }

    pub(super) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Acquire)
    }

    /// The human summary, as JSON.
    #[must_use]
    pub fn summary(&self, live: bool) -> Value {
        let facts = match self.facts.lock() {
            Ok(facts) => facts.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => "starting",
            1 => "serving",
            3 => "restarting",
            4 => "parked",
            5 => "off",
            6 => "frozen",
            _ => "draining",
        };
        let listener = facts.listener.as_ref();
        let mut summary = json!({
            "status": if live && self.ready() { "ok" } else { "unavailable" },
            "live": live,
            "ready": live && self.ready(),
            "phase": phase,
            "server": { "name": facts.server, "pid": facts.pid, "owner": facts.owner, "review_by": facts.review_by },
            "transport": if listener.is_some() { "http" } else { "stdio" },
            "identity": listener.map_or("the process that started us", |listener| &*listener.identity),
            "policy": facts.policy,
            "cell": { "landlock_abi": facts.cell.landlock_abi, "user": facts.cell.user, "layers": layers(&facts.cell) },
            "self": { "layers": layers(&facts.own) },
            "credentials": facts.credentials.iter().map(|it| credential(it, &facts)).collect::<Vec<_>>(),
            "breakers": facts.breakers.iter().map(breaker).collect::<Vec<_>>(),
            "reload": facts.reload,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(upstream) = &facts.upstream {
            summary["upstream"] = json!({
                "url": upstream.url,
                "answers": upstream.answers,
                "problem": upstream.problem,
                "check": upstream.check,
            });
            if facts.cell.layers.is_empty() {
                // It is no process of ours: there is nothing that could enclose it.
                summary["cell"] = Value::Null;
            }
        }
        if let Some(keys) = &facts.keys {
            summary["issuer"] = json!(keys);
        }
        if let Some(listener) = listener {
            summary["listener"] = json!({
                "address": listener.address,
                "state": listener.state,
                "shared": listener.shared,
                "sessions": listener.sessions,
            });
        }
        summary
    }
}

fn breaker((tool, state): &(Option<String>, &'static str)) -> Value {
    json!({ "tool": tool, "state": state })
}

fn credential(state: &CredentialState, facts: &Facts) -> Value {
    let refused = facts.refused.as_ref().and_then(|refused| {
        let RefusedCredentials { status, count, .. } = refused;
        let mut names = refused.names.iter();
        let (_, generation) = names.find(|(name, _)| *name == state.name)?;
        Some(format!(
            "the server answers {status} to generation {generation} ({count} times)"
        ))
    });
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH);
    let age = now.map_or(0, |now| now.as_secs().saturating_sub(state.since));
    json!({
        "name": state.name,
        "generation": state.generation,
        "fingerprint": state.fingerprint,
        "state": if state.revoked { "revoked" } else { "current" },
        "age_seconds": age,
        "expires": state.expires,
        "rotate_by": state.rotate_by,
        "aged": state.aged,
        "previous": state.previous.as_ref().map(|previous| json!({
            "generation": previous.generation,
            "fingerprint": previous.fingerprint,
            "until": previous.until,
        })),
        "problem": state.problem.clone().or(refused),
    })
}

fn layers(report: &LayerReport) -> Value {
    let states = report.layers.iter().map(|(layer, state)| {
        let state = match state {
            LayerState::Enforced => json!("enforced"),
            LayerState::Missing(why) => json!({ "missing": why }),
        };
        (layer.name().to_owned(), state)
    });
    Value::Object(states.collect())
}
