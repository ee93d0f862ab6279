//! Whether calls are let through at all: the circuit breaker of one tool, or of the whole server.
//!
//! ```text
//!            enough calls, too many of them failed            the pause is over, somebody asks
//! Closed ───────────────────────────────────────▶ Open ─────────────────────────────────────▶ HalfOpen
//!   ▲                                              ▲                                           │  │
//!   │                                              └────────────── a probe fails ──────────────┘  │
//!   └────────────────────────────── as many probes as are wanted succeed ─────────────────────────┘
//! ```
//! What was let through before a change of state says nothing about the state after it: each change
//! begins a new epoch, and the outcome of a call of an older one is ignored. A probe of which nobody will
//! ever know the outcome (its client cancelled it) gives its place to another.

use crate::config::Breaker as Rule;
use crate::policy::micros;
use std::time::Duration;

/// Parts of the window that are forgotten one by one.
const SLOTS: usize = 10;
/// What a refused caller is told to wait for while probes run.
const MOMENT: u64 = 1_000_000;

/// Where a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    Closed,
    Open,
    HalfOpen,
}

impl Circuit {
    /// One word, for metrics, audit and `/health`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was answered.
    Success,
    /// It was answered in time, and with an error that is no fault of its caller.
    Fault,
    /// Nothing (that is a message) came back.
    Lost,
    /// Nobody knows: it was cancelled, or it was never asked.
    Unknown,
}

/// A call that was let through; its outcome has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Through {
    epoch: u32,
    probe: bool,
}

#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: State,
    epoch: u32,
    window: Window,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: u64,
    },
    HalfOpen {
        running: u32,
        succeeded: u32,
    },
}

impl Breaker {
    /// Lets a call through, or says how long to wait. `now` is in microseconds since any moment.
    pub(super) fn ask(&mut self, rule: &Rule, now: u64) -> Result<Through, Duration> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(Duration::from_micros(until - now));
            }
            self.enter(State::HalfOpen {
                running: 0,
                succeeded: 0,
            });
        }
        let mut probe = false;
        if let State::HalfOpen { running, succeeded } = &mut self.state {
            if *running + *succeeded >= rule.probes {
                return Err(Duration::from_micros(MOMENT));
            }
            *running += 1;
            probe = true;
        }
        Ok(Through {
            epoch: self.epoch,
            probe,
        })
    }

    /// Takes the outcome of a call; `failed` is `None` when nobody knows. True when the state changed.
    pub(super) fn told(
        &mut self,
        rule: &Rule,
        through: Through,
        failed: Option<bool>,
        now: u64,
    ) -> bool {
        if through.epoch != self.epoch {
            return false;
        }
        match (&mut self.state, failed) {
            (State::HalfOpen { running, .. }, None) => {
                *running = running.saturating_sub(1);
                false
            }
            (State::HalfOpen { .. }, Some(true)) => self.open(rule, now),
            (State::HalfOpen { running, succeeded }, Some(false)) => {
                *running = running.saturating_sub(1);
                *succeeded += 1;
                let enough = *succeeded >= rule.probes;
                if enough {
                    self.enter(State::Closed);
                }
                enough
            }
            (State::Closed, Some(failed)) => {
                let slot = micros(rule.window) / SLOTS as u64;
                self.window.add(failed, slot.max(1), now);
                let (calls, failures) = self.window.sum();
                let share = u64::from(rule.failures.0);
                let too_many = u64::from(failures) * 100 >= u64::from(calls) * share;
                failed && calls >= rule.calls && too_many && self.open(rule, now)
            }
            (State::Closed, None) | (State::Open { .. }, _) => false,
        }
    }

    pub(super) fn circuit(&self) -> Circuit {
        match self.state {
            State::Closed => Circuit::Closed,
            State::Open { .. } => Circuit::Open,
            State::HalfOpen { .. } => Circuit::HalfOpen,
        }
    }

    /// How long nothing will be let through.
    pub(super) fn wait(&self, now: u64) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(Duration::from_micros(until.saturating_sub(now))),
            _ => None,
        }
    }

    /// True when forgetting it would give nothing away.
    pub(super) fn is_idle(&self, rule: &Rule, now: u64) -> bool {
        matches!(self.state, State::Closed)
            && self.window.latest.saturating_add(micros(rule.window)) < now
    }

    fn open(&mut self, rule: &Rule, now: u64) -> bool {
        self.enter(State::Open {
            until: now.saturating_add(micros(rule.pause)),
        });
        true
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
        self.window = Window::default();
    }
}

/// Calls and failures of the latest slots.
#[derive(Debug, Default)]
struct Window {
    slots: [(u32, u32); SLOTS],
    /// Number of the slot that is filled, counted since time zero.
    at: u64,
    latest: u64,
}

impl Window {
    fn add(&mut self, failed: bool, slot: u64, now: u64) {
        let at = now / slot;
        let passed = at.saturating_sub(self.at).min(SLOTS as u64);
        for past in 0..passed {
            if let Some(old) = self.slots.get_mut(index(at - past)) {
                *old = (0, 0);
            }
        }
        self.at = self.at.max(at);
        self.latest = now;
        if let Some((calls, failures)) = self.slots.get_mut(index(self.at)) {
            *calls = calls.saturating_add(1);
            *failures = failures.saturating_add(failed.into());
        }
    }

    fn sum(&self) -> (u32, u32) {
        let add =
            |(a, b): (u32, u32), (c, d): &(u32, u32)| (a.saturating_add(*c), b.saturating_add(*d));
        self.slots.iter().fold((0, 0), add)
    }
}

fn index(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Percent;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    fn rule() -> Rule {
        Rule {
            window: Duration::from_secs(60),
            calls: 4,
            failures: Percent(50),
            pause: Duration::from_secs(30),
            probes: 2,
            tool_errors: false,
        }
    }

    /// Lets calls through one after another and tells how each ends.
    fn run(breaker: &mut Breaker, failures: &[bool], now: u64) {
        for failed in failures {
            let through = breaker.ask(&rule(), now).unwrap();
            breaker.told(&rule(), through, Some(*failed), now);
        }
    }

    fn opened(now: u64) -> Breaker {
        let mut breaker = Breaker::default();
        run(&mut breaker, &[true; 4], now);
        assert_eq!(breaker.circuit(), Circuit::Open);
        breaker
    }

    #[test]
    fn few_calls_or_few_failures_keep_it_closed() {
        let mut breaker = Breaker::default();
        run(&mut breaker, &[true; 3], SECOND);
        assert_eq!(breaker.circuit(), Circuit::Closed, "too few calls to know");
        let mut breaker = Breaker::default();
        run(
            &mut breaker,
            &[false, false, false, true, true, false, false, true],
            SECOND,
        );
        assert_eq!(breaker.circuit(), Circuit::Closed, "3 of 8");
        run(&mut breaker, &[true, true], SECOND);
        assert_eq!(breaker.circuit(), Circuit::Open, "5 of 10");
    }

    #[test]
    fn closed_to_open_and_nothing_passes_until_the_pause_is_over() {
        let mut breaker = opened(SECOND);
        assert_eq!(
            breaker.ask(&rule(), 11 * SECOND),
            Err(Duration::from_secs(20))
        );
        assert_eq!(breaker.wait(11 * SECOND), Some(Duration::from_secs(20)));
        assert!(breaker.ask(&rule(), 31 * SECOND).is_ok());
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
    }

    #[test]
    fn half_open_to_closed_when_all_probes_succeed_and_no_more_than_those_pass() {
        let mut breaker = opened(SECOND);
        let now = 31 * SECOND;
        let one = breaker.ask(&rule(), now).unwrap();
        let two = breaker.ask(&rule(), now).unwrap();
        assert!(breaker.ask(&rule(), now).is_err(), "two at one time");
        assert!(!breaker.told(&rule(), one, Some(false), now));
        assert!(
            breaker.ask(&rule(), now).is_err(),
            "one succeeded, one runs"
        );
        assert!(breaker.told(&rule(), two, Some(false), now));
        assert_eq!(breaker.circuit(), Circuit::Closed);
        run(&mut breaker, &[true; 3], now);
        assert_eq!(breaker.circuit(), Circuit::Closed, "it begins at nothing");
    }

    #[test]
    fn half_open_to_open_when_a_probe_fails() {
        let mut breaker = opened(SECOND);
        let now = 31 * SECOND;
        let one = breaker.ask(&rule(), now).unwrap();
        let two = breaker.ask(&rule(), now).unwrap();
        assert!(breaker.told(&rule(), one, Some(true), now));
        assert_eq!(breaker.circuit(), Circuit::Open);
        assert!(!breaker.told(&rule(), two, Some(false), now), "too late");
        assert_eq!(breaker.wait(now), Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_probe_that_nobody_hears_of_gives_its_place_to_another() {
        let mut breaker = opened(SECOND);
        let now = 31 * SECOND;
        let one = breaker.ask(&rule(), now).unwrap();
        let _two = breaker.ask(&rule(), now).unwrap();
        breaker.told(&rule(), one, None, now);
        assert!(breaker.ask(&rule(), now).is_ok());
    }

    #[test]
    fn what_began_before_a_change_says_nothing_about_after() {
        let mut breaker = Breaker::default();
        let early: Vec<Through> = (0..8)
            .map(|_| breaker.ask(&rule(), SECOND).unwrap())
            .collect();
        for through in &early[..4] {
            breaker.told(&rule(), *through, Some(true), SECOND);
        }
        assert_eq!(breaker.circuit(), Circuit::Open);
        let probe = breaker.ask(&rule(), 31 * SECOND).unwrap();
        for through in &early[4..] {
            assert!(!breaker.told(&rule(), *through, Some(true), 31 * SECOND));
        }
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        assert!(probe.probe);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut breaker = Breaker::default();
        run(&mut breaker, &[true; 3], SECOND);
        run(&mut breaker, &[true], 62 * SECOND);
        assert_eq!(breaker.circuit(), Circuit::Closed);
        assert!(!breaker.is_idle(&rule(), 63 * SECOND));
        assert!(breaker.is_idle(&rule(), 123 * SECOND));
        run(&mut breaker, &[true; 3], 63 * SECOND);
        assert_eq!(breaker.circuit(), Circuit::Open);
    }

    proptest! {
        /// Whatever happens, an open one lets nothing through, a half-open one no more than its probes,
        /// and it never stays open for ever.
        #[test]
        fn it_never_lets_too_much_through(
            steps in proptest::collection::vec((0_u64..20_000_000, 0_u8..4), 1..400),
        ) {
            let rule = rule();
            let (mut breaker, mut now) = (Breaker::default(), 0);
            let mut running: Vec<Through> = Vec::new();
            for (gap, step) in steps {
                now += gap;
                let before = breaker.circuit();
                let wait = breaker.wait(now);
                match step {
                    0 | 1 => match breaker.ask(&rule, now) {
                        Ok(through) => {
                            prop_assert!(wait.is_none_or(|wait| wait.is_zero()));
                            running.push(through);
                        }
                        Err(_) => prop_assert!(before != Circuit::Closed),
                    },
                    _ => if let Some(through) = running.pop() {
                        breaker.told(&rule, through, Some(step == 2), now);
                    },
                }
                if breaker.circuit() == Circuit::HalfOpen {
                    let probes = running.iter().filter(|t| t.epoch == breaker.epoch);
                    prop_assert!(probes.count() <= 2);
                }
                prop_assert!(breaker.wait(now).is_none_or(|wait| wait <= rule.pause));
            }
        }
    }
}
