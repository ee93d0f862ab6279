//! How long a place is taken, so that whoever would wait in vain is told at once.

use std::time::Duration;

/// Places that were given back before anybody is turned away by what was learnt of them.
const ENOUGH: u32 = 8;
/// The latest counts for an eighth.
const WEIGHT: u64 = 8;

/// The mean of how long places are taken, the latest counting most; in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    mean: u64,
    seen: u32,
}

impl Pace {
    /// A place was given back after so long.
    pub(super) fn learn(&mut self, took: u64) {
        self.mean = match self.seen {
            0 => took,
            _ => self.mean - self.mean / WEIGHT + took / WEIGHT,
        };
        self.seen = self.seen.saturating_add(1);
    }

    /// How long it takes until somebody before whom `ahead` wait has one of `places`; `None` when too
    /// little is known.
    pub(super) fn wait(self, ahead: usize, places: u32) -> Option<Duration> {
        let turns = u64::try_from(ahead).unwrap_or(u64::MAX).saturating_add(1);
        let whole = self.mean.saturating_mul(turns) / u64::from(places.max(1));
        (self.seen >= ENOUGH).then(|| Duration::from_micros(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_what_those_ahead_take_in_all_places() {
        let mut pace = Pace::default();
        for _ in 0..ENOUGH {
            assert_eq!(pace.wait(1, 1), None);
            pace.learn(2_000_000);
        }
        assert_eq!(pace.wait(0, 1), Some(Duration::from_secs(2)));
        assert_eq!(pace.wait(9, 4), Some(Duration::from_secs(5)));
        for _ in 0..100 {
            pace.learn(0);
        }
        assert!(pace.wait(9, 1).unwrap() < Duration::from_millis(1));
    }
}
