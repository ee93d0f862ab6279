//! The spawner: from the configuration to its loop, below its guardian.

use super::access::Porter;
use super::audit_path;
use super::clerk::{self, Clerk, answer, failed};
use super::credentials::{Keeper, unix_now};
use super::edited::Edited;
use super::incident::Incident;
use super::reload::Again;
use super::roll::{Drilled, Instance, Roll, Shown};
use super::sealed::Packed;
use super::shelf::{self, Shelf};
use super::switch::{Guarded, Turn};
use crate::admin::Ask;
use crate::audit;
use crate::cell;
use crate::cell::package::{self, INSTALL_LIMIT, InCell, Prepared, Setup};
use crate::cell::spawn::{
    Asked, Duties, Ended, Event, Facts, Frozen, ISSUER, Mode, Planned, Role, StartError, Watch,
    Work, adopt, guard, message_process, serve,
};
use crate::cell::{CellSpec, Layer};
use crate::config::{AdminAddr, Config, Inject, Signal, renew};
use crate::secret::source::SourceError;
use crate::transport::socket::remove_socket;
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From an attempt to write a file into a cell that failed until the next.
const AGAIN: Duration = Duration::from_secs(5);

/// As [`spawner`], on the inherited descriptor `control`: for whoever plays the message process.
#[must_use]
pub fn lone_spawner(control: RawFd, mode: Mode, config: Config, again: &dyn Again) -> ExitCode {
    cell::hide_memory();
    ExitCode::from(match adopt(control) {
        Ok(control) => spawner(control, mode, Arc::new(config), again),
        Err(error) => complain(&error.to_string()),
    })
}

/// Serves the message process at the other end of `control` until it is gone; `again` reads what
/// `config` came from. The result is the code to exit with.
pub(super) fn spawner(control: OwnedFd, mode: Mode, config: Arc<Config>, again: &dyn Again) -> u8 {
    let ended = match guard(control) {
        Ok(Role::Guardian {
            code,
            felled,
            parent,
        }) => {
            if let (true, Mode::Run, Some(parent)) = (felled, mode, parent) {
                clerk::sweep(&config, parent.as_raw_nonzero().get());
            }
            let listeners = [
                config.admin.as_ref(),
                config.listen.as_ref().map(|listen| &listen.http),
            ];
            for address in listeners.into_iter().flatten() {
                if let (Mode::Run, AdminAddr::Unix(path), Some(parent)) = (mode, address, parent) {
                    remove_socket(path, parent.as_raw_nonzero().get());
                }
            }
            return code;
        }
        Ok(Role::Spawner(control)) => {
            let keeper = Keeper::open(&config.credentials, &config.state_dir, say);
            let runs = mode == Mode::Run;
            // Where no state can be kept nobody can be told; that was said already.
            let counts = runs && !config.credentials.is_empty();
            let roll = counts.then(|| Roll::open(&config.state_dir).ok()).flatten();
            let guarded = runs.then(|| Guarded::open(&config));
            let porter = runs.then(|| Porter::open(&config)).flatten();
            let mut office = Office {
                config,
                again,
                keeper,
                shelves: Vec::new(),
                again_at: None,
                roll,
                since: unix_now(),
                guarded,
                porter,
                clerk: None,
                unheard: message_process().filter(|_| runs),
                looked: false,
                edited: None,
                is_blind: false,
                reload: false,
                is_frozen: false,
                incident: None,
            };
            serve(control, mode, &mut office)
        }
        Err(error) => Err(error),
    };
    let complaint = match ended {
        Ok(Ended::Closed) => return 0,
        Ok(Ended::Malformed(error)) => format!("the message process sent nonsense: {error}"),
        Ok(Ended::Stuck) => "the message process does not read what the spawner says".to_owned(),
        Err(error) => error.to_string(),
    };
    complain(&complaint)
}

fn complain(complaint: &str) -> u8 {
    say(complaint);
    70
}

/// The configuration as the spawner has read it.
struct Office<'a> {
    config: Arc<Config>,
    again: &'a dyn Again,
    /// Or why there is no start.
    keeper: Result<Keeper, SourceError>,
    /// What the cells hold of them.
    shelves: Vec<Shelf>,
    /// When a file that could not be written is tried again.
    again_at: Option<Instant>,
    /// Where others see how it stands.
    roll: Option<Roll>,
    since: u64,
    /// `exec` is for looking around, and has none.
    guarded: Option<Guarded>,
    /// Of a listener that knows its clients by files.
    porter: Option<Porter>,
    /// `None` for `exec`, and where no directory takes a socket.
    clerk: Option<Clerk>,
    /// The message process, until operators can ask about it.
    unheard: Option<Pid>,
    looked: bool,
    /// The configuration file, where there is one.
    edited: Option<Edited>,
    /// It was said that changes are found late.
    is_blind: bool,
    /// A signal asked for it.
    reload: bool,
    is_frozen: bool,
    /// What is to be written down once everything stands still.
    incident: Option<Incident>,
}

impl Office<'_> {
    /// Listens for operators and watches the configuration file, once; what there is to say when nobody can
    /// be listened to.
    fn open_ears(&mut self) -> Option<Event> {
        let pid = self.unheard.take()?;
        self.edited = Edited::of(self.again);
        match Clerk::open(&self.config, pid.as_raw_nonzero().get()) {
            Ok(clerk) => {
                self.clerk = Some(clerk);
                None
            }
            Err(error) => Some(Event::Progress {
                cell: 0,
                text: format!("operators cannot ask this instance anything: {error}"),
            }),
        }
    }

    /// Says once that the kernel does not tell of changes, and what to do about it.
    fn tell_lack(&mut self) {
        let keeper = self.keeper.as_ref().ok().and_then(Keeper::lack);
        let lack = keeper
            .or_else(|| self.guarded.as_ref()?.lack())
            .or_else(|| self.edited.as_ref()?.lack());
        if let Some(lack) = lack
            && !std::mem::replace(&mut self.is_blind, true)
        {
            say(&format!(
                "files cannot be watched: {lack}; credentials, the kill switch and the configuration are read every second instead"
            ));
        }
    }

    /// Does what an operator asks for, or hands it on.
    fn attend(&mut self, ask: Ask, reply: OwnedFd) -> Option<Event> {
        let asked = match ask {
            Ask::Status => Asked::Status,
            Ask::Drain { within } => Asked::Drain { within },
            Ask::Kill { tools } => {
                self.turn(&Turn::Off(tools), reply);
                return None;
            }
            Ask::Resume { tools } => {
                let goes_on = tools.is_empty() && std::mem::take(&mut self.is_frozen);
                if goes_on {
                    self.incident = None;
                }
                self.turn(&Turn::On(tools), reply);
                return goes_on.then_some(Event::Frozen { facts: None });
            }
            Ask::Freeze if self.is_frozen => {
                answer(reply, &failed("it stands still already"));
                return None;
            }
            Ask::Freeze => return self.freeze(reply),
            Ask::Reload => return Some(self.read_again(Some(reply))),
        };
        Some(Event::Asked { asked, reply })
    }

    /// Everything is to stand still; the message process is asked for what it knows.
    fn freeze(&mut self, reply: OwnedFd) -> Option<Event> {
        self.is_frozen = true;
        let (facts, incident) = Incident::begin(reply);
        self.incident = Some(incident);
        Some(Event::Frozen { facts })
    }

    fn turn(&mut self, turn: &Turn, reply: OwnedFd) {
        let done = match &mut self.guarded {
            Some(guarded) => guarded.turn(turn),
            None => Err("nothing is guarded here".to_owned()),
        };
        answer(reply, &done.unwrap_or_else(|error| failed(&error)));
    }

    /// Reads the configuration again and goes by it from now on; the message process is told what
    /// came of it.
    fn read_again(&mut self, reply: Option<OwnedFd>) -> Event {
        let text = self.renew();
        Event::Config { text, reply }
    }

    fn renew(&mut self) -> Result<OwnedFd, String> {
        let text = self.again.read();
        if let Some(edited) = &mut self.edited {
            edited.taken(&text);
        }
        let text = text?;
        let config = self.again.build(text.as_deref())?;
        let (config, _) = renew(&self.config, config);
        self.again.check(&config)?;
        let mut keeper = None;
        if config.credentials != self.config.credentials {
            let opened = Keeper::open(&config.credentials, &config.state_dir, say);
            keeper = Some(opened.map_err(|error| error.to_string())?);
        }
        let mut packed = Packed::default();
        packed.add(text.as_deref().map(str::as_bytes));
        let sealed = packed.seal("cofferdam-config");
        let sealed = sealed.map_err(|error| error.to_string())?;
        if let Some(mut keeper) = keeper {
            if let Ok(last) = &self.keeper {
                keeper.follow(last);
            }
            self.keeper = Ok(keeper);
            self.roll = self
                .roll
                .take()
                .or_else(|| Roll::open(&config.state_dir).ok());
        }
        self.config = Arc::new(config);
        Ok(sealed)
    }
}

impl Duties for Office<'_> {
    fn plan(
        &mut self,
        cell: u32,
        directory: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Planned, StartError> {
        if let Some(place) = self.config.issuer().filter(|_| cell == ISSUER) {
            let work = Work::Dial(place.clone());
            let facts = Facts::default();
            return Ok(Planned { work, facts });
        }
        let keeper = self.keeper.as_ref().map_err(|error| StartError::Refused {
            exit_code: 78,
            message: format!("{error}; the server does not start without its credential"),
        })?;
        let vault = keeper.vault();
        let lay = |source| StartError::Os {
            doing: "lay a credential into the cell",
            source,
        };
        let shelf = Shelf::make(directory, vault).map_err(lay)?;
        let sources = &self.config.credentials;
        let command = shelf::fill(&self.config.server.command, directory, sources);
        let mut planned = plan(&self.config, &command, directory, watch)?;
        let Work::Enclose(spec) = &mut planned.work else {
            return Ok(planned);
        };
        for (source, held) in vault.each() {
            if let Inject::Env { variable } = &source.inject {
                // It was proved to be text when it was read.
                let value = String::from_utf8_lossy(held.secret.expose()).into_owned();
                spec.env.push((variable.clone(), value));
            }
        }
        if let Some(shelf) = shelf {
            shelf.grant(vault, spec);
            self.shelves.push(shelf);
        }
        self.publish();
        Ok(planned)
    }

    fn rotate(&mut self) -> io::Result<(OwnedFd, u64)> {
        let none = || io::Error::new(io::ErrorKind::Unsupported, "there is no audit log");
        let (file, size) = audit::rotate(&audit_path(&self.config).ok_or_else(none)?)?;
        Ok((file.into(), size))
    }

    fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let keeper = self.keeper.as_ref().ok().and_then(Keeper::watched);
        let guarded = self.guarded.as_ref().and_then(Guarded::watched);
        let porter = self.porter.as_ref().and_then(Porter::watched);
        let clerk = self.clerk.iter().flat_map(Clerk::watched);
        let files = keeper.into_iter().chain(guarded).chain(porter);
        let edited = self.edited.as_ref().and_then(Edited::watched);
        files.chain(clerk).chain(edited).collect()
    }

    fn due(&self) -> Option<Instant> {
        let keeper = self.keeper.as_ref().ok().and_then(Keeper::due);
        let guarded = self.guarded.as_ref().and_then(Guarded::due);
        let porter = self.porter.as_ref().map(Porter::due);
        let clerk = self.clerk.as_ref().and_then(Clerk::due);
        let opens = self.unheard.map(|_| Instant::now());
        let known = self.keeper.as_ref().is_ok_and(Keeper::is_known);
        let again = self.again_at.filter(|_| known);
        let edited = self.edited.as_ref().and_then(Edited::due);
        let files = keeper
            .into_iter()
            .chain(guarded)
            .chain(porter)
            .chain(edited);
        files.chain(clerk).chain(opens).chain(again).min()
    }

    fn look(&mut self, now: bool) -> Vec<Event> {
        let mut events = Vec::new();
        // Not before the first request: whoever starts a server waits for it.
        if std::mem::replace(&mut self.looked, true) {
            events.extend(self.open_ears());
        }
        let asked = self.clerk.as_mut().map(|clerk| clerk.hear(Instant::now()));
        let mut again = now;
        for (ask, reply) in asked.unwrap_or_default() {
            again |= ask == Ask::Reload;
            events.extend(self.attend(ask, reply));
        }
        let reader = self.again;
        let edited = self.edited.as_mut();
        self.reload |= edited.is_some_and(|it| it.look(Instant::now(), || reader.read()));
        if std::mem::take(&mut self.reload) {
            events.push(self.read_again(None));
        }
        let now = again;
        let keeper = self.keeper.as_mut().ok().and_then(|it| it.look(now));
        self.shelves.retain(Shelf::is_there);
        if let (Some(guarded), Ok(keeper)) = (&mut self.guarded, &self.keeper) {
            guarded.withhold(keeper.withheld());
        }
        let guarded = self.guarded.as_mut().and_then(|it| it.look(now));
        self.publish();
        let porter = self.porter.as_mut().and_then(|it| it.look(now));
        self.tell_lack();
        // Values before what may be started with them.
        events.extend(keeper.into_iter().chain(guarded).chain(porter));
        events
    }

    fn doomed(&self) -> Vec<PathBuf> {
        let Ok(keeper) = &self.keeper else {
            return Vec::new();
        };
        let orders = keeper.vault().orders();
        let holds = |shelf: &&Shelf| {
            let mut laid = shelf.laid().iter();
            laid.any(|it| orders.revokes(&it.name, &it.fingerprint))
        };
        let doomed = self.shelves.iter().filter(holds);
        doomed.map(|shelf| shelf.private().to_owned()).collect()
    }

    fn is_off(&self) -> bool {
        self.guarded.as_ref().is_some_and(Guarded::is_off)
    }

    fn switch_off(&mut self) {
        if let Some(guarded) = &mut self.guarded {
            guarded.off();
        }
    }

    fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    fn frozen(&mut self, processes: Vec<Frozen>) {
        let credentials = self
            .keeper
            .as_ref()
            .map_or(Vec::new(), Keeper::fingerprints);
        if let Some(incident) = self.incident.take() {
            incident.write(&self.config, &processes, credentials);
        }
    }

    fn reload(&mut self) {
        self.reload = true;
    }

    fn hand_over(&mut self, taken: bool) -> Vec<(PathBuf, Signal)> {
        let Ok(keeper) = &mut self.keeper else {
            return Vec::new();
        };
        let late = self.again_at.is_some_and(|at| at <= Instant::now());
        if taken {
            keeper.taken();
        }
        // What it does not know yet is not for the server either; it will say so again.
        if !(taken || late) || !keeper.is_known() {
            return Vec::new();
        }
        self.again_at = None;
        let drill = keeper.drill().filter(|drill| drill.took.is_none());
        let again = drill.map(|drill| drill.order.name.clone());
        self.shelves.retain(Shelf::is_there);
        let mut told = Vec::new();
        for shelf in &mut self.shelves {
            match shelf.renew(keeper.vault(), again.as_deref()) {
                Ok(signals) => {
                    let private = || shelf.private().to_owned();
                    told.extend(signals.into_iter().map(|signal| (private(), signal)));
                }
                Err(error) => {
                    self.again_at = Some(Instant::now() + AGAIN);
                    say(&format!(
                        "cannot put a credential into the cell: {error}; the server keeps the old one for now"
                    ));
                }
            }
        }
        told
    }
}

impl Office<'_> {
    /// Says how the credentials of this instance stand.
    fn publish(&mut self) {
        let (Some(roll), Ok(keeper)) = (&mut self.roll, &mut self.keeper) else {
            return;
        };
        let (known, sources) = (keeper.is_known(), &self.config.credentials);
        let drill = keeper.drill().map(|drill| {
            let name = &drill.order.name;
            let mut sources = sources.iter();
            let replaces = sources.any(|it| it.name == *name && it.inject.replaces());
            let old = self.shelves.iter().filter(|it| it.made() < drill.begun);
            let left = if replaces { old.count() } else { 0 };
            if known && left == 0 && drill.took.is_none() {
                drill.took = Some(drill.begun.elapsed());
            }
            Drilled {
                id: drill.order.id.clone(),
                millis: drill
                    .took
                    .and_then(|took| u64::try_from(took.as_millis()).ok()),
                left: u32::try_from(left).unwrap_or(u32::MAX),
            }
        });
        let shelves = &self.shelves;
        let shown = keeper.vault().each().map(|(source, held)| Shown {
            name: source.name.clone(),
            inject: source.inject.to_string(),
            generation: held.generation,
            fingerprint: held.fingerprint.clone(),
            since: held.since,
            expires: held.expires,
            rotate_by: source.rotate_by(held.since),
            aged: held.aged,
            revoked: held.revoked,
            previous: held.previous.as_ref().map(|it| it.fingerprint.clone()),
            problem: held.problem.as_ref().map(ToString::to_string),
            known,
            holders: shelf::holders(shelves, &source.name),
        });
        roll.write(Instance {
            pid: std::process::id(),
            since: self.since,
            credentials: shown.collect(),
            drill,
        });
    }
}

/// One cell: a package is prepared when the command runs one, then the cell is planned.
fn plan(
    config: &Config,
    command: &[String],
    tmp: &Path,
    watch: &mut Watch<'_>,
) -> Result<Planned, StartError> {
    if let Some(upstream) = &config.server.upstream
        && config.server.is_elsewhere()
    {
        let work = Work::Dial(upstream.url.clone());
        let facts = Facts::default();
        return Ok(Planned { work, facts });
    }
    let mut facts = Facts {
        name: Some(config.server.name.clone()),
        version: None,
    };
    let spec = match prepare(config, command, watch)? {
        Some(package) => {
            facts = Facts {
                name: Some(package.name.clone()),
                version: Some(package.version.clone()),
            };
            plan_package(config, &package, tmp)?
        }
        None => plan_command(&config.cell, command, tmp)?,
    };
    for warning in &spec.warnings {
        watch.progress(format!("warning: {warning}"));
    }
    let work = Work::Enclose(Box::new(spec));
    Ok(Planned { work, facts })
}

/// Installs the package that the command names, or finds it in the cache; `None` for a plain command.
fn prepare(
    config: &Config,
    command: &[String],
    watch: &mut Watch<'_>,
) -> Result<Option<Prepared>, StartError> {
    let refused = |error: package::PackageError| {
        let hint = error.hint();
        let message = if hint.is_empty() {
            error.to_string()
        } else {
            format!("{error}; {hint}")
        };
        StartError::Refused {
            exit_code: error.exit_code(),
            message,
        }
    };
    let here = |source| StartError::Os {
        doing: "find the current directory",
        source,
    };
    let cwd = std::env::current_dir().map_err(here)?;
    let Some(request) = package::detect(command, &cwd).map_err(refused)? else {
        return Ok(None);
    };
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let optional: Vec<Layer> = config
        .cell
        .optional
        .iter()
        .filter_map(|name| Layer::named(name))
        .collect();
    let setup = Setup {
        packages: &config.packages,
        env: &env,
        cwd: &cwd,
        cell_write: &config.cell.write,
        optional: &optional,
        limit: INSTALL_LIMIT,
    };
    let teller = watch.teller();
    package::prepare(&request, &setup, &mut InCell { watch }, &mut |line| {
        teller.tell(line);
    })
    .map(Some)
    .map_err(refused)
}

fn plan_package(config: &Config, package: &Prepared, tmp: &Path) -> Result<CellSpec, StartError> {
    let mut cell = config.cell.clone();
    cell.read.extend(package.read.iter().cloned());
    let mut spec = plan_command(&cell, &package.command, tmp)?;
    // The sealed entry and its runtime are trees, and nothing of them can be written in the cell.
    spec.execute.extend(package.execute.iter().cloned());
    // What the runtime needs to start from a sealed tree; the operator's own settings win.
    for (name, value) in &package.env {
        if !spec.env.iter().any(|(there, _)| there == name) {
            spec.env.push((name.clone(), value.clone()));
        }
    }
    Ok(spec)
}

fn plan_command(
    cell: &crate::config::Cell,
    command: &[String],
    tmp: &Path,
) -> Result<CellSpec, StartError> {
    cell::plan(cell, command, tmp, &|name| std::env::var_os(name)).map_err(|error| {
        StartError::Refused {
            exit_code: error.exit_code(),
            message: error.to_string(),
        }
    })
}

fn say(text: &str) {
    // Nobody may be left to read it; that is no reason to fail differently.
    drop(io::stderr().write_all(format!("cofferdam: spawner: {text}\n").as_bytes()));
}
