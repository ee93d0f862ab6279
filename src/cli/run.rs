//! `run`: from the command line to the application.

use super::args::{self, RunArgs};
use super::exit::Failure;
use super::{out, preflight, show};
use crate::app::{self, RunOptions};
use std::ffi::OsString;
use std::process::ExitCode;

/// `words` are those of the command line without the program's own name: the spawner parses them
/// again by itself.
pub(super) fn run(args: &RunArgs, words: Vec<OsString>) -> Result<ExitCode, Failure> {
    let resolved = args::resolve(args)?;
    if resolved.dry_run {
        return Ok(out::print(&show::human(&resolved)));
    }
    preflight::first_failure(&resolved.config)?;
    let options = RunOptions {
        words,
        verbose: resolved.verbose,
        quiet: resolved.quiet,
        config_file: resolved.config_file,
    };
    Ok(app::run(resolved.config, options))
}
