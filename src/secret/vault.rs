//! The credentials of one server: the value in force, and what its file did since.
//!
//! ```text
//! good ── the file holds another value ──▶ good, one generation later
//!   └──── the file holds none ───────────▶ good still, with a problem ── it holds one again ──▶ good
//! ```

use super::source::{self, SourceError};
use super::{Secret, fingerprint};
use crate::config::Credential;

/// One credential as it is held.
#[derive(Debug)]
pub struct Held {
    pub secret: Secret,
    /// Counted from 1; another one for every other value.
    pub generation: u32,
    /// Says which value it is, and nothing about it: keyed by a number that ends with this process.
    pub fingerprint: String,
    /// Why the file gives no value now; the last one stays in force.
    pub problem: Option<SourceError>,
}

/// All of them, in the order of the configuration.
#[derive(Debug)]
pub struct Vault {
    sources: Vec<Credential>,
    held: Vec<Held>,
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
}

impl News {
    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.mended.is_empty() && self.broken.is_empty()
    }
}

impl Vault {
    /// Reads every credential for the first time.
    ///
    /// # Errors
    /// The first that has no value: there is no last one to go on with.
    pub fn open(sources: &[Credential]) -> Result<Self, SourceError> {
        let mut held = Vec::with_capacity(sources.len());
        for source in sources {
            let secret = source::read(source)?;
            held.push(Held {
                fingerprint: fingerprint(secret.expose()),
                secret,
                generation: 1,
                problem: None,
            });
        }
        Ok(Self {
            sources: sources.to_vec(),
            held,
        })
    }

    /// Reads all of them again, and takes what is good and different.
    pub fn reread(&mut self) -> News {
        let mut news = News::default();
        for (source, held) in self.sources.iter().zip(&mut self.held) {
            match source::read(source) {
                Ok(secret) => {
                    let was_broken = held.problem.take().is_some();
                    if secret.expose() != held.secret.expose() {
                        held.fingerprint = fingerprint(secret.expose());
                        held.secret = secret;
                        held.generation += 1;
                        news.changed.push(source.name.clone());
                    } else if was_broken {
                        news.mended.push(source.name.clone());
                    }
                }
                Err(error) => {
                    if held.problem.as_ref() != Some(&error) {
                        news.broken.push((source.name.clone(), error.clone()));
                    }
                    held.problem = Some(error);
                }
            }
        }
        news
    }

    /// The values in force.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// The variables of the server that carry them.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Secret)> {
        let both = self.sources.iter().zip(&self.held);
        both.filter_map(|(source, held)| Some((source.inject.variable()?, &held.secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn vault(file: &Path) -> Result<Vault, SourceError> {
        Vault::open(&[Credential {
            name: "github".to_owned(),
            file: file.to_owned(),
            key: None,
            inject: crate::config::Inject::Variable("TOKEN".to_owned()),
            environment: None,
            overlap: std::time::Duration::from_secs(600),
        }])
    }

    #[test]
    fn only_another_good_value_takes_the_place_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        assert!(vault(&file).is_err());
        std::fs::write(&file, "one\n").unwrap();
        let mut vault = vault(&file).unwrap();
        let first = vault.held()[0].fingerprint.clone();
        assert_eq!(vault.reread(), News::default());

        std::fs::write(&file, "one").unwrap();
        assert_eq!(vault.reread(), News::default(), "the same value again");
        std::fs::write(&file, "").unwrap();
        assert_eq!(vault.reread().broken.len(), 1);
        assert_eq!(vault.reread(), News::default(), "told once");
        assert_eq!(vault.held()[0].secret.expose(), b"one");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(vault.reread().broken.len(), 1, "another reason");

        std::fs::write(&file, "two").unwrap();
        assert_eq!(vault.reread().changed, ["github"]);
        let held = &vault.held()[0];
        assert_eq!((held.generation, &held.problem), (2, &None));
        assert_ne!(held.fingerprint, first);
        assert!(!format!("{vault:?}").contains("two"));
    }
}
