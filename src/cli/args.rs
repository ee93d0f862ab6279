//! What may be typed after `cofferdam`, and how it becomes a [`Config`].
//!
//! clap fills [`Cli`], the twin of the command line; [`resolve`] joins it with the file. The message
//! process and the spawner both call [`to_config`] on the same words, so it looks at nothing but the
//! file and a few variables.

mod access;
mod credentials;
mod operate;

pub use access::{
    ClientAdd, ClientCommand, ClientFile, ClientList, ClientRevoke, SelfSigned, TlsCommand,
};
pub use credentials::{
    CredentialsArgs, CredentialsCommand, CredentialsList, CredentialsRevoke, CredentialsRotate,
    Whose,
};
pub use operate::{DrainArgs, StatusArgs, SwitchArgs, WhichArgs};

use super::exit::{Exit, Failure};
use crate::config::{
    self, AdminAddr, AuditTo, ByteSize, Config, Cores, CredentialRule, EgressRule, Endpoint,
    EntryError, EnvRule, File, Origins, Overrides, Preset, Restart, SecretsMode, Surroundings,
    TimeSpan, UnitError, Word,
};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
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

/// Everything that a command of ours needs to start.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub config: Config,
    /// Who set what.
    pub origins: Origins,
    /// 0 to 2.
    pub verbose: u8,
    pub quiet: bool,
    pub dry_run: bool,
    /// The file that was read, if there was one.
    pub config_file: Option<PathBuf>,
}

/// Why the command line is not a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Also `--help` and `--version`, which clap reports as errors.
    #[error("{source}")]
    Typed { source: Box<clap::Error> },
    #[error("{source}")]
    Config { source: Box<config::Error> },
    #[error("no server to run: there is neither a command nor a configuration")]
    Nothing,
    #[error("`{command}` takes no configuration")]
    OtherCommand { command: &'static str },
    #[error("the current directory is not known: {source}")]
    Directory { source: std::io::Error },
}

impl From<config::Error> for Error {
    fn from(source: config::Error) -> Self {
        Self::Config {
            source: Box::new(source),
        }
    }
}

/// Parses words, without the program's own name, into a command.
///
/// # Errors
/// [`Error::Typed`]; also for `--help` and `--version`.
pub fn parse(words: &[OsString]) -> Result<Cli, Error> {
    let argv =
        std::iter::once(OsStr::new("cofferdam")).chain(words.iter().map(OsString::as_os_str));
    Cli::try_parse_from(argv).map_err(|source| Error::Typed {
        source: Box::new(source),
    })
}

/// From the words of `run …` or `exec …` (without the program's own name) to a configuration.
///
/// # Errors
/// When the words, the file or a value is not valid, or there is nothing to run.
pub fn to_config(words: &[OsString]) -> Result<Resolved, Error> {
    resolve(&to_run(words)?)
}

/// The words of `run …` or `exec …` as flags of `run`.
///
/// # Errors
/// When the words are not valid, or of another command.
pub fn to_run(words: &[OsString]) -> Result<RunArgs, Error> {
    match parse(words)?.command {
        Command::Run(args) => Ok(args),
        Command::Exec(args) => Ok(as_run(&args)),
        other => Err(Error::OtherCommand {
            command: other.name(),
        }),
    }
}

/// Joins the flags with the file that they name.
///
/// # Errors
/// When the file or a value is not valid, or there is nothing to run.
pub fn resolve(args: &RunArgs) -> Result<Resolved, Error> {
    let shared = &args.shared;
    if shared.command.is_empty() && shared.config.is_none() && shared.url.is_none() {
        return Err(Error::Nothing);
    }
    let file: Option<File> = shared.config.as_deref().map(config::load).transpose()?;
    let around = surroundings()?;
    let effective = config::build(file.as_ref(), &overrides(args), &around)?;
    Ok(Resolved {
        config: effective.config,
        origins: effective.origins,
        verbose: shared.verbose.min(2),
        quiet: shared.quiet,
        dry_run: args.dry_run,
        config_file: shared.config.clone(),
    })
}

/// The configuration of a server that has a name or a file, as far as its places are concerned.
///
/// # Errors
/// As for [`resolve`].
pub fn resolve_named(name: Option<&str>, file: Option<&Path>) -> Result<Config, Error> {
    let file: Option<File> = file.map(config::load).transpose()?;
    let unused = || vec!["true".to_owned()];
    let flags = Overrides {
        name: name.map(str::to_owned),
        command: file.is_none().then(unused).unwrap_or_default(),
        ..Overrides::default()
    };
    Ok(config::build(file.as_ref(), &flags, &surroundings()?)?.config)
}

fn as_run(args: &ExecArgs) -> RunArgs {
    RunArgs {
        shared: args.shared.clone(),
        policy: PolicyArgs::default(),
        dry_run: false,
        log_format: Format::Human,
    }
}

pub(super) fn overrides(args: &RunArgs) -> Overrides {
    let RunArgs { shared, policy, .. } = args.clone();
    Overrides {
        name: shared.name,
        command: shared.command,
        url: shared.url,
        ca: shared.ca,
        pins: shared.pin,
        read: shared.read,
        write: shared.write,
        execute: shared.allow_exec,
        env: shared.allow_env,
        egress: shared.allow_host,
        preset: shared.preset,
        memory: shared.memory,
        processes: shared.processes,
        user: shared.user,
        cpu: shared.cpu,
        syscalls: shared.syscalls,
        require: shared.require,
        optional: shared.optional,
        off: shared.off,
        request: policy.request_limit,
        response: policy.response_limit,
        timeout: policy.timeout,
        restart: policy.restart,
        scrub: policy.scrub,
        allow_tools: policy.allow_tool,
        deny_tools: policy.deny_tool,
        admin: policy.admin,
        listen: policy.listen,
        audit: policy.audit.map(|text| match text.as_str() {
            "off" => AuditTo::Off,
            _ => AuditTo::File(text),
        }),
        allow_scripts: shared.allow_scripts,
        credentials: shared.credential,
    }
}

pub(super) fn surroundings() -> Result<Surroundings, Error> {
    let directory = std::env::current_dir().map_err(|source| Error::Directory { source })?;
    let path = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    Ok(Surroundings {
        directory,
        home: path("HOME"),
        state_directory: path("STATE_DIRECTORY"),
        xdg_state_home: path("XDG_STATE_HOME"),
        credentials_directory: path("CREDENTIALS_DIRECTORY"),
        xdg_cache_home: path("XDG_CACHE_HOME"),
    })
}

/// The command line as clap sees it, for completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Typed { source } => Self::from_clap(&source),
            Error::Nothing => Self::new(Exit::USAGE, message)
                .hint("cofferdam run --read ~/docs -- npx -y @modelcontextprotocol/server-filesystem ~/docs")
                .hint("cofferdam run --config github.toml")
                .hint("`cofferdam run --help` lists every flag"),
            Error::OtherCommand { .. } => Self::new(Exit::USAGE, message),
            Error::Directory { .. } => Self::new(Exit::UNAVAILABLE, message),
            Error::Config { source } => Self::from_config(&source),
        }
    }
}

impl Failure {
    /// clap's own words, without its "error: " in front.
    fn from_clap(error: &clap::Error) -> Self {
        let text = error.render();
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Self::new(Exit::OK, String::new()).details(text.ansi().to_string());
        }
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Self::new(Exit::USAGE, "no command was given").details(text.ansi().to_string());
        }
        let plain = text.to_string();
        let plain = plain.strip_prefix("error: ").unwrap_or(&plain);
        let (first, rest) = plain.split_once('\n').unwrap_or((plain, ""));
        // A mistyped flag before `--` is never meant as a word of the command.
        let rest: Vec<&str> = rest
            .lines()
            .filter(|line| !line.trim_start().starts_with("tip: to pass "))
            .collect();
        let rest = rest.join("\n").replace("\n\n\n", "\n\n");
        Self::new(Exit::USAGE, first.trim_end()).details(rest.trim_start_matches('\n'))
    }

    fn from_config(error: &config::Error) -> Self {
        let message = error.to_string();
        let failure = match error {
            config::Error::Flags { problems } => {
                let mut problems = problems.iter();
                let tell = |problem: &config::Problem| match problem.place {
                    config::Place::Flag(flag) => format!("{flag}: {}", problem.message),
                    _ => problem.message.clone(),
                };
                let first = problems.next();
                let mut failure = Self::new(Exit::USAGE, first.map_or(message, tell));
                for hint in first.iter().flat_map(|problem| &problem.hints) {
                    failure = failure.hint(hint);
                }
                return problems.fold(failure, |failure, problem| {
                    failure.hint(format!("also, {}", tell(problem)))
                });
            }
            _ => Self::new(Exit::CONFIG, message),
        };
        let failure = failure.details(error.details(true));
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn run_and_exec_become_the_same_cell() {
        let flags =
            "--read /a --allow-exec git --allow-host x.org:5432 --memory 1GiB -v -- prog -x --y";
        let run = to_config(&words(&format!("run --dry-run {flags}"))).unwrap();
        let exec = to_config(&words(&format!("exec {flags}"))).unwrap();
        assert_eq!(format!("{:?}", run.config), format!("{:?}", exec.config));
        assert_eq!(run.config.server.command, ["prog", "-x", "--y"]);
        assert_eq!(run.config.cell.egress[0].port, 5432);
        assert_eq!((run.verbose, run.dry_run, exec.dry_run), (1, true, false));
    }

    #[test]
    fn without_anything_to_run_there_is_no_configuration() {
        for text in ["run", "exec", "run --read /a"] {
            let error = to_config(&words(text)).unwrap_err();
            assert!(matches!(error, Error::Nothing), "{text}");
            assert_eq!(Failure::from(error).exit(), Exit::USAGE);
        }
    }

    #[test]
    fn other_commands_have_no_configuration() {
        for text in [
            "doctor",
            "schema",
            "completions bash",
            "demo",
            "client list",
            "tls self-signed",
        ] {
            let error = to_config(&words(text)).unwrap_err();
            let name = text.split(' ').next().unwrap();
            assert_eq!(
                error.to_string(),
                format!("`{name}` takes no configuration")
            );
        }
    }

    #[test]
    fn asking_for_help_is_no_failure() {
        for text in ["--help", "--version", "run --help"] {
            let failure = Failure::from(to_config(&words(text)).unwrap_err());
            assert_eq!(failure.exit(), Exit::OK, "{text}");
        }
    }
}
