//! What a reload comes to: which settings are others, when they count, and what they protect less than
//! before.
//!
//! Sections are compared as a whole, so a setting that is added one day is never passed over in
//! silence.

use super::{Check, Client, Config, NameRules, SecretsMode, Tools};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// Settings by when they count; each list holds keys of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// At once, for what is asked from now on.
    pub live: Vec<&'static str>,
    /// With the next process of the server.
    pub server: Vec<&'static str>,
    /// Not before cofferdam is started again: they stay as they were.
    pub later: Vec<&'static str>,
    /// What is protected less than before, each in a few words.
    pub weaker: Vec<String>,
}

impl Changes {
    /// True when nothing is another than before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.server.is_empty() && self.later.is_empty()
    }
}

/// Joins what counts at once, or with the next server, with what stays as it was.
#[must_use]
pub fn renew(old: &Config, new: Config) -> (Config, Changes) {
    let mut changes = Changes::default();
    later(old, &new, &mut changes.later);
    server(old, &new, &mut changes.server);
    live(old, &new, &mut changes.live);
    let joined = keep(old, new);
    // Whatever is another now and has no name above.
    if changes.live.is_empty() && changes.server.is_empty() && differ(old, &joined) {
        changes.live.push("other settings");
    }
    changes.weaker = weaker(old, &joined);
    (joined, changes)
}

fn differ<T: Debug>(old: &T, new: &T) -> bool {
    format!("{old:?}") != format!("{new:?}")
}

fn note<T: Debug>(keys: &mut Vec<&'static str>, key: &'static str, old: &T, new: &T) {
    if differ(old, new) {
        keys.push(key);
    }
}

fn later(old: &Config, new: &Config, keys: &mut Vec<&'static str>) {
    note(keys, "server.name", &old.server.name, &new.server.name);
    let files = (&old.server.kill_file, &new.server.kill_file);
    note(keys, "server.kill_file", files.0, files.1);
    let url = |config: &Config| (config.server.upstream.clone(), config.cell.serves);
    note(keys, "server.url", &url(old), &url(new));
    note(keys, "listen", &old.listen, &new.listen);
    let identity = (&old.access.identity, &new.access.identity);
    note(keys, "identity", identity.0, identity.1);
    note(keys, "admin", &old.admin, &new.admin);
    let file = |config: &Config| (config.audit.enabled, config.audit.file.clone());
    note(keys, "audit.file", &file(old), &file(new));
}

fn server(old: &Config, new: &Config, keys: &mut Vec<&'static str>) {
    let (from, to) = (&old.server, &new.server);
    note(keys, "server.command", &from.command, &to.command);
    note(keys, "server.cwd", &from.cwd, &to.cwd);
    note(keys, "cell", &old.cell, &new.cell);
    note(keys, "packages", &old.packages, &new.packages);
    note(keys, "credentials", &old.credentials, &new.credentials);
}

fn live(old: &Config, new: &Config, keys: &mut Vec<&'static str>) {
    let (from, to) = (&old.server, &new.server);
    note(keys, "server.owner", &from.owner, &to.owner);
    note(keys, "server.review_by", &from.review_by, &to.review_by);
    note(keys, "server.restart", &from.restart, &to.restart);
    note(keys, "server.replace", &from.replace, &to.replace);
    let (from, to) = (&old.access, &new.access);
    note(keys, "clients", &from.clients, &to.clients);
    note(keys, "groups", &from.groups, &to.groups);
    note(keys, "limits", &old.limits, &new.limits);
    note(keys, "breaker", &old.breaker, &new.breaker);
    note(keys, "retry", &old.retry, &new.retry);
    note(keys, "repeats", &old.repeats, &new.repeats);
    note(keys, "budget", &old.budgets, &new.budgets);
    note(keys, "scrub", &old.scrub, &new.scrub);
    note(keys, "schema", &old.schema, &new.schema);
    note(keys, "methods", &old.methods, &new.methods);
    let resources = |of: &Config| (of.resources.clone(), of.resource_scopes.clone());
    note(keys, "resources", &resources(old), &resources(new));
    let prompts = |of: &Config| (of.prompts.clone(), of.prompt_scopes.clone());
    note(keys, "prompts", &prompts(old), &prompts(new));
    note(keys, "tools", &old.tools, &new.tools);
    let payloads = (&old.audit.payloads, &new.audit.payloads);
    note(keys, "audit.payloads", payloads.0, payloads.1);
}

/// What was bound, opened or named once stays so.
fn keep(old: &Config, mut new: Config) -> Config {
    new.server.name.clone_from(&old.server.name);
    new.server.kill_file.clone_from(&old.server.kill_file);
    let moved = old.cell.serves != new.cell.serves;
    if moved || differ(&old.server.upstream, &new.server.upstream) {
        // What is run, and what it is given, go with it.
        new.cell.serves = old.cell.serves;
        new.server.upstream.clone_from(&old.server.upstream);
        new.server.command.clone_from(&old.server.command);
        new.credentials.clone_from(&old.credentials);
    }
    new.listen.clone_from(&old.listen);
    new.access.identity = old.access.identity.clone();
    new.admin.clone_from(&old.admin);
    new.audit.enabled = old.audit.enabled;
    new.audit.file.clone_from(&old.audit.file);
    new.state_dir.clone_from(&old.state_dir);
    new
}

/// A configuration as a set of facts of which each makes it weaker or stronger.
#[derive(Debug, Default)]
struct Strength {
    /// More of them protect less.
    grants: BTreeSet<String>,
    /// Fewer of them protect less.
    guards: BTreeSet<String>,
    /// Larger ones protect less; the largest is no limit at all.
    measures: BTreeMap<String, u128>,
}

const NO_LIMIT: u128 = u128::MAX;
const NO_LIST: &str = "without an allow list";

fn weaker(old: &Config, new: &Config) -> Vec<String> {
    let (from, to) = (Strength::of(old), Strength::of(new));
    let added = to.grants.difference(&from.grants);
    let removed = from.guards.difference(&to.guards);
    let keys: BTreeSet<&String> = from.measures.keys().chain(to.measures.keys()).collect();
    let larger = keys.into_iter().filter(|key| to.size(key) > from.size(key));
    added
        .filter(|grant| !from.is_open(grant))
        .map(|grant| format!("{grant} is new"))
        .chain(removed.map(|guard| format!("{guard} is gone")))
        .chain(larger.map(|key| format!("{key} allows more")))
        .chain(allowed(&old.tools, &new.tools))
        .chain(others(&old.access.clients, &new.access.clients, "clients"))
        .chain(others(&old.access.groups, &new.access.groups, "groups"))
        .collect()
}

/// Tools that may be called now and might not before; `*` stands for those without a word.
fn allowed(old: &Tools, new: &Tools) -> Vec<String> {
    let may = |tools: &Tools, name: &str| {
        let own = tools.named.get(name).and_then(|rule| rule.allow);
        own.or(tools.default.allow).unwrap_or(true)
    };
    let names = old.named.keys().chain(new.named.keys()).map(String::as_str);
    let names: BTreeSet<&str> = names.chain(["*"]).collect();
    let more = names
        .into_iter()
        .filter(|name| !may(old, name) && may(new, name));
    more.map(|name| format!("tools.{name:?} is allowed"))
        .collect()
}

/// What somebody may do is not compared right by right: another entry is worth a look.
fn others<T: Debug>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    section: &str,
) -> Vec<String> {
    new.iter()
        .filter_map(|(name, entry)| match old.get(name) {
            None => Some(format!("{section}.{name} is new")),
            Some(before) if differ(before, entry) => {
                Some(format!("{section}.{name} may do something else"))
            }
            Some(_) => None,
        })
        .collect()
}

impl Strength {
    /// A tool without a word of its own goes by that for all.
    fn size(&self, key: &str) -> u128 {
        let last = key.rsplit('.').next().unwrap_or(key);
        let general = match last {
            "arguments" | "output" => format!("schema.{last}"),
            _ => format!("limits.{last}"),
        };
        let own = self.measures.get(key).or(self.measures.get(&general));
        own.copied().unwrap_or(NO_LIMIT)
    }

    /// True when what this entry of an allow list allows was allowed without a list.
    fn is_open(&self, grant: &str) -> bool {
        let section = grant.split_once(".allow ").map(|(section, _)| section);
        section.is_some_and(|section| self.grants.contains(&format!("{section} {NO_LIST}")))
    }

    fn of(config: &Config) -> Self {
        let mut all = Self::default();
        all.cell(config);
        all.names("methods", &config.methods);
        all.names("resources", &config.resources);
        all.names("prompts", &config.prompts);
        all.tools(&config.tools);
        all.limits(config);
        for (section, scopes) in [
            ("resources", &config.resource_scopes),
            ("prompts", &config.prompt_scopes),
        ] {
            for (pattern, needed) in scopes {
                all.scopes(&format!("{section}.scopes.{pattern:?}"), needed);
            }
        }
        for (name, client) in &config.access.clients {
            all.blocked(name, client);
        }
        all
    }

    fn grant(&mut self, key: &str, what: impl std::fmt::Display) {
        self.grants.insert(format!("{key} {what}"));
    }

    fn guard(&mut self, key: &str, what: impl std::fmt::Display) {
        self.guards.insert(format!("{key} {what}"));
    }

    fn measure(&mut self, key: &str, size: Option<u128>) {
        self.measures
            .insert(key.to_owned(), size.unwrap_or(NO_LIMIT));
    }

    fn cell(&mut self, config: &Config) {
        let cell = &config.cell;
        for (key, paths) in [("cell.read", &cell.read), ("cell.write", &cell.write)] {
            for path in paths {
                self.grant(key, path.display());
            }
        }
        for program in &cell.execute {
            self.grant("cell.execute", program);
        }
        for rule in &cell.env {
            let (super::EnvRule::Pass(name) | super::EnvRule::Set(name, _)) = rule;
            self.grant("cell.env", name);
        }
        for rule in &cell.egress {
            self.grant("cell.egress", format_args!("{}:{}", rule.host, rule.port));
        }
        for range in &cell.egress_private {
            self.grant("cell.egress_private", format_args!("{range:?}"));
        }
        for (key, layers) in [("cell.optional", &cell.optional), ("cell.off", &cell.off)] {
            for layer in layers {
                self.grant(key, layer);
            }
        }
        for layer in &cell.require {
            self.guard("cell.require", layer);
        }
        if let Some(list) = &cell.syscalls {
            self.guard("cell.syscalls", list.display());
        }
        if cell.user.as_deref() == Some("root") {
            self.grant("cell.user", "root");
        }
        self.measure("cell.memory", cell.memory.map(|size| size.0.into()));
        self.measure("cell.processes", cell.processes.map(u128::from));
        if cell.cpu.is_some() {
            self.guard("cell.cpu", "as a limit");
        }
        if config.packages.scripts {
            self.grant("packages.scripts", "of packages");
        }
        for name in &config.packages.token_env {
            self.grant("packages.token_env", name);
        }
    }

    fn names(&mut self, section: &str, rules: &NameRules) {
        match &rules.allow {
            None => self.grant(section, NO_LIST),
            Some(list) => {
                for name in list {
                    self.grant(&format!("{section}.allow"), format_args!("{name:?}"));
                }
            }
        }
        for name in &rules.deny {
            self.guard(&format!("{section}.deny"), format_args!("{name:?}"));
        }
    }

    fn tools(&mut self, tools: &Tools) {
        let all = [("*", &tools.default)];
        let named = tools.named.iter().map(|(name, rule)| (name.as_str(), rule));
        for (name, rule) in all.into_iter().chain(named) {
            let key = format!("tools.{name:?}");
            self.scopes(&key, rule.scopes.as_deref().unwrap_or_default());
            for (check, word) in [(rule.arguments, "arguments"), (rule.output, "output")] {
                if let Some(check) = check {
                    self.measure(&format!("{key}.{word}"), Some(laxness(check)));
                }
            }
            for (time, word) in [
                (rule.timeout, "timeout"),
                (rule.timeout_total, "timeout_total"),
            ] {
                if let Some(time) = time {
                    self.measure(&format!("{key}.{word}"), Some(time.as_millis()));
                }
            }
            if rule.rate.is_some() {
                self.guard(&key, "rate");
            }
            if rule.concurrency.is_some() {
                self.guard(&key, "concurrency");
            }
            if rule.budget.is_some() {
                self.guard(&key, "budget");
            }
        }
    }

    fn limits(&mut self, config: &Config) {
        let limits = &config.limits;
        let scrub = match config.scrub {
            SecretsMode::Refuse => 0,
            SecretsMode::Redact => 1,
            SecretsMode::Flag => 2,
            SecretsMode::Off => 3,
        };
        self.measure("scrub.secrets", Some(scrub));
        let schema = config.schema;
        self.measure("schema.arguments", Some(laxness(schema.arguments)));
        self.measure("schema.output", Some(laxness(schema.output)));
        self.measure("limits.request", Some(limits.request.0.into()));
        self.measure("limits.response", Some(limits.response.0.into()));
        self.measure("limits.timeout", Some(limits.timeout.as_millis()));
        let total = limits.timeout_total.as_millis();
        self.measure("limits.timeout_total", Some(total));
        self.measure("limits.concurrency", limits.concurrency.map(u128::from));
        self.measure("limits.quota", limits.quota.map(u128::from));
        // In millionths of a second for one, so that more is larger.
        let rate = limits
            .rate
            .map(|rate| u128::from(rate.count) * 1_000_000_000_000 / rate.per.as_micros().max(1));
        self.measure("limits.rate", rate);
        self.measure("limits.result", limits.result.map(|size| size.0.into()));
        let tokens = limits.result_tokens.map(u128::from);
        self.measure("limits.result_tokens", tokens);
        self.budgets(config);
    }

    fn budgets(&mut self, config: &Config) {
        let both = [
            ("budget.session", config.budgets.session),
            ("budget.client", config.budgets.client),
        ];
        for (key, budget) in both {
            let budget = budget.unwrap_or_default();
            let bytes = budget.bytes.map(|size| size.0.into());
            self.measure(&format!("{key}.calls"), budget.calls.map(u128::from));
            self.measure(&format!("{key}.bytes"), bytes);
            self.measure(&format!("{key}.tokens"), budget.tokens.map(u128::from));
        }
        for (set, key) in [
            (config.breaker.is_some(), "breaker"),
            (config.repeats.is_some(), "repeats"),
        ] {
            if set {
                self.guard(key, "as a guard");
            }
        }
    }

    fn scopes(&mut self, key: &str, needed: &[String]) {
        for scope in needed {
            self.guard(key, format_args!("scope {scope}"));
        }
    }

    fn blocked(&mut self, name: &str, client: &Client) {
        if client.blocked {
            self.guard(&format!("clients.{name}"), "blocked");
        }
    }
}

fn laxness(check: Check) -> u128 {
    match check {
        Check::Refuse => 0,
        Check::Warn => 1,
        Check::Off => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample;

    fn config(text: &str) -> Config {
        let text = format!("[server]\nname = \"s\"\ncommand = [\"/bin/true\"]\n{text}");
        sample(&text)
    }

    fn change(old: &str, new: &str) -> Changes {
        renew(&config(old), config(new)).1
    }

    #[test]
    fn the_same_is_no_change() {
        let text = "[cell]\nread = [\"/srv\"]\n[tools.\"a\"]\nallow = false\n";
        assert!(change(text, text).is_empty());
        assert_eq!(change(text, text).weaker, Vec::<String>::new());
    }

    #[test]
    fn each_section_counts_when_it_can() {
        let changes = change(
            "",
            "[tools.\"a\"]\nallow = false\n[cell]\nread = [\"/srv\"]\n[admin]\nlisten = \"127.0.0.1:1\"\n",
        );
        assert_eq!(changes.live, ["tools"]);
        assert_eq!(changes.server, ["cell"]);
        assert_eq!(changes.later, ["admin"]);
        let (joined, _) = renew(&config(""), config("[admin]\nlisten = \"127.0.0.1:1\"\n"));
        assert!(joined.admin.is_none(), "what cannot change stays as it was");
    }

    #[test]
    fn what_protects_less_is_named_and_what_protects_more_is_not() {
        for (strong, weak, words) in [
            (
                "[tools.\"a\"]\nallow = false\n",
                "",
                "tools.\"a\" is allowed",
            ),
            (
                "[tools.\"*\"]\nallow = false\n",
                "[tools.\"*\"]\nallow = false\n[tools.\"a\"]\nallow = true\n",
                "tools.\"a\" is allowed",
            ),
            (
                "",
                "[scrub]\nsecrets = \"off\"\n",
                "scrub.secrets allows more",
            ),
            (
                "",
                "[schema]\narguments = \"warn\"\n",
                "schema.arguments allows more",
            ),
            (
                "",
                "[limits]\nrequest = \"2MiB\"\n",
                "limits.request allows more",
            ),
            (
                "[methods]\ndeny = [\"ping\"]\n",
                "",
                "methods.deny \"ping\" is gone",
            ),
            (
                "[methods]\nallow = [\"tools/*\"]\n",
                "",
                "methods without an allow list is new",
            ),
            ("", "[cell]\nread = [\"/srv\"]\n", "cell.read /srv is new"),
            (
                "[cell]\nrequire = [\"namespaces\"]\n",
                "",
                "cell.require namespaces is gone",
            ),
            (
                "[cell]\nmemory = \"1GiB\"\n",
                "[cell]\nmemory = \"2GiB\"\n",
                "cell.memory allows more",
            ),
            (
                "",
                "[tools.\"a\"]\narguments = \"off\"\n",
                "tools.\"a\".arguments allows more",
            ),
            (
                "",
                "[tools.\"a\"]\ntimeout = \"10m\"\n",
                "tools.\"a\".timeout allows more",
            ),
        ] {
            let found = change(strong, weak).weaker;
            assert_eq!(found, [words], "{strong} to {weak}");
            let back = change(weak, strong).weaker;
            assert!(back.is_empty(), "{weak} to {strong}: {back:?}");
        }
    }
}
