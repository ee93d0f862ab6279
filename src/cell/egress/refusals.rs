//! What was refused and what passed: told at once while there is something new to say, counted when
//! there is not, and within a rate.

use super::news::{Carried, News, Reason, Refused};
use super::rules::Rules;
use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Refusals that are told at once.
const BURST: u32 = 64;
/// After so much time there is one more.
const REFILL: Duration = Duration::from_secs(10);
/// Refusals that are known to have been told; then all may be told again.
const KNOWN: usize = 1024;

/// One thing that did not come about; the parts are those of [`Refused`].
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) host: String,
    pub(super) text: String,
}

/// What passed on behalf of one rule.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) connections: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

impl Meter {
    fn counters(&self) -> [&AtomicU64; 3] {
        [&self.connections, &self.sent, &self.received]
    }
}

/// The way to the spawner, and what has gone over it.
#[derive(Debug)]
pub(super) struct Refusals {
    channel: OwnedFd,
    state: Mutex<State>,
    /// By the label of the rule; those of the configuration and no others.
    meters: BTreeMap<String, Meter>,
    /// For what no rule is known for, which does not happen.
    nobody: Meter,
}

#[derive(Debug)]
struct State {
    told: HashSet<String>,
    tokens: u32,
    refilled: Instant,
    /// What is counted and not told yet, by the label of a rule.
    counted: BTreeMap<(Reason, String), u64>,
}

impl State {
    /// Whether one more may be told now.
    fn take(&mut self, now: Instant) -> bool {
        while self.tokens < BURST && now.saturating_duration_since(self.refilled) >= REFILL {
            self.tokens += 1;
            self.refilled += REFILL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
        let there = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        there
    }
}

impl Refusals {
    pub(super) fn new(channel: OwnedFd, rules: &Rules) -> Self {
        let meters = rules.labels().map(|label| (label, Meter::default()));
        Self {
            channel,
            state: Mutex::new(State {
                told: HashSet::new(),
                tokens: BURST,
                refilled: Instant::now(),
                counted: BTreeMap::new(),
            }),
            meters: meters.collect(),
            nobody: Meter::default(),
        }
    }

    /// Readable when the spawner wants no more of us.
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Tells the operator, if this is new and not too much, and counts it otherwise. Never waits.
    pub(super) fn tell(&self, reason: Reason, rule: &str, host: &str, text: &str) {
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        let mut news = Refused {
            reason,
            rule: rule.to_owned(),
            host: host.to_owned(),
            text: String::new(),
            times: 1,
        };
        if !state.told.contains(text) && state.take(Instant::now()) {
            if state.told.len() >= KNOWN {
                state.told.clear();
            }
            state.told.insert(text.to_owned());
            text.clone_into(&mut news.text);
            if state.tokens == 0 {
                let more = "; for a while further ones are only counted";
                news.text.push_str(more);
            }
            if self.send(&News::Refused(news)) {
                return;
            }
        }
        *state.counted.entry((reason, rule.to_owned())).or_default() += 1;
    }

    pub(super) fn meter(&self, rule: &str) -> &Meter {
        self.meters.get(rule).unwrap_or(&self.nobody)
    }

    /// Whether there is anything for [`Refusals::flush`].
    pub(super) fn has_counted(&self) -> bool {
        let refused = self
            .state
            .lock()
            .is_ok_and(|state| !state.counted.is_empty());
        let used = |meter: &Meter| {
            let counters = meter.counters();
            counters.iter().any(|it| it.load(Ordering::Relaxed) > 0)
        };
        refused || self.meters.values().any(used)
    }

    /// Tells what was counted; what finds no room is told the next time.
    pub(super) fn flush(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.counted.retain(|(reason, rule), times| {
                !self.send(&News::Refused(Refused {
                    reason: *reason,
                    rule: rule.clone(),
                    host: String::new(),
                    text: String::new(),
                    times: *times,
                }))
            });
        }
        for (rule, meter) in &self.meters {
            let counters = meter.counters();
            let [connections, sent, received] = counters.map(|it| it.swap(0, Ordering::Relaxed));
            if (connections, sent, received) == (0, 0, 0) {
                continue;
            }
            let rule = rule.clone();
            let carried = Carried {
                rule,
                connections,
                sent,
                received,
            };
            if !self.send(&News::Carried(carried)) {
                for (counter, value) in counters.iter().zip([connections, sent, received]) {
                    counter.fetch_add(value, Ordering::Relaxed);
                }
            }
        }
    }

    fn send(&self, news: &News) -> bool {
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        rustix::net::send(&self.channel, &news.encode(), flags).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::egress::news::LONGEST;
    use crate::cell::pair;
    use rustix::net::{RecvFlags, recv};

    fn pair() -> (OwnedFd, Refusals) {
        let (ours, theirs) = pair::packets().unwrap();
        let rules = ["a.example:443".parse().unwrap()];
        (ours, Refusals::new(theirs, &Rules::new(&rules)))
    }

    fn hear(ours: &OwnedFd) -> Vec<News> {
        let mut all = Vec::new();
        let mut bytes = [0; LONGEST];
        while let Ok((count, _)) = recv(ours, &mut bytes[..], RecvFlags::DONTWAIT) {
            if count == 0 {
                break;
            }
            all.push(News::decode(&bytes[..count]).unwrap());
        }
        all
    }

    #[test]
    fn each_is_told_once_a_flood_is_counted_and_nothing_is_lost() {
        let (ours, refusals) = pair();
        for number in 0..1000 {
            refusals.tell(Reason::Name, "", "x", &format!("host {number}"));
            refusals.tell(Reason::Port, "a.example", "x", "host 0");
        }
        assert!(refusals.has_counted());
        let told = hear(&ours);
        refusals.flush();
        assert!(!refusals.has_counted());
        let counted = hear(&ours);
        assert_eq!((told.len(), counted.len()), (64, 2));
        let texts: Vec<_> = told
            .iter()
            .map(|news| match news {
                News::Refused(refused) => refused.text.as_str(),
                News::Carried(_) => "",
            })
            .collect();
        assert_eq!(texts[1], "host 1");
        assert!(texts[63].ends_with("only counted"), "{}", texts[63]);
        let times = |news: &News| match news {
            News::Refused(refused) => refused.times,
            News::Carried(_) => 0,
        };
        let all: u64 = told.iter().chain(&counted).map(times).sum();
        assert_eq!(all, 2000);
    }

    #[test]
    fn time_gives_a_few_more() {
        let now = Instant::now();
        let mut state = State {
            told: HashSet::new(),
            tokens: 0,
            refilled: now,
            counted: BTreeMap::new(),
        };
        assert!(!state.take(now + REFILL / 2));
        assert!(state.take(now + REFILL));
        assert!(!state.take(now + REFILL));
        let later = now + REFILL * 1000;
        let taken = (0..100).filter(|_| state.take(later)).count();
        assert_eq!(taken, 64);
    }

    #[test]
    fn what_passed_is_told_once_also_when_nobody_reads_for_a_while() {
        let (ours, refusals) = pair();
        refusals.meter("a.example").sent.store(5, Ordering::Relaxed);
        // What belongs to no rule is nobody's.
        refusals.meter("b.example").sent.store(9, Ordering::Relaxed);
        while refusals.send(&News::Carried(Carried {
            rule: "x".repeat(3000),
            connections: 0,
            sent: 0,
            received: 0,
        })) {}
        refusals.flush();
        assert!(refusals.has_counted());
        hear(&ours);
        refusals.flush();
        refusals.flush();
        let carried = Carried {
            rule: "a.example".into(),
            connections: 0,
            sent: 5,
            received: 0,
        };
        assert_eq!(hear(&ours), [News::Carried(carried)]);
    }
}
