//! File and flags together become one [`Config`], or a list of everything that is wrong with them.
//!
//! Flags win: a flag replaces a single value, and adds its entries to a list of the file. A flag
//! about a tool, a variable or a layer replaces what the file says about that same one.

mod cell;
mod credentials;
mod door;
mod guards;
mod identity;
mod listen;
mod outside;
mod pieces;
mod rules;
mod server;
mod upstream;

#[cfg(test)]
mod tests;

use super::Restart;
use super::diagnose::{self, Place, Problem};
use super::load::{Error, File};
use super::origin::Origins;
use super::raw::{At, Raw};
use super::{
    AdminAddr, ByteSize, Check, Config, Cores, EgressRule, Endpoint, EnvRule, Preset, SchemaChecks,
    SecretsMode, Server, TimeSpan,
};
use credentials::Spoken;
use std::path::PathBuf;

/// What the flags say, in the units of [`Config`]; `None` and empty: nothing.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub name: Option<String>,
    pub command: Vec<String>,
    /// In place of a command, or where the command listens in its cell.
    pub url: Option<Endpoint>,
    pub ca: Option<String>,
    pub pins: Vec<String>,
    pub read: Vec<String>,
    pub write: Vec<String>,
    pub execute: Vec<String>,
    pub env: Vec<EnvRule>,
    pub egress: Vec<EgressRule>,
    pub preset: Option<Preset>,
    pub memory: Option<ByteSize>,
    pub processes: Option<u64>,
    pub user: Option<String>,
    pub cpu: Option<Cores>,
    pub syscalls: Option<String>,
    pub require: Vec<String>,
    pub optional: Vec<String>,
    pub off: Vec<String>,
    pub request: Option<ByteSize>,
    pub response: Option<ByteSize>,
    pub timeout: Option<TimeSpan>,
    pub restart: Option<Restart>,
    pub scrub: Option<SecretsMode>,
    /// Tools that may be called; when there is one, the rest is denied.
    pub allow_tools: Vec<String>,
    pub deny_tools: Vec<String>,
    pub admin: Option<AdminAddr>,
    pub listen: Option<AdminAddr>,
    pub audit: Option<AuditTo>,
    pub allow_scripts: bool,
    pub credentials: Vec<CredentialRule>,
}

/// `--credential VARIABLE=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRule {
    pub variable: String,
    pub file: String,
}

/// Where `--audit` sends the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTo {
    Off,
    File(String),
}

/// What conversion needs to know of the process: nothing else is looked up.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Absolute; paths of flags are relative to it.
    pub directory: PathBuf,
    pub home: Option<PathBuf>,
    /// `$STATE_DIRECTORY`, set by systemd.
    pub state_directory: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`, set by systemd.
    pub credentials_directory: Option<PathBuf>,
    pub xdg_cache_home: Option<PathBuf>,
}

/// A valid configuration and who set what.
#[derive(Debug, Clone)]
pub struct Effective {
    pub config: Config,
    pub origins: Origins,
}

/// Joins file and flags.
///
/// # Errors
/// [`Error::Invalid`] for mistakes in the file, [`Error::Flags`] for mistakes in the flags; each
/// holds all that were found.
pub fn build(
    file: Option<&File>,
    flags: &Overrides,
    around: &Surroundings,
) -> Result<Effective, Error> {
    let nothing = Raw::default();
    let raw = file.map_or(&nothing, |file| &file.raw);
    let base = file.and_then(|file| file.path.parent()).map_or_else(
        || around.directory.clone(),
        |dir| around.directory.join(dir),
    );
    let mut builder = Builder {
        text: file.map_or("", |file| &file.text),
        base,
        around,
        problems: Vec::new(),
        origins: Origins::default(),
    };
    let config = builder.config(raw, flags);
    if builder.problems.is_empty() {
        return Ok(Effective {
            config,
            origins: builder.origins,
        });
    }
    let mut problems = builder.problems;
    diagnose::in_order(&mut problems);
    let by_flag = |problem: &Problem| matches!(problem.place, Place::Flag(_));
    Err(match file {
        Some(file) if !problems.iter().all(by_flag) => Error::Invalid {
            path: file.path.clone(),
            text: file.text.clone(),
            problems,
        },
        _ => Error::Flags { problems },
    })
}

struct Builder<'a> {
    text: &'a str,
    /// Directory of the file.
    base: PathBuf,
    around: &'a Surroundings,
    problems: Vec<Problem>,
    origins: Origins,
}

impl Builder<'_> {
    fn config(&mut self, raw: &Raw, flags: &Overrides) -> Config {
        let server = self.server(&raw.server, flags);
        let limits = self.limits(&raw.limits, flags);
        let mut cell = self.cell(&raw.cell, flags);
        cell.serves = serves(&server);
        let secrets = self.pick(
            "scrub.secrets",
            raw.scrub.secrets.as_ref(),
            flags.scrub,
            "--scrub",
        );
        let schema = SchemaChecks {
            arguments: self
                .only("schema.arguments", raw.schema.arguments.as_ref())
                .unwrap_or(Check::Refuse),
            output: self
                .only("schema.output", raw.schema.output.as_ref())
                .unwrap_or(Check::Warn),
        };
        let methods = self.names(
            ["methods.allow", "methods.deny"],
            raw.methods.allow.as_ref(),
            &raw.methods.deny,
        );
        let resources = self.names(
            ["resources.allow", "resources.deny"],
            raw.resources.allow.as_ref(),
            &raw.resources.deny,
        );
        let prompts = self.names(
            ["prompts.allow", "prompts.deny"],
            raw.prompts.allow.as_ref(),
            &raw.prompts.deny,
        );
        let resource_scopes = self.scopes_by("resources.scopes", &raw.resources.scopes);
        let prompt_scopes = self.scopes_by("prompts.scopes", &raw.prompts.scopes);
        let tools = self.tools(&raw.tools, flags, &limits);
        self.stand_ins(&raw.tools, &tools);
        let breaker = self.breaker(raw.breaker.as_ref());
        let retry = self.retry(raw.retry.as_ref());
        let repeats = self.repeats(raw.repeats.as_ref());
        let budgets = self.budgets(&raw.budget);
        let mut listen = self.listen(raw.listen.as_ref(), flags);
        let access = self.access(raw, listen.as_ref());
        self.door(raw, flags, listen.as_mut(), &access);
        let admin = self.admin(raw.admin.as_ref(), flags);
        let audit = self.audit(&raw.audit, flags);
        let packages = self.packages(&raw.packages, flags);
        let credentials = self.credentials(&raw.credentials, &cell, Spoken::to(&server), flags);
        let state_dir = self.state_dir(&server.name);
        Config {
            server,
            listen,
            access,
            admin,
            cell,
            limits,
            breaker,
            retry,
            repeats,
            budgets,
            scrub: secrets.unwrap_or_default(),
            schema,
            methods,
            resources,
            prompts,
            resource_scopes,
            prompt_scopes,
            tools,
            audit,
            packages,
            credentials,
            state_dir,
        }
    }
}

/// The port of a server on HTTP that we run ourselves.
fn serves(server: &Server) -> Option<u16> {
    let upstream = server.upstream.as_ref();
    let ours = upstream.filter(|_| !server.is_elsewhere());
    ours.map(|upstream| upstream.url.port)
}

fn place_of<A, B>(file: Option<&At<A>>, flag: Option<B>, name: &'static str) -> Place {
    match (flag, file) {
        (None, Some(at)) => Place::File(at.span()),
        _ => Place::Flag(name),
    }
}
