//! How what was typed becomes a [`Config`], and what is said of it where it cannot.
//!
//! The message process and the spawner both call [`to_config`] on the same words, so it looks at nothing but
//! the file and a few variables.

use super::{Cli, Command, ExecArgs, Format, PolicyArgs, RunArgs};
use crate::cli::exit::{Exit, Failure};
use crate::config::{self, AuditTo, Config, File, Origins, Overrides, Surroundings};
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

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

pub(in crate::cli) fn overrides(args: &RunArgs) -> Overrides {
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

pub(in crate::cli) fn surroundings() -> Result<Surroundings, Error> {
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
