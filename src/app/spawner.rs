//! `__spawn`: from the spawner's own reading of the configuration to its loop, below its guardian.

use super::access::Porter;
use super::audit_path;
use super::credentials::Keeper;
use super::switch::Guarded;
use crate::audit;
use crate::cell;
use crate::cell::package::{self, INSTALL_LIMIT, InCell, Prepared, Setup};
use crate::cell::spawn::{
    Duties, Ended, Event, Facts, Mode, Planned, Role, StartError, Watch, Work, adopt, guard, serve,
};
use crate::cell::{CellSpec, Layer};
use crate::config::{AdminAddr, Config};
use crate::secret::source::SourceError;
use crate::transport::socket::remove_socket;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Serves the message process at the other end of descriptor `control` until it is gone.
#[must_use]
pub fn spawner(control: RawFd, mode: Mode, config: &Config) -> ExitCode {
    let ended = match adopt(control).and_then(guard) {
        Ok(Role::Guardian { code, parent }) => {
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
            let guarded = (mode == Mode::Run).then(|| Guarded::open(config));
            let porter = (mode == Mode::Run).then(|| Porter::open(config)).flatten();
            let mut office = Office {
                config,
                keeper,
                guarded,
                porter,
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
    config: &'a Config,
    /// Or why there is no start.
    keeper: Result<Keeper, SourceError>,
    /// `exec` is for looking around, and has none.
    guarded: Option<Guarded>,
    /// Of a listener that knows its clients by files.
    porter: Option<Porter<'a>>,
}

impl Duties for Office<'_> {
    fn plan(&mut self, directory: &Path, watch: &mut Watch<'_>) -> Result<Planned, StartError> {
        let keeper = self.keeper.as_ref().map_err(|error| StartError::Refused {
            exit_code: 78,
            message: format!("{error}; the server does not start without its credential"),
        })?;
        let mut planned = plan(self.config, directory, watch)?;
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
        let (file, size) = audit::rotate(&audit_path(self.config).ok_or_else(none)?)?;
        Ok((file.into(), size))
    }

    fn watched(&self) -> Vec<BorrowedFd<'_>> {
        let keeper = self.keeper.as_ref().ok().and_then(Keeper::watched);
        let guarded = self.guarded.as_ref().and_then(Guarded::watched);
        let porter = self.porter.as_ref().and_then(Porter::watched);
        keeper.into_iter().chain(guarded).chain(porter).collect()
    }

    fn due(&self) -> Option<Instant> {
        let keeper = self.keeper.as_ref().ok().and_then(Keeper::due);
        let guarded = self.guarded.as_ref().and_then(Guarded::due);
        let porter = self.porter.as_ref().map(Porter::due);
        keeper.into_iter().chain(guarded).chain(porter).min()
    }

    fn look(&mut self, now: bool) -> Vec<Event> {
        let guarded = self.guarded.as_mut().and_then(|it| it.look(now));
        let keeper = self.keeper.as_mut().ok().and_then(|it| it.look(now));
        let porter = self.porter.as_mut().and_then(|it| it.look(now));
        guarded.into_iter().chain(keeper).chain(porter).collect()
    }

    fn is_off(&self) -> bool {
        self.guarded.as_ref().is_some_and(Guarded::is_off)
    }

    fn switch_off(&mut self) {
        if let Some(guarded) = &mut self.guarded {
            guarded.off();
        }
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
