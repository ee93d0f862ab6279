//! What is granted: by itself for the program that runs, and because the operator named it.

use super::command::{self, Target, utf8};
use super::host::absolute;
use super::{PlanError, Planner, elf, inode, preset};
use crate::config::Preset;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

impl Planner<'_> {
    /// What the preset lists and this host has.
    pub(super) fn grant_table(&mut self, table: &preset::Table<'_>) {
        let paths = |list: &[preset::Grant<'_>]| -> Vec<PathBuf> {
            list.iter().map(|grant| PathBuf::from(grant.path)).collect()
        };
        let mut read = paths(&table.read);
        if !self.config.egress.is_empty() || self.config.serves.is_some() {
            read.extend(paths(&table.network));
        }
        let (read, write) = (self.there(read), self.there(paths(&table.write)));
        self.spec.read.extend(read);
        self.spec.write.extend(write);
    }

    /// A binary, its loader, and the library directories that it names itself; `by` is the script that
    /// chose it.
    pub(super) fn grant_binary(&mut self, path: &Path, by: Option<&PathBuf>) {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // A file that is not readable, or not one of this architecture, is the kernel's to judge.
        let needs = elf::needs(&real).ok().flatten().unwrap_or_default();
        let loader = needs.loader.filter(|loader| elf::is_loader(loader));
        if let Some(loader) = loader {
            self.bounds.note(&loader, path);
            self.spec.execute.push(loader);
        }
        self.spec.names.push(path.to_owned());
        for dir in needs.libraries {
            if dir.is_dir() && !self.host.too_wide(&dir) && elf::is_library(&real, &dir) {
                self.bounds.note(&dir, path);
                self.spec.read.push(dir);
            }
        }
        self.bounds.note(&real, path);
        if let Some(by) = by {
            self.bounds.note(&real, by);
        }
        self.spec.execute.push(real);
    }

    /// What must be readable for a script.
    pub(super) fn grant_script(&mut self, preset: Preset, script: &Path) {
        let script = absolute(&self.host.cwd, script);
        let led = self.bounds.is_led(&script);
        for root in command::script_roots(&self.host, preset, &script) {
            // Those above it are there whatever the script is, unless it is a link to another place.
            if led || !root.ends_with("node_modules") {
                self.bounds.note(&root, &script);
            }
            self.spec.read.push(root);
        }
    }

    /// The script or module that the command line names.
    pub(super) fn grant_target(
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
                self.spec.names.push(path.clone());
                if path.exists() {
                    self.grant_script(preset, &path);
                } else if preset == Preset::Node && path.with_extension("js").is_file() {
                    self.grant_script(preset, &path.with_extension("js"));
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
    pub(super) fn grant_programs(&mut self, program: &command::Program) -> Result<(), PlanError> {
        let words = program
            .args
            .iter()
            .take(4)
            .filter_map(|word| Path::new(word).file_name());
        let words: BTreeSet<String> = words
            .map(|word| word.to_string_lossy().replace('_', "-"))
            .collect();
        let mut wanted: Vec<(String, bool)> = Vec::new();
        for word in &words {
            let known = preset::package(word).map_err(|reason| PlanError::Table { reason })?;
            let programs = known.into_iter().flat_map(|needs| needs.execute);
            wanted.extend(programs.map(|program| (program, false)));
        }
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

    pub(super) fn grant_program(&mut self, path: &Path) -> Result<(), PlanError> {
        let chain = command::resolve(&self.host, &[utf8(path)?])?;
        self.spec.names.push(path.to_owned());
        for script in &chain.scripts {
            let real = script.canonicalize().unwrap_or_else(|_| script.clone());
            self.bounds.note(&real, script);
            self.spec.execute.push(real);
        }
        self.grant_binary(&chain.path, chain.scripts.last());
        let name = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        if name(&chain.path).is_some_and(|name| matches!(name.as_str(), "sh" | "bash" | "dash")) {
            let program = path.display();
            self.spec.warnings.push(format!(
                "{program} is, or needs, a shell, which the server may now use"
            ));
        }
        self.grant_needs(path)
    }

    /// What the table says about programs of that name.
    pub(super) fn grant_needs(&mut self, path: &Path) -> Result<(), PlanError> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let known = preset::program(name).map_err(|reason| PlanError::Table { reason })?;
        if let Some(needs) = known {
            let execute = needs.execute.into_iter().map(|need| need.path);
            let execute = self.there(execute);
            self.spec.execute.extend(execute);
            let read = needs.read.into_iter().map(|need| need.path);
            let read = self.there(read);
            self.spec.read.extend(read);
        }
        Ok(())
    }

    /// What the operator named; it must be there.
    pub(super) fn grant_paths(&mut self) -> Result<(), PlanError> {
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
                if self.host.holds_home(&path) {
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

    /// Those that this host has.
    fn there(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
        let known = paths.into_iter().filter_map(|path| {
            let inode = inode(&path)?;
            self.seen.insert(path.clone().into(), inode);
            Some(path)
        });
        known.collect()
    }
}

/// Whether we ourselves can read that file or list that directory.
fn readable(path: &Path) -> std::io::Result<()> {
    nix::unistd::access(path, nix::unistd::AccessFlags::R_OK).map_err(Into::into)
}
