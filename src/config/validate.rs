//! File and flags together become one [`Config`], or a list of everything that is wrong with them.
//!
//! Flags win: a flag replaces a single value, and adds its entries to a list of the file. A flag
//! about a tool, a variable or a layer replaces what the file says about that same one.

use super::diagnose::{self, Place, Problem};
use super::entries::{self, EntryError};
use super::load::{Error, File};
use super::origin::{Origin, Origins};
use super::raw::{self, At, Raw};
use super::{
    AdminAddr, Audit, ByteSize, Cell, Check, Config, EgressRule, EnvRule, LAYERS, Limits,
    NameRules, Packages, Payloads, Preset, SchemaChecks, SecretsMode, Server, TimeSpan, ToolRule,
    Tools, name,
};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

const DEFAULT_MESSAGE: ByteSize = ByteSize(1 << 20);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_TIMEOUT_TOTAL: Duration = Duration::from_secs(3600);

/// Below, `initialize` itself would not pass; above, one message could take the host's memory.
const MESSAGE_RANGE: RangeInclusive<ByteSize> = ByteSize(1 << 10)..=ByteSize(1 << 30);
/// Below, no runtime starts.
const MEMORY_RANGE: RangeInclusive<ByteSize> = ByteSize(16 << 20)..=ByteSize(64 << 40);
const TIME_RANGE: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_millis(10))..=TimeSpan(Duration::from_secs(7 * 24 * 3600));
/// 2^22 is the largest `pid_max` of Linux (proc(5)).
const MOST_PROCESSES: u64 = 1 << 22;

/// What the flags say, in the units of [`Config`]; `None` and empty: nothing.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub name: Option<String>,
    pub command: Vec<String>,
    pub read: Vec<String>,
    pub write: Vec<String>,
    pub execute: Vec<String>,
    pub env: Vec<EnvRule>,
    pub egress: Vec<EgressRule>,
    pub preset: Option<Preset>,
    pub memory: Option<ByteSize>,
    pub processes: Option<u64>,
    pub require: Vec<String>,
    pub optional: Vec<String>,
    pub request: Option<ByteSize>,
    pub response: Option<ByteSize>,
    pub timeout: Option<TimeSpan>,
    pub scrub: Option<SecretsMode>,
    /// Tools that may be called; when there is one, the rest is denied.
    pub allow_tools: Vec<String>,
    pub deny_tools: Vec<String>,
    pub admin: Option<AdminAddr>,
    pub audit: Option<AuditTo>,
    pub allow_scripts: bool,
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
        let cell = self.cell(&raw.cell, flags);
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
        let methods = self.names("methods.allow", "methods.deny", &raw.methods);
        let resources = self.names("resources.allow", "resources.deny", &raw.resources);
        let prompts = self.names("prompts.allow", "prompts.deny", &raw.prompts);
        let tools = self.tools(&raw.tools, flags, &limits);
        let admin = self.admin(raw.admin.as_ref(), flags);
        let audit = self.audit(&raw.audit, flags);
        let packages = self.packages(&raw.packages, flags);
        let state_dir = self.state_dir(&server.name);
        Config {
            server,
            admin,
            cell,
            limits,
            scrub: secrets.unwrap_or_default(),
            schema,
            methods,
            resources,
            prompts,
            tools,
            audit,
            packages,
            state_dir,
        }
    }

    fn server(&mut self, raw: &raw::Server, flags: &Overrides) -> Server {
        let mut command = Vec::new();
        if !flags.command.is_empty() {
            self.origins.set("server.command", Origin::Command);
            command = flags.command.clone();
            let directory = self.around.directory.clone();
            self.program(&mut command, &directory, &Place::Flag("--"));
        } else if let Some(written) = &raw.command {
            let origin = self.line(written.span());
            self.origins.set("server.command", origin);
            command = written
                .value()
                .iter()
                .map(|word| word.value().clone())
                .collect();
            let base = self.base.clone();
            self.program(&mut command, &base, &Place::File(written.span()));
        } else {
            self.problems.push(
                Problem::new(Place::Absent, "`server.command` is missing").hint(
                    "write the program and its arguments, as in `command = [\"npx\", \"-y\", \"SERVER\"]`, \
                     or put them after `--`",
                ),
            );
        }

        let name = if let Some(flag) = &flags.name {
            self.note(name::check(flag), &Place::Flag("--name"));
            self.origins.set("server.name", Origin::Flag("--name"));
            flag.clone()
        } else if let Some(written) = &raw.name {
            self.note(name::check(written.value()), &Place::File(written.span()));
            let origin = self.line(written.span());
            self.origins.set("server.name", origin);
            written.value().clone()
        } else {
            self.origins.set("server.name", Origin::Command);
            name::derive(&command)
        };

        if let Some(transport) = &raw.transport {
            // One transport exists; the match makes a second one a compile error here.
            match transport.value() {
                raw::Transport::Stdio => {}
            }
        }
        let review_by = raw.review_by.as_ref().and_then(|written| {
            let date = written.value();
            if date.time.is_some() || date.date.is_none() {
                self.problems.push(
                    Problem::new(
                        Place::File(written.span()),
                        "`server.review_by` is not a date",
                    )
                    .hint("write year, month and day, as in `review_by = 2027-02-01`"),
                );
            }
            let origin = self.line(written.span());
            self.origins.set("server.review_by", origin);
            date.date.map(|date| date.to_string())
        });
        let owner = raw.owner.as_ref().map(|written| {
            if written.value().chars().any(char::is_control) {
                self.problems.push(Problem::new(
                    Place::File(written.span()),
                    "`server.owner` holds control characters",
                ));
            }
            let origin = self.line(written.span());
            self.origins.set("server.owner", origin);
            written.value().clone()
        });
        Server {
            name,
            command,
            owner,
            review_by,
            cwd: self.file_path("server.cwd", raw.cwd.as_ref()),
        }
    }

    /// Checks the words of a command; a program with a `/` becomes absolute.
    fn program(&mut self, command: &mut [String], base: &Path, place: &Place) {
        let empty = command.first().is_none_or(String::is_empty);
        if empty {
            self.problems.push(
                Problem::new(place.clone(), "the command is empty")
                    .hint("its first word is the program to run"),
            );
        }
        if command.iter().any(|word| word.contains('\0')) {
            self.problems
                .push(Problem::new(place.clone(), "the command holds a NUL byte"));
        }
        if let Some(program) = command.first_mut()
            && (program.contains('/') || program.starts_with('~'))
        {
            match self.absolute(program, base) {
                // Text joined to a base that is not UTF-8 stays as it was written.
                Ok(path) => {
                    if let Some(path) = path.to_str() {
                        path.clone_into(program);
                    }
                }
                Err(error) => self.note(Err(error), place),
            }
        }
    }

    fn cell(&mut self, raw: &raw::Cell, flags: &Overrides) -> Cell {
        let preset = self.pick("cell.preset", raw.preset.as_ref(), flags.preset, "--preset");
        let memory = self.pick("cell.memory", raw.memory.as_ref(), flags.memory, "--memory");
        let place = place_of(raw.memory.as_ref(), flags.memory, "--memory");
        self.range("cell.memory", memory, &MEMORY_RANGE, &place);

        let written = raw.processes.as_ref();
        // A negative number is out of range like 0 is.
        let number = written.map(|at| u64::try_from(*at.value()).unwrap_or(0));
        if let (Some(at), None) = (written, flags.processes) {
            let origin = self.line(at.span());
            self.origins.set("cell.processes", origin);
        } else if flags.processes.is_some() {
            self.origins
                .set("cell.processes", Origin::Flag("--processes"));
        }
        let processes = flags.processes.or(number);
        let place = place_of(written, flags.processes, "--processes");
        self.range("cell.processes", processes, &(1..=MOST_PROCESSES), &place);

        let read = self.paths("cell.read", &raw.read, &flags.read, "--read");
        let write = self.paths("cell.write", &raw.write, &flags.write, "--write");
        self.apart("cell.read", &raw.read, "cell.write", &raw.write);
        let execute = self.execute(raw, flags);
        let env = self.env(raw, flags);
        let egress = self.list(
            "cell.egress",
            &raw.egress,
            &flags.egress,
            "--allow-host",
            FromStr::from_str,
        );
        let (require, optional) = self.layers(raw, flags);
        Cell {
            preset,
            read,
            write,
            execute,
            env,
            egress,
            memory,
            processes,
            require,
            optional,
        }
    }

    /// A bare name is looked up on PATH later; anything with a `/` is a path now.
    fn execute(&mut self, raw: &raw::Cell, flags: &Overrides) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let base = self.base.clone();
        let directory = self.around.directory.clone();
        let file = raw
            .execute
            .iter()
            .map(|at| (at.value(), Place::File(at.span()), &base));
        let flag = flags
            .execute
            .iter()
            .map(|text| (text, Place::Flag("--allow-exec"), &directory));
        for (text, place, base) in file.chain(flag) {
            let entry = match text.contains('/') || text.starts_with('~') {
                false if text.is_empty() || text.contains('\0') => Err(EntryError::new(
                    "this is not a program",
                    "write a path or a name",
                )),
                false => Ok(text.clone()),
                true => self
                    .absolute(text, base)
                    .map(|path| path.to_string_lossy().into_owned()),
            };
            match entry {
                Err(error) => self.note(Err(error), &place),
                Ok(entry) => self.add("cell.execute", &mut all, entry, &place),
            }
        }
        all
    }

    /// One rule for each variable; that of a flag replaces that of the file.
    fn env(&mut self, raw: &raw::Cell, flags: &Overrides) -> Vec<EnvRule> {
        let mut all: Vec<EnvRule> = Vec::new();
        for at in &raw.env {
            let place = Place::File(at.span());
            match at.value().parse::<EnvRule>() {
                Err(error) => self.note(Err(error), &place),
                Ok(rule) if all.iter().any(|other| other.name() == rule.name()) => {
                    self.twice(&place, &format!("the variable `{}`", rule.name()));
                }
                Ok(rule) => self.add("cell.env", &mut all, rule, &place),
            }
        }
        for rule in &flags.env {
            match all.iter().position(|other| other.name() == rule.name()) {
                Some(at) => {
                    if let Some(entry) = all.get_mut(at) {
                        entry.clone_from(rule);
                    }
                    self.origins
                        .replace("cell.env", at, Origin::Flag("--allow-env"));
                }
                None => self.add(
                    "cell.env",
                    &mut all,
                    rule.clone(),
                    &Place::Flag("--allow-env"),
                ),
            }
        }
        all
    }

    fn layers(&mut self, raw: &raw::Cell, flags: &Overrides) -> (Vec<String>, Vec<String>) {
        let mut require = self.list("cell.require", &raw.require, &[], "--require", layer);
        let mut optional = self.list("cell.optional", &raw.optional, &[], "--optional", layer);
        self.apart("cell.require", &raw.require, "cell.optional", &raw.optional);
        self.layer_flags(
            &flags.require,
            "--require",
            ("cell.require", &mut require),
            ("cell.optional", &mut optional),
            layer,
        );
        for wanted in &flags.optional {
            if flags.require.contains(wanted) {
                self.problems.push(Problem::new(
                    Place::Flag("--optional"),
                    format!("the layer `{wanted}` is both required and optional"),
                ));
            }
        }
        self.layer_flags(
            &flags.optional,
            "--optional",
            ("cell.optional", &mut optional),
            ("cell.require", &mut require),
            layer,
        );
        (require, optional)
    }

    fn layer_flags(
        &mut self,
        wanted: &[String],
        flag: &'static str,
        (key, into): (&'static str, &mut Vec<String>),
        (other_key, other): (&'static str, &mut Vec<String>),
        parse: impl Fn(&str) -> Result<String, EntryError>,
    ) {
        for text in wanted {
            let place = Place::Flag(flag);
            match parse(text) {
                Err(error) => self.note(Err(error), &place),
                Ok(layer) => {
                    if let Some(at) = other.iter().position(|have| *have == layer) {
                        other.remove(at);
                        self.origins.remove(other_key, at);
                    }
                    self.add(key, into, layer, &place);
                }
            }
        }
    }

    fn limits(&mut self, raw: &raw::Limits, flags: &Overrides) -> Limits {
        let mut size = |key, file: &Option<At<ByteSize>>, flag: Option<ByteSize>, name| {
            let file = file.as_ref();
            let value = self.pick(key, file, flag, name);
            self.range(key, value, &MESSAGE_RANGE, &place_of(file, flag, name));
            value.unwrap_or(DEFAULT_MESSAGE)
        };
        let request = size(
            "limits.request",
            &raw.request,
            flags.request,
            "--request-limit",
        );
        let response = size(
            "limits.response",
            &raw.response,
            flags.response,
            "--response-limit",
        );

        let idle = self.pick(
            "limits.timeout",
            raw.timeout.as_ref(),
            flags.timeout,
            "--timeout",
        );
        let place = place_of(raw.timeout.as_ref(), flags.timeout, "--timeout");
        self.range("limits.timeout", idle, &TIME_RANGE, &place);
        let total = self.only("limits.timeout_total", raw.timeout_total.as_ref());
        if let Some(at) = &raw.timeout_total {
            let place = Place::File(at.span());
            self.range("limits.timeout_total", total, &TIME_RANGE, &place);
        }
        self.ordered(idle, total, &place);
        // One that is not given follows the one that is: `timeout = "2h"` means two hours, and
        // `timeout_total = "10s"` leaves no room for 300 s of silence.
        let timeout = match (idle, total) {
            (Some(idle), _) => idle.0,
            (None, Some(total)) => DEFAULT_TIMEOUT.min(total.0),
            (None, None) => DEFAULT_TIMEOUT,
        };
        let timeout_total = total.map_or(DEFAULT_TIMEOUT_TOTAL.max(timeout), |total| total.0);
        Limits {
            request,
            response,
            timeout,
            timeout_total,
        }
    }

    fn ordered(&mut self, idle: Option<TimeSpan>, total: Option<TimeSpan>, place: &Place) {
        if let (Some(idle), Some(total)) = (idle, total)
            && idle > total
        {
            self.problems.push(
                Problem::new(
                    place.clone(),
                    format!("`timeout` ({idle}) is longer than `timeout_total` ({total})"),
                )
                .hint("the time of silence cannot be longer than the whole time"),
            );
        }
    }

    fn names(
        &mut self,
        allow_key: &'static str,
        deny_key: &'static str,
        raw: &raw::Names,
    ) -> NameRules {
        let deny = self.list(deny_key, &raw.deny, &[], "", pattern);
        let allow = raw.allow.as_ref().map(|allow| {
            self.apart(allow_key, allow, deny_key, &raw.deny);
            self.list(allow_key, allow, &[], "", pattern)
        });
        NameRules { allow, deny }
    }

    fn tools(
        &mut self,
        raw: &BTreeMap<At<String>, raw::Tool>,
        flags: &Overrides,
        limits: &Limits,
    ) -> Tools {
        let mut tools = Tools::default();
        for (name, written) in raw {
            self.note(pattern(name.value()).map(drop), &Place::File(name.span()));
            let rule = self.tool(name.value(), written, limits);
            match name.value().as_str() {
                "*" => tools.default = rule,
                named => {
                    tools.named.insert(named.to_owned(), rule);
                }
            }
        }
        if !flags.allow_tools.is_empty() {
            tools.default.allow = Some(false);
            self.origins
                .set("tools.*.allow", Origin::Flag("--allow-tool"));
        }
        for (names, allow, flag) in [
            (&flags.allow_tools, true, "--allow-tool"),
            (&flags.deny_tools, false, "--deny-tool"),
        ] {
            for name in names {
                self.note(pattern(name).map(drop), &Place::Flag(flag));
                if !allow && flags.allow_tools.contains(name) {
                    self.problems.push(Problem::new(
                        Place::Flag(flag),
                        format!(
                            "the tool `{}` is both allowed and denied",
                            entries::shown(name)
                        ),
                    ));
                }
                let rule = match name.as_str() {
                    "*" => &mut tools.default,
                    named => tools.named.entry(named.to_owned()).or_default(),
                };
                rule.allow = Some(allow);
                self.origins
                    .set(format!("tools.{name}.allow"), Origin::Flag(flag));
            }
        }
        tools
    }

    fn tool(&mut self, name: &str, raw: &raw::Tool, limits: &Limits) -> ToolRule {
        let key = |field: &str| format!("tools.{name}.{field}");
        let mut time = |field: &str, at: Option<&At<TimeSpan>>| {
            let value = self.only(key(field), at);
            if let Some(at) = at {
                self.range(&key(field), value, &TIME_RANGE, &Place::File(at.span()));
            }
            value
        };
        let idle = time("timeout", raw.timeout.as_ref());
        let mut total = time("timeout_total", raw.timeout_total.as_ref());
        if let Some(at) = &raw.timeout {
            self.ordered(idle, total, &Place::File(at.span()));
        }
        // As in `limits`: a longer silence alone lengthens the whole.
        if total.is_none() && idle.is_some_and(|idle| idle.0 > limits.timeout_total) {
            total = idle;
        }
        ToolRule {
            allow: self.only(key("allow"), raw.allow.as_ref()),
            timeout: idle.map(|idle| idle.0),
            timeout_total: total.map(|total| total.0),
            arguments: self.only(key("arguments"), raw.arguments.as_ref()),
            output: self.only(key("output"), raw.output.as_ref()),
        }
    }

    fn admin(&mut self, raw: Option<&raw::Admin>, flags: &Overrides) -> Option<AdminAddr> {
        if let Some(address) = &flags.admin {
            self.origins.set("admin.listen", Origin::Flag("--admin"));
            let directory = self.around.directory.clone();
            return Some(self.socket(address.clone(), &directory, &Place::Flag("--admin")));
        }
        let Some(listen) = &raw?.listen else {
            self.problems.push(
                Problem::new(Place::Absent, "`admin.listen` is missing")
                    .hint("write `listen = \"127.0.0.1:9464\"`, or leave [admin] out"),
            );
            return None;
        };
        let place = Place::File(listen.span());
        let origin = self.line(listen.span());
        self.origins.set("admin.listen", origin);
        match listen.value().parse() {
            Ok(address) => {
                let base = self.base.clone();
                Some(self.socket(address, &base, &place))
            }
            Err(error) => {
                self.note(Err(error), &place);
                None
            }
        }
    }

    fn socket(&mut self, address: AdminAddr, base: &Path, place: &Place) -> AdminAddr {
        let AdminAddr::Unix(path) = &address else {
            return address;
        };
        match self.absolute(&path.to_string_lossy(), base) {
            Ok(path) => AdminAddr::Unix(path),
            Err(error) => {
                self.note(Err(error), place);
                address
            }
        }
    }

    fn audit(&mut self, raw: &raw::Audit, flags: &Overrides) -> Audit {
        let mut enabled = self
            .only("audit.enabled", raw.enabled.as_ref())
            .unwrap_or(true);
        let mut file = self.file_path("audit.file", raw.file.as_ref());
        if let (false, Some(at)) = (enabled, &raw.file) {
            self.problems.push(
                Problem::new(
                    Place::File(at.span()),
                    "`audit.file` is set, but audit is off",
                )
                .hint("take out `file`, or `enabled = false`"),
            );
        }
        match &flags.audit {
            None => {}
            Some(AuditTo::Off) => {
                enabled = false;
                file = None;
                self.origins.set("audit.enabled", Origin::Flag("--audit"));
            }
            Some(AuditTo::File(text)) => {
                enabled = true;
                self.origins.set("audit.enabled", Origin::Flag("--audit"));
                self.origins.set("audit.file", Origin::Flag("--audit"));
                match self.absolute(text, &self.around.directory) {
                    Ok(path) => file = Some(path),
                    Err(error) => self.note(Err(error), &Place::Flag("--audit")),
                }
            }
        }
        Audit {
            enabled,
            file,
            payloads: self
                .only("audit.payloads", raw.payloads.as_ref())
                .unwrap_or(Payloads::Digest),
        }
    }

    fn packages(&mut self, raw: &raw::Packages, flags: &Overrides) -> Packages {
        let flag = flags.allow_scripts.then_some(true);
        let scripts = self.pick(
            "packages.scripts",
            raw.scripts.as_ref(),
            flag,
            "--allow-scripts",
        );
        let token_env = self.list("packages.token_env", &raw.token_env, &[], "", |name| {
            entries::variable_name(name).map(|()| name.to_owned())
        });
        let cache = self
            .file_path("packages.cache", raw.cache.as_ref())
            .unwrap_or_else(|| {
                let (path, origin) = self.below(
                    (&self.around.xdg_cache_home, "XDG_CACHE_HOME"),
                    ".cache",
                    "/var/cache",
                );
                self.origins.set("packages.cache", origin);
                path
            });
        Packages {
            scripts: scripts.unwrap_or(false),
            token_env,
            cache,
        }
    }

    fn state_dir(&mut self, name: &str) -> PathBuf {
        if let Some(directory) = usable(&self.around.state_directory) {
            self.origins
                .set("state_dir", Origin::Environment("STATE_DIRECTORY"));
            return directory;
        }
        let (path, origin) = self.below(
            (&self.around.xdg_state_home, "XDG_STATE_HOME"),
            ".local/state",
            "/var/lib",
        );
        self.origins.set("state_dir", origin);
        path.join(name)
    }

    /// `cofferdam` in an XDG directory; a process without a home gets the system's (FHS).
    fn below(
        &self,
        (variable, name): (&Option<PathBuf>, &'static str),
        in_home: &str,
        system: &str,
    ) -> (PathBuf, Origin) {
        if let Some(directory) = usable(variable) {
            return (directory.join("cofferdam"), Origin::Environment(name));
        }
        let directory = usable(&self.around.home)
            .map_or_else(|| PathBuf::from(system), |home| home.join(in_home));
        (directory.join("cofferdam"), Origin::Default)
    }

    // ---- the pieces ----

    /// A value that only the file can set.
    fn only<T: Copy>(&mut self, key: impl Into<String>, file: Option<&At<T>>) -> Option<T> {
        let at = file?;
        let origin = self.line(at.span());
        self.origins.set(key, origin);
        Some(*at.value())
    }

    /// A value that a flag replaces.
    fn pick<T: Copy>(
        &mut self,
        key: &str,
        file: Option<&At<T>>,
        flag: Option<T>,
        name: &'static str,
    ) -> Option<T> {
        if flag.is_some() {
            self.origins.set(key, Origin::Flag(name));
            return flag;
        }
        self.only(key, file)
    }

    fn range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        value: Option<T>,
        range: &RangeInclusive<T>,
        place: &Place,
    ) {
        if value.is_some_and(|value| !range.contains(&value)) {
            self.problems.push(Problem::new(
                place.clone(),
                format!("`{key}` must be from {} to {}", range.start(), range.end()),
            ));
        }
    }

    fn paths(
        &mut self,
        key: &'static str,
        file: &[At<String>],
        flags: &[String],
        flag: &'static str,
    ) -> Vec<PathBuf> {
        let base = self.base.clone();
        let mut all = Vec::new();
        for at in file {
            let place = Place::File(at.span());
            match self.absolute(at.value(), &base) {
                Err(error) => self.note(Err(error), &place),
                Ok(path) => self.add(key, &mut all, path, &place),
            }
        }
        for text in flags {
            let place = Place::Flag(flag);
            match self.absolute(text, &self.around.directory) {
                Err(error) => self.note(Err(error), &place),
                Ok(path) => self.add(key, &mut all, path, &place),
            }
        }
        all
    }

    fn list<T: PartialEq + Clone>(
        &mut self,
        key: &'static str,
        file: &[At<String>],
        flags: &[T],
        flag: &'static str,
        parse: impl Fn(&str) -> Result<T, EntryError>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for at in file {
            let place = Place::File(at.span());
            match parse(at.value()) {
                Err(error) => self.note(Err(error), &place),
                Ok(entry) => self.add(key, &mut all, entry, &place),
            }
        }
        for entry in flags {
            self.add(key, &mut all, entry.clone(), &Place::Flag(flag));
        }
        all
    }

    /// Adds an entry once. Twice in a file is a mistake; a flag that repeats the file is not.
    fn add<T: PartialEq>(&mut self, key: &'static str, all: &mut Vec<T>, entry: T, place: &Place) {
        if all.contains(&entry) {
            if matches!(place, Place::File(_)) {
                self.twice(place, "this entry");
            }
            return;
        }
        let origin = match place {
            Place::File(span) => self.line(span.clone()),
            Place::Flag(flag) => Origin::Flag(flag),
            Place::Absent => Origin::Default,
        };
        self.origins.push(key, origin);
        all.push(entry);
    }

    fn twice(&mut self, place: &Place, what: &str) {
        self.problems.push(
            Problem::new(place.clone(), format!("{what} is listed twice")).hint("keep one of them"),
        );
    }

    /// No entry may be in both lists.
    fn apart(&mut self, one: &str, first: &[At<String>], two: &str, second: &[At<String>]) {
        for at in second {
            if first.iter().any(|other| other.value() == at.value()) {
                self.problems.push(
                    Problem::new(
                        Place::File(at.span()),
                        format!(
                            "`{}` is in `{one}` and in `{two}`",
                            entries::shown(at.value())
                        ),
                    )
                    .hint("keep it in the one that you mean"),
                );
            }
        }
    }

    fn file_path(&mut self, key: &str, file: Option<&At<String>>) -> Option<PathBuf> {
        let at = file?;
        let origin = self.line(at.span());
        self.origins.set(key, origin);
        match self.absolute(at.value(), &self.base) {
            Ok(path) => Some(path),
            Err(error) => {
                self.note(Err(error), &Place::File(at.span()));
                None
            }
        }
    }

    /// `~` expanded, joined to `base`, without `.` components. `..` stays: what it means depends on
    /// links that only the kernel can follow.
    fn absolute(&self, text: &str, base: &Path) -> Result<PathBuf, EntryError> {
        if text.is_empty() || text.contains('\0') {
            return Err(EntryError::new(
                "this is not a path",
                "write a file or a directory",
            ));
        }
        let joined = match text.strip_prefix('~') {
            None => base.join(text),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let home = usable(&self.around.home).ok_or_else(|| {
                    EntryError::new(
                        "`~` is not known, because HOME is not set",
                        "write the whole path",
                    )
                })?;
                home.join(rest.trim_start_matches('/'))
            }
            Some(_) => {
                return Err(EntryError::new(
                    format!("`{}` names the home of another user", entries::shown(text)),
                    "write the whole path, or `./~…` for a file of that name",
                ));
            }
        };
        Ok(joined
            .components()
            .filter(|component| !matches!(component, Component::CurDir))
            .collect())
    }

    fn note(&mut self, result: Result<(), EntryError>, place: &Place) {
        if let Err(error) = result {
            let mut problem = Problem::new(place.clone(), error.what);
            if !error.hint.is_empty() {
                problem = problem.hint(error.hint);
            }
            self.problems.push(problem);
        }
    }

    fn line(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        Origin::File {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        }
    }
}

/// The XDG specification: a relative path in these variables is to be ignored. systemd separates
/// several state directories by colons; the first is ours.
fn usable(variable: &Option<PathBuf>) -> Option<PathBuf> {
    let path = variable.as_ref()?;
    let first = path
        .to_str()
        .and_then(|text| text.split(':').next())
        .map_or_else(|| path.clone(), PathBuf::from);
    first.is_absolute().then_some(first)
}

fn place_of<A, B>(file: Option<&At<A>>, flag: Option<B>, name: &'static str) -> Place {
    match (flag, file) {
        (None, Some(at)) => Place::File(at.span()),
        _ => Place::Flag(name),
    }
}

/// A layer of the cell by its name.
fn layer(text: &str) -> Result<String, EntryError> {
    if LAYERS.contains(&text) {
        return Ok(text.to_owned());
    }
    let shown = entries::shown(text);
    let what = match diagnose::nearest(text, LAYERS) {
        Some(near) => format!("`{shown}` is not a layer of this version; did you mean `{near}`?"),
        None => format!("`{shown}` is not a layer of this version"),
    };
    Err(EntryError::new(
        what,
        "`cofferdam doctor` lists the layers and what this host can enforce",
    ))
}

/// A name or a pattern of names: anything but nothing and control characters.
fn pattern(text: &str) -> Result<String, EntryError> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(EntryError::new(
            format!("`{}` cannot be the name of anything", entries::shown(text)),
            "",
        ));
    }
    Ok(text.to_owned())
}
