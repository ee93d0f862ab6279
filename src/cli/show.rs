//! The effective configuration as text, each value with who set it. Values of variables are never
//! shown: they are often secrets.

mod access;
mod guards;
mod upstream;

use super::args::Resolved;
use super::printable::printable;
use crate::config::{EnvRule, NameRules, Origin, TimeSpan, ToolRule, Word};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// One line: a value and who set it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    section: &'static str,
    /// The key as the file writes it.
    key: String,
    /// What stands before the value.
    label: String,
    shown: String,
    value: Value,
    origin: Origin,
}

/// For people: sections with aligned columns.
pub(super) fn human(resolved: &Resolved) -> String {
    const LABEL: usize = 16;
    const VALUE: usize = 44;
    let mut text = String::new();
    let (mut section, mut label) = ("", "");
    let rows = rows(resolved);
    for row in &rows {
        if row.section != section {
            section = row.section;
            label = "";
            let break_before = if text.is_empty() { "" } else { "\n" };
            writeln!(text, "{break_before}{BOLD}{section}{BOLD:#}").ok();
        }
        // A list names its label once.
        let first = if row.label == label {
            ""
        } else {
            row.label.as_str()
        };
        label = &row.label;
        let (origin, shown) = (row.origin, printable(&row.shown));
        writeln!(
            text,
            "  {first:LABEL$}  {shown:VALUE$}  {DIM}{origin}{DIM:#}"
        )
        .ok();
    }
    text
}

const BOLD: clap::builder::styling::Style = clap::builder::styling::Style::new().bold();
const DIM: clap::builder::styling::Style = clap::builder::styling::Style::new().dimmed();

/// For programs: a list of `{key, value, origin}`.
pub(super) fn json(resolved: &Resolved) -> Value {
    rows(resolved)
        .into_iter()
        .map(|row| json!({"key": row.key, "value": row.value, "origin": row.origin.to_string()}))
        .collect()
}

struct Rows<'a> {
    resolved: &'a Resolved,
    section: &'static str,
    all: Vec<Row>,
}

fn rows(resolved: &Resolved) -> Vec<Row> {
    let mut rows = Rows {
        resolved,
        section: "",
        all: Vec::new(),
    };
    rows.server();
    if resolved.config.server.is_elsewhere() {
        rows.section = "Cell";
        rows.one(
            "cell",
            "none: the server is no process of ours",
            Value::Null,
        );
    } else {
        rows.cell();
        rows.packages();
    }
    rows.credentials();
    rows.policy();
    rows.limits();
    rows.guards();
    rows.listener();
    rows.access();
    rows.outside();
    rows.all
}

impl Rows<'_> {
    /// A value under the key `key`; the label is the key's last part.
    fn one(&mut self, key: &str, shown: impl Into<String>, value: impl Into<Value>) {
        let origin = self.resolved.origins.of(key);
        let label = key.rsplit('.').next().unwrap_or(key).replace('_', " ");
        self.row(key, label, shown.into(), value.into(), origin);
    }

    fn row(&mut self, key: &str, label: String, shown: String, value: Value, origin: Origin) {
        self.all.push(Row {
            section: self.section,
            key: key.to_owned(),
            label,
            shown,
            value,
            origin,
        });
    }

    /// One row for each entry, or one that says what an empty list means.
    fn list(&mut self, key: &str, entries: &[String], empty: &str) {
        let label = key.rsplit('.').next().unwrap_or(key).replace('_', " ");
        if entries.is_empty() {
            self.row(key, label, empty.to_owned(), json!([]), Origin::Default);
            return;
        }
        for (index, entry) in entries.iter().enumerate() {
            let origin = self.resolved.origins.entry(key, index);
            let value = Value::from(entry.as_str());
            self.row(key, label.clone(), entry.clone(), value, origin);
        }
    }

    fn server(&mut self) {
        self.section = "Server";
        let server = &self.resolved.config.server;
        self.one("server.name", &server.name, server.name.as_str());
        if let Some(upstream) = &server.upstream {
            self.upstream(upstream);
        }
        if !server.is_elsewhere() {
            let words: Vec<String> = server.command.iter().map(|word| quoted(word)).collect();
            self.one("server.command", words.join(" "), server.command.clone());
        }
        match &server.cwd {
            Some(path) => self.one(
                "server.cwd",
                path.display().to_string(),
                path.to_string_lossy(),
            ),
            None => self.one("server.cwd", "where cofferdam is started", Value::Null),
        }
        let transport = if server.upstream.is_some() {
            "http"
        } else {
            "stdio"
        };
        self.one("server.transport", transport, transport);
        let restart = server.restart.as_str();
        self.one("server.restart", restart, restart);
        if let Some(path) = &server.kill_file {
            let shown = path.display().to_string();
            self.one("server.kill_file", &shown, shown.as_str());
        }
        let replace = server.replace.as_str();
        self.one("server.replace", replace, replace);
        if let Some(owner) = &server.owner {
            self.one("server.owner", owner, owner.as_str());
        }
        if let Some(date) = &server.review_by {
            self.one("server.review_by", date, date.as_str());
        }
    }

    fn cell(&mut self) {
        self.section = "Cell";
        let cell = &self.resolved.config.cell;
        match cell.preset {
            Some(preset) => self.one("cell.preset", preset.as_str(), preset.as_str()),
            None => self.one("cell.preset", "chosen by the command", Value::Null),
        }
        let paths = |paths: &[std::path::PathBuf]| -> Vec<String> {
            paths
                .iter()
                .map(|path| path.display().to_string())
                .collect()
        };
        self.list(
            "cell.read",
            &paths(&cell.read),
            "only what the preset needs",
        );
        self.list(
            "cell.write",
            &paths(&cell.write),
            "only a private temporary directory",
        );
        self.list("cell.execute", &cell.execute, "only what the preset needs");
        let env: Vec<String> = cell
            .env
            .iter()
            .map(|rule| match rule {
                EnvRule::Pass(name) => format!("{name} (ours)"),
                EnvRule::Set(name, _) => format!("{name} (set here)"),
            })
            .collect();
        self.list("cell.env", &env, "only what the preset needs");
        let hosts: Vec<String> = cell.egress.iter().map(ToString::to_string).collect();
        self.list("cell.egress", &hosts, "no network");
        let ranges: Vec<String> = cell
            .egress_private
            .iter()
            .map(ToString::to_string)
            .collect();
        if !ranges.is_empty() {
            self.list("cell.egress_private", &ranges, "");
        }
        match cell.memory {
            Some(size) => self.one("cell.memory", size.to_string(), size.0),
            None => self.one("cell.memory", "that of the preset", Value::Null),
        }
        match cell.processes {
            Some(count) => self.one("cell.processes", count.to_string(), count),
            None => self.one("cell.processes", "that of the preset", Value::Null),
        }
        match &cell.user {
            Some(user) => self.one("cell.user", user, user.as_str()),
            None => self.one("cell.user", "never root", Value::Null),
        }
        match cell.cpu {
            Some(cores) => self.one("cell.cpu", cores.to_string(), cores.to_string()),
            None => self.one("cell.cpu", "not limited", Value::Null),
        }
        match &cell.syscalls {
            Some(path) => self.one(
                "cell.syscalls",
                path.display().to_string(),
                path.to_string_lossy(),
            ),
            None => self.one(
                "cell.syscalls",
                "all that the cell does not refuse",
                Value::Null,
            ),
        }
        self.list(
            "cell.require",
            &cell.require,
            "every layer of the floor but the optional",
        );
        self.list("cell.optional", &cell.optional, "none");
        self.list("cell.off", &cell.off, "none");
    }

    fn packages(&mut self) {
        self.section = "Packages";
        let packages = &self.resolved.config.packages;
        let scripts = if packages.scripts {
            "run, inside the install cell"
        } else {
            "never run"
        };
        self.one("packages.scripts", scripts, packages.scripts);
        self.list("packages.token_env", &packages.token_env, "none");
        let cache = &packages.cache;
        self.one(
            "packages.cache",
            cache.display().to_string(),
            cache.to_string_lossy(),
        );
    }

    fn credentials(&mut self) {
        self.section = "Credentials";
        let time = |time: Duration| TimeSpan(time).to_string();
        for credential in &self.resolved.config.credentials {
            let key = |field: &str| format!("credentials.{}.{field}", credential.name);
            let file = credential.file.display().to_string();
            let part = credential.key.as_ref();
            let part = part.map_or_else(String::new, |part| format!(", its `{part}`"));
            let shown = format!("{file}{part}, as {}", credential.inject);
            let value = json!({
                "file": file,
                "key": credential.key,
                "env": credential.inject.variable(),
                "header": credential.inject.header(),
                "inject": credential.inject.to_string(),
                "environment": credential.environment,
                "overlap": time(credential.overlap),
                "rotate_every": credential.rotate_every.map(time),
            });
            let origin = self.resolved.origins.of(&key("file"));
            self.row(&key("file"), credential.name.clone(), shown, value, origin);
        }
    }

    fn policy(&mut self) {
        self.section = "Policy";
        let config = &self.resolved.config;
        let secrets = config.scrub.as_str();
        self.one("scrub.secrets", secrets, secrets);
        let checks = config.schema;
        self.one(
            "schema.arguments",
            checks.arguments.as_str(),
            checks.arguments.as_str(),
        );
        self.one(
            "schema.output",
            checks.output.as_str(),
            checks.output.as_str(),
        );
        self.names(
            ["methods", "methods.allow", "methods.deny"],
            &config.methods,
        );
        self.names(
            ["resources", "resources.allow", "resources.deny"],
            &config.resources,
        );
        self.names(
            ["prompts", "prompts.allow", "prompts.deny"],
            &config.prompts,
        );
        for (key, label, all) in [
            ("resources.scopes", "resources", &config.resource_scopes),
            ("prompts.scopes", "prompts", &config.prompt_scopes),
        ] {
            for (pattern, scopes) in all {
                let origin = self.resolved.origins.of(&format!("{key}.{pattern}"));
                let shown = format!("{pattern} needs scopes {}", scopes.join(" "));
                self.row(
                    key,
                    label.to_owned(),
                    shown,
                    json!({ pattern: scopes }),
                    origin,
                );
            }
        }
        self.tool("*", &config.tools.default, true);
        for (name, rule) in &config.tools.named {
            self.tool(name, rule, false);
        }
    }

    fn names(&mut self, [label, allow_key, deny_key]: [&str; 3], rules: &NameRules) {
        if rules.allow.is_none() && rules.deny.is_empty() {
            self.row(
                allow_key,
                label.to_owned(),
                "all".to_owned(),
                Value::Null,
                Origin::Default,
            );
        }
        if rules.allow.as_ref().is_some_and(Vec::is_empty) {
            let origin = self.resolved.origins.of(allow_key);
            self.row(
                allow_key,
                label.to_owned(),
                "none".to_owned(),
                json!([]),
                origin,
            );
        }
        let allow = rules.allow.iter().flatten();
        for (key, word, entries) in [
            (allow_key, "allow", allow.collect::<Vec<_>>()),
            (deny_key, "deny", rules.deny.iter().collect()),
        ] {
            for (index, name) in entries.into_iter().enumerate() {
                let origin = self.resolved.origins.entry(key, index);
                self.row(
                    key,
                    label.to_owned(),
                    format!("{word} {name}"),
                    json!(name),
                    origin,
                );
            }
        }
    }

    fn tool(&mut self, name: &str, rule: &ToolRule, default: bool) {
        let key = |field: &str| format!("tools.{name}.{field}");
        let time = |time: Duration| TimeSpan(time).to_string();
        let fields = [
            (
                "allow",
                rule.allow.or(default.then_some(true)).map(|allow| {
                    (
                        if allow { "allow" } else { "deny" }.to_owned(),
                        json!(allow),
                    )
                }),
            ),
            (
                "timeout",
                rule.timeout
                    .map(|t| (format!("timeout {}", time(t)), json!(time(t)))),
            ),
            (
                "timeout_total",
                rule.timeout_total
                    .map(|t| (format!("timeout in all {}", time(t)), json!(time(t)))),
            ),
            (
                "arguments",
                rule.arguments
                    .map(|c| (format!("arguments {}", c.as_str()), json!(c.as_str()))),
            ),
            (
                "output",
                rule.output
                    .map(|c| (format!("output {}", c.as_str()), json!(c.as_str()))),
            ),
            (
                "effect",
                rule.effect
                    .map(|e| (format!("effect {}", e.as_str()), json!(e.as_str()))),
            ),
            (
                "scopes",
                rule.scopes
                    .as_ref()
                    .map(|s| (format!("needs scopes {}", s.join(" ")), json!(s))),
            ),
            (
                "rate",
                access::rate(rule.rate)
                    .map(|shown| (shown, json!(rule.rate.map(|r| r.to_string())))),
            ),
            (
                "concurrency",
                rule.concurrency
                    .map(|count| (format!("{count} at one time"), json!(count))),
            ),
            (
                "idempotent",
                rule.idempotent.map(|yes| {
                    let shown = if yes { "idempotent" } else { "not idempotent" };
                    (shown.to_owned(), json!(yes))
                }),
            ),
        ];
        for (field, found) in fields.into_iter().chain(guards::of_tool(rule)) {
            if let Some((shown, value)) = found {
                let origin = self.resolved.origins.of(&key(field));
                let label = if default {
                    "tools".to_owned()
                } else {
                    format!("tool {name}")
                };
                self.row(&key(field), label, shown, value, origin);
            }
        }
    }

    fn limits(&mut self) {
        self.section = "Limits";
        let limits = &self.resolved.config.limits;
        self.one(
            "limits.request",
            limits.request.to_string(),
            limits.request.0,
        );
        self.one(
            "limits.response",
            limits.response.to_string(),
            limits.response.0,
        );
        let idle = TimeSpan(limits.timeout).to_string();
        self.one("limits.timeout", format!("{idle} of silence"), idle);
        let total = TimeSpan(limits.timeout_total).to_string();
        self.one("limits.timeout_total", format!("{total} in all"), total);
        self.places();
    }

    fn listener(&mut self) {
        let Some(listen) = &self.resolved.config.listen else {
            return;
        };
        self.section = "Listener";
        let address = listen.http.to_string();
        self.one("listen.http", address.as_str(), address.as_str());
        self.one("listen.path", listen.path.as_str(), listen.path.as_str());
        if let Some(url) = &listen.public_url {
            self.one("listen.public_url", url.as_str(), url.as_str());
        }
        let state = listen.state.as_str();
        self.one("listen.state", state, state);
        let share = match listen.share {
            true => "all sessions use one server process",
            false => "each session has a server process",
        };
        self.one("listen.share", share, listen.share);
        let counted = |count: usize| (count.to_string(), json!(count));
        let (shown, value) = counted(listen.sessions);
        self.one("listen.sessions", shown, value);
        let (shown, value) = counted(listen.connections);
        self.one("listen.connections", shown, value);
        for (key, time) in [
            ("listen.session_idle", listen.session_idle),
            ("listen.header_timeout", listen.header_timeout),
            ("listen.body_timeout", listen.body_timeout),
        ] {
            let time = TimeSpan(time).to_string();
            self.one(key, time.clone(), time);
        }
    }

    fn outside(&mut self) {
        self.section = "Audit and admin";
        let config = &self.resolved.config;
        let audit = &config.audit;
        if audit.enabled {
            let file = match &audit.file {
                Some(file) => file.clone(),
                None => config.state_dir.join("audit.jsonl"),
            };
            let (key, payloads) = ("audit.file", audit.payloads.as_str());
            let origin = match audit.file {
                Some(_) => self.resolved.origins.of(key),
                None => self.resolved.origins.of("state_dir"),
            };
            let (shown, value) = (file.display().to_string(), json!(file.to_string_lossy()));
            self.row(key, "audit".to_owned(), shown, value, origin);
            self.one("audit.payloads", payloads, payloads);
        } else {
            let origin = self.resolved.origins.of("audit.enabled");
            self.row(
                "audit.enabled",
                "audit".to_owned(),
                "off".to_owned(),
                json!(false),
                origin,
            );
        }
        match &config.admin {
            Some(address) => self.one("admin.listen", address.to_string(), address.to_string()),
            None => self.one("admin.listen", "no listener", Value::Null),
        }
    }
}

/// A word as a shell would take it back.
pub(super) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./@:=+,%".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
