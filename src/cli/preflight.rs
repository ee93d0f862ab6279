//! What a configuration names, looked for on this host: `run` stops at what is missing, `check`
//! lists it.

mod door;

use super::exit::{Exit, Failure};
use crate::cell::{is_being_written, package};
use crate::config::{Config, EnvRule, nearest};
use crate::mcp::method;
use crate::secret::source::{self, SourceError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Something that is not as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// One sentence, lower case, without a full stop.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
    /// The code that `run` would end with; `None`: it would run.
    pub(super) exit: Option<Exit>,
}

/// Everything, the fatal first.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut all = fatal(config);
    all.extend(notable(config));
    all
}

/// What would keep the server from starting.
///
/// # Errors
/// The first of them, with the others as hints.
pub(super) fn first_failure(config: &Config) -> Result<(), Failure> {
    let mut found = fatal(config).into_iter();
    let Some(first) = found.next() else {
        return Ok(());
    };
    let failure = Failure::new(first.exit.unwrap_or(Exit::CONFIG), first.message);
    let failure = first.hint.into_iter().fold(failure, Failure::hint);
    Err(found.fold(failure, |failure, next| {
        failure.hint(format!("also, {}", next.message))
    }))
}

fn fatal(config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    // `npx` and `uvx` are words for an installation of ours; what that needs it finds by itself.
    let here = std::env::current_dir().unwrap_or_default();
    let elsewhere = config.server.is_elsewhere();
    let installed =
        !elsewhere && !matches!(package::detect(&config.server.command, &here), Ok(None));
    if let Some(program) = config.server.command.first().filter(|_| !installed) {
        all.extend(program_missing(program));
    }
    if let Some(directory) = &config.server.cwd
        && let Some(error) = unreadable(directory)
    {
        all.push(path_finding("server.cwd", directory, &error));
    }
    for credential in config.credentials.iter().filter(|it| !it.is_by_tenant()) {
        // A file that is being written is waited for by whoever starts the server.
        if let Err(error) = source::read(credential, is_being_written)
            && !matches!(error, SourceError::BeingWritten { .. })
        {
            all.push(Finding {
                message: format!("credentials.{}: {error}", credential.name),
                hint: Some("the server does not start without it".to_owned()),
                exit: Some(Exit::CONFIG),
            });
        }
    }
    for (key, paths) in [
        ("cell.read", &config.cell.read),
        ("cell.write", &config.cell.write),
    ] {
        for path in paths {
            if let Some(error) = unreadable(path) {
                all.push(path_finding(key, path, &error));
            }
        }
    }
    all.extend(door::fatal(config));
    all
}

/// What is set and cannot be meant, so that `run` says it too.
pub(super) fn mistaken(config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    let cell = &config.cell;
    let granted = cell.read.len() + cell.write.len() + cell.execute.len();
    let limited = cell.memory.is_some() || cell.processes.is_some() || cell.cpu.is_some();
    let set = granted + cell.env.len() + cell.egress.len() > 0 || limited;
    if config.server.is_elsewhere() && set {
        all.push(note(
            "the server runs elsewhere, so nothing that is granted to a cell has any effect, nor do its limits"
                .to_owned(),
            "",
        ));
    }
    let methods = &config.methods;
    let allowed = methods.allow.iter().flatten().map(|it| ("allow", it));
    let denied = methods.deny.iter().map(|it| ("deny", it));
    all.extend(
        allowed
            .chain(denied)
            .filter_map(|(list, name)| no_method(list, name)),
    );
    all
}

/// A pattern without a star that matches no method of any revision. A server may have methods of its
/// own, so it is no error.
fn no_method(list: &str, name: &str) -> Option<Finding> {
    let known = || method::ALL.iter().map(|method| method.name);
    // What is denied is compared without regard to case.
    let is_known = |known: &str| match list {
        "deny" => known.eq_ignore_ascii_case(name),
        _ => known == name,
    };
    if name.contains('*') || known().any(is_known) {
        return None;
    }
    let near = nearest(name, known()).map(|near| format!("did you mean `{near}`?"));
    Some(note(
        format!("`{name}` (methods.{list}) is no method of the protocol"),
        &near.unwrap_or_default(),
    ))
}

fn note(message: String, hint: &str) -> Finding {
    Finding {
        message,
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
        exit: None,
    }
}

fn notable(config: &Config) -> Vec<Finding> {
    let mut all = door::notable(config);
    all.extend(mistaken(config));
    for rule in &config.cell.env {
        if let EnvRule::Pass(name) = rule
            && std::env::var_os(name).is_none()
        {
            all.push(note(
                format!("the variable `{name}` is passed on, but is not set here"),
                "",
            ));
        }
    }
    for layer in &config.cell.optional {
        all.push(note(
            format!("the server starts also where `{layer}` cannot be enforced"),
            "",
        ));
    }
    for layer in &config.cell.off {
        all.push(note(format!("the layer `{layer}` is switched off"), ""));
    }
    if let Some(date) = &config.server.review_by
        && let Ok(date) = date.parse::<jiff::civil::Date>()
        && date
            < jiff::Timestamp::now()
                .to_zoned(jiff::tz::TimeZone::UTC)
                .date()
    {
        all.push(note(
            format!("this configuration was to be reviewed by {date}"),
            "",
        ));
    }
    all
}

fn path_finding(key: &str, path: &Path, error: &io::Error) -> Finding {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    Finding {
        message: format!("`{}` ({key}) {what}", path.display()),
        hint: None,
        exit: Some(Exit::CONFIG),
    }
}

/// Tries what the server will do. FIFOs and devices are not opened: that could block or act.
fn unreadable(path: &Path) -> Option<io::Error> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(error),
    };
    if metadata.is_dir() {
        std::fs::read_dir(path).err()
    } else if metadata.is_file() {
        crate::config::open_file(path).err()
    } else {
        None
    }
}

/// Looks for a program as execvp(3) does.
fn program_missing(program: &str) -> Option<Finding> {
    let finding = |message, hint: Option<String>, exit| {
        Some(Finding {
            message,
            hint,
            exit: Some(exit),
        })
    };
    let cannot = |path: &Path| {
        finding(
            format!("`{}` cannot be executed", path.display()),
            Some("is it a program, and does it have the permission to execute?".to_owned()),
            Exit::CANNOT_EXECUTE,
        )
    };
    if program.contains('/') {
        let path = Path::new(program);
        return match std::fs::metadata(path) {
            Ok(_) if executable(path) => None,
            Ok(_) => cannot(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => cannot(path),
            Err(_) => finding(
                format!("the program `{program}` does not exist"),
                None,
                Exit::NOT_FOUND,
            ),
        };
    }
    match find(program) {
        Search::Found(_) => None,
        Search::NotExecutable(path) => cannot(&path),
        Search::Nowhere => finding(
            format!("the program `{program}` was not found on PATH"),
            Some("write its whole path, or set PATH where cofferdam is started".to_owned()),
            Exit::NOT_FOUND,
        ),
    }
}

/// Where a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Search {
    Found(PathBuf),
    NotExecutable(PathBuf),
    Nowhere,
}

/// Looks for a bare name on PATH.
pub(super) fn find(program: &str) -> Search {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Search::Nowhere;
    for directory in std::env::split_paths(&path) {
        let candidate = directory.join(program);
        if executable(&candidate) {
            return Search::Found(candidate);
        }
        if found == Search::Nowhere && candidate.is_file() {
            found = Search::NotExecutable(candidate);
        }
    }
    found
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
