//! Turns the words with which programs report a refusal into the flag that would allow it.
//!
//! The line comes from the server and may lie: what is suggested is quoted for a shell, names only
//! absolute paths and plain host names, and is for the operator to judge. It never goes to the
//! client.

use crate::config::Cell;
use regex_automata::meta::Regex;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Lines are looked at up to here, in bytes.
const LINE_LIMIT: usize = 4096;
/// Paths and names longer than this are not suggested, in bytes.
const NAME_LIMIT: usize = 512;
/// Denials that are remembered, and so the most that are ever shown.
const REMEMBERED: usize = 64;

/// What a rule's captures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file was opened or listed; a write when reading is granted already.
    Open,
    /// Something would have been created, changed or removed.
    Write,
    /// A program would have been started.
    Execute,
    /// The shell's words for both: a program when the name looks like one.
    OpenOrExecute,
    /// Code would have been mapped from where a grant to write alone allows none.
    Load,
    /// A connection or a name lookup.
    Connect,
    /// A port that would have been listened on.
    Listen,
}

/// One way in which programs say that something was refused.
struct Rule {
    pattern: &'static str,
    kind: Kind,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for readers; a test looks that it is there")
    )]
    reason: &'static str,
}

const fn rule(pattern: &'static str, kind: Kind, reason: &'static str) -> Rule {
    Rule {
        pattern,
        kind,
        reason,
    }
}

/// The first rule that matches decides. Group `p` is a path or program, `h` a host, `n` a port,
/// `u` a URL.
const RULES: &[Rule] = &[
    rule(
        r"spawn(?:Sync)? (?P<p>[^\s']+) E(?:ACCES|PERM)\b",
        Kind::Execute,
        "node child_process: landlock has no execute right for the program",
    ),
    rule(
        r"listen E(?:ACCES|PERM)(?:: [a-z ]+)? (?P<h>\S*):(?P<n>\d+)",
        Kind::Listen,
        "node net: the cell lets a server listen on its own port, if on any",
    ),
    rule(
        r"bind on address \('(?P<h>[^']*)', (?P<n>\d+)[^)]*\): [Pp]ermission denied",
        Kind::Listen,
        "Python asyncio, and so uvicorn",
    ),
    rule(
        r"listen tcp[46]? (?P<h>\S*):(?P<n>\d+): (?:socket|bind|listen): permission denied",
        Kind::Listen,
        "Go net",
    ),
    rule(
        r"connect E(?:ACCES|PERM) \[?(?P<h>[0-9A-Fa-f.:]+)\]?:(?P<n>\d+)",
        Kind::Connect,
        "node net: landlock refuses the port; ECONNREFUSED is a host that does not listen",
    ),
    rule(
        r"getaddrinfo E[A-Z_]+ (?P<h>[\w.-]+)(?::(?P<n>\d+))?",
        Kind::Connect,
        "node dns: without datagram sockets every lookup fails, mostly with EAI_AGAIN",
    ),
    rule(
        r"E(?:ACCES|PERM): [^,]+, (?:open|scandir|opendir|l?stat|access|readlink|realpath|watch) '(?P<p>/[^']+)'",
        Kind::Open,
        "node fs: calls that look",
    ),
    rule(
        r"E(?:ACCES|PERM|ROFS): [^,]+, [a-z]+ '(?P<p>/[^']+)'",
        Kind::Write,
        "node fs: every other call changes something (mkdir, unlink, rename, copyfile, ...)",
    ),
    rule(
        r#"\[Errno 30\] [^:]+: b?['"](?P<p>/[^'"]+)['"]"#,
        Kind::Write,
        "python: EROFS is about writing only",
    ),
    rule(
        r#"\[Errno (?:1|13)\] [^:]+: b?['"](?P<p>/[^'"]+)['"]"#,
        Kind::OpenOrExecute,
        "python: open() and subprocess say the same",
    ),
    rule(
        r#"\[Errno (?:1|13)\] [^:]+: b?['"](?P<p>[\w.+-]+)['"]"#,
        Kind::Execute,
        "python subprocess: a bare name is a program looked up on PATH",
    ),
    rule(
        r"HTTPS?ConnectionPool\(host='(?P<h>[\w.-]+)', port=(?P<n>\d+)\)",
        Kind::Connect,
        "python requests and urllib3",
    ),
    rule(
        r"[Ff]ailed to resolve '(?P<h>[\w.-]+)'",
        Kind::Connect,
        "python urllib3 2: NameResolutionError",
    ),
    rule(
        r"(?:unable to access|Failed to fetch|error sending request for url|request to) [`'(]*(?P<u>https?://[^\s'`)]+)",
        Kind::Connect,
        "git over https, uv, rust reqwest and node-fetch name the URL",
    ),
    rule(
        r"[Cc]ould not resolve host(?:name)?:? (?P<h>[\w.-]+)",
        Kind::Connect,
        "curl and ssh: the lookup failed, the port is not said",
    ),
    rule(
        r"Failed to connect to (?P<h>[\w.-]+) port (?P<n>\d+)",
        Kind::Connect,
        "curl, which does not tell a refused port from one where nobody listens",
    ),
    rule(
        r"dial (?:tcp|udp)[46]?:? lookup (?P<h>[\w.-]+)",
        Kind::Connect,
        "go net: the lookup failed, the port is not said",
    ),
    rule(
        r"dial tcp[46]? \[?(?P<h>[0-9A-Fa-f.:]+)\]?:(?P<n>\d+): connect: (?:permission denied|operation not permitted)",
        Kind::Connect,
        "go net: landlock refuses the port",
    ),
    rule(
        r"UnknownHostException: (?P<h>[\w.-]+)",
        Kind::Connect,
        "java.net: every failed lookup",
    ),
    rule(
        r#"fork/exec (?P<p>[^\s:"]+): (?:permission denied|operation not permitted)"#,
        Kind::Execute,
        "go os/exec, by path",
    ),
    rule(
        r#"exec: "(?P<p>[^"]+)": (?:permission denied|operation not permitted)"#,
        Kind::Execute,
        "go os/exec, by name",
    ),
    rule(
        r"(?:cannot run|cannot exec|failed to execute|cannot execute|env:) [`'\u{2018}]?(?P<p>[\w./+-]+)['\u{2019}`]?: (?:[Pp]ermission denied|[Oo]peration not permitted)",
        Kind::Execute,
        "git for its helpers, env for its argument",
    ),
    rule(
        r"cannot (?:open|access|stat|read|list)(?: directory| file)? [`'\u{2018}]?(?P<p>/[^'\u{2019}`:]+?)['\u{2019}`]?(?: for reading)?: (?:Permission denied|Operation not permitted)",
        Kind::Open,
        "coreutils and dash: verbs that look",
    ),
    rule(
        r"(?:cannot|unable to|[Cc]ould not) (?:create|remove|touch|make|move|lock|write|overwrite|change|set|rename|unlink|delete)[\w ]*? [`'\u{2018}]?(?P<p>/[^'\u{2019}`:]+?)['\u{2019}`]?(?: for writing)?: (?:[Pp]ermission denied|[Oo]peration not permitted|[Rr]ead-only file system)",
        Kind::Write,
        "coreutils, dash and git: verbs that change",
    ),
    rule(
        r"(?:mkdir|remove|rename|unlink|chmod|symlink|truncate|create) (?P<p>/[^:]+): (?:permission denied|operation not permitted|read-only file system)",
        Kind::Write,
        "go os: PathError of calls that change",
    ),
    rule(
        r"(?P<p>/[^:'\u{2018}]+): [Rr]ead-only file system",
        Kind::Write,
        "strerror(EROFS) after a path",
    ),
    rule(
        r"(?P<p>/[^\s:'\u{2018}]+): failed to map segment from shared object",
        Kind::Load,
        "glibc's loader, for every runtime: what may only be written holds no code",
    ),
    rule(
        r"AccessDeniedException: (?P<p>/\S+)",
        Kind::Open,
        "java.nio: the message is the path alone",
    ),
    rule(
        r"FileNotFoundException: (?P<p>/.+?) \(Permission denied\)",
        Kind::Open,
        "java.io: streams and readers",
    ),
    rule(
        r"(?:^|[/ ])(?:ba|da|z|k)?sh: (?:line \d+: |\d+: )?(?P<p>[^\s:]+): (?:Permission denied|Operation not permitted)",
        Kind::OpenOrExecute,
        "a shell says the same of a program and of a redirection",
    ),
    rule(
        r#"[`'"\u{2018} ](?P<p>/[^`'"\u{2019}:]+)['"\u{2019}`]?(?: for [a-z]+)?:? \(?(?:[Pp]ermission denied|[Oo]peration not permitted)"#,
        Kind::OpenOrExecute,
        "strerror after a path: cat, go open, git, rust with context",
    ),
];

/// Words without which no rule matches: most lines are passed over without a regular expression.
const TRIGGERS: &[&str] = &[
    "EACCES",
    "EPERM",
    "EROFS",
    "ermission denied",
    "not permitted",
    "ead-only file",
    "[Errno",
    "getaddrinfo",
    "resolve",
    "lookup",
    "ConnectionPool",
    "AccessDenied",
    "UnknownHost",
    "Failed to connect",
    "sending request",
    "Failed to fetch",
    "unable to access",
    "request to",
    "failed to map",
];

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

/// How programs say that something does not exist, and how they would say that it is refused.
const ABSENT: [(&str, &str); 5] = [
    ("ENOENT", "EACCES"),
    ("No such file or directory", "Permission denied"),
    ("no such file or directory", "permission denied"),
    ("[Errno 2]", "[Errno 13]"),
    ("NoSuchFileException", "AccessDeniedException"),
];

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

/// Compiled at the first line that has a trigger; `None` cannot happen, a test compiles them all.
fn rules() -> Option<&'static [(Regex, Kind)]> {
    static COMPILED: OnceLock<Option<Vec<(Regex, Kind)>>> = OnceLock::new();
    let compile = || {
        RULES
            .iter()
            .map(|r| Some((Regex::new(r.pattern).ok()?, r.kind)))
            .collect()
    };
    COMPILED.get_or_init(compile).as_deref()
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
        let (host, port) = match url {
            Some(url) => split_url(url)?,
            None => (host?, port.map_or(Some(443), |n| n.parse().ok())?),
        };
        let open = grants.ports.contains(&port) || host.is_empty() || host.len() > 253;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(line: &str) -> Option<String> {
        explain(line.as_bytes(), &Grants::default()).map(|d| d.flag())
    }

    #[test]
    fn every_rule_compiles_and_says_why_it_is_there() {
        for rule in RULES {
            Regex::new(rule.pattern).unwrap();
            assert!(rule.reason.len() > 5, "{}", rule.pattern);
        }
        assert_eq!(rules().unwrap().len(), RULES.len());
    }

    #[test]
    fn the_words_of_real_programs_become_flags() {
        // Copied from the programs themselves.
        let cases = [
            (
                "Error: EACCES: permission denied, open '/etc/hosts'",
                "--read /etc/hosts",
            ),
            (
                "Error: EACCES: permission denied, scandir '/srv/data'",
                "--read /srv/data",
            ),
            (
                "Error: EACCES: permission denied, mkdir '/srv/data/new'",
                "--write /srv/data",
            ),
            (
                "Error: EROFS: read-only file system, open '/srv/a/b/x'",
                "--write /srv/a/b",
            ),
            ("Error: spawn git EACCES", "--allow-exec git"),
            (
                "Error: listen EACCES: permission denied 0.0.0.0:3999",
                "--url http://127.0.0.1:3999/mcp",
            ),
            (
                "PermissionError: [Errno 13] error while attempting to bind on address ('127.0.0.1', 3999): permission denied",
                "--url http://127.0.0.1:3999/mcp",
            ),
            (
                "listen tcp :8080: bind: permission denied",
                "--url http://127.0.0.1:8080/mcp",
            ),
            (
                "Error: connect EACCES 140.82.121.6:443",
                "--allow-host 140.82.121.6:443",
            ),
            (
                "Error: connect EACCES 2606:50c0:8000::153:443 - Local (:::0)",
                "--allow-host [2606:50c0:8000::153]:443",
            ),
            (
                "Error: getaddrinfo EAI_AGAIN api.github.com",
                "--allow-host api.github.com:443",
            ),
            (
                "PermissionError: [Errno 13] Permission denied: '/root/x y'",
                "--read '/root/x y'",
            ),
            (
                "PermissionError: [Errno 13] Permission denied: 'git'",
                "--allow-exec git",
            ),
            (
                "PermissionError: [Errno 13] Permission denied: '/usr/bin/git'",
                "--allow-exec /usr/bin/git",
            ),
            (
                "OSError: [Errno 30] Read-only file system: '/srv/a/b'",
                "--write /srv/a",
            ),
            (
                "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='example.org', port=8443): Max retries",
                "--allow-host example.org:8443",
            ),
            (
                "fatal: unable to access 'https://github.com/a/b/': Could not resolve host: github.com",
                "--allow-host github.com:443",
            ),
            (
                "curl: (6) Could not resolve host: example.org",
                "--allow-host example.org:443",
            ),
            (
                "Get \"https://x\": dial tcp: lookup example.org: no such host",
                "--allow-host example.org:443",
            ),
            (
                "dial tcp 10.0.0.1:5432: connect: permission denied",
                "--allow-host 10.0.0.1:5432",
            ),
            (
                "panic: fork/exec /usr/bin/git: permission denied",
                "--allow-exec /usr/bin/git",
            ),
            (
                "open /var/lib/x/db: permission denied",
                "--read /var/lib/x/db",
            ),
            (
                "mkdir /var/lib/x/db: permission denied",
                "--write /var/lib/x",
            ),
            ("cat: /etc/shadow: Permission denied", "--read /etc/shadow"),
            (
                "ls: cannot open directory '/root': Permission denied",
                "--read /root",
            ),
            (
                "touch: cannot touch '/srv/a/x': Permission denied",
                "--write /srv/a",
            ),
            (
                "mkdir: cannot create directory \u{2018}/srv/a/x\u{2019}: Permission denied",
                "--write /srv/a",
            ),
            (
                "sh: 1: cannot create /srv/a/x: Permission denied",
                "--write /srv/a",
            ),
            ("sh: 1: git: Permission denied", "--allow-exec git"),
            (
                "bash: line 1: /usr/bin/git: Permission denied",
                "--allow-exec /usr/bin/git",
            ),
            (
                "error: cannot run ssh: Permission denied",
                "--allow-exec ssh",
            ),
            (
                "env: \u{2018}git\u{2019}: Permission denied",
                "--allow-exec git",
            ),
            (
                "warning: unable to access '/root/.gitconfig': Permission denied",
                "--read /root/.gitconfig",
            ),
            (
                "Error: failed to open /srv/a/x: Permission denied (os error 13)",
                "--read /srv/a/x",
            ),
            (
                "ImportError: /srv/v/lib/x.so: failed to map segment from shared object",
                "--read /srv/v/lib",
            ),
            (
                "java.io.FileNotFoundException: /srv/a (Permission denied)",
                "--read /srv/a",
            ),
            (
                "error sending request for url (http://example.org:8080/x): dns error",
                "--allow-host example.org:8080",
            ),
        ];
        let found: Vec<(&str, Option<String>)> = cases.iter().map(|(l, _)| (*l, flag(l))).collect();
        let expected: Vec<(&str, Option<String>)> = cases
            .iter()
            .map(|(l, f)| (*l, Some((*f).to_owned())))
            .collect();
        pretty_assertions::assert_eq!(found, expected);
    }

    #[test]
    fn ordinary_lines_are_not_denials() {
        for line in [
            "listening on stdio",
            "connect ECONNREFUSED 127.0.0.1:5432",
            "Permission denied",
            "open 'relative': Permission denied",
            "GET /lookup 200",
            "",
        ] {
            assert_eq!(flag(line), None, "{line}");
        }
    }

    #[test]
    fn what_a_server_writes_cannot_run_in_the_operators_shell() {
        let line = "Error: EACCES: permission denied, open '/x$(reboot);`id`'";
        assert_eq!(flag(line).unwrap(), "--read '/x$(reboot);`id`'");
        assert_eq!(quoted("a'b"), r"'a'\''b'");
        assert_eq!(
            flag("Error: EACCES: permission denied, open '/x\u{1b}[2J'"),
            None
        );
    }

    #[test]
    fn a_readable_path_that_refuses_wants_to_be_written() {
        let grants = Grants {
            read: vec!["/srv".into()],
            write: vec!["/tmp".into()],
            ports: vec![443],
            ..Grants::default()
        };
        let line = b"Error: EACCES: permission denied, open '/srv/data/x'";
        assert_eq!(explain(line, &grants).unwrap().flag(), "--write /srv/data");
        assert_eq!(explain(b"cat: /tmp/x: Permission denied", &grants), None);
        assert_eq!(
            explain(b"Error: getaddrinfo EAI_AGAIN api.github.com", &grants),
            None
        );
    }

    #[test]
    fn each_denial_is_shown_once_and_a_directory_after_its_second_file() {
        let mut denials = Denials::default();
        let mut note = |line: &str| denials.note(line.as_bytes()).map(|d| d.to_string());
        let first = "denied: read /srv/data/a: allow it with --read /srv/data/a";
        assert_eq!(
            note("cat: /srv/data/a: Permission denied").as_deref(),
            Some(first)
        );
        assert_eq!(note("cat: /srv/data/a: Permission denied"), None);
        let second = "denied: read /srv/data: allow it with --read /srv/data";
        assert_eq!(
            note("cat: /srv/data/b: Permission denied").as_deref(),
            Some(second)
        );
        assert_eq!(note("cat: /srv/data/c: Permission denied"), None);
    }

    #[test]
    fn what_was_told_with_certainty_needs_no_words_of_the_server() {
        let mut denials = Denials::default();
        denials.told("denied: change the mode of /srv/a by x (pid 7), layer supervision: …");
        let words = |name: &str| format!("[Errno 1] Operation not permitted: '{name}'");
        assert_eq!(denials.note(words("/srv/a").as_bytes()), None);
        assert!(denials.note(words("/srv/b").as_bytes()).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut denials = Denials::default();
        let shown = (0..200)
            .filter(|n| {
                denials
                    .note(format!("cat: /d{n}: Permission denied").as_bytes())
                    .is_some()
            })
            .count();
        assert_eq!(shown, REMEMBERED);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_explained_or_not(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let with_trigger = [&line[..], b" EACCES: x, open '/", &line[..], b"': Permission denied"].concat();
            drop(explain(&line, &Grants::default()));
            if let Some(denial) = explain(&with_trigger, &Grants::default()) {
                proptest::prop_assert!(!denial.to_string().chars().any(char::is_control));
            }
        }
    }
}
