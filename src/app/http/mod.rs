//! The event loop behind an HTTP listener: many clients, one thread.
//!
//! ```text
//! connection ─ header, body ─▶ State::post ─ ids replaced ─ Session::client_line ─▶ stdin of a server
//!      ▲                                                                               │
//!      └── JSON or events ── Seat ◀─ ids restored ─ State::server_line ◀── stdout ─────┘
//! ```
//! A message crosses no channel and no task on its way in; on its way out the connection that waits
//! for it is woken. [`crate::proxy::Session`] is the same as on stdio.

mod change;
mod ending;
mod errors;
mod issuer;
mod legacy;
mod modern;
mod operate;
mod owners;
mod post;
mod replace;
mod revive;
mod route;
mod seat;
mod serve;
mod server;
mod state;
mod tasks;
mod tick;
mod turns;
mod visit;
mod who;

pub(super) use issuer::Issuer;
pub(super) use tasks::watched;

use super::access::Access;
use super::reload::Again;
use super::seldom::Alarm;
use super::upstream::Bridges;
use crate::admin::Health;
use crate::audit::Log;
use crate::cell::spawn::Spawner;
use crate::config::{AdminAddr, Config, Listen};
use crate::policy::Policy;
use crate::telemetry::Metrics;
use crate::transport::http::Bound;
use nix::sys::signalfd::SignalFd;
use state::{Gate, State};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

/// Time for the last answers to leave towards clients.
const FAREWELL: Duration = Duration::from_millis(500);

/// Everything that has to be open before the process is caged.
#[derive(Debug)]
pub(super) struct Front {
    runtime: Runtime,
    bound: Bound,
    listen: Listen,
    access: Access,
    signals: SignalFd,
    alarm: Alarm,
}

/// What a run works with.
#[derive(Debug)]
pub(super) struct Fittings {
    pub(super) config: Arc<Config>,
    /// To a server that runs elsewhere.
    pub(super) bridges: Option<Bridges>,
    pub(super) again: Box<dyn Again>,
    pub(super) policy: Arc<Policy>,
    pub(super) log: Log,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) spawner: Spawner,
}

impl Front {
    /// Listens; nobody is answered yet.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub(super) fn open(listen: &Listen, access: Access) -> io::Result<Self> {
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            bound: Bound::listen(&listen.http)?,
            listen: listen.clone(),
            access,
            signals: super::stdio::open_signals()?,
            alarm: Alarm::new()?,
        })
    }

    /// What it listens on, with the port that the kernel chose for port 0.
    pub(super) fn address(&self) -> &AdminAddr {
        &self.bound.address
    }

    /// Serves until it is told to stop; the code to exit with.
    pub(super) fn run(self, fittings: Fittings) -> io::Result<u8> {
        let Self {
            runtime,
            bound,
            listen,
            access,
            signals,
            alarm,
        } = self;
        let names = who::Names::of(&listen, &bound.address);
        if !listen.is_local() && listen.public_url.is_none() {
            tracing::warn!(
                "without `listen.public_url`, requests are served whose Host is `{}` or this host, and no other name",
                bound.address
            );
        }
        let local = LocalSet::new();
        let gate = {
            let Fittings {
                config,
                bridges,
                again,
                policy,
                log,
                metrics,
                health,
                spawner,
            } = fittings;
            let state = State::new(
                Arc::clone(&config),
                policy,
                log,
                Arc::clone(&metrics),
                spawner,
                bridges,
            );
            let turns = Rc::new(turns::Turns::new(&config));
            Rc::new(Gate {
                config: RefCell::new(config),
                again,
                listen,
                names,
                tls: access.tls,
                verifier: RefCell::new(Rc::new(access.verifier)),
                challenges: access.challenges,
                issuer: access.issuer,
                turns: RefCell::new(turns),
                metrics,
                health,
                state: RefCell::new(state),
                alarm: RefCell::new(alarm),
                unsent: Notify::new(),
                over: Notify::new(),
                busy: Cell::new(0),
                connections: Cell::new(0),
                farewell: RefCell::new(None),
            })
        };
        let code = local.block_on(&runtime, serve(Rc::clone(&gate), bound, signals));
        gate.state.borrow_mut().rest(Instant::now());
        // While we still listen: a socket file is removed by those who find us at it.
        let spawner = gate.state.borrow_mut().spawner.take();
        drop(spawner);
        // Connections that are still there end with the runtime.
        drop(local);
        code
    }
}

async fn serve(gate: Rc<Gate>, bound: Bound, signals: SignalFd) -> io::Result<u8> {
    let listener = bound.open()?;
    drop(spawn_local(tasks::accept(Rc::clone(&gate), listener)));
    let alarm = gate.alarm.borrow().as_fd().try_clone_to_owned()?;
    let ringing = Rc::clone(&gate);
    drop(spawn_local(tasks::watch(alarm, move || {
        ringing.alarm.borrow_mut().ring();
        ringing.tick(Instant::now());
        true
    })));
    drop(spawn_local(tasks::flush(Rc::clone(&gate))));

    let spawner = gate
        .state
        .borrow()
        .spawner
        .as_ref()
        .map(|spawner| spawner.as_fd().try_clone_to_owned());
    if let Some(spawner) = spawner.transpose()? {
        let events = Rc::clone(&gate);
        drop(spawn_local(tasks::watch(spawner, move || {
            events.take_events()
        })));
    }
    let asked = gate.health.asked().try_clone_to_owned()?;
    let asking = Rc::clone(&gate);
    drop(spawn_local(tasks::watch(asked, move || {
        asking.state.borrow_mut().publish();
        asking.health.beat();
        true
    })));
    let signalled = signals.as_fd().try_clone_to_owned()?;
    let stopping = Rc::clone(&gate);
    drop(spawn_local(tasks::watch(signalled, move || {
        while let Ok(Some(signal)) = signals.read_signal() {
            stopping.signalled(signal.ssi_signo);
        }
        true
    })));

    gate.wake_by(gate.health.watchdog_due());
    gate.fetch_due(Instant::now());
    gate.over.notified().await;
    let until = Instant::now() + FAREWELL;
    while gate.busy.get() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What was handed to a connection last is written when it is next polled.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let code = gate.state.borrow().code;
    Ok(code.unwrap_or(0))
}
