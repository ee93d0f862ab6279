//! `__spawn`: from the spawner's own reading of the configuration to its loop, below its guardian.

use super::access::Porter;
use super::audit_path;
use super::clerk::{self, Clerk, answer, failed};
use super::credentials::Keeper;
use super::incident::Incident;
use super::reload::Again;
use super::sealed::Packed;
use super::switch::{Guarded, Turn};
use crate::admin::Ask;
use crate::audit;
use crate::cell;
use crate::cell::package::{self, INSTALL_LIMIT, InCell, Prepared, Setup};
use crate::cell::spawn::{
    Asked, Duties, Ended, Event, Facts, Frozen, Mode, Planned, Role, StartError, Watch, Work,
    adopt, guard, message_process, serve,
};
use crate::cell::{CellSpec, Layer};
use crate::config::{AdminAddr, Config, renew};
use crate::secret::source::SourceError;
use crate::transport::socket::remove_socket;
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Serves the message process at the other end of descriptor `control` until it is gone; `again` reads
/// what `config` came from.
#[must_use]
pub fn spawner(control: RawFd, mode: Mode, config: Config, again: &dyn Again) -> ExitCode {
    let config = Arc::new(config);
    let ended = match adopt(control).and_then(guard) {
        Ok(Role::Guardian { code, parent }) => {
            if let (Mode::Run, Some(parent)) = (mode, parent) {
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
            return ExitCode::from(code);
        }
        Ok(Role::Spawner(control)) => {
            let keeper = Keeper::open(&config.credentials);
            let runs = mode == Mode::Run;
            let guarded = runs.then(|| Guarded::open(&config));
            let porter = runs.then(|| Porter::open(&config)).flatten();
            let mut office = Office {
                config,
                again,
                keeper,
                guarded,
                porter,
                clerk: None,
                unheard: message_process().filter(|_| runs),
                looked: false,
                reload: false,
                is_frozen: false,
                incident: None,
            };
            serve(control, mode, &mut office)
        }
        Err(error) => Err(error),
    };
    let complaint = match ended {
        Ok(Ended::Closed) => return ExitCode::SUCCESS,
        Ok(Ended::Malformed(error)) => format!("the message process sent nonsense: {error}"),
        Ok(Ended::Stuck) => "the message process does not read what the spawner says".to_owned(),
        Err(error) => error.to_string(),
    };
    say(&complaint);
    ExitCode::from(70)
}

/// The configuration as the spawner has read it.
struct Office<'a> {
    config: Arc<Config>,
    again: &'a dyn Again,
    /// Or why there is no start.
    keeper: Result<Keeper, SourceError>,
    /// `exec` is for looking around, and has none.
    guarded: Option<Guarded>,
    /// Of a listener that knows its clients by files.
    porter: Option<Porter>,
    /// `None` for `exec`, and where no directory takes a socket.
    clerk: Option<Clerk>,
    /// The message process, until operators can ask about it.
    unheard: Option<Pid>,
    looked: bool,
    /// A signal asked for it.
    reload: bool,
    is_frozen: bool,
    /// What is to be written down once everything stands still.
    incident: Option<Incident>,
}

impl Office<'_> {
    /// Listens for operators, once; what there is to say when that cannot be.
    fn open_socket(&mut self) -> Option<Event> {
        let pid = self.unheard.take()?;
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
        let text = self.again.read()?;
        let config = self.again.build(text.as_deref())?;
        let (config, _) = renew(&self.config, config);
        self.again.check(&config)?;
        let mut keeper = None;
        if config.credentials != self.config.credentials {
            let opened = Keeper::open(&config.credentials).map_err(|error| error.to_string())?;
            keeper = Some(opened);
        }
        let mut packed = Packed::default();
        packed.add(text.as_deref().map(str::as_bytes));
        let sealed = packed.seal("cofferdam-config");
        let sealed = sealed.map_err(|error| error.to_string())?;
        if let Some(keeper) = keeper {
            self.keeper = Ok(keeper);
        }
        self.config = Arc::new(config);
        Ok(sealed)
    }
}

impl Duties for Office<'_> {
    fn plan(&mut self, directory: &Path, watch: &mut Watch<'_>) -> Result<Planned, StartError> {
        let keeper = self.keeper.as_ref().map_err(|error| StartError::Refused {
            exit_code: 78,
            message: format!("{error}; the server does not start without its credential"),
        })?;
        let mut planned = plan(&self.config, directory, watch)?;
        let Work::Enclose(spec) = &mut planned.work else {
            return Ok(planned);
        };
        for (variable, secret) in keeper.vault().variables() {
            // It was proved to be text when it was read.
            let value = String::from_utf8_lossy(secret.expose()).into_owned();
            spec.env.push((variable.to_owned(), value));
        }
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
        files.chain(clerk).collect()
    }

    fn due(&self) -> Option<Instant> {
        let keeper = self.keeper.as_ref().ok().and_then(Keeper::due);
        let guarded = self.guarded.as_ref().and_then(Guarded::due);
        let porter = self.porter.as_ref().map(Porter::due);
        let clerk = self.clerk.as_ref().and_then(Clerk::due);
        let opens = self.unheard.map(|_| Instant::now());
        let files = keeper.into_iter().chain(guarded).chain(porter);
        files.chain(clerk).chain(opens).min()
    }

    fn look(&mut self, now: bool) -> Vec<Event> {
        let mut events = Vec::new();
        // Not before the first request: whoever starts a server waits for it.
        if std::mem::replace(&mut self.looked, true) {
            events.extend(self.open_socket());
        }
        let asked = self.clerk.as_mut().map(|clerk| clerk.hear(Instant::now()));
        let mut again = now;
        for (ask, reply) in asked.unwrap_or_default() {
            again |= ask == Ask::Reload;
            events.extend(self.attend(ask, reply));
        }
        if std::mem::take(&mut self.reload) {
            events.push(self.read_again(None));
        }
        let now = again;
        let guarded = self.guarded.as_mut().and_then(|it| it.look(now));
        let keeper = self.keeper.as_mut().ok().and_then(|it| it.look(now));
        let porter = self.porter.as_mut().and_then(|it| it.look(now));
        events.extend(guarded.into_iter().chain(keeper).chain(porter));
        events
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
}

/// One cell: a package is prepared when the command runs one, then the cell is planned.
fn plan(config: &Config, tmp: &Path, watch: &mut Watch<'_>) -> Result<Planned, StartError> {
    if let Some(upstream) = &config.server.upstream {
        let work = Work::Dial(upstream.url.clone());
        let facts = Facts::default();
        return Ok(Planned { work, facts });
    }
    let mut facts = Facts {
        name: Some(config.server.name.clone()),
        version: None,
    };
    let spec = match prepare(config, watch)? {
        Some(package) => {
            facts = Facts {
                name: Some(package.name.clone()),
                version: Some(package.version.clone()),
            };
            plan_package(config, &package, tmp)?
        }
        None => plan_command(&config.cell, &config.server.command, tmp)?,
    };
    for warning in &spec.warnings {
        watch.progress(format!("warning: {warning}"));
    }
    let work = Work::Enclose(Box::new(spec));
    Ok(Planned { work, facts })
}

/// Installs the package that the command names, or finds it in the cache; `None` for a plain command.
fn prepare(config: &Config, watch: &mut Watch<'_>) -> Result<Option<Prepared>, StartError> {
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
    let Some(request) = package::detect(&config.server.command, &cwd).map_err(refused)? else {
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
