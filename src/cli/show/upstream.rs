//! A server on HTTP.

use super::Rows;
use crate::config::{TimeSpan, Upstream, Word};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

impl Rows<'_> {
    pub(super) fn upstream(&mut self, upstream: &Upstream) {
        let url = upstream.url.to_string();
        let inside = !self.resolved.config.server.is_elsewhere();
        let shown = match inside {
            true => format!("{url} in the cell"),
            false => url.clone(),
        };
        self.one("server.url", shown, url.as_str());
        if upstream.url.tls {
            match &upstream.ca {
                Some(path) => {
                    let path = path.display().to_string();
                    self.one("server.ca", &path, path.as_str());
                }
                None => self.one("server.ca", "the system's", Value::Null),
            }
            let pins = upstream
                .pins
                .iter()
                .map(|pin| format!("sha256/{}", STANDARD.encode(pin)));
            let pins: Vec<String> = pins.collect();
            self.list("server.pins", &pins, "none");
            let version = upstream.min_version.as_str();
            self.one("server.min_version", version, version);
        }
        if let Some(health) = &upstream.health {
            let (every, timeout) = (TimeSpan(health.every), TimeSpan(health.timeout));
            let asked = match &health.path {
                Some(path) => format!("GET {path}"),
                None => "server/discover".to_owned(),
            };
            let failures = health.failures;
            let shown =
                format!("{asked} every {every}, {timeout} each; down after {failures} failures");
            let value = json!({
                "every": every.to_string(),
                "timeout": timeout.to_string(),
                "failures": failures,
                "path": health.path,
            });
            self.one("server.health", shown, value);
        }
    }
}
