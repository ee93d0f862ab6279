//! Who may come over the network, and what each may do.

use super::Rows;
use crate::config::{Client, Grants, KeySource, Rate, TimeSpan, Tls, Word};
use serde_json::{Value, json};

impl Rows<'_> {
    /// Only where there is a listener: elsewhere there is nobody to tell apart.
    pub(super) fn access(&mut self) {
        let config = &self.resolved.config;
        let Some(listen) = &config.listen else { return };
        self.section = "Listener";
        match &listen.tls {
            Some(tls) => self.tls(tls),
            None => self.one(
                "listen.tls",
                "none: plain HTTP, from this host only",
                Value::Null,
            ),
        }
        self.identity();
        self.section = "Clients";
        for (name, client) in &config.access.clients {
            self.client(name, client);
        }
        for (name, group) in &config.access.groups {
            let mut words = Vec::new();
            scopes(&mut words, &group.scopes);
            grants(&mut words, &group.grants);
            self.summary(format!("groups.{name}"), format!("group {name}"), words);
        }
    }

    fn tls(&mut self, tls: &Tls) {
        let path = |path: &std::path::Path| path.display().to_string();
        self.one("listen.tls.cert", path(&tls.cert), path(&tls.cert));
        self.one("listen.tls.key", path(&tls.key), path(&tls.key));
        let oldest = tls.min_version.as_str();
        self.one("listen.tls.min_version", format!("TLS {oldest}"), oldest);
        let Some(authority) = &tls.client_ca else {
            self.one(
                "listen.tls.client_ca",
                "clients show no certificate",
                Value::Null,
            );
            return;
        };
        let shown = format!("{} ({})", authority.display(), tls.client_auth.as_str());
        self.one("listen.tls.client_ca", shown, path(authority));
        if let Some(lists) = &tls.client_crl {
            self.one("listen.tls.client_crl", path(lists), path(lists));
        }
    }

    fn identity(&mut self) {
        let config = &self.resolved.config;
        let identity = &config.access.identity;
        if config.admits_anonymous() {
            self.one(
                "listen.auth",
                "identity: none; whoever reaches it may use it",
                Value::Null,
            );
            return;
        }
        self.one("listen.auth", "required", "required");
        if let Some(keys) = &identity.keys {
            let keys = keys.display().to_string();
            self.one("identity.keys", keys.clone(), keys);
        }
        if let Some(jwt) = &identity.jwt {
            self.one("identity.jwt.issuer", &jwt.issuer, jwt.issuer.as_str());
            let jwks = jwt.jwks.to_string();
            self.one("identity.jwt.jwks", jwks.clone(), jwks);
            if let KeySource::Url { ca, refresh, .. } = &jwt.jwks {
                if let Some(ca) = ca {
                    let ca = ca.display().to_string();
                    self.one("identity.jwt.jwks_ca", ca.clone(), ca);
                }
                let refresh = TimeSpan(*refresh).to_string();
                self.one("identity.jwt.jwks_refresh", refresh.clone(), refresh);
            }
            let url = config
                .listen
                .as_ref()
                .and_then(|listen| listen.public_url.as_ref());
            if let Some(audience) = jwt.audience.as_ref().or(url) {
                self.one("identity.jwt.audience", audience, audience.as_str());
            }
            let words: Vec<&str> = jwt.algorithms.iter().map(|each| each.as_str()).collect();
            self.one("identity.jwt.algorithms", words.join(" "), words.clone());
            for (key, claim) in [
                ("identity.jwt.tenant_claim", &jwt.tenant_claim),
                ("identity.jwt.groups_claim", &jwt.groups_claim),
            ] {
                if let Some(claim) = claim {
                    self.one(key, claim, claim.as_str());
                }
            }
        }
        if !identity.scopes.is_empty() {
            let shown = identity.scopes.join(" ");
            self.one("identity.scopes", shown, identity.scopes.clone());
        }
    }

    fn client(&mut self, name: &str, client: &Client) {
        let mut words = Vec::new();
        if client.blocked {
            words.push("blocked".to_owned());
        }
        if let Some(san) = &client.san {
            words.push(format!("by certificate {san}"));
        }
        if let Some(uid) = client.uid {
            words.push(format!("by user {uid}"));
        }
        if let Some(tenant) = &client.tenant {
            words.push(format!("tenant {tenant}"));
        }
        if client.gateway {
            words.push("gateway".to_owned());
        }
        scopes(&mut words, &client.scopes);
        if !client.groups.is_empty() {
            words.push(format!("groups {}", client.groups.join(" ")));
        }
        grants(&mut words, &client.grants);
        words.extend(rate(client.rate));
        words.extend(
            client
                .concurrency
                .map(|count| format!("{count} at one time")),
        );
        words.extend(client.quota.map(|count| format!("{count} a day")));
        let label = match name {
            "*" => "everybody else".to_owned(),
            name => format!("client {name}"),
        };
        self.summary(format!("clients.{name}"), label, words);
    }

    /// One row for each thing that is said of a client or group.
    fn summary(&mut self, key: String, label: String, words: Vec<String>) {
        let words = match words.is_empty() {
            true => vec!["may reach everything that needs no scope".to_owned()],
            false => words,
        };
        for shown in words {
            let value = json!(shown);
            let origin = self.resolved.origins.of(&key);
            self.row(&key, label.clone(), shown, value, origin);
        }
    }
}

fn scopes(words: &mut Vec<String>, scopes: &[String]) {
    if !scopes.is_empty() {
        words.push(format!("scopes {}", scopes.join(" ")));
    }
}

fn grants(words: &mut Vec<String>, grants: &Grants) {
    if grants.read_only {
        words.push("only tools that read".to_owned());
    }
    for (what, list) in [
        ("tools", &grants.tools),
        ("resources", &grants.resources),
        ("prompts", &grants.prompts),
    ] {
        match list {
            Some(list) if list.is_empty() => words.push(format!("no {what}")),
            Some(list) => words.push(format!("only {what} {}", list.join(" "))),
            None => {}
        }
    }
}

/// A rate in words.
pub(super) fn rate(rate: Option<Rate>) -> Option<String> {
    rate.map(|rate| format!("at most {rate}"))
}
