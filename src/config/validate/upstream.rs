//! A server on HTTP: where it is, in the cell or elsewhere, and how it proves that it is the one.

use super::{Builder, Overrides, place_of};
use crate::config::diagnose::{Place, Problem};
use crate::config::entries::{EntryError, shown};
use crate::config::origin::Origin;
use crate::config::raw::{self, At};
use crate::config::units::TimeSpan;
use crate::config::{Endpoint, HealthCheck, Upstream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

const EVERY: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_secs(1))..=TimeSpan(Duration::from_secs(24 * 3600));
const WAIT: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_millis(100))..=TimeSpan(Duration::from_secs(300));
const FAILURES: RangeInclusive<i64> = 1..=100;
/// Ports below are for whoever has CAP_NET_BIND_SERVICE (`ip_unprivileged_port_start`, ip(7)).
const LOWEST: u16 = 1024;

impl Builder<'_> {
    pub(super) fn upstream(&mut self, raw: &raw::Server, flags: &Overrides) -> Option<Upstream> {
        let Some((url, place)) = self.endpoint(raw, flags) else {
            // A URL that a command takes the place of takes its check with it.
            let written = raw.health.as_ref().filter(|_| raw.url.is_none());
            if let Some(at) = written {
                let what = "`server.health` is about a server at a URL, and there is none";
                let hint = "one on stdio is seen to be there by its pipes; write `server.url`, or leave it out";
                self.problems
                    .push(Problem::new(Place::File(at.span()), what).hint(hint));
            }
            return None;
        };
        if self.runs(raw, flags) {
            self.inside(&url, &place);
        }
        let plain = self.only("server.plain_http", raw.plain_http.as_ref());
        if !url.tls && !url.is_loopback() && plain != Some(true) {
            let what = format!("others on the network can read what goes to `{url}`");
            self.problems.push(
                Problem::new(place, what)
                    .hint("use https, or say that it may be so: `server.plain_http = true`"),
            );
        }
        let min_version = self.only("server.min_version", raw.min_version.as_ref());
        Some(Upstream {
            url,
            ca: self.ca(raw, flags),
            pins: self.pins(&raw.pins, &flags.pins),
            min_version: min_version.unwrap_or_default(),
            health: raw.health.as_ref().map(|at| self.health(at)),
        })
    }

    fn health(&mut self, written: &At<raw::HealthCheck>) -> HealthCheck {
        let origin = self.line(written.span());
        self.origins.set("server.health", origin);
        let raw = written.value();
        let every = self.time("server.health.every", raw.every.as_ref(), &EVERY);
        let every = every.unwrap_or(Duration::from_secs(30));
        let timeout = self.time("server.health.timeout", raw.timeout.as_ref(), &WAIT);
        if let (Some(at), Some(timeout)) = (&raw.timeout, timeout)
            && timeout > every
        {
            let what = "a check would take longer than the time to the next one";
            let hint = "let `timeout` be at most `every`";
            self.problems
                .push(Problem::new(Place::File(at.span()), what).hint(hint));
        }
        let failures = self.number(
            "server.health.failures".to_owned(),
            raw.failures.as_ref(),
            &FAILURES,
        );
        let path = raw.path.as_ref();
        HealthCheck {
            every,
            timeout: timeout.unwrap_or(every.min(Duration::from_secs(5))),
            failures: failures.and_then(|it| u32::try_from(it).ok()).unwrap_or(3),
            path: path.map(|at| self.url_path("server.health.path", at)),
        }
    }

    /// True when there is a command for the server at the URL: it runs in the cell and listens there. A URL
    /// among the flags takes the place of a command in the file, unless the file has a URL too.
    pub(super) fn runs(&self, raw: &raw::Server, flags: &Overrides) -> bool {
        let written = raw.command.is_some() && (flags.url.is_none() || raw.url.is_some());
        !flags.command.is_empty() || written
    }

    /// Nobody but us is to reach a server in a cell, so its URL is one of the cell's own loopback.
    fn inside(&mut self, url: &Endpoint, place: &Place) {
        let near = ["127.0.0.1", "::1", "localhost"].contains(&&*url.host);
        let (what, hint) = if url.tls || !near {
            (
                format!("a server that is run here cannot be at `{url}`"),
                "what listens in the cell is at http://127.0.0.1:PORT/, http://[::1]:PORT/ or \
                 http://localhost:PORT/; without a command, the server at the URL runs elsewhere",
            )
        } else if url.port < LOWEST {
            (
                format!("a server in a cell may not listen on port {}", url.port),
                "only root may listen below 1024, and no server in a cell is: let it use another port",
            )
        } else {
            return;
        };
        self.problems
            .push(Problem::new(place.clone(), what).hint(hint));
    }

    /// `server.transport` says nothing that the command or the URL does not say.
    pub(super) fn transport(&mut self, raw: Option<&At<raw::Transport>>, elsewhere: bool) {
        let (Some(at), Some(transport)) = (raw, self.only("server.transport", raw)) else {
            return;
        };
        let fits = match transport {
            raw::Transport::Stdio => !elsewhere,
            raw::Transport::Http => elsewhere,
        };
        if !fits {
            let place = Place::File(at.span());
            let what = "`server.transport` is not how this server is spoken to";
            let hint = "`stdio` goes with a command, `http` with a `url`";
            self.problems.push(Problem::new(place, what).hint(hint));
        }
    }

    /// Where the server is, if it is on HTTP.
    fn endpoint(&mut self, raw: &raw::Server, flags: &Overrides) -> Option<(Endpoint, Place)> {
        let place = place_of(raw.url.as_ref(), flags.url.as_ref(), "--url");
        if let Some(url) = &flags.url {
            self.origins.set("server.url", Origin::Flag("--url"));
            return Some((url.clone(), place));
        }
        // The words after `--` win over the file: its command, or what it has in place of one.
        let kept = flags.command.is_empty() || raw.command.is_some();
        let at = raw.url.as_ref().filter(|_| kept)?;
        let origin = self.line(at.span());
        self.origins.set("server.url", origin);
        match at.value().parse() {
            Ok(url) => Some((url, place)),
            Err(error) => {
                self.note(Err(error), &place);
                // A complaint about a missing command would be one too many.
                let nowhere = "https://invalid/".parse().ok()?;
                Some((nowhere, place))
            }
        }
    }

    fn ca(&mut self, raw: &raw::Server, flags: &Overrides) -> Option<PathBuf> {
        let Some(text) = &flags.ca else {
            return self.file_path("server.ca", raw.ca.as_ref());
        };
        self.origins.set("server.ca", Origin::Flag("--ca"));
        match self.absolute(text, &self.around.directory) {
            Ok(path) => Some(path),
            Err(error) => {
                self.note(Err(error), &Place::Flag("--ca"));
                None
            }
        }
    }

    fn pins(&mut self, file: &[At<String>], flags: &[String]) -> Vec<[u8; 32]> {
        let read = |text: &str| {
            // curl writes two slashes.
            let digest = text
                .strip_prefix("sha256//")
                .or_else(|| text.strip_prefix("sha256/"));
            let digest = digest.and_then(|text| STANDARD.decode(text).ok()?.try_into().ok());
            digest.ok_or_else(|| {
                let what = format!("`{}` is not a pin", shown(text));
                EntryError::new(what, "write `sha256/` and the SHA-256 of a key in base64")
            })
        };
        let flags: Vec<[u8; 32]> = flags
            .iter()
            .filter_map(|text| match read(text) {
                Ok(pin) => Some(pin),
                Err(error) => {
                    self.note(Err(error), &Place::Flag("--pin"));
                    None
                }
            })
            .collect();
        self.list("server.pins", file, &flags, "--pin", read)
    }
}
