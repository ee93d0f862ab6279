//! From config to a [`CellSpec`]: finds the program that will really run, adds what it needs by
//! itself, and grants what the operator named.
//!
//! Nothing is executed to find out. What is granted without being asked for is the program, its
//! loader and libraries, its package or virtual environment, and the tables of `policy/presets`;
//! never the home directory, never a shell.

mod command;
mod elf;
mod env;
mod error;
mod host;
mod preset;
mod python;
mod uv;

pub use error::PlanError;

use super::{CellSpec, Layer};
use crate::config::{Cell, Preset};
use command::{Target, utf8};
use host::{Host, absolute};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The port of name servers, over TCP: see `RES_OPTIONS` below.
const DNS: u16 = 53;

/// Plans the cell for one command. `tmp` is a private directory made by the caller; `home`, `tmp`,
/// `run` and `canary` are made inside it. `env` looks a variable up in the environment that cofferdam
/// was started with. [`CellSpec::warnings`] is what the operator should hear.
///
/// The caller fills in `parent` and `terminal`.
///
/// # Errors
/// See [`PlanError`]; [`PlanError::exit_code`] is what `run` exits with.
pub fn plan(
    config: &Cell,
    command: &[String],
    tmp: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<CellSpec, PlanError> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    Planner::new(Host { env, cwd }, config)?.plan(command, tmp)
}

struct Planner<'a> {
    host: Host<'a>,
    config: &'a Cell,
    programs: preset::Programs,
    spec: CellSpec,
}

impl<'a> Planner<'a> {
    fn new(host: Host<'a>, config: &'a Cell) -> Result<Self, PlanError> {
        let programs = preset::programs().map_err(|source| PlanError::Table { source })?;
        Ok(Self {
            host,
            config,
            programs,
            spec: CellSpec::default(),
        })
    }

    fn plan(mut self, command: &[String], tmp: &Path) -> Result<CellSpec, PlanError> {
        let uv = uv::resolve(&self.host, command)?;
        if let Some(directory) = uv.as_ref().and_then(|run| run.directory.clone()) {
            self.host.cwd = directory;
        }
        let command = uv.as_ref().map_or(command, |run| &run.command);
        let mut program = command::resolve(&self.host, command)?;
        let preset = self
            .config
            .preset
            .unwrap_or_else(|| command::preset(&program.path));
        let table = preset::table(preset).map_err(|source| PlanError::Table { source })?;

        let private = Private::make(tmp)?;
        self.grant_table(&table);
        self.grant_binary(&program.path);
        for script in &program.scripts {
            self.spec
                .read
                .extend(command::script_roots(&self.host, preset, script));
        }
        if preset == Preset::Python {
            self.spec
                .read
                .extend(python::roots(&self.host, &program.path));
        }
        self.grant_target(preset, &mut program)?;
        if let Some(run) = &uv {
            let roots = [&run.venv, &run.project];
            let roots = roots
                .into_iter()
                .filter(|root| !self.host.too_wide(root))
                .cloned();
            self.spec.read.extend(roots.collect::<Vec<_>>());
        }
        self.grant_programs(&program)?;
        self.grant_paths()?;
        self.spec
            .write
            .extend([&private.home, &private.tmp, &private.run].map(Clone::clone));
        self.allow_network();
        self.limit(&table);
        self.name_layers()?;
        self.build_env(&table, &program, &private, uv.as_ref());
        self.choose_cwd(&mut program, preset, &private)?;
        self.settle(&private);
        self.spec.program = program.path;
        self.spec.args = program.args;
        Ok(self.spec)
    }

    /// What the preset lists and this host has.
    fn grant_table(&mut self, table: &preset::Table) {
        let there = |grants: &[preset::Grant]| {
            let paths = grants.iter().map(|grant| grant.path.clone());
            paths
                .filter(|path| readable(path).is_ok())
                .collect::<Vec<_>>()
        };
        self.spec.read.extend(there(&table.read));
        self.spec.write.extend(there(&table.write));
        if !self.config.egress.is_empty() {
            self.spec.read.extend(there(&table.network));
        }
    }

    /// A binary, its loader, and the library directories that it names itself.
    fn grant_binary(&mut self, path: &Path) {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // A file that is not readable, or not one of this architecture, is the kernel's to judge.
        let needs = elf::needs(&real).ok().flatten().unwrap_or_default();
        self.spec.execute.extend(needs.loader);
        let libraries = needs.libraries.into_iter();
        let libraries = libraries.filter(|dir| dir.is_dir() && !self.host.too_wide(dir));
        self.spec.read.extend(libraries.collect::<Vec<_>>());
        self.spec.execute.push(real);
    }

    /// The script or module that the command line names.
    fn grant_target(
        &mut self,
        preset: Preset,
        program: &mut command::Program,
    ) -> Result<(), PlanError> {
        if preset == Preset::None {
            return Ok(());
        }
        match command::target(preset, &program.args) {
            Target::Script(index) => {
                let Some(script) = program.args.get(index) else {
                    return Ok(());
                };
                let path = absolute(&self.host.cwd, Path::new(script));
                // A directory with a `__main__.py` or an `index.js` is a program too.
                if path.is_dir() && !self.host.too_wide(&path) {
                    self.spec.read.push(path.clone());
                }
                if path.exists() {
                    self.spec
                        .read
                        .extend(command::script_roots(&self.host, preset, &path));
                } else if preset == Preset::Node && path.with_extension("js").is_file() {
                    let path = path.with_extension("js");
                    self.spec
                        .read
                        .extend(command::script_roots(&self.host, preset, &path));
                }
            }
            Target::Module(module) => {
                // Python looks into the working directory first.
                let top = self
                    .host
                    .cwd
                    .join(module.split('.').next().unwrap_or_default());
                let local = [top.clone(), top.with_extension("py")];
                let wide = self.host.too_wide(&self.host.cwd);
                for path in local.into_iter().filter(|path| path.exists()) {
                    self.spec
                        .read
                        .push(if wide { path } else { self.host.cwd.clone() });
                }
            }
            Target::Inline => {}
        }
        Ok(())
    }

    /// `cell.execute`, and the programs that a known package cannot work without.
    fn grant_programs(&mut self, program: &command::Program) -> Result<(), PlanError> {
        let words = program
            .args
            .iter()
            .take(4)
            .filter_map(|word| Path::new(word).file_name());
        let words: BTreeSet<String> = words
            .map(|word| word.to_string_lossy().replace('_', "-"))
            .collect();
        let known = self
            .programs
            .package
            .iter()
            .filter(|(name, _)| words.contains(*name));
        let mut wanted: Vec<(String, bool)> = known
            .flat_map(|(_, needs)| needs.execute.iter().map(|p| (p.clone(), false)))
            .collect();
        wanted.extend(self.config.execute.iter().map(|name| (name.clone(), true)));
        for (name, asked) in wanted {
            let found = match self.host.find(&name) {
                Ok(found) => found,
                Err(_) if !asked => {
                    let server = words
                        .iter()
                        .next_back()
                        .map_or("the server", String::as_str);
                    self.spec
                        .warnings
                        .push(format!("{server} needs {name}, which is not there"));
                    continue;
                }
                Err(_) => return Err(PlanError::Execute { program: name }),
            };
            self.grant_program(&found)?;
        }
        Ok(())
    }

    fn grant_program(&mut self, path: &Path) -> Result<(), PlanError> {
        let chain = command::resolve(&self.host, &[utf8(path)?])?;
        for script in &chain.scripts {
            self.spec
                .execute
                .push(script.canonicalize().unwrap_or_else(|_| script.clone()));
        }
        self.grant_binary(&chain.path);
        let name = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        if name(&chain.path).is_some_and(|name| matches!(name.as_str(), "sh" | "bash" | "dash")) {
            let program = path.display();
            self.spec.warnings.push(format!(
                "{program} needs a shell, which the server may now use"
            ));
        }
        if let Some(needs) = name(path).and_then(|name| self.programs.program.get(&name)) {
            let there = |grants: &[preset::Grant]| {
                let paths = grants.iter().map(|grant| grant.path.clone());
                paths
                    .filter(|path| readable(path).is_ok())
                    .collect::<Vec<_>>()
            };
            self.spec.execute.extend(there(&needs.execute));
            self.spec.read.extend(there(&needs.read));
        }
        Ok(())
    }

    /// What the operator named; it must be there.
    fn grant_paths(&mut self) -> Result<(), PlanError> {
        let lists = [(&self.config.read, false), (&self.config.write, true)];
        for (paths, write) in lists {
            let flag = if write {
                "--write or cell.write"
            } else {
                "--read or cell.read"
            };
            for path in paths {
                let path = absolute(&self.host.cwd, path);
                let failed = |source| PlanError::Path {
                    path: path.clone(),
                    flag,
                    source,
                };
                readable(&path).map_err(failed)?;
                if write {
                    let access = nix::unistd::access(&path, nix::unistd::AccessFlags::W_OK);
                    access.map_err(|error| failed(error.into()))?;
                }
                if self.host.too_wide(&path) {
                    let path = path.display();
                    let text = "holds the home directory: the server can reach every secret in it";
                    self.spec.warnings.push(format!("{path} {text} ({flag})"));
                }
                if write {
                    &mut self.spec.write
                } else {
                    &mut self.spec.read
                }
                .push(path);
            }
        }
        Ok(())
    }

    fn allow_network(&mut self) {
        let mut ports: BTreeSet<u16> = self.config.egress.iter().map(|rule| rule.port).collect();
        if !ports.is_empty() {
            ports.insert(DNS);
        }
        self.spec.connect_ports = ports.into_iter().collect();
    }

    fn limit(&mut self, table: &preset::Table) {
        let limits = &table.limits;
        self.spec.memory = self.config.memory.map(|size| size.0).or(limits.memory);
        self.spec.processes = self.config.processes.or(limits.processes);
        self.spec.file_size = limits.file_size;
        self.spec.open_files = limits.open_files;
    }

    fn name_layers(&mut self) -> Result<(), PlanError> {
        let named = |names: &[String]| {
            let layers = names.iter().map(|name| {
                Layer::named(name).ok_or_else(|| PlanError::Layer { name: name.clone() })
            });
            layers.collect::<Result<Vec<_>, _>>()
        };
        let required = named(&self.config.require)?;
        let optional = named(&self.config.optional)?.into_iter();
        self.spec.optional = optional.filter(|layer| !required.contains(layer)).collect();
        Ok(())
    }

    fn build_env(
        &mut self,
        table: &preset::Table,
        program: &command::Program,
        private: &Private,
        uv: Option<&uv::UvRun>,
    ) {
        let places = env::Places {
            home: &private.home,
            tmp: &private.tmp,
            run: &private.run,
            program_dir: program.path.parent().unwrap_or(Path::new("/")),
        };
        let warnings = &mut self.spec.warnings;
        let mut vars = env::build(&self.host, table, &self.config.env, &places, warnings);
        if let Some(run) = uv {
            env::set(
                &mut vars,
                "VIRTUAL_ENV",
                run.venv.to_string_lossy().into_owned(),
            );
        }
        // Names are resolved over TCP: the filter lets no datagram out. `resolv.conf(5)`.
        if !self.spec.connect_ports.is_empty() && !vars.iter().any(|(n, _)| n == "RES_OPTIONS") {
            env::set(&mut vars, "RES_OPTIONS", "use-vc".to_owned());
        }
        self.spec.env = vars;
    }

    /// Where we were started, when something there or below is granted: relative paths among the
    /// arguments then mean what they say. Else the private home.
    fn choose_cwd(
        &mut self,
        program: &mut command::Program,
        preset: Preset,
        private: &Private,
    ) -> Result<(), PlanError> {
        let cwd = self.host.cwd.clone();
        let granted = self.spec.read.iter().chain(&self.spec.write);
        let known = granted
            .clone()
            .any(|path| cwd.starts_with(path) || path.starts_with(&cwd));
        if known && cwd.parent().is_some() {
            self.spec.cwd = cwd;
            return Ok(());
        }
        if let Target::Script(index) = command::target(preset, &program.args)
            && preset != Preset::None
            && let Some(script) = program.args.get_mut(index)
        {
            let path = absolute(&cwd, Path::new(script.as_str()));
            if path.exists() {
                *script = utf8(&path)?;
            }
        }
        self.spec.cwd = private.home.clone();
        Ok(())
    }

    /// Each path once, and a canary only where no grant covers it.
    fn settle(&mut self, private: &Private) {
        for list in [
            &mut self.spec.read,
            &mut self.spec.write,
            &mut self.spec.execute,
        ] {
            let mut seen = BTreeSet::new();
            list.retain(|path| seen.insert(path.clone()));
        }
        let grants = [&self.spec.read, &self.spec.write, &self.spec.execute];
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let canary = real(&private.canary);
        let covered = grants
            .into_iter()
            .flatten()
            .any(|path| canary.starts_with(real(path)));
        self.spec.canary = (!covered).then(|| private.canary.clone());
    }
}

/// The server's own directories, inside the one that the caller made.
struct Private {
    home: PathBuf,
    tmp: PathBuf,
    run: PathBuf,
    canary: PathBuf,
}

impl Private {
    fn make(tmp: &Path) -> Result<Self, PlanError> {
        let [home, temporary, run] = ["home", "tmp", "run"].map(|name| tmp.join(name));
        for path in [&home, &temporary, &run] {
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path);
            made.map_err(|source| PlanError::Private {
                path: path.clone(),
                source,
            })?;
        }
        let canary = tmp.join("canary");
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&canary);
        made.map_err(|source| PlanError::Private {
            path: canary.clone(),
            source,
        })?;
        Ok(Self {
            home,
            tmp: temporary,
            run,
            canary,
        })
    }
}

/// Whether we ourselves can read that file or list that directory.
fn readable(path: &Path) -> std::io::Result<()> {
    path.metadata()?;
    nix::unistd::access(path, nix::unistd::AccessFlags::R_OK).map_err(Into::into)
}

#[cfg(test)]
mod tests;
