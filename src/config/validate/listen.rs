//! The listener for clients on HTTP.

use super::{Builder, Overrides};
use crate::config::diagnose::Place;
use crate::config::entries::{self, EntryError};
use crate::config::raw::{self, At};
use crate::config::{AdminAddr, Listen, TimeSpan};
use std::ops::RangeInclusive;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_RANGE: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_millis(10))..=TimeSpan(Duration::from_secs(3600));
const IDLE: Duration = Duration::from_secs(30 * 60);
const IDLE_RANGE: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_secs(1))..=TimeSpan(Duration::from_secs(7 * 24 * 3600));

/// Sessions with a server process each; the spawner has numbers for a few more.
const OWN_SESSIONS: u64 = 16;
const OWN_RANGE: RangeInclusive<u64> = 1..=60;
/// Sessions that share one.
const SHARED_SESSIONS: u64 = 4096;
const SHARED_RANGE: RangeInclusive<u64> = 1..=100_000;
const CONNECTIONS: u64 = 1024;
const CONNECTIONS_RANGE: RangeInclusive<u64> = 1..=100_000;

impl Builder<'_> {
    pub(super) fn listen(
        &mut self,
        raw: Option<&raw::Listen>,
        flags: &Overrides,
    ) -> Option<Listen> {
        if raw.is_none() && flags.listen.is_none() {
            return None;
        }
        let absent = raw::Listen::default();
        let raw = raw.unwrap_or(&absent);
        let address = self.listen_address(raw, flags)?;
        let auth = self.only("listen.auth", raw.auth.as_ref());
        let share = self.only("listen.share", raw.share.as_ref());
        let share = share.unwrap_or_default();
        let (default, range) = match share {
            true => (SHARED_SESSIONS, SHARED_RANGE),
            false => (OWN_SESSIONS, OWN_RANGE),
        };
        Some(Listen {
            http: address,
            path: self.listen_path(raw.path.as_ref()),
            public_url: self.public_url(raw.public_url.as_ref()),
            auth: auth.unwrap_or_default(),
            tls: self.tls(raw.tls.as_ref()),
            state: self
                .only("listen.state", raw.state.as_ref())
                .unwrap_or_default(),
            share,
            sessions: self.count("listen.sessions", raw.sessions.as_ref(), default, &range),
            session_idle: self.span(
                "listen.session_idle",
                raw.session_idle.as_ref(),
                IDLE,
                &IDLE_RANGE,
            ),
            connections: self.count(
                "listen.connections",
                raw.connections.as_ref(),
                CONNECTIONS,
                &CONNECTIONS_RANGE,
            ),
            header_timeout: self.span(
                "listen.header_timeout",
                raw.header_timeout.as_ref(),
                TIMEOUT,
                &TIMEOUT_RANGE,
            ),
            body_timeout: self.span(
                "listen.body_timeout",
                raw.body_timeout.as_ref(),
                TIMEOUT,
                &TIMEOUT_RANGE,
            ),
        })
    }

    fn listen_address(&mut self, raw: &raw::Listen, flags: &Overrides) -> Option<AdminAddr> {
        let key = ("listen.http", "--listen", "127.0.0.1:8080");
        self.address(key, flags.listen.as_ref(), Some(raw.http.as_ref()))
    }

    fn listen_path(&mut self, raw: Option<&At<String>>) -> String {
        let Some(at) = raw else {
            return "/mcp".to_owned();
        };
        self.url_path("listen.path", at)
    }

    /// The path of a URL, without anything to be decoded in it.
    pub(super) fn url_path(&mut self, key: &str, at: &At<String>) -> String {
        let origin = self.line(at.span());
        self.origins.set(key, origin);
        let path = at.value();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
        if !path.starts_with('/') || !path.bytes().all(plain) || path.len() > 256 {
            self.note(
                Err(EntryError::new(
                    format!("`{}` is not the path of a URL", entries::shown(path)),
                    "write letters, digits and `-._~` between slashes, as in `/mcp`",
                )),
                &Place::File(at.span()),
            );
        }
        path.clone()
    }

    fn public_url(&mut self, raw: Option<&At<String>>) -> Option<String> {
        let at = raw?;
        let origin = self.line(at.span());
        self.origins.set("listen.public_url", origin);
        let url = at.value();
        let rest = url
            .strip_prefix("https://")
            .or_else(|| url.strip_prefix("http://"));
        let authority = rest.and_then(|rest| rest.split('/').next());
        let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = authority.is_some_and(|host| !host.is_empty() && !host.contains('@'));
        if !fits || !plain || url.contains(['?', '#']) || url.len() > 1024 {
            self.note(
                Err(EntryError::new(
                    format!("`{}` is not the URL of a server", entries::shown(url)),
                    "write what clients use, as in `https://mcp.example.com/mcp`",
                )),
                &Place::File(at.span()),
            );
        }
        Some(url.clone())
    }

    fn count(
        &mut self,
        key: &str,
        raw: Option<&At<i64>>,
        default: u64,
        range: &RangeInclusive<u64>,
    ) -> usize {
        let value = self
            .only(key, raw)
            .map(|count| u64::try_from(count).unwrap_or(0));
        if let Some(at) = raw {
            self.range(key, value, range, &Place::File(at.span()));
        }
        usize::try_from(value.unwrap_or(default)).unwrap_or(usize::MAX)
    }

    fn span(
        &mut self,
        key: &str,
        raw: Option<&At<TimeSpan>>,
        default: Duration,
        range: &RangeInclusive<TimeSpan>,
    ) -> Duration {
        let value = self.only(key, raw);
        if let Some(at) = raw {
            self.range(key, value, range, &Place::File(at.span()));
        }
        value.map_or(default, |value| value.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Auth, StateMode};

    #[test]
    fn modes_have_defaults_that_are_the_strict_ones() {
        assert_eq!(
            (Auth::default(), StateMode::default()),
            (Auth::Local, StateMode::Session)
        );
    }
}
