//! Whether and when another server takes the place of one that has ended: no descriptor, no clock.
//!
//! ```text
//!         ended                   due               ready
//! Up ──────────────▶ Waiting ────────────▶ Starting ──────▶ Up
//!  │                  ▲ ▲ ▲    failed, ended, or not ready in time │
//!  │                  │ │ └──────────────────────┤
//!  │                  │ │                        │
//!  ├── in a row, too often ──▶ Parked ◀──────────┘
//!  │                  │ │        └── a request after [`PARKED`], or something is different now ──▶ Waiting
//!  ├── planned ───────┘ └── switched on ── Off ◀── switched off ── any
//!  └── never answered, or not allowed ──▶ the end
//! ```
//! A server that answered something, or stayed up for [`HEALTHY`], ends its row: it is worth another
//! start at once, however often its client makes it crash. One that does neither is started later
//! and later, then no more until somebody asks after a while, or until it would be started with
//! something else: another value or configuration is often the mend.

use std::time::{Duration, Instant};

/// A server that is up for so long is healthy, whatever it did.
const HEALTHY: Duration = Duration::from_secs(30);
/// The wait before the second start in a row; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Ends in a row after which it is not started again by itself.
const ROW: u32 = 6;
/// How long a server that crashes in a loop is left alone.
const PARKED: Duration = Duration::from_secs(60);
/// Ends before the very first answer that are forgiven, when somebody waits for that answer.
const FIRST_TRIES: u32 = 2;
/// The longest wait through which requests are kept instead of being answered.
const KEPT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up { since: Instant },
    Waiting { until: Instant, kept: bool },
    Starting { until: Instant },
    Parked { until: Instant },
    Off,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another start, after this long.
    Start(Duration),
    /// No other start by itself; requests are answered in its place.
    Park,
    /// Nothing follows: the end is final.
    End,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Start,
    /// The start takes too long: the whole tree is to be killed.
    GiveUp,
}

/// The machine.
#[derive(Debug)]
pub struct Restarts {
    allowed: bool,
    /// From the start until it can be asked.
    limit: Duration,
    state: State,
    row: u32,
    /// True once any server of this session has answered.
    proven: bool,
}

impl Restarts {
    /// `limit` is the time that a start may take until the server can be asked.
    #[must_use]
    pub fn new(allowed: bool, limit: Duration, now: Instant) -> Self {
        Self {
            allowed,
            limit,
            state: State::Up { since: now },
            row: 0,
            proven: false,
        }
    }

    /// For servers that are started one by one for those who come: each is worth as many tries as one that
    /// has answered before.
    #[must_use]
    pub fn of_many(allowed: bool, limit: Duration, now: Instant) -> Self {
        Self {
            proven: true,
            ..Self::new(allowed, limit, now)
        }
    }

    /// The new server can be asked.
    pub fn ready(&mut self, now: Instant) {
        self.state = State::Up { since: now };
    }

    /// The server has ended unasked. `answered`: it has answered its client since it was ready;
    /// `wanted`: somebody waits for an answer.
    pub fn ended(&mut self, answered: bool, wanted: bool, now: Instant) -> Next {
        if self.off() {
            return Next::Park;
        }
        if !self.allowed {
            return Next::End;
        }
        self.prove(answered);
        let up = match self.state {
            State::Up { since } => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        if up >= HEALTHY {
            self.row = 0;
        }
        self.row += 1;
        if !self.proven && (!wanted || self.row > FIRST_TRIES) {
            return Next::End;
        }
        if self.row > ROW {
            self.state = State::Parked {
                until: now + PARKED,
            };
            return Next::Park;
        }
        let wait = match self.row {
            1 => Duration::ZERO,
            more => FIRST_WAIT * 2_u32.saturating_pow(more - 2),
        };
        self.state = State::Waiting {
            until: now + wait,
            kept: wait <= KEPT,
        };
        Next::Start(wait)
    }

    /// Whether another server takes the place of one that ends from now on.
    pub fn allow(&mut self, allowed: bool) {
        self.allowed = allowed;
    }

    /// True when another server takes the place of one that ends.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.allowed
    }

    /// Another server of its kind does its work: whatever has failed before was no row.
    pub fn healthy(&mut self, now: Instant) {
        self.row = 0;
        self.ready(now);
    }

    /// True while the next start is still to come, with whatever it finds then.
    #[must_use]
    pub fn waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Nothing runs until [`Restarts::planned`].
    pub fn switch_off(&mut self) {
        self.state = State::Off;
    }

    /// True while nothing may run.
    #[must_use]
    pub fn off(&self) -> bool {
        self.state == State::Off
    }

    /// The server has ended because it is replaced: the next one starts at once. `answered`: as above; the
    /// one that was replaced may have been the first that did.
    pub fn planned(&mut self, answered: bool, now: Instant) {
        self.prove(answered);
        self.state = State::Waiting {
            until: now,
            kept: true,
        };
    }

    /// The place of the server was taken by one that can be asked already. `answered`: as above.
    pub fn taken_over(&mut self, answered: bool, now: Instant) {
        self.prove(answered);
        self.ready(now);
    }

    fn prove(&mut self, answered: bool) {
        self.proven |= answered;
        if answered {
            self.row = 0;
        }
    }

    /// The next server is started with something else than those that failed. True when that is news to a
    /// parked one: it is tried at once.
    pub fn renewed(&mut self, now: Instant) -> bool {
        let parked = self.parked();
        if parked {
            self.state = State::Waiting {
                until: now,
                kept: true,
            };
        }
        if parked || self.waiting() {
            self.row = 0;
        }
        parked
    }

    /// When [`Restarts::step`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until, .. } | State::Starting { until } => Some(until),
            State::Up { .. } | State::Parked { .. } | State::Off => None,
        }
    }

    /// What is due now.
    pub fn step(&mut self, now: Instant) -> Option<Due> {
        match self.state {
            State::Waiting { until, .. } if until <= now => {
                self.state = State::Starting {
                    until: now + self.limit,
                };
                Some(Due::Start)
            }
            // Its end is reported like any other, and counts as one.
            State::Starting { until } if until <= now => {
                self.state = State::Starting {
                    until: now + self.limit,
                };
                Some(Due::GiveUp)
            }
            _ => None,
        }
    }

    /// True while requests are to be answered in the server's place: it will not be there soon.
    #[must_use]
    pub fn absent(&self) -> bool {
        matches!(
            self.state,
            State::Off | State::Parked { .. } | State::Waiting { kept: false, .. }
        )
    }

    /// True while there is no server that can be asked.
    #[must_use]
    pub fn down(&self) -> bool {
        !matches!(self.state, State::Up { .. })
    }

    /// True from the start of the next server until it can be asked.
    #[must_use]
    pub fn starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// True when it is parked.
    #[must_use]
    pub fn parked(&self) -> bool {
        matches!(self.state, State::Parked { .. })
    }

    /// Somebody asks for the absent server: when to ask again. A parked one that has been left alone
    /// for long enough gets another try.
    pub fn asked(&mut self, now: Instant) -> Duration {
        let until = match self.state {
            State::Parked { until } if until <= now => {
                // One more failure parks it again.
                self.row = ROW;
                self.state = State::Waiting {
                    until: now,
                    kept: false,
                };
                now + Duration::from_secs(1)
            }
            State::Parked { until } | State::Waiting { until, .. } => until,
            State::Off | State::Up { .. } | State::Starting { .. } => now,
        };
        until
            .saturating_duration_since(now)
            .max(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn proven(now: Instant) -> Restarts {
        let mut restarts = Restarts::new(true, LIMIT, now);
        assert_eq!(
            restarts.ended(true, false, now),
            Next::Start(Duration::ZERO)
        );
        assert_eq!(restarts.step(now), Some(Due::Start));
        restarts.ready(now);
        restarts
    }

    #[test]
    fn one_that_answers_is_started_at_once_for_ever() {
        let now = Instant::now();
        let mut restarts = proven(now);
        for _ in 0..1000 {
            assert_eq!(restarts.ended(true, true, now), Next::Start(Duration::ZERO));
            assert_eq!(restarts.step(now), Some(Due::Start));
            restarts.ready(now);
        }
        assert!(!restarts.down());
    }

    #[test]
    fn one_that_never_answers_is_started_later_and_later_then_parked_then_tried_once() {
        let mut now = Instant::now();
        let mut restarts = proven(now);
        let mut waits = Vec::new();
        while let Next::Start(wait) = restarts.ended(false, true, now) {
            waits.push(wait.as_millis());
            now += wait;
            assert_eq!(restarts.step(now), Some(Due::Start));
            assert!(restarts.down());
        }
        // The end that `proven` began with was the first of a row that nothing has ended since.
        assert_eq!(waits, [100, 200, 400, 800, 1600]);
        assert!(restarts.parked() && restarts.absent());
        assert_eq!(restarts.due(), None);
        assert_eq!(restarts.asked(now), PARKED);
        now += PARKED;
        assert!(restarts.asked(now) > Duration::ZERO);
        assert_eq!(restarts.step(now), Some(Due::Start));
        assert_eq!(restarts.ended(false, true, now), Next::Park);
    }

    #[test]
    fn servers_for_those_who_come_have_a_row_of_their_own_that_one_who_is_served_ends() {
        let now = Instant::now();
        let mut fresh = Restarts::of_many(true, LIMIT, now);
        for _ in 0..ROW {
            assert!(matches!(fresh.ended(false, true, now), Next::Start(_)));
        }
        fresh.healthy(now);
        for _ in 0..ROW {
            assert!(matches!(fresh.ended(false, true, now), Next::Start(_)));
        }
        assert_eq!(fresh.ended(false, true, now), Next::Park);
        assert!(fresh.parked() && fresh.allowed());
        // After a while one more is tried.
        assert!(fresh.asked(now + PARKED) > Duration::ZERO);
        assert!(!fresh.parked());
        assert_eq!(fresh.ended(false, true, now + PARKED), Next::Park);
        let mut never = Restarts::of_many(false, LIMIT, now);
        assert!(!never.allowed());
        assert_eq!(never.ended(false, true, now), Next::End);
    }

    #[test]
    fn one_that_was_replaced_is_as_good_as_one_that_ended() {
        let now = Instant::now();
        for planned in [true, false] {
            let mut restarts = Restarts::new(true, LIMIT, now);
            if planned {
                restarts.planned(true, now);
                assert_eq!(restarts.step(now), Some(Due::Start));
            } else {
                restarts.taken_over(true, now);
            }
            for _ in 0..ROW {
                let next = restarts.ended(false, false, now);
                assert!(matches!(next, Next::Start(_)), "{next:?}");
            }
            assert_eq!(restarts.ended(false, false, now), Next::Park);
        }
        let mut silent = Restarts::new(true, LIMIT, now);
        silent.planned(false, now);
        assert_eq!(silent.ended(false, false, now), Next::End);
    }

    #[test]
    fn a_parked_one_is_tried_at_once_with_something_else() {
        let now = Instant::now();
        let mut restarts = Restarts::of_many(true, LIMIT, now);
        assert!(!restarts.renewed(now), "it is up");
        while restarts.ended(false, true, now) != Next::Park {}
        assert!(restarts.renewed(now) && !restarts.absent());
        assert_eq!(restarts.step(now), Some(Due::Start));
        for _ in 0..ROW {
            assert!(matches!(restarts.ended(false, true, now), Next::Start(_)));
        }
        assert_eq!(restarts.ended(false, true, now), Next::Park);
    }

    #[test]
    fn time_heals() {
        let mut now = Instant::now();
        let mut restarts = proven(now);
        restarts.ended(false, true, now);
        now += Duration::from_millis(100);
        assert_eq!(restarts.step(now), Some(Due::Start));
        restarts.ready(now);
        now += HEALTHY;
        assert_eq!(
            restarts.ended(false, true, now),
            Next::Start(Duration::ZERO)
        );
    }

    #[test]
    fn a_start_that_takes_too_long_is_given_up_and_counts() {
        let mut now = Instant::now();
        let mut restarts = proven(now);
        restarts.ended(true, true, now);
        assert_eq!(restarts.step(now), Some(Due::Start));
        now += LIMIT;
        assert_eq!(restarts.step(now), Some(Due::GiveUp));
        assert_eq!(
            restarts.ended(false, true, now),
            Next::Start(FIRST_WAIT),
            "the second end in a row"
        );
    }

    #[test]
    fn one_that_never_worked_ends_with_its_own_code() {
        let now = Instant::now();
        let mut idle = Restarts::new(true, LIMIT, now);
        assert_eq!(idle.ended(false, false, now), Next::End);
        let mut asked = Restarts::new(true, LIMIT, now);
        assert!(matches!(asked.ended(false, true, now), Next::Start(_)));
        assert!(matches!(asked.ended(false, true, now), Next::Start(_)));
        assert_eq!(asked.ended(false, true, now), Next::End);
        let mut never = Restarts::new(false, LIMIT, now);
        assert_eq!(never.ended(true, true, now), Next::End);
    }
}
