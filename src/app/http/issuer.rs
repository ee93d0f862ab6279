//! The keys of an issuer of tokens that are fetched from a URL, and fetched again as it rotates them.
//!
//! ```text
//! due, or a token with a key that is not known ──▶ cell of the issuer ── a connected socket ──▶ GET over TLS
//!        good ──▶ the new set, until it is `refresh` old
//!        bad ───▶ the last good set stays, and is tried again after RETRY
//! ```
//! Like a server elsewhere it is reached by `__dial` alone, which the spawner starts for each fetch; it can
//! connect to nobody else. What comes is read here, within bounds, as bytes of a stranger.

use super::state::Gate;
use super::who::unix_now;
use crate::admin::Keys;
use crate::app::upstream::{Phone, UpstreamError, trust};
use crate::cell::egress::dial::Dialer;
use crate::cell::spawn::ISSUER;
use crate::config::{Config, Endpoint, KeySource, TlsVersion};
use crate::identity::{Jwks, JwksCache};
use crate::transport::http::{Bytes, Client, HeaderMap, HeaderValue, Method, header};
use crate::transport::tls::ClientTls;
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};

/// Bytes of a key set.
const MOST: usize = 256 * 1024;
/// Time for one fetch, from the start of the process that connects.
const LIMIT: Duration = Duration::from_secs(10);
/// After a fetch that failed.
const RETRY: Duration = Duration::from_secs(15);
/// Least number of seconds between two fetches that tokens ask for.
const PAUSE: u64 = 5;

/// One issuer.
#[derive(Debug)]
pub(in crate::app) struct Issuer {
    place: Endpoint,
    tls: ClientTls,
    refresh: Duration,
    cache: RefCell<JwksCache>,
    /// Counted up with each set that was taken.
    serial: Cell<u64>,
    /// When the next fetch is due.
    due: Cell<Instant>,
    line: RefCell<Line>,
    news: Notify,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Why the last fetch failed.
    problem: RefCell<Option<String>>,
}

/// What the spawner has said of the cell of the issuer.
#[derive(Debug)]
enum Line {
    Idle,
    Starting,
    /// Where connections are asked for; `None` once that was taken.
    Open(Option<OwnedFd>),
    Failed(String),
}

/// Ends the task that hands on connections, also when the fetch is given up half way.
struct Attending(AbortHandle);

impl Drop for Attending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Issuer {
    /// `None` where keys come from a file, or from nowhere. Certificates are read now: later nothing can
    /// be opened.
    ///
    /// # Errors
    /// There are no certificates to trust.
    pub(in crate::app) fn open(config: &Config) -> Result<Option<Self>, UpstreamError> {
        let jwt = config.access.identity.jwt.as_ref();
        let Some(KeySource::Url { place, ca, refresh }) = jwt.map(|jwt| &jwt.jwks) else {
            return Ok(None);
        };
        let tls = trust(&place.host, ca.as_deref(), &[], TlsVersion::default())?;
        let max_age = refresh.as_secs();
        Ok(Some(Self {
            place: place.clone(),
            tls,
            refresh: *refresh,
            cache: RefCell::new(JwksCache::new(Jwks::default(), 0, max_age, PAUSE)),
            serial: Cell::new(0),
            due: Cell::new(Instant::now()),
            line: RefCell::new(Line::Idle),
            news: Notify::new(),
            turn: Arc::default(),
            problem: RefCell::default(),
        }))
    }

    /// One `GET` over a connection of its own.
    async fn fetch(&self, gate: &Gate) -> Result<Vec<u8>, String> {
        let dialer = self.open_line(gate).await?;
        let phone = Phone::new(Dialer::new(dialer), false);
        let attending = phone.clone();
        // Whoever makes connections ends when nobody can ask for one any more, however this ends.
        let attending = spawn_local(async move { attending.attend().await });
        let _attending = Attending(attending.abort_handle());
        let client = Rc::new(Client::new(
            self.place.clone(),
            Some(self.tls.clone()),
            phone,
        ));
        self.get(&client).await
    }

    async fn get(&self, client: &Rc<Client<Phone>>) -> Result<Vec<u8>, String> {
        let mut headers = HeaderMap::new();
        let kinds = HeaderValue::from_static("application/jwk-set+json, application/json");
        headers.insert(header::ACCEPT, kinds);
        let sent = client.send(Method::GET, &headers, Bytes::new()).await;
        let mut answer = sent.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("it answers {}", answer.status.as_u16()));
        }
        let body = answer.whole(MOST).await;
        let body = body.map_err(|error| error.to_string())?;
        body.ok_or_else(|| format!("it has more than {MOST} bytes"))
    }

    /// Has the process started that connects; where to ask it.
    async fn open_line(&self, gate: &Gate) -> Result<OwnedFd, String> {
        loop {
            let next = self.news.notified();
            // One that served the last fetch may not have ended yet, and ends when nobody can ask it.
            if let Line::Open(dialer) = &mut *self.line.borrow_mut() {
                drop(dialer.take());
            }
            if matches!(*self.line.borrow(), Line::Idle | Line::Failed(_)) {
                break;
            }
            next.await;
        }
        let asked = match &mut gate.state.borrow_mut().spawner {
            Some(spawner) => spawner.start(ISSUER).map_err(|error| error.to_string()),
            None => Err("this is ending".to_owned()),
        };
        asked?;
        *self.line.borrow_mut() = Line::Starting;
        loop {
            let next = self.news.notified();
            match &mut *self.line.borrow_mut() {
                Line::Open(dialer) => {
                    return dialer.take().ok_or_else(|| "it was taken".to_owned());
                }
                Line::Failed(why) => return Err(why.clone()),
                Line::Idle => return Err("the process that connects has ended".to_owned()),
                Line::Starting => {}
            }
            next.await;
        }
    }
}

impl Gate {
    pub(super) fn is_for_issuer(&self, cell: u32) -> bool {
        self.issuer.is_some() && cell == ISSUER
    }

    /// The process that connects has started (with these descriptors), has ended, or did not start.
    pub(super) fn issuer_line(&self, said: Result<Vec<OwnedFd>, Option<String>>) {
        let Some(issuer) = &self.issuer else { return };
        *issuer.line.borrow_mut() = match said {
            // The last one; the others are the pipes of a server.
            Ok(mut fds) => Line::Open(fds.pop()),
            Err(None) => Line::Idle,
            Err(Some(why)) => Line::Failed(why),
        };
        issuer.news.notify_waiters();
    }

    /// Begins to fetch the keys when that is due, and sees to it that it is done again.
    pub(super) fn fetch_due(self: &Rc<Self>, now: Instant) {
        let Some(issuer) = &self.issuer else { return };
        if issuer.due.get() <= now {
            // Whatever comes of it sets another time.
            issuer.due.set(now + LIMIT + RETRY);
            let gate = Rc::clone(self);
            drop(spawn_local(async move {
                if let Some(issuer) = &gate.issuer {
                    let _turn = issuer.turn.lock().await;
                    gate.renew(issuer).await;
                }
            }));
        }
        self.wake_by(Some(issuer.due.get()));
    }

    /// A token is signed with a key that is not known: waits for a set that may have it.
    pub(super) async fn renew_keys(self: &Rc<Self>) {
        let Some(issuer) = &self.issuer else { return };
        let seen = issuer.serial.get();
        let turn = Arc::clone(&issuer.turn).lock_owned().await;
        // Those who waited for their turn are served by whoever had it.
        let renewed = issuer.serial.get() != seen;
        if renewed || !issuer.cache.borrow_mut().wants(unix_now(), true) {
            return;
        }
        // A task of its own: whoever asked may leave, and the fetch is for all.
        let gate = Rc::clone(self);
        let renewing = spawn_local(async move {
            let _turn = turn;
            if let Some(issuer) = &gate.issuer {
                gate.renew(issuer).await;
            }
        });
        drop(renewing.await);
    }

    /// Fetches the keys and takes them; what cannot be used changes nothing.
    async fn renew(self: &Rc<Self>, issuer: &Issuer) {
        let fetched = tokio::time::timeout(LIMIT, issuer.fetch(self)).await;
        let fetched = fetched.unwrap_or_else(|_| Err("it took too long".to_owned()));
        let taken = fetched.and_then(|bytes| {
            let mut cache = issuer.cache.borrow_mut();
            cache
                .replace(&bytes, unix_now())
                .map_err(|error| error.to_string())
        });
        let now = Instant::now();
        let keys = issuer.cache.borrow().current();
        let before = issuer.problem.replace(taken.as_ref().err().cloned());
        match &taken {
            Ok(()) => {
                issuer.serial.set(issuer.serial.get() + 1);
                issuer.due.set(now + issuer.refresh);
                let verifier = self.verifier.borrow().with_jwks(keys.clone());
                *self.verifier.borrow_mut() = Rc::new(verifier);
                if before.is_some() || issuer.serial.get() == 1 {
                    tracing::info!("{}: {} keys of the issuer", issuer.place, keys.len());
                }
            }
            Err(why) => {
                issuer.due.set(now + RETRY.min(issuer.refresh));
                if before.as_ref() != Some(why) {
                    tracing::error!(
                        "{}: the keys of the issuer cannot be fetched: {why}; {} keys of the last set stay",
                        issuer.place,
                        keys.len()
                    );
                }
            }
        }
        self.metrics.keys_fetched(taken.is_ok(), unix_now());
        let shown = Keys {
            url: issuer.place.to_string(),
            keys: keys.len(),
            problem: taken.err(),
        };
        self.health.update(|facts| facts.keys = Some(shown));
        self.wake_by(Some(issuer.due.get()));
    }
}
