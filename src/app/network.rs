//! What the cell's network tells: into the log, the audit log and the metrics.

use crate::audit::{Log, Outbound};
use crate::cell::egress::{self, News};
use crate::config::Config;
use crate::telemetry::Metrics;
use crate::transport::terminal::sanitize;
use std::time::Instant;

/// The label of what belongs to no allowed host.
const OTHER: &str = "other";

pub(super) fn note(news: &News, config: &Config, metrics: &Metrics, audit: &mut Log, now: Instant) {
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
            tracing::warn!("{}", sanitize(refused.text.as_bytes()));
            audit.outbound(
                &Outbound {
                    host: &refused.host,
                    reason: reason.name(),
                    denied: reason.is_denial(),
                    text: &refused.text,
                },
                now,
            );
        }
    }
}
