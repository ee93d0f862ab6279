//! Credentials between the spawner, which reads their files, and the message process, which takes their
//! values out of what the server says.

use super::sealed::{Packed, Unpacked};
use crate::cell::spawn::{CredentialState, Event};
use crate::config::{Config, Credential};
use crate::policy::{Policy, scrub::Scrubber};
use crate::secret::source::{MAX_BYTES, SourceError};
use crate::secret::{News, SETTLE, Secret, Vault, Watch};
use crate::telemetry::Metrics;
use serde_json::{Value, json};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a value is looked for whose credential is not configured any more.
const UNNAMED: Duration = Duration::from_secs(600);

/// The spawner's side: the values in force, and what tells that they may have changed.
#[derive(Debug)]
pub(super) struct Keeper {
    vault: Vault,
    watch: Option<Watch>,
    /// The message process has not been told yet.
    untold: bool,
}

impl Keeper {
    /// # Errors
    /// A credential that has no value; without it the server does not start.
    pub(super) fn open(sources: &[Credential]) -> Result<Self, SourceError> {
        let vault = Vault::open(sources)?;
        let files: Vec<_> = sources.iter().map(|source| source.file.clone()).collect();
        let watch = match files.is_empty() {
            true => None,
            // Without it a change is found by SIGHUP and by the next start.
            false => Watch::new(files, SETTLE, Instant::now()).ok(),
        };
        Ok(Self {
            untold: !sources.is_empty(),
            vault,
            watch,
        })
    }

    pub(super) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Which values were in force, without the values.
    pub(super) fn fingerprints(&self) -> Vec<Value> {
        let held = self.vault.held().iter();
        let shown = held.map(|held| {
            json!({
                "name": held.secret.name(),
                "generation": held.generation,
                "fingerprint": held.fingerprint,
            })
        });
        shown.collect()
    }

    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.untold {
            true => Some(Instant::now()),
            false => self.watch.as_ref().map(Watch::due),
        }
    }

    pub(super) fn look(&mut self, at_once: bool) -> Option<Event> {
        let now = Instant::now();
        let due = self.watch.as_mut().is_some_and(|watch| watch.take(now));
        let mut news = News::default();
        if due || at_once {
            news = self.vault.reread();
        }
        if news.is_empty() && !std::mem::take(&mut self.untold) {
            return None;
        }
        self.untold = false;
        match self.event(&news) {
            Ok(event) => Some(event),
            Err(_) => {
                // No memory for a few bytes: the next look tries again.
                self.untold = true;
                None
            }
        }
    }

    fn event(&self, news: &News) -> io::Result<Event> {
        let mut values = Packed::default();
        let states = self.vault.held().iter().map(|held| {
            values.add(Some(held.secret.expose()));
            CredentialState {
                name: held.secret.name().to_owned(),
                generation: held.generation,
                fingerprint: held.fingerprint.clone(),
                changed: news.changed.iter().any(|name| name == held.secret.name()),
                problem: held.problem.as_ref().map(ToString::to_string),
            }
        });
        let states: Vec<CredentialState> = states.collect();
        let values = values.seal("cofferdam-values")?;
        Ok(Event::Credentials { states, values })
    }
}

/// The message process's side: every value that any process of the server may still hold.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// With the time from which it is forgotten; `None` while it is in force.
    values: Vec<(Secret, Option<Instant>)>,
}

impl Known {
    /// Takes the values of an event; those that they replace are remembered for their overlap.
    ///
    /// # Errors
    /// The descriptor does not hold what the states announce.
    fn take(
        &mut self,
        states: &[CredentialState],
        values: OwnedFd,
        sources: &[Credential],
        now: Instant,
    ) -> io::Result<()> {
        let new = unpack(states, values)?;
        self.values
            .retain(|(_, until)| until.is_none_or(|until| until > now));
        for (secret, until) in &mut self.values {
            let in_force = new
                .iter()
                .any(|it| it.name() == secret.name() && it.expose() == secret.expose());
            if until.is_none() && !in_force {
                let source = sources.iter().find(|source| source.name == secret.name());
                // One that is not configured any more may be in use until its server ends.
                *until = Some(now + source.map_or(UNNAMED, |source| source.overlap));
            }
        }
        for secret in new {
            let known = self
                .values
                .iter_mut()
                .find(|(it, _)| it.name() == secret.name() && it.expose() == secret.expose());
            match known {
                // A value that has come back is in force again.
                Some((_, until)) => *until = None,
                None => self.values.push((secret, None)),
            }
        }
        Ok(())
    }

    /// The values in force.
    pub(super) fn in_force(&self) -> impl Iterator<Item = &Secret> {
        let current = self.values.iter().filter(|(_, until)| until.is_none());
        current.map(|(secret, _)| secret)
    }

    /// Takes the values of an event, and says what is wrong with their files; the policy whose scrubber
    /// knows them.
    ///
    /// # Errors
    /// As [`Known::take`].
    pub(super) fn renew(
        &mut self,
        states: &[CredentialState],
        values: OwnedFd,
        config: &Config,
        metrics: &Metrics,
        now: Instant,
    ) -> io::Result<Arc<Policy>> {
        self.take(states, values, &config.credentials, now)?;
        for state in states {
            let broken = state.problem.is_some();
            metrics.credential(&state.name, state.generation, broken);
            if let Some(problem) = &state.problem {
                tracing::error!(
                    "credential {}: {problem}; generation {} stays in force",
                    state.name,
                    state.generation
                );
            }
        }
        Ok(self.policy(config))
    }

    /// The policy of a configuration, with a scrubber that knows every value that is in use.
    pub(super) fn policy(&self, config: &Config) -> Arc<Policy> {
        let given = super::given(config).into_iter();
        let secrets: Vec<Secret> = given.chain(self.copies()).collect();
        Arc::new(Policy::new(config, Scrubber::new(config.scrub, &secrets)))
    }

    /// Copies for the scrubber, which keeps its own.
    fn copies(&self) -> impl Iterator<Item = Secret> {
        let all = self.values.iter();
        all.map(|(secret, _)| Secret::new(secret.name(), secret.expose().to_vec()))
    }
}

fn unpack(states: &[CredentialState], values: OwnedFd) -> io::Result<Vec<Secret>> {
    let mut values = Unpacked::read(values, states.len(), MAX_BYTES)?;
    let mut found = Vec::with_capacity(states.len());
    for state in states {
        let value = values.next()?.ok_or(io::ErrorKind::InvalidData)?;
        found.push(Secret::new(state.name.clone(), value.to_vec()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: std::path::PathBuf) -> Credential {
        Credential {
            name: "a".to_owned(),
            file,
            key: None,
            inject: crate::config::Inject::Variable("A".to_owned()),
            environment: None,
            overlap: Duration::from_secs(60),
        }
    }

    #[test]
    fn values_travel_and_old_ones_are_known_for_their_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let sources = [source(dir.path().join("a"))];
        std::fs::write(&sources[0].file, "first-value").unwrap();
        let mut keeper = Keeper::open(&sources).unwrap();
        let mut known = Known::default();
        let now = Instant::now();
        let mut tell = |keeper: &mut Keeper, now| {
            let Some(Event::Credentials { states, values }) = keeper.look(true) else {
                panic!("nothing to tell");
            };
            known.take(&states, values, &sources, now).unwrap();
            let mut all: Vec<String> = known
                .copies()
                .map(|it| String::from_utf8_lossy(it.expose()).into_owned())
                .collect();
            all.sort();
            (states[0].changed, all)
        };
        assert_eq!(
            tell(&mut keeper, now),
            (false, vec!["first-value".to_owned()])
        );
        assert!(keeper.look(true).is_none(), "nothing is new");
        std::fs::write(&sources[0].file, "second-value").unwrap();
        let both = ["first-value", "second-value"].map(str::to_owned).to_vec();
        assert_eq!(tell(&mut keeper, now), (true, both.clone()));
        std::fs::write(&sources[0].file, "first-value").unwrap();
        assert_eq!(tell(&mut keeper, now), (true, both));
        std::fs::write(&sources[0].file, "third-value").unwrap();
        let later = now + Duration::from_secs(61);
        let expected = ["first-value", "third-value"].map(str::to_owned).to_vec();
        assert_eq!(tell(&mut keeper, later), (true, expected));
    }
}
