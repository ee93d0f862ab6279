//! The serde twin of the file: what may be typed, with the place where it was typed.
//!
//! Only keys whose function exists are here; the doc comments become the descriptions of the JSON
//! Schema. Nothing else reads these types: [`super::validate`] turns them into [`super::Config`].

mod access;
mod guards;

pub(super) use access::{Client, Clients, Group, Groups, Identity, Jwt, ScopesBy, Tls};

pub(super) use guards::{Breaker, Budget, Budgets, Repeats, Retry};

use super::access::{Effect, TlsVersion};
use super::guards::Overlong;
use super::rates::Rate;
use super::units::{ByteSize, Cores, TimeSpan};
use super::{Auth, Check, Payloads, Preset, Replace, Restart, SecretsMode, Signal, StateMode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;

/// A value and the bytes of the file that hold it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub(super) fn span(&self) -> Range<usize> {
        self.0.span()
    }

    pub(super) fn value(&self) -> &T {
        self.0.get_ref()
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The configuration of one MCP server under cofferdam.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
#[schemars(title = "cofferdam")]
pub(super) struct Raw {
    /// The server itself.
    pub(super) server: Server,
    /// The listener for clients on HTTP; absent: one client on stdin and stdout.
    pub(super) listen: Option<Listen>,
    /// How network clients prove who they are.
    pub(super) identity: Option<At<Identity>>,
    /// Clients by name; `"*"` is for those without an entry.
    pub(super) clients: Clients,
    /// Groups by name.
    pub(super) groups: Groups,
    /// The listener for `/health` and `/metrics`; absent: none.
    pub(super) admin: Option<Admin>,
    /// What the server may touch.
    pub(super) cell: Cell,
    /// Sizes and times.
    pub(super) limits: Limits,
    /// Calls stop for a while when too many fail; absent: they do not.
    pub(super) breaker: Option<At<Breaker>>,
    /// Calls that are made again because a server was lost.
    pub(super) retry: Option<At<Retry>>,
    /// The same call with the same answer stops when it was made too often; absent: it does not.
    pub(super) repeats: Option<At<Repeats>>,
    /// What may be used up.
    pub(super) budget: Budgets,
    /// What is taken out of messages.
    pub(super) scrub: Scrub,
    /// Checks against the schemas of tools.
    pub(super) schema: SchemaChecks,
    /// Rules for JSON-RPC methods.
    pub(super) methods: Names,
    /// Rules for resource URIs.
    pub(super) resources: Targets,
    /// Rules for prompts.
    pub(super) prompts: Targets,
    /// Rules for tools by name; a named tool wins over `"*"`.
    pub(super) tools: BTreeMap<At<String>, Tool>,
    /// The audit log.
    pub(super) audit: Audit,
    /// How packages of npx, uvx and pipx are installed.
    pub(super) packages: Packages,
    /// Secrets of the server that come from files, by name.
    pub(super) credentials: BTreeMap<At<String>, Credential>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Credential {
    /// The file that holds it, and is watched.
    pub(super) file: Option<At<String>>,
    /// One member of a JSON object or of KEY=value lines; default: the whole file.
    pub(super) key: Option<At<String>>,
    /// Where the server finds it.
    pub(super) inject: Option<At<Inject>>,
    /// What the member `environment` of the file must say, where there is one.
    pub(super) environment: Option<At<String>>,
    /// How long a replaced value may still be in use; it is taken out of messages for so long. Default 10m.
    pub(super) overlap: Option<At<TimeSpan>>,
    /// An age that is reported; default: none.
    pub(super) rotate_every: Option<At<TimeSpan>>,
}

/// One of `env`, `file` and `argument`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Inject {
    /// A variable of the server; another value is another process. With `file`: the variable that
    /// says where the file is.
    pub(super) env: Option<String>,
    /// A file in a private directory of the server, by its name or a relative path; another value
    /// takes its place in one step. `{credentials.NAME}` in the command is its path.
    pub(super) file: Option<String>,
    /// With `file`: the signal that the server gets when the file has changed.
    pub(super) signal: Option<Signal>,
    /// A JSON pointer into the arguments of tool calls, as in `/token`: clients neither see nor send it.
    pub(super) argument: Option<String>,
    /// With `argument`: tools that get it; default `["*"]`, all that have such an argument.
    pub(super) tools: Option<Vec<String>>,
    /// A header of each request to the server at `server.url`.
    pub(super) header: Option<String>,
    /// What the header says; `{}` is the value. Default `Bearer {}` for Authorization, else `{}`.
    pub(super) format: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Server {
    /// Letters, digits, `-`, `_`, `.`; default: made from the command.
    pub(super) name: Option<At<String>>,
    /// Program and arguments.
    pub(super) command: Option<At<Vec<At<String>>>>,
    /// A server on HTTP. In place of a command: one that runs elsewhere, `https://mcp.example.com/mcp`; beside
    /// one: where it listens in its cell, `http://127.0.0.1:8080/mcp`.
    pub(super) url: Option<At<String>>,
    /// File with the certificates that may vouch for the server at `url`; default: the system's.
    pub(super) ca: Option<At<String>>,
    /// Keys of which the certificate of the server at `url` must have one: `sha256/` and a SHA-256 in
    /// base64.
    pub(super) pins: Vec<At<String>>,
    /// The oldest version of TLS that is spoken with the server at `url`; default 1.3.
    pub(super) min_version: Option<At<TlsVersion>>,
    /// Let `url` be a plain `http` one although others on the network can read along.
    pub(super) plain_http: Option<At<bool>>,
    /// Whether the server at `url` is there is found out from time to time; default: requests alone show it.
    pub(super) health: Option<At<HealthCheck>>,
    /// How the server is spoken to.
    pub(super) transport: Option<At<Transport>>,
    /// Who answers for this server.
    pub(super) owner: Option<At<String>>,
    /// A date, as in 2027-02-01.
    #[schemars(with = "Option<Date>")]
    pub(super) review_by: Option<At<toml::value::Datetime>>,
    /// Working directory of the server.
    pub(super) cwd: Option<At<String>>,
    /// Whether another server takes the place of one that has ended unasked; default always.
    pub(super) restart: Option<At<Restart>>,
    /// The kill switch: a file that `cofferdam kill --file` writes. When it is named and not there,
    /// nothing runs; default: `switch` in the state directory.
    pub(super) kill_file: Option<At<String>>,
    /// How it is replaced while the session goes on; default swap.
    pub(super) replace: Option<At<Replace>>,
}

/// How it is found out whether a server on HTTP is there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct HealthCheck {
    /// Time from one check to the next; default 30s. While checks fail it is 5s at most.
    pub(super) every: Option<At<TimeSpan>>,
    /// Time for a check; default 5s, or `every` when that is less.
    pub(super) timeout: Option<At<TimeSpan>>,
    /// After so many failures in a row, of checks and of requests, requests are refused until a check
    /// succeeds; default 3.
    pub(super) failures: Option<At<i64>>,
    /// A GET of this path at the server has to be answered with a status from 200 to 299; default: any answer
    /// below 500 to a `server/discover` will do.
    pub(super) path: Option<At<String>>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    Stdio,
    Http,
}

/// Stands in for the TOML date, which editors show to a schema as a string.
struct Date;

impl JsonSchema for Date {
    fn schema_name() -> Cow<'static, str> {
        "Date".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "format": "date" })
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Listen {
    /// `127.0.0.1:8080` or `unix:/path`.
    pub(super) http: Option<At<String>>,
    /// Path of the endpoint; default `/mcp`.
    pub(super) path: Option<At<String>>,
    /// What clients use, when that is not the address listened on.
    pub(super) public_url: Option<At<String>>,
    /// Whether clients on loopback have to say who they are too.
    pub(super) auth: Option<At<Auth>>,
    /// Certificates; absent: plain HTTP, where nobody else can reach it.
    pub(super) tls: Option<At<Tls>>,
    /// Which clients are served: `stateless` is 2026-07-28 alone.
    pub(super) state: Option<At<StateMode>>,
    /// The server is safe to share: clients with sessions use one process together.
    pub(super) share: Option<At<bool>>,
    /// Sessions at one time; default 16, or 4096 when they share a process.
    pub(super) sessions: Option<At<i64>>,
    /// A session that nobody uses ends after so long.
    pub(super) session_idle: Option<At<TimeSpan>>,
    /// Connections at one time.
    pub(super) connections: Option<At<i64>>,
    /// Time for the header of a request.
    pub(super) header_timeout: Option<At<TimeSpan>>,
    /// Time for the body of a request.
    pub(super) body_timeout: Option<At<TimeSpan>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Admin {
    /// `127.0.0.1:9464` or `unix:/path`.
    pub(super) listen: Option<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Cell {
    /// What the runtime needs; default: chosen by looking at the command.
    pub(super) preset: Option<At<Preset>>,
    /// Files and directories that may be read.
    pub(super) read: Vec<At<String>>,
    /// Files and directories that may be read and written.
    pub(super) write: Vec<At<String>>,
    /// Programs that may be executed: a path, or a name found on PATH.
    pub(super) execute: Vec<At<String>>,
    /// Variables: `NAME` passes ours, `NAME=value` sets one.
    pub(super) env: Vec<At<String>>,
    /// Hosts that may be reached, each with a port (443 by default): a name, `*.example.com`, an address, a range as in `10.1.0.0/16:5432`, or `*`.
    pub(super) egress: Vec<At<String>>,
    /// Ranges that are not public, to which the names of `egress` may lead: `10.1.0.0/16`.
    pub(super) egress_private: Vec<At<String>>,
    /// Largest data segment of each process.
    pub(super) memory: Option<At<ByteSize>>,
    /// Largest number of processes and threads.
    pub(super) processes: Option<At<i64>>,
    /// Whom the server runs as when cofferdam is root: a name, a number, or `root`; default: a number
    /// that nobody else has.
    pub(super) user: Option<At<String>>,
    /// Processors that all of the server may use together, as in "1.5".
    pub(super) cpu: Option<At<Cores>>,
    /// File that lists the only system calls that the server may make.
    pub(super) syscalls: Option<At<String>>,
    /// Layers that must be enforced.
    pub(super) require: Vec<At<String>>,
    /// Layers that may be missing.
    pub(super) optional: Vec<At<String>>,
    /// Layers that are not used: `namespaces`, `cgroup`, `supervision`.
    pub(super) off: Vec<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Limits {
    /// Largest message of the client.
    pub(super) request: Option<At<ByteSize>>,
    /// Largest message of the server.
    pub(super) response: Option<At<ByteSize>>,
    /// Silence after which a request expires; progress resets it.
    pub(super) timeout: Option<At<TimeSpan>>,
    /// The whole time that a request may take.
    pub(super) timeout_total: Option<At<TimeSpan>>,
    /// Requests of each client.
    pub(super) rate: Option<At<Rate>>,
    /// Requests of all clients at one time.
    pub(super) concurrency: Option<At<i64>>,
    /// Requests that wait for one of those places; beyond, they are refused. Default 64.
    pub(super) queue: Option<At<i64>>,
    /// The longest that a request waits for a place; default 30s.
    pub(super) wait: Option<At<TimeSpan>>,
    /// Requests of each client in one day (UTC).
    pub(super) quota: Option<At<i64>>,
    /// Largest result of a tool call.
    pub(super) result: Option<At<ByteSize>>,
    /// Largest result of a tool call in estimated tokens.
    pub(super) result_tokens: Option<At<i64>>,
    /// What becomes of a result above either, or above what is left of a budget; default truncate.
    pub(super) overlong: Option<At<Overlong>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Scrub {
    /// What happens to credentials that are found.
    pub(super) secrets: Option<At<SecretsMode>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct SchemaChecks {
    /// Arguments against the tool's inputSchema.
    pub(super) arguments: Option<At<Check>>,
    /// Results against the tool's outputSchema.
    pub(super) output: Option<At<Check>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Names {
    /// When present, the rest is denied; `*` matches any run of characters.
    pub(super) allow: Option<At<Vec<At<String>>>>,
    /// Denied, also when allowed.
    pub(super) deny: Vec<At<String>>,
}

/// [`Names`] of what network clients may need scopes for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Targets {
    /// When present, the rest is denied; `*` matches any run of characters.
    pub(super) allow: Option<At<Vec<At<String>>>>,
    /// Denied, also when allowed.
    pub(super) deny: Vec<At<String>>,
    /// Scopes that a network client needs, by pattern; all patterns that match add up.
    pub(super) scopes: ScopesBy,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Tool {
    /// Whether the tool is seen and may be called.
    pub(super) allow: Option<At<bool>>,
    /// Silence after which a call expires.
    pub(super) timeout: Option<At<TimeSpan>>,
    /// The whole time that a call may take.
    pub(super) timeout_total: Option<At<TimeSpan>>,
    /// Arguments against the tool's inputSchema.
    pub(super) arguments: Option<At<Check>>,
    /// Results against the tool's outputSchema.
    pub(super) output: Option<At<Check>>,
    /// What a call does: `read` may be called twice when the server is lost; a tool without counts as
    /// `write`.
    pub(super) effect: Option<At<Effect>>,
    /// Scopes that a network client needs, all of them.
    pub(super) scopes: Option<At<Vec<At<String>>>>,
    /// Calls of the tool by each client.
    pub(super) rate: Option<At<Rate>>,
    /// Calls of the tool by all clients at one time.
    pub(super) concurrency: Option<At<i64>>,
    /// A second call with the same arguments changes nothing more: it may be made when the server is lost.
    pub(super) idempotent: Option<At<bool>>,
    /// `false`: failures of the tool stop nothing.
    pub(super) breaker: Option<At<bool>>,
    /// `false`: the tool may be called the same way again and again.
    pub(super) repeats: Option<At<bool>>,
    /// What all calls of the tool may use up.
    pub(super) budget: Option<At<Budget>>,
    /// Largest result.
    pub(super) result: Option<At<ByteSize>>,
    /// Largest result in estimated tokens.
    pub(super) result_tokens: Option<At<i64>>,
    /// What becomes of a result that is too large.
    pub(super) overlong: Option<At<Overlong>>,
    /// An answer that is at most so old stands in for one that cannot be had; needs `effect = "read"`.
    pub(super) cached: Option<At<TimeSpan>>,
    /// The tool that a model is told to call instead, while this one cannot be had.
    pub(super) alternative: Option<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Audit {
    /// Default true.
    pub(super) enabled: Option<At<bool>>,
    /// Default `audit.jsonl` in the state directory.
    pub(super) file: Option<At<String>>,
    /// What is kept of arguments.
    pub(super) payloads: Option<At<Payloads>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct Packages {
    /// Whether lifecycle scripts run, inside the install cell.
    pub(super) scripts: Option<At<bool>>,
    /// Names of variables with registry tokens, passed into the install cell only.
    pub(super) token_env: Vec<At<String>>,
    /// Default `$XDG_CACHE_HOME/cofferdam`.
    pub(super) cache: Option<At<String>>,
}

/// The JSON Schema of the file, as text that ends with a line feed.
pub(super) fn json_schema() -> String {
    let schema = schemars::schema_for!(Raw);
    // Serialising a `Value` with string keys cannot fail; an empty text would fail the stale test.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
