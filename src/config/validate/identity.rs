//! Who may come over the network: `[identity]`, `[clients]`, `[groups]`.

use super::Builder;
use crate::config::access::{
    Access, Client, Grants, Group, Identity, Jwt, KeySource, San, principal_name, scope,
};
use crate::config::diagnose::{self, Place, Problem};
use crate::config::entries::{EntryError, Word, shown};
use crate::config::raw::{self, At, Raw};
use crate::config::{Algorithm, Endpoint, Listen};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

/// More places than a process has descriptors for help nobody.
pub(super) const PLACES: RangeInclusive<i64> = 1..=10_000;
/// How old keys from a URL may be, unless the operator says so; and at least.
const REFRESH: Duration = Duration::from_secs(600);
const LEAST: Duration = Duration::from_secs(1);
pub(super) const QUOTA: RangeInclusive<i64> = 1..=1_000_000_000_000;

impl Builder<'_> {
    pub(super) fn access(&mut self, raw: &Raw, listen: Option<&Listen>) -> Access {
        if raw.listen.is_none() {
            self.nobody_comes(raw);
        }
        let groups: BTreeMap<String, Group> = raw
            .groups
            .iter()
            .map(|(name, group)| (name.value().clone(), self.group(name, group)))
            .collect();
        let mut clients = BTreeMap::new();
        for (name, client) in &raw.clients {
            let client = self.client(name, client, &groups);
            clients.insert(name.value().clone(), client);
        }
        self.nobody_twice(raw);
        let identity = raw
            .identity
            .as_ref()
            .map(|written| self.identity(written, listen))
            .unwrap_or_default();
        for (name, written) in &raw.clients {
            self.reachable(name, written, listen, &identity);
        }
        Access {
            identity,
            clients,
            groups,
        }
    }

    /// A rule about network clients where none can come would only look like a protection.
    fn nobody_comes(&mut self, raw: &Raw) {
        let mut needs = |key: &str, span: std::ops::Range<usize>| {
            self.problems.push(
                Problem::new(Place::File(span), format!("`{key}` needs [listen]"))
                    .label("this is about network clients")
                    .hint("on stdin and stdout there is one client, and it is whoever started cofferdam"),
            );
        };
        if let Some(at) = &raw.identity {
            needs("identity", at.span());
        }
        for name in raw.clients.keys() {
            needs("clients", name.span());
        }
        for name in raw.groups.keys() {
            needs("groups", name.span());
        }
        for pattern in raw.resources.scopes.keys() {
            needs("resources.scopes", pattern.span());
        }
        for pattern in raw.prompts.scopes.keys() {
            needs("prompts.scopes", pattern.span());
        }
        for (name, tool) in &raw.tools {
            if let Some(scopes) = &tool.scopes {
                needs(
                    &format!("tools.{}.scopes", shown(name.value())),
                    scopes.span(),
                );
            }
        }
    }

    fn identity(&mut self, written: &At<raw::Identity>, listen: Option<&Listen>) -> Identity {
        let raw = written.value();
        if raw.keys.is_none() && raw.jwt.is_none() && raw.scopes.is_empty() {
            self.problems.push(
                Problem::new(Place::File(written.span()), "[identity] names nothing")
                    .hint("write `keys = \"clients.json\"`, or `jwt = { issuer = …, jwks = … }`"),
            );
        }
        Identity {
            keys: self.file_path("identity.keys", raw.keys.as_ref()),
            jwt: raw.jwt.as_ref().and_then(|jwt| self.jwt(jwt, listen)),
            scopes: self.words("identity.scopes".to_owned(), &raw.scopes, scope),
        }
    }

    fn jwt(&mut self, written: &At<raw::Jwt>, listen: Option<&Listen>) -> Option<Jwt> {
        let raw = written.value();
        let place = Place::File(written.span());
        if listen.is_some_and(|listen| listen.public_url.is_none()) {
            self.problems.push(
                Problem::new(place.clone(), "`identity.jwt` needs `listen.public_url`").hint(
                    "tokens are made for one server: write the URL that clients use, as in \
                     `public_url = \"https://mcp.example.com/mcp\"`",
                ),
            );
        }
        let mut required = |key: &str, present: bool| {
            if !present {
                self.problems.push(
                    Problem::new(place.clone(), format!("`identity.jwt.{key}` is missing")).hint(
                        "write `jwt = { issuer = \"https://id.example.com\", jwks = \"jwks.json\" }`",
                    ),
                );
            }
        };
        required("issuer", raw.issuer.is_some());
        required("jwks", raw.jwks.is_some());
        let issuer = self.text("identity.jwt.issuer", raw.issuer.as_ref(), absolute_url)?;
        let jwks = raw.jwks.as_ref()?;
        let jwks = match jwks.value().contains("://") {
            true => self.key_url(raw, jwks)?,
            false => {
                self.only_by_url("jwks_ca", raw.jwks_ca.as_ref().map(At::span));
                self.only_by_url("jwks_refresh", raw.jwks_refresh.as_ref().map(At::span));
                KeySource::File(self.file_path("identity.jwt.jwks", Some(jwks))?)
            }
        };
        let algorithms = match &raw.algorithms {
            None => Algorithm::WORDS.iter().map(|(_, each)| *each).collect(),
            Some(list) => {
                if list.value().is_empty() {
                    self.problems.push(Problem::new(
                        Place::File(list.span()),
                        "`identity.jwt.algorithms` is empty, so every token would be refused",
                    ));
                }
                let origin = self.line(list.span());
                self.origins.set("identity.jwt.algorithms", origin);
                list.value().iter().map(|each| *each.value()).collect()
            }
        };
        Some(Jwt {
            issuer,
            jwks,
            audience: self.text("identity.jwt.audience", raw.audience.as_ref(), name),
            algorithms,
            tenant_claim: self.text("identity.jwt.tenant_claim", raw.tenant_claim.as_ref(), name),
            groups_claim: self.text("identity.jwt.groups_claim", raw.groups_claim.as_ref(), name),
        })
    }

    fn key_url(&mut self, raw: &raw::Jwt, jwks: &At<String>) -> Option<KeySource> {
        let place = Place::File(jwks.span());
        let origin = self.line(jwks.span());
        self.origins.set("identity.jwt.jwks", origin);
        let url: Endpoint = match jwks.value().parse() {
            Ok(url) => url,
            Err(error) => {
                self.note(Err(error), &place);
                return None;
            }
        };
        if !url.tls {
            let what = format!("anybody on the way could put other keys into `{url}`");
            self.problems
                .push(Problem::new(place, what).hint("keys are fetched over https alone"));
        }
        let refresh = self.only("identity.jwt.jwks_refresh", raw.jwks_refresh.as_ref());
        Some(KeySource::Url {
            place: url,
            ca: self.file_path("identity.jwt.jwks_ca", raw.jwks_ca.as_ref()),
            refresh: refresh.map_or(REFRESH, |time| time.0.max(LEAST)),
        })
    }

    fn only_by_url(&mut self, key: &str, span: Option<std::ops::Range<usize>>) {
        if let Some(span) = span {
            let what = format!("`identity.jwt.{key}` is for keys from a URL");
            let hint = "this key set is a file, which is watched";
            self.problems
                .push(Problem::new(Place::File(span), what).hint(hint));
        }
    }

    fn client(
        &mut self,
        name: &At<String>,
        raw: &raw::Client,
        groups: &BTreeMap<String, Group>,
    ) -> Client {
        let place = Place::File(name.span());
        let title = name.value().as_str();
        self.note(principal_name(title), &place);
        let origin = self.line(name.span());
        self.origins.set(format!("clients.{title}"), origin);
        let key = |field: &str| format!("clients.{title}.{field}");
        if title == "*" {
            let own = [
                ("san", raw.san.is_some()),
                ("uid", raw.uid.is_some()),
                ("tenant", raw.tenant.is_some()),
                ("gateway", raw.gateway.is_some()),
            ];
            for (field, _) in own.into_iter().filter(|(_, present)| *present) {
                self.problems.push(Problem::new(
                    place.clone(),
                    format!("`clients.\"*\"` is for many clients, so it has no `{field}`"),
                ));
            }
        }
        let san = raw.san.as_ref().and_then(|at| {
            let origin = self.line(at.span());
            self.origins.set(key("san"), origin);
            match at.value().parse::<San>() {
                Ok(san) => Some(san),
                Err(error) => {
                    self.note(Err(error), &Place::File(at.span()));
                    None
                }
            }
        });
        let groups_of = self.words(key("groups"), &raw.groups, |text| {
            if groups.contains_key(text) {
                return Ok(text.to_owned());
            }
            let hint = "a group is a table of its own, as in `[groups.readers]`";
            let near = diagnose::nearest(text, groups.keys().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            Err(EntryError::new(
                format!("there is no group `{}`{near}", shown(text)),
                hint,
            ))
        });
        let grants = self.grants(
            &key("grants"),
            raw.read_only.as_ref(),
            [&raw.tools, &raw.resources, &raw.prompts],
        );
        Client {
            san,
            uid: self
                .number(key("uid"), raw.uid.as_ref(), &(0..=i64::from(u32::MAX) - 1))
                .and_then(|uid| u32::try_from(uid).ok()),
            tenant: self.text(&key("tenant"), raw.tenant.as_ref(), name_of_tenant),
            scopes: self.words(key("scopes"), &raw.scopes, scope),
            groups: groups_of,
            gateway: self
                .only(key("gateway"), raw.gateway.as_ref())
                .unwrap_or(false),
            blocked: self
                .only(key("blocked"), raw.blocked.as_ref())
                .unwrap_or(false),
            grants,
            rate: self.only(key("rate"), raw.rate.as_ref()),
            concurrency: self.places(key("concurrency"), raw.concurrency.as_ref()),
            quota: self
                .number(key("quota"), raw.quota.as_ref(), &QUOTA)
                .and_then(|quota| u64::try_from(quota).ok()),
        }
    }

    fn group(&mut self, name: &At<String>, raw: &raw::Group) -> Group {
        let title = name.value();
        self.note(principal_name(title), &Place::File(name.span()));
        let origin = self.line(name.span());
        self.origins.set(format!("groups.{title}"), origin);
        let key = |field: &str| format!("groups.{title}.{field}");
        Group {
            scopes: self.words(key("scopes"), &raw.scopes, scope),
            grants: self.grants(
                &key("grants"),
                raw.read_only.as_ref(),
                [&raw.tools, &raw.resources, &raw.prompts],
            ),
        }
    }

    fn grants(
        &mut self,
        key: &str,
        read_only: Option<&At<bool>>,
        [tools, resources, prompts]: [&Option<At<Vec<At<String>>>>; 3],
    ) -> Grants {
        let base = key.trim_end_matches("grants").to_owned();
        let mut patterns = |field: &str, list: &Option<At<Vec<At<String>>>>| {
            let list = list.as_ref()?;
            let key = format!("{base}{field}");
            let origin = self.line(list.span());
            self.origins.set(key.clone(), origin);
            Some(self.words(key, list.value(), super::rules::pattern))
        };
        let tools = patterns("tools", tools);
        let resources = patterns("resources", resources);
        let prompts = patterns("prompts", prompts);
        Grants {
            read_only: self
                .only(format!("{base}read_only"), read_only)
                .unwrap_or(false),
            tools,
            resources,
            prompts,
        }
    }

    /// One certificate, one Unix user: one client.
    fn nobody_twice(&mut self, raw: &Raw) {
        let mut names = BTreeSet::new();
        let mut users = BTreeSet::new();
        for client in raw.clients.values() {
            if let Some(at) = &client.san
                && let Ok(san) = at.value().parse::<San>()
                && !names.insert(san)
            {
                self.problems.push(Problem::new(
                    Place::File(at.span()),
                    format!("`{}` is the name of two clients", shown(at.value())),
                ));
            }
            if let Some(at) = &client.uid
                && !users.insert(*at.value())
            {
                self.problems.push(Problem::new(
                    Place::File(at.span()),
                    format!("user {} is two clients", at.value()),
                ));
            }
        }
    }

    /// A client that can never come is a mistake.
    fn reachable(
        &mut self,
        name: &At<String>,
        raw: &raw::Client,
        listen: Option<&Listen>,
        identity: &Identity,
    ) {
        let Some(listen) = listen else { return };
        let title = shown(name.value());
        let mut wrong = |span: std::ops::Range<usize>, message: String, hint: &str| {
            self.problems
                .push(Problem::new(Place::File(span), message).hint(hint));
        };
        let asks = listen
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
        if let Some(at) = raw.san.as_ref().filter(|_| !asks) {
            wrong(
                at.span(),
                format!("`clients.{title}.san` needs certificates of clients"),
                "write `client_ca` into `listen.tls`: whoever signs them",
            );
        }
        let socket = matches!(listen.http, crate::config::AdminAddr::Unix(_));
        if let Some(at) = raw.uid.as_ref().filter(|_| !socket) {
            wrong(
                at.span(),
                format!("`clients.{title}.uid` needs a listener on a Unix socket"),
                "write `http = \"unix:/path/to.sock\"` into [listen]",
            );
        }
        let gateway = raw.gateway.as_ref().filter(|at| *at.value());
        if let Some(at) = gateway
            && (identity.jwt.is_none() || (raw.san.is_none() && raw.uid.is_none()))
        {
            wrong(
                at.span(),
                format!("`clients.{title}.gateway` needs `san` or `uid`, and `identity.jwt`"),
                "a gateway proves itself by its certificate, and says by a signed token for whom it asks",
            );
        }
    }

    /// A list of words under a key that is not known in advance; the same word twice is a mistake.
    pub(super) fn words(
        &mut self,
        key: String,
        list: &[At<String>],
        parse: impl Fn(&str) -> Result<String, EntryError>,
    ) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(first) = list.first() {
            let origin = self.line(first.span());
            self.origins.set(key, origin);
        }
        for at in list {
            let place = Place::File(at.span());
            match parse(at.value()) {
                Ok(word) if all.contains(&word) => self.twice(&place, "this entry"),
                Ok(word) => all.push(word),
                Err(error) => self.note(Err(error), &place),
            }
        }
        all
    }

    pub(super) fn text(
        &mut self,
        key: &str,
        file: Option<&At<String>>,
        check: impl Fn(&str) -> Result<String, EntryError>,
    ) -> Option<String> {
        let at = file?;
        let origin = self.line(at.span());
        self.origins.set(key, origin);
        match check(at.value()) {
            Ok(text) => Some(text),
            Err(error) => {
                self.note(Err(error), &Place::File(at.span()));
                None
            }
        }
    }

    pub(super) fn number(
        &mut self,
        key: String,
        file: Option<&At<i64>>,
        range: &RangeInclusive<i64>,
    ) -> Option<i64> {
        let at = file?;
        let value = self.only(key.clone(), Some(at));
        self.range(&key, value, range, &Place::File(at.span()));
        value
    }

    pub(super) fn places(&mut self, key: String, file: Option<&At<i64>>) -> Option<u32> {
        self.number(key, file, &PLACES)
            .and_then(|number| u32::try_from(number).ok())
    }
}

fn name(text: &str) -> Result<String, EntryError> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(EntryError::new("this is not a name", "")),
        false => Ok(text.to_owned()),
    }
}

fn name_of_tenant(text: &str) -> Result<String, EntryError> {
    principal_name(text).map(|()| text.to_owned())
}

/// RFC 8414 §2: an issuer is an `https` URL without query or fragment. It is compared as it stands.
fn absolute_url(text: &str) -> Result<String, EntryError> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match rest {
        Some(rest) if plain && !rest.is_empty() && !rest.contains(['?', '#']) => {
            Ok(text.to_owned())
        }
        _ => Err(EntryError::new(
            format!("`{}` is not an issuer", shown(text)),
            "write the URL exactly as tokens have it in `iss`, as in `https://id.example.com`",
        )),
    }
}
