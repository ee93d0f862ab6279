//! The kill switch at work: the spawner reads it, ends what runs and starts nothing; the message process
//! answers its client.

use super::stdio::{Loop, LoopError};
use crate::admin::Phase;
use crate::admin::switch::{Switch, SwitchError};
use crate::cell::spawn::{Event, Stop};
use crate::config::Config;
use crate::proxy::Outbox;
use crate::secret::Watch;
use crate::transport::terminal::one_line;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From an event until the file is read: a kill is to be in force within 100 ms, all in all.
const SETTLE: Duration = Duration::from_millis(1);

/// Where the switch of a server is.
pub(crate) fn path(config: &Config) -> PathBuf {
    let named = config.server.kill_file.clone();
    named.unwrap_or_else(|| config.state_dir.join("switch"))
}

/// What an operator does to the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// These tools off; everything when none is named.
    Off(Vec<String>),
    /// These tools on; everything when none is named.
    On(Vec<String>),
}

impl Turn {
    fn apply(&self, switch: &mut Switch) {
        match self {
            Self::Off(tools) => {
                switch.off |= tools.is_empty();
                switch.tools.extend(tools.iter().cloned());
            }
            Self::On(tools) if tools.is_empty() => *switch = Switch::default(),
            Self::On(tools) => switch.tools.retain(|tool| !tools.contains(tool)),
        }
    }
}

/// The spawner's side.
#[derive(Debug)]
pub(super) struct Guarded {
    path: PathBuf,
    watch: Watch,
    /// There was a file, or there has to be one.
    expected: bool,
    state: Switch,
    reason: String,
    /// What else keeps everything off.
    withheld: Option<String>,
    /// How it is switched on again.
    hint: String,
    untold: bool,
    /// What is off although the file could not be made to say so.
    unwritten: Switch,
}

impl Guarded {
    pub(super) fn open(config: &Config) -> Self {
        let path = path(config);
        let expected = config.server.kill_file.is_some();
        if !expected && path.try_exists().is_ok_and(|exists| !exists) {
            // Where no state can be kept there is no switch either; a first start runs.
            drop(Switch::default().write(&path));
        }
        let mut guarded = Self {
            watch: Watch::new(vec![path.clone()], SETTLE, Instant::now()),
            path,
            expected,
            state: Switch::default(),
            reason: String::new(),
            withheld: None,
            hint: format!("; `cofferdam resume {}` switches it on", config.server.name),
            untold: false,
            unwritten: Switch::default(),
        };
        guarded.read();
        guarded.untold = guarded.state != Switch::default();
        guarded
    }

    /// True while nothing may run.
    pub(super) fn is_off(&self) -> bool {
        self.state.off || self.withheld.is_some()
    }

    /// Something else than the switch keeps everything off, or does not any more.
    pub(super) fn withhold(&mut self, why: Option<String>) {
        self.untold |= self.withheld != why;
        self.withheld = why;
    }

    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.watched()
    }

    /// Why changes are found late.
    pub(super) fn lack(&self) -> Option<String> {
        self.watch.lack()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.untold {
            true => Some(Instant::now()),
            // The regular look is for what no event tells; a file system that tells nothing is none
            // to keep a switch on, and an idle server is not to be woken for it.
            false => self.watch.stirred(),
        }
    }

    /// Reads the file where it may have changed, or `at_once`; what the message process is to know.
    pub(super) fn look(&mut self, at_once: bool) -> Option<Event> {
        let now = Instant::now();
        let due = self.watch.take(now);
        if due || at_once {
            let before = self.state.clone();
            self.read();
            self.untold |= self.state != before;
        }
        std::mem::take(&mut self.untold).then(|| Event::Switch {
            off: match self.state.off {
                true => Some(format!("{}{}", self.reason, self.hint)),
                false => self.withheld.clone(),
            },
            tools: self.state.tools.iter().cloned().collect(),
        })
    }

    /// Switches everything off, as a signal asks for.
    pub(super) fn off(&mut self) {
        self.state.off = true;
        self.reason = "a signal asked for it".to_owned();
        self.untold = true;
        // In force in any case; the file makes it last.
        self.unwritten.off = self.state.write(&self.path).is_err();
    }

    /// Does what an operator asks for; what the switch says then.
    ///
    /// # Errors
    /// The file cannot be written. What was to be off is off all the same, while this instance runs.
    pub(super) fn turn(&mut self, turn: &Turn) -> Result<Value, String> {
        let before = self.state.clone();
        let done = change(&self.path, turn);
        match &done {
            Ok(switch) => {
                self.expected = true;
                self.unwritten = Switch::default();
                self.state = switch.clone();
            }
            Err(_) if matches!(turn, Turn::Off(_)) => {
                turn.apply(&mut self.state);
                turn.apply(&mut self.unwritten);
            }
            Err(_) => {}
        }
        "the operator switched it off".clone_into(&mut self.reason);
        self.untold |= self.state != before;
        match done {
            Ok(switch) => Ok(json!({
                "ok": true,
                "file": self.path.to_string_lossy(),
                "off": switch.off,
                "tools": switch.tools,
            })),
            Err(error) => Err(error.to_string()),
        }
    }

    fn read(&mut self) {
        match Switch::read(&self.path) {
            Ok(state) => {
                self.expected = true;
                self.state = state;
                self.state.off |= self.unwritten.off;
                self.state.tools.extend(self.unwritten.tools.clone());
                "the operator switched it off".clone_into(&mut self.reason);
            }
            Err(SwitchError::Absent { .. }) if !self.expected => {}
            Err(error) => {
                self.state.off = true;
                self.reason = error.to_string();
            }
        }
    }
}

impl Loop {
    /// The switch has another position.
    pub(super) fn take_switch(
        &mut self,
        off: Option<&str>,
        tools: Vec<String>,
        now: Instant,
    ) -> Result<(), LoopError> {
        let was_off = self.restarts.off();
        for tool in &tools {
            tracing::warn!("switched off: the tool {}", one_line(tool));
        }
        self.session.switch_tools(BTreeSet::from_iter(tools));
        self.metrics.switched_off.set(off.is_some().into());
        match off {
            Some(reason) if !was_off => {
                tracing::warn!("switched off: {reason}");
                self.enter(Phase::Off);
                self.lost_beside(now);
                self.replacing = None;
                self.restarts.switch_off();
                let mut out = Outbox::default();
                self.session
                    .give_up_waiting("it was switched off", now, &mut out);
                self.send(out);
                if self.started {
                    // The spawner has killed it already; this names whose doing it is.
                    self.life.stop(now);
                    let act = self.life.stuck();
                    self.act(act)?;
                }
            }
            None if was_off => {
                tracing::info!("switched on again");
                self.restarts.planned(self.session.has_answered(), now);
                self.enter(Phase::Restarting);
            }
            _ => {}
        }
        Ok(())
    }

    /// SIGUSR1: everything off, at once and until somebody switches it on.
    pub(super) fn switch_off(&mut self) -> Result<(), LoopError> {
        self.spawner
            .switch_off()
            .and_then(|()| self.spawner.stop(self.cell, Stop::Kill))
            .map_err(LoopError::unreached)
    }
}

/// Changes the switch of a server; what it says now.
///
/// # Errors
/// What the file system says. A switch that cannot be read counts as off, and stays so but for `turn`.
pub(crate) fn change(path: &Path, turn: &Turn) -> Result<Switch, SwitchError> {
    let mut switch = match Switch::read(path) {
        Ok(switch) => switch,
        Err(SwitchError::Absent { .. }) => Switch::default(),
        Err(SwitchError::Malformed { .. }) => Switch {
            off: true,
            ..Switch::default()
        },
        Err(error) => return Err(error),
    };
    turn.apply(&mut switch);
    switch.write(path)?;
    Ok(switch)
}
