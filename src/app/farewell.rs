//! The orderly end that an operator or a signal asks for, and what operators ask the loop on stdio for
//! besides.
//!
//! ```text
//! (none) ── drain, SIGTERM, SIGINT ──▶ nothing new is begun ── everything answered ──▶ the server ends ──▶ gone
//!                                       │                                                  ▲
//!                                       └── too late, or a second signal ──▶ SIGTERM to it, what is open is
//!                                                                            answered by us
//! ```
//! A server that was drained by an operator sees the end of its input first; one that a signal ends gets
//! SIGTERM at once, because whoever has sent it counts the seconds.

use super::reload::{self, Told};
use super::stdio::{Loop, LoopError};
use super::{clerk, live};
use crate::admin::Phase;
use crate::audit::{Log, Operator};
use crate::cell::spawn::Asked;
use crate::config::{Config, Replace, Restart};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what is open is waited for, unless the operator says otherwise.
pub(super) const DRAIN: Duration = Duration::from_secs(30);
/// The same after SIGTERM or SIGINT: container runtimes kill ten seconds after SIGTERM, and the server's
/// own end comes after this.
pub(super) const STOP: Duration = Duration::from_secs(8);
/// The longest that anybody may want to wait.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// An end that was asked for.
#[derive(Debug)]
pub(super) struct Farewell {
    until: Option<Instant>,
    since: Instant,
    /// A signal asked for it.
    hurried: bool,
    /// Closed when everything is over.
    _reply: Option<File>,
}

impl Farewell {
    /// Begins: says to whoever asked how much is open, and for how long that is waited for.
    pub(super) fn begin(reply: OwnedFd, within: Option<u64>, open: usize, now: Instant) -> Self {
        let within = within.map_or(DRAIN, Duration::from_millis).min(LONGEST);
        let mut reply = File::from(reply);
        let said = json!({
            "ok": true,
            "open": open,
            "within_ms": u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        });
        // Nobody has to wait for us.
        drop(reply.write_all(format!("{said}\n").as_bytes()));
        Self {
            until: Some(now + within),
            since: now,
            hurried: false,
            _reply: Some(reply),
        }
    }

    /// Begins because of a signal.
    pub(super) fn hurried(now: Instant) -> Self {
        Self {
            until: Some(now + STOP),
            since: now,
            hurried: true,
            _reply: None,
        }
    }

    /// When it has waited for long enough; in the far future once it has begun to end.
    pub(super) fn due(&self) -> Instant {
        self.until.unwrap_or(self.since + LONGEST + LONGEST)
    }

    /// How long it waits for what is open.
    pub(super) fn limit(&self) -> Duration {
        self.due().saturating_duration_since(self.since)
    }

    /// True, once, when it is time to end: nothing is open, or it has waited for too long.
    pub(super) fn ends(&mut self, open: bool, now: Instant) -> bool {
        let over = self.until.is_some_and(|until| !open || until <= now);
        if over {
            self.until = None;
        }
        over
    }
}

/// Says that nothing new is begun, and notes it.
pub(super) fn announce(open: usize, audit: &mut Log, now: Instant) {
    let text = format!("{open} requests are open");
    tracing::info!("draining: nothing new is begun; {text}");
    let record = Operator {
        act: "drain",
        done: true,
        text: &text,
    };
    audit.operator(&record, now);
}

impl Loop {
    /// Answers an operator, or does what he wants.
    pub(super) fn answer_operator(&mut self, asked: Asked, reply: OwnedFd, now: Instant) {
        self.session.tally().publish();
        match asked {
            Asked::Status => {
                let open = self.session.open_calls(live::SHOWN, now);
                live::status(reply, &self.health, &self.metrics, &open);
            }
            Asked::Drain { .. } if self.farewell.is_some() => {
                clerk::answer(reply, &clerk::failed("it is ending already"));
            }
            Asked::Drain { within } => {
                let open = self.session.open();
                self.drain(Farewell::begin(reply, within, open, now), now);
            }
        }
    }

    fn drain(&mut self, farewell: Farewell, now: Instant) {
        self.health.drains(farewell.limit());
        announce(self.session.open(), self.session.audit(), now);
        self.farewell = Some(farewell);
    }

    /// SIGTERM, SIGINT: what is open is answered first, unless nobody can be waiting for that, or it is
    /// not the first time; a code when there is no server whose end would have to be awaited.
    pub(super) fn stop_on_signal(&mut self, now: Instant) -> Result<Option<u8>, LoopError> {
        let serves = self.started || self.restarts.down();
        let waits = serves && self.client_in.is_some() && !self.frozen;
        if waits && self.farewell.is_none() && !self.life.ending() {
            self.drain(Farewell::hurried(now), now);
            return Ok(None);
        }
        let act = self.life.stop(now);
        if !self.started {
            // The spawner may be waiting for an installer; closing its channel ends both.
            self.leave();
            return Ok(Some(self.life.exit_code()));
        }
        self.act(act)?;
        Ok(None)
    }

    /// Ends once everything is answered; a code when there is no server whose end would have to be
    /// awaited.
    pub(super) fn step_farewell(&mut self, now: Instant) -> Result<Option<u8>, LoopError> {
        let Some(farewell) = &mut self.farewell else {
            return Ok(None);
        };
        // Nobody waits for what a server does not read and need not answer.
        let unsent = !farewell.hurried && self.to_server.has_output();
        let open = self.session.owes() || unsent;
        if !farewell.ends(open, now) {
            return Ok(None);
        }
        if !self.started {
            self.leave();
            return Ok(Some(0));
        }
        let hurried = farewell.hurried;
        self.lost_beside(now);
        self.replacing = None;
        if open {
            tracing::warn!("draining took too long: what is open is answered as lost");
        }
        let act = match open || hurried {
            true => self.life.stop(now),
            false => self.life.end_of_input(now),
        };
        self.act(act)?;
        self.health.enter(Phase::Draining);
        Ok(None)
    }

    /// What runs stands still, and `facts` takes what is known of it; `None`: it goes on.
    pub(super) fn take_freeze(&mut self, facts: Option<OwnedFd>, now: Instant) {
        self.frozen = facts.is_some();
        self.session.freeze(self.frozen, now);
        let (text, phase) = match self.frozen {
            true => ("the server stands still", Phase::Frozen),
            false if self.restarts.off() => ("the server goes on when it is on", Phase::Off),
            false if self.restarts.down() => ("the server goes on", Phase::Restarting),
            false => ("the server goes on", Phase::Serving),
        };
        tracing::warn!("the operator wants it so: {text}");
        let act = if self.frozen { "freeze" } else { "resume" };
        let record = Operator {
            act,
            done: true,
            text,
        };
        self.session.audit().operator(&record, now);
        // The spawner reads what happened until now.
        self.session.audit().flush();
        self.session.tally().publish();
        self.health.enter(phase);
        if let Some(facts) = facts {
            let open = self.session.open_calls(live::WRITTEN, now);
            live::status(facts, &self.health, &self.metrics, &open);
        }
    }

    /// The spawner has read the configuration again.
    pub(super) fn take_config(
        &mut self,
        text: Result<OwnedFd, String>,
        reply: Option<OwnedFd>,
        now: Instant,
    ) -> Result<(), LoopError> {
        let taken = reload::take(text, &self.config, &*self.again);
        let outcome = taken.map(|(config, changes)| {
            self.go_by(config);
            changes
        });
        let to = Told {
            health: &self.health,
            metrics: &self.metrics,
            audit: self.session.audit(),
            keeps_server: self.config.server.replace == Replace::Never,
        };
        reload::tell(&outcome, reply, to, now);
        match &outcome {
            Ok(changes) if !changes.server.is_empty() => {
                self.try_again(now);
                let keys = changes.server.join(", ");
                self.replace(&format!("the configuration says otherwise: {keys}"), now)
            }
            _ => Ok(()),
        }
    }

    fn go_by(&mut self, config: Config) {
        self.config = Arc::new(config);
        let config = Arc::clone(&self.config);
        let policy = self.known.policy(&config);
        live::show_policy(&self.health, &self.metrics, &config, &policy);
        self.session.renew(&config, policy);
        self.to_server.set_cap(config.limits.request.0);
        self.to_client.set_cap(config.limits.response.0);
        self.restarts
            .allow(config.server.restart == Restart::Always);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn it_ends_once_when_nothing_is_open_or_too_late_and_its_end_is_heard() {
        let now = Instant::now();
        let begin = |within| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (Farewell::begin(ours.into(), within, 3, now), theirs)
        };
        let (mut farewell, mut theirs) = begin(Some(1000));
        assert_eq!(farewell.limit(), Duration::from_secs(1));
        assert!(!farewell.ends(true, now));
        assert!(farewell.ends(false, now));
        assert!(!farewell.ends(false, now) && farewell.due() > now + LONGEST);
        drop(farewell);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"ok\":true,\"open\":3,\"within_ms\":1000}\n");

        let (mut farewell, _theirs) = begin(None);
        assert_eq!(farewell.due(), now + DRAIN);
        assert!(!farewell.ends(true, now + DRAIN - Duration::from_nanos(1)));
        assert!(farewell.ends(true, now + DRAIN));
        assert!(begin(Some(u64::MAX)).0.limit() <= LONGEST);

        let mut farewell = Farewell::hurried(now);
        assert_eq!(farewell.limit(), STOP);
        assert!(!farewell.ends(true, now) && farewell.ends(true, now + STOP));
    }
}
