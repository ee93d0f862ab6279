//! What the server may touch.

use super::{Builder, Overrides, place_of};
use crate::config::diagnose::{self, Place, Problem};
use crate::config::entries::{self, EntryError};
use crate::config::origin::Origin;
use crate::config::{ByteSize, Cell, Cores, EnvRule, LAYERS, SWITCHES, raw};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Below, no runtime starts.
const MEMORY_RANGE: RangeInclusive<ByteSize> = ByteSize(16 << 20)..=ByteSize(64 << 40);
/// The kernel grants no less than a millisecond in its period of a tenth of a second
/// (`min_cfs_quota_period`); more processors than that has no machine.
const CPU_RANGE: RangeInclusive<Cores> = Cores(10)..=Cores(8_192_000);
/// 2^22 is the largest `pid_max` of Linux (proc(5)).
const MOST_PROCESSES: u64 = 1 << 22;

impl Builder<'_> {
    pub(super) fn cell(&mut self, raw: &raw::Cell, flags: &Overrides) -> Cell {
        let preset = self.pick("cell.preset", raw.preset.as_ref(), flags.preset, "--preset");
        let memory = self.pick("cell.memory", raw.memory.as_ref(), flags.memory, "--memory");
        let place = place_of(raw.memory.as_ref(), flags.memory, "--memory");
        self.range("cell.memory", memory, &MEMORY_RANGE, &place);

        let written = raw.processes.as_ref();
        // A negative number is out of range like 0 is.
        let number = written.map(|at| u64::try_from(*at.value()).unwrap_or(0));
        if let (Some(at), None) = (written, flags.processes) {
            let origin = self.line(at.span());
            self.origins.set("cell.processes", origin);
        } else if flags.processes.is_some() {
            self.origins
                .set("cell.processes", Origin::Flag("--processes"));
        }
        let processes = flags.processes.or(number);
        let place = place_of(written, flags.processes, "--processes");
        self.range("cell.processes", processes, &(1..=MOST_PROCESSES), &place);

        let user = self.user(raw, flags);
        let read = self.paths("cell.read", &raw.read, &flags.read, "--read");
        let write = self.paths("cell.write", &raw.write, &flags.write, "--write");
        self.apart("cell.read", &raw.read, "cell.write", &raw.write);
        let execute = self.execute(raw, flags);
        let env = self.env(raw, flags);
        let egress = self.list(
            "cell.egress",
            &raw.egress,
            &flags.egress,
            "--allow-host",
            FromStr::from_str,
        );
        let egress_private = self.list(
            "cell.egress_private",
            &raw.egress_private,
            &[],
            "",
            FromStr::from_str,
        );
        let cpu = self.pick("cell.cpu", raw.cpu.as_ref(), flags.cpu, "--cpu");
        let place = place_of(raw.cpu.as_ref(), flags.cpu, "--cpu");
        self.range("cell.cpu", cpu, &CPU_RANGE, &place);
        let syscalls = self.syscalls(raw, flags);
        let (require, optional) = self.layers(raw, flags);
        let off = self.list("cell.off", &raw.off, &flags.off, "--off", switch);
        self.apart("cell.require", &raw.require, "cell.off", &raw.off);
        for layer in off.iter().filter(|layer| require.contains(layer)) {
            if flags.off.contains(layer) || flags.require.contains(layer) {
                self.problems.push(Problem::new(
                    Place::Flag("--off"),
                    format!("the layer `{layer}` is both required and switched off"),
                ));
            }
        }
        if cpu.is_some() && off.iter().any(|layer| layer == "cgroup") {
            let what = "`cell.cpu` needs the layer `cgroup`, which is switched off";
            self.problems.push(Problem::new(place, what.to_owned()));
        }
        Cell {
            preset,
            read,
            write,
            execute,
            env,
            egress,
            egress_private,
            serves: None,
            memory,
            processes,
            user,
            cpu,
            syscalls,
            require,
            optional,
            off,
        }
    }

    /// Who that is, the host says later.
    fn user(&mut self, raw: &raw::Cell, flags: &Overrides) -> Option<String> {
        const KEY: &str = "cell.user";
        let written = raw.user.as_ref();
        let (user, origin) = match (&flags.user, written) {
            (Some(flag), _) => (flag, Origin::Flag("--user")),
            (None, Some(at)) => (at.value(), self.line(at.span())),
            (None, None) => return None,
        };
        let user = user.clone();
        self.origins.set(KEY, origin);
        let place = place_of(written, flags.user.as_ref(), "--user");
        self.note(entries::user(&user), &place);
        Some(user)
    }

    /// A path in a flag is relative to where we are, one in the file to the file.
    fn syscalls(&mut self, raw: &raw::Cell, flags: &Overrides) -> Option<PathBuf> {
        let file = self.file_path("cell.syscalls", raw.syscalls.as_ref());
        let Some(text) = &flags.syscalls else {
            return file;
        };
        self.origins
            .set("cell.syscalls", Origin::Flag("--syscalls"));
        match self.absolute(text, &self.around.directory) {
            Ok(path) => Some(path),
            Err(error) => {
                self.note(Err(error), &Place::Flag("--syscalls"));
                None
            }
        }
    }

    /// A bare name is looked up on PATH later; anything with a `/` is a path now.
    pub(super) fn execute(&mut self, raw: &raw::Cell, flags: &Overrides) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let base = self.base.clone();
        let directory = self.around.directory.clone();
        let file = raw
            .execute
            .iter()
            .map(|at| (at.value(), Place::File(at.span()), &base));
        let flag = flags
            .execute
            .iter()
            .map(|text| (text, Place::Flag("--allow-exec"), &directory));
        for (text, place, base) in file.chain(flag) {
            let entry = match text.contains('/') || text.starts_with('~') {
                false if text.is_empty() || text.contains('\0') => Err(EntryError::new(
                    "this is not a program",
                    "write a path or a name",
                )),
                false => Ok(text.clone()),
                true => self
                    .absolute(text, base)
                    .map(|path| path.to_string_lossy().into_owned()),
            };
            match entry {
                Err(error) => self.note(Err(error), &place),
                Ok(entry) => self.add("cell.execute", &mut all, entry, &place),
            }
        }
        all
    }

    /// One rule for each variable; that of a flag replaces that of the file.
    pub(super) fn env(&mut self, raw: &raw::Cell, flags: &Overrides) -> Vec<EnvRule> {
        let mut all: Vec<EnvRule> = Vec::new();
        for at in &raw.env {
            let place = Place::File(at.span());
            match at.value().parse::<EnvRule>() {
                Err(error) => self.note(Err(error), &place),
                Ok(rule) if all.iter().any(|other| other.name() == rule.name()) => {
                    self.twice(&place, &format!("the variable `{}`", rule.name()));
                }
                Ok(rule) => self.add("cell.env", &mut all, rule, &place),
            }
        }
        for rule in &flags.env {
            match all.iter().position(|other| other.name() == rule.name()) {
                Some(at) => {
                    if let Some(entry) = all.get_mut(at) {
                        entry.clone_from(rule);
                    }
                    self.origins
                        .replace("cell.env", at, Origin::Flag("--allow-env"));
                }
                None => self.add(
                    "cell.env",
                    &mut all,
                    rule.clone(),
                    &Place::Flag("--allow-env"),
                ),
            }
        }
        all
    }

    pub(super) fn layers(
        &mut self,
        raw: &raw::Cell,
        flags: &Overrides,
    ) -> (Vec<String>, Vec<String>) {
        let mut require = self.list("cell.require", &raw.require, &[], "--require", layer);
        let mut optional = self.list("cell.optional", &raw.optional, &[], "--optional", layer);
        self.apart("cell.require", &raw.require, "cell.optional", &raw.optional);
        self.layer_flags(
            &flags.require,
            "--require",
            ("cell.require", &mut require),
            ("cell.optional", &mut optional),
            layer,
        );
        for wanted in &flags.optional {
            if flags.require.contains(wanted) {
                self.problems.push(Problem::new(
                    Place::Flag("--optional"),
                    format!("the layer `{wanted}` is both required and optional"),
                ));
            }
        }
        self.layer_flags(
            &flags.optional,
            "--optional",
            ("cell.optional", &mut optional),
            ("cell.require", &mut require),
            layer,
        );
        (require, optional)
    }

    pub(super) fn layer_flags(
        &mut self,
        wanted: &[String],
        flag: &'static str,
        (key, into): (&'static str, &mut Vec<String>),
        (other_key, other): (&'static str, &mut Vec<String>),
        parse: impl Fn(&str) -> Result<String, EntryError>,
    ) {
        for text in wanted {
            let place = Place::Flag(flag);
            match parse(text) {
                Err(error) => self.note(Err(error), &place),
                Ok(layer) => {
                    if let Some(at) = other.iter().position(|have| *have == layer) {
                        other.remove(at);
                        self.origins.remove(other_key, at);
                    }
                    self.add(key, into, layer, &place);
                }
            }
        }
    }
}

/// A layer that can be switched off, by its name.
fn switch(text: &str) -> Result<String, EntryError> {
    let name = layer(text)?;
    if SWITCHES.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(EntryError::new(
        format!("the layer `{name}` cannot be switched off"),
        "list it in cell.optional to start where the host lacks it",
    ))
}

/// A layer of the cell by its name.
fn layer(text: &str) -> Result<String, EntryError> {
    if LAYERS.contains(&text) {
        return Ok(text.to_owned());
    }
    let shown = entries::shown(text);
    let what = match diagnose::nearest(text, LAYERS) {
        Some(near) => format!("`{shown}` is not a layer of this version; did you mean `{near}`?"),
        None => format!("`{shown}` is not a layer of this version"),
    };
    Err(EntryError::new(
        what,
        "`cofferdam doctor` lists the layers and what this host can enforce",
    ))
}
