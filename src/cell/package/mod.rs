//! Packages run by `npx`, `uvx` and `pipx run`: installed first, sealed, checked at every start.
//!
//! ```text
//! command ── detect ──► Request ── prepare ──► Prepared { command, read, execute }
//!                                     │
//!            newest entry that fits ──┤ digest of every file equal? ── no ──► refuse (77)
//!                                     │ yes ──► start, no network
//!                            none ────┤ lock ► staging ► install cell ► seal ► digest ► record
//! ```
//!
//! The install cell may reach the registry and write one new directory; the server's cell may read
//! what came of it. So a package that is poisoned at install time meets no credential and no user
//! data, and one that is poisoned at run time cannot change itself or another one for the next start.
//!
//! **Versions.** `pkg@1.2.3` is installed once and never asked for again. A command without a
//! version, or with a range, uses the copy that is there, as `npx` and `uvx` do with theirs; a
//! warning names the version to pin. A tag (`@latest`) is asked for again when the copy is older than
//! [`TAG_WINDOW`], `--refresh` at every start; when the registry cannot be reached the copy is used.

mod cache;
mod detect;
mod digest;
mod entry;
mod error;
mod incell;
mod log;
mod npm;
mod npm_programs;
mod python;
mod python_settings;
mod request;
mod settings;
mod tools;

pub use detect::detect;
pub use error::PackageError;
pub use incell::InCell;
pub use request::{Ecosystem, Request, Version, Wanted};

use super::{CellSpec, Layer};
use crate::config::Packages;
use cache::{Cache, Slot, Staging};
use entry::{Entry, Start};
use log::Log;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time that an install may take by default.
pub const INSTALL_LIMIT: Duration = Duration::from_secs(300);
/// A tag is asked for again when the copy is older.
pub const TAG_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs an install cell. The spawner has the real one.
pub trait Runner {
    /// Runs `spec` to its end, at most for `limit`, with an empty stdin; `on_line` gets each line of
    /// its stdout and stderr. When this returns, no process of the cell is left.
    fn run(
        &mut self,
        spec: &CellSpec,
        limit: Duration,
        on_line: &mut dyn FnMut(&str),
    ) -> io::Result<Exit>;

    /// Waits while another start installs.
    ///
    /// # Errors
    /// Nobody waits for the package any more.
    fn pause(&mut self, time: Duration) -> io::Result<()> {
        std::thread::sleep(time);
        Ok(())
    }
}

/// How an install cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It was ended because `limit` was over.
    TimeOut,
}

/// What is known at a start.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    pub packages: &'a Packages,
    /// Our own environment: PATH, HOME, and the settings of npm, pip and uv.
    pub env: &'a BTreeMap<String, String>,
    /// Relative paths on the command line start here.
    pub cwd: &'a Path,
    /// What the cell of the server may write; the cache must not be in it.
    pub cell_write: &'a [PathBuf],
    /// Layers that the install cell may miss.
    pub optional: &'a [Layer],
    /// [`INSTALL_LIMIT`], unless set.
    pub limit: Duration,
}

/// A package that is ready to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Absolute program first. A virtual environment is found by the path of its interpreter, so
    /// this path is executed as it is, not the one behind its links.
    pub command: Vec<String>,
    /// What the server must be able to read: the library of its interpreter.
    pub read: Vec<PathBuf>,
    /// What it must be able to read and execute: the sealed entry and its interpreter.
    pub execute: Vec<PathBuf>,
    /// Variables that the runtime needs.
    pub env: Vec<(String, String)>,
    pub name: String,
    pub version: String,
    /// The same command another day may run another version.
    pub floating: bool,
}

/// What the installer left in staging.
#[derive(Debug, Default)]
struct Installed {
    name: String,
    version: String,
    /// The program when the command names none.
    default: Option<String>,
    bins: BTreeMap<String, Start>,
}

/// Makes `request` ready to start: from the cache, or by installing it. `say` gets lines for people.
pub fn prepare(
    request: &Request,
    setup: &Setup<'_>,
    runner: &mut dyn Runner,
    say: &mut dyn FnMut(&str),
) -> Result<Prepared, PackageError> {
    let cache = Cache::open(&setup.packages.cache)?;
    refuse_exposed(setup)?;
    let tools = Tools::find(request, setup)?;
    let package = describe(request);
    let slot = slot_of(request, setup, &tools)?;
    let mut entry = Entry::newest(&cache, &slot)?;
    if entry.as_ref().is_none_or(|entry| is_stale(request, entry)) {
        let _held = cache.lock(
            &slot,
            &package,
            setup.limit,
            &mut |time| runner.pause(time),
            say,
        )?;
        // Another start may have installed it while we waited.
        entry = Entry::newest(&cache, &slot)?;
        if entry.as_ref().is_none_or(|entry| is_stale(request, entry)) {
            cache.sweep_entries(&slot);
            entry = Some(
                match (
                    install(request, setup, &tools, &cache, &slot, runner, say),
                    entry,
                ) {
                    (Ok(entry), _) => entry,
                    (Err(error), Some(old)) if error.is_temporary() => {
                        say(&format!(
                            "warning: {error}; using {}@{}",
                            old.record.name, old.record.version
                        ));
                        old
                    }
                    (Err(error), _) => return Err(error),
                },
            );
        }
    }
    let Some(entry) = entry else {
        return Err(PackageError::NoPackage {
            tool: request.tool.into(),
        });
    };
    entry.verify()?;
    let prepared = start(request, &tools, &entry)?;
    if prepared.floating {
        say(&format!(
            "warning: `{}` floats and is {} {} now; pin it as {}",
            package,
            prepared.name,
            prepared.version,
            pinned(request, &prepared.version)
        ));
    }
    Ok(prepared)
}

/// The runtime and installer of an ecosystem.
#[derive(Debug)]
enum Tools {
    Npm(npm::Node),
    Python(python::Python),
}

impl Tools {
    fn find(request: &Request, setup: &Setup<'_>) -> Result<Self, PackageError> {
        Ok(match request.ecosystem {
            Ecosystem::Npm => Self::Npm(npm::Node::find(request, setup)?),
            Ecosystem::Python => Self::Python(python::Python::find(request, setup)?),
        })
    }
}

/// A server that may write the cache could change a package and its digest.
fn refuse_exposed(setup: &Setup<'_>) -> Result<(), PackageError> {
    let cache = tools::real(&setup.packages.cache).unwrap_or_else(|| setup.packages.cache.clone());
    for granted in setup.cell_write {
        let path = tools::real(granted).unwrap_or_else(|| granted.clone());
        if cache.starts_with(&path) || path.starts_with(&cache) {
            return Err(PackageError::Exposed {
                granted: granted.clone(),
                cache,
            });
        }
    }
    Ok(())
}

/// Everything that decides what an install results in, as one name in the cache. Where the registry
/// is does not count, as with npx: a package stays the one that was installed.
fn slot_of(request: &Request, setup: &Setup<'_>, tools: &Tools) -> Result<Slot, PackageError> {
    let mut text = format!(
        "1\n{}\n{}\n",
        std::env::consts::ARCH,
        setup.packages.scripts
    );
    let (identity, spec): (String, fn(&Wanted) -> String) = match tools {
        Tools::Npm(node) => (node.identity(setup.packages.scripts), Wanted::npm_spec),
        Tools::Python(python) => (python.identity(), Wanted::python_spec),
    };
    text.push_str(&identity);
    for (index, wanted) in request.packages.iter().enumerate() {
        // The first one has the programs; `--with a --with b` is `--with b --with a`.
        text.push_str(if index == 0 { "\nmain " } else { "\nwith " });
        text.push_str(&spec(wanted));
        if let Version::File(path) = &wanted.version {
            let bytes = std::fs::read(path).map_err(|source| PackageError::cache(path, source))?;
            text.push_str(&format!(" {}", digest::digest_bytes(&bytes)));
        }
    }
    // Settings that choose versions; addresses do not.
    for (name, value) in &request.settings {
        if name == "UV_PRERELEASE" || name == "UV_EXCLUDE_NEWER" {
            text.push_str(&format!("\n{name}={value}"));
        }
    }
    let hash = digest::digest_bytes(text.as_bytes())
        .chars()
        .take(12)
        .collect();
    let name = request
        .packages
        .first()
        .map_or("", |wanted| wanted.name.as_str())
        .replace('/', "+");
    Ok(Slot {
        ecosystem: request.ecosystem,
        name,
        hash,
    })
}

fn is_stale(request: &Request, entry: &Entry) -> bool {
    let tag = request
        .packages
        .iter()
        .any(|wanted| matches!(wanted.version, Version::Tag(_)));
    request.refresh || tag && entry.is_older_than(TAG_WINDOW)
}

/// Installs into staging and makes it an entry. The lock of the slot is held.
fn install(
    request: &Request,
    setup: &Setup<'_>,
    tools: &Tools,
    cache: &Cache,
    slot: &Slot,
    runner: &mut dyn Runner,
    say: &mut dyn FnMut(&str),
) -> Result<Entry, PackageError> {
    let began = Instant::now();
    let package = describe(request);
    let with = match tools {
        Tools::Npm(_) => "npm",
        Tools::Python(python) => python.installer(),
    };
    say(&format!("installing {package} with {with} ..."));
    let staging = cache.stage()?;
    let (cells, left_out, links) = cells(request, setup, tools, &staging)?;
    let mut log = Log::new(&package, began);
    for spec in &cells {
        let left = setup.limit.saturating_sub(began.elapsed());
        let exit = runner
            .run(spec, left, &mut |line| log.take(line, say))
            .map_err(|source| PackageError::Cell { source })?;
        match exit {
            Exit::Code(0) => {}
            Exit::TimeOut => {
                return Err(PackageError::TimeOut {
                    package,
                    limit: setup.limit,
                });
            }
            Exit::Code(_) | Exit::Signal(_) => return Err(log.failure(exit, left_out, setup, say)),
        }
    }
    let failed = |said: String| PackageError::Refuse {
        package: package.clone(),
        said,
        hint: "the installer said that it was done".to_owned(),
    };
    let tree = staging.tree();
    let installed = match tools {
        Tools::Npm(_) => npm_programs::installed(request, tree),
        Tools::Python(_) => python::installed(request, tree),
    }
    .map_err(failed)?;
    // Asked again and nothing newer: the entry that servers may be running from stays.
    let target = cache
        .entries(slot.ecosystem)
        .join(slot.entry_name(&installed.version));
    if let Some(mut old) = Entry::newest(cache, slot)?
        && old.dir == target
        && old.verify().is_ok()
    {
        old.touch()?;
        return Ok(old);
    }
    if let Tools::Python(_) = tools {
        python::relocate(tree, &target).map_err(|source| PackageError::cache(tree, source))?;
    }
    let asked = request
        .packages
        .iter()
        .map(|wanted| spec_of(request, wanted))
        .collect();
    let entry = Entry::commit(cache, slot, &staging, installed, asked, &links)?;
    say(&format!(
        "installed {} {} in {:.1} s",
        entry.record.name,
        entry.record.version,
        began.elapsed().as_secs_f64()
    ));
    Ok(entry)
}

/// The cells of one install, whether a credential was left out, and where links may lead.
type Cells = (Vec<CellSpec>, bool, Vec<PathBuf>);

fn cells(
    request: &Request,
    setup: &Setup<'_>,
    tools: &Tools,
    staging: &Staging,
) -> Result<Cells, PackageError> {
    Ok(match tools {
        Tools::Npm(node) => {
            let (spec, settings) = node.cell(request, setup, staging)?;
            (vec![spec], settings.left_out, Vec::new())
        }
        Tools::Python(python) => {
            let steps = python.cells(request, setup, staging)?;
            (
                steps.cells,
                steps.left_out,
                vec![python.interpreter.clone()],
            )
        }
    })
}

/// The command of the program that was asked for.
fn start(request: &Request, tools: &Tools, entry: &Entry) -> Result<Prepared, PackageError> {
    let record = &entry.record;
    let wanted = request.bin.as_ref().or(record.default.as_ref());
    let found =
        wanted
            .and_then(|bin| record.bins.get(bin))
            .ok_or_else(|| PackageError::NoProgram {
                package: record.name.clone(),
                wanted: wanted.cloned().unwrap_or_default(),
                offered: record.bins.keys().cloned().collect(),
            })?;
    let path = entry.dir.join(&found.path).display().to_string();
    let mut execute = vec![entry.dir.clone()];
    let mut read = Vec::new();
    let mut env = Vec::new();
    let runtime = match tools {
        Tools::Npm(node) => {
            execute.push(node.node.clone());
            node.node.display().to_string()
        }
        Tools::Python(python) => {
            execute.push(python.interpreter.clone());
            read.extend(python.library());
            // The entry is read-only and has its bytecode; nothing is to be written elsewhere.
            env.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()));
            entry.dir.join("venv/bin/python").display().to_string()
        }
    };
    let mut command = Vec::new();
    if found.runtime.is_some() {
        command.push(runtime);
        command.extend(found.flags.iter().cloned());
    }
    command.push(path);
    command.extend(request.args.iter().cloned());
    Ok(Prepared {
        command,
        read,
        execute,
        env,
        name: record.name.clone(),
        version: record.version.clone(),
        floating: request.packages.iter().any(Wanted::floats),
    })
}

/// What is asked for, in the words of the command.
fn describe(request: &Request) -> String {
    request
        .packages
        .first()
        .map_or_else(String::new, |wanted| spec_of(request, wanted))
}

fn spec_of(request: &Request, wanted: &Wanted) -> String {
    match (request.ecosystem, &wanted.version) {
        (_, Version::File(path)) => path.display().to_string(),
        (Ecosystem::Npm, _) => wanted.npm_spec(),
        (Ecosystem::Python, Version::Tag(tag)) => format!("{}@{tag}", wanted.name),
        (Ecosystem::Python, _) => wanted.python_spec(),
    }
}

fn pinned(request: &Request, version: &str) -> String {
    request.packages.first().map_or_else(String::new, |wanted| {
        let exact = Wanted {
            version: Version::Exact(version.to_owned()),
            ..wanted.clone()
        };
        spec_of(request, &exact)
    })
}

#[cfg(test)]
mod tests;
