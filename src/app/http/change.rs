//! What changes while the listener serves: credentials, and the operator's switch.

use super::server::{Kind, Server};
use super::state::{Gate, State};
use super::who::unix_now;
use crate::app::access::{AccessError, Texts};
use crate::app::credentials::{self, Told};
use crate::cell::spawn::CredentialState;
use crate::identity::{Caller, How, KeyBook, Verifier};
use crate::proxy::Outbox;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use zeroize::Zeroizing;

impl Gate {
    /// The spawner has read certificates and keys. What cannot be used changes nothing: what was there
    /// before stays in force. Connections stay as they are.
    pub(super) fn take_access(self: &Rc<Self>, texts: Result<OwnedFd, String>, now: Instant) {
        let texts = texts.and_then(|texts| Texts::unpack(texts).map_err(|error| error.to_string()));
        let texts = match texts {
            Ok(texts) => texts,
            Err(error) => return stays(&error),
        };
        if let (Some(tls), Some(pem)) = (&self.tls, &texts.pem)
            && let Err(error) = tls.reload(pem)
        {
            stays(&error.to_string());
        }
        let old = Rc::clone(&self.verifier.borrow());
        match renewed(&old, &texts) {
            Ok((verifier, keys)) => {
                *self.verifier.borrow_mut() = Rc::new(verifier);
                let now_unix = unix_now();
                self.work(|state| {
                    state.end_streams(|caller| is_revoked(caller, &keys, now_unix), now);
                });
            }
            Err(error) => stays(&error.to_string()),
        }
    }
}

fn stays(error: &str) {
    tracing::error!("{error}; what was in force before stays in force");
}

fn renewed(old: &Verifier, texts: &Texts) -> Result<(Verifier, KeyBook), AccessError> {
    let keys = texts.key_book()?;
    let new = old.with_keys(keys.clone());
    // Keys that are fetched do not come this way.
    let new = match &texts.jwks {
        Some(_) => new.with_jwks(texts.key_set()?),
        None => new,
    };
    Ok((new, keys))
}

/// True when a client that was known by a key has none any more.
fn is_revoked(caller: &Caller, keys: &KeyBook, now: u64) -> bool {
    let own = |entry: &&crate::identity::Entry| entry.client == caller.client;
    caller.how == How::Key && !keys.entries().filter(own).any(|entry| entry.is_valid(now))
}

impl State {
    /// Ends the streams of callers whose proof does not hold any more: they would go on for days.
    pub(super) fn end_streams(&mut self, is_over: impl Fn(&Caller) -> bool, now: Instant) {
        let ends = |seat: &super::seat::Seat| seat.caller.get().is_some_and(|it| is_over(it));
        for visit in self.visits.values_mut() {
            if visit.get.as_deref().is_some_and(ends)
                && let Some(get) = visit.get.take()
            {
                get.end();
            }
        }
        for cell in self.cells() {
            self.with(cell, |state, server| {
                let listens = server.exchanges.iter().filter(|(_, exchange)| {
                    exchange.place.kind == Kind::Listen && ends(&exchange.place.seat)
                });
                let over: Vec<i64> = listens.map(|(number, _)| number).collect();
                for number in over {
                    state.give_up(server, number, now);
                }
            });
        }
    }

    /// The spawner has read the credentials: what servers say is searched for these values from here
    /// on, and those that got others are [replaced](Self::retire).
    ///
    /// # Errors
    /// The values cannot be read.
    pub(super) fn take_credentials(
        &mut self,
        states: &[CredentialState],
        values: OwnedFd,
        now: Instant,
    ) -> io::Result<()> {
        let cells = self.cells();
        let begun = cells
            .into_iter()
            .filter_map(|cell| self.with(cell, |_, it| it.process.begun));
        let oldest = begun.min();
        let config = Arc::clone(&self.config);
        let told = Told {
            config: &config,
            metrics: &self.metrics,
            audit: self.desk.audit(),
            now,
        };
        self.policy = self.known.renew(states, values, oldest, told)?;
        self.rest_soon();
        self.desk.adopt(Arc::clone(&self.policy));
        if let Some(spawner) = &mut self.spawner {
            // From here on a server may say them. A spawner that is gone says so by itself.
            drop(spawner.taken());
        }
        if let Some(bridges) = &self.bridges {
            let settings = bridges.settings();
            settings.arm(&config, states, self.known.in_force());
            settings.write_down(self.desk.audit(), now);
        }
        let replaced = |state: &CredentialState| {
            state.changed && credentials::replaces(&config.credentials, state)
        };
        let changed = states.iter().any(replaced);
        if states.iter().any(|state| state.changed) {
            self.try_again(now);
        }
        for cell in self.cells() {
            self.with(cell, |state, server| {
                server.session.adopt(Arc::clone(&state.policy));
                if server.session.has_filled() && server.process.inlet.waiting() > 0 {
                    // What the server has not read goes out with what is in force now.
                    let lines = Zeroizing::new(server.process.inlet.take_back());
                    let mut out = Outbox::default();
                    server.session.refill(&lines, now, &mut out);
                    state.send(server, out, now);
                }
            });
        }
        if changed {
            self.retire("another credential", now);
        }
        Ok(())
    }

    /// The operator's switch has another position; the spawner kills what runs.
    pub(super) fn take_switch(&mut self, off: Option<&str>, tools: Vec<String>, now: Instant) {
        let was_off = std::mem::replace(&mut self.off, off.is_some());
        self.metrics.switched_off.set(self.off.into());
        self.tools_off = BTreeSet::from_iter(tools);
        let tools = self.tools_off.clone();
        self.desk.switch_tools(tools.clone());
        match off {
            Some(reason) => tracing::warn!("switched off: {reason}"),
            None => tracing::info!("what is switched off: {} tools", tools.len()),
        }
        for cell in self.cells() {
            self.with(cell, |state, server| {
                server.session.switch_tools(tools.clone());
                match (was_off, state.off) {
                    (false, true) => state.switch_off(server, now),
                    (true, false) if server.restarts.off() => {
                        let answered = server.session.has_answered();
                        server.restarts.planned(answered, now);
                    }
                    _ => {}
                }
            });
        }
        self.wake(Some(now));
        self.moved = true;
    }

    /// Nothing may run: what is open is answered at the next look at the clock, and sessions wait for a
    /// process until it is on again.
    fn switch_off(&mut self, server: &mut Server, now: Instant) {
        self.dismiss(server, "it was switched off", now);
        server.replacing = None;
        if server.restarts.allowed() {
            server.restarts.switch_off();
        }
        if !server.process.started {
            // The spawner was asked for nothing, or will not do it.
            server.process.runs = false;
        }
        if server.process.ended.is_none() {
            // It is killed already; this names whose doing it is.
            server.process.life.stop(now);
            server.process.ended = Some(("it was switched off".to_owned(), now));
        }
    }
}
