//! `run`: from the command line to the application.

use super::again::Again;
use super::args::{self, Format, RunArgs};
use super::exit::Exit;
use super::exit::Failure;
use super::printable::printable;
use super::{exit, preflight, show};
use crate::app;
use crate::telemetry::logs;
use std::process::ExitCode;

pub(super) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let resolved = args::resolve(args)?;
    if resolved.dry_run {
        return Ok(exit::print(&show::human(&resolved)));
    }
    preflight::first_failure(&resolved.config)?;
    let level = match (resolved.quiet, resolved.verbose) {
        (true, _) => tracing::Level::WARN,
        (false, 0) => tracing::Level::INFO,
        (false, _) => tracing::Level::DEBUG,
    };
    let format = match args.log_format {
        Format::Human => logs::Format::Human,
        Format::Json => logs::Format::Json,
    };
    logs::init(format, level);
    for finding in preflight::mistaken(&resolved.config) {
        let hint = finding
            .hint
            .map_or(String::new(), |hint| format!("; {hint}"));
        tracing::warn!("{}{hint}", printable(&finding.message));
    }
    let again = Box::new(Again::of(args)?);
    let code = app::run(resolved.config, again).map_err(|error| {
        let failure = Failure::new(Exit::from(error.code()), error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    Ok(ExitCode::from(code))
}
