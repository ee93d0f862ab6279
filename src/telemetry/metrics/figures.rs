//! The numbers of `cofferdam status`.

use super::{Metrics, OUTCOMES};
use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec};

/// What [`Metrics::figures`] shows: counts since the start, but for what is in flight or open now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    pub in_flight: i64,
    pub requests: u64,
    pub refused: u64,
    pub redacted: u64,
    pub timeouts: u64,
    pub retries: u64,
    pub starts: u64,
    pub exits: u64,
    pub replacements: u64,
    pub denials: u64,
    pub audit_records: u64,
    pub audit_lost: u64,
    pub sessions: i64,
    pub connections: i64,
}

impl Metrics {
    /// The numbers that an operator looks at first.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let requests = self.messages.get(..OUTCOMES.len()).unwrap_or_default();
        Figures {
            in_flight: self.in_flight.get(),
            requests: requests.iter().map(IntCounter::get).sum(),
            refused: sum(&self.refusals),
            redacted: sum(&self.redactions),
            timeouts: self.timeouts.get(),
            retries: self.retries.get(),
            starts: self.child_starts.get(),
            exits: sum(&self.child_exits),
            replacements: self.replacements.get(),
            denials: sum(&self.denials),
            audit_records: self.audit_records.get(),
            audit_lost: self.audit_lost.get(),
            sessions: self.http_sessions.get(),
            connections: self.http_connections.get(),
        }
    }
}

impl Metrics {
    /// Whether the server at a URL answers.
    pub fn upstream(&self, answers: bool) {
        let none: &[&str] = &[];
        self.upstream_up
            .with_label_values(none)
            .set(i64::from(answers));
    }

    /// Counts a health check of it: `success` or `failure`.
    pub fn upstream_check(&self, outcome: &str) {
        self.upstream_checks.with_label_values(&[outcome]).inc();
    }
}

/// Of all label values.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole, never negative, and far below 2^53"
)]
fn sum(counters: &IntCounterVec) -> u64 {
    let families = counters.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    let counts = metrics.map(|metric| metric.get_counter().get_value());
    counts.map(|count| count as u64).sum()
}
