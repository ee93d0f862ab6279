//! Secrets of the server that come from files.

use super::{Builder, CredentialRule, Overrides};
use crate::config::diagnose::{Place, Problem};
use crate::config::entries::{self, variable_name};
use crate::config::origin::Origin;
use crate::config::raw::{self, At};
use crate::config::{Cell, Credential, EntryError, name};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a replaced value may be in use, when nothing else is said.
const OVERLAP: Duration = Duration::from_secs(600);

impl Builder<'_> {
    pub(super) fn credentials(
        &mut self,
        raw: &BTreeMap<At<String>, raw::Credential>,
        cell: &Cell,
        flags: &Overrides,
    ) -> Vec<Credential> {
        let mut all: Vec<Credential> = Vec::new();
        for (name, written) in raw {
            let place = Place::File(name.span());
            self.note(name::check(name.value()), &place);
            let Some(credential) = self.credential(name, written) else {
                continue;
            };
            self.alone(&credential, &all, cell, &place);
            all.push(credential);
        }
        for CredentialRule { variable, file } in &flags.credentials {
            let place = Place::Flag("--credential");
            let directory = self.around.directory.clone();
            match self.absolute(file, &directory) {
                Ok(path) => {
                    let credential = Credential {
                        name: variable.to_ascii_lowercase(),
                        file: path,
                        key: None,
                        variable: variable.clone(),
                        environment: None,
                        overlap: OVERLAP,
                    };
                    let key = format!("credentials.{}.file", credential.name);
                    self.origins.set(key, Origin::Flag("--credential"));
                    self.alone(&credential, &all, cell, &place);
                    all.push(credential);
                }
                Err(error) => self.note(Err(error), &place),
            }
        }
        all
    }

    fn credential(&mut self, name: &At<String>, raw: &raw::Credential) -> Option<Credential> {
        let key = |field: &str| format!("credentials.{}.{field}", name.value());
        let missing = |field: &str, hint: &str| {
            let what = format!("`{}` is missing", key(field));
            Problem::new(Place::File(name.span()), what).hint(hint.to_owned())
        };
        if raw.file.is_none() {
            self.problems.push(missing(
                "file",
                "write the path of the file that holds the secret",
            ));
        }
        let file = self.file_path(&key("file"), raw.file.as_ref());
        let variable = raw.inject.as_ref().and_then(|inject| {
            let variable = inject.value().env.clone()?;
            self.note(variable_name(&variable), &Place::File(inject.span()));
            let origin = self.line(inject.span());
            self.origins.set(key("inject.env"), origin);
            Some(variable)
        });
        if variable.is_none() {
            let hint = "write the variable that the server reads, as in `inject = { env = \"GITHUB_TOKEN\" }`";
            self.problems.push(missing("inject.env", hint));
        }
        let text = |at: Option<&At<String>>| at.map(|at| at.value().clone());
        let overlap = self.only(key("overlap"), raw.overlap.as_ref());
        Some(Credential {
            name: name.value().clone(),
            file: file?,
            key: text(raw.key.as_ref()),
            variable: variable?,
            environment: text(raw.environment.as_ref()),
            overlap: overlap.map_or(OVERLAP, |time| time.0),
        })
    }

    /// Two sources of one variable would make it a matter of order which the server gets.
    fn alone(&mut self, one: &Credential, others: &[Credential], cell: &Cell, place: &Place) {
        let same = others
            .iter()
            .any(|other| other.variable == one.variable || other.name == one.name);
        let set = cell.env.iter().any(|rule| rule.name() == one.variable);
        if same || set {
            let what = format!(
                "the variable `{}` comes from two places",
                entries::shown(&one.variable)
            );
            self.problems
                .push(Problem::new(place.clone(), what).hint("keep one of them"));
        }
    }
}

impl std::str::FromStr for CredentialRule {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let hint = "write VARIABLE=FILE, as in `GITHUB_TOKEN=/run/secrets/github`";
        let Some((variable, file)) = text.split_once('=') else {
            return Err(EntryError::new("there is no file after the name", hint));
        };
        variable_name(variable).map_err(|error| EntryError::new(error.what, hint))?;
        if file.is_empty() {
            return Err(EntryError::new("there is no file after the name", hint));
        }
        Ok(Self {
            variable: variable.to_owned(),
            file: file.to_owned(),
        })
    }
}
