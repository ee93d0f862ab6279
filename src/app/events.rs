//! What reaches the loop on stdio besides messages: signals, and what the spawner has to say.

use super::drain::Drain;
use super::network;
use super::overlap;
use super::starting::tell_started;
use super::stdio::{Loop, LoopError};
use crate::admin::Phase;
use crate::cell::spawn::{self, Event, Exit};
use crate::transport::terminal::sanitize;
use crate::transport::writer::Outlet;
use nix::sys::signal::Signal;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

impl Loop {
    /// SIGTERM, SIGINT, SIGHUP: a code when there is no server yet whose end would have to be awaited.
    pub(super) fn take_signals(&mut self, now: Instant) -> Result<Option<u8>, LoopError> {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // Without files it is what a terminal says when it goes.
            let reads = self.again.path().is_some() || !self.config.credentials.is_empty();
            if signal.ssi_signo == Signal::SIGHUP as u32 && reads {
                tracing::info!("SIGHUP: the configuration and what it names is read again");
                self.spawner.reload().map_err(LoopError::unreached)?;
                continue;
            }
            if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                tracing::warn!("SIGUSR1: everything is switched off");
                self.switch_off()?;
                continue;
            }
            tracing::info!("stopping: signal {}", signal.ssi_signo);
            if let Some(code) = self.stop_on_signal(now)? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    /// What the spawner has to say; a code when it is time to go.
    pub(super) fn take_events(&mut self, now: Instant) -> Result<Option<u8>, LoopError> {
        loop {
            let event = match self.spawner.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(None),
                Err(source) => {
                    self.last_words("cofferdam's spawner was killed");
                    return Err(LoopError::Spawner { source });
                }
            };
            match event {
                Event::Started {
                    cell,
                    pid,
                    report,
                    facts,
                    fds,
                } => {
                    let fds = match &mut self.bridges {
                        Some(bridges) => {
                            bridges.start(fds).map_err(|source| LoopError::System {
                                doing: "reach the server",
                                source,
                            })?
                        }
                        None => fds,
                    };
                    let fds = <[OwnedFd; 3]>::try_from(fds).map_err(|_| LoopError::System {
                        doing: "use the server's pipes",
                        source: io::ErrorKind::InvalidData.into(),
                    })?;
                    if self.is_newcomer(cell) {
                        self.newcomer_started(pid, report, facts, fds, now)?;
                    } else if cell == self.cell {
                        self.begin(pid, &report, &facts, fds, now)?;
                    }
                }
                Event::Denied { what, text, .. } => self.session.denied(&what, text.as_bytes()),
                Event::Network { news, .. } => {
                    let policy = self.session.policy();
                    network::note(
                        &news,
                        (&self.config, &policy),
                        &self.metrics,
                        self.session.audit(),
                        now,
                    );
                }
                Event::Progress { text, .. } => tracing::info!("{}", sanitize(text.as_bytes())),
                Event::Exited {
                    cell,
                    exit,
                    cause,
                    limit,
                } => {
                    if cell != self.cell {
                        let why = overlap::words(exit, &cause);
                        if self.ended_beside(cell, &why, now)? {
                            self.metrics.child_exit("end_of_input");
                        }
                        continue;
                    }
                    if let Some(code) = self.end(exit, &cause, limit.as_deref(), now) {
                        return Ok(Some(code));
                    }
                }
                Event::Credentials { states, values } => {
                    self.take_credentials(&states, values, now)?;
                }
                Event::Switch { off, tools } => self.take_switch(off.as_deref(), tools, now)?,
                Event::Asked { asked, reply } => self.answer_operator(asked, reply, now),
                Event::Config { text, reply } => self.take_config(text, reply, now)?,
                Event::Frozen { facts } => self.take_freeze(facts, now),
                Event::Rotated { log } => self.session.audit().replace(log),
                // Nobody knocks at stdin.
                Event::Access { .. } => {}
                Event::Failed { cell, message, .. } if cell != self.cell => {
                    let message = sanitize(message.as_bytes());
                    self.ended_beside(cell, &message, now)?;
                }
                Event::Failed {
                    exit_code, message, ..
                } => {
                    tracing::error!("{}", sanitize(message.as_bytes()));
                    let exit = Exit::Code(exit_code);
                    if self.restarts.down() && self.replace_lost("it does not start", exit, now) {
                        continue;
                    }
                    self.life.exited(exit);
                    self.leave();
                    return Ok(Some(exit_code));
                }
            }
        }
    }

    fn begin(
        &mut self,
        pid: u32,
        report: &crate::cell::LayerReport,
        facts: &spawn::Facts,
        [stdin, stdout, stderr]: [OwnedFd; 3],
        now: Instant,
    ) -> Result<(), LoopError> {
        self.server_in = Some(Outlet::exclusive(stdin));
        self.server_out = Some(stdout);
        self.follow_stderr(Drain::new(stderr, now))?;
        self.started = true;
        self.life.started();
        self.metrics.child_starts.inc();
        self.metrics.child_up.set(1);
        let after = self.begun.elapsed();
        let name = &self.config.server.name;
        tell_started(&self.health, &self.metrics, name, pid, report, facts, after);
        self.enter(Phase::Serving);
        self.greet(now);
        Ok(())
    }
}
