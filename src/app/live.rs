//! What the message process answers to operators, on the connection that the spawner hands it.

use super::clerk::answer;
use crate::admin::Health;
use crate::config::Config;
use crate::policy::Policy;
use crate::proxy::OpenCall;
use crate::telemetry::Metrics;
use serde_json::json;
use std::os::fd::OwnedFd;

/// Requests that a status names, and an incident: what they come to fits into a socket's buffer.
pub(super) const SHOWN: usize = 16;
pub(super) const WRITTEN: usize = 512;

/// How it is, in numbers that were published just now, with the oldest requests that are open.
pub(super) fn status(reply: OwnedFd, health: &Health, metrics: &Metrics, open: &[OpenCall]) {
    let mut status = health.summary(true);
    status["ok"] = json!(true);
    status["figures"] = json!(metrics.figures());
    status["open"] = json!(open);
    answer(reply, &status);
}

/// Another policy is in force.
pub(super) fn show_policy(health: &Health, metrics: &Metrics, config: &Config, policy: &Policy) {
    metrics.policy(policy.digest());
    health.update(|facts| {
        policy.digest().clone_into(&mut facts.policy);
        facts.owner.clone_from(&config.server.owner);
        facts.review_by.clone_from(&config.server.review_by);
    });
}
