//! Credentials between the spawner, which reads their files, and the message process, which takes their
//! values out of what the server says.

use crate::cell;
use crate::cell::spawn::{CredentialState, Event};
use crate::config::Credential;
use crate::secret::source::{MAX_BYTES, SourceError};
use crate::secret::{News, SETTLE, Secret, Vault, Watch};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

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
        let due = self.watch.as_mut().is_some_and(|watch| {
            watch.stir(now);
            watch.take(now)
        });
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
        let mut values = Zeroizing::new(Vec::new());
        let states = self.vault.held().iter().map(|held| {
            let value = held.secret.expose();
            values.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_le_bytes());
            values.extend_from_slice(value);
            CredentialState {
                name: held.secret.name().to_owned(),
                generation: held.generation,
                fingerprint: held.fingerprint.clone(),
                changed: news.changed.iter().any(|name| name == held.secret.name()),
                problem: held.problem.as_ref().map(ToString::to_string),
            }
        });
        let states: Vec<CredentialState> = states.collect();
        let mut values = File::from(cell::seal("cofferdam-values", &values)?);
        // Whoever gets it shares the offset, and is caged: it can read and do nothing else.
        values.seek(SeekFrom::Start(0))?;
        let values = values.into();
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
    pub(super) fn take(
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
                *until = Some(now + source.map_or(Duration::ZERO, |source| source.overlap));
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

    /// Copies for the scrubber, which keeps its own.
    pub(super) fn copies(&self) -> impl Iterator<Item = Secret> {
        let all = self.values.iter();
        all.map(|(secret, _)| Secret::new(secret.name(), secret.expose().to_vec()))
    }
}

fn unpack(states: &[CredentialState], values: OwnedFd) -> io::Result<Vec<Secret>> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let most = (MAX_BYTES + 4) * states.len() as u64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(most).unwrap_or(0)));
    let file = File::from(values);
    file.take(most).read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let mut found = Vec::with_capacity(states.len());
    for state in states {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| wrong())?;
        let (value, after) = after.split_at_checked(length).ok_or_else(wrong)?;
        found.push(Secret::new(state.name.clone(), value.to_vec()));
        rest = after;
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

    #[test]
    fn a_descriptor_that_holds_less_than_announced_is_refused() {
        let state = CredentialState {
            name: "a".to_owned(),
            generation: 1,
            fingerprint: String::new(),
            changed: false,
            problem: None,
        };
        for bytes in [&b""[..], b"\x05\0\0\0abc", b"\xff\xff\xff\xffabc"] {
            let mut values = File::from(cell::seal("test", bytes).unwrap());
            values.seek(SeekFrom::Start(0)).unwrap();
            let values = values.into();
            assert!(unpack(std::slice::from_ref(&state), values).is_err());
        }
    }
}
