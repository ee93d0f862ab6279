//! Everything that the listener works on: server processes, sessions, and what is due when.

use super::issuer::Issuer;
use super::owners::Owners;
use super::seat::Seat;
use super::server::{Role, Server};
use super::turns::Turns;
use super::visit::Visit;
use super::who::Names;
use crate::admin::Health;
use crate::app::credentials::Known;
use crate::app::farewell::Farewell;
use crate::app::reload::Again;
use crate::app::seldom::Alarm;
use crate::app::stdio::START_LIMIT;
use crate::app::upstream::Bridges;
use crate::audit::{FLUSH_AFTER, Log};
use crate::cell::spawn::{ISSUER, MAX_CELLS, Spawner};
use crate::config::{Config, Listen, Restart};
use crate::identity::{Caller, Challenges, Verifier};
use crate::mcp::{Era, Revision};
use crate::policy::Policy;
use crate::proxy::{Outbox, Party, Session};
use crate::supervise::{Act, Restarts};
use crate::telemetry::Metrics;
use crate::transport::http::Bytes;
use crate::transport::tls::ServerTls;
use smol_str::SmolStr;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Events that may wait for one reader, besides two answers of the largest size.
const READER: usize = 256 * 1024;

/// What all tasks share. Everything is on one thread.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) config: RefCell<Arc<Config>>,
    pub(super) again: Box<dyn Again>,
    pub(super) listen: Listen,
    pub(super) names: Names,
    /// `None`: plain HTTP.
    pub(super) tls: Option<ServerTls>,
    pub(super) verifier: RefCell<Rc<Verifier>>,
    pub(super) challenges: Challenges,
    /// Of keys that are fetched.
    pub(super) issuer: Option<Issuer>,
    pub(super) turns: RefCell<Rc<Turns>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) state: RefCell<State>,
    /// Rings when something is due. A descriptor rather than a timer of the runtime: that would be set
    /// around every message (see [`Alarm`]).
    pub(super) alarm: RefCell<Alarm>,
    /// Rings when something waits to be written to a server.
    pub(super) unsent: Notify,
    /// Rings when everything is over.
    pub(super) over: Notify,
    /// Requests that are being answered.
    pub(super) busy: Cell<usize>,
    /// Somebody wants us to end; told when we have.
    pub(super) farewell: RefCell<Option<Farewell>>,
    pub(super) connections: Cell<usize>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Arc<Config>,
    pub(super) policy: Arc<Policy>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) challenges: Challenges,
    /// Takes what reaches no server: it is counted and noted like everything else.
    pub(super) desk: Session,
    log: Log,
    /// `None` at the very end.
    pub(super) spawner: Option<Spawner>,
    /// To a server that runs elsewhere.
    pub(super) bridges: Option<Bridges>,
    /// By the number of their cell. Boxed, because each is taken out while it is worked on.
    pub(super) servers: Vec<Option<Box<Server>>>,
    /// Boxed: a table keeps room for as many again.
    pub(super) visits: HashMap<Party, Box<Visit>>,
    pub(super) by_id: HashMap<SmolStr, Party>,
    parties: Party,
    serial: u64,
    pub(super) rest_at: Option<Instant>,
    pub(super) sweep_at: Option<Instant>,
    /// Somebody asked us to stop.
    pub(super) stopping: bool,
    /// Nothing new is begun.
    pub(super) draining: bool,
    /// The operator wants the servers to stand still.
    pub(super) frozen: bool,
    /// Whether another process is started for those who come.
    pub(super) fresh: Restarts,
    /// The clock is to be looked at.
    pub(super) wake_at: Option<Instant>,
    /// A process has come or gone.
    pub(super) moved: bool,
    /// A server has run: from now on one that fails to start ends its requests, not us.
    pub(super) ran: bool,
    /// The code to exit with.
    pub(super) code: Option<u8>,
    /// The spawner is gone.
    pub(super) orphaned: bool,
    /// Servers whose input waits to be written.
    pub(super) unsent: Vec<u32>,
    limit: usize,
    /// Of tasks that were begun without a session.
    pub(super) owners: Owners,
    /// Every value that a server may hold.
    pub(super) known: Known,
    /// Nothing may run, says the operator.
    pub(super) off: bool,
    /// These tools may not be called.
    pub(super) tools_off: BTreeSet<String>,
}

/// Why there is no server for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoServer {
    /// As many run as may.
    Full,
    /// The spawner cannot be reached, or we are stopping.
    Unavailable,
    /// Processes end again and again; it is tried again after this long.
    Parked(Duration),
    /// Nothing may run.
    Off,
}

impl State {
    pub(super) fn new(
        config: Arc<Config>,
        policy: Arc<Policy>,
        log: Log,
        metrics: Arc<Metrics>,
        spawner: Spawner,
        bridges: Option<Bridges>,
    ) -> Self {
        let challenges = Challenges::new(&config);
        // The last cell may be wanted for connections to the issuer of tokens.
        let cells = match config.issuer() {
            Some(_) => ISSUER,
            None => MAX_CELLS,
        };
        let desk = Session::new(
            &config,
            Arc::clone(&policy),
            log.sibling(),
            Arc::clone(&metrics),
        );
        let mut state = Self {
            policy,
            metrics,
            challenges,
            desk,
            log,
            spawner: Some(spawner),
            bridges,
            servers: (0..cells).map(|_| None).collect(),
            visits: HashMap::new(),
            by_id: HashMap::new(),
            parties: 0,
            serial: 0,
            rest_at: None,
            sweep_at: None,
            stopping: false,
            draining: false,
            frozen: false,
            fresh: Restarts::of_many(
                config.server.restart == Restart::Always,
                START_LIMIT,
                Instant::now(),
            ),
            wake_at: None,
            moved: false,
            ran: false,
            code: None,
            orphaned: false,
            unsent: Vec::new(),
            limit: READER,
            owners: Owners::default(),
            known: Known::default(),
            off: false,
            tools_off: BTreeSet::new(),
            config,
        };
        state.measure_readers();
        // The spawner was asked for cell 0 before anything else.
        state.place(0, Role::Spare);
        state
    }

    /// How much may wait for one reader, by the largest answer that there can be.
    pub(super) fn measure_readers(&mut self) {
        let answer = usize::try_from(self.config.limits.response.0).unwrap_or(usize::MAX);
        self.limit = answer.saturating_mul(2).saturating_add(READER);
    }

    /// A seat for a request.
    pub(super) fn seat(&mut self, caller: &Arc<Caller>, now: Instant) -> Rc<Seat> {
        if self.sweep_at.is_none() {
            self.sweep_at = Some(now + super::tick::SWEEP);
        }
        let seat = Seat::new(self.limit, now);
        drop(seat.caller.set(Arc::clone(caller)));
        Rc::new(seat)
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn place(&mut self, cell: u32, role: Role) {
        let serial = self.number();
        let mut session = Session::new(
            &self.config,
            Arc::clone(&self.policy),
            self.log.sibling(),
            Arc::clone(&self.metrics),
        );
        if role == Role::Modern {
            session.set_era(Era::Modern);
        }
        if matches!(role, Role::Modern | Role::Shared) {
            session.serves_many();
        }
        session.switch_tools(self.tools_off.clone());
        session.join(&self.desk);
        let restart = self.config.server.restart == Restart::Always;
        let server = Box::new(Server::new(cell, serial, role, session, restart));
        if let Some(slot) = self.servers.get_mut(cell as usize) {
            *slot = Some(server);
        }
    }

    /// A process for a role: the one that is there, the spare one, or a new one. Sessions share one with those
    /// that asked for the same `revision`: a server speaks one with whoever it was initialized by.
    pub(super) fn server_for(
        &mut self,
        role: Role,
        revision: Option<Revision>,
    ) -> Result<u32, NoServer> {
        if self.stopping || self.orphaned {
            return Err(NoServer::Unavailable);
        }
        let mut spare = None;
        for server in self
            .servers
            .iter()
            .flatten()
            .filter(|server| server.serves())
        {
            if server.role == role && server.revision == revision {
                return Ok(server.cell);
            }
            if server.role == Role::Spare {
                spare = Some(server.cell);
            }
        }
        if self.off {
            return Err(NoServer::Off);
        }
        if let Some(server) = spare.and_then(|cell| self.servers.get_mut(cell as usize)?.as_mut()) {
            server.role = role;
            server.revision = revision;
            if matches!(role, Role::Modern | Role::Shared) {
                server.session.serves_many();
            }
            if role == Role::Modern {
                server.session.set_era(Era::Modern);
            }
            return Ok(server.cell);
        }
        if self.fresh.parked() {
            let wait = self.fresh.asked(Instant::now());
            if self.fresh.parked() {
                return Err(NoServer::Parked(wait));
            }
        }
        let cell = self.free_cell(MAX_CELLS).ok_or(NoServer::Full)?;
        let asked = self.spawner.as_mut().map(|spawner| spawner.start(cell));
        if !matches!(asked, Some(Ok(()))) {
            return Err(NoServer::Unavailable);
        }
        self.place(cell, role);
        if let Some(Some(server)) = self.servers.get_mut(cell as usize) {
            server.revision = revision;
        }
        Ok(cell)
    }

    /// A cell that nobody has, other than `taken`.
    pub(super) fn free_cell(&self, taken: u32) -> Option<u32> {
        let mut cells = (0..).zip(&self.servers);
        let free = cells.find(|(cell, server)| server.is_none() && *cell != taken);
        free.map(|(cell, _)| cell)
    }

    /// Works on one server with everything else at hand.
    pub(super) fn with<R>(
        &mut self,
        cell: u32,
        work: impl FnOnce(&mut Self, &mut Server) -> R,
    ) -> Option<R> {
        let mut server = self.lift(cell)?;
        let done = work(self, &mut server);
        self.settle(&mut server);
        let drained = server.replacing.is_some() && server.is_drained(Instant::now());
        self.set_down(server);
        if drained {
            self.move_on(cell, Instant::now());
        }
        Some(done)
    }

    pub(super) fn lift(&mut self, cell: u32) -> Option<Box<Server>> {
        self.servers.get_mut(cell as usize)?.take()
    }

    pub(super) fn set_down(&mut self, server: Box<Server>) {
        if let Some(slot) = self.servers.get_mut(server.cell as usize) {
            *slot = Some(server);
        }
    }

    /// The same, if it is still that process.
    pub(super) fn with_process<R>(
        &mut self,
        cell: u32,
        process: u64,
        work: impl FnOnce(&mut Self, &mut Server) -> R,
    ) -> Option<R> {
        let there = self.servers.get(cell as usize)?.as_ref()?;
        (there.process.number == process)
            .then(|| self.with(cell, work))
            .flatten()
    }

    /// The same, if it is still that server.
    pub(super) fn with_same<R>(
        &mut self,
        cell: u32,
        serial: u64,
        work: impl FnOnce(&mut Self, &mut Server) -> R,
    ) -> Option<R> {
        let there = self.servers.get(cell as usize)?.as_ref()?;
        if there.serial != serial {
            return None;
        }
        self.with(cell, work)
    }

    /// What follows from any work on a server.
    fn settle(&mut self, server: &mut Server) {
        if server.restarts.starting() || server.session.estranged().is_some() {
            self.settle_restart(server, Instant::now());
        }
        if !server.waiting.is_empty() {
            self.settle_waiting(server, Instant::now());
        }
        if !server.proven && server.session.has_answered() {
            server.proven = true;
            self.fresh.healthy(Instant::now());
        }
        if server.process.inlet.wants_pump() && !self.unsent.contains(&server.cell) {
            self.unsent.push(server.cell);
        }
        if server.process.inlet.deaf && server.process.ended.is_none() {
            server.process.inlet.deaf = false;
            let act = server.process.life.deaf(Instant::now());
            self.act(server, act);
        }
        if server.retired && server.process.ended.is_none() && !server.has_work() {
            // Whoever only listens does so again, and is heard by the one that serves.
            let now = Instant::now();
            let listens: Vec<i64> = server.exchanges.iter().map(|(number, _)| number).collect();
            for number in listens {
                self.give_up(server, number, now);
            }
            let act = server.process.life.replaced(now);
            self.act(server, act);
        }
        if self.rest_at.is_none() && server.session.restless() {
            self.rest_at = Some(Instant::now() + FLUSH_AFTER);
        }
    }

    /// Does what the life of a server asks for.
    pub(super) fn act(&mut self, server: &mut Server, act: Option<Act>) {
        use crate::cell::spawn::Stop;
        let how = match act {
            None => return,
            Some(Act::CloseInput) => return server.process.inlet.close(),
            Some(Act::Terminate) => Stop::Terminate,
            Some(Act::Kill) => Stop::Kill,
        };
        if let Some(spawner) = &mut self.spawner {
            // A spawner that is gone says so by itself.
            drop(spawner.stop(server.cell, how));
        }
    }

    /// A new session on this server.
    pub(super) fn open_visit(
        &mut self,
        caller: &Arc<Caller>,
        server: &Server,
        now: Instant,
    ) -> Option<Party> {
        let mut random = [0_u8; 16];
        let flags = rustix::rand::GetRandomFlags::empty();
        let got = rustix::rand::getrandom(&mut random, flags).ok()?;
        if got != random.len() {
            return None;
        }
        let id: SmolStr = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.parties += 1;
        let party = self.parties;
        let visit = Visit::new(
            id.clone(),
            Arc::clone(caller),
            server.cell,
            server.serial,
            now,
        );
        self.by_id.insert(id, party);
        self.visits.insert(party, Box::new(visit));
        self.metrics.http_sessions.inc();
        Some(party)
    }

    /// The session with this id, if it is the caller's and its server is there.
    pub(super) fn find_visit(&self, id: &str, caller: &Caller) -> Option<(Party, &Visit)> {
        let party = *self.by_id.get(id)?;
        let visit = self.visits.get(&party)?;
        visit.caller.is_same(caller).then_some((party, visit))
    }

    /// Forgets a session. Its requests, if any are open, are answered when its server is gone.
    pub(super) fn close_visit(&mut self, party: Party) -> Option<Box<Visit>> {
        let visit = self.visits.remove(&party)?;
        self.by_id.remove(&visit.id);
        self.metrics.http_sessions.dec();
        if let Some(get) = &visit.get {
            get.end();
        }
        Some(visit)
    }

    /// The breakers that are not closed, when one of them has moved.
    pub(super) fn moved_breakers(&self) -> Option<Vec<(Option<String>, &'static str)>> {
        self.desk.moved_breakers()
    }

    /// Adds what was counted to the shared metrics.
    pub(super) fn publish(&mut self) {
        let sessions = self.servers.iter_mut().flatten();
        for session in sessions
            .map(|server| &mut server.session)
            .chain([&mut self.desk])
        {
            session.tally().publish();
        }
    }

    /// The desk has something to write.
    pub(super) fn rest_soon(&mut self) {
        if self.rest_at.is_none() {
            self.rest_at = Some(Instant::now() + FLUSH_AFTER);
        }
    }

    /// Counts and notes a line that goes no further, and gives the answer that policy has for it.
    pub(super) fn turn_away(&mut self, line: &[u8], era: Era, now: Instant) -> Bytes {
        let mut out = Outbox::default();
        self.desk.set_era(era);
        // The line is known to be broken, so it cannot pass.
        drop(self.desk.client_line(line, now, &mut out));
        self.rest_soon();
        out.to_client.pop();
        out.to_client.into()
    }
}

impl Gate {
    /// Sees to it that the clock task runs at `when`, or earlier.
    pub(super) fn wake_by(&self, when: Option<Instant>) {
        if let Some(when) = when
            && let Err(error) = self.alarm.borrow_mut().set(when)
        {
            tracing::error!("no timer can be set: {error}");
        }
    }

    /// Works on the state, and starts what became due by it.
    pub(super) fn work<R>(self: &Rc<Self>, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.borrow_mut();
        let done = work(&mut state);
        self.wake_by(state.wake_at.take());
        if std::mem::take(&mut state.moved) && state.ran {
            self.health.enter(state.phase());
            self.metrics.child_parked.set(state.parked());
        }
        self.wake_by(state.rest_at);
        self.wake_by(state.sweep_at);
        if !state.unsent.is_empty() {
            self.unsent.notify_one();
        }
        done
    }
}
