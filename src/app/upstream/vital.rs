//! Whether the server is there, by checks and by requests together; what all bridges know of it.
//!
//! ```text
//! up ── failures in a row: as many as are allowed ──▶ down: requests are refused, and not sent
//!  ▲                                                    │ ── nobody has checked for too long ──▶ (not believed)
//!  └────────────── a check or a request succeeds ───────┘
//! ```
//! A request that fails brings the next check forward, so that one that was to blame itself is told apart at once.

use crate::admin::{Checked, Health};
use crate::config::HealthCheck;
use crate::proxy::Trouble;
use crate::telemetry::Metrics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// From one check to the next at most, while they fail: whoever comes back is not kept waiting.
const QUICK: Duration = Duration::from_secs(5);
/// Checks are never closer than this, however many requests fail.
const CLOSEST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Vital {
    pub(super) rules: HealthCheck,
    state: Mutex<State>,
    /// Rings when a check may be due earlier.
    pub(super) sooner: Notify,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    /// In a row.
    failures: u32,
    down: bool,
    due: Instant,
    /// The last check.
    begun: Option<Instant>,
    ended: Option<(Instant, u64)>,
}

impl Vital {
    pub(super) fn new(rules: HealthCheck, health: &Arc<Health>, metrics: &Arc<Metrics>) -> Self {
        let vital = Self {
            rules,
            state: Mutex::new(State {
                failures: 0,
                down: false,
                due: Instant::now(),
                begun: None,
                ended: None,
            }),
            sooner: Notify::new(),
            health: Arc::clone(health),
            metrics: Arc::clone(metrics),
        };
        vital.show(&vital.lock());
        vital
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next check is due.
    pub(super) fn due(&self) -> Instant {
        self.lock().due
    }

    /// Whoever gets true makes the check that is due, and nobody else does.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let due = state.due <= now;
        if due {
            state.begun = Some(now);
            state.due = now + self.pause(&state);
        }
        due
    }

    fn pause(&self, state: &State) -> Duration {
        match state.failures {
            0 => self.rules.every,
            _ => self.rules.every.min(QUICK),
        }
    }

    /// How long until the next check of a server that is down; `None` when it may be asked. What nobody has
    /// looked at for long is not believed.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let state = self.lock();
        let (ended, _) = state.ended?;
        let fresh = ended + 2 * self.pause(&state) + self.rules.timeout > now;
        (state.down && fresh).then(|| state.due.saturating_duration_since(now))
    }

    /// What a check has come to.
    pub(super) fn checked(&self, result: &Result<(), &Trouble>, now: Instant) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let outcome = if result.is_ok() { "success" } else { "failure" };
        self.metrics.upstream_check(outcome);
        let mut state = self.lock();
        state.ended = Some((now, unix.map_or(0, |since| since.as_secs())));
        match result {
            Ok(()) => self.well(&mut state),
            Err(trouble) => self.failed(&mut state, trouble),
        }
        let begun = state.begun.unwrap_or(now);
        state.due = begun + self.pause(&state);
        self.show(&state);
    }

    /// What a request has come to.
    pub(super) fn went(&self, result: &Result<(), &Trouble>, now: Instant) {
        let mut state = self.lock();
        match result {
            Ok(()) if state.failures == 0 => return,
            Ok(()) => self.well(&mut state),
            Err(trouble) if is_absence(trouble) => {
                self.failed(&mut state, trouble);
                let closest = state.begun.map_or(now, |begun| begun + CLOSEST);
                state.due = state.due.min(closest.max(now));
                self.sooner.notify_waiters();
            }
            // It answers, if not as it should.
            Err(_) => return,
        }
        self.show(&state);
    }

    /// Another process has taken its place: nothing is known of it.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        (state.failures, state.down, state.ended) = (0, false, None);
        self.show(&state);
    }

    fn well(&self, state: &mut State) {
        state.failures = 0;
        if std::mem::take(&mut state.down) {
            tracing::info!("the server passes its health check again");
        }
    }

    fn failed(&self, state: &mut State, trouble: &Trouble) {
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.rules.failures && !state.down {
            state.down = true;
            let failures = state.failures;
            tracing::error!(
                "the server is down: {failures} failures in a row, the last: {trouble}; requests are refused until it passes its health check"
            );
        }
    }

    fn show(&self, state: &State) {
        let checked = Checked {
            down: state.down,
            failures: state.failures,
            at: state.ended.map(|(_, unix)| unix),
            every_seconds: self.rules.every.as_secs(),
        };
        self.health.down(state.down);
        self.health.update(|facts| {
            if let Some(upstream) = &mut facts.upstream {
                upstream.check = Some(checked);
            }
        });
    }
}

/// Whether trouble says that nobody is there who could answer.
fn is_absence(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Unreachable(_) | Trouble::Broken(_) => true,
        Trouble::Status { status, .. } => *status >= 500,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Facts, Fronted};

    fn vital(failures: u32) -> (Vital, Arc<Health>, Instant) {
        let facts = Facts {
            upstream: Some(Fronted::new("http://x/".to_owned())),
            ..Facts::default()
        };
        let health = Arc::new(Health::new(facts).unwrap());
        let rules = HealthCheck {
            every: Duration::from_secs(60),
            timeout: Duration::from_secs(2),
            failures,
            path: None,
        };
        let vital = Vital::new(rules, &health, &Arc::new(Metrics::new().unwrap()));
        (vital, health, Instant::now())
    }

    fn gone() -> Trouble {
        Trouble::Unreachable("no route".to_owned())
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn checks_and_requests_count_together_and_either_brings_it_back() {
        let (vital, health, now) = vital(3);
        assert!(vital.take(now) && !vital.take(now), "one of them all");
        vital.checked(&Err(&gone()), now);
        vital.went(&Err(&gone()), now);
        vital.went(&Err(&Trouble::Denied(401)), now);
        assert_eq!(vital.wait(now), None, "two are not three");
        vital.went(
            &Err(&Trouble::Status {
                status: 502,
                after: None,
            }),
            now,
        );
        assert_eq!(vital.wait(now), Some(CLOSEST));
        let check = &health.summary(true)["upstream"]["check"];
        assert_eq!(
            (&check["down"], &check["failures"]),
            (&true.into(), &3.into())
        );
        vital.went(&Ok(()), now);
        assert_eq!((vital.wait(now), vital.lock().failures), (None, 0));
        for _ in 0..3 {
            vital.checked(&Err(&gone()), now);
        }
        vital.checked(&Ok(()), now);
        assert_eq!(vital.wait(now), None);
        assert_eq!(vital.due(), now + seconds(60));
    }

    #[test]
    fn what_fails_is_checked_soon_and_not_too_often() {
        let (vital, _, now) = vital(2);
        assert!(vital.take(now));
        vital.checked(&Ok(()), now);
        assert_eq!(vital.due(), now + seconds(60));
        for _ in 0..100 {
            vital.went(&Err(&gone()), now + seconds(20));
        }
        assert_eq!(vital.due(), now + seconds(20));
        assert!(vital.take(now + seconds(20)));
        vital.went(&Err(&gone()), now + seconds(20));
        assert_eq!(vital.due(), now + seconds(20) + CLOSEST);
        vital.checked(&Err(&gone()), now + seconds(21));
        assert_eq!(vital.due(), now + seconds(20) + QUICK);
    }

    #[test]
    fn an_old_verdict_is_not_believed() {
        let (vital, health, now) = vital(1);
        vital.checked(&Err(&gone()), now);
        assert!(vital.wait(now + seconds(11)).is_some());
        assert_eq!(vital.wait(now + seconds(12)), None);
        vital.forget();
        assert_eq!(vital.wait(now), None);
        assert_eq!(health.summary(true)["upstream"]["check"]["down"], false);
    }
}
