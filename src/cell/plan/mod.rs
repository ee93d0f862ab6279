//! From config to a [`CellSpec`]: finds the program that will really run, adds what it needs by
//! itself, and grants what the operator named.
//!
//! Nothing is executed to find out. What is granted without being asked for is the program, its
//! loader and libraries, its package or virtual environment, and the tables of `policy/presets`;
//! never the home directory, never a shell.

mod account;
mod bounds;
mod command;
mod elf;
mod env;
mod error;
mod grants;
mod host;
mod preset;
mod private;
mod python;
mod resolver;
mod uv;

pub(super) use account::usual as usual_account;
pub use error::PlanError;

use super::seccomp::allow;
use super::{CellCgroup, CellSpec, Layer, Serves, egress};
use crate::config::{Cell, EgressRule, Preset};
use bounds::Bounds;
use command::{Target, utf8};
use host::{Host, absolute};
use private::Private;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    Planner::new(Host { env, cwd }, config).plan(command, tmp)
}

struct Planner<'a> {
    host: Host<'a>,
    config: &'a Cell,
    spec: CellSpec,
    /// Names are allowed, and the name server answers over TCP.
    names_by_tcp: bool,
    /// Grants that were looked at: each look is a walk through the path.
    seen: BTreeMap<OsString, Inode>,
    bounds: Bounds,
}

/// Device and inode.
type Inode = (u64, u64);

fn inode(path: &Path) -> Option<Inode> {
    let facts = path.metadata().ok()?;
    Some((facts.dev(), facts.ino()))
}

impl<'a> Planner<'a> {
    fn new(host: Host<'a>, config: &'a Cell) -> Self {
        Self {
            host,
            config,
            spec: CellSpec::default(),
            names_by_tcp: false,
            seen: BTreeMap::new(),
            bounds: Bounds::default(),
        }
    }

    fn plan(mut self, command: &[String], tmp: &Path) -> Result<CellSpec, PlanError> {
        let uv = uv::resolve(&self.host, command)?;
        if let Some(directory) = uv.as_ref().and_then(|run| run.directory.clone()) {
            self.host.cwd = directory;
        }
        let command = uv.as_ref().map_or(command, |run| &run.command);
        self.bound()?;
        let mut program = command::resolve(&self.host, command)?;
        self.spec.names.extend(program.scripts.iter().cloned());
        let preset = self
            .config
            .preset
            .unwrap_or_else(|| command::preset(&program.path));
        let table = preset::table(preset).map_err(|reason| PlanError::Table { reason })?;

        let private = Private::make(tmp)?;
        self.grant_table(&table);
        self.grant_binary(&program.path, program.scripts.last());
        self.grant_needs(&program.path)?;
        for script in &program.scripts {
            self.grant_script(preset, script);
        }
        if preset == Preset::Python {
            for (root, by) in python::roots(&self.host, &program.path) {
                self.bounds.note(&root, &by);
                self.spec.read.push(root);
            }
        }
        self.grant_target(preset, &mut program)?;
        if let Some(run) = &uv {
            let roots = [&run.venv, &run.project];
            for root in roots.into_iter().filter(|root| !self.host.too_wide(root)) {
                // The nearest directory that is marked as one: who takes marks away chooses another.
                self.bounds.note(root, &self.host.cwd);
                self.spec.read.push(root.clone());
            }
        }
        self.grant_programs(&program)?;
        self.grant_paths()?;
        self.keep_within_bounds()?;
        self.spec
            .write
            .extend([&private.home, &private.tmp, &private.run].map(Clone::clone));
        self.allow_network();
        self.cover_resolver(&private)?;
        self.name_layers()?;
        self.choose_user(&private)?;
        self.limit(&table);
        self.name_calls()?;
        self.build_env(&table, &program, &private, uv.as_ref());
        self.choose_cwd(&mut program, preset, &private)?;
        self.settle(&private);
        self.spec.program = program.path;
        self.spec.args = program.args;
        Ok(self.spec)
    }

    fn allow_network(&mut self) {
        let egress = &self.config.egress;
        let mut ports: BTreeSet<u16> = egress.iter().map(|rule| rule.port).collect();
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let asked_for = |rule: &&EgressRule| resolver::is_asked_for(&hosts, &rule.host);
        if let Some(named) = egress.iter().find(asked_for) {
            self.resolve_names(&named.host);
            ports.insert(resolver::PORT);
        }
        if !ports.is_empty() {
            // Landlock knows ports and no addresses (landlock(7), LANDLOCK_RULE_NET_PORT).
            let numbers: Vec<String> = ports.iter().map(u16::to_string).collect();
            self.spec.floor_warnings.push(format!(
                "the kernel checks ports, not names: any host can be reached on TCP {}",
                numbers.join(", ")
            ));
        }
        self.spec.connect_ports = ports.into_iter().collect();
        self.spec.egress.clone_from(egress);
        self.spec.serves = self.config.serves.map(|port| Serves {
            port,
            outside: None,
        });
        let ranges = self.config.egress_private.iter();
        self.spec.egress_private = ranges.map(ToString::to_string).collect();
    }

    /// What a network of the cell's own has in the place of the host's settings.
    fn cover_resolver(&mut self, private: &Private) -> Result<(), PlanError> {
        if self.spec.egress.is_empty() && self.spec.serves.is_none() {
            // `localhost` has a meaning in a network that holds nothing else.
            let hosts = Path::new("/etc/hosts");
            if !self
                .config
                .off
                .iter()
                .any(|it| it == Layer::Namespaces.name())
                && hosts.exists()
            {
                let ours = private.file("hosts".as_ref(), egress::HOSTS)?;
                self.spec.covers.push((hosts.to_owned(), ours));
            }
            return Ok(());
        }
        for (name, text) in [
            ("resolv.conf", egress::RESOLV_CONF),
            ("hosts", egress::HOSTS),
            ("nsswitch.conf", egress::NSSWITCH),
        ] {
            let ours = private.file(name.as_ref(), text)?;
            self.spec.covers.push((Path::new("/etc").join(name), ours));
        }
        Ok(())
    }

    /// Over TCP where that works: no landlock rule can narrow a datagram.
    fn resolve_names(&mut self, name: &str) {
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        self.names_by_tcp = resolver::answers_over_tcp(&resolv_conf, name);
        if !self.names_by_tcp {
            self.spec.datagrams = true;
            self.spec.floor_warnings.push(
                "the name server does not answer over TCP, so the server gets UDP sockets, which reach any host"
                    .to_owned(),
            );
        }
    }

    fn limit(&mut self, table: &preset::Table<'_>) {
        let limits = &table.limits;
        self.spec.memory = self.config.memory.map(|size| size.0).or(limits.memory);
        self.spec.processes = self.config.processes.or(limits.processes);
        let stays_root = self.spec.user.is_none() && nix::unistd::getuid().is_root();
        if self.config.processes.is_some() && stays_root {
            let text =
                "the number of processes is not limited for root: give the server another user";
            self.spec.warnings.push(text.to_owned());
        }
        self.spec.cpu = self.config.cpu.map(|cores| cores.0);
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
        let off = named(&self.config.off)?;
        self.spec.namespaces = !off.contains(&Layer::Namespaces);
        self.spec.supervision = !off.contains(&Layer::Supervision);
        self.spec.ports_always = required.contains(&Layer::LandlockNet);
        if off.contains(&Layer::Cgroup) {
            self.spec.cgroup = Some(CellCgroup::off());
        }
        // A limit that somebody asked for is not dropped for want of what enforces it.
        let needed = |layer| layer == Layer::Cgroup && self.config.cpu.is_some();
        let optional = named(&self.config.optional)?
            .into_iter()
            .chain(Layer::DEGRADES.into_iter().filter(|layer| !needed(*layer)));
        self.spec.optional = optional.filter(|layer| !required.contains(layer)).collect();
        Ok(())
    }

    fn name_calls(&mut self) -> Result<(), PlanError> {
        let Some(path) = &self.config.syscalls else {
            return Ok(());
        };
        let failed = |source| PlanError::Path {
            path: path.clone(),
            flag: "--syscalls or cell.syscalls",
            source,
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        let read = file.take(allow::LIMIT + 1).read_to_string(&mut text);
        if read.map_err(failed)? as u64 > allow::LIMIT {
            return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
        }
        let list = allow::read(&text).map_err(|error| PlanError::Syscalls {
            path: path.clone(),
            line: error.line,
            reason: error.reason,
        })?;
        for (name, why) in list.refused {
            let text = format!(
                "{name} is in {}, but every cell refuses it: {why}",
                path.display()
            );
            self.spec.warnings.push(text);
        }
        self.spec.syscalls = Some(list.numbers);
        Ok(())
    }

    fn build_env(
        &mut self,
        table: &preset::Table<'_>,
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
        if self.spec.user.is_some() {
            // On the floor no copy of `/etc/passwd` says how it is called.
            let named = self.config.user.clone();
            let name = named.filter(|user| user.parse::<u32>().is_err());
            let name = name.unwrap_or_else(|| account::NAME.to_owned());
            for variable in ["USER", "LOGNAME"] {
                if !vars.iter().any(|(known, _)| known == variable) {
                    env::set(&mut vars, variable, name.clone());
                }
            }
        }
        // The filter lets no datagram out: resolv.conf(5), RES_OPTIONS.
        if self.names_by_tcp && !vars.iter().any(|(name, _)| name == "RES_OPTIONS") {
            env::set(&mut vars, "RES_OPTIONS", "use-vc".to_owned());
        }
        self.spec.env = vars;
        if !self.config.egress.is_empty() {
            let more = table.floor_env.iter().chain(&table.floor_proxy);
            let pairs = more.filter_map(|it| Some((it.name.to_owned(), it.value?.to_owned())));
            self.spec.floor_env = pairs.collect();
        }
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
        let own = [&private.home, &private.tmp, &private.run];
        let granted = self.spec.read.iter().chain(&self.spec.write);
        let known = granted
            .filter(|path| !own.contains(path))
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
            &mut self.spec.names,
        ] {
            // By bytes: to compare paths part by part takes longer than a grant twice would.
            let mut seen = BTreeSet::new();
            list.retain(|path| seen.insert(path.as_os_str().to_owned()));
        }
        // A grant covers the canary when it is the canary or a directory above it: the same inode,
        // which one call finds out where a resolved name takes one for each of its parts.
        let canary = private.canary.canonicalize();
        let canary = canary.as_deref().unwrap_or(&private.canary);
        let above: Vec<Inode> = canary.ancestors().filter_map(inode).collect();
        let grants = [&self.spec.read, &self.spec.write, &self.spec.execute];
        let covered = grants.into_iter().flatten().any(|path| {
            let seen = self
                .seen
                .get(path.as_os_str())
                .copied()
                .or_else(|| inode(path));
            seen.is_some_and(|it| above.contains(&it))
        });
        self.spec.canary = (!covered).then(|| private.canary.clone());
    }
}

#[cfg(test)]
mod tests;
