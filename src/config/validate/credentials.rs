//! Secrets of the server that come from files.

use super::{Builder, CredentialRule, Overrides};
use crate::config::diagnose::{Place, Problem};
use crate::config::entries::{self, variable_name};
use crate::config::origin::Origin;
use crate::config::raw::{self, At};
use crate::config::{Cell, Credential, EntryError, Inject, name};
use std::collections::BTreeMap;
use std::time::Duration;

const VARIABLE: &str =
    "write the variable that the server reads, as in `inject = { env = \"GITHUB_TOKEN\" }`";
const HEADER: &str =
    "write the header that carries it, as in `inject = { header = \"Authorization\" }`";

/// Headers that say something else, and are ours to write.
const TAKEN: [&str; 14] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header that may carry a credential: a token (RFC 9110 §5.6.2), and none that has another meaning.
fn header_rule(name: &str, format: Option<&str>) -> Result<(), EntryError> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let lower = name.to_ascii_lowercase();
    let ours = lower.starts_with("mcp-") || TAKEN.contains(&&*lower);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) || ours {
        let what = format!("`{}` is no header for a credential", entries::shown(name));
        return Err(EntryError::new(what, HEADER));
    }
    let fits = |format: &str| {
        let plain = format
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic());
        plain && format.matches("{}").count() == 1
    };
    if format.is_some_and(|format| !fits(format)) {
        let what = "`format` holds `{}` once, where the value goes, and plain ASCII around it";
        return Err(EntryError::new(
            what,
            "write it as in `format = \"Bearer {}\"`",
        ));
    }
    Ok(())
}

/// How long a replaced value may be in use, when nothing else is said.
const OVERLAP: Duration = Duration::from_secs(600);

impl Builder<'_> {
    pub(super) fn credentials(
        &mut self,
        raw: &BTreeMap<At<String>, raw::Credential>,
        cell: &Cell,
        elsewhere: bool,
        flags: &Overrides,
    ) -> Vec<Credential> {
        let mut all: Vec<Credential> = Vec::new();
        for (name, written) in raw {
            let place = Place::File(name.span());
            self.note(name::check(name.value()), &place);
            let Some(credential) = self.credential(name, written, elsewhere) else {
                continue;
            };
            self.alone(&credential, &all, cell, &place);
            all.push(credential);
        }
        for CredentialRule { variable, file } in &flags.credentials {
            let place = Place::Flag("--credential");
            if elsewhere {
                let what = "a server that runs elsewhere has no variables";
                self.problems.push(Problem::new(place, what).hint(HEADER));
                continue;
            }
            let directory = self.around.directory.clone();
            match self.absolute(file, &directory) {
                Ok(path) => {
                    let credential = Credential {
                        name: variable.to_ascii_lowercase(),
                        file: path,
                        key: None,
                        inject: Inject::Variable(variable.clone()),
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

    fn credential(
        &mut self,
        name: &At<String>,
        raw: &raw::Credential,
        elsewhere: bool,
    ) -> Option<Credential> {
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
        let inject = match &raw.inject {
            Some(written) => self.inject(name.value(), written, elsewhere),
            None => {
                let (field, hint) = match elsewhere {
                    true => ("inject.header", HEADER),
                    false => ("inject.env", VARIABLE),
                };
                self.problems.push(missing(field, hint));
                None
            }
        };
        let text = |at: Option<&At<String>>| at.map(|at| at.value().clone());
        let overlap = self.only(key("overlap"), raw.overlap.as_ref());
        Some(Credential {
            name: name.value().clone(),
            file: file?,
            key: text(raw.key.as_ref()),
            inject: inject?,
            environment: text(raw.environment.as_ref()),
            overlap: overlap.map_or(OVERLAP, |time| time.0),
        })
    }

    /// Where it goes: a server that we start has variables, one that runs elsewhere gets headers.
    fn inject(&mut self, name: &str, written: &At<raw::Inject>, elsewhere: bool) -> Option<Inject> {
        let place = Place::File(written.span());
        let origin = self.line(written.span());
        let raw::Inject {
            env,
            header,
            format,
        } = written.value();
        let found = match (env, header) {
            (Some(variable), None) if !elsewhere && format.is_none() => {
                self.note(variable_name(variable), &place);
                self.origins
                    .set(format!("credentials.{name}.inject.env"), origin);
                Some(Inject::Variable(variable.clone()))
            }
            (None, Some(header)) if elsewhere => {
                self.note(header_rule(header, format.as_deref()), &place);
                self.origins
                    .set(format!("credentials.{name}.inject.header"), origin);
                let bearer = header.eq_ignore_ascii_case("authorization");
                let usual = if bearer { "Bearer {}" } else { "{}" };
                Some(Inject::Header {
                    name: header.to_ascii_lowercase(),
                    format: format.clone().unwrap_or_else(|| usual.to_owned()),
                })
            }
            _ => None,
        };
        if found.is_none() {
            let (field, hint) = match elsewhere {
                true => ("header", HEADER),
                false => ("env", VARIABLE),
            };
            let what = format!("`credentials.{name}.inject` needs `{field}`, and it alone");
            self.problems.push(Problem::new(place, what).hint(hint));
        }
        found
    }

    /// Two sources of one variable would make it a matter of order which the server gets.
    fn alone(&mut self, one: &Credential, others: &[Credential], cell: &Cell, place: &Place) {
        let target = |credential: &Credential| match &credential.inject {
            Inject::Variable(name) => format!("variable `{}`", entries::shown(name)),
            Inject::Header { name, .. } => format!("header `{}`", entries::shown(name)),
        };
        let same = others
            .iter()
            .any(|other| target(other) == target(one) || other.name == one.name);
        let variable = one.inject.variable();
        let set = cell.env.iter().any(|rule| Some(rule.name()) == variable);
        if same || set {
            let what = format!("the {} comes from two places", target(one));
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
