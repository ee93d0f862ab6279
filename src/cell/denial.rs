//! Turns the words with which programs report a refusal into the flag that would allow it.
//!
//! The line comes from the server and may lie: what is suggested is quoted for a shell, names only
//! absolute paths and plain host names, and is for the operator to judge. It never goes to the
//! client.

mod rules;
#[cfg(test)]
mod tests;

use crate::config::Cell;
use rules::{ABSENT, Kind, TRIGGERS, rules};
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Lines are looked at up to here, in bytes.
const LINE_LIMIT: usize = 4096;
/// Paths and names longer than this are not suggested, in bytes.
const NAME_LIMIT: usize = 512;
/// Denials that are remembered, and so the most that are ever shown.
const REMEMBERED: usize = 64;

/// What the cell grants already, so that nothing is suggested that is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// The ports of every allowed host: the kernel checks no more than the port.
    pub ports: Vec<u16>,
    /// The port that the server may listen on.
    pub serves: Option<u16>,
}

impl From<&Cell> for Grants {
    fn from(cell: &Cell) -> Self {
        Self {
            read: cell.read.clone(),
            write: cell.write.clone(),
            ports: cell.egress.iter().map(|rule| rule.port).collect(),
            serves: cell.serves,
        }
    }
}

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Denial {
    Read { path: PathBuf },
    Write { path: PathBuf },
    Execute { program: String },
    Connect { host: String, port: u16 },
    Listen { port: u16 },
}

impl Denial {
    /// What was tried, as one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Execute { .. } => "execute",
            Self::Connect { .. } => "connect",
            Self::Listen { .. } => "listen",
        }
    }

    /// The flag that would allow it, ready for a shell.
    #[must_use]
    pub fn flag(&self) -> String {
        match self {
            Self::Read { path } => format!("--read {}", quoted(&path.to_string_lossy())),
            Self::Write { path } => {
                format!(
                    "--write {}",
                    quoted(&writable_place(path).to_string_lossy())
                )
            }
            Self::Execute { program } => format!("--allow-exec {}", quoted(program)),
            Self::Connect { host, port } => format!("--allow-host {}", address(host, *port)),
            Self::Listen { port } => format!("--url http://127.0.0.1:{port}/mcp"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("denied: ")?;
        match self {
            Self::Read { path } => write!(f, "read {}", path.display()),
            Self::Write { path } => write!(f, "write {}", path.display()),
            Self::Execute { program } => write!(f, "execute {program}"),
            Self::Connect { host, port } => write!(f, "connect to {}", address(host, *port)),
            Self::Listen { port } => write!(f, "listen on port {port}"),
        }?;
        write!(f, ": allow it with {}", self.flag())
    }
}

/// Reads one line of a server's stderr, or a short error result.
#[must_use]
pub fn explain(line: &[u8], grants: &Grants) -> Option<Denial> {
    let line = line.get(..LINE_LIMIT).unwrap_or(line);
    let says = |words: &[&str]| {
        words
            .iter()
            .any(|word| memchr::memmem::find(line, word.as_bytes()).is_some())
    };
    let text = String::from_utf8_lossy(line);
    if says(TRIGGERS)
        && let Some(denial) = search(&text, grants)
    {
        return Some(denial);
    }
    if !says(&ABSENT.map(|(absent, _)| absent)) {
        return None;
    }
    // A file tree of the cell's own lacks what is not granted. Only what is really there outside
    // was kept from the server; what is missing everywhere is no denial.
    let text = ABSENT
        .iter()
        .fold(text.into_owned(), |text, (absent, refused)| {
            text.replace(absent, refused)
        });
    search(&text, grants).filter(is_there)
}

fn is_there(denial: &Denial) -> bool {
    match denial {
        Denial::Read { path } => path.exists(),
        Denial::Write { path } => path.parent().is_some_and(Path::exists),
        Denial::Execute { program } if program.contains('/') => Path::new(program).exists(),
        Denial::Execute { program } => std::env::var_os("PATH").is_some_and(|list| {
            std::env::split_paths(&list).any(|dir| dir.join(program).is_file())
        }),
        Denial::Connect { .. } | Denial::Listen { .. } => false,
    }
}

fn search(text: &str, grants: &Grants) -> Option<Denial> {
    rules()?.iter().find_map(|(regex, kind)| {
        let mut captures = regex.create_captures();
        regex.captures(text.as_bytes(), &mut captures);
        if !captures.is_match() {
            return None;
        }
        let group = |name| {
            let span = captures.get_group_by_name(name)?;
            text.get(span.range())
        };
        judge(
            *kind,
            group("p"),
            group("h"),
            group("n"),
            group("u"),
            grants,
        )
    })
}

fn judge(
    kind: Kind,
    path: Option<&str>,
    host: Option<&str>,
    port: Option<&str>,
    url: Option<&str>,
    grants: &Grants,
) -> Option<Denial> {
    if kind == Kind::Listen {
        let port = port?.parse().ok()?;
        let open = grants.serves == Some(port);
        return (!open).then_some(Denial::Listen { port });
    }
    if kind == Kind::Connect {
        let port_said = port;
        let (host, port) = match url {
            Some(url) => split_url(url)?,
            None => (host?, port.map_or(Some(443), |n| n.parse().ok())?),
        };
        // A lookup of this name asks nobody outside.
        let own = url.is_none() && port_said.is_none() && host == "localhost";
        let open = own || grants.ports.contains(&port) || host.is_empty() || host.len() > 253;
        return (!open).then(|| Denial::Connect {
            host: host.to_owned(),
            port,
        });
    }
    let name = path?.trim_end();
    if name.is_empty() || name.len() > NAME_LIMIT || name.chars().any(char::is_control) {
        return None;
    }
    let path = PathBuf::from(name);
    if kind == Kind::Execute || (kind == Kind::OpenOrExecute && looks_like_a_program(&path)) {
        return Some(Denial::Execute {
            program: name.to_owned(),
        });
    }
    let below = |granted: &[PathBuf]| granted.iter().any(|g| path.starts_with(g));
    if kind == Kind::Load {
        let directory = path.parent().unwrap_or(&path).to_owned();
        return path
            .is_absolute()
            .then_some(Denial::Read { path: directory });
    }
    // Relative paths depend on a directory that we do not know; a writable place that refuses
    // refuses for reasons of its own.
    if !path.is_absolute() || below(&grants.write) {
        return None;
    }
    if kind == Kind::Write || below(&grants.read) {
        return Some(Denial::Write { path });
    }
    Some(Denial::Read { path })
}

fn looks_like_a_program(path: &Path) -> bool {
    let parent = path.parent().and_then(Path::file_name);
    let bare = !path.as_os_str().as_encoded_bytes().contains(&b'/');
    bare || parent.is_some_and(|p| p == "bin" || p == "sbin" || p == "libexec")
}

fn split_url(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let address = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
    let default = if scheme == "http" { 80 } else { 443 };
    let plain = |h: &str| {
        h.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (address, default),
    };
    plain(host).then_some((host, port))
}

/// A file that does not exist yet cannot be granted, so its directory is; not when that would be a
/// whole top-level directory.
fn writable_place(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if is_narrow(parent) => parent,
        Some(_) | None => path,
    }
}

/// Deep enough that a person would grant it as a whole: not `/`, `/etc`, `/home/me` or `/root`.
fn is_narrow(directory: &Path) -> bool {
    let depth = directory.components().count();
    let homes = directory.starts_with("/home") || directory.starts_with("/Users");
    depth > if homes { 3 } else { 2 }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// As a shell reads it back.
pub(super) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@:,%".contains(&b);
    if word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Shows each denial once; a second file of one directory suggests the directory.
#[derive(Debug, Default)]
pub struct Denials {
    grants: Grants,
    shown: HashSet<Denial>,
    /// Directories of files that were shown.
    directories: HashSet<PathBuf>,
    /// What was told with certainty, about paths that the server's words need not explain again.
    told: Vec<String>,
}

impl Denials {
    #[must_use]
    pub fn new(grants: Grants) -> Self {
        Self {
            grants,
            ..Self::default()
        }
    }

    /// The denial in this line, unless it was shown before or 64 were.
    pub fn note(&mut self, line: &[u8]) -> Option<Denial> {
        if self.shown.len() >= REMEMBERED {
            return None;
        }
        let mut denial = explain(line, &self.grants)?;
        if self.covered(&denial) {
            return None;
        }
        if let Denial::Read { path } = &mut denial
            && let Some(directory) = path.parent().filter(|d| is_narrow(d)).map(Path::to_owned)
            && !self.directories.insert(directory.clone())
        {
            *path = directory;
        }
        self.shown.insert(denial.clone()).then_some(denial)
    }

    /// Remembers a line that whoever refused has told himself.
    pub fn told(&mut self, line: &str) {
        if self.told.len() < REMEMBERED {
            self.told.push(line.to_owned());
        }
    }

    /// Whether what was suggested before would allow this too.
    fn covered(&self, denial: &Denial) -> bool {
        let name = match denial {
            Denial::Read { path } | Denial::Write { path } => Some(path.display().to_string()),
            Denial::Listen { port } => Some(format!("port {port}")),
            Denial::Execute { .. } | Denial::Connect { .. } => None,
        };
        if let Some(name) = name {
            let name = format!(" {name} by ");
            if self.told.iter().any(|line| line.contains(&name)) {
                return true;
            }
        }
        self.shown.iter().any(|shown| match (shown, denial) {
            (Denial::Read { path: dir }, Denial::Read { path }) => path.starts_with(dir),
            (Denial::Write { path: dir }, Denial::Write { path }) => {
                path.starts_with(writable_place(dir))
            }
            (shown, denial) => shown == denial,
        })
    }
}
