//! Prometheus metrics on a registry of their own, with label sets that no peer can grow.
//!
//! Tool and method names come from peers, so only names that are known (the protocol's methods, the
//! tools that the server listed) become label values, at most [`LABEL_CAP`] of them; the rest is
//! `_other`. Names follow the OpenTelemetry MCP conventions where they have one.

mod credentials;
mod figures;

pub use credentials::CredentialGauges;
pub use figures::Figures;

use crate::mcp::Direction;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Distinct tool or method names that become label values.
pub(super) const LABEL_CAP: usize = 256;

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Notification,
    Response,
    /// Not a message at all.
    Malformed,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Forward,
    Rewrite,
    Refuse,
    Drop,
}

pub(super) const KINDS: [&str; 4] = ["request", "notification", "response", "malformed"];
pub(super) const OUTCOMES: [&str; 4] = ["forward", "rewrite", "refuse", "drop"];
const DIRECTIONS: [&str; 2] = ["to_server", "to_client"];

/// Every metric of one sidecar, shared by its threads. The message path counts in a
/// [`Tally`](super::Tally) of its own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Resolved once: the message path indexes instead of hashing labels.
    pub(super) messages: Vec<IntCounter>,
    pub(super) bytes: [IntCounter; 2],
    pub(super) overhead: [Histogram; 2],
    operations: HistogramVec,
    refusals: IntCounterVec,
    redactions: IntCounterVec,
    pub(super) in_flight: IntGauge,
    pub timeouts: IntCounter,
    pub stdout_noise: IntCounter,
    pub stderr_lines: IntCounter,
    pub stderr_dropped: IntCounter,
    pub answers_to_nobody: IntCounter,
    pub audit_records: IntCounter,
    pub audit_lost: IntCounter,
    pub child_up: IntGauge,
    pub child_starts: IntCounter,
    pub child_parked: IntGauge,
    pub retries: IntCounter,
    pub retries_refused: IntCounter,
    pub calls_unknown: IntCounter,
    pub requests_waiting: IntGauge,
    pub breakers_open: IntGauge,
    breaker_moves: IntCounterVec,
    pub cached_answers: IntCounter,
    pub repeated_calls: IntCounter,
    budget_alerts: IntCounterVec,
    result_bytes: Histogram,
    result_tokens: IntCounter,
    pub results_cut: IntCounter,
    pub switched_off: IntGauge,
    upstream_up: IntGaugeVec,
    upstream_checks: IntCounterVec,
    pub replacements: IntCounter,
    reload_successful: IntGauge,
    reload_time: IntGauge,
    credential_generation: IntGaugeVec,
    credential_broken: IntGaugeVec,
    credential_revoked: IntGaugeVec,
    credential_loaded: IntGaugeVec,
    credential_expiry: IntGaugeVec,
    credential_rotate_by: IntGaugeVec,
    credential_reads: IntCounterVec,
    credential_problems: IntCounterVec,
    key_fetches: IntCounterVec,
    keys_fetched: IntGauge,
    credential_refusals: IntCounterVec,
    credential_uses: IntCounterVec,
    child_exits: IntCounterVec,
    enforced: IntGaugeVec,
    own: IntGaugeVec,
    pub landlock_abi: IntGauge,
    policy: IntGaugeVec,
    denials: IntCounterVec,
    http_refused: IntCounterVec,
    pub http_connections: IntGauge,
    pub tls_failed: IntCounter,
    pub http_sessions: IntGauge,
    egress_connections: IntCounterVec,
    egress_bytes: IntCounterVec,
    egress_refused: IntCounterVec,
}

impl Metrics {
    /// Builds and registers everything.
    ///
    /// # Errors
    /// Only when two metrics have the same name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };

        let by_verdict = counters(
            "cofferdam_messages_total",
            "Messages by direction, kind and verdict",
            &["direction", "kind", "verdict"],
        )?;
        let mut messages = Vec::with_capacity(DIRECTIONS.len() * KINDS.len() * OUTCOMES.len());
        for direction in DIRECTIONS {
            for kind in KINDS {
                for outcome in OUTCOMES {
                    messages.push(by_verdict.with_label_values(&[direction, kind, outcome]));
                }
            }
        }
        let bytes = counters(
            "cofferdam_message_bytes_total",
            "Bytes of messages read, line ends excluded",
            &["direction"],
        )?;
        let overhead = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "cofferdam_overhead_seconds",
                    "Time that a message spent in policy",
                )
                .buckets(vec![1e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2]),
                &["direction"],
            ),
        )?;
        let operations = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "mcp_server_operation_duration_seconds",
                    "Time from the client's request to the answer it got",
                )
                .buckets(vec![
                    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
                ]),
                &[
                    "mcp_method_name",
                    "gen_ai_tool_name",
                    "error_type",
                    "network_transport",
                ],
            ),
        )?;
        let build = gauges(
            "cofferdam_build_info",
            "Version of this binary",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        let metrics = Self {
            bytes: [
                bytes.with_label_values(&[DIRECTIONS[0]]),
                bytes.with_label_values(&[DIRECTIONS[1]]),
            ],
            overhead: [
                overhead.with_label_values(&[DIRECTIONS[0]]),
                overhead.with_label_values(&[DIRECTIONS[1]]),
            ],
            messages,
            operations,
            refusals: counters(
                "cofferdam_refusals_total",
                "Messages that a rule refused",
                &["direction", "rule"],
            )?,
            redactions: counters(
                "cofferdam_redactions_total",
                "Secrets that were taken out, or flagged",
                &["detector"],
            )?,
            in_flight: gauge(
                "cofferdam_requests_in_flight",
                "Requests without an answer yet",
            )?,
            timeouts: counter("cofferdam_timeouts_total", "Requests that expired")?,
            stdout_noise: counter(
                "cofferdam_stdout_noise_total",
                "Lines on the server's stdout that are no message",
            )?,
            stderr_lines: counter(
                "cofferdam_stderr_lines_total",
                "Lines of the server's stderr",
            )?,
            stderr_dropped: counter(
                "cofferdam_stderr_dropped_total",
                "Lines of the server's stderr above the rate limit, drained but not logged",
            )?,
            answers_to_nobody: counter(
                "cofferdam_answers_to_nobody_total",
                "Answers to ids that were not open",
            )?,
            audit_records: counter("cofferdam_audit_records_total", "Audit records written")?,
            audit_lost: counter(
                "cofferdam_audit_lost_total",
                "Audit records that could not be written",
            )?,
            child_up: gauge("cofferdam_child_up", "1 while the server runs")?,
            child_starts: counter("cofferdam_child_starts_total", "Starts of the server")?,
            child_parked: gauge(
                "cofferdam_child_parked",
                "1 while a server that crashes in a loop is left alone",
            )?,
            retries: counter(
                "cofferdam_retries_total",
                "Requests asked again of another server, because the first was lost",
            )?,
            retries_refused: counter(
                "cofferdam_retries_refused_total",
                "Requests that could have been asked again and were not, because the retry budget was used up",
            )?,
            calls_unknown: counter(
                "cofferdam_calls_outcome_unknown_total",
                "Calls that an instance had begun that was killed before they were answered",
            )?,
            requests_waiting: gauge(
                "cofferdam_requests_waiting",
                "Requests on stdin that wait for a place to run",
            )?,
            breakers_open: gauge(
                "cofferdam_breakers_open",
                "Circuit breakers that are open or half-open",
            )?,
            breaker_moves: counters(
                "cofferdam_breaker_transitions_total",
                "Changes of state of circuit breakers",
                &["scope", "to"],
            )?,
            cached_answers: counter(
                "cofferdam_cached_answers_total",
                "Calls that were answered with an earlier answer, because the tool could not be had",
            )?,
            repeated_calls: counter(
                "cofferdam_repeated_calls_total",
                "Calls that were let through although the same call had the same answer too often",
            )?,
            budget_alerts: counters(
                "cofferdam_budget_alerts_total",
                "Minutes in which more tokens were used than the operator wants to be told of",
                &["scope"],
            )?,
            result_bytes: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "cofferdam_result_bytes",
                        "Sizes of results, where a budget or a limit of results is set",
                    )
                    .buckets(vec![
                        256.0,
                        1024.0,
                        4096.0,
                        16384.0,
                        65536.0,
                        262_144.0,
                        1_048_576.0,
                    ]),
                ),
            )?,
            result_tokens: counter(
                "cofferdam_result_tokens_total",
                "Estimated tokens of results, where a budget or a limit of results is set",
            )?,
            results_cut: counter(
                "cofferdam_results_cut_total",
                "Results whose text was cut because it was too large",
            )?,
            upstream_up: gauges(
                "cofferdam_upstream_up",
                "1 while the server at a URL answers, as far as is known; absent until it was asked",
                &[],
            )?,
            upstream_checks: counters(
                "cofferdam_upstream_checks_total",
                "Health checks of the server at a URL",
                &["outcome"],
            )?,
            switched_off: gauge(
                "cofferdam_switched_off",
                "1 while the operator wants nothing to run",
            )?,
            replacements: counter(
                "cofferdam_child_replacements_total",
                "Planned replacements of the server",
            )?,
            reload_successful: gauge(
                "cofferdam_config_last_reload_successful",
                "1 unless the configuration could not be taken when it was read last",
            )?,
            reload_time: gauge(
                "cofferdam_config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read",
            )?,
            credential_generation: gauges(
                "cofferdam_credential_generation",
                "Generation of a credential that is in force, counted from 1",
                &["name"],
            )?,
            credential_broken: gauges(
                "cofferdam_credential_broken",
                "1 while the file of a credential gives no value and the last one stays in force",
                &["name"],
            )?,
            credential_revoked: gauges(
                "cofferdam_credential_revoked",
                "1 while the value of a credential is revoked and there is no other",
                &["name"],
            )?,
            credential_loaded: gauges(
                "cofferdam_credential_loaded_timestamp_seconds",
                "Since when the value of a credential is what it is",
                &["name"],
            )?,
            credential_expiry: gauges(
                "cofferdam_credential_expiry_timestamp_seconds",
                "When a credential says that it ends",
                &["name"],
            )?,
            credential_rotate_by: gauges(
                "cofferdam_credential_rotate_by_timestamp_seconds",
                "When a credential will be older than rotate_every says",
                &["name"],
            )?,
            credential_reads: counters(
                "cofferdam_credential_reloads_total",
                "Changes of the file of a credential: changed, broken, revoked",
                &["name", "outcome"],
            )?,
            credential_problems: counters(
                "cofferdam_credential_problems_total",
                "Calls that failed because of a credential, and calls that were not made for it",
                &["name", "outcome"],
            )?,
            key_fetches: counters(
                "cofferdam_issuer_fetches_total",
                "Attempts to fetch the keys of the issuer of tokens: success, failed",
                &["outcome"],
            )?,
            keys_fetched: gauge(
                "cofferdam_issuer_keys_timestamp_seconds",
                "When the keys of the issuer of tokens were fetched last",
            )?,
            credential_refusals: counters(
                "cofferdam_credential_refusals_total",
                "Requests that a server elsewhere has refused for the credential that they carried",
                &["name", "generation", "status"],
            )?,
            credential_uses: counters(
                "cofferdam_credential_misuses_total",
                "Uses of a generation after its overlap (overdue), or after it was revoked",
                &["name", "kind"],
            )?,
            child_exits: counters(
                "cofferdam_child_exits_total",
                "Ends of the server",
                &["cause"],
            )?,
            enforced: gauges(
                "cofferdam_sandbox_enforced",
                "1 where a layer of the cell is in force, 0 where it is missing",
                &["layer"],
            )?,
            own: gauges(
                "cofferdam_self_enforced",
                "1 where a layer around the message process itself is in force, 0 where it is missing",
                &["layer"],
            )?,
            landlock_abi: gauge("cofferdam_landlock_abi", "Landlock ABI of this kernel")?,
            policy: gauges(
                "cofferdam_policy_info",
                "Digest of the policy in force",
                &["hash"],
            )?,
            denials: counters(
                "cofferdam_cell_denials_total",
                "Denials of the cell that the server reported",
                &["what"],
            )?,
            http_refused: counters(
                "cofferdam_http_refused_total",
                "Requests on the listener that were refused, by status",
                &["status"],
            )?,
            tls_failed: counter(
                "cofferdam_tls_failed_total",
                "Connections that did not get past the TLS handshake",
            )?,
            http_connections: gauge(
                "cofferdam_http_connections",
                "Open connections of the listener",
            )?,
            http_sessions: gauge(
                "cofferdam_http_sessions",
                "Sessions of clients before 2026-07-28",
            )?,
            egress_connections: counters(
                "cofferdam_egress_connections_total",
                "Connections that were made for the server, by allowed host",
                &["host"],
            )?,
            egress_bytes: counters(
                "cofferdam_egress_bytes_total",
                "Bytes that passed between the server and hosts, by allowed host",
                &["host", "direction"],
            )?,
            egress_refused: counters(
                "cofferdam_egress_refused_total",
                "Connections and look-ups of the server that were refused or failed, by the allowed host that they had to do with",
                &["host", "reason"],
            )?,
            registry,
        };
        Ok(metrics)
    }

    /// The times of finished requests with these labels.
    pub(super) fn operation(&self, method: &str, tool: &str, error: &str) -> Histogram {
        self.operations
            .with_label_values(&[method, tool, error, "pipe"])
    }

    /// Counts a request that got another status than success.
    pub fn http_refused(&self, status: u16) {
        let status = status.to_string();
        self.http_refused.with_label_values(&[&status]).inc();
    }

    /// Counts a change of state of a circuit breaker: `scope` is `tool` or `server`.
    pub fn breaker(&self, scope: &str, to: &str) {
        self.breaker_moves.with_label_values(&[scope, to]).inc();
    }

    /// Counts a minute in which much was used: `scope` is `session`, `client` or `tool`.
    pub fn budget_alert(&self, scope: &str) {
        self.budget_alerts.with_label_values(&[scope]).inc();
    }

    /// Counts a result that was measured.
    pub fn result(&self, bytes: u64, tokens: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.result_bytes.observe(f64::from(bytes));
        self.result_tokens.inc_by(tokens);
    }

    /// Counts a refusal; rule ids are a fixed set of ours.
    pub fn refusal(&self, direction: Direction, rule: &str) {
        self.refusals
            .with_label_values(&[DIRECTIONS[direction as usize], rule])
            .inc();
    }

    /// Counts what a detector took out.
    pub fn redaction(&self, detector: &str, count: u32) {
        self.redactions
            .with_label_values(&[detector])
            .inc_by(count.into());
    }

    /// The configuration was read at this time (seconds since 1970), and could be taken or not.
    pub fn reloaded(&self, ok: bool, at: i64) {
        self.reload_successful.set(ok.into());
        if ok {
            self.reload_time.set(at);
        }
    }

    /// Counts an end of the server: `code`, `signal`, `seccomp`, `memory`, `limit`, `end_of_input`.
    pub fn child_exit(&self, cause: &str) {
        self.child_exits.with_label_values(&[cause]).inc();
    }

    /// Counts a denial that the server reported: `read`, `write`, `execute`, `network`.
    pub fn denial(&self, what: &str) {
        self.denials.with_label_values(&[what]).inc();
    }

    /// Counts denials that the cell itself has seen.
    pub fn denials(&self, what: &str, times: u64) {
        self.denials.with_label_values(&[what]).inc_by(times);
    }

    /// Counts what passed between the server and a host; hosts are those of the configuration.
    pub fn carried(&self, host: &str, connections: u64, sent: u64, received: u64) {
        self.egress_connections
            .with_label_values(&[host])
            .inc_by(connections);
        for (direction, bytes) in [("sent", sent), ("received", received)] {
            self.egress_bytes
                .with_label_values(&[host, direction])
                .inc_by(bytes);
        }
    }

    /// Counts connections and look-ups that did not come about.
    pub fn outbound_refused(&self, host: &str, reason: &str, times: u64) {
        self.egress_refused
            .with_label_values(&[host, reason])
            .inc_by(times);
    }

    /// Shows one layer of the cell.
    pub fn layer(&self, layer: &str, enforced: bool) {
        self.enforced
            .with_label_values(&[layer])
            .set(enforced.into());
    }

    /// Shows one layer of the cage around our own message process.
    pub fn own_layer(&self, layer: &str, enforced: bool) {
        self.own.with_label_values(&[layer]).set(enforced.into());
    }

    /// Shows the policy in force, and only that one.
    pub fn policy(&self, digest: &str) {
        self.policy.reset();
        self.policy.with_label_values(&[digest]).set(1);
    }

    /// The text exposition format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into memory fails only for a family without samples, which render as nothing.
        drop(TextEncoder::new().encode(&self.registry.gather(), &mut text));
        text
    }
}

fn register<C>(
    registry: &Registry,
    metric: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error>
where
    C: Collector + Clone + 'static,
{
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
