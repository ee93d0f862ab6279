//! Secrets of the server that come from files.

use super::rules::pattern;
use super::{Builder, CredentialRule, Overrides};
use crate::config::diagnose::{Place, Problem};
use crate::config::entries::{self, variable_name};
use crate::config::origin::Origin;
use crate::config::raw::{self, At};
use crate::config::{Cell, Credential, EntryError, Inject, Pointer, Server, name};
use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
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

/// What is told of all of them has to fit into one message of the spawner.
const MOST: usize = 12;

/// How the server gets what it is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spoken {
    /// It is a process of ours, which can be given variables and files.
    ours: bool,
    /// It gets requests with headers.
    http: bool,
}

impl Spoken {
    pub(super) fn to(server: &Server) -> Self {
        Self {
            ours: !server.is_elsewhere(),
            http: server.upstream.is_some(),
        }
    }

    /// The ways that there are.
    fn ways(self) -> &'static str {
        match (self.ours, self.http) {
            (false, _) => {
                "write one of `header` (with `format`) and `argument` (with `tools`): the server runs elsewhere"
            }
            (true, false) => {
                "write one of `env`, `file` (with `env` and `signal`) and `argument` (with `tools`)"
            }
            (true, true) => {
                "write one of `env`, `file` (with `env` and `signal`), `header` (with `format`) and `argument` (with `tools`)"
            }
        }
    }
}

impl Builder<'_> {
    pub(super) fn credentials(
        &mut self,
        raw: &BTreeMap<At<String>, raw::Credential>,
        cell: &Cell,
        spoken: Spoken,
        flags: &Overrides,
    ) -> Vec<Credential> {
        let mut all: Vec<Credential> = Vec::new();
        for (name, written) in raw {
            let place = Place::File(name.span());
            self.note(name::check(name.value()), &place);
            let Some(credential) = self.credential(name, written, spoken) else {
                continue;
            };
            self.alone(&credential, &all, cell, &place);
            all.push(credential);
        }
        if let Some((name, _)) = raw.iter().nth(MOST) {
            let what = format!("there are more than {MOST} credentials");
            let problem = Problem::new(Place::File(name.span()), what);
            self.problems
                .push(problem.hint("one server needs a few; split it where it needs more"));
        }
        for CredentialRule { variable, file } in &flags.credentials {
            let place = Place::Flag("--credential");
            if !spoken.ours {
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
                        inject: Inject::Env {
                            variable: variable.clone(),
                        },
                        environment: None,
                        overlap: OVERLAP,
                        rotate_every: None,
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
        spoken: Spoken,
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
            Some(inject) => self.inject(name, inject, spoken),
            None => {
                let (field, hint) = match spoken.ours {
                    false => ("inject.header", HEADER),
                    true => ("inject", VARIABLE),
                };
                self.problems.push(missing(field, hint));
                None
            }
        };
        if let (Some(path), Some(at)) = (&file, &raw.file)
            && path.iter().any(|part| part == "{tenant}")
            && !matches!(inject, None | Some(Inject::Argument { .. }))
        {
            let what = format!("`{}` has a file for each tenant", key("file"));
            let hint =
                "a process serves all tenants: only `inject.argument` is for the one that asks";
            let problem = Problem::new(Place::File(at.span()), what);
            self.problems.push(problem.hint(hint));
        }
        let text = |at: Option<&At<String>>| at.map(|at| at.value().clone());
        let overlap = self.only(key("overlap"), raw.overlap.as_ref());
        let rotate_every = self.only(key("rotate_every"), raw.rotate_every.as_ref());
        Some(Credential {
            name: name.value().clone(),
            file: file?,
            key: text(raw.key.as_ref()),
            inject: inject?,
            environment: text(raw.environment.as_ref()),
            overlap: overlap.map_or(OVERLAP, |time| time.0),
            rotate_every: rotate_every.map(|time| time.0),
        })
    }

    /// Exactly one way, with nothing that belongs to another. A server that we start has variables and
    /// files, one that runs `elsewhere` gets headers.
    fn inject(
        &mut self,
        name: &At<String>,
        raw: &At<raw::Inject>,
        spoken: Spoken,
    ) -> Option<Inject> {
        let key = format!("credentials.{}.inject", name.value());
        let place = Place::File(raw.span());
        let origin = self.line(raw.span());
        let wrong = |builder: &mut Self, what: String, hint: &str| {
            let problem = Problem::new(place.clone(), what);
            builder.problems.push(problem.hint(hint));
            None
        };
        let written = raw.value();
        if let Some(variable) = &written.env {
            self.note(variable_name(variable), &place);
        }
        match written.clone() {
            raw::Inject {
                env: Some(variable),
                file: None,
                signal: None,
                argument: None,
                tools: None,
                header: None,
                format: None,
            } if spoken.ours => {
                self.origins.set(format!("{key}.env"), origin);
                Some(Inject::Env { variable })
            }
            raw::Inject {
                env: variable,
                file: Some(path),
                signal,
                argument: None,
                tools: None,
                header: None,
                format: None,
            } if spoken.ours => {
                self.origins.set(format!("{key}.file"), origin);
                let path = PathBuf::from(path);
                let plain = |part| matches!(part, Component::Normal(_));
                if path.as_os_str().is_empty() || !path.components().all(plain) {
                    let what = format!("`{key}.file` is not a name or a relative path");
                    let hint = "the file lies in a private directory of the server: name the variable that says where by `env`, or write {credentials.NAME} in the command";
                    return wrong(self, what, hint);
                }
                Some(Inject::File {
                    path: path.components().collect(),
                    variable,
                    signal,
                })
            }
            raw::Inject {
                env: None,
                file: None,
                signal: None,
                argument: Some(pointer),
                tools,
                header: None,
                format: None,
            } => {
                self.origins.set(format!("{key}.argument"), origin);
                let tools = tools.unwrap_or_else(|| vec!["*".to_owned()]);
                for tool in &tools {
                    self.note(pattern(tool).map(drop), &place);
                }
                match pointer.parse::<Pointer>() {
                    Ok(pointer) => Some(Inject::Argument { pointer, tools }),
                    Err(error) => {
                        self.note(Err(error), &place);
                        None
                    }
                }
            }
            raw::Inject {
                env: None,
                file: None,
                signal: None,
                argument: None,
                tools: None,
                header: Some(header),
                format,
            } if spoken.http => {
                self.origins.set(format!("{key}.header"), origin);
                self.note(header_rule(&header, format.as_deref()), &place);
                let bearer = header.eq_ignore_ascii_case("authorization");
                let usual = if bearer { "Bearer {}" } else { "{}" };
                Some(Inject::Header {
                    name: header.to_ascii_lowercase(),
                    format: format.unwrap_or_else(|| usual.to_owned()),
                })
            }
            _ => {
                let what = format!("`{key}` says no way that there is, or more than one");
                wrong(self, what, spoken.ways())
            }
        }
    }

    /// Two sources of one variable, file or argument would make it a matter of order which the server
    /// gets.
    fn alone(&mut self, one: &Credential, others: &[Credential], cell: &Cell, place: &Place) {
        let variable = one.inject.variable();
        let same = others.iter().any(|other| {
            other.name == one.name || variable.is_some_and(|it| other.inject.variable() == Some(it))
        });
        let set = cell
            .env
            .iter()
            .any(|rule| variable.is_some_and(|it| it == rule.name()));
        if same || set {
            let what = format!(
                "the variable `{}` comes from two places",
                entries::shown(variable.unwrap_or(&one.name))
            );
            self.problems
                .push(Problem::new(place.clone(), what).hint("keep one of them"));
        }
        let collides = others
            .iter()
            .find(|other| match (&one.inject, &other.inject) {
                (Inject::File { path: one, .. }, Inject::File { path: other, .. }) => {
                    one.starts_with(other) || other.starts_with(one)
                }
                (
                    Inject::Argument {
                        pointer: one,
                        tools: mine,
                    },
                    Inject::Argument {
                        pointer: other,
                        tools: theirs,
                    },
                ) => one.overlaps(other) && may_share(mine, theirs),
                (Inject::Header { name: one, .. }, Inject::Header { name: other, .. }) => {
                    one == other
                }
                _ => false,
            });
        if let Some(other) = collides {
            let what = format!(
                "`{}` and `{}` would be in the same place",
                entries::shown(&one.name),
                entries::shown(&other.name)
            );
            self.problems
                .push(Problem::new(place.clone(), what).hint("give each its own"));
        }
    }
}

/// True unless the two lists plainly name different tools.
fn may_share(one: &[String], other: &[String]) -> bool {
    let mut pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    pairs.any(|(a, b)| a == b || a.contains('*') || b.contains('*'))
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
