//! `exec`: from the command line to a program in its cell; and `__spawn`, the spawner by itself.

use super::again::Again;
use super::args;
use super::exit::{Exit, Failure};
use super::preflight;
use crate::app::{self, ExecOptions};
use crate::cell::spawn::Mode;
use std::ffi::OsString;
use std::process::ExitCode;

/// `words` are those of the command line without the program's own name.
pub(super) fn exec(words: &[OsString]) -> Result<ExitCode, Failure> {
    let args = args::to_run(words)?;
    let resolved = args::resolve(&args)?;
    if resolved.config.server.upstream.is_some() {
        // What runs elsewhere has no cell to look around in.
        return Err(args::Error::Nothing.into());
    }
    preflight::first_failure(&resolved.config)?;
    let options = ExecOptions {
        verbose: resolved.verbose,
        quiet: resolved.quiet,
    };
    let again = Again::of(&args)?;
    Ok(app::exec(resolved.config, &again, &options))
}

/// `__spawn FD MODE WORDS…`: the spawner that a message process with the words WORDS has, for whoever
/// speaks its protocol on descriptor FD. Tests do, as one that was taken over would.
pub(super) fn spawn(mut words: impl Iterator<Item = OsString>) -> Result<ExitCode, Failure> {
    let by_hand = || Failure::new(Exit::SOFTWARE, "`__spawn` is for tests of the spawner");
    let mut word = || words.next()?.into_string().ok();
    let control = word().and_then(|n| n.parse().ok()).ok_or_else(by_hand)?;
    let mode = word().and_then(|m| Mode::parse(&m)).ok_or_else(by_hand)?;
    let words: Vec<OsString> = words.collect();
    let args = args::to_run(&words)?;
    let config = args::resolve(&args)?.config;
    let again = Again::of(&args)?;
    Ok(app::lone_spawner(control, mode, config, &again))
}
