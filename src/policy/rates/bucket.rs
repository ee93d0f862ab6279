//! A token bucket in one number: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).

use crate::config::Rate;
use crate::policy::micros;
use std::time::Duration;

/// How far ahead of its rate somebody is: the time at which the bucket is full again, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::policy) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// How long to wait until one more fits; nothing is taken.
    pub(in crate::policy) fn wait(self, rate: Rate, now: u64) -> Option<Duration> {
        let (step, whole) = shape(rate);
        let ahead = self.full_at.saturating_sub(now);
        let too_far = ahead.saturating_add(step).checked_sub(whole)?;
        (too_far > 0).then(|| Duration::from_micros(too_far))
    }

    /// Takes one; [`Self::wait`] has said that it fits.
    pub(in crate::policy) fn take(&mut self, rate: Rate, now: u64) {
        let (step, _) = shape(rate);
        self.full_at = self.full_at.max(now).saturating_add(step);
    }

    /// True when it is as good as new, so that forgetting it gives nothing away.
    pub(in crate::policy) fn is_full(self, now: u64) -> bool {
        self.full_at <= now
    }
}

/// Microseconds for one, and for all.
fn shape(rate: Rate) -> (u64, u64) {
    let whole = micros(rate.per);
    let count = u64::from(rate.count.max(1));
    // Rounded down, a step could be lost; `whole` follows it so that exactly `count` fit at once.
    let step = (whole / count).max(1);
    (step, step.saturating_mul(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn as_many_at_once_as_the_number_says_and_then_evenly() {
        let rate = rate("60/min");
        let mut bucket = Bucket::default();
        let start = 5_000_000;
        for _ in 0..60 {
            assert_eq!(bucket.wait(rate, start), None);
            bucket.take(rate, start);
        }
        assert_eq!(bucket.wait(rate, start), Some(Duration::from_secs(1)));
        assert_eq!(
            bucket.wait(rate, start + 400_000),
            Some(Duration::from_millis(600))
        );
        assert_eq!(bucket.wait(rate, start + 1_000_000), None);
        assert!(!bucket.is_full(start + 59_999_999));
        assert!(bucket.is_full(start + 60_000_000));
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_twice_and_no_wait_is_in_vain(
            count in 1_u32..200,
            gaps in proptest::collection::vec(0_u64..3_000_000, 1..400),
        ) {
            let rate = Rate { count, per: Duration::from_secs(60) };
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0_u64, Vec::new());
            for gap in gaps {
                now += gap;
                match bucket.wait(rate, now) {
                    None => {
                        bucket.take(rate, now);
                        taken.push(now);
                    }
                    Some(wait) => {
                        let then = now + u64::try_from(wait.as_micros()).unwrap();
                        prop_assert_eq!(bucket.wait(rate, then), None);
                        prop_assert!(bucket.wait(rate, then - 1).is_some());
                    }
                }
            }
            // A full bucket and what flows in while it empties.
            for start in &taken {
                let window = taken.iter().filter(|at| (*start..start + 60_000_000).contains(*at));
                prop_assert!(window.count() <= 2 * count as usize);
            }
        }
    }
}
