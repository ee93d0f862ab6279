//! What a command line asks for: which packages, which program of them, with which arguments.

use super::error::PackageError;
use std::path::{Path, PathBuf};

/// Where packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecosystem {
    Npm,
    Python,
}

impl Ecosystem {
    /// The directory in the cache.
    pub(super) fn dir(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Python => "python",
        }
    }
}

/// A command that would install and run a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As people know it: `npx`, `npm exec`, `uvx`, `uv tool run`, `pipx run`.
    pub tool: &'static str,
    pub ecosystem: Ecosystem,
    /// `argv[0]` as written; a path says which node is meant.
    pub program: String,
    /// What is installed; the first one has the program. Never empty.
    pub packages: Vec<Wanted>,
    /// The program, when the command names it apart from the package.
    pub bin: Option<String>,
    /// Arguments of the program.
    pub args: Vec<String>,
    /// `--python`.
    pub python: Option<String>,
    /// Options of the installer that were on the command line, as variables (`npm_config_registry`).
    pub settings: Vec<(String, String)>,
    /// Look for a newer version although one is installed (`--refresh`, `@latest`).
    pub refresh: bool,
}

/// One package to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `@scope/name`, or a normalised Python name; of a file its stem.
    pub name: String,
    /// Python extras, sorted, without brackets; empty for npm.
    pub extras: String,
    pub version: Version,
}

/// Which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Nothing was said: any.
    Any,
    /// One version.
    Exact(String),
    /// `^1.2`, `>=2,<3`.
    Range(String),
    /// `latest`, `next`.
    Tag(String),
    /// A file that was packed before: `.tgz` or `.whl`.
    File(PathBuf),
}

impl Wanted {
    /// Reads `name`, `@scope/name`, `name@version` or a path to a `.tgz` as npm does
    /// (npm-package-arg).
    pub(super) fn npm(tool: &'static str, text: &str, cwd: &Path) -> Result<Self, PackageError> {
        let unsupported = |what: &str| PackageError::Unsupported {
            tool: tool.to_owned(),
            what: format!("{text:?} ({what})"),
            hint: "name a package of the registry or a .tgz file; anything else: install it first \
                   and run it with `node PATH`"
                .to_owned(),
        };
        let path = text.strip_prefix("file:").unwrap_or(text);
        let looks_like_path = path.len() != text.len()
            || path.starts_with(['/', '.', '~'])
            || path.ends_with(".tgz") && !path.contains("://");
        if looks_like_path {
            return Self::file(path, cwd, &[".tgz", ".tar.gz"])
                .ok_or_else(|| unsupported("a directory"));
        }
        if text.contains("://") || text.starts_with("git@") {
            return Err(unsupported("an address"));
        }
        let at = text
            .get(1..)
            .and_then(|rest| rest.find('@'))
            .map(|at| at + 1);
        let (name, version) = match at {
            Some(at) => (
                text.get(..at).unwrap_or_default(),
                text.get(at + 1..).unwrap_or_default(),
            ),
            None => (text, ""),
        };
        if !is_npm_name(name) {
            return Err(unsupported(if name.contains('/') {
                "a repository"
            } else {
                "no name"
            }));
        }
        if version.contains([':', '/']) {
            return Err(unsupported("an alias or address"));
        }
        let version = match version.trim() {
            "" | "*" => Version::Any,
            v if is_npm_exact(v) => Version::Exact(v.trim_start_matches(['=', 'v']).to_owned()),
            v if v.starts_with(|c: char| c.is_ascii_alphabetic()) && !v.starts_with("x.") => {
                Version::Tag(v.to_owned())
            }
            v => Version::Range(v.to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            extras: String::new(),
            version,
        })
    }

    /// Reads `name`, `name[extra]`, `name==1`, `name>=1,<2`, `name@1` (uvx), `name@latest` or a path
    /// to a `.whl` (PEP 508 without markers and addresses).
    pub(super) fn python(tool: &'static str, text: &str, cwd: &Path) -> Result<Self, PackageError> {
        let unsupported = |what: &str| PackageError::Unsupported {
            tool: tool.to_owned(),
            what: format!("{text:?} ({what})"),
            hint: "name a package of the index or a .whl file; anything else: build a wheel first"
                .to_owned(),
        };
        if text.contains("://") || text.starts_with("git+") {
            return Err(unsupported("an address"));
        }
        if text.starts_with(['/', '.', '~']) || text.ends_with(".whl") || text.ends_with(".tar.gz")
        {
            return Self::file(text, cwd, &[".whl"]).ok_or_else(|| unsupported("not a wheel"));
        }
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        if !is_python_name(name) {
            return Err(unsupported("no name"));
        }
        let rest = rest.trim_start();
        let (extras, rest) = match rest.strip_prefix('[') {
            Some(inside) => {
                let (extras, rest) = inside
                    .split_once(']')
                    .ok_or_else(|| unsupported("no `]`"))?;
                let mut extras: Vec<_> = extras.split(',').map(|e| normalise(e.trim())).collect();
                extras.retain(|extra| !extra.is_empty());
                extras.sort();
                extras.dedup();
                if !extras.iter().all(|extra| is_python_name(extra)) {
                    return Err(unsupported("no extra"));
                }
                (extras.join(","), rest)
            }
            None => (String::new(), rest),
        };
        let rest = rest.trim();
        let known = |c: char| c.is_ascii_alphanumeric() || " .,*+!-_<>=~@".contains(c);
        if rest.contains(" -") || !rest.chars().all(known) {
            return Err(unsupported("a marker or an address"));
        }
        let version = if let Some(at) = rest.strip_prefix('@') {
            match at.trim() {
                "" => return Err(unsupported("no version")),
                "latest" => Version::Tag("latest".to_owned()),
                at if is_python_exact(at) => Version::Exact(at.to_owned()),
                _ => return Err(unsupported("no version")),
            }
        } else if let Some(exact) = rest
            .strip_prefix("==")
            .filter(|v| is_python_exact(v.trim_start_matches('=').trim()))
        {
            Version::Exact(exact.trim_start_matches('=').trim().to_owned())
        } else if rest.is_empty() {
            Version::Any
        } else if rest.starts_with(['<', '>', '=', '~', '!']) {
            Version::Range(rest.replace(' ', ""))
        } else {
            return Err(unsupported("no version"));
        };
        Ok(Self {
            name: normalise(name),
            extras,
            version,
        })
    }

    fn file(text: &str, cwd: &Path, endings: &[&str]) -> Option<Self> {
        let ending = endings.iter().find(|ending| text.ends_with(**ending))?;
        let path = cwd.join(text);
        let stem = path.file_name()?.to_str()?.strip_suffix(ending)?;
        let name = match *ending {
            ".whl" => normalise(stem.split('-').next().unwrap_or(stem)),
            _ => stem.to_owned(),
        };
        let tidy: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .take(80)
            .collect();
        Some(Self {
            name: tidy,
            extras: String::new(),
            version: Version::File(path),
        })
    }

    /// What npm is told.
    pub(super) fn npm_spec(&self) -> String {
        match &self.version {
            Version::Any => self.name.clone(),
            Version::Exact(v) | Version::Range(v) | Version::Tag(v) => format!("{}@{v}", self.name),
            Version::File(path) => format!("file:{}", path.display()),
        }
    }

    /// What pip and uv are told.
    pub(super) fn python_spec(&self) -> String {
        let extras = if self.extras.is_empty() {
            String::new()
        } else {
            format!("[{}]", self.extras)
        };
        match &self.version {
            Version::Any | Version::Tag(_) => format!("{}{extras}", self.name),
            Version::Exact(v) => format!("{}{extras}=={v}", self.name),
            Version::Range(v) => format!("{}{extras}{v}", self.name),
            Version::File(path) => path.display().to_string(),
        }
    }

    /// The same command another day may run something else.
    pub(super) fn floats(&self) -> bool {
        !matches!(self.version, Version::Exact(_) | Version::File(_))
    }
}

/// PEP 503: lower case, runs of `-`, `_`, `.` become one `-`.
pub(super) fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if "-_.".contains(c) {
            if !out.ends_with('-') {
                out.push('-');
            }
        } else {
            out.push(c.to_ascii_lowercase());
        }
    }
    out
}

/// A name that is safe as a path below `node_modules` and as one argument.
pub(super) fn is_npm_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 214
            && !part.starts_with(['.', '-'])
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c))
    };
    match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| part(scope) && part(name)),
        None => part(name) && name != "node_modules",
    }
}

fn is_python_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// `1.2.3`, with a pre-release or build: the one form that npm never reads as a range.
fn is_npm_exact(text: &str) -> bool {
    let text = text.strip_prefix('=').unwrap_or(text);
    let text = text.strip_prefix('v').unwrap_or(text);
    let core_end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(core_end);
    let numbers: Vec<_> = core.split('.').collect();
    numbers.len() == 3
        && numbers
            .iter()
            .all(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
        && rest
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-+.".contains(c))
}

/// `1.2.3`, `2026.10`, `1!2.0rc1+local`: no wildcard, no second clause.
fn is_python_exact(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".!+-_".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npm(text: &str) -> Result<Wanted, PackageError> {
        Wanted::npm("npx", text, Path::new("/w"))
    }

    fn python(text: &str) -> Result<Wanted, PackageError> {
        Wanted::python("uvx", text, Path::new("/w"))
    }

    #[test]
    fn npm_specs_are_read_as_npm_reads_them() {
        let cases = [
            ("p", "p", Version::Any),
            ("@s/p", "@s/p", Version::Any),
            ("@s/p@1.2.3", "@s/p", Version::Exact("1.2.3".into())),
            ("p@v1.2.3-rc.1", "p", Version::Exact("1.2.3-rc.1".into())),
            ("p@latest", "p", Version::Tag("latest".into())),
            ("p@^1.2", "p", Version::Range("^1.2".into())),
            ("p@1", "p", Version::Range("1".into())),
            ("p@1.x", "p", Version::Range("1.x".into())),
            ("./a.tgz", "a", Version::File("/w/./a.tgz".into())),
            (
                "file:/x/b-1.0.0.tgz",
                "b-1.0.0",
                Version::File("/x/b-1.0.0.tgz".into()),
            ),
        ];
        for (text, name, version) in cases {
            let wanted = npm(text).unwrap();
            assert_eq!(
                (wanted.name.as_str(), &wanted.version),
                (name, &version),
                "{text}"
            );
        }
        for text in [
            "",
            "..",
            "./dir",
            "user/repo",
            "git+ssh://h/p",
            "https://h/p.tgz",
            "p@npm:q@1",
            "-p",
            "a b",
            "@s",
            "@s/",
            "@../x",
        ] {
            assert!(npm(text).is_err(), "{text}");
        }
    }

    #[test]
    fn python_specs_are_read_as_uv_and_pip_read_them() {
        let cases = [
            ("Mcp_Server.Time", "mcp-server-time", Version::Any),
            ("p==1.2", "p==1.2", Version::Exact("1.2".into())),
            ("p@1.2", "p==1.2", Version::Exact("1.2".into())),
            ("p @ 1.2", "p==1.2", Version::Exact("1.2".into())),
            ("p@latest", "p", Version::Tag("latest".into())),
            (
                "p[b,A]>=1, <2",
                "p[a,b]>=1,<2",
                Version::Range(">=1,<2".into()),
            ),
            ("p==1.*", "p==1.*", Version::Range("==1.*".into())),
            (
                "p==1,!=1.1",
                "p==1,!=1.1",
                Version::Range("==1,!=1.1".into()),
            ),
            (
                "d/q_r-1.0-py3-none-any.whl",
                "/w/d/q_r-1.0-py3-none-any.whl",
                Version::File("/w/d/q_r-1.0-py3-none-any.whl".into()),
            ),
        ];
        for (text, spec, version) in cases {
            let wanted = python(text).unwrap();
            assert_eq!(
                (wanted.python_spec().as_str(), &wanted.version),
                (spec, &version),
                "{text}"
            );
        }
        for text in [
            "",
            "-r",
            "p; os_name",
            "p @ https://h/x.whl",
            "git+https://h/p",
            "./dir",
            "p==1 --pre",
            "a/b",
        ] {
            assert!(python(text).is_err(), "{text}");
        }
    }
}
