//! The same call with the same answer, again and again: a model in a loop.
//!
//! A call is counted when its answer is known, so that a tool that is polled and says something new each
//! time is never stopped. What counts are the latest answers of one call that were all the same; another
//! answer begins anew, and so does a quiet time as long as the window.

use super::canon::Sum;
use super::who::Party;
use crate::config::Repeats as Rule;
use crate::policy::micros;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Calls that are told apart; with more, the one that was made least lately is forgotten.
const MOST: usize = 1024;

/// Whose call of what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub(super) party: Party,
    pub(super) tool: Box<str>,
    pub(super) arguments: Sum,
}

#[derive(Debug, Default)]
pub(super) struct Repeats {
    calls: HashMap<Call, Series>,
}

/// Answers that were the same.
#[derive(Debug)]
struct Series {
    answer: Sum,
    /// When they came, the oldest first; never more than the rule counts.
    times: VecDeque<u64>,
}

/// What is said of a call that was made too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) times: u32,
    /// After so long it may be made again.
    pub(super) wait: Duration,
}

impl Repeats {
    /// Whether the call has had the same answer too often.
    pub(super) fn ask(&mut self, rule: &Rule, call: &Call, now: u64) -> Option<Again> {
        let window = micros(rule.window);
        let series = self.calls.get(call)?;
        if series.times.len() < usize::try_from(rule.calls).unwrap_or(usize::MAX) {
            return None;
        }
        let free = series.times.front()?.saturating_add(window);
        (now < free).then(|| Again {
            times: rule.calls,
            wait: Duration::from_micros(free - now),
        })
    }

    /// Notes an answer.
    pub(super) fn answered(&mut self, rule: &Rule, call: Call, answer: Sum, now: u64) {
        if self.calls.len() >= MOST && !self.calls.contains_key(&call) {
            self.forget(rule, now);
        }
        let series = self.calls.entry(call).or_insert_with(|| Series {
            answer,
            times: VecDeque::new(),
        });
        if series.answer != answer {
            series.answer = answer;
            series.times.clear();
        }
        series.times.push_back(now);
        if series.times.len() > usize::try_from(rule.calls).unwrap_or(usize::MAX) {
            series.times.pop_front();
        }
    }

    fn forget(&mut self, rule: &Rule, now: u64) {
        let window = micros(rule.window);
        let latest = |series: &Series| series.times.back().copied().unwrap_or(0);
        self.calls
            .retain(|_, series| latest(series).saturating_add(window) > now);
        if self.calls.len() >= MOST {
            let oldest = self.calls.iter().min_by_key(|(_, series)| latest(series));
            if let Some(oldest) = oldest.map(|(call, _)| call.clone()) {
                self.calls.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RepeatAction;

    const SECOND: u64 = 1_000_000;

    fn rule() -> Rule {
        Rule {
            calls: 3,
            window: Duration::from_secs(60),
            action: RepeatAction::Refuse,
        }
    }

    fn call(arguments: u8) -> Call {
        Call {
            party: Party::default(),
            tool: "t".into(),
            arguments: [arguments; 16],
        }
    }

    fn answered(repeats: &mut Repeats, arguments: u8, answer: u8, second: u64) {
        repeats.answered(&rule(), call(arguments), [answer; 16], second * SECOND);
    }

    fn asks(repeats: &mut Repeats, arguments: u8, second: u64) -> Option<u64> {
        let again = repeats.ask(&rule(), &call(arguments), second * SECOND)?;
        assert_eq!(again.times, 3);
        Some(again.wait.as_secs())
    }

    #[test]
    fn the_third_same_answer_is_the_last_until_the_window_has_passed() {
        let mut repeats = Repeats::default();
        for second in [0, 10, 20] {
            assert_eq!(asks(&mut repeats, 1, second), None);
            answered(&mut repeats, 1, 7, second);
        }
        assert_eq!(asks(&mut repeats, 1, 20), Some(40));
        assert_eq!(asks(&mut repeats, 2, 20), None, "other arguments");
        assert_eq!(asks(&mut repeats, 1, 60), None, "the first is old");
        answered(&mut repeats, 1, 7, 60);
        assert_eq!(asks(&mut repeats, 1, 61), Some(9), "10, 20 and 60");
    }

    #[test]
    fn another_answer_begins_anew() {
        let mut repeats = Repeats::default();
        for (second, answer) in [(0, 1), (1, 1), (2, 2), (3, 1), (4, 1)] {
            assert_eq!(asks(&mut repeats, 1, second), None);
            answered(&mut repeats, 1, answer, second);
        }
        assert_eq!(asks(&mut repeats, 1, 5), None);
        answered(&mut repeats, 1, 1, 5);
        assert!(asks(&mut repeats, 1, 6).is_some());
    }

    #[test]
    fn a_flood_of_different_calls_takes_no_more_than_its_room() {
        let mut repeats = Repeats::default();
        for n in 0..5_000_u32 {
            let mut one = call(0);
            one.arguments[..4].copy_from_slice(&n.to_le_bytes());
            repeats.answered(&rule(), one, [1; 16], u64::from(n));
        }
        assert!(repeats.calls.len() <= MOST);
        let mut latest = call(0);
        latest.arguments[..4].copy_from_slice(&4_999_u32.to_le_bytes());
        assert!(repeats.calls.contains_key(&latest));
    }
}
