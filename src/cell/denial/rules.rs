//! The words of runtimes, shells and libraries for what was refused, each with the reason why it is there.

use regex_automata::meta::Regex;
use std::sync::OnceLock;

/// What a rule's captures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
pub(super) struct Rule {
    pub(super) pattern: &'static str,
    kind: Kind,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for readers; a test looks that it is there")
    )]
    pub(super) reason: &'static str,
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
pub(super) const RULES: &[Rule] = &[
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
pub(super) const TRIGGERS: &[&str] = &[
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

/// How programs say that something does not exist, and how they would say that it is refused.
pub(super) const ABSENT: [(&str, &str); 5] = [
    ("ENOENT", "EACCES"),
    ("No such file or directory", "Permission denied"),
    ("no such file or directory", "permission denied"),
    ("[Errno 2]", "[Errno 13]"),
    ("NoSuchFileException", "AccessDeniedException"),
];

/// Compiled at the first line that has a trigger; `None` cannot happen, a test compiles them all.
pub(super) fn rules() -> Option<&'static [(Regex, Kind)]> {
    static COMPILED: OnceLock<Option<Vec<(Regex, Kind)>>> = OnceLock::new();
    let compile = || {
        RULES
            .iter()
            .map(|r| Some((Regex::new(r.pattern).ok()?, r.kind)))
            .collect()
    };
    COMPILED.get_or_init(compile).as_deref()
}
