//! What operators ask of the listener: how it is, another configuration, an orderly end.

use super::server::Kind;
use super::state::{Gate, State};
use super::turns::Turns;
use crate::app::farewell::{Farewell, announce};
use crate::app::reload::{self, Told};
use crate::app::{clerk, live};
use crate::audit::Operator;
use crate::cell::spawn::Asked;
use crate::config::{Changes, Config, Replace, Restart};
use crate::policy::Policy;
use crate::proxy::OpenCall;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Sections that say who is served how often.
const TURNS: [&str; 4] = ["clients", "groups", "limits", "tools"];

impl Gate {
    /// Answers an operator, or does what he wants.
    pub(super) fn answer_operator(self: &Rc<Self>, asked: Asked, reply: OwnedFd, now: Instant) {
        self.state.borrow_mut().publish();
        match asked {
            Asked::Status => {
                let open = self.state.borrow().open_calls(live::SHOWN, now);
                live::status(reply, &self.health, &self.metrics, &open);
            }
            Asked::Drain { .. } if self.farewell.borrow().is_some() => {
                clerk::answer(reply, &clerk::failed("it is ending already"));
            }
            Asked::Drain { within } => {
                let open = self.state.borrow().open();
                self.drain(Farewell::begin(reply, within, open, now), now);
            }
        }
    }

    /// SIGTERM, SIGINT: what is open is answered first, unless it is not the first time.
    pub(super) fn stop_on_signal(self: &Rc<Self>, now: Instant) {
        let waits = {
            let state = self.state.borrow();
            state.ran && !state.frozen && !state.stopping && self.farewell.borrow().is_none()
        };
        match waits {
            true => self.drain(Farewell::hurried(now), now),
            false => self.stop(now),
        }
    }

    fn drain(self: &Rc<Self>, farewell: Farewell, now: Instant) {
        self.work(|state| {
            state.draining = true;
            let open = state.open();
            announce(open, state.desk.audit(), now);
            state.rest_soon();
        });
        self.health.drains(farewell.limit());
        self.wake_by(Some(farewell.due()));
        *self.farewell.borrow_mut() = Some(farewell);
        self.step_farewell(now);
    }

    /// Ends once everything is answered.
    pub(super) fn step_farewell(self: &Rc<Self>, now: Instant) {
        let open = self.state.borrow().open();
        let mut farewell = self.farewell.borrow_mut();
        let ends = farewell.as_mut().is_some_and(|it| it.ends(open > 0, now));
        drop(farewell);
        if ends {
            if open > 0 {
                tracing::warn!("draining took too long: what is open is answered as lost");
            }
            self.stop(now);
        }
    }

    /// What runs stands still, and `facts` takes what is known of it; `None`: it goes on.
    pub(super) fn take_freeze(self: &Rc<Self>, facts: Option<OwnedFd>, now: Instant) {
        let frozen = facts.is_some();
        let text = match frozen {
            true => "the servers stand still",
            false => "the servers go on",
        };
        tracing::warn!("the operator wants it so: {text}");
        let (open, phase) = self.work(|state| {
            state.frozen = frozen;
            for cell in state.cells() {
                state.with(cell, |_, server| server.session.freeze(frozen, now));
            }
            // What was due meanwhile is due now.
            state.wake(Some(now));
            let act = if frozen { "freeze" } else { "resume" };
            let record = Operator {
                act,
                done: true,
                text,
            };
            state.desk.audit().operator(&record, now);
            // The spawner reads what happened until now.
            state.rest(now);
            state.publish();
            (state.open_calls(live::WRITTEN, now), state.phase())
        });
        self.health.enter(phase);
        if let Some(facts) = facts {
            live::status(facts, &self.health, &self.metrics, &open);
        }
    }

    /// The spawner has read the configuration again.
    pub(super) fn take_config(
        self: &Rc<Self>,
        text: Result<OwnedFd, String>,
        reply: Option<OwnedFd>,
        now: Instant,
    ) {
        let old = self.config();
        let taken = reload::take(text, &old, &*self.again);
        let outcome = taken.map(|(config, changes)| {
            self.go_by(Arc::new(config), &changes, now);
            changes
        });
        let keeps_server = self.config().server.replace == Replace::Never;
        self.work(|state| {
            let to = Told {
                health: &self.health,
                metrics: &self.metrics,
                audit: state.desk.audit(),
                keeps_server,
            };
            reload::tell(&outcome, reply, to, now);
            state.rest_soon();
        });
        self.wake_by(Some(now));
    }

    fn go_by(self: &Rc<Self>, config: Arc<Config>, changes: &Changes, now: Instant) {
        *self.config.borrow_mut() = Arc::clone(&config);
        if changes.live.iter().any(|key| TURNS.contains(key)) {
            // Counting begins anew; whoever has a place gives it back to where it was taken.
            *self.turns.borrow_mut() = Rc::new(Turns::new(&config));
        }
        let verifier = self.verifier.borrow().with_access(&config);
        *self.verifier.borrow_mut() = Rc::new(verifier);
        self.work(|state| {
            let policy = state.known.policy(&config);
            live::show_policy(&self.health, &self.metrics, &config, &policy);
            state.go_by(config, policy, !changes.server.is_empty(), now);
        });
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    pub(super) fn turns(&self) -> Rc<Turns> {
        Rc::clone(&self.turns.borrow())
    }
}

impl State {
    /// Requests that wait for their answer; streams that were opened to listen do not count.
    fn open(&self) -> usize {
        let servers = self.servers.iter().flatten();
        let count = servers.map(|server| {
            let plain = server
                .exchanges
                .iter()
                .filter(|(_, exchange)| exchange.place.kind != Kind::Listen);
            plain.count() + server.held.len() + server.waiting.len()
        });
        count.sum()
    }

    /// The oldest requests that are open, `most` of them.
    fn open_calls(&self, most: usize, now: Instant) -> Vec<OpenCall> {
        let servers = self.servers.iter().flatten();
        let mut all: Vec<OpenCall> = servers
            .flat_map(|server| server.session.open_calls(most, now))
            .collect();
        all.sort_by_key(|call| std::cmp::Reverse(call.age_ms));
        all.truncate(most);
        all
    }

    fn go_by(
        &mut self,
        config: Arc<Config>,
        policy: Arc<Policy>,
        other_server: bool,
        now: Instant,
    ) {
        self.config = config;
        self.policy = policy;
        self.measure_readers();
        self.desk.renew(&self.config, Arc::clone(&self.policy));
        for cell in self.cells() {
            self.with(cell, |state, server| {
                server
                    .session
                    .renew(&state.config, Arc::clone(&state.policy));
                if server.session.is_apart(&state.desk) {
                    server.session.join(&state.desk);
                }
            });
        }
        let restart = self.config.server.restart == Restart::Always;
        self.fresh.allow(restart);
        for cell in self.cells() {
            self.with(cell, |_, server| server.restarts.allow(restart));
        }
        if other_server {
            self.try_again(now);
            self.retire("another configuration", now);
        }
    }
}
