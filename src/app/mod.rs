//! The only place that wires everything.
//!
//! Order of a start: spawner, server (it starts while we go on), policy, audit, admin, the cage around
//! ourselves, the loop.

mod access;
mod audition;
mod clerk;
mod credentials;
mod drain;
mod edited;
mod ending;
mod events;
mod exec;
mod farewell;
mod http;
mod incident;
mod lane;
mod live;
mod network;
mod overlap;
mod plan;
mod reload;
mod replace;
mod revive;
mod roll;
mod sealed;
mod seldom;
mod shelf;
mod slice;
mod spawner;
mod starting;
mod stdio;
mod stopwatch;
mod switch;
mod unfinished;
mod upstream;
mod wake;

pub use exec::{ExecOptions, exec};
pub use reload::Again;
pub(crate) use roll::{Instance, Shown, instances};
pub use spawner::lone_spawner;
pub(crate) use switch::{Turn, change as change_switch, path as switch_path};

use crate::admin::{self, Facts, Health};
use crate::audit::{AuditError, Log};
use crate::cell::spawn::{Mode, SpawnError, Spawner};
use crate::cell::{self, LayerReport, LayerState};
use crate::config::{AdminAddr, Config, EnvRule, Word};
use crate::policy::{Policy, scrub::Scrubber};
use crate::proxy::Session;
use crate::secret::{Secret, looks_secret};
use crate::telemetry::Metrics;
use http::{Fittings, Front};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use stdio::{Loop, LoopError};
use upstream::Bridges;

/// Why a start failed, or a run ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process that could start cells.
    #[error("the spawner cannot start: {source}")]
    Spawner { source: SpawnError },
    /// Audit is on, and there is nowhere to write it.
    #[error(transparent)]
    Audit { source: AuditError },
    /// `--listen` was asked for and cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: String,
        source: std::io::Error,
    },
    /// Certificates or keys that the listener needs cannot be used.
    #[error("{source}")]
    Access { source: access::AccessError },
    /// A server elsewhere cannot be spoken to.
    #[error("{source}")]
    Upstream { source: upstream::UpstreamError },
    /// `--admin` was asked for and cannot be had.
    #[error(transparent)]
    Admin { source: admin::AdminError },
    /// Something that only a bug, or a machine out of everything, can cause.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The exit code: 69 for an address in use, 70 for our own fault, 78 for a bad setting.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Admin { .. } | Self::Listen { .. } => 69,
            Self::Audit { .. } | Self::Access { .. } | Self::Upstream { .. } => 78,
            Self::Spawner { .. } | Self::Internal(_) => 70,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { .. } => Some("choose another address with --listen, or port 0 for any"),
            Self::Admin { .. } => Some("choose another address with --admin, or port 0 for any"),
            Self::Audit { .. } => {
                Some("name a writable file with --audit, or turn it off with --audit off")
            }
            Self::Access { .. }
            | Self::Upstream { .. }
            | Self::Spawner { .. }
            | Self::Internal(_) => None,
        }
    }
}

/// `run`: one server on stdio behind policy, until it is gone. `again` builds what the spawner reads
/// later.
///
/// # Errors
/// When something that was asked for cannot be had. What the server does is no error: its exit code
/// is the result.
pub fn run(config: Config, again: Box<dyn Again>) -> Result<u8, Error> {
    let begun = Instant::now();
    cell::hide_memory();
    cell::close_inherited().map_err(|error| Error::Internal(format!("close_range: {error}")))?;
    let config = Arc::new(config);
    let serve = |control| spawner::spawner(control, Mode::Run, Arc::clone(&config), &*again);
    let mut spawner =
        Spawner::launch(Mode::Run, serve).map_err(|source| Error::Spawner { source })?;
    spawner
        .start(0)
        .map_err(|error| Error::Internal(format!("the spawner is gone: {error}")))?;

    let policy = Arc::new(Policy::new(
        &config,
        Scrubber::new(config.scrub, &given(&config)),
    ));
    let metrics = Metrics::new().map_err(|error| Error::Internal(error.to_string()))?;
    metrics.policy(policy.digest());
    metrics.reloaded(true, jiff::Timestamp::now().as_second());
    let metrics = Arc::new(metrics);
    let mut audit = Log::open(
        audit_path(&config).as_deref(),
        &config.server.name,
        policy.digest(),
    )
    .map_err(|source| Error::Audit { source })?;
    unfinished::look_back(&config, &mut audit, &metrics, begun);
    let facts = Facts {
        server: config.server.name.clone(),
        owner: config.server.owner.clone(),
        review_by: config.server.review_by.clone(),
        policy: policy.digest().to_owned(),
        ..Facts::default()
    };
    let health = Health::new(facts).map_err(|error| Error::Internal(error.to_string()))?;
    let health = Arc::new(health);
    let elsewhere = config.server.upstream.as_ref();
    let elsewhere = elsewhere
        .map(|upstream| upstream::Settings::open(&config, upstream, (&health, &metrics)))
        .transpose()
        .map_err(|source| Error::Upstream { source })?;
    let refused = |source| Error::Admin { source };
    let admin = config.admin.as_ref().map(admin::Server::listen);
    let admin = admin.transpose().map_err(refused)?;
    let front = config.listen.as_ref().map(|listen| {
        let access = access::Access::open(&config).map_err(|source| Error::Access { source })?;
        Front::open(listen, access).map_err(|source| Error::Listen {
            address: listen.http.to_string(),
            source,
        })
    });
    let failed = |source: LoopError| Error::Internal(source.to_string());
    let (seen, counted) = (Arc::clone(&health), Arc::clone(&metrics));
    let pump = match front.transpose()? {
        Some(front) => {
            announce(&config, &front, &health);
            let fittings = Fittings {
                config,
                bridges: elsewhere.map(Bridges::Here),
                again,
                policy,
                log: audit,
                metrics,
                health,
                spawner,
            };
            Pump::Http(Box::new((front, fittings)))
        }
        None => {
            let session = Session::new(&config, policy, audit, Arc::clone(&metrics));
            let bridges = elsewhere.map(Bridges::beside).transpose();
            let bridges = bridges.map_err(|source| Error::Upstream { source })?;
            let pump = Loop::new(config, again, session, spawner, health, metrics, begun);
            let mut pump = pump.map_err(failed)?;
            pump.bridges = bridges;
            Pump::Stdio(Box::new(pump))
        }
    };

    // From here on nothing is opened and no process started; a thread that is started is caged too.
    show(cell::confine(), &seen, &counted);
    if let Some(server) = admin {
        tracing::info!("health and metrics on {}", server.address);
        server.serve(seen, counted).map_err(refused)?;
    }
    match pump {
        Pump::Stdio(pump) => pump.run().map_err(failed),
        Pump::Http(http) => {
            let (front, fittings) = *http;
            let failed = |error| Error::Internal(format!("the event loop ended: {error}"));
            front.run(fittings).map_err(failed)
        }
    }
}

/// What carries the messages.
enum Pump {
    Stdio(Box<Loop>),
    Http(Box<(Front, Fittings)>),
}

/// Says what is listened on, and that nobody has to say who he is.
fn announce(config: &Config, front: &Front, health: &Health) {
    let Some(listen) = &config.listen else { return };
    let address = match front.address() {
        AdminAddr::Tcp(address) => {
            let scheme = if listen.tls.is_some() {
                "https"
            } else {
                "http"
            };
            format!("{scheme}://{address}{}", listen.path)
        }
        AdminAddr::Unix(path) => format!("unix:{} (path {})", path.display(), listen.path),
    };
    let identity = access::kinds(config);
    tracing::info!(
        "MCP on {address}; identity: {identity}; state: {}",
        listen.state.as_str()
    );
    health.update(|facts| {
        facts.listener = Some(admin::Listener {
            address,
            identity,
            state: listen.state.as_str(),
            shared: listen.share,
            sessions: listen.sessions,
        });
    });
}

/// Where the audit log is, if there is one.
fn audit_path(config: &Config) -> Option<PathBuf> {
    let named = || config.audit.file.clone();
    let file = || named().unwrap_or_else(|| config.state_dir.join("audit.jsonl"));
    config.audit.enabled.then(file)
}

/// Says what confines this process, and what does not.
fn show(own: LayerReport, health: &Health, metrics: &Metrics) {
    for (layer, state) in &own.layers {
        metrics.own_layer(layer.name(), matches!(state, LayerState::Enforced));
        if let LayerState::Missing(why) = state {
            tracing::warn!("cofferdam itself runs without {}: {why}", layer.name());
        }
    }
    health.update(|facts| facts.own = own);
}

/// The secrets that this server (or its installation) is given: what the scrubber looks for exactly.
fn given(config: &Config) -> Vec<Secret> {
    use std::os::unix::ffi::OsStringExt;
    let passed = |name: &String| Some((name.clone(), std::env::var_os(name)?.into_vec()));
    let server = config.cell.env.iter().filter_map(|rule| match rule {
        EnvRule::Pass(name) => passed(name),
        EnvRule::Set(name, value) => Some((name.clone(), value.clone().into_bytes())),
    });
    server
        .filter(|(name, value)| looks_secret(name, value))
        .chain(config.packages.token_env.iter().filter_map(passed))
        .map(|(name, value)| Secret::new(name, value))
        .collect()
}
