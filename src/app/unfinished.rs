//! What an instance had begun that was killed: the next one says that nobody knows how it ended.

use crate::audit::{Arguments, Caller, Journal, Log, Record, Unfinished};
use crate::config::Config;
use crate::mcp::{Capability, Direction, Subject};
use crate::telemetry::Metrics;
use crate::transport::terminal::one_line;
use std::time::{Instant, SystemTime};

/// Calls that are named on stderr; the audit log has each.
const NAMED: usize = 8;

/// Says what earlier instances have left, and keeps a journal for this one. Where none can be kept that
/// is said, and nothing else is different.
pub(super) fn look_back(config: &Config, audit: &mut Log, metrics: &Metrics, now: Instant) {
    if !config.audit.enabled {
        return;
    }
    let (journal, left) = match Journal::open(&config.state_dir) {
        Ok(opened) => opened,
        Err(error) => {
            tracing::info!("no journal is kept of calls that may not run twice: {error}");
            return;
        }
    };
    for call in &left.calls {
        note(call, audit, now);
    }
    audit.keep_journal(journal);
    let count = (left.calls.len() as u64).saturating_add(left.more);
    if count == 0 {
        return;
    }
    audit.flush();
    metrics.calls_unknown.inc_by(count);
    let named: Vec<String> = left.calls.iter().take(NAMED).map(describe).collect();
    let more = count.saturating_sub(named.len() as u64);
    let more = match more {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    tracing::warn!(
        "the outcome of {count} calls is unknown, because cofferdam was killed before they were answered; check before they are repeated: {}{more}",
        named.join(", ")
    );
}

fn describe(call: &Unfinished) -> String {
    let since = jiff::Timestamp::try_from(call.since).unwrap_or_default();
    let client = call
        .client
        .as_deref()
        .map(|client| format!(" by {}", one_line(client)));
    let (tool, id) = (one_line(&call.tool), one_line(&call.id));
    format!("{tool} (id {id}, {since:.0}{})", client.unwrap_or_default())
}

fn note(call: &Unfinished, audit: &mut Log, now: Instant) {
    let subject = Subject {
        capability: Capability::Tool,
        method: "tools/call".into(),
        name: Some(call.tool.as_str().into()),
    };
    let caller = call.client.as_deref().map(|client| Caller {
        client,
        tenant: None,
        user: None,
        how: "journal",
    });
    let latency = SystemTime::now().duration_since(call.since).ok();
    let record = Record {
        direction: Direction::ToServer,
        subject: Some(&subject),
        // Cut, it may be no token any more.
        id: Some(call.id.as_bytes())
            .filter(|id| serde_json::from_slice::<serde_json::Value>(id).is_ok()),
        decision: "forward",
        rule: None,
        status: "unknown",
        latency,
        request_bytes: 0,
        response_bytes: 0,
        arguments: &Arguments::Absent,
        caller,
    };
    audit.record(&record, now);
}
