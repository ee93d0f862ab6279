//! What the user wrote, turned into types that are valid by construction.
//!
//! `raw` is the serde twin of the file and [`Overrides`] the twin of the flags; both become this
//! one [`Config`], and the conversion ([`build`]) is the only place that fails.

mod access;
mod change;
mod credentials;
mod diagnose;
mod endpoint;
mod entries;
mod guards;
mod load;
mod name;
mod origin;
mod plain;
mod range;
mod rates;
mod raw;
#[cfg(test)]
mod sample;
mod units;
mod validate;

pub use access::{
    Access, Algorithm, Client, ClientAuth, Effect, Grants, Group, Identity, Jwt, KeySource, San,
    Tls, TlsVersion, principal_name, scope,
};
pub use change::{Changes, renew};
pub use credentials::{Aged, Credential, Inject, Pointer, Signal};
pub(crate) use diagnose::nearest;
pub use diagnose::{Place, Problem};
pub use endpoint::Endpoint;
pub use entries::{EntryError, Word};
pub use guards::{Breaker, Budget, Budgets, Overlong, Percent, RepeatAction, Repeats, Retry};
pub use load::{Error, File, load, read};
pub use origin::{Origin, Origins};
pub use plain::{open_file, read_file};
pub use range::AddressRange;
pub use rates::Rate;
#[cfg(test)]
pub(crate) use sample::sample;
pub use units::{ByteSize, Cores, TimeSpan, UnitError};
pub use validate::{AuditTo, CredentialRule, Effective, Overrides, Surroundings, build};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Names of the layers of the cell, as `cell.require` and `cell.optional` write them.
pub const LAYERS: [&str; 13] = [
    "no-new-privs",
    "landlock",
    "landlock-net",
    "landlock-scopes",
    "seccomp",
    "capabilities",
    "rlimits",
    "environment",
    "descriptors",
    "namespaces",
    "namespace-net",
    "cgroup",
    "supervision",
];

/// Layers that `cell.off` can switch off.
pub const SWITCHES: [&str; 3] = ["namespaces", "cgroup", "supervision"];

/// The JSON Schema of the configuration file, for editors; ends with a line feed.
#[must_use]
pub fn json_schema() -> String {
    raw::json_schema()
}

/// One server and everything around it.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: Server,
    /// `None`: one client, on stdin and stdout.
    pub listen: Option<Listen>,
    pub access: Access,
    pub admin: Option<AdminAddr>,
    pub cell: Cell,
    pub limits: Limits,
    /// `None`: nothing stops because it fails.
    pub breaker: Option<Breaker>,
    pub retry: Retry,
    /// `None`: nothing stops because it repeats itself.
    pub repeats: Option<Repeats>,
    pub budgets: Budgets,
    pub scrub: SecretsMode,
    pub schema: SchemaChecks,
    pub methods: NameRules,
    pub resources: NameRules,
    pub prompts: NameRules,
    /// Scopes that network clients need, by pattern of a URI.
    pub resource_scopes: BTreeMap<String, Vec<String>>,
    /// Scopes that network clients need, by pattern of a name.
    pub prompt_scopes: BTreeMap<String, Vec<String>>,
    pub tools: Tools,
    pub audit: Audit,
    pub packages: Packages,
    /// In the order of their names.
    pub credentials: Vec<Credential>,
    /// Where state lives: audit by default. `$STATE_DIRECTORY` or `$XDG_STATE_HOME/cofferdam/NAME`.
    pub state_dir: PathBuf,
}

/// The server itself.
#[derive(Debug, Clone)]
pub struct Server {
    /// Letters, digits, `-`, `_`, `.`; from the file, `--name`, or the command.
    pub name: String,
    /// Program and arguments, as written; a program with a `/` in it is absolute. Empty only when
    /// the server runs elsewhere.
    pub command: Vec<String>,
    /// A server on HTTP: where it is. With a command it runs in the cell, and that is its address there.
    pub upstream: Option<Upstream>,
    pub owner: Option<String>,
    /// A date, `2027-02-01`.
    pub review_by: Option<String>,
    /// Absolute. `None`: the directory that cofferdam was started in.
    pub cwd: Option<PathBuf>,
    pub restart: Restart,
    pub replace: Replace,
    /// The kill switch, which must be there; `None`: one in the state directory.
    pub kill_file: Option<PathBuf>,
}

impl Server {
    /// True when there is nothing to run, because the server runs elsewhere.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.upstream.is_some() && self.command.is_empty()
    }
}

/// A server that is reached over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub url: Endpoint,
    /// Certificates to trust in place of the system's. Absolute.
    pub ca: Option<PathBuf>,
    /// SHA-256 of the keys of which the server's own certificate must have one. Empty: any.
    pub pins: Vec<[u8; 32]>,
    pub min_version: TlsVersion,
    /// `None`: requests alone show whether it is there.
    pub health: Option<HealthCheck>,
}

/// How it is found out whether a server on HTTP is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// From one check to the next, while none fails.
    pub every: Duration,
    pub timeout: Duration,
    /// In a row; from then on it is down.
    pub failures: u32,
    /// What a GET asks for. `None`: the server is asked what it is.
    pub path: Option<String>,
}

/// How a server is replaced while its session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Replace {
    /// The next is ready before the one that serves is drained; the server must be able to run twice.
    Overlap,
    /// One ends, the next starts, and calls wait meanwhile.
    #[default]
    Swap,
    /// Not while the session lasts.
    Never,
}

/// Whether another server takes the place of one that has ended unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    #[default]
    Always,
    Never,
}

/// The listener for clients on HTTP.
#[derive(Debug, Clone)]
pub struct Listen {
    pub http: AdminAddr,
    /// Begins with a slash.
    pub path: String,
    /// What clients use, when that is not the address listened on.
    pub public_url: Option<String>,
    pub auth: Auth,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    pub state: StateMode,
    /// The server is safe to share: clients with sessions use one process together.
    pub share: bool,
    /// Sessions at one time.
    pub sessions: usize,
    /// A session that nobody uses ends after so long. Default 30 min.
    pub session_idle: Duration,
    /// Connections at one time.
    pub connections: usize,
    /// Time for the header of a request.
    pub header_timeout: Duration,
    /// Time for the body of a request.
    pub body_timeout: Duration,
}

impl Listen {
    /// True when nobody but programs of this host (or pod) can reach it: a loopback address, or a
    /// socket file, which only its owner can open.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.http {
            AdminAddr::Tcp(address) => address.ip().to_canonical().is_loopback(),
            AdminAddr::Unix(_) => true,
        }
    }
}

/// Whether clients have to say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Not on loopback.
    #[default]
    Local,
    /// Always.
    Required,
}

/// Which clients are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateMode {
    /// Those of every revision; the older ones have sessions.
    #[default]
    Session,
    /// Only those of 2026-07-28, which need no state.
    Stateless,
}

/// Where `/health` and `/metrics` listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What the cell lets the server touch.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// `None`: chosen by looking at the command.
    pub preset: Option<Preset>,
    /// Absolute, `~` expanded; need not exist when `run` starts (then start fails with 78 and names it).
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// Programs the server may execute besides its own: a path, or a name found on PATH.
    pub execute: Vec<String>,
    /// Names of variables that pass from our environment, and values set by the file.
    pub env: Vec<EnvRule>,
    /// Hosts that the server may reach.
    pub egress: Vec<EgressRule>,
    /// Ranges that are not public, to which allowed names may lead all the same.
    pub egress_private: Vec<AddressRange>,
    /// The TCP port on which the server is spoken to, the only one that it may listen on. `None`: it
    /// speaks on stdin and stdout. Not a key of its own: it comes from `server.url`.
    pub serves: Option<u16>,
    /// Address space is not limited; data segment is. `None`: the preset's default.
    pub memory: Option<ByteSize>,
    pub processes: Option<u64>,
    /// Whom root's server runs as: a name, a number, or `root`. `None`: a number that nobody else has.
    pub user: Option<String>,
    /// Of the whole tree. `None`: not limited.
    pub cpu: Option<Cores>,
    /// A list of the only system calls that there are. `None`: all that are not refused.
    pub syscalls: Option<PathBuf>,
    /// Layers that must be enforced (all of the floor, unless listed in `optional`).
    pub require: Vec<String>,
    /// Layers that may be missing.
    pub optional: Vec<String>,
    /// Layers that are not used: of [`SWITCHES`].
    pub off: Vec<String>,
}

/// One variable of the server's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvRule {
    /// `NAME`: the value that we have, if we have one.
    Pass(String),
    /// `NAME=value`.
    Set(String, String),
}

/// `host:port`. Where the cell has a network of its own both are checked; elsewhere the port is what
/// the kernel checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    Node,
    Python,
    /// A binary that brings its own runtime.
    None,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest line from the client. Default 1 MiB.
    pub request: ByteSize,
    /// Largest line from the server. Default 1 MiB.
    pub response: ByteSize,
    /// Silence after which a request expires; progress resets it. Default 300 s.
    pub timeout: Duration,
    /// The whole time a request may take. Default 1 h.
    pub timeout_total: Duration,
    /// Requests of each client. `None`: any number.
    pub rate: Option<Rate>,
    /// Requests of all clients at one time. `None`: any number.
    pub concurrency: Option<u32>,
    /// Requests that may wait for a place. Default 64.
    pub queue: u32,
    /// The longest that one waits for a place. Default 30 s.
    pub wait: Duration,
    /// Requests of each client in one day (UTC). `None`: any number.
    pub quota: Option<u64>,
    /// Largest result of a tool call. `None`: as large as any message.
    pub result: Option<ByteSize>,
    /// Largest result of a tool call in estimated tokens. `None`: any number.
    pub result_tokens: Option<u64>,
    /// What becomes of a result above either, or above what is left of a budget.
    pub overlong: Overlong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretsMode {
    #[default]
    Redact,
    Refuse,
    Flag,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    Refuse,
    Warn,
    Off,
}

#[derive(Debug, Clone, Copy)]
pub struct SchemaChecks {
    /// Default refuse.
    pub arguments: Check,
    /// Default warn.
    pub output: Check,
}

/// Allow and deny lists of names; `*` matches any run of characters.
#[derive(Debug, Clone, Default)]
pub struct NameRules {
    /// When present, the rest is denied.
    pub allow: Option<Vec<String>>,
    pub deny: Vec<String>,
}

/// Rules by tool; a named tool wins over `"*"`.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    pub default: ToolRule,
    pub named: BTreeMap<String, ToolRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolRule {
    pub allow: Option<bool>,
    pub timeout: Option<Duration>,
    pub timeout_total: Option<Duration>,
    pub arguments: Option<Check>,
    pub output: Option<Check>,
    pub effect: Option<Effect>,
    /// All of them are needed. `None`: nothing is said here.
    pub scopes: Option<Vec<String>>,
    /// Calls by each client.
    pub rate: Option<Rate>,
    /// Calls by all clients at one time.
    pub concurrency: Option<u32>,
    /// A second call with the same arguments changes nothing more.
    pub idempotent: Option<bool>,
    /// `false`: failures of it stop nothing.
    pub breaker: Option<bool>,
    /// `false`: it may be called the same way again and again.
    pub repeats: Option<bool>,
    /// By all clients together.
    pub budget: Option<Budget>,
    pub result: Option<ByteSize>,
    pub result_tokens: Option<u64>,
    pub overlong: Option<Overlong>,
    /// An answer that is at most so old stands in for one that cannot be had.
    pub cached: Option<Duration>,
    /// What a model is told to call instead, while it cannot be had.
    pub alternative: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Audit {
    pub enabled: bool,
    /// `None`: `audit.jsonl` in the state directory.
    pub file: Option<PathBuf>,
    pub payloads: Payloads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Payloads {
    None,
    #[default]
    Digest,
    Redacted,
}

/// How packages of `npx`, `uvx` and `pipx run` are installed.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    /// Lifecycle scripts run (inside the install cell). Default false.
    pub scripts: bool,
    /// Names of variables that hold registry tokens and pass into the install cell only.
    pub token_env: Vec<String>,
    /// Default `$XDG_CACHE_HOME/cofferdam`.
    pub cache: PathBuf,
}
