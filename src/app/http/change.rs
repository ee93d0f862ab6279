//! What changes while the listener serves: credentials, and the operator's switch.

use super::server::Role;
use super::state::State;
use crate::cell::spawn::CredentialState;
use crate::policy::{Policy, scrub::Scrubber};
use crate::secret::Secret;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

impl State {
    /// The spawner has read the credentials: what servers say is searched for these values from here
    /// on. A process that all modern clients share is replaced at once: the next request starts another,
    /// and it ends when its own are answered. A session keeps the process that holds its state.
    ///
    /// # Errors
    /// The values cannot be read.
    pub(super) fn take_credentials(
        &mut self,
        states: &[CredentialState],
        values: OwnedFd,
        now: Instant,
    ) -> io::Result<()> {
        self.known
            .take(states, values, &self.config.credentials, now)?;
        let given = crate::app::given(&self.config).into_iter();
        let secrets: Vec<Secret> = given.chain(self.known.copies()).collect();
        let scrubber = Scrubber::new(self.config.scrub, &secrets);
        self.policy = Arc::new(Policy::new(&self.config, scrubber));
        self.desk.adopt(Arc::clone(&self.policy));
        let changed = states.iter().any(|state| state.changed);
        for state in states {
            let broken = state.problem.is_some();
            self.metrics
                .credential(&state.name, state.generation, broken);
            if let Some(problem) = &state.problem {
                tracing::error!(
                    "credential {}: {problem}; generation {} stays in force",
                    state.name,
                    state.generation
                );
            }
        }
        for cell in self.cells() {
            self.with(cell, |state, server| {
                server.session.adopt(Arc::clone(&state.policy));
                if !changed {
                    return;
                }
                match server.role {
                    Role::Modern | Role::Spare => {
                        server.retired = true;
                        state.metrics.replacements.inc();
                    }
                    Role::Shared | Role::Own(_) => tracing::warn!(
                        "another credential: a server with sessions keeps the old one until they end"
                    ),
                }
            });
        }
        Ok(())
    }

    /// The operator's switch has another position; the spawner kills what runs.
    pub(super) fn take_switch(&mut self, off: Option<&str>, tools: Vec<String>, now: Instant) {
        self.off = off.is_some();
        self.metrics.switched_off.set(self.off.into());
        self.tools_off = BTreeSet::from_iter(tools);
        let tools = self.tools_off.clone();
        self.desk.switch_tools(tools.clone());
        match off {
            Some(reason) => tracing::warn!(
                "switched off: {reason}; `cofferdam resume {}` switches it on",
                self.config.server.name
            ),
            None => tracing::info!("what is switched off: {} tools", tools.len()),
        }
        for cell in self.cells() {
            let waits = self.with(cell, |state, server| {
                server.session.switch_tools(tools.clone());
                if state.off && server.ended.is_none() {
                    server.life.stop(now);
                    server.ended = Some(("it was switched off".to_owned(), now));
                }
                state.off && !server.started
            });
            if waits == Some(true) {
                self.bury(cell, now);
            }
        }
    }
}
