//! What has been used up of each budget.

use super::who::Account;
use crate::config::Budget;
use crate::policy::micros;
use std::collections::HashMap;
use std::time::Duration;

/// Accounts that are kept; with more, those that are as good as new are forgotten, then the one that was
/// used least lately.
const MOST: usize = 16 * 1024;
const MINUTE: u64 = 60_000_000;

/// A budget that somebody draws on.
#[derive(Debug, Clone)]
pub(super) struct Purse {
    pub(super) account: Account,
    pub(super) budget: Budget,
}

/// What a budget has run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    Calls,
    Bytes,
    Tokens,
}

/// What may still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) bytes: u64,
    pub(super) tokens: u64,
}

/// More than is usual was used within a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alert {
    /// `session`, `client` or `tool`.
    pub scope: &'static str,
    /// In that minute, so far.
    pub tokens: u64,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: HashMap<Account, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// When the time began that is counted.
    begun: u64,
    calls: u64,
    bytes: u64,
    tokens: u64,
    /// The minute that is looked at, its tokens, and whether somebody was told.
    minute: u64,
    rush: u64,
    told: bool,
    latest: u64,
}

impl Ledger {
    /// What a purse has run out of, and when it is filled again.
    pub(super) fn spent(&mut self, purse: &Purse, now: u64) -> Option<(Spent, Option<Duration>)> {
        let budget = &purse.budget;
        let entry = self.accounts.get_mut(&purse.account)?;
        entry.renew(budget, now);
        let over = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit);
        let what = if over(budget.calls, entry.calls) {
            Spent::Calls
        } else if over(budget.bytes.map(|bytes| bytes.0), entry.bytes) {
            Spent::Bytes
        } else if over(budget.tokens, entry.tokens) {
            Spent::Tokens
        } else {
            return None;
        };
        let wait = budget.per.map(|per| {
            let end = entry.begun.saturating_add(micros(per));
            Duration::from_micros(end.saturating_sub(now))
        });
        Some((what, wait))
    }

    pub(super) fn left(&mut self, purse: &Purse, now: u64) -> Left {
        let budget = &purse.budget;
        let (mut bytes, mut tokens) = (0, 0);
        if let Some(entry) = self.accounts.get_mut(&purse.account) {
            entry.renew(budget, now);
            (bytes, tokens) = (entry.bytes, entry.tokens);
        }
        let left =
            |limit: Option<u64>, used| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
        Left {
            bytes: left(budget.bytes.map(|bytes| bytes.0), bytes),
            tokens: left(budget.tokens, tokens),
        }
    }

    /// Draws on a purse.
    pub(super) fn draw(
        &mut self,
        purse: &Purse,
        (calls, bytes, tokens): (u64, u64, u64),
        now: u64,
    ) -> Option<Alert> {
        let budget = &purse.budget;
        if self.accounts.len() >= MOST && !self.accounts.contains_key(&purse.account) {
            self.forget(now);
        }
        let entry = self.accounts.entry(purse.account.clone());
        let entry = entry.or_insert_with(|| Entry {
            begun: now,
            ..Entry::default()
        });
        entry.renew(budget, now);
        entry.latest = now;
        entry.calls = entry.calls.saturating_add(calls);
        entry.bytes = entry.bytes.saturating_add(bytes);
        entry.tokens = entry.tokens.saturating_add(tokens);
        let limit = budget.alert?;
        if entry.minute != now / MINUTE {
            (entry.minute, entry.rush, entry.told) = (now / MINUTE, 0, false);
        }
        entry.rush = entry.rush.saturating_add(tokens);
        let alarming =
            entry.rush >= limit && !std::mem::replace(&mut entry.told, entry.rush >= limit);
        alarming.then(|| Alert {
            scope: purse.account.scope(),
            tokens: entry.rush,
        })
    }

    /// A session is over: nobody will draw on its purse again.
    pub(super) fn close(&mut self, session: u64) {
        self.accounts.retain(
            |account, _| !matches!(account, Account::Session(party) if party.session == session),
        );
    }

    fn forget(&mut self, now: u64) {
        let old = now.saturating_sub(24 * 60 * MINUTE);
        self.accounts.retain(|_, entry| entry.latest > old);
        if self.accounts.len() >= MOST {
            let oldest = self.accounts.iter().min_by_key(|(_, entry)| entry.latest);
            if let Some(oldest) = oldest.map(|(account, _)| account.clone()) {
                self.accounts.remove(&oldest);
            }
        }
    }
}

impl Entry {
    fn renew(&mut self, budget: &Budget, now: u64) {
        let Some(per) = budget.per else { return };
        let per = micros(per).max(1);
        let passed = now.saturating_sub(self.begun) / per;
        if passed > 0 {
            self.begun += passed * per;
            (self.calls, self.bytes, self.tokens) = (0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    fn purse(budget: Budget) -> Purse {
        Purse {
            account: Account::Tool("t".into()),
            budget,
        }
    }

    #[test]
    fn what_is_used_up_stays_so_until_its_time_is_over() {
        let mut ledger = Ledger::default();
        let hour = Duration::from_secs(3600);
        let purse = purse(Budget {
            calls: Some(2),
            tokens: Some(100),
            bytes: Some(ByteSize(1000)),
            per: Some(hour),
            alert: None,
        });
        assert_eq!(ledger.spent(&purse, 0), None);
        assert_eq!(
            ledger.left(&purse, 0),
            Left {
                bytes: 1000,
                tokens: 100
            }
        );
        ledger.draw(&purse, (1, 400, 30), 0);
        assert_eq!(
            ledger.left(&purse, 0),
            Left {
                bytes: 600,
                tokens: 70
            }
        );
        ledger.draw(&purse, (1, 0, 0), 1_000_000);
        let wait = Some(Duration::from_secs(3598));
        assert_eq!(ledger.spent(&purse, 2_000_000), Some((Spent::Calls, wait)));
        assert_eq!(ledger.spent(&purse, micros(hour)), None);
        ledger.draw(&purse, (0, 1200, 0), micros(hour));
        assert_eq!(
            ledger.spent(&purse, micros(hour)),
            Some((Spent::Bytes, Some(hour)))
        );
    }

    #[test]
    fn a_session_never_begins_anew_and_is_forgotten_when_it_ends() {
        let mut ledger = Ledger::default();
        let purse = Purse {
            account: Account::Session(super::super::who::Party {
                session: 3,
                client: None,
            }),
            budget: Budget {
                tokens: Some(10),
                ..Budget::default()
            },
        };
        ledger.draw(&purse, (1, 1, 10), 0);
        assert_eq!(ledger.spent(&purse, u64::MAX), Some((Spent::Tokens, None)));
        ledger.close(4);
        assert!(ledger.spent(&purse, 0).is_some());
        ledger.close(3);
        assert!(ledger.spent(&purse, 0).is_none());
    }

    #[test]
    fn a_rush_is_told_once_in_each_minute() {
        let mut ledger = Ledger::default();
        let purse = purse(Budget {
            alert: Some(100),
            ..Budget::default()
        });
        let mut draw = |tokens, now| ledger.draw(&purse, (0, 0, tokens), now);
        assert_eq!(draw(99, 0), None);
        assert_eq!(draw(1, 1).map(|alert| alert.tokens), Some(100));
        assert_eq!(draw(500, 2), None);
        assert_eq!(draw(99, MINUTE), None);
        assert_eq!(
            draw(900, MINUTE + 1).map(|alert| (alert.scope, alert.tokens)),
            Some(("tool", 999))
        );
    }

    #[test]
    fn the_book_has_a_last_page() {
        let mut ledger = Ledger::default();
        for n in 0..MOST + 100 {
            let purse = Purse {
                account: Account::Tool(n.to_string().into()),
                budget: Budget::default(),
            };
            ledger.draw(&purse, (1, 0, 0), n as u64);
        }
        assert!(ledger.accounts.len() <= MOST);
    }
}
