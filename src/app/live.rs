//! What the message process answers to operators, on the connection that the spawner hands it.

use super::clerk::answer;
use crate::admin::Health;
use crate::config::Config;
use crate::policy::Policy;
use crate::telemetry::Metrics;
use serde_json::json;
use std::os::fd::OwnedFd;

/// How it is, in numbers that were published just now.
pub(super) fn status(reply: OwnedFd, health: &Health, metrics: &Metrics) {
    let mut status = health.summary(true);
    status["ok"] = json!(true);
    status["figures"] = json!(metrics.figures());
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
