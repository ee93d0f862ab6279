//! What requests to a server elsewhere carry to sign in: of which generation it is, what the server
//! makes of it, and who still works under an older one.
//!
//! ```text
//! in force ── another value ──▶ previous ── its overlap is over ──▶ over: its use is reported
//!     └───────── revoked ───────────┴── revoked ──▶ revoked: what is open ends, its use is an incident
//! ```

use crate::admin::{Health, RefusedCredentials};
use crate::audit::{Log, Rotation};
use crate::cell::spawn::CredentialState;
use crate::config::{Config, Inject};
use crate::policy::CredentialBreaker;
use crate::proxy::Trouble;
use crate::secret::Secret;
use crate::telemetry::Metrics;
use crate::transport::http::{HeaderMap, HeaderName, HeaderValue};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Instant;
use tokio::sync::watch;

/// Reports that wait for the loop that writes audit lines; more are counted alone.
const REPORTS: usize = 64;
/// For all requests: the server does not accept what they carry.
const ALL: &str = "";

/// One credential that is worn.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Badge {
    name: String,
    generation: u32,
    fingerprint: String,
}

/// Where an outfit is in its life, the gravest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Good,
    Over,
    Revoked,
}

/// What requests carry, from one reading of the credentials until the next that finds other values.
#[derive(Debug)]
pub(super) struct Outfit {
    headers: HeaderMap,
    badges: Vec<Badge>,
    /// The credential that has no value.
    missing: Option<String>,
    age: watch::Sender<Age>,
    told: AtomicBool,
}

impl Outfit {
    /// The headers of a request.
    pub(super) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// Does this, unless what it is done with is revoked meanwhile.
    ///
    /// # Errors
    /// It was revoked; or what the work says.
    pub(super) async fn unless_revoked<T>(
        &self,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        if self.badges.is_empty() {
            return work.await;
        }
        let done = self.until(Age::Revoked, work).await;
        done.unwrap_or(Err(Trouble::Revoked))
    }

    /// Does this, at most until nothing new should be heard with it.
    pub(super) async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.until(Age::Over, work).await
    }

    async fn until<T>(&self, end: Age, work: impl Future<Output = T>) -> Option<T> {
        let mut age = self.age.subscribe();
        let (mut work, mut ended) = (pin!(work), pin!(age.wait_for(|age| *age >= end)));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => ended.as_mut().poll(cx).map(|_| None),
        })
        .await
    }
}

/// Something that the operator is told.
#[derive(Debug)]
struct Report {
    act: &'static str,
    badge: Badge,
    status: &'static str,
    text: String,
}

#[derive(Debug)]
struct Inner {
    now: Arc<Outfit>,
    /// Those before that somebody may still wear.
    before: Vec<Weak<Outfit>>,
    states: Vec<CredentialState>,
    breaker: CredentialBreaker,
    reports: Vec<Report>,
    /// Refusals of the outfit that is worn now.
    refused: Option<(u16, u64)>,
}

/// What all bridges wear.
#[derive(Debug)]
pub(super) struct Wardrobe {
    inner: Mutex<Inner>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Wardrobe {
    pub(super) fn new(health: &Arc<Health>, metrics: &Arc<Metrics>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                now: Arc::new(Outfit::new(HeaderMap::new(), Vec::new(), None)),
                before: Vec::new(),
                states: Vec::new(),
                breaker: CredentialBreaker::default(),
                reports: Vec::new(),
                refused: None,
            }),
            health: Arc::clone(health),
            metrics: Arc::clone(metrics),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on requests carry these values; what older ones are still used for is looked at.
    pub(super) fn arm<'s>(
        &self,
        config: &Config,
        states: &[CredentialState],
        secrets: impl Iterator<Item = &'s Secret>,
    ) {
        let next = dressed(config, states, secrets);
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.states, states.to_vec());
        let same = inner.now.badges == next.badges && inner.now.missing == next.missing;
        if !same {
            let old = std::mem::replace(&mut inner.now, Arc::new(next));
            for badge in &old.badges {
                self.metrics
                    .credential_forget(&badge.name, badge.generation.saturating_sub(1));
            }
            inner.before.push(Arc::downgrade(&old));
            // What was refused may be accepted now.
            inner.breaker.reset();
            inner.refused = None;
            self.show(&inner);
        }
        let all: Vec<Arc<Outfit>> = inner.before.iter().filter_map(Weak::upgrade).collect();
        inner.before.retain(|it| it.strong_count() > 1);
        for outfit in all {
            self.look_at(&outfit, states, &before, &mut inner);
        }
    }

    /// Whether an older outfit may still be worn, and by how many it is.
    fn look_at(
        &self,
        outfit: &Arc<Outfit>,
        states: &[CredentialState],
        before: &[CredentialState],
        inner: &mut Inner,
    ) {
        let of = |states: &[CredentialState], badge: &Badge| {
            states.iter().find(|it| it.name == badge.name).cloned()
        };
        for badge in &outfit.badges {
            let age = match of(states, badge) {
                Some(state) if state.generation == badge.generation && state.revoked => {
                    Age::Revoked
                }
                Some(state) if state.generation == badge.generation => Age::Good,
                Some(state) => {
                    let previous = state.previous.as_ref();
                    let is_it = previous.is_some_and(|it| it.generation == badge.generation);
                    // Its overlap had not ended when it went: it was revoked.
                    let cut = of(before, badge).and_then(|it| it.previous);
                    let now = super::super::credentials::unix_now();
                    let cut =
                        cut.is_some_and(|it| it.generation == badge.generation && it.until > now);
                    match (is_it, cut && previous.is_none()) {
                        (true, _) => Age::Good,
                        (false, true) => Age::Revoked,
                        (false, false) => Age::Over,
                    }
                }
                None => Age::Over,
            };
            // One of them is held here.
            let users = Arc::strong_count(outfit).saturating_sub(1);
            let grows = outfit.age.send_if_modified(|old| {
                let grows = age > *old;
                *old = age.max(*old);
                grows
            });
            if grows && users > 0 {
                let name = &badge.name;
                let generation = badge.generation;
                let text = match age {
                    Age::Revoked => format!("{users} requests carried it and are ended"),
                    _ => format!("{users} requests that carry it are open after its overlap"),
                };
                tracing::warn!("credential {name}: generation {generation}: {text}");
                if age == Age::Over {
                    self.metrics.credential_use(name, "overdue", users as u64);
                }
                inner.report(Report {
                    act: "used",
                    badge: badge.clone(),
                    status: if age == Age::Over { "error" } else { "success" },
                    text,
                });
            }
        }
    }

    /// What a request is to carry; `key`: a tool or method, for what the server lets nobody do.
    ///
    /// # Errors
    /// There is nothing to sign in with, or the server did not take it again and again.
    pub(super) fn outfit(&self, key: &str) -> Result<Arc<Outfit>, Trouble> {
        let mut inner = self.lock();
        if inner.now.missing.is_some() {
            return Err(Trouble::Missing);
        }
        if !inner.now.badges.is_empty() {
            let now = Instant::now();
            for key in [ALL, key] {
                if let Some(wait) = inner.breaker.bars(key, now) {
                    for badge in &inner.now.badges {
                        self.metrics.credential_problem(&badge.name, "refused");
                    }
                    return Err(Trouble::Barred(wait));
                }
            }
        }
        Ok(Arc::clone(&inner.now))
    }

    /// True when another one is worn by now: what was refused may be accepted.
    pub(super) fn has_changed(&self, since: &Arc<Outfit>) -> bool {
        !Arc::ptr_eq(&self.lock().now, since)
    }

    /// The server has answered a request with this status.
    pub(super) fn judged(&self, outfit: &Outfit, key: &str, status: u16) {
        if outfit.badges.is_empty() {
            return;
        }
        let age = *outfit.age.borrow();
        let mut inner = self.lock();
        if age > Age::Good && !outfit.told.swap(true, Ordering::Relaxed) {
            self.used(outfit, age, &mut inner);
        }
        let current = std::ptr::eq(&raw const *inner.now, outfit);
        let now = Instant::now();
        if !matches!(status, 401 | 403 | 407) {
            if current {
                inner.breaker.answered(ALL, false, now);
                inner.breaker.answered(key, false, now);
                if inner.refused.take().is_some() {
                    self.show(&inner);
                }
            }
            return;
        }
        for badge in &outfit.badges {
            self.metrics
                .credential_refused(&badge.name, badge.generation, status);
            self.metrics.credential_problem(&badge.name, "failed");
        }
        if !current {
            return;
        }
        // Who lacks a right for one thing may have those for others.
        inner.breaker.answered(ALL, status != 403, now);
        inner.breaker.answered(key, status == 403, now);
        let first = inner.refused.is_none_or(|(known, _)| known != status);
        let count = inner.refused.map_or(0, |(_, count)| count) + 1;
        inner.refused = Some((status, count));
        self.show(&inner);
        if first {
            for badge in &outfit.badges {
                let (name, generation) = (&badge.name, badge.generation);
                let text = format!("the server answers {status} to what carries it");
                tracing::error!("credential {name}: generation {generation}: {text}");
                inner.report(Report {
                    act: "refused",
                    badge: badge.clone(),
                    status: "error",
                    text,
                });
            }
        }
    }

    fn used(&self, outfit: &Outfit, age: Age, inner: &mut Inner) {
        for badge in &outfit.badges {
            let (name, generation) = (&badge.name, badge.generation);
            let (kind, status, text) = match age {
                Age::Revoked => ("revoked", "incident", "it was used after it was revoked"),
                _ => ("overdue", "error", "it was used after its overlap"),
            };
            tracing::error!("credential {name}: generation {generation}: {text}");
            self.metrics.credential_use(name, kind, 1);
            inner.report(Report {
                act: "used",
                badge: badge.clone(),
                status,
                text: text.to_owned(),
            });
        }
    }

    fn show(&self, inner: &Inner) {
        let refused = inner.refused.map(|(status, count)| {
            let names = inner.now.badges.iter();
            let names = names.map(|badge| (badge.name.clone(), badge.generation));
            RefusedCredentials {
                names: names.collect(),
                status,
                count,
            }
        });
        self.health.update(|facts| facts.refused = refused);
    }

    /// Writes down what has happened since the last time.
    pub(super) fn write(&self, audit: &mut Log, now: Instant) {
        let reports = std::mem::take(&mut self.lock().reports);
        for report in reports {
            let line = Rotation {
                act: report.act,
                name: &report.badge.name,
                generation: report.badge.generation,
                fingerprint: &report.badge.fingerprint,
                previous: None,
                status: report.status,
                text: &report.text,
            };
            audit.rotation(&line, now);
        }
    }
}

impl Inner {
    fn report(&mut self, report: Report) {
        if self.reports.len() < REPORTS {
            self.reports.push(report);
        }
    }
}

impl Outfit {
    fn new(headers: HeaderMap, badges: Vec<Badge>, missing: Option<String>) -> Self {
        Self {
            headers,
            badges,
            missing,
            age: watch::channel(Age::Good).0,
            told: AtomicBool::new(false),
        }
    }
}

fn dressed<'s>(
    config: &Config,
    states: &[CredentialState],
    secrets: impl Iterator<Item = &'s Secret>,
) -> Outfit {
    let secrets: Vec<&Secret> = secrets.collect();
    let (mut headers, mut badges, mut missing) = (HeaderMap::new(), Vec::new(), None);
    for source in &config.credentials {
        let Inject::Header { name, format } = &source.inject else {
            continue;
        };
        let Some(secret) = secrets.iter().find(|it| it.name() == source.name) else {
            missing = Some(source.name.clone());
            continue;
        };
        let (before, after) = format.split_once("{}").unwrap_or((format, ""));
        let value = [before.as_bytes(), secret.expose(), after.as_bytes()].concat();
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(header), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(header, value);
                let state = states.iter().find(|it| it.name == source.name);
                badges.push(Badge {
                    name: source.name.clone(),
                    generation: state.map_or(0, |it| it.generation),
                    fingerprint: state.map_or_else(String::new, |it| it.fingerprint.clone()),
                });
            }
            _ => {
                tracing::error!(
                    "credential {}: its value cannot be part of a header, and is not sent",
                    source.name
                );
                missing = Some(source.name.clone());
            }
        }
    }
    Outfit::new(headers, badges, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Facts;
    use crate::config::sample;

    fn config() -> Config {
        let text = "[server]\nurl = \"http://127.0.0.1:1/\"\nname = \"t\"\n[credentials.c]\nfile = \"/x\"\ninject = { header = \"Authorization\" }\n";
        sample(text)
    }

    fn state(generation: u32, revoked: bool) -> CredentialState {
        CredentialState {
            name: "c".to_owned(),
            generation,
            fingerprint: format!("print-{generation}"),
            changed: false,
            problem: None,
            revoked,
            since: 0,
            expires: None,
            rotate_by: None,
            aged: None,
            previous: None,
        }
    }

    #[test]
    fn an_answer_to_what_was_revoked_is_an_incident() {
        let health = Arc::new(Health::new(Facts::default()).unwrap());
        let metrics = Arc::new(Metrics::new().unwrap());
        let wardrobe = Wardrobe::new(&health, &metrics);
        let (config, secret) = (config(), Secret::new("c", b"some-value".to_vec()));
        wardrobe.arm(&config, &[state(1, false)], [&secret].into_iter());
        let worn = wardrobe.outfit("x").unwrap();
        assert_eq!(worn.headers()["authorization"], "Bearer some-value");
        wardrobe.arm(&config, &[state(1, true)], std::iter::empty());
        assert!(matches!(wardrobe.outfit("x"), Err(Trouble::Missing)));
        // Nobody ends it, and the server takes it.
        wardrobe.judged(&worn, "x", 200);
        wardrobe.judged(&worn, "x", 200);
        let reports = std::mem::take(&mut wardrobe.lock().reports);
        let said: Vec<_> = reports.iter().map(|it| (it.act, it.status)).collect();
        assert_eq!(said, [("used", "success"), ("used", "incident")]);
        assert_eq!(reports[1].badge.generation, 1);
        let text = String::from_utf8(metrics.render()).unwrap();
        let line = "cofferdam_credential_misuses_total{kind=\"revoked\",name=\"c\"} 1";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn refusals_bar_all_or_one_and_another_value_is_another_chance() {
        let health = Arc::new(Health::new(Facts::default()).unwrap());
        let wardrobe = Wardrobe::new(&health, &Arc::new(Metrics::new().unwrap()));
        let (config, secret) = (config(), Secret::new("c", b"some-value".to_vec()));
        wardrobe.arm(&config, &[state(1, false)], [&secret].into_iter());
        let old = wardrobe.outfit("x").unwrap();
        for _ in 0..3 {
            wardrobe.judged(&old, "x", 403);
        }
        assert!(matches!(wardrobe.outfit("x"), Err(Trouble::Barred(_))));
        assert!(wardrobe.outfit("y").is_ok());
        for _ in 0..3 {
            wardrobe.judged(&old, "y", 401);
        }
        assert!(matches!(wardrobe.outfit("z"), Err(Trouble::Barred(_))));
        wardrobe.arm(&config, &[state(2, false)], [&secret].into_iter());
        assert!(wardrobe.outfit("x").is_ok());
        // What is heard of the old one says nothing about the new one.
        for _ in 0..3 {
            wardrobe.judged(&old, "x", 401);
        }
        assert!(wardrobe.outfit("x").is_ok());
    }
}
