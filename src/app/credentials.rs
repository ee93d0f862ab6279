//! Credentials between the spawner, which reads their files, and the message process, which takes their
//! values out of what the server says.

use super::sealed::{Packed, Unpacked};
use crate::audit::{Log, Rotation};
use crate::cell::is_being_written;
use crate::cell::spawn::{CredentialState, Event, PreviousState};
use crate::config::{Aged, Config, Credential, Inject, Replace};
use crate::policy::{Policy, scrub::Scrubber};
use crate::secret::source::{MAX_BYTES, SourceError};
use crate::secret::{Drill, Key, News, Orders, SETTLE, Secret, Vault, Watch};
use crate::telemetry::{CredentialGauges, Metrics};
use serde_json::{Value, json};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a value is looked for whose credential is not configured any more.
const UNNAMED: Duration = Duration::from_secs(600);

/// The spawner's side: the values in force, and what tells that they may have changed.
#[derive(Debug)]
pub(super) struct Keeper {
    vault: Vault,
    watch: Option<Watch>,
    state: PathBuf,
    /// The message process has not been told yet.
    untold: bool,
    /// How often the message process was told, and how often it has said that it goes by that.
    told: u64,
    taken: u64,
    drill: Option<Drilling>,
    /// The last drill that was ordered, now or by a run before this one.
    drilled: Option<Drill>,
    /// What has happened to them and is to be told with the next look.
    news: News,
}

/// A drill since it was ordered.
#[derive(Debug, Clone)]
pub(super) struct Drilling {
    pub(super) order: Drill,
    pub(super) begun: Instant,
    pub(super) took: Option<Duration>,
}

impl Keeper {
    /// Reads them for the first time; `complain` hears what is no reason not to start.
    ///
    /// # Errors
    /// A credential that has no value, or orders that cannot be read; then the server does not start.
    pub(super) fn open(
        sources: &[Credential],
        state: &Path,
        complain: impl Fn(&str),
    ) -> Result<Self, SourceError> {
        let (mut key, mut orders) = (Key::drawn(), Orders::default());
        if !sources.is_empty() {
            let (kept, lack) = Key::open(state);
            key = kept;
            if let Some(lack) = lack {
                complain(&format!(
                    "no state can be kept in {}: {lack}; credentials cannot be revoked while this runs",
                    state.display()
                ));
            }
            orders = ordered(state)?;
        }
        let drilled = orders.drill.clone();
        let vault = Vault::open(sources, key, orders, is_being_written, unix_now())?;
        Ok(Self::holding(vault, !sources.is_empty(), state, drilled))
    }

    fn holding(vault: Vault, any: bool, state: &Path, drilled: Option<Drill>) -> Self {
        let files = vault.files().chain([Orders::path(state)]).collect();
        let now = Instant::now();
        let mut watch = any.then(|| Watch::new(files, SETTLE, now));
        if let Some(watch) = &mut watch {
            watch.unsettled(vault.is_unsettled(), now);
        }
        Self {
            untold: any,
            vault,
            watch,
            state: state.to_owned(),
            told: 0,
            taken: 0,
            drill: None,
            drilled,
            news: News::default(),
        }
    }

    /// The keeper of another configuration, which takes the place of this one; the message process may not
    /// have taken the values of this one yet.
    ///
    /// # Errors
    /// As [`Keeper::open`], where this one holds no value to go on with; then this one stays.
    pub(super) fn renewed(
        &self,
        sources: &[Credential],
        state: &Path,
        complain: impl Fn(&str),
    ) -> Result<Self, SourceError> {
        let mut keeper = match self.watch.is_none() || sources.is_empty() {
            true => Self::open(sources, state, complain)?,
            false => {
                let now = unix_now();
                let (vault, news) = self.vault.renewed(sources, ordered(state)?, now)?;
                Self {
                    news,
                    drill: self.drill.clone(),
                    ..Self::holding(vault, true, state, self.drilled.clone())
                }
            }
        };
        (keeper.told, keeper.taken) = (self.told, self.taken);
        Ok(keeper)
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
        self.watch.as_ref().and_then(Watch::watched)
    }

    /// Why changes are found late.
    pub(super) fn lack(&self) -> Option<String> {
        self.watch.as_ref().and_then(Watch::lack)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.untold {
            true => Some(Instant::now()),
            false => self.watch.as_ref().map(Watch::due),
        }
    }

    /// Why nothing may run: a process would hold a value that was revoked.
    pub(super) fn withheld(&self) -> Option<String> {
        let mut each = self.vault.each();
        let (source, _) = each.find(|(source, held)| held.revoked && source.inject.is_held())?;
        Some(format!(
            "the credential {} was revoked; write another value into {}",
            source.name,
            source.file.display()
        ))
    }

    /// The message process goes by what it was told, or by what it was told before that.
    pub(super) fn taken(&mut self) {
        self.taken += 1;
    }

    /// True when it goes by the values that are in force here.
    pub(super) fn is_known(&self) -> bool {
        self.taken == self.told
    }

    pub(super) fn drill(&mut self) -> Option<&mut Drilling> {
        self.drill.as_mut()
    }

    pub(super) fn look(&mut self, at_once: bool) -> Option<Event> {
        let now = Instant::now();
        let due = self.watch.as_mut().is_some_and(|watch| watch.take(now));
        let mut news = std::mem::take(&mut self.news);
        if due || at_once {
            // Orders that cannot be read change nothing: what was revoked stays so.
            let drill = Orders::read(&self.state).ok().and_then(|orders| {
                let drill = orders.drill.clone();
                self.vault.order(orders);
                drill
            });
            news.extend(self.vault.reread(unix_now()));
            if let Some(watch) = &mut self.watch {
                let files = self.vault.files().chain([Orders::path(&self.state)]);
                watch.set_files(files.collect());
                watch.unsettled(self.vault.is_unsettled(), now);
            }
            if let Some(drill) = drill.filter(|drill| Some(drill) != self.drilled.as_ref()) {
                self.drilled = Some(drill.clone());
                if self
                    .vault
                    .held()
                    .iter()
                    .any(|it| it.secret.name() == drill.name)
                {
                    news.changed.push(drill.name.clone());
                    self.drill = Some(Drilling {
                        order: drill,
                        begun: now,
                        took: None,
                    });
                }
            }
        }
        for (name, problem) in self.vault.unplaced() {
            if self.told == 0 || news.broken.iter().any(|(broken, _)| broken == name) {
                super::spawner::say(&format!("credential {name}: {problem}"));
            }
        }
        if news.is_empty() && !std::mem::take(&mut self.untold) {
            return None;
        }
        self.untold = false;
        match self.event(&news) {
            Ok(event) => {
                self.told += 1;
                Some(event)
            }
            Err(_) => {
                // No memory for a few bytes: the next look tries again.
                (self.untold, self.news) = (true, news);
                None
            }
        }
    }

    fn event(&self, news: &News) -> io::Result<Event> {
        let lengths = self.vault.held().iter().map(|it| it.secret.expose().len());
        let mut values = Packed::with_room(self.vault.held().len(), lengths.sum());
        let states = self.vault.each().map(|(source, held)| {
            values.add(Some(held.secret.expose()));
            CredentialState {
                name: source.name.clone(),
                generation: held.generation,
                fingerprint: held.fingerprint.to_string(),
                changed: news.changed.contains(&source.name),
                problem: held.problem.as_ref().map(ToString::to_string),
                revoked: held.revoked,
                since: held.since,
                expires: held.expires,
                rotate_by: source.rotate_by(held.since),
                aged: held.aged,
                previous: held.previous.as_ref().map(|it| PreviousState {
                    generation: it.generation,
                    fingerprint: it.fingerprint.to_string(),
                    until: it.until,
                }),
            }
        });
        // Of those there is no value to pack.
        let lacking = self.vault.lacking().map(|(name, problem)| CredentialState {
            name: name.to_owned(),
            generation: 0,
            fingerprint: String::new(),
            changed: false,
            problem: Some(problem.to_string()),
            revoked: false,
            since: unix_now(),
            expires: None,
            rotate_by: None,
            aged: None,
            previous: None,
        });
        let states: Vec<CredentialState> = states.chain(lacking).collect();
        let values = values.seal("cofferdam-values")?;
        Ok(Event::Credentials { states, values })
    }
}

/// What the operator has ordered.
fn ordered(state: &Path) -> Result<Orders, SourceError> {
    Orders::read(state).map_err(|error| SourceError::Unreadable {
        path: Orders::path(state),
        reason: error.to_string(),
    })
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The message process's side: every value that any process of the server may still hold.
#[derive(Debug, Default)]
pub(super) struct Known {
    values: Vec<KnownValue>,
    states: Vec<CredentialState>,
    /// Names of those that the server does not have yet.
    unplaced: Vec<String>,
}

/// Those who are told what is new of credentials.
pub(super) struct Told<'a> {
    pub(super) config: &'a Config,
    pub(super) metrics: &'a Metrics,
    pub(super) audit: &'a mut Log,
    pub(super) now: Instant,
}

#[derive(Debug)]
struct KnownValue {
    secret: Secret,
    /// When another took its place, and for how long it may still be in use; `None`: it is in force.
    replaced: Option<(Instant, Duration)>,
    revoked: bool,
}

impl Known {
    /// Takes the values of an event. Those that they replace are remembered for their overlap, and as
    /// long as a process runs that was started before (`oldest`: when the first of them was).
    ///
    /// # Errors
    /// The descriptor does not hold what the states announce.
    fn take(
        &mut self,
        states: &[CredentialState],
        values: OwnedFd,
        sources: &[Credential],
        (now, oldest): (Instant, Option<Instant>),
    ) -> io::Result<()> {
        let new = unpack(states, values)?;
        self.values.retain(|it| {
            it.replaced.is_none_or(|(at, overlap)| {
                at + overlap > now || oldest.is_some_and(|oldest| oldest <= at)
            })
        });
        for known in &mut self.values {
            let same = |it: &Secret| {
                it.name() == known.secret.name() && it.expose() == known.secret.expose()
            };
            if known.replaced.is_none() && !new.iter().any(same) {
                let mut sources = sources.iter();
                let source = sources.find(|source| source.is_called(known.secret.name()));
                // One that is not configured any more may be in use until its server ends.
                let overlap = source.map_or(UNNAMED, |source| source.overlap);
                known.replaced = Some((now, overlap));
            }
        }
        let states = states.iter().filter(|state| has_value(state));
        for (secret, state) in new.into_iter().zip(states) {
            let known = self.values.iter_mut().find(|it| {
                it.secret.name() == secret.name() && it.secret.expose() == secret.expose()
            });
            match known {
                // A value that has come back is in force again.
                Some(known) => (known.replaced, known.revoked) = (None, state.revoked),
                None => self.values.push(KnownValue {
                    secret,
                    replaced: None,
                    revoked: state.revoked,
                }),
            }
        }
        Ok(())
    }

    /// Takes the values of an event, and says what is new of them; the policy whose scrubber knows them.
    ///
    /// # Errors
    /// As [`Known::take`].
    pub(super) fn renew(
        &mut self,
        states: &[CredentialState],
        values: OwnedFd,
        oldest: Option<Instant>,
        told: Told<'_>,
    ) -> io::Result<Arc<Policy>> {
        let config = told.config;
        self.take(states, values, &config.credentials, (told.now, oldest))?;
        self.tell(states, told);
        Ok(self.policy(config))
    }

    /// The policy of a configuration, with a scrubber that knows every value that is in use.
    pub(super) fn policy(&self, config: &Config) -> Arc<Policy> {
        let given = super::given(config).into_iter();
        let secrets: Vec<Secret> = given.chain(self.copies()).collect();
        let scrubber = Scrubber::new(config.scrub, &secrets);
        let values: Vec<Secret> = self.in_force().map(copy).collect();
        Arc::new(Policy::new(config, scrubber).with_values(config, &values))
    }

    /// The values in force, for arguments and headers.
    pub(super) fn in_force(&self) -> impl Iterator<Item = &Secret> {
        let current = self.values.iter();
        let current = current.filter(|it| it.replaced.is_none() && !it.revoked);
        current.map(|it| &it.secret)
    }

    /// True while nothing may run, because a server would hold a value that was revoked.
    pub(super) fn withholds(&self, config: &Config) -> bool {
        let revoked = self.states.iter().filter(|state| state.revoked);
        let mut names = revoked.map(|state| &state.name);
        names.any(|name| {
            let mut sources = config.credentials.iter();
            sources.any(|source| source.is_called(name) && source.inject.is_held())
        })
    }

    /// Copies for the scrubber, which keeps its own.
    fn copies(&self) -> impl Iterator<Item = Secret> {
        self.values.iter().map(|it| copy(&it.secret))
    }

    /// Says what is new of them, counts it, and writes it down.
    fn tell(&mut self, states: &[CredentialState], told: Told<'_>) {
        let Told {
            config,
            metrics,
            audit,
            now,
        } = told;
        let old = std::mem::replace(&mut self.states, states.to_vec());
        for state in states {
            let before = old.iter().find(|it| it.name == state.name);
            metrics.credential(&CredentialGauges {
                name: &state.name,
                generation: state.generation,
                broken: state.problem.is_some(),
                revoked: state.revoked,
                loaded: state.since,
                expires: state.expires,
                rotate_by: state.rotate_by,
            });
            let (name, generation) = (&state.name, state.generation);
            let mut write = |line: Rotation<'_>| audit.rotation(&line, now);
            let other = before.filter(|it| has_value(it) && it.generation != generation);
            if let Some(before) = other {
                metrics.credential_read(name, "changed");
                let previous = Some((before.generation, &*before.fingerprint));
                let line = about("rotated", state, "success", goes(config, state));
                write(Rotation { previous, ..line });
                if replaces(&config.credentials, state) && !self.unplaced.contains(name) {
                    self.unplaced.push(name.clone());
                }
            }
            if state.revoked && before.is_none_or(|it| !it.revoked) {
                metrics.credential_read(name, "revoked");
                tracing::error!("credential {name}: generation {generation} was revoked");
                let text = "no server may use it, and there is no other";
                write(about("revoked", state, "success", text));
            } else if let Some(problem) = &state.problem
                && before.is_none_or(|it| it.problem.as_ref() != Some(problem))
            {
                metrics.credential_read(name, "broken");
                match has_value(state) {
                    true => tracing::error!(
                        "credential {name}: {problem}; generation {generation} stays in force"
                    ),
                    false => tracing::error!("credential {name}: {problem}; there is none"),
                }
                write(about("kept", state, "error", problem));
            }
            if let Some(gone) = before.and_then(|it| it.previous.as_ref())
                && state.generation == before.map_or(0, |it| it.generation)
                && state.previous.is_none()
            {
                let text = "its overlap is over, or it was revoked";
                write(Rotation {
                    generation: gone.generation,
                    fingerprint: &gone.fingerprint,
                    ..about("retired", state, "success", text)
                });
            }
            if state.aged != before.and_then(|it| it.aged) {
                match state.aged {
                    None => {}
                    Some(Aged::Overdue) => tracing::warn!(
                        "credential {name}: generation {generation} is older than rotate_every says"
                    ),
                    Some(Aged::Expiring) => tracing::warn!(
                        "credential {name}: generation {generation} ends within a day"
                    ),
                    Some(Aged::Expired) => {
                        tracing::error!("credential {name}: generation {generation} has ended");
                    }
                }
            }
            if state.changed && !replaces(&config.credentials, state) {
                let fingerprint = &state.fingerprint;
                tracing::info!(
                    "another credential: {name} (generation {generation}, {fingerprint})"
                );
            }
        }
    }

    /// Another server has taken the place of the one that held older values, or will not (and why).
    pub(super) fn placed(&mut self, outcome: Result<(), &str>, audit: &mut Log, now: Instant) {
        let (status, text) = match outcome {
            Ok(()) => ("success", "servers that held an older one are replaced"),
            Err(why) => ("error", why),
        };
        let names = match outcome {
            Ok(()) => std::mem::take(&mut self.unplaced),
            // Another try may follow.
            Err(_) => self.unplaced.clone(),
        };
        for name in names {
            if let Some(state) = self.states.iter().find(|it| it.name == name) {
                audit.rotation(&about("placed", state, status, text), now);
            }
        }
    }
}

/// False for a tenant that has never had one.
fn has_value(state: &CredentialState) -> bool {
    state.generation > 0
}

/// What has happened to a credential as it stands.
fn about<'a>(
    act: &'static str,
    state: &'a CredentialState,
    status: &'static str,
    text: &'a str,
) -> Rotation<'a> {
    Rotation {
        act,
        name: &state.name,
        generation: state.generation,
        fingerprint: &state.fingerprint,
        previous: None,
        status,
        text,
    }
}

/// What another value of a credential comes to.
fn goes(config: &Config, state: &CredentialState) -> &'static str {
    let mut sources = config.credentials.iter();
    let source = sources.find(|source| source.is_called(&state.name));
    match source.map(|source| &source.inject) {
        Some(Inject::Env { .. }) if config.server.replace == Replace::Never => {
            "pending: the server keeps the old one until its session ends"
        }
        Some(Inject::Env { .. }) => "servers that hold the old one are replaced",
        Some(Inject::File { .. }) => "the file in the cell is replaced",
        Some(Inject::Argument { .. }) => "calls are filled in with it",
        Some(Inject::Header { .. }) => "requests carry it",
        None => "it is not configured any more",
    }
}

fn copy(secret: &Secret) -> Secret {
    Secret::new(secret.name(), secret.expose().to_vec())
}

/// True when a server that has the last value needs to be another process for the new one.
pub(super) fn replaces(sources: &[Credential], state: &CredentialState) -> bool {
    let mut sources = sources.iter();
    sources.any(|source| source.is_called(&state.name) && source.inject.replaces())
}

fn unpack(states: &[CredentialState], values: OwnedFd) -> io::Result<Vec<Secret>> {
    let states: Vec<_> = states.iter().filter(|state| has_value(state)).collect();
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

    fn source(file: PathBuf) -> Credential {
        Credential {
            name: "a".to_owned(),
            file,
            key: None,
            inject: Inject::Env {
                variable: "A".to_owned(),
            },
            environment: None,
            overlap: Duration::from_secs(60),
            rotate_every: None,
        }
    }

    #[test]
    fn a_tenant_without_a_value_is_told_of_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let tenants = dir.path().join("tenants");
        std::fs::create_dir(&tenants).unwrap();
        std::fs::write(tenants.join("acme"), "value-of-acme").unwrap();
        std::fs::write(tenants.join("empty"), "").unwrap();
        let sources = [source(tenants.join("{tenant}"))];
        let mut keeper =
            Keeper::open(&sources, &dir.path().join("state"), |it| panic!("{it}")).unwrap();
        let mut known = Known::default();
        let Some(Event::Credentials { states, values }) = keeper.look(false) else {
            panic!("nothing to tell");
        };
        let now = Instant::now();
        known.take(&states, values, &sources, (now, None)).unwrap();
        let of = |it: &CredentialState| (it.name.clone(), it.generation, it.problem.is_some());
        let told: Vec<_> = states.iter().map(of).collect();
        let expected = [("a/acme", 1, false), ("a/empty", 0, true)];
        assert_eq!(told, expected.map(|(name, n, is)| (name.to_owned(), n, is)));
        let held: Vec<&[u8]> = known.in_force().map(Secret::expose).collect();
        assert_eq!(held, [b"value-of-acme"]);
    }

    #[test]
    fn values_travel_and_old_ones_are_known_for_their_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let sources = [source(dir.path().join("a"))];
        std::fs::write(&sources[0].file, "first-value").unwrap();
        let mut keeper =
            Keeper::open(&sources, &dir.path().join("state"), |it| panic!("{it}")).unwrap();
        let mut known = Known::default();
        let now = Instant::now();
        let mut tell = |keeper: &mut Keeper, now| {
            let Some(Event::Credentials { states, values }) = keeper.look(true) else {
                panic!("nothing to tell");
            };
            known.take(&states, values, &sources, (now, None)).unwrap();
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
