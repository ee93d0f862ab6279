//! How many calls may be made again because a server was lost: a share of what was passed on, and a
//! floor, so that a server that crashes again and again is not given all of its load twice.

use crate::config::Retry as Rule;
use crate::policy::rates::Bucket;

/// Retries that a quiet time can save up at most, in hundredths.
const MOST: u64 = 100 * 1000;

/// What is left.
#[derive(Debug)]
pub struct RetryBudget {
    rule: Rule,
    floor: Bucket,
    /// In hundredths of a call.
    earned: u64,
    /// Requests that have been counted.
    seen: u64,
}

impl RetryBudget {
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            floor: Bucket::default(),
            earned: 0,
            seen: 0,
        }
    }

    /// Takes the rule of a new configuration.
    pub fn reload(&mut self, rule: Rule) {
        self.rule = rule;
    }

    /// Counts what was passed on since the last time; `passed` is the number of requests in all.
    pub fn earn(&mut self, passed: u64) {
        let new = passed.saturating_sub(self.seen);
        self.seen = passed;
        let earned = new.saturating_mul(self.rule.share.0.into());
        self.earned = self.earned.saturating_add(earned).min(MOST);
    }

    /// Takes one; false when there is none. `now` is in microseconds since any moment.
    pub fn take(&mut self, now: u64) -> bool {
        if self.floor.wait(self.rule.floor, now).is_none() {
            self.floor.take(self.rule.floor, now);
            return true;
        }
        let enough = self.earned >= 100;
        if enough {
            self.earned -= 100;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Percent, Rate};
    use std::time::Duration;

    fn budget(share: u8, floor: u32) -> RetryBudget {
        RetryBudget::new(Rule {
            share: Percent(share),
            floor: Rate {
                count: floor,
                per: Duration::from_secs(60),
            },
        })
    }

    fn taken(budget: &mut RetryBudget, now: u64) -> usize {
        std::iter::from_fn(|| budget.take(now).then_some(()))
            .take(10_000)
            .count()
    }

    #[test]
    fn the_floor_and_then_a_share_of_what_was_passed_on() {
        let mut budget = budget(10, 5);
        assert_eq!(taken(&mut budget, 0), 5);
        budget.earn(99);
        assert_eq!(taken(&mut budget, 0), 9);
        budget.earn(101);
        assert_eq!(
            taken(&mut budget, 0),
            1,
            "what was counted is not counted again"
        );
        assert_eq!(taken(&mut budget, 60_000_000), 5, "the floor comes back");
    }

    #[test]
    fn a_crash_loop_adds_no_more_than_the_share() {
        let mut budget = budget(10, 1);
        let (mut passed, mut again) = (0_u64, 0_usize);
        // Every crash takes 50 calls with it that could be made again.
        for crash in 0..1000 {
            passed += 50;
            budget.earn(passed);
            again += (0..50).filter(|_| budget.take(crash)).count();
        }
        assert!((4_900..=5_001).contains(&again), "{again} of {passed}");
    }

    #[test]
    fn a_share_of_nothing_leaves_the_floor() {
        let mut budget = budget(0, 1);
        budget.earn(1_000_000);
        assert_eq!(taken(&mut budget, 0), 1);
    }
}
