//! What people are told when a server runs.

use crate::admin::Health;
use crate::cell::spawn;
use crate::cell::{Layer, LayerState};
use crate::telemetry::Metrics;
use std::time::Duration;

/// Says that a server runs, and what confines it.
pub(super) fn tell_started(
    health: &Health,
    metrics: &Metrics,
    server: &str,
    pid: u32,
    report: &crate::cell::LayerReport,
    facts: &spawn::Facts,
    after: Duration,
) {
    metrics.landlock_abi.set(report.landlock_abi.into());
    for (layer, state) in &report.layers {
        let enforced = matches!(state, LayerState::Enforced);
        metrics.layer(layer.name(), enforced);
        match state {
            // Few hosts delegate a cgroup, and whoever counts on one requires it.
            LayerState::Missing(why) if *layer == Layer::Cgroup => {
                tracing::debug!("the cell has no {}: {why}", layer.name());
            }
            LayerState::Missing(why) => {
                tracing::warn!("the cell has no {}: {why}", layer.name());
            }
            _ => {}
        }
    }
    for note in &report.notes {
        tracing::warn!("{note}");
    }
    if report.layers.is_empty() {
        tracing::info!(
            "{server} runs elsewhere, so nothing encloses it; process {pid} makes the connections"
        );
        health.update(|facts| facts.pid = None);
        return;
    }
    let what = facts.name.as_deref().unwrap_or(server);
    let version = facts
        .version
        .as_deref()
        .map(|v| format!("@{v}"))
        .unwrap_or_default();
    tracing::info!(
        "{what}{version} runs as {pid}{} after {} ms: {}",
        report.identity(),
        after.as_millis(),
        report.summary()
    );
    health.update(|facts| {
        facts.pid = i32::try_from(pid).ok();
        facts.cell = report.clone();
    });
}
