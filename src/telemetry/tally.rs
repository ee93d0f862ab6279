//! What the message path counts: plain numbers of its own thread, published to the shared metrics
//! before they are read, and whenever the path is at rest.
//!
//! An atomic addition costs a message as much as looking up its tool, and it makes a dozen of them.

use super::metrics::{KINDS, Kind, LABEL_CAP, Metrics, OUTCOMES, Outcome};
use crate::mcp::Direction;
use foldhash::fast::RandomState;
use prometheus::local::{LocalHistogram, LocalIntCounter};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

/// Counts that are not published yet; what is left is published when it is dropped.
#[derive(Debug)]
pub struct Tally {
    metrics: Arc<Metrics>,
    messages: Vec<LocalIntCounter>,
    bytes: [LocalIntCounter; 2],
    overhead: [LocalHistogram; 2],
    /// By hash of the labels under a key of this process, so that no label is copied to look it up.
    operations: BTreeMap<u64, LocalHistogram>,
    key: RandomState,
    open: usize,
    /// What of `open` is in the shared gauge: several sessions may add to it.
    shown: i64,
    waits: bool,
}

impl Tally {
    /// Counts of nothing yet, to be published in `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            messages: metrics.messages.iter().map(|m| m.local()).collect(),
            bytes: metrics.bytes.each_ref().map(|b| b.local()),
            overhead: metrics.overhead.each_ref().map(|o| o.local()),
            operations: BTreeMap::new(),
            key: RandomState::default(),
            open: 0,
            shown: 0,
            waits: false,
            metrics,
        }
    }

    /// Counts one message.
    pub fn message(&mut self, direction: Direction, kind: Kind, outcome: Outcome, bytes: usize) {
        let at =
            (direction as usize * KINDS.len() + kind as usize) * OUTCOMES.len() + outcome as usize;
        if let Some(counter) = self.messages.get_mut(at) {
            counter.inc();
        }
        self.bytes[direction as usize].inc_by(bytes as u64);
        self.waits = true;
    }

    /// Notes the time that messages which were read together spent in policy, one like another.
    pub fn overhead(&mut self, direction: Direction, took: Duration, messages: u32) {
        let each = took.as_secs_f64() / f64::from(messages);
        for _ in 0..messages {
            self.overhead[direction as usize].observe(each);
        }
        self.waits = true;
    }

    /// Notes a finished request. `tool` is empty when it called none; `listed` says whether the
    /// server listed it, and is asked only for labels that are new.
    pub fn operation(
        &mut self,
        method: &str,
        tool: &str,
        error: &'static str,
        took: Duration,
        listed: impl FnOnce() -> bool,
    ) {
        self.waits = true;
        let took = took.as_secs_f64();
        let key = self.key.hash_one((method, tool, error));
        if let Some(histogram) = self.operations.get(&key) {
            return histogram.observe(took);
        }
        let tool = if tool.is_empty() || listed() {
            tool
        } else {
            "_other"
        };
        let full = self.operations.len() >= LABEL_CAP;
        let key = self.key.hash_one((method, tool, error));
        let (method, tool) = match full && !self.operations.contains_key(&key) {
            true => ("_other", "_other"),
            false => (method, tool),
        };
        let metrics = &self.metrics;
        let fresh = || metrics.operation(method, tool, error).local();
        let key = self.key.hash_one((method, tool, error));
        let histogram = self.operations.entry(key).or_insert_with(fresh);
        histogram.observe(took);
    }

    /// Requests that have no answer yet.
    pub fn open(&mut self, requests: usize) {
        self.open = requests;
        self.waits = true;
    }

    /// True when something is not published yet.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Adds everything to the shared metrics.
    pub fn publish(&mut self) {
        self.waits = false;
        for counter in self.messages.iter_mut().chain(&mut self.bytes) {
            counter.flush();
        }
        for histogram in self.overhead.iter().chain(self.operations.values()) {
            histogram.flush();
        }
        let open = i64::try_from(self.open).unwrap_or(i64::MAX);
        self.metrics.in_flight.add(open - self.shown);
        self.shown = open;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.open = 0;
        self.publish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tally: &mut Tally) -> String {
        tally.publish();
        String::from_utf8(tally.metrics.render()).unwrap()
    }

    fn tally() -> Tally {
        Tally::new(Arc::new(Metrics::new().unwrap()))
    }

    #[test]
    fn hostile_names_add_a_bounded_number_of_series() {
        let mut tally = tally();
        for n in 0..10_000 {
            tally.operation(
                "tools/call",
                &format!("tool{n}"),
                "",
                Duration::from_millis(1),
                || true,
            );
        }
        let text = text(&mut tally);
        let count = "mcp_server_operation_duration_seconds_count";
        let series = text.lines().filter(|line| line.starts_with(count));
        assert_eq!(series.count(), LABEL_CAP + 1);
        let rest = format!(
            "{count}{{error_type=\"\",gen_ai_tool_name=\"_other\",mcp_method_name=\"_other\",network_transport=\"pipe\"}} {}",
            10_000 - LABEL_CAP
        );
        assert!(text.lines().any(|line| line == rest), "{text}");
    }

    #[test]
    fn a_message_is_counted_once_and_under_its_own_labels() {
        let mut tally = tally();
        tally.message(Direction::ToClient, Kind::Response, Outcome::Rewrite, 10);
        tally.open(3);
        assert!(tally.waits());
        for _ in 0..2 {
            let text = text(&mut tally);
            let line = "cofferdam_messages_total{direction=\"to_client\",kind=\"response\",verdict=\"rewrite\"} 1";
            assert!(text.lines().any(|l| l == line), "{text}");
            assert!(text.contains("cofferdam_message_bytes_total{direction=\"to_client\"} 10"));
            assert!(text.contains("cofferdam_requests_in_flight 3"));
        }
        assert!(!tally.waits());
    }
}
