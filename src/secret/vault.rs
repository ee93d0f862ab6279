//! The credentials of one server: the value in force, and what its file did since.
//!
//! ```text
//! good ── the file holds another value ──▶ good, one generation later; the last one is previous for its overlap
//!   ├──── the file holds none ───────────▶ good still, with a problem ── it holds one again ──▶ good
//!   └──── the operator revokes it ───────▶ revoked: not to be used ── the file holds another ──▶ good
//! ```

use super::Secret;
use super::orders::{Fingerprint, Key, Orders};
use super::source::{self, Found, SourceError};
use super::whole::{Look, patiently};
use crate::config::{Aged, Credential};
use std::path::PathBuf;

/// Before its end a value is reported for so long, in seconds.
const NOTICE: u64 = 24 * 3600;
/// A file that is being written is no problem before so many seconds.
const WRITING: u64 = 2;

/// One credential as it is held.
#[derive(Debug)]
pub struct Held {
    pub secret: Secret,
    /// Counted from 1; another one for every other value.
    pub generation: u32,
    /// Says which value it is, and nothing about it.
    pub fingerprint: Fingerprint,
    /// Since when the value is what it is, in seconds since 1970: the first from the time of its file.
    pub since: u64,
    /// When it says that it ends.
    pub expires: Option<u64>,
    /// The operator has taken it back.
    pub revoked: bool,
    pub previous: Option<Previous>,
    pub aged: Option<Aged>,
    /// Why the file gives no value now; the last one stays in force.
    pub problem: Option<SourceError>,
    /// Since when somebody writes the file.
    writing: Option<u64>,
}

/// The generation that was in force before, while somebody may still use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    pub generation: u32,
    pub fingerprint: Fingerprint,
    /// The end of its overlap, in seconds since 1970.
    pub until: u64,
}

/// Tenants of all credentials together; those that come later in the alphabet get none. What is told of
/// all of them has to fit into one message of the spawner.
const TENANTS: usize = 24;

/// All of them, in the order of the configuration; those of tenants as they were found.
#[derive(Debug)]
pub struct Vault {
    /// With a directory of tenants each.
    by_tenant: Vec<Credential>,
    sources: Vec<Credential>,
    held: Vec<Held>,
    key: Key,
    orders: Orders,
    look: Look,
    /// A file was being written when it was read.
    unsettled: bool,
}

/// What reading again has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Another value is in force.
    pub changed: Vec<String>,
    /// A file gives the value in force again.
    pub mended: Vec<String>,
    /// A file gives no value any more, or another reason for that.
    pub broken: Vec<(String, SourceError)>,
    /// A value was revoked, has come of age, or its predecessor has ended.
    pub aged: Vec<String>,
}

impl News {
    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
            && self.mended.is_empty()
            && self.broken.is_empty()
            && self.aged.is_empty()
    }
}

impl Vault {
    /// Reads every credential for the first time; `look` tells whether a file is being written, `now` is
    /// in seconds since 1970. A writer is waited for, not for long.
    ///
    /// # Errors
    /// The first that has no value, or a revoked one: there is no last one to go on with.
    pub fn open(
        sources: &[Credential],
        key: Key,
        orders: Orders,
        look: Look,
        now: u64,
    ) -> Result<Self, SourceError> {
        let (by_tenant, sources): (Vec<Credential>, Vec<Credential>) =
            sources.iter().cloned().partition(Credential::is_by_tenant);
        let mut vault = Self {
            by_tenant,
            sources: Vec::with_capacity(sources.len()),
            held: Vec::with_capacity(sources.len()),
            key,
            orders,
            look,
            unsettled: false,
        };
        for source in sources {
            let is_written =
                |error: &SourceError| matches!(error, SourceError::BeingWritten { .. });
            let found = patiently(|| source::read(&source, look), is_written)?;
            vault.admit(source, found, now)?;
        }
        vault.find_tenants(now);
        vault.age(now);
        Ok(vault)
    }

    fn admit(&mut self, source: Credential, found: Found, now: u64) -> Result<(), SourceError> {
        let (found, fingerprint) = self.key.admit(&source, found, &self.orders)?;
        self.held.push(Held {
            fingerprint,
            secret: found.secret,
            generation: 1,
            since: found.written.map_or(now, |written| written.min(now)),
            expires: found.expires,
            revoked: false,
            previous: None,
            aged: None,
            problem: None,
            writing: None,
        });
        self.sources.push(source);
        Ok(())
    }

    /// Takes the values of tenants that are new; one that has none yet is looked for again. A tenant
    /// whose file goes keeps the value: to end it is to revoke it.
    fn find_tenants(&mut self, now: u64) -> Vec<String> {
        let mut new = Vec::new();
        for template in self.by_tenant.clone() {
            for one in source::of_tenants(&template, TENANTS) {
                let known = self.sources.iter().any(|it| it.name == one.name);
                let name = one.name.clone();
                let all = self.sources.iter().filter(|it| it.name.contains('/'));
                let room = all.count() < TENANTS;
                if known || !room {
                    continue;
                }
                let found = source::read(&one, self.look);
                if found.and_then(|found| self.admit(one, found, now)).is_ok() {
                    new.push(name);
                }
            }
        }
        new
    }

    /// The files that are read, and in directories of tenants one that stands for those to come.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let all = self.sources.iter().chain(&self.by_tenant);
        all.map(|source| match source.tenants() {
            Some(directory) => directory.join("any"),
            None => source.file.clone(),
        })
    }

    /// What the operator has ordered, from the next [`Vault::reread`] on.
    pub fn order(&mut self, orders: Orders) {
        self.orders = orders;
    }

    #[must_use]
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Reads all of them again, and takes what is good and different.
    pub fn reread(&mut self, now: u64) -> News {
        let mut news = News::default();
        self.unsettled = false;
        for (source, held) in self.sources.iter().zip(&mut self.held) {
            let found = source::read(source, self.look);
            match found.and_then(|found| self.key.admit(source, found, &self.orders)) {
                Err(SourceError::BeingWritten { .. })
                    if now < *held.writing.get_or_insert(now) + WRITING =>
                {
                    self.unsettled = true;
                }
                Ok((found, fingerprint)) => {
                    held.writing = None;
                    let was_broken = held.problem.take().is_some();
                    held.expires = found.expires;
                    if found.secret.expose() != held.secret.expose() {
                        let old = Previous {
                            generation: held.generation,
                            fingerprint: std::mem::replace(&mut held.fingerprint, fingerprint),
                            until: now + source.overlap.as_secs(),
                        };
                        held.previous = (!held.revoked).then_some(old);
                        held.secret = found.secret;
                        held.since = now;
                        held.generation += 1;
                        // Whoever held a revoked one is gone: nothing has to be replaced.
                        match std::mem::take(&mut held.revoked) {
                            true => news.mended.push(source.name.clone()),
                            false => news.changed.push(source.name.clone()),
                        }
                    } else if was_broken {
                        news.mended.push(source.name.clone());
                    }
                }
                Err(error) => {
                    match error {
                        SourceError::BeingWritten { .. } => self.unsettled = true,
                        _ => held.writing = None,
                    }
                    if held.problem.as_ref() != Some(&error) {
                        news.broken.push((source.name.clone(), error.clone()));
                    }
                    held.problem = Some(error);
                }
            }
        }
        news.mended.extend(self.find_tenants(now));
        news.aged = self.age(now);
        news
    }

    /// True when a file was being written: it is to be read again soon.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// What time and the operator have made of the values; the names of those that are not as before.
    fn age(&mut self, now: u64) -> Vec<String> {
        let mut changed = Vec::new();
        for (source, held) in self.sources.iter().zip(&mut self.held) {
            let revoked = self.orders.revokes(&source.name, &held.fingerprint);
            let ends = |within: u64| held.expires.is_some_and(|end| end <= now + within);
            let overdue = source.rotate_by(held.since).is_some_and(|by| by <= now);
            let aged = match (ends(0), ends(NOTICE), overdue) {
                (true, ..) => Some(Aged::Expired),
                (_, true, _) => Some(Aged::Expiring),
                (.., true) => Some(Aged::Overdue),
                _ => None,
            };
            let previous = held.previous.take();
            let over = |it: &Previous| {
                it.until <= now || self.orders.revokes(&source.name, &it.fingerprint)
            };
            let is_over = previous.as_ref().is_some_and(over);
            held.previous = previous.filter(|_| !is_over);
            if (revoked, aged) != (held.revoked, held.aged) || is_over {
                changed.push(source.name.clone());
            }
            (held.revoked, held.aged) = (revoked, aged);
        }
        changed
    }

    /// The values in force.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Each with what the configuration says of it.
    pub fn each(&self) -> impl Iterator<Item = (&Credential, &Held)> {
        self.sources.iter().zip(&self.held)
    }
}

impl Key {
    /// Refuses a value that was revoked, however it has come back.
    fn admit(
        &self,
        source: &Credential,
        found: Found,
        orders: &Orders,
    ) -> Result<(Found, Fingerprint), SourceError> {
        let fingerprint = self.fingerprint(&source.name, found.secret.expose());
        match orders.revokes(&source.name, &fingerprint) {
            true => Err(SourceError::Revoked {
                path: source.file.clone(),
            }),
            false => Ok((found, fingerprint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::orders::Revoked;
    use super::*;
    use crate::config::Inject;
    use std::io;
    use std::path::Path;
    use std::time::Duration;

    fn source(file: &Path) -> Credential {
        Credential {
            name: "github".to_owned(),
            file: file.to_owned(),
            key: None,
            inject: Inject::Env {
                variable: "TOKEN".to_owned(),
            },
            environment: None,
            overlap: Duration::from_secs(600),
            rotate_every: Some(Duration::from_secs(3600)),
        }
    }

    fn vault(file: &Path, now: u64) -> Result<Vault, SourceError> {
        opened(file, |_| Some(false), now)
    }

    fn opened(file: &Path, look: Look, now: u64) -> Result<Vault, SourceError> {
        Vault::open(&[source(file)], Key::drawn(), Orders::default(), look, now)
    }

    fn today() -> u64 {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1
    }

    #[test]
    fn only_another_good_value_takes_the_place_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, now) = (dir.path().join("token"), today());
        assert!(vault(&file, now).is_err());
        std::fs::write(&file, "one\n").unwrap();
        let mut vault = vault(&file, now).unwrap();
        let first = vault.held()[0].fingerprint.clone();
        assert_eq!(vault.reread(now), News::default());

        std::fs::write(&file, "one").unwrap();
        assert_eq!(vault.reread(now), News::default(), "the same value again");
        std::fs::write(&file, "").unwrap();
        assert_eq!(vault.reread(now).broken.len(), 1);
        assert_eq!(vault.reread(now), News::default(), "told once");
        assert_eq!(vault.held()[0].secret.expose(), b"one");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(vault.reread(now).broken.len(), 1, "another reason");

        std::fs::write(&file, "two").unwrap();
        assert_eq!(vault.reread(now).changed, ["github"]);
        let held = &vault.held()[0];
        assert_eq!((held.generation, &held.problem), (2, &None));
        assert_ne!(held.fingerprint, first);
        assert!(!format!("{vault:?}").contains("two"));
    }

    #[test]
    fn half_a_value_replaces_none_while_its_writer_is_at_it() {
        /// As the kernel tells it; here by what is written last.
        fn look(file: &std::fs::File) -> Option<bool> {
            let text = io::read_to_string(file).unwrap();
            io::Seek::seek(&mut &*file, io::SeekFrom::Start(0)).unwrap();
            Some(!text.ends_with('\n'))
        }
        let dir = tempfile::tempdir().unwrap();
        let (file, now) = (dir.path().join("token"), today());
        std::fs::write(&file, "half").unwrap();
        let waited = opened(&file, look, now);
        assert!(matches!(waited, Err(SourceError::BeingWritten { .. })));
        std::fs::write(&file, "value-one\n").unwrap();
        let mut vault = opened(&file, look, now).unwrap();
        std::fs::write(&file, "value-t").unwrap();
        assert_eq!(vault.reread(now), News::default(), "that is soon over");
        assert!(vault.is_unsettled());
        assert_eq!(vault.reread(now + 1), News::default());
        let news = vault.reread(now + 2);
        assert!(matches!(
            &news.broken[..],
            [(_, SourceError::BeingWritten { .. })]
        ));
        assert!(vault.reread(now + 3).is_empty(), "told once");
        assert!(vault.is_unsettled());
        assert_eq!(vault.held()[0].secret.expose(), b"value-one");
        std::fs::write(&file, "value-two\n").unwrap();
        assert_eq!(vault.reread(now + 3).changed, ["github"]);
        assert!(!vault.is_unsettled() && vault.held()[0].problem.is_none());
    }

    #[test]
    fn tenants_come_as_their_files_do() {
        let dir = tempfile::tempdir().unwrap();
        let now = today();
        let write = |tenant: &str, text: &str| {
            std::fs::create_dir_all(dir.path().join(tenant)).unwrap();
            std::fs::write(dir.path().join(tenant).join("token"), text).unwrap();
        };
        write("acme", "value-of-acme");
        write("..data", "no-tenant");
        write("empty", "");
        let mut vault = vault(&dir.path().join("{tenant}/token"), now).unwrap();
        let names = |vault: &Vault| -> Vec<String> {
            vault
                .held()
                .iter()
                .map(|it| it.secret.name().to_owned())
                .collect()
        };
        assert_eq!(names(&vault), ["github/acme"]);
        write("zeta", "value-of-zeta");
        let news = vault.reread(now);
        assert_eq!(
            (news.mended, news.changed.len()),
            (vec!["github/zeta".to_owned()], 0)
        );
        write("acme", "another-value");
        assert_eq!(vault.reread(now).changed, ["github/acme"]);
        std::fs::remove_dir_all(dir.path().join("zeta")).unwrap();
        assert_eq!(vault.reread(now).broken.len(), 1);
        assert_eq!(names(&vault).len(), 2, "its last value stays");
    }

    #[test]
    fn generations_end_and_values_come_of_age() {
        let dir = tempfile::tempdir().unwrap();
        let (file, now) = (dir.path().join("token"), today());
        std::fs::write(&file, "one").unwrap();
        let mut vault = vault(&file, now).unwrap();
        assert_eq!(vault.held()[0].aged, None);
        assert_eq!(vault.reread(now + 3700).aged, ["github"]);
        assert_eq!(vault.held()[0].aged, Some(Aged::Overdue));
        assert!(vault.reread(now + 3800).is_empty(), "told once");

        let exp = now + 4000 + NOTICE + 100;
        let payload = format!("{{\"exp\":{exp}}}");
        let payload =
            base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload);
        std::fs::write(&file, format!("e30.{payload}.c2ln")).unwrap();
        assert_eq!(vault.reread(now + 4000).changed, ["github"]);
        let held = &vault.held()[0];
        assert_eq!((held.aged, held.expires), (None, Some(exp)));
        let previous = held.previous.clone().unwrap();
        assert_eq!((previous.generation, previous.until), (1, now + 4600));
        vault.reread(now + 4600);
        assert_eq!(vault.held()[0].previous, None, "its overlap is over");
        for (after, aged) in [(100, Aged::Expiring), (NOTICE + 100, Aged::Expired)] {
            vault.reread(now + 4000 + after);
            assert_eq!(vault.held()[0].aged, Some(aged));
        }
    }

    #[test]
    fn a_revoked_value_is_out_of_use_and_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (file, now) = (dir.path().join("token"), today());
        std::fs::write(&file, "one").unwrap();
        let mut vault = vault(&file, now).unwrap();
        let mut orders = Orders::default();
        orders.revoked.push(Revoked {
            name: "github".to_owned(),
            fingerprint: vault.held()[0].fingerprint.clone(),
            at: now,
        });
        vault.order(orders);
        let news = vault.reread(now);
        assert_eq!((news.aged.len(), news.broken.len()), (1, 1));
        assert!(vault.held()[0].revoked);

        std::fs::write(&file, "two").unwrap();
        assert_eq!(vault.reread(now).mended, ["github"]);
        let held = &vault.held()[0];
        assert!(!held.revoked && held.previous.is_none() && held.problem.is_none());
        std::fs::write(&file, "one").unwrap();
        let news = vault.reread(now);
        assert!(matches!(
            &news.broken[..],
            [(_, SourceError::Revoked { .. })]
        ));
        assert_eq!(vault.held()[0].secret.expose(), b"two");
        let orders = vault.orders.clone();
        let again = Vault::open(&[source(&file)], vault.key, orders, |_| Some(false), now);
        assert!(matches!(again, Err(SourceError::Revoked { .. })));
    }
}
