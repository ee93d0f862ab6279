//! What a caller may reach: clients and groups of the configuration, and the scopes that tools,
//! resources and prompts need. Asked after the rules that hold for everybody, and only where there is a
//! caller: on stdin and stdout there is none.
//!
//! Lists that grant compare exactly, as everywhere; requirements compare folded, so that no second
//! spelling of a name is free of them.

use super::names::{Glob, fold};
use super::rules::{
    CLIENTS_PROMPTS, CLIENTS_READ_ONLY, CLIENTS_RESOURCES, CLIENTS_TOOLS, SCOPES_MISSING,
};
use super::uris::UriList;
use crate::config::{self, Config, Effect, NameRules, ToolRule, Tools};
use crate::identity::Caller;
use std::collections::{BTreeMap, HashMap};

/// Why a caller does not get something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Barred<'p> {
    /// It is not for this client: to it, there is no such thing.
    Hidden(&'static str),
    /// It could be, with all of these scopes.
    Scopes(Vec<&'p str>),
}

impl Barred<'_> {
    pub(super) fn rule(&self) -> &'static str {
        match self {
            Self::Hidden(rule) => rule,
            Self::Scopes(_) => SCOPES_MISSING,
        }
    }
}

/// What a request reaches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Tool,
    Resource,
    Prompt,
    /// Something that no rule is about.
    Other,
}

/// Everything that depends on who asks.
#[derive(Debug)]
pub(super) struct Permissions {
    clients: HashMap<Box<str>, Client>,
    everybody: Option<Client>,
    groups: HashMap<Box<str>, Grants>,
    /// What every request needs.
    baseline: Box<[String]>,
    tools: ToolNeeds,
    resources: Box<[(UriList, Box<[String]>)]>,
    prompts: Box<[(Glob, Box<[String]>)]>,
    /// Nothing is set that could bar anybody.
    open: bool,
}

#[derive(Debug)]
struct Client {
    own: Grants,
    groups: Box<[Box<str>]>,
}

#[derive(Debug)]
struct Grants {
    read_only: bool,
    tools: Option<Box<[Glob]>>,
    resources: Option<UriList>,
    prompts: Option<Box<[Glob]>>,
}

/// Scopes and effects by tool.
#[derive(Debug)]
struct ToolNeeds {
    default: Need,
    /// Names and patterns, folded, the longest first.
    named: Box<[(Glob, Need)]>,
    /// The most telling first.
    effects: Box<[Effects]>,
}

#[derive(Debug, Clone, Default)]
struct Need {
    scopes: Option<Box<[String]>>,
    weight: Weight,
}

/// How much a name or pattern says: what has no star more than any pattern, then the longer more.
type Weight = (bool, std::cmp::Reverse<usize>);

#[derive(Debug)]
struct Effects {
    /// As it is written: `read` is a grant.
    exact: Glob,
    /// As a second spelling would match it.
    folded: Glob,
    effect: Effect,
    weight: Weight,
}

impl Permissions {
    pub(super) fn new(config: &Config) -> Self {
        let access = &config.access;
        let mut clients: HashMap<Box<str>, Client> = access
            .clients
            .iter()
            .map(|(name, client)| (name.as_str().into(), Client::new(client)))
            .collect();
        let everybody = clients.remove("*");
        let groups: HashMap<Box<str>, Grants> = access
            .groups
            .iter()
            .map(|(name, group)| (name.as_str().into(), Grants::new(&group.grants)))
            .collect();
        let tools = ToolNeeds::new(&config.tools);
        let resources: Box<[_]> = config.resource_scopes.iter().map(needs_of_uri).collect();
        let prompts: Box<[_]> = config.prompt_scopes.iter().map(needs_of_name).collect();
        let grants = clients.values().chain(&everybody).map(|each| &each.own);
        let open = grants.chain(groups.values()).all(Grants::is_open)
            && access.identity.scopes.is_empty()
            && resources.is_empty()
            && prompts.is_empty()
            && tools.is_open();
        Self {
            clients,
            everybody,
            groups,
            baseline: access.identity.scopes.iter().cloned().collect(),
            tools,
            resources,
            prompts,
            open,
        }
    }

    /// True when every caller may reach everything, so that lists need no look.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// True when some tools may not exist for this caller: then those that really do not must be answered
    /// by us too, in the same words.
    pub(super) fn may_hide_tools(&self, caller: &Caller) -> bool {
        self.sources(caller)
            .any(|grants| grants.read_only || grants.tools.is_some())
    }

    /// What the caller is granted by its own entry (or that of everybody) and by its groups.
    fn sources<'p>(&'p self, caller: &'p Caller) -> impl Iterator<Item = &'p Grants> {
        let client = self
            .clients
            .get(&*caller.client)
            .or(self.everybody.as_ref());
        let own = client.into_iter().flat_map(|client| &*client.groups);
        let said = caller.groups.iter().map(String::as_str);
        let groups = own.map(|group| &**group).chain(said);
        client
            .map(|client| &client.own)
            .into_iter()
            .chain(groups.filter_map(|group| self.groups.get(group)))
    }

    /// Why `caller` does not get what it names; a name that cannot be read could be any.
    pub(super) fn bars(
        &self,
        caller: &Caller,
        target: Target,
        name: Option<&str>,
    ) -> Option<Barred<'_>> {
        if self.open {
            return None;
        }
        if let Some(rule) = self.hides(caller, target, name) {
            return Some(Barred::Hidden(rule));
        }
        let needed = self.needed(target, name);
        match needed.iter().all(|scope| caller.has_scope(scope)) {
            true => None,
            false => Some(Barred::Scopes(needed)),
        }
    }

    fn hides(&self, caller: &Caller, target: Target, name: Option<&str>) -> Option<&'static str> {
        let rule = match target {
            Target::Tool => CLIENTS_TOOLS,
            Target::Resource => CLIENTS_RESOURCES,
            Target::Prompt => CLIENTS_PROMPTS,
            Target::Other => return None,
        };
        if target == Target::Tool
            && self.sources(caller).any(|grants| grants.read_only)
            && name.is_none_or(|name| self.tools.effect(name) != Effect::Read)
        {
            return Some(CLIENTS_READ_ONLY);
        }
        // `None`: no source says anything, so everything is granted.
        let granted = self
            .sources(caller)
            .filter_map(|grants| grants.allows(target, name))
            .reduce(|one, other| one || other);
        (granted == Some(false)).then_some(rule)
    }

    /// All scopes that the request needs, sorted.
    fn needed(&self, target: Target, name: Option<&str>) -> Vec<&str> {
        let mut needed: Vec<&str> = self.baseline.iter().map(String::as_str).collect();
        match target {
            Target::Tool => needed.extend(self.tools.scopes(name)),
            Target::Resource => {
                for (pattern, scopes) in &self.resources {
                    if name.is_none_or(|uri| pattern.denies(uri).is_some()) {
                        needed.extend(scopes.iter().map(String::as_str));
                    }
                }
            }
            Target::Prompt => {
                let folded = name.map(fold);
                for (pattern, scopes) in &self.prompts {
                    if folded.as_deref().is_none_or(|name| pattern.matches(name)) {
                        needed.extend(scopes.iter().map(String::as_str));
                    }
                }
            }
            Target::Other => {}
        }
        needed.sort_unstable();
        needed.dedup();
        needed
    }
}

fn needs_of_uri((pattern, scopes): (&String, &Vec<String>)) -> (UriList, Box<[String]>) {
    // A list that denies the pattern knows every spelling of it.
    let list = UriList::new(&NameRules {
        allow: None,
        deny: vec![pattern.clone()],
    });
    (list, scopes.iter().cloned().collect())
}

fn needs_of_name((pattern, scopes): (&String, &Vec<String>)) -> (Glob, Box<[String]>) {
    (Glob::new(&fold(pattern)), scopes.iter().cloned().collect())
}

impl Client {
    fn new(client: &config::Client) -> Self {
        Self {
            own: Grants::new(&client.grants),
            groups: client
                .groups
                .iter()
                .map(|group| group.as_str().into())
                .collect(),
        }
    }
}

impl Grants {
    fn new(grants: &config::Grants) -> Self {
        let globs = |list: &Option<Vec<String>>| {
            let list = list.as_ref()?;
            Some(list.iter().map(|pattern| Glob::new(pattern)).collect())
        };
        Self {
            read_only: grants.read_only,
            tools: globs(&grants.tools),
            resources: grants.resources.as_ref().map(|list| {
                UriList::new(&NameRules {
                    allow: Some(list.clone()),
                    deny: Vec::new(),
                })
            }),
            prompts: globs(&grants.prompts),
        }
    }

    fn is_open(&self) -> bool {
        !self.read_only
            && self.tools.is_none()
            && self.resources.is_none()
            && self.prompts.is_none()
    }

    /// Whether this source grants the target; `None` when it says nothing about its kind.
    fn allows(&self, target: Target, name: Option<&str>) -> Option<bool> {
        let any = |list: &Option<Box<[Glob]>>| {
            let list = list.as_ref()?;
            Some(name.is_some_and(|name| list.iter().any(|glob| glob.matches(name))))
        };
        match target {
            Target::Tool => any(&self.tools),
            Target::Prompt => any(&self.prompts),
            Target::Resource => {
                let list = self.resources.as_ref()?;
                Some(name.is_some_and(|uri| list.denies(uri).is_none()))
            }
            Target::Other => None,
        }
    }
}

impl ToolNeeds {
    fn new(tools: &Tools) -> Self {
        let need = |name: &str, rule: &ToolRule| Need {
            scopes: rule
                .scopes
                .as_ref()
                .map(|scopes| scopes.iter().cloned().collect()),
            weight: weight(name),
        };
        let mut by_weight: Vec<(&str, &ToolRule)> = tools
            .named
            .iter()
            .map(|(name, rule)| (name.as_str(), rule))
            .collect();
        by_weight.sort_by_key(|(name, _)| weight(name));
        Self {
            default: need("", &tools.default),
            named: by_weight
                .iter()
                .filter(|(_, rule)| rule.scopes.is_some())
                .map(|(name, rule)| (Glob::new(&fold(name)), need(name, rule)))
                .collect(),
            effects: by_weight
                .iter()
                .chain(&[("*", &tools.default)])
                .filter_map(|(name, rule)| {
                    Some(Effects {
                        exact: Glob::new(name),
                        folded: Glob::new(&fold(name)),
                        effect: rule.effect?,
                        weight: weight(name),
                    })
                })
                .collect(),
        }
    }

    fn is_open(&self) -> bool {
        let free = |need: &Need| need.scopes.as_ref().is_none_or(|scopes| scopes.is_empty());
        free(&self.default) && self.named.iter().all(|(_, need)| free(need))
    }

    /// What nobody has called a reader may write.
    fn effect(&self, name: &str) -> Effect {
        let exact = self.effects.iter().find(|entry| entry.exact.matches(name));
        if exact.is_none_or(|entry| entry.effect == Effect::Write) {
            return Effect::Write;
        }
        // Another spelling of a tool that writes writes too.
        let folded = fold(name);
        let mut same = self
            .effects
            .iter()
            .filter(|entry| entry.folded.matches(&folded));
        let Some(first) = same.next() else {
            return Effect::Write;
        };
        let writes = |entry: &Effects| entry.effect == Effect::Write;
        match writes(first)
            || same
                .take_while(|entry| entry.weight == first.weight)
                .any(writes)
        {
            true => Effect::Write,
            false => Effect::Read,
        }
    }

    /// Those of the entry that says most about the tool; of several that say as much, all.
    fn scopes(&self, name: Option<&str>) -> Vec<&str> {
        let Some(name) = name else {
            let all = self.named.iter().map(|(_, need)| need);
            return all.chain([&self.default]).flat_map(Need::words).collect();
        };
        let folded = fold(name);
        let mut matching = self
            .named
            .iter()
            .filter(|(glob, _)| glob.matches(&folded))
            .map(|(_, need)| need);
        let Some(first) = matching.next() else {
            return self.default.words().collect();
        };
        let same = matching.take_while(|need| need.weight == first.weight);
        std::iter::once(first)
            .chain(same)
            .flat_map(Need::words)
            .collect()
    }
}

impl Need {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.scopes
            .iter()
            .flat_map(|scopes| scopes.iter().map(String::as_str))
    }
}

fn weight(name: &str) -> Weight {
    (name.contains('*'), std::cmp::Reverse(name.len()))
}

/// One line for each setting, for the digest of the policy.
pub(super) fn canonical(config: &Config) -> Vec<String> {
    let access = &config.access;
    let mut lines = vec![format!("identity.scopes {:?}", access.identity.scopes)];
    for (name, client) in &access.clients {
        lines.push(format!(
            "clients.{name:?} {:?} {:?} {:?} {:?} {} {} {:?} {:?} {:?} {:?}",
            client.san,
            client.uid,
            client.tenant,
            client.groups,
            client.gateway,
            client.blocked,
            client.grants,
            client.rate,
            client.concurrency,
            client.quota,
        ));
        lines.push(format!("clients.{name:?}.scopes {:?}", client.scopes));
    }
    for (name, group) in &access.groups {
        lines.push(format!(
            "groups.{name:?} {:?} {:?}",
            group.scopes, group.grants
        ));
    }
    let by = |title: &str, all: &BTreeMap<String, Vec<String>>| {
        let one = |(pattern, scopes)| format!("{title}.scopes.{pattern:?} {scopes:?}");
        all.iter().map(one).collect::<Vec<_>>()
    };
    lines.extend(by("resources", &config.resource_scopes));
    lines.extend(by("prompts", &config.prompt_scopes));
    lines
}
