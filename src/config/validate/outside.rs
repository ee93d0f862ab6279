//! The listener, the audit log, and the directories that are ours.

use super::{AuditTo, Builder, Overrides};
use crate::config::diagnose::{Place, Problem};
use crate::config::entries;
use crate::config::origin::Origin;
use crate::config::{AdminAddr, Audit, Packages, Payloads, raw};
use std::path::{Path, PathBuf};

impl Builder<'_> {
    pub(super) fn admin(
        &mut self,
        raw: Option<&raw::Admin>,
        flags: &Overrides,
    ) -> Option<AdminAddr> {
        let written = raw.map(|raw| raw.listen.as_ref());
        let key = ("admin.listen", "--admin", "127.0.0.1:9464");
        self.address(key, flags.admin.as_ref(), written)
    }

    /// Where to listen: as the flag says, or the key of a section that is there. `(key, flag, sample)`
    /// are for people.
    pub(super) fn address(
        &mut self,
        (key, flag, sample): (&'static str, &'static str, &str),
        flagged: Option<&AdminAddr>,
        section: Option<Option<&raw::At<String>>>,
    ) -> Option<AdminAddr> {
        if let Some(address) = flagged {
            self.origins.set(key, Origin::Flag(flag));
            let directory = self.around.directory.clone();
            return Some(self.socket(address.clone(), &directory, &Place::Flag(flag)));
        }
        let Some(written) = section? else {
            let (table, name) = key.split_once('.').unwrap_or_default();
            self.problems.push(
                Problem::new(Place::Absent, format!("`{key}` is missing")).hint(format!(
                    "write `{name} = \"{sample}\"`, or leave [{table}] out"
                )),
            );
            return None;
        };
        let place = Place::File(written.span());
        let origin = self.line(written.span());
        self.origins.set(key, origin);
        match written.value().parse() {
            Ok(address) => {
                let base = self.base.clone();
                Some(self.socket(address, &base, &place))
            }
            Err(error) => {
                self.note(Err(error), &place);
                None
            }
        }
    }

    fn socket(&mut self, address: AdminAddr, base: &Path, place: &Place) -> AdminAddr {
        let AdminAddr::Unix(path) = &address else {
            return address;
        };
        match self.absolute(&path.to_string_lossy(), base) {
            Ok(path) => AdminAddr::Unix(path),
            Err(error) => {
                self.note(Err(error), place);
                address
            }
        }
    }

    pub(super) fn audit(&mut self, raw: &raw::Audit, flags: &Overrides) -> Audit {
        let mut enabled = self
            .only("audit.enabled", raw.enabled.as_ref())
            .unwrap_or(true);
        let mut file = self.file_path("audit.file", raw.file.as_ref());
        if let (false, Some(at)) = (enabled, &raw.file) {
            self.problems.push(
                Problem::new(
                    Place::File(at.span()),
                    "`audit.file` is set, but audit is off",
                )
                .hint("take out `file`, or `enabled = false`"),
            );
        }
        match &flags.audit {
            None => {}
            Some(AuditTo::Off) => {
                enabled = false;
                file = None;
                self.origins.set("audit.enabled", Origin::Flag("--audit"));
            }
            Some(AuditTo::File(text)) => {
                enabled = true;
                self.origins.set("audit.enabled", Origin::Flag("--audit"));
                self.origins.set("audit.file", Origin::Flag("--audit"));
                match self.absolute(text, &self.around.directory) {
                    Ok(path) => file = Some(path),
                    Err(error) => self.note(Err(error), &Place::Flag("--audit")),
                }
            }
        }
        Audit {
            enabled,
            file,
            payloads: self
                .only("audit.payloads", raw.payloads.as_ref())
                .unwrap_or(Payloads::Digest),
        }
    }

    pub(super) fn packages(&mut self, raw: &raw::Packages, flags: &Overrides) -> Packages {
        let flag = flags.allow_scripts.then_some(true);
        let scripts = self.pick(
            "packages.scripts",
            raw.scripts.as_ref(),
            flag,
            "--allow-scripts",
        );
        let token_env = self.list("packages.token_env", &raw.token_env, &[], "", |name| {
            entries::variable_name(name).map(|()| name.to_owned())
        });
        let cache = self
            .file_path("packages.cache", raw.cache.as_ref())
            .unwrap_or_else(|| {
                let (path, origin) = self.below(
                    (&self.around.xdg_cache_home, "XDG_CACHE_HOME"),
                    ".cache",
                    "/var/cache",
                );
                self.origins.set("packages.cache", origin);
                path
            });
        Packages {
            scripts: scripts.unwrap_or(false),
            token_env,
            cache,
        }
    }

    pub(super) fn state_dir(&mut self, name: &str) -> PathBuf {
        if let Some(directory) = self.around.state_directory.as_deref().and_then(first) {
            self.origins
                .set("state_dir", Origin::Environment("STATE_DIRECTORY"));
            return directory;
        }
        let (path, origin) = self.below(
            (&self.around.xdg_state_home, "XDG_STATE_HOME"),
            ".local/state",
            "/var/lib",
        );
        self.origins.set("state_dir", origin);
        path.join(name)
    }

    /// `cofferdam` in an XDG directory; a process without a home gets the system's (FHS).
    pub(super) fn below(
        &self,
        (variable, name): (&Option<PathBuf>, &'static str),
        in_home: &str,
        system: &str,
    ) -> (PathBuf, Origin) {
        if let Some(directory) = usable(variable.as_ref()) {
            return (directory.join("cofferdam"), Origin::Environment(name));
        }
        let directory = usable(self.around.home.as_ref())
            .map_or_else(|| PathBuf::from(system), |home| home.join(in_home));
        (directory.join("cofferdam"), Origin::Default)
    }
}

/// The XDG specification: a relative path in these variables is to be ignored.
pub(super) fn usable(variable: Option<&PathBuf>) -> Option<&PathBuf> {
    variable.filter(|path| path.is_absolute())
}

/// systemd separates several state directories by colons (systemd.exec(5)); the first is ours.
fn first(directories: &Path) -> Option<PathBuf> {
    let first = match directories.to_str() {
        Some(text) => PathBuf::from(text.split(':').next().unwrap_or(text)),
        None => directories.to_owned(),
    };
    first.is_absolute().then_some(first)
}
