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
use std::io;
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
    /// Since when there is none.
    gone: Option<u64>,
}

impl Held {
    fn copy(&self) -> Self {
        Self {
            secret: Secret::new(self.secret.name(), self.secret.expose().to_vec()),
            fingerprint: self.fingerprint.clone(),
            previous: self.previous.clone(),
            problem: self.problem.clone(),
            ..*self
        }
    }
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
    /// Tenants that have an entry and no value yet.
    lacking: Vec<Lacking>,
}

/// A tenant without a value.
#[derive(Debug)]
struct Lacking {
    name: String,
    since: u64,
    problem: SourceError,
    is_told: bool,
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

    /// With what has happened since.
    pub fn extend(&mut self, later: Self) {
        self.changed.extend(later.changed);
        self.mended.extend(later.mended);
        self.broken.extend(later.broken);
        self.aged.extend(later.aged);
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
            lacking: Vec::new(),
        };
        for source in sources {
            let is_written =
                |error: &SourceError| matches!(error, SourceError::BeingWritten { .. });
            let found = patiently(|| source::read(&source, look), is_written)?;
            vault.admit(source, found, now)?;
        }
        vault.find_tenants(now, &mut News::default());
        vault.age(now);
        Ok(vault)
    }

    /// The vault of another configuration: what is held here under the same name goes on there, with its
    /// generation and what was before it, and is read again.
    ///
    /// # Errors
    /// A new one that has no value, or one that is read from elsewhere now and has none there.
    pub fn renewed(
        &self,
        sources: &[Credential],
        orders: Orders,
        now: u64,
    ) -> Result<(Self, News), SourceError> {
        let (by_tenant, sources): (Vec<Credential>, Vec<Credential>) =
            sources.iter().cloned().partition(Credential::is_by_tenant);
        let mut vault = Self {
            by_tenant,
            sources: Vec::with_capacity(sources.len()),
            held: Vec::with_capacity(sources.len()),
            key: self.key.clone(),
            orders,
            look: self.look,
            unsettled: false,
            lacking: Vec::new(),
        };
        for source in sources {
            match self.named(&source.name) {
                Some((_, held)) => {
                    vault.held.push(held.copy());
                    vault.sources.push(source);
                }
                None => {
                    let found = source::read(&source, self.look)?;
                    vault.admit(source, found, now)?;
                }
            }
        }
        for (old, held) in self.each() {
            let (name, tenant) = old.name.split_once('/').unwrap_or((&old.name, ""));
            let mut templates = vault.by_tenant.iter();
            if let Some(template) = templates.find(|it| it.name == name && !tenant.is_empty()) {
                vault.sources.push(template.of_tenant(tenant));
                vault.held.push(held.copy());
            }
        }
        let news = vault.reread(now);
        let is_elsewhere = |new: &Credential| {
            let place = |it: &Credential| {
                let (file, key) = (it.file.clone(), it.key.clone());
                (file, key, it.environment.clone(), it.inject.clone())
            };
            let old = self.named(&new.name);
            old.is_some_and(|(old, _)| place(old) != place(new))
        };
        let lost = vault.each().find_map(|(source, held)| {
            let problem = held.problem.as_ref()?;
            (is_elsewhere(source) && !source.name.contains('/')).then(|| problem.clone())
        });
        match lost {
            Some(problem) => Err(problem),
            None => Ok((vault, news)),
        }
    }

    fn named(&self, name: &str) -> Option<(&Credential, &Held)> {
        self.each().find(|(source, _)| source.name == name)
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
            gone: None,
        });
        self.sources.push(source);
        Ok(())
    }

    /// Takes the values of tenants that are new; one that has none yet is looked for again. A tenant
    /// whose file goes keeps the value: to end it is to revoke it. When all places are taken it gives
    /// its own to another, once nobody may use the value any more.
    fn find_tenants(&mut self, now: u64, news: &mut News) {
        let before = std::mem::take(&mut self.lacking);
        let by_tenant = self.by_tenant.clone();
        let mut found = by_tenant
            .iter()
            .flat_map(|template| source::of_tenants(template, TENANTS + 1))
            .filter(|one| self.named(&one.name).is_none())
            .collect::<Vec<_>>()
            .into_iter();
        for one in found.by_ref() {
            let (name, path) = (one.name.clone(), one.file.clone());
            let read = match self.has_room(now) {
                true => source::read(&one, self.look),
                false => Err(SourceError::NoPlace { path }),
            };
            let Err(problem) = read.and_then(|found| self.admit(one, found, now)) else {
                news.mended.push(name);
                continue;
            };
            let known = before.iter().find(|it| it.name == name);
            let since = known.map_or(now, |it| it.since);
            let was_told = known.is_some_and(|it| it.is_told && it.problem == problem);
            let is_written = matches!(problem, SourceError::BeingWritten { .. });
            let is_told = !is_written || since + WRITING <= now;
            self.unsettled |= is_written;
            if is_told && !was_told {
                news.broken.push((name.clone(), problem.clone()));
            }
            self.lacking.push(Lacking {
                name,
                since,
                problem,
                is_told,
            });
        }
    }

    /// True when there is a place for another tenant, if need be that of one that is gone.
    fn has_room(&mut self, now: u64) -> bool {
        if self.places() > 0 {
            return true;
        }
        let gone = self.each().position(|(source, held)| {
            let over = held
                .gone
                .is_some_and(|gone| gone + source.overlap.as_secs() <= now);
            source.name.contains('/') && over
        });
        let Some(gone) = gone else { return false };
        self.sources.remove(gone);
        self.held.remove(gone);
        true
    }

    /// Tenants that have an entry and no value, as many as there are places left.
    pub fn lacking(&self) -> impl Iterator<Item = (&str, &SourceError)> {
        let all = self.lacking.iter().take(self.places());
        all.map(|it| (&*it.name, &it.problem))
    }

    /// The others of these.
    pub fn unplaced(&self) -> impl Iterator<Item = (&str, &SourceError)> {
        let all = self.lacking.iter().skip(self.places());
        all.map(|it| (&*it.name, &it.problem))
    }

    fn places(&self) -> usize {
        let tenants = self.each().filter(|(source, _)| source.name.contains('/'));
        TENANTS.saturating_sub(tenants.count())
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
                    (held.writing, held.gone) = (None, None);
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
                    let is_gone = std::fs::symlink_metadata(&source.file)
                        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                    held.gone = is_gone.then(|| held.gone.unwrap_or(now));
                    if held.problem.as_ref() != Some(&error) {
                        news.broken.push((source.name.clone(), error.clone()));
                    }
                    held.problem = Some(error);
                }
            }
        }
        self.find_tenants(now, &mut news);
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
    fn another_configuration_goes_on_with_what_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let (file, now) = (dir.path().join("token"), today());
        std::fs::write(&file, "one").unwrap();
        let mut first = vault(&file, now).unwrap();
        std::fs::write(&file, "two").unwrap();
        first.reread(now);
        let renewed = |old: &Vault, sources: &[Credential]| {
            old.renewed(sources, Orders::default(), now + 100)
        };
        let mut longer = source(&file);
        longer.overlap = Duration::from_secs(1200);
        let (mut second, news) = renewed(&first, &[longer.clone()]).unwrap();
        assert_eq!(news, News::default());
        let (old, new) = (&first.held()[0], &second.held()[0]);
        assert_eq!(
            (new.generation, new.since, &new.fingerprint, &new.previous),
            (2, old.since, &old.fingerprint, &old.previous)
        );
        assert!(new.previous.is_some());

        // Another value came with it, and then a file that holds none.
        std::fs::write(&file, "three").unwrap();
        let (third, news) = renewed(&second, &[longer.clone()]).unwrap();
        assert_eq!((news.changed.len(), third.held()[0].generation), (1, 3));
        let previous = third.held()[0].previous.clone().unwrap();
        assert_eq!((previous.generation, previous.until), (2, now + 1300));
        std::fs::write(&file, "").unwrap();
        second.reread(now);
        let (fourth, _) = renewed(&second, &[longer.clone()]).unwrap();
        assert_eq!(fourth.held()[0].secret.expose(), b"two");
        assert!(fourth.held()[0].problem.is_some());

        // What has no value where it is to come from now is refused, and so is a new one without.
        longer.file = dir.path().join("elsewhere");
        assert!(renewed(&second, &[longer.clone()]).is_err());
        longer.name = "new".to_owned();
        assert!(renewed(&second, &[source(&file), longer.clone()]).is_err());
        std::fs::write(&longer.file, "value").unwrap();
        let (fifth, _) = renewed(&second, &[source(&file), longer]).unwrap();
        let generations = fifth.held().iter().map(|it| it.generation);
        assert_eq!(generations.collect::<Vec<_>>(), [2, 1]);
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
        let lacking: Vec<_> = vault.lacking().map(|(name, _)| name).collect();
        assert_eq!(lacking, ["github/empty"]);
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
        std::fs::remove_file(dir.path().join("empty/token")).unwrap();
        let news = vault.reread(now);
        assert!(matches!(&news.broken[..], [(name, _)] if name == "github/empty"));
        assert!(vault.reread(now).is_empty(), "told once");
        write("empty", "a-value");
        assert_eq!(vault.reread(now).mended, ["github/empty"]);
        assert_eq!(vault.lacking().count(), 0);
    }

    #[test]
    fn a_tenant_that_is_gone_gives_its_place_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let now = today();
        let write = |tenant: &str| std::fs::write(dir.path().join(tenant), tenant).unwrap();
        for number in 0..TENANTS {
            write(&format!("t{number:02}"));
        }
        let mut vault = vault(&dir.path().join("{tenant}"), now).unwrap();
        assert_eq!(vault.held().len(), TENANTS);
        std::fs::remove_file(dir.path().join("t03")).unwrap();
        write("later");
        let news = vault.reread(now);
        let told: Vec<&str> = news.broken.iter().map(|(name, _)| &**name).collect();
        assert_eq!(told, ["github/t03", "github/later"]);
        let full = &news.broken[1].1;
        assert!(matches!(full, SourceError::NoPlace { .. }), "{full}");
        assert!(vault.reread(now + 599).is_empty(), "it may be in use");
        assert_eq!(vault.reread(now + 600).mended, ["github/later"]);
        let mut names = vault.held().iter().map(|it| it.secret.name());
        assert!(names.all(|name| name != "github/t03"));
        assert_eq!(vault.held().len(), TENANTS);
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
