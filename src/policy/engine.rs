//! The stages of a decision, in order.

use super::{Decision, Origin, ToolBook, scrub::Scrubber};
use crate::config::Config;
use crate::mcp::{Envelope, Era, Subject};
use std::time::Duration;

/// The immutable policy of one configuration; swapped whole on reload.
#[derive(Debug)]
pub struct Policy {}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Silence that ends it; progress resets this one.
    pub idle: Duration,
    /// The whole time that it may take.
    pub hard: Duration,
}

impl Policy {
    /// Builds the engine; everything that can fail has failed in `config` already.
    #[must_use]
    pub fn new(config: &Config, scrubber: Scrubber) -> Self {
        let _ = (config, scrubber);
        todo!()
    }

    /// SHA-256 of the effective policy in hex, for audit and `/health`.
    #[must_use]
    pub fn digest(&self) -> &str {
        todo!()
    }

    /// The scrubber, for stderr lines and logs.
    #[must_use]
    pub fn scrubber(&self) -> &Scrubber {
        todo!()
    }

    /// How long this request may take.
    #[must_use]
    pub fn deadlines(&self, subject: &Subject) -> Deadlines {
        let _ = subject;
        todo!()
    }

    /// Decides on a message of the client. `subject` is `None` for answers to the server's requests.
    pub fn client(
        &self,
        envelope: &Envelope<'_>,
        subject: Option<&Subject>,
        era: Era,
        tools: &mut ToolBook,
    ) -> Decision {
        let _ = (envelope, subject, era, tools);
        todo!()
    }

    /// Decides on a message of the server. `origin` is the client's request that it answers, if it does.
    pub fn server(
        &self,
        envelope: &Envelope<'_>,
        origin: Option<&Origin>,
        tools: &mut ToolBook,
    ) -> Decision {
        let _ = (envelope, origin, tools);
        todo!()
    }
}
