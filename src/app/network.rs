//! What the cell's network tells: into the log, the audit log and the metrics.

use crate::audit::{Log, Outbound};
use crate::cell::egress::{self, News};
use crate::config::Config;
use crate::policy::Policy;
use crate::telemetry::Metrics;
use crate::transport::terminal::sanitize;
use std::time::Instant;

/// The label of what belongs to no allowed host.
const OTHER: &str = "other";

pub(super) fn note(
    news: &News,
    (config, policy): (&Config, &Policy),
    metrics: &Metrics,
    audit: &mut Log,
    now: Instant,
) {
    // Names of hosts are of the server's choice, as its stderr is: no secrets, no control sequences.
    let clean = |text: &str| {
        let (mut found, text) = (Vec::new(), text.as_bytes());
        policy.scrubber().text(text, &mut found);
        for finding in &found {
            metrics.redaction(finding.detector, 1);
        }
        sanitize(&policy.scrubber().redact(text, &found))
    };
    // Labels are those of the configuration and no others, whoever sends the news.
    let known = |rule: &str| {
        let mut hosts = config
            .cell
            .egress
            .iter()
            .map(|rule| egress::label(&rule.host));
        match hosts.any(|host| host == rule) {
            true => rule.to_owned(),
            false => OTHER.to_owned(),
        }
    };
    match news {
        News::Carried(carried) => {
            let host = known(&carried.rule);
            metrics.carried(&host, carried.connections, carried.sent, carried.received);
        }
        News::Refused(refused) => {
            let reason = refused.reason;
            metrics.outbound_refused(&known(&refused.rule), reason.name(), refused.times);
            if reason.is_denial() {
                metrics.denials("network", refused.times);
            }
            if refused.text.is_empty() {
                return;
            }
            let text = clean(&refused.text);
            tracing::warn!("{text}");
            audit.outbound(
                &Outbound {
                    host: &clean(&refused.host),
                    reason: reason.name(),
                    denied: reason.is_denial(),
                    text: &text,
                },
                now,
            );
        }
    }
}
