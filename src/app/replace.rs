//! Planned replacement: another process takes the place of a healthy one, and no call is lost.
//!
//! ```text
//! (none) ── a credential or the cell changed ──▶ Draining ── everything answered, or too late ──▶ Ending
//!    ▲                                             ▲ changed again                      │ exited
//!    ├──── ready, handshake done ◀── Starting ─────┘ ◀──────────────────────────────────┘
//!    └──── ended unasked ◀── any: the one that follows it gets what is in force then
//! ```
//! What changes while the old one ends, or while none is there, the next one gets in any case.
//! Calls of the client wait in their pipe from the first state to the last. Only while the server itself
//! waits for an answer of the client are its lines read: among them is that answer.

use super::credentials::Told;
use super::stdio::{Loop, LoopError};
use crate::admin::Phase;
use crate::cell::spawn::{CredentialState, Exit};
use crate::config::Replace;
use crate::proxy::Outbox;
use crate::supervise::Life;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long calls in flight are waited for; what is open then is answered as of a server that was lost.
pub(super) const DRAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replacing {
    /// Another one is started beside it ([`super::overlap`]).
    Preparing {
        since: Instant,
    },
    Draining {
        since: Instant,
    },
    Ending {
        since: Instant,
    },
    Starting {
        since: Instant,
    },
}

impl Replacing {
    /// When it has waited for long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Draining { since } => Some(*since + DRAIN),
            Self::Preparing { .. } | Self::Ending { .. } | Self::Starting { .. } => None,
        }
    }

    /// True from the time when calls wait for another server.
    pub(super) fn holds_back(self) -> bool {
        !matches!(self, Self::Preparing { .. })
    }

    pub(super) fn since(self) -> Instant {
        let (Self::Preparing { since }
        | Self::Draining { since }
        | Self::Ending { since }
        | Self::Starting { since }) = self;
        since
    }
}

impl Loop {
    /// The spawner has read the credentials: what the server says is searched for these values from
    /// here on, and a server that was started with others is replaced.
    pub(super) fn take_credentials(
        &mut self,
        states: &[CredentialState],
        values: OwnedFd,
        now: Instant,
    ) -> Result<(), LoopError> {
        // A server whose words cannot be searched for what it was given must not speak.
        let told = Told {
            config: &self.config,
            metrics: &self.metrics,
            audit: self.session.audit(),
            now,
        };
        let policy = self
            .known
            .renew(states, values, self.server_since, told)
            .map_err(|source| LoopError::System {
                doing: "read the credentials of the server",
                source,
            })?;
        if let Some(bridges) = &self.bridges {
            let settings = bridges.settings();
            settings.arm(&self.config, states, self.known.in_force());
            settings.write_down(self.session.audit(), now);
        }
        self.session.adopt(policy);
        if self.session.has_filled() && self.to_server.has_output() {
            // What the server has not read goes out with what is in force now.
            let (rest, lines) = self.to_server.take_back();
            let (mut out, lines) = (Outbox::default(), Zeroizing::new(lines));
            self.to_server.put_back(rest);
            self.session.refill(&lines, now, &mut out);
            self.send(out);
        }
        let shown = states.to_vec();
        self.health.update(|facts| facts.credentials = shown);
        // From here on a server may say them.
        self.spawner.taken().map_err(LoopError::unreached)?;
        let changed: Vec<String> = states
            .iter()
            .filter(|state| {
                state.changed && super::credentials::replaces(&self.config.credentials, state)
            })
            .map(|state| {
                format!(
                    "{} (generation {}, {})",
                    state.name, state.generation, state.fingerprint
                )
            })
            .collect();
        if states.iter().any(|state| state.changed) {
            self.try_again(now);
        }
        // What goes into headers has another value with the next request.
        if !changed.is_empty() {
            self.replace(&format!("another credential: {}", changed.join(", ")), now)?;
        }
        Ok(())
    }

    /// The next server would be another than those that failed: one that was left alone is started.
    pub(super) fn try_again(&mut self, now: Instant) {
        if self.restarts.renewed(now) {
            self.metrics.child_parked.set(0);
            self.enter(Phase::Restarting);
        }
    }

    /// Plans to replace the server because of `why`.
    pub(super) fn replace(&mut self, why: &str, now: Instant) -> Result<(), LoopError> {
        let ends = matches!(self.replacing, Some(Replacing::Ending { .. }));
        if ends || self.restarts.absent() || self.restarts.waiting() {
            tracing::info!("{why}; the next server gets it");
            return Ok(());
        }
        if self.config.server.replace == Replace::Never {
            tracing::warn!(
                "{why}; the server keeps the old one until its session ends (server.replace = \"never\")"
            );
            return Ok(());
        }
        tracing::info!("{why}; the server is replaced");
        let serves = self.started && !self.restarts.down();
        // What failed before was with something else.
        self.beside.healthy(now);
        if self.config.server.replace == Replace::Overlap && serves {
            return self.prepare(now);
        }
        // One that is being started may have got the old value: it is replaced when it is up.
        let since = match self.replacing {
            Some(Replacing::Draining { since }) => since,
            _ => now,
        };
        self.replacing = Some(Replacing::Draining { since });
        Ok(())
    }

    /// Ends the server once nothing is in flight.
    pub(super) fn step_replacement(&mut self, now: Instant) -> Result<(), LoopError> {
        let Some(Replacing::Draining { since }) = self.replacing else {
            return Ok(());
        };
        if !self.is_drainable() {
            return Ok(());
        }
        let late = now >= since + DRAIN;
        let works = self.to_server.has_output() || self.session.is_busy();
        if works && !late {
            return Ok(());
        }
        if late {
            tracing::warn!(
                "calls in flight have taken {} s; the server is replaced without their answers",
                DRAIN.as_secs()
            );
        }
        if self.newcomer.is_some() {
            return self.take_over(now);
        }
        self.replacing = Some(Replacing::Ending { since });
        let act = self.life.replaced(now);
        self.act(act)?;
        self.enter(Phase::Restarting);
        Ok(())
    }

    /// True while there is a server that a replacement can wait for, or end.
    pub(super) fn is_drainable(&self) -> bool {
        self.started && !self.restarts.down()
    }

    /// The server that was to be replaced has ended; false when that was not why.
    pub(super) fn replace_ended(&mut self, exit: Exit, now: Instant) -> bool {
        let Some(Replacing::Ending { since }) = self.replacing else {
            return false;
        };
        if self.client_in.is_none() || self.client_out.is_none() {
            return false;
        }
        self.life.exited(exit);
        let out = self.settle_lost("it was replaced", now);
        self.send(out);
        self.replacing = Some(Replacing::Starting { since });
        self.restarts.planned(self.session.has_answered(), now);
        self.life = Life::default();
        true
    }

    /// The next server can be asked.
    pub(super) fn replaced(&mut self, now: Instant) {
        let done = self
            .replacing
            .take_if(|replacing| matches!(replacing, Replacing::Starting { .. }));
        if let Some(replacing) = done {
            self.metrics.replacements.inc();
            let took = now.saturating_duration_since(replacing.since());
            tracing::info!("the server was replaced within {} ms", took.as_millis());
        }
    }
}
