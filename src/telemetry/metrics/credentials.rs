//! What is counted and shown of credentials; no value is.

use super::Metrics;

/// What is shown of one credential. Times are in seconds since 1970.
#[derive(Debug)]
pub struct CredentialGauges<'a> {
    pub name: &'a str,
    pub generation: u32,
    pub broken: bool,
    pub revoked: bool,
    pub loaded: u64,
    pub expires: Option<u64>,
    pub rotate_by: Option<u64>,
}

impl Metrics {
    /// Shows one credential; names are those of the configuration.
    pub fn credential(&self, it: &CredentialGauges<'_>) {
        let time = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        let label = &[it.name];
        for (gauges, value) in [
            (&self.credential_generation, it.generation.into()),
            (&self.credential_broken, it.broken.into()),
            (&self.credential_revoked, it.revoked.into()),
            (&self.credential_loaded, time(it.loaded)),
        ] {
            gauges.with_label_values(label).set(value);
        }
        for (gauges, end) in [
            (&self.credential_expiry, it.expires),
            (&self.credential_rotate_by, it.rotate_by),
        ] {
            match end {
                Some(end) => gauges.with_label_values(label).set(time(end)),
                // It was never there, or is not any more.
                None => drop(gauges.remove_label_values(label)),
            }
        }
    }

    /// Counts what has become of a credential's file: `changed`, `broken`, `revoked`.
    pub fn credential_read(&self, name: &str, outcome: &str) {
        self.credential_reads
            .with_label_values(&[name, outcome])
            .inc();
    }

    /// Counts a call that failed because of a credential (`failed`), or was not made (`refused`).
    pub fn credential_problem(&self, name: &str, outcome: &str) {
        self.credential_problems
            .with_label_values(&[name, outcome])
            .inc();
    }

    /// Counts a request that a server elsewhere has refused (401, 403, 407) for what it carried.
    pub fn credential_refused(&self, name: &str, generation: u32, status: u16) {
        let (generation, status) = (generation.to_string(), status.to_string());
        self.credential_refusals
            .with_label_values(&[name, &generation, &status])
            .inc();
    }

    /// Shows no refusals of a generation any more: another has taken the place of its successor.
    pub fn credential_forget(&self, name: &str, generation: u32) {
        for status in ["401", "403", "407"] {
            let labels = [name, &generation.to_string(), status];
            // Most were never refused.
            drop(self.credential_refusals.remove_label_values(&labels));
        }
    }

    /// Counts uses of a generation that should not be used any more: `overdue`, `revoked`.
    pub fn credential_use(&self, name: &str, kind: &str, count: u64) {
        self.credential_uses
            .with_label_values(&[name, kind])
            .inc_by(count);
    }

    /// Counts an attempt to fetch the keys of an issuer, and when keys were fetched last, in seconds since
    /// 1970.
    pub fn keys_fetched(&self, good: bool, now: u64) {
        let outcome = if good { "success" } else { "failed" };
        self.key_fetches.with_label_values(&[outcome]).inc();
        if good {
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            self.keys_fetched.set(now);
        }
    }
}
