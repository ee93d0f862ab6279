//! What is open, for people: who asked for what, how long ago and in how many bytes.

use super::books::asker;
use super::pending::State;
use super::session::Session;
use super::shown::Names;
use serde::Serialize;
use std::time::Instant;

/// One request of a client that has no answer yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenCall {
    pub method: String,
    /// Tool, resource or prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `None` on stdin and stdout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    pub age_ms: u64,
    pub request_bytes: usize,
}

impl Session {
    /// The requests that have no answer yet, the oldest first, `most` of them.
    #[must_use]
    pub fn open_calls(&self, most: usize, now: Instant) -> Vec<OpenCall> {
        let waits = |open: &&super::pending::Open| open.state == State::Open;
        let mut open: Vec<_> = self.client.all().filter(waits).collect();
        open.sort_by_key(|open| open.order());
        let scrubber = self.policy.scrubber();
        let mut names = Names::default();
        let shown = open.into_iter().take(most).map(|open| {
            let age = now.saturating_duration_since(open.since);
            let caller = open.origin.caller.as_deref().map(asker);
            let target = open.origin.subject.name.as_ref();
            OpenCall {
                method: open.origin.subject.method.clone().into_owned(),
                target: target.map(|name| names.shown(scrubber, name).into()),
                client: caller.map(|caller| caller.client.to_owned()),
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                request_bytes: open.bytes,
            }
        });
        shown.collect()
    }
}
