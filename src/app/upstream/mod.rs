//! A server on HTTP, in the cell or elsewhere, made to look like one on stdio: lines come in over one pipe, become
//! HTTP requests, and what comes back leaves as lines over another.
//!
//! ```text
//! policy ── lines ──▶ bridge ── POST ──▶ the server at `server.url`
//!        ◀── lines ──        ◀── JSON, events (of the request, of the GET) ──
//! ```
//! Everything before the pipe is what it is for any server: policy, ids, deadlines, sessions of a
//! listener (each has a bridge of its own). The bridge trusts the server no more than policy does. Its
//! connections come from `__dial`, connected; credentials are the spawner's, as of this moment.

mod ask;
mod bridge;
mod check;
mod exchange;
mod listen;
mod order;
mod out;
mod outfit;
mod phone;
mod renew;
mod vital;

pub(super) use phone::Phone;

use crate::admin::Health;
use crate::audit::Log;
use crate::cell::spawn::CredentialState;
use crate::config::{Config, Endpoint, TlsVersion, Upstream, read_file};
use crate::proxy::Trouble;
use crate::secret::Secret;
use crate::telemetry::Metrics;
use crate::transport::tls::{ClientSettings, ClientTls, Roots, TlsError};
use bridge::Bridge;
use outfit::Wardrobe;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use vital::Vital;

/// Where distributions keep the certificates that they trust; `SSL_CERT_FILE` comes first.
const SYSTEM: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
];
/// The largest file of certificates, in bytes.
const LARGEST: u64 = 8 << 20;

/// Why a server elsewhere cannot be fronted.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("cannot read the certificates of {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("this host has no list of certificates to trust: name one with --ca or `server.ca`")]
    NoRoots,
    #[error(transparent)]
    Tls { source: TlsError },
    #[error("no event loop for the connections: {source}")]
    Runtime { source: io::Error },
}

/// What all bridges share.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) place: Endpoint,
    /// It runs in the cell.
    inside: bool,
    tls: Option<ClientTls>,
    /// Largest message of the client and of the server, in bytes.
    request: usize,
    response: usize,
    wardrobe: Wardrobe,
    /// `None`: requests alone show whether it is there.
    vital: Option<Vital>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Settings {
    /// Reads certificates: after that no file is opened.
    pub(super) fn open(
        config: &Config,
        upstream: &Upstream,
        (health, metrics): (&Arc<Health>, &Arc<Metrics>),
    ) -> Result<Arc<Self>, UpstreamError> {
        let cap = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let tls = upstream.url.tls.then(|| tls(upstream)).transpose()?;
        let shown = upstream.url.to_string();
        health.update(|facts| facts.upstream = Some(crate::admin::Fronted::new(shown)));
        Ok(Arc::new(Self {
            place: upstream.url.clone(),
            inside: !config.server.is_elsewhere(),
            tls,
            request: cap(config.limits.request.0),
            response: cap(config.limits.response.0),
            wardrobe: Wardrobe::new(health, metrics),
            vital: upstream
                .health
                .clone()
                .map(|rules| Vital::new(rules, health, metrics)),
            health: Arc::clone(health),
            metrics: Arc::clone(metrics),
        }))
    }

    /// From here on requests carry these values.
    pub(super) fn arm<'s>(
        &self,
        config: &Config,
        states: &[CredentialState],
        secrets: impl Iterator<Item = &'s Secret>,
    ) {
        self.wardrobe.arm(config, states, secrets);
    }

    /// Writes down what the server has made of them.
    pub(super) fn write_down(&self, audit: &mut Log, now: Instant) {
        self.wardrobe.write(audit, now);
    }

    /// An exchange went well.
    fn went_well(&self) {
        if let Some(vital) = &self.vital {
            vital.went(&Ok(()), Instant::now());
        }
        self.note(None);
    }

    /// Tells the operator, once for each new kind of trouble.
    fn went_wrong(&self, trouble: &Trouble) {
        if let Some(vital) = &self.vital {
            vital.went(&Err(trouble), Instant::now());
        }
        self.note(Some(trouble.to_string()));
    }

    fn note(&self, problem: Option<String>) {
        self.metrics.upstream(problem.is_none());
        let mut news = false;
        self.health.update(|facts| {
            if let Some(upstream) = &mut facts.upstream {
                news = upstream.note(problem.clone());
            }
        });
        match problem {
            Some(problem) if news => tracing::warn!("{}: {problem}", self.place),
            None if news => tracing::info!("{} answers", self.place),
            _ => {}
        }
    }
}

fn tls(upstream: &Upstream) -> Result<ClientTls, UpstreamError> {
    let oldest = upstream.min_version;
    trust(
        &upstream.url.host,
        upstream.ca.as_deref(),
        &upstream.pins,
        oldest,
    )
}

/// TLS towards a host, with the certificates of a file or those that the system trusts.
///
/// # Errors
/// The certificates cannot be read or used.
pub(super) fn trust(
    host: &str,
    ca: Option<&Path>,
    pins: &[[u8; 32]],
    oldest: TlsVersion,
) -> Result<ClientTls, UpstreamError> {
    let given = ca.map(read).transpose()?;
    let system = match &given {
        Some(_) => None,
        None => Some(system()?),
    };
    let roots = match (&given, &system) {
        (Some(text), _) => Roots::Given(text),
        (None, Some(text)) => Roots::System(text),
        (None, None) => return Err(UpstreamError::NoRoots),
    };
    let settings = ClientSettings {
        host,
        roots,
        pins,
        oldest,
    };
    ClientTls::new(&settings).map_err(|source| UpstreamError::Tls { source })
}

fn system() -> Result<Vec<u8>, UpstreamError> {
    if let Some(named) = std::env::var_os("SSL_CERT_FILE") {
        return read(Path::new(&named));
    }
    let there = SYSTEM.iter().map(Path::new).find(|path| path.is_file());
    there.map_or(Err(UpstreamError::NoRoots), read)
}

fn read(path: &Path) -> Result<Vec<u8>, UpstreamError> {
    read_file(path, LARGEST).map_err(|source| UpstreamError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Where bridges run.
#[derive(Debug)]
pub(super) enum Bridges {
    /// On a thread of their own, beside a loop that is no runtime.
    Beside {
        settings: Arc<Settings>,
        runtime: Option<Runtime>,
        sender: Option<UnboundedSender<[OwnedFd; 3]>>,
    },
    /// On the runtime that asks for them.
    Here(Arc<Settings>),
}

impl Bridges {
    /// For a loop that is no runtime. What a runtime needs is opened now; its thread starts with the
    /// first bridge.
    pub(super) fn beside(settings: Arc<Settings>) -> Result<Self, UpstreamError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| UpstreamError::Runtime { source })?;
        Ok(Self::Beside {
            settings,
            runtime: Some(runtime),
            sender: None,
        })
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        match self {
            Self::Beside { settings, .. } | Self::Here(settings) => settings,
        }
    }

    /// Starts a bridge on what the spawner gave for a server elsewhere, and returns the ends that are
    /// ours of any server.
    pub(super) fn start(&mut self, mut fds: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        if fds.len() != 6 {
            return Err(wrong());
        }
        let theirs = <[OwnedFd; 3]>::try_from(fds.split_off(3)).map_err(|_| wrong())?;
        match self {
            Self::Here(settings) => {
                drop(spawn_local(serve(Arc::clone(settings), theirs)));
            }
            Self::Beside {
                settings,
                runtime,
                sender,
            } => {
                if let Some(runtime) = runtime.take() {
                    *sender = Some(thread(runtime, Arc::clone(settings))?);
                }
                let sent = sender.as_ref().map(|sender| sender.send(theirs));
                sent.and_then(Result::ok).ok_or_else(wrong)?;
            }
        }
        Ok(fds)
    }
}

fn thread(runtime: Runtime, settings: Arc<Settings>) -> io::Result<UnboundedSender<[OwnedFd; 3]>> {
    let (sender, mut bridges) = unbounded_channel();
    std::thread::Builder::new()
        .name("upstream".to_owned())
        .spawn(move || {
            LocalSet::new().block_on(&runtime, async move {
                while let Some(theirs) = bridges.recv().await {
                    drop(spawn_local(serve(Arc::clone(&settings), theirs)));
                }
            });
        })?;
    Ok(sender)
}

async fn serve(settings: Arc<Settings>, theirs: [OwnedFd; 3]) {
    match Bridge::new(settings, theirs) {
        Ok((bridge, stdin)) => Rc::new(bridge).run(stdin).await,
        Err(error) => tracing::error!("no bridge to the server: {error}"),
    }
}
