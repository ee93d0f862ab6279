//! What the cell's own file tree holds: a list of steps, made from the plan and from the host's links.
//!
//! Every path looks exactly as it does outside. A grant that goes through links brings the links
//! with it, and the file or directory that they lead to stands where it really is.

use super::{PROCESSES, is_own};
use crate::cell::CellSpec;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links followed in one path before it counts as a loop (`path_resolution(7)`: 40).
const LINKS: usize = 40;

/// Devices that every cell has, whatever the plan lists: they hold nothing of this host.
pub(super) const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    TERMINAL,
];

/// The terminal of whoever asks, if it has one.
pub(super) const TERMINAL: &str = "/dev/tty";

/// Directories in memory that take the place of the host's, and the most that each may hold: what
/// containers have by default for the semaphores and buffers of `multiprocessing`, and room for
/// programs that do not ask for `TMPDIR`, which is on disk.
const MEMORY: [(&str, &str); 2] = [("/dev/shm", "64m"), ("/tmp", "256m")];

/// Terminals that the server makes for its children.
const TERMINALS: &str = "/dev/pts";

/// Names that programs expect in `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Entries of `/proc` that are shown besides the processes: what a preset lists, and the links into
/// `/proc/self`. Everything else at the top tells about the host or its kernel and is covered.
const SHOWN: [&str; 14] = [
    "self",
    "thread-self",
    "mounts",
    "net",
    "meminfo",
    "cpuinfo",
    "stat",
    "uptime",
    "loadavg",
    "version",
    "version_signature",
    "filesystems",
    "cgroups",
    "sys",
];

/// One thing in the tree, its path absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Directory,
    /// A symbolic link with this text.
    Link(PathBuf),
    /// The host's own file or directory.
    Bind {
        write: bool,
        directory: bool,
        /// Whether code can be mapped from it. No grant of ours says so of what can be written, and
        /// landlock does not see a loader map what it reads; a mount does.
        run: bool,
    },
    /// A file of ours, which lies there on the host, in the place of the host's own.
    Copy(PathBuf),
    /// A directory in memory, of at most this size.
    Memory(&'static str),
    /// Terminals of the cell's own.
    Terminals,
    /// The cell's own `/proc`.
    Processes,
}

/// See [`Layout::own`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cell) struct Own {
    pub(in crate::cell) write: Vec<PathBuf>,
    pub(in crate::cell) terminals: Vec<PathBuf>,
}

/// What stands where, parents before children, nothing twice.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub(super) steps: Vec<(PathBuf, Item)>,
    /// Names at the top of `/proc` that stay visible; `None`: all, because landlock grants them one
    /// by one.
    pub(super) shown: Option<&'a [&'a str]>,
}

impl Layout<'_> {
    /// What the server may use although no grant lists it, because it is the cell's own.
    pub(super) fn own(&self) -> Own {
        let mut own = Own::default();
        for (path, item) in &self.steps {
            match item {
                Item::Memory(_) => own.write.push(path.clone()),
                Item::Terminals => own.terminals = vec![path.clone(), TERMINAL.into()],
                _ => {}
            }
        }
        own
    }

    pub(super) fn of(spec: &CellSpec) -> Self {
        let mut tree = Tree::default();
        tree.items.insert("/".into(), Item::Directory);
        for (paths, write) in [
            (&spec.read, false),
            (&spec.execute, false),
            (&spec.write, true),
        ] {
            for path in paths {
                tree.bind(path, write);
            }
        }
        tree.forbid_code(spec);
        for path in spec.names.iter().chain([&spec.program, &spec.cwd]) {
            tree.walk(path);
        }
        for device in DEVICES {
            tree.bind(Path::new(device), true);
        }
        for (path, target) in DEVICE_LINKS {
            let link = Item::Link(target.into());
            tree.items.entry(path.into()).or_insert(link);
        }
        for (path, size) in MEMORY {
            tree.place(path, Item::Memory(size));
        }
        tree.place(TERMINALS, Item::Terminals);
        tree.items.insert(PROCESSES.into(), Item::Processes);
        for (path, ours) in spec.account().iter().flat_map(|user| &user.names) {
            if tree.is_only_read(path) {
                tree.replace(path, ours);
            }
        }
        if super::own_network(spec) || spec.serves.is_some() {
            for (path, ours) in &spec.covers {
                tree.replace(path, ours);
            }
        }
        Self {
            steps: settle(tree.items),
            shown: super::own_network(spec).then_some(&SHOWN[..]),
        }
    }
}

/// Takes out what a directory that is bound shows by itself.
fn settle(items: BTreeMap<PathBuf, Item>) -> Vec<(PathBuf, Item)> {
    let mut steps: Vec<(PathBuf, Item)> = Vec::new();
    // The directories that are bound and hold the current path, innermost last.
    let mut around: Vec<(PathBuf, bool)> = Vec::new();
    for (path, item) in items {
        while around
            .last()
            .is_some_and(|(outer, _)| !path.starts_with(outer))
        {
            around.pop();
        }
        let shown = around.last().map(|(_, write)| *write);
        match item {
            // The operator granted the host's own.
            Item::Directory | Item::Link(_) | Item::Memory(_) | Item::Terminals
                if shown.is_some() =>
            {
                continue;
            }
            // A grant below a writable one is writable too: landlock adds grants up.
            Item::Bind { .. } if shown == Some(true) => continue,
            Item::Bind { write: false, .. } if shown.is_some() => continue,
            Item::Bind {
                write,
                directory: true,
                ..
            } => around.push((path.clone(), write)),
            _ => {}
        }
        steps.push((path, item));
    }
    steps
}

/// The tree while it grows.
#[derive(Debug, Default)]
struct Tree {
    items: BTreeMap<PathBuf, Item>,
    seen: HashMap<PathBuf, Option<Found>>,
}

/// What the host has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Directory,
    Other,
    Link(PathBuf),
}

impl Tree {
    fn bind(&mut self, path: &Path, write: bool) {
        let Some((real, found)) = self.walk(path) else {
            return;
        };
        let directory = found == Found::Directory;
        match self.items.get_mut(&real) {
            Some(Item::Bind { write: known, .. }) => *known |= write,
            _ => {
                let run = true;
                let item = Item::Bind {
                    write,
                    directory,
                    run,
                };
                self.items.insert(real, item);
            }
        }
    }

    /// What can be written holds no code, unless a grant says that it does: to execute something in
    /// it or around it, or to read it or something in it, which to write it includes already.
    fn forbid_code(&mut self, spec: &CellSpec) {
        let mut real = |paths: &[PathBuf]| -> Vec<PathBuf> {
            let found = paths.iter().filter_map(|path| self.walk(path));
            found.map(|(path, _)| path).collect()
        };
        let (execute, read) = (real(&spec.execute), real(&spec.read));
        for (path, item) in &mut self.items {
            if let Item::Bind {
                write: true, run, ..
            } = item
            {
                *run = execute.iter().any(|code| path.starts_with(code))
                    || execute
                        .iter()
                        .chain(&read)
                        .any(|code| code.starts_with(path));
            }
        }
    }

    /// Puts something of the cell's own where neither a grant nor a link of the host stands.
    fn place(&mut self, path: &str, item: Item) {
        let free = |known: &Item| *known == Item::Directory;
        if self.items.get(Path::new(path)).is_none_or(free) {
            self.items.insert(path.into(), item);
        }
    }

    /// Puts a file of ours in the place of the host's. A host without it needs none: what the C
    /// library assumes then is right.
    fn replace(&mut self, path: &Path, ours: &Path) {
        if let Some((real, Found::Other)) = self.walk(path) {
            self.items.insert(real, Item::Copy(ours.into()));
        }
    }

    /// Whether a path without links is granted, and not for writing.
    fn is_only_read(&self, path: &Path) -> bool {
        let mut grants = path
            .ancestors()
            .filter_map(|above| match self.items.get(above) {
                Some(Item::Bind { write, .. }) => Some(*write),
                _ => None,
            })
            .peekable();
        grants.peek().is_some() && !grants.any(|write| write)
    }

    /// Follows a path as the kernel would, noting every directory and link on the way. `None` when
    /// it leads nowhere or into what the view makes itself.
    fn walk(&mut self, path: &Path) -> Option<(PathBuf, Found)> {
        let mut real = PathBuf::from("/");
        let mut found = Found::Directory;
        let mut links = 0;
        let mut todo = parts(path);
        while let Some(part) = todo.pop() {
            match part {
                Part::Root => (real, found) = ("/".into(), Found::Directory),
                Part::Up => drop(real.pop()),
                Part::Down(name) => {
                    let next = real.join(name);
                    if is_own(&next) {
                        return None;
                    }
                    found = self.look(&next)?;
                    if let Found::Link(target) = &found {
                        links += 1;
                        if links > LINKS {
                            return None;
                        }
                        todo.extend(parts(target));
                        let link = Item::Link(target.clone());
                        self.items.entry(next).or_insert(link);
                        found = Found::Directory;
                    } else {
                        if found == Found::Directory {
                            self.items.entry(next.clone()).or_insert(Item::Directory);
                        }
                        real = next;
                    }
                }
            }
        }
        Some((real, found))
    }

    fn look(&mut self, path: &Path) -> Option<Found> {
        let ask = || {
            let kind = fs::symlink_metadata(path).ok()?.file_type();
            Some(if kind.is_dir() {
                Found::Directory
            } else if kind.is_symlink() {
                Found::Link(fs::read_link(path).ok()?)
            } else {
                Found::Other
            })
        };
        self.seen.entry(path.to_owned()).or_insert_with(ask).clone()
    }
}

enum Part {
    Root,
    Up,
    Down(OsString),
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<Part> {
    let known = path.components().rev().filter_map(|part| match part {
        Component::RootDir => Some(Part::Root),
        Component::ParentDir => Some(Part::Up),
        Component::Normal(name) => Some(Part::Down(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn steps(spec: &CellSpec) -> BTreeMap<PathBuf, Item> {
        let steps = Layout::of(spec).steps;
        let map: BTreeMap<_, _> = steps.iter().cloned().collect();
        assert_eq!(map.len(), steps.len(), "a path comes twice");
        assert!(
            steps.iter().map(|(path, _)| path).eq(map.keys()),
            "parents come before children"
        );
        map
    }

    fn bind(write: bool, directory: bool) -> Item {
        let run = true;
        Item::Bind {
            write,
            directory,
            run,
        }
    }

    #[test]
    fn links_come_along_and_what_they_lead_to_stands_where_it_is() {
        let host = tempfile::tempdir().unwrap();
        let host = host.path().canonicalize().unwrap();
        fs::create_dir_all(host.join("real/deep")).unwrap();
        fs::write(host.join("real/deep/file"), "x").unwrap();
        symlink("real/../real/deep", host.join("short")).unwrap();
        symlink(host.join("short/file"), host.join("far")).unwrap();
        symlink("loop", host.join("loop")).unwrap();
        let found = steps(&CellSpec {
            read: vec![host.join("far"), host.join("loop"), host.join("absent")],
            ..CellSpec::default()
        });
        assert_eq!(
            found.get(&host.join("far")),
            Some(&Item::Link(host.join("short/file")))
        );
        let short = Item::Link("real/../real/deep".into());
        assert_eq!(found.get(&host.join("short")), Some(&short));
        assert_eq!(found.get(&host.join("real/deep")), Some(&Item::Directory));
        assert_eq!(
            found.get(&host.join("real/deep/file")),
            Some(&bind(false, false))
        );
        assert_eq!(found.get(&host.join("absent")), None);
    }

    #[test]
    fn what_a_bound_directory_shows_is_not_bound_again_unless_it_is_writable() {
        let host = tempfile::tempdir().unwrap();
        let host = host.path().canonicalize().unwrap();
        for name in ["a/x", "a/w/y", "a/w/r", "ab"] {
            fs::create_dir_all(host.join(name)).unwrap();
        }
        let at = |names: &[&str]| names.iter().map(|name| host.join(name)).collect();
        let found = steps(&CellSpec {
            read: at(&["a", "a/x", "a/w/r", "ab"]),
            write: at(&["a/w"]),
            ..CellSpec::default()
        });
        let below: Vec<_> = found
            .iter()
            .filter(|(path, _)| path.starts_with(&host) && **path != host)
            .map(|(path, item)| {
                let path = path.strip_prefix(&host).unwrap();
                (path.to_str().unwrap(), item.clone())
            })
            .collect();
        let expected = [
            ("a", bind(false, true)),
            ("a/w", bind(true, true)), // a/w/r is read
            ("ab", bind(false, true)),
        ];
        assert_eq!(below, expected);
    }

    #[test]
    fn what_can_be_written_holds_no_code_unless_a_grant_says_so() {
        let host = tempfile::tempdir().unwrap();
        let host = host.path().canonicalize().unwrap();
        for name in ["data", "code", "venv/lib", "app/bin", "tools/w"] {
            fs::create_dir_all(host.join(name)).unwrap();
        }
        fs::write(host.join("app/bin/run"), "x").unwrap();
        symlink("app", host.join("link")).unwrap();
        let at = |names: &[&str]| names.iter().map(|name| host.join(name)).collect();
        let found = steps(&CellSpec {
            read: at(&["code", "venv/lib"]),
            execute: at(&["link/bin/run", "tools"]),
            write: at(&["data", "code", "venv", "app", "tools/w"]),
            ..CellSpec::default()
        });
        for (name, expected) in [
            ("data", false),
            ("code", true),
            ("venv", true),
            ("app", true),
            ("tools/w", true),
        ] {
            let Some(Item::Bind { run, write, .. }) = found.get(&host.join(name)) else {
                panic!("{name} is not bound")
            };
            assert!(*write);
            assert_eq!(*run, expected, "{name}");
        }
    }

    #[test]
    fn every_cell_has_devices_memory_and_processes_of_its_own() {
        let found = steps(&CellSpec {
            read: vec!["/proc/self/stat".into()],
            ..CellSpec::default()
        });
        assert_eq!(found[Path::new("/proc")], Item::Processes);
        assert_eq!(found[Path::new("/dev/shm")], Item::Memory("64m"));
        assert_eq!(found[Path::new("/tmp")], Item::Memory("256m"));
        assert_eq!(found[Path::new("/dev/pts")], Item::Terminals);
        assert_eq!(found[Path::new("/dev/null")], bind(true, false));
        assert!(!found.contains_key(Path::new("/home")));
        assert!(!found.keys().any(|path| path.starts_with("/proc/self")));
    }

    #[test]
    fn a_granted_root_is_one_bind_with_the_cells_own_places_on_top() {
        let found = steps(&CellSpec {
            read: vec!["/".into(), "/usr".into()],
            ..CellSpec::default()
        });
        assert_eq!(found[Path::new("/")], bind(false, true));
        assert!(!found.contains_key(Path::new("/usr")));
        assert!(!found.contains_key(Path::new("/tmp")));
        assert_eq!(found[Path::new("/proc")], Item::Processes);
    }
}
