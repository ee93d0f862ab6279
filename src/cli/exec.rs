//! `exec`: from the command line to a program in its cell; and `__spawn`, which reads the same
//! command line again.

use super::again::Again;
use super::args;
use super::exit::{Exit, Failure};
use super::preflight;
use crate::app::{self, ExecOptions};
use crate::cell::spawn::Mode;
use std::ffi::OsString;
use std::process::ExitCode;

/// `words` are those of the command line without the program's own name.
pub(super) fn exec(words: Vec<OsString>) -> Result<ExitCode, Failure> {
    let resolved = args::to_config(&words)?;
    if resolved.config.server.upstream.is_some() {
        // What runs elsewhere has no cell to look around in.
        return Err(args::Error::Nothing.into());
    }
    preflight::first_failure(&resolved.config)?;
    let options = ExecOptions {
        words,
        verbose: resolved.verbose,
        quiet: resolved.quiet,
    };
    Ok(app::exec(&resolved.config, &options))
}

/// `__spawn FD MODE WORDS…`, where WORDS are those that the message process got.
pub(super) fn spawn(mut words: impl Iterator<Item = OsString>) -> Result<ExitCode, Failure> {
    let by_hand = || Failure::new(Exit::SOFTWARE, "`__spawn` is started by cofferdam itself");
    let mut word = || words.next()?.into_string().ok();
    let control = word().and_then(|n| n.parse().ok()).ok_or_else(by_hand)?;
    let mode = word().and_then(|m| Mode::parse(&m)).ok_or_else(by_hand)?;
    let words: Vec<OsString> = words.collect();
    let args = args::to_run(&words)?;
    let config = args::resolve(&args)?.config;
    let again = Again::of(&args)?;
    Ok(app::spawner(control, mode, config, &again))
}
