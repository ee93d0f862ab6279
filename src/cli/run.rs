//! `run`: from the command line to the application.

use super::args::{self, Format, RunArgs};
use super::exit::Exit;
use super::exit::Failure;
use super::{exit, preflight, show};
use crate::app;
use crate::config::{Access, Config, Grants};
use crate::telemetry::logs;
use std::ffi::OsString;
use std::process::ExitCode;

/// `words` are those of the command line without the program's own name: the spawner parses them
/// again by itself.
pub(super) fn run(args: &RunArgs, words: Vec<OsString>) -> Result<ExitCode, Failure> {
    let resolved = args::resolve(args)?;
    if resolved.dry_run {
        return Ok(exit::print(&show::human(&resolved)));
    }
    if let Some(key) = not_served(&resolved.config) {
        // What is configured and not in force would be a protection that is not there.
        return Err(Failure::new(
            Exit::CONFIG,
            format!("`{key}` is valid, but the listener of this version does not serve it"),
        ));
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
    let code = app::run(resolved.config, &words).map_err(|error| {
        let failure = Failure::new(Exit::from(error.code()), error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    Ok(ExitCode::from(code))
}

/// What may be written and checked, and is not asked by the listener yet.
fn not_served(config: &Config) -> Option<&'static str> {
    config.listen.as_ref()?;
    let Access {
        identity,
        clients,
        groups,
    } = &config.access;
    let limits = &config.limits;
    let tools = || config.tools.named.values().chain([&config.tools.default]);
    let scopes = tools().any(|tool| tool.scopes.is_some())
        || !config.resource_scopes.is_empty()
        || !config.prompt_scopes.is_empty();
    [
        ("identity.scopes", !identity.scopes.is_empty()),
        (
            "clients",
            clients.values().any(|client| {
                client.grants != Grants::default()
                    || !client.groups.is_empty()
                    || client.rate.is_some()
                    || client.concurrency.is_some()
                    || client.quota.is_some()
            }),
        ),
        ("groups", !groups.is_empty()),
        ("scopes", scopes),
        (
            "limits.rate",
            limits.rate.is_some() || tools().any(|tool| tool.rate.is_some()),
        ),
        (
            "limits.concurrency",
            limits.concurrency.is_some() || tools().any(|tool| tool.concurrency.is_some()),
        ),
        ("limits.quota", limits.quota.is_some()),
    ]
    .into_iter()
    .find_map(|(key, is_set)| is_set.then_some(key))
}
