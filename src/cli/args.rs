//! What may be typed after `cofferdam`.
//!
//! clap fills [`Cli`], the twin of the command line; [`resolve`] joins it with the file.

mod access;
mod credentials;
mod operate;
mod resolve;

pub use access::{
    ClientAdd, ClientCommand, ClientFile, ClientList, ClientRevoke, SelfSigned, TlsCommand,
};
pub use credentials::{
    CredentialsArgs, CredentialsCommand, CredentialsList, CredentialsRevoke, CredentialsRotate,
    Whose,
};
pub use operate::{DrainArgs, StatusArgs, SwitchArgs, WhichArgs};
pub use resolve::{Error, Resolved, parse, resolve, resolve_named, to_config, to_run};
pub(super) use resolve::{overrides, surroundings};

use crate::config::{
    self, AdminAddr, ByteSize, Cores, CredentialRule, EgressRule, Endpoint, EntryError, EnvRule,
    Preset, Restart, SecretsMode, TimeSpan, UnitError, Word,
};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

/// Makes one MCP server safe to run: a landlock + seccomp cell, and policy on every message.
#[derive(Debug, Parser)]
#[command(
    name = "cofferdam",
    version,
    max_term_width = 100,
    after_help = "Example:\n  cofferdam run --read ~/docs -- npx -y @modelcontextprotocol/server-filesystem ~/docs"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// One variant for each command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one MCP server in a cell, with policy on every message
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Run any program in the very same cell, without the protocol
    Exec(ExecArgs),
    /// Validate a configuration and print what is effective, with the origin of each value
    Check(CheckArgs),
    /// Show what runs, and how it is
    Status(StatusArgs),
    /// Read the configuration again, and say what came of it
    Reload(WhichArgs),
    /// Take no new requests, answer those that are open, and end
    Drain(DrainArgs),
    /// Stop a server where it stands, until `resume`, and write down what is known
    Freeze(WhichArgs),
    /// Switch a server off, or some of its tools: at once, and until `resume`
    Kill(SwitchArgs),
    /// Switch on again what `kill` has switched off
    Resume(SwitchArgs),
    /// List the credentials of a server, rehearse a rotation, or revoke a value
    Credentials(CredentialsArgs),
    /// Print what this host can enforce, and what is missing
    Doctor(DoctorArgs),
    /// Keys for network clients
    Client {
        #[command(subcommand)]
        command: ClientCommand,
    },
    /// Certificates for the listener
    Tls {
        #[command(subcommand)]
        command: TlsCommand,
    },
    /// See it work: a small hostile server, built in
    Demo,
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// As it is typed.
    fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Exec(_) => "exec",
            Self::Check(_) => "check",
            Self::Status(_) => "status",
            Self::Reload(_) => "reload",
            Self::Drain(_) => "drain",
            Self::Freeze(_) => "freeze",
            Self::Kill(_) => "kill",
            Self::Resume(_) => "resume",
            Self::Credentials(_) => "credentials",
            Self::Doctor(_) => "doctor",
            Self::Client { .. } => "client",
            Self::Tls { .. } => "tls",
            Self::Demo => "demo",
            Self::Schema => "schema",
            Self::Completions { .. } => "completions",
        }
    }
}

const RUN_EXAMPLES: &str = "Examples:
  cofferdam run --read ~/docs -- npx -y @modelcontextprotocol/server-filesystem ~/docs
  cofferdam run --allow-host api.github.com --allow-env GITHUB_TOKEN -- npx -y @scope/server
  cofferdam run --url https://mcp.example.com/mcp
  cofferdam run --url http://127.0.0.1:3001/mcp -- npx -y @scope/http-server
  cofferdam run --config github.toml

With both a file and flags, a flag replaces a value of the file and adds to a list of it.
`cofferdam check` takes the same words and shows what they come to.";

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub shared: SharedArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How log lines on stderr look
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: Format,
}

/// Flags of `exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Flags of `check`: those of `run`, and how to print.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Flags of `doctor`.
#[derive(Debug, Clone, Copy, Args)]
pub struct DoctorArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    #[default]
    Human,
    Json,
}

/// Flags that describe the server and its cell; the same in `run` and `exec`.
#[derive(Debug, Clone, Args)]
pub struct SharedArgs {
    /// Configuration file (TOML); flags and the command win over it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the server in logs, metrics and paths [default: made from the command]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Front the HTTP server at URL; with a command, that server runs in the cell and listens there
    #[arg(long, value_name = "URL", value_parser = entry::<Endpoint>, help_heading = ELSEWHERE)]
    pub url: Option<Endpoint>,
    /// Certificates that may vouch for the server at URL [default: the system's]
    #[arg(long, value_name = "FILE", help_heading = ELSEWHERE)]
    pub ca: Option<String>,
    /// Key that the certificate of the server at URL must have, as in sha256/BASE64
    #[arg(long, value_name = "PIN", help_heading = ELSEWHERE)]
    pub pin: Vec<String>,
    /// What the runtime needs [default: chosen by looking at the command]
    #[arg(long, value_name = "PRESET", value_parser = word::<Preset>(), help_heading = CELL)]
    pub preset: Option<Preset>,
    /// Let the server read a file or directory
    #[arg(long, value_name = "PATH", help_heading = CELL)]
    pub read: Vec<String>,
    /// Let the server read and write a file or directory
    #[arg(long, value_name = "PATH", help_heading = CELL)]
    pub write: Vec<String>,
    /// Let the server execute a program, by path or by name
    #[arg(long, value_name = "PROGRAM", help_heading = CELL)]
    pub allow_exec: Vec<String>,
    /// Pass a variable to the server, or set one
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = entry::<EnvRule>, help_heading = CELL)]
    pub allow_env: Vec<EnvRule>,
    /// Give the server a secret from a file that is watched: another value is another process
    #[arg(long, value_name = "VARIABLE=FILE", value_parser = entry::<CredentialRule>, help_heading = CELL)]
    pub credential: Vec<CredentialRule>,
    /// Let the server connect to the TCP port of a host [default port: 443]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = entry::<EgressRule>, help_heading = CELL)]
    pub allow_host: Vec<EgressRule>,
    /// Largest data segment of each process, as in 1GiB
    #[arg(long, value_name = "SIZE", value_parser = unit::<ByteSize>, help_heading = CELL)]
    pub memory: Option<ByteSize>,
    /// Largest number of processes and threads
    #[arg(long, value_name = "N", help_heading = CELL)]
    pub processes: Option<u64>,
    /// Whom root's server runs as: a name, a number, or `root` [default: a number nobody else has]
    #[arg(long, value_name = "USER", help_heading = CELL)]
    pub user: Option<String>,
    /// Processors that all of the server may use together, as in 1.5; needs a delegated cgroup
    #[arg(long, value_name = "CORES", value_parser = unit::<Cores>, help_heading = CELL)]
    pub cpu: Option<Cores>,
    /// Let the server make only the system calls that FILE lists, one `name = "why"` on a line
    #[arg(long, value_name = "FILE", help_heading = CELL)]
    pub syscalls: Option<String>,
    /// Start although this layer cannot be enforced
    #[arg(long, value_name = "LAYER", value_parser = PossibleValuesParser::new(config::LAYERS), help_heading = CELL)]
    pub optional: Vec<String>,
    /// Do not use this layer
    #[arg(long, value_name = "LAYER", value_parser = PossibleValuesParser::new(config::SWITCHES), help_heading = CELL)]
    pub off: Vec<String>,
    /// Do not start without this layer, whatever the file says
    #[arg(long, value_name = "LAYER", value_parser = PossibleValuesParser::new(config::LAYERS), help_heading = CELL)]
    pub require: Vec<String>,
    /// Let install scripts of packages run, inside the install cell
    #[arg(long, help_heading = CELL)]
    pub allow_scripts: bool,
    /// Say more on stderr; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say only what went wrong
    #[arg(short, long)]
    pub quiet: bool,
    /// The program to run, and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Flags about messages; `exec` has none.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyArgs {
    /// Largest message of the client [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = unit::<ByteSize>, help_heading = POLICY)]
    pub request_limit: Option<ByteSize>,
    /// Largest message of the server [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = unit::<ByteSize>, help_heading = POLICY)]
    pub response_limit: Option<ByteSize>,
    /// Silence after which a request expires [default: 300s]
    #[arg(long, value_name = "DURATION", value_parser = unit::<TimeSpan>, help_heading = POLICY)]
    pub timeout: Option<TimeSpan>,
    /// Whether another server takes the place of one that has ended unasked [default: always]
    #[arg(long, value_name = "WHEN", value_parser = word::<Restart>(), help_heading = POLICY)]
    pub restart: Option<Restart>,
    /// What happens to credentials in messages [default: redact]
    #[arg(long, value_name = "MODE", value_parser = word::<SecretsMode>(), help_heading = POLICY)]
    pub scrub: Option<SecretsMode>,
    /// Allow these tools and deny the rest; `*` matches any run of characters
    #[arg(long, value_name = "GLOB", help_heading = POLICY)]
    pub allow_tool: Vec<String>,
    /// Deny these tools
    #[arg(long, value_name = "GLOB", help_heading = POLICY)]
    pub deny_tool: Vec<String>,
    /// Serve clients on HTTP at ADDRESS:PORT or unix:PATH instead of stdin and stdout
    #[arg(long, value_name = "ADDR", value_parser = entry::<AdminAddr>, help_heading = SEEN)]
    pub listen: Option<AdminAddr>,
    /// Serve /health and /metrics at ADDRESS:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", value_parser = entry::<AdminAddr>, help_heading = SEEN)]
    pub admin: Option<AdminAddr>,
    /// Where the audit log goes, or `off` [default: the state directory]
    #[arg(long, value_name = "FILE|off", help_heading = SEEN)]
    pub audit: Option<String>,
}

const ELSEWHERE: &str = "A server on HTTP";
const CELL: &str = "Cell";
const POLICY: &str = "Policy";
const SEEN: &str = "Seen from outside";

/// Accepts the words of a [`Word`] and lists them in help and errors.
fn word<T: Word + Send + Sync>() -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(T::WORDS.iter().map(|(word, _)| *word))
        .try_map(|text| T::from_word(&text).ok_or_else(|| format!("`{text}` is not known")))
}

fn unit<T: FromStr<Err = UnitError>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error: UnitError| format!("{error}; {}", error.hint()))
}

fn entry<T: FromStr<Err = EntryError>>(text: &str) -> Result<T, String> {
    told(text.parse())
}

fn told<T>(parsed: Result<T, EntryError>) -> Result<T, String> {
    parsed.map_err(|error| match error.hint {
        "" => error.what,
        hint => format!("{}; {hint}", error.what),
    })
}

/// The command line as clap sees it, for completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }
}
