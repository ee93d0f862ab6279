//! What a server can write decides nothing about what it is granted the next time.
//!
//! A plan is made at every start, from what lies there: links, `pyvenv.cfg`, the first line of a script,
//! the headers of a binary. Where the last life of the server could change these, they may name what
//! lies in the writable grant itself, what the operator or a preset grants anyway, and the programs
//! and libraries of the host; nothing else.

use super::host::absolute;
use super::{PlanError, Planner};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Links followed in one path before it counts as a loop (`path_resolution(7)`: 40).
const LINKS: usize = 40;

/// Where hosts keep their programs: nobody's data.
const PROGRAMS: [&str; 9] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
];

/// The writable grants, and what was named by whom.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Resolved. Empty: the server writes to its private directory only, which is new each time.
    write: Vec<PathBuf>,
    /// What the operator lets it read, resolved; nothing that is reached through a writable link.
    read: Vec<PathBuf>,
    /// Where the operator's own programs are.
    path: Vec<PathBuf>,
    /// A grant, and the file or link that named it.
    named: Vec<(PathBuf, PathBuf)>,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    real: PathBuf,
    /// The first link on it that lies in a writable grant.
    link: Option<PathBuf>,
}

/// What a grant may become.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing that the server writes decides about it.
    Free,
    /// It lies in a writable grant, here: no part of that may be a link when it is opened.
    Inside(PathBuf),
    /// It is reached through what the server writes, and may be had anyway.
    Known(PathBuf),
    /// The same, and only by this would it be granted.
    Outside { by: PathBuf, real: PathBuf },
    /// It is not there, and the server could make it.
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Execute,
}

impl Bounds {
    /// Remembers which file named a grant.
    pub(super) fn note(&mut self, granted: &Path, by: &Path) {
        if !self.write.is_empty() {
            self.named.push((granted.to_owned(), by.to_owned()));
        }
    }

    /// Whether a link that the server could make leads there.
    pub(super) fn is_led(&self, path: &Path) -> bool {
        !self.write.is_empty() && self.follow(path).is_ok_and(|way| way.link.is_some())
    }

    fn holds(&self, real: &Path) -> bool {
        self.write.iter().any(|root| real.starts_with(root))
    }

    /// Follows a path as the kernel would.
    ///
    /// # Errors
    /// When it leads nowhere; true when the server could let it lead somewhere.
    fn follow(&self, path: &Path) -> Result<Way, bool> {
        let mut real = PathBuf::from("/");
        let (mut link, mut links) = (None, 0);
        let mut todo = parts(path);
        while let Some(part) = todo.pop() {
            let Some(name) = part else {
                real.pop();
                continue;
            };
            if name == "/" {
                real = "/".into();
                continue;
            }
            let here = self.holds(&real);
            let absent = here || link.is_some();
            real.push(name);
            let facts = std::fs::symlink_metadata(&real).map_err(|_| absent)?;
            if !facts.is_symlink() {
                continue;
            }
            links += 1;
            let target = std::fs::read_link(&real).map_err(|_| absent)?;
            if links > LINKS {
                return Err(absent);
            }
            if here {
                link = link.or_else(|| Some(real.clone()));
            }
            real.pop();
            todo.extend(parts(&target));
        }
        Ok(Way { real, link })
    }

    /// Whether the server can change what this file says, or which file it is.
    fn sways(&self, file: &Path) -> bool {
        match self.follow(file) {
            Ok(way) => way.link.is_some() || self.holds(&way.real),
            Err(absent) => absent,
        }
    }

    fn judge(&self, path: &Path, kind: Kind, vouched: &dyn Fn(&Path) -> bool) -> Verdict {
        let way = match self.follow(path) {
            Ok(way) => way,
            Err(true) => return Verdict::Absent,
            Err(false) => return Verdict::Free,
        };
        let Way { real, link } = way;
        if self.holds(&real) {
            let root = link.is_none() && self.write.contains(&real);
            return if root && !self.is_nested(&real) {
                Verdict::Free
            } else {
                Verdict::Inside(real)
            };
        }
        let mut named = self.named.iter().filter(|(granted, _)| granted == path);
        let led = link.is_some();
        let by = link.or_else(|| {
            named
                .find(|(_, by)| self.sways(by))
                .map(|(_, by)| by.clone())
        });
        let Some(by) = by else { return Verdict::Free };
        let known = match kind {
            Kind::Write => false,
            Kind::Read => self.read.iter().any(|root| real.starts_with(root)) || vouched(&real),
            Kind::Execute => {
                let host = PROGRAMS.iter().any(|dir| real.starts_with(dir));
                let own = real
                    .parent()
                    .is_some_and(|dir| self.path.iter().any(|it| it == dir) && !self.holds(dir));
                host || own || self.read.iter().any(|root| real.starts_with(root)) || vouched(&real)
            }
        };
        match known {
            true if led => Verdict::Known(real),
            true => Verdict::Free,
            false => Verdict::Outside { by, real },
        }
    }

    /// Whether a writable directory lies in another one.
    fn is_nested(&self, root: &Path) -> bool {
        self.write
            .iter()
            .any(|other| other != root && root.starts_with(other))
    }
}

/// The parts of a path, the first one last; `None` is `..`.
fn parts(path: &Path) -> Vec<Option<OsString>> {
    let known = path.components().rev().filter_map(|part| match part {
        Component::RootDir => Some(Some("/".into())),
        Component::ParentDir => Some(None),
        Component::Normal(name) => Some(Some(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    known.collect()
}

impl Planner<'_> {
    /// The writable grants that the operator named, before anything is derived.
    ///
    /// # Errors
    /// One of the operator's own paths leads out of a writable grant by a link in it.
    pub(super) fn bound(&mut self) -> Result<(), PlanError> {
        if self.config.write.is_empty() {
            return Ok(());
        }
        let cwd = self.host.cwd.clone();
        let all = |paths: &[PathBuf]| -> Vec<PathBuf> {
            paths.iter().map(|path| absolute(&cwd, path)).collect()
        };
        let (write, read) = (all(&self.config.write), all(&self.config.read));
        // With those that may turn out to be led elsewhere: what lies there would be written too.
        let there = write.iter().filter_map(|it| it.canonicalize().ok());
        let mut bounds = Bounds {
            write: there.collect(),
            ..Bounds::default()
        };
        let straight = |bounds: &Bounds, paths: &[PathBuf]| -> (Vec<PathBuf>, Vec<Way>) {
            let ways = paths.iter().filter_map(|path| bounds.follow(path).ok());
            let (led, straight): (Vec<Way>, Vec<Way>) = ways.partition(|way| way.link.is_some());
            (straight.into_iter().map(|way| way.real).collect(), led)
        };
        let (roots, led_write) = straight(&bounds, &write);
        let (mut readable, led_read) = straight(&bounds, &read);
        readable.extend(roots.iter().cloned());
        for (ways, within) in [(led_write, &roots), (led_read, &readable)] {
            for Way { real, link } in ways {
                let Some(by) = link else { continue };
                if !within.iter().any(|root| real.starts_with(root)) {
                    return Err(PlanError::Outside { by, real });
                }
            }
        }
        let path = self.host.text("PATH").unwrap_or_default();
        bounds.path = std::env::split_paths(&path).collect();
        (bounds.write, bounds.read) = (roots, readable);
        self.bounds = bounds;
        Ok(())
    }

    /// Takes out what only the server itself has named.
    ///
    /// # Errors
    /// It is what would be executed.
    pub(super) fn keep_within_bounds(&mut self) -> Result<(), PlanError> {
        if self.bounds.write.is_empty() {
            return Ok(());
        }
        let spec = &mut self.spec;
        for (list, kind) in [
            (&mut spec.read, Kind::Read),
            (&mut spec.execute, Kind::Execute),
            (&mut spec.write, Kind::Write),
        ] {
            let mut kept = Vec::with_capacity(list.len());
            for path in std::mem::take(list) {
                if self.seen.contains_key(path.as_os_str()) {
                    kept.push(path);
                    continue;
                }
                let preset = |real: &Path| self.seen.keys().any(|it| real.starts_with(it));
                let vouched = |real: &Path| match kind {
                    Kind::Execute => super::python::is_program(real),
                    Kind::Read => preset(real) || super::python::is_library(real),
                    Kind::Write => false,
                };
                match self.bounds.judge(&path, kind, &vouched) {
                    Verdict::Free => kept.push(path),
                    Verdict::Inside(real) => {
                        spec.pinned.push(real.clone());
                        kept.push(real.clone());
                        spec.names.extend((real != path).then_some(path));
                    }
                    Verdict::Known(real) => {
                        kept.push(real);
                        spec.names.push(path);
                    }
                    Verdict::Outside { by, real } if kind == Kind::Execute => {
                        return Err(PlanError::Outside { by, real });
                    }
                    Verdict::Outside { by, real } => {
                        let text = PlanError::Outside { by, real }.to_string();
                        if !spec.warnings.contains(&text) {
                            spec.warnings.push(text);
                        }
                    }
                    Verdict::Absent => {}
                }
            }
            *list = kept;
        }
        Ok(())
    }
}
