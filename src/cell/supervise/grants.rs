//! Whether a file that is held by a descriptor lies below what the cell was granted.

use crate::cell::CellSpec;
use crate::cell::landlock::{Files, Granted};
use nix::errno::Errno;
use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, readlinkat,
};
use std::cell::OnceCell;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The granted files and directories, held since before the server ran.
#[derive(Debug)]
pub(super) struct Grants {
    write: Vec<Root>,
    read: Vec<Root>,
}

/// One of them.
#[derive(Debug)]
struct Root {
    held: OwnedFd,
    /// What it is, and where it lay when that was asked for first: a hint that spares asking again for most
    /// files.
    known: OnceCell<(Option<Identity>, Option<PathBuf>)>,
}

impl Root {
    fn new(held: OwnedFd) -> Self {
        let known = OnceCell::new();
        Self { held, known }
    }

    fn known(&self) -> &(Option<Identity>, Option<PathBuf>) {
        let held = self.held.as_fd();
        let ask = || (identity(held).ok(), location(held).ok());
        self.known.get_or_init(ask)
    }

    /// Whether going down from it to what of `name` lies below `above` ends at that file.
    fn leads_to(&self, wanted: Identity, name: &Path, above: Option<&Path>) -> bool {
        let Some(rest) = above.and_then(|above| below(name, above)) else {
            return false;
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.held, rest, flags, Mode::empty(), how)
            .is_ok_and(|found| identity(found.as_fd()) == Ok(wanted))
    }
}

impl Grants {
    /// Those of a spec, from what is held open already or by their names. What cannot be opened
    /// grants nothing; landlock refuses such a spec.
    pub(super) fn new(spec: &CellSpec, held: Option<Granted>) -> Self {
        let roots = |held: Vec<OwnedFd>| held.into_iter().map(Root::new).collect();
        match held.map(Granted::files) {
            Some(Files { read, write }) => Self {
                write: roots(write),
                read: roots(read),
            },
            None => Self::open(spec),
        }
    }

    fn open(spec: &CellSpec) -> Self {
        let hold = |paths: &[PathBuf]| -> Vec<Root> {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let held = paths
                .iter()
                .map(|path| openat(CWD, path, flags, Mode::empty()));
            held.flatten().map(Root::new).collect()
        };
        Self {
            write: hold(&spec.write),
            read: [&spec.read, &spec.execute]
                .into_iter()
                .flat_map(|paths| hold(paths))
                .collect(),
        }
    }

    /// Whether it may be changed.
    pub(super) fn may_write(&self, file: &OwnedFd) -> bool {
        covers(&self.write, file) || is_open_to_us(file)
    }

    /// Whether it may be read or listed.
    pub(super) fn may_read(&self, file: &OwnedFd) -> bool {
        covers(&self.write, file) || covers(&self.read, file)
    }
}

/// Whether a file that has no name, or lost it, can be opened for writing: landlock answers, which
/// knows where it was made, and gives our domain the grants of the server's.
fn is_open_to_us(file: &OwnedFd) -> bool {
    let nameless = |facts: Stat| {
        facts.st_nlink == 0 && FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile
    };
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fstat(file).is_ok_and(nameless)
        && openat(CWD, handle(file.as_fd()), flags, Mode::empty()).is_ok()
}

/// The name of the file is only a hint where to look: what counts is that going down from the granted
/// descriptor, through no link, ends at the very same file. Whoever swaps names meanwhile is refused.
fn covers(roots: &[Root], file: &OwnedFd) -> bool {
    let Ok(wanted) = identity(file.as_fd()) else {
        return false;
    };
    if roots.iter().any(|root| root.known().0 == Some(wanted)) {
        return true;
    }
    let Ok(name) = location(file.as_fd()) else {
        return false;
    };
    let mut at_first = roots.iter();
    if at_first.any(|root| root.leads_to(wanted, &name, root.known().1.as_deref())) {
        return true;
    }
    // It may lie below one that was moved meanwhile.
    roots.iter().any(|root| {
        let now = location(root.held.as_fd()).ok();
        now != root.known().1 && root.leads_to(wanted, &name, now.as_deref())
    })
}

/// What follows `above` in `name`, relative and not empty.
fn below<'a>(name: &'a Path, above: &Path) -> Option<&'a Path> {
    let rest = name.strip_prefix(above).ok()?;
    (name.is_absolute() && !rest.as_os_str().is_empty()).then_some(rest)
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(file: BorrowedFd<'_>) -> Result<Identity, Errno> {
    let facts = fstat(file).map_err(of_rustix)?;
    Ok((facts.st_dev, facts.st_ino))
}

/// What the kernel calls it at this moment; a file that is no longer there has a name that leads
/// nowhere.
fn location(file: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    let name = readlinkat(CWD, handle(file), Vec::new()).map_err(of_rustix)?;
    Ok(OsString::from_vec(name.into_bytes()).into())
}

/// The name by which a system call reaches the file of a descriptor of ours, and no other.
pub(super) fn handle(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

pub(super) fn of_rustix(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hold(path: &Path) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn what_lies_below_a_grant_by_any_name_is_covered_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["in", "in/deep", "inner"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["in/file", "in/deep/file", "inner/file", "alone", "other"] {
            fs::write(at(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("inner"), at("in/link")).unwrap();
        let spec = CellSpec {
            write: vec![at("in"), at("alone")],
            read: vec![at("inner")],
            ..CellSpec::default()
        };
        let grants = Grants::open(&spec);
        for name in ["in", "in/file", "in/deep/file", "in/deep/../file", "alone"] {
            assert!(grants.may_write(&hold(&at(name))), "{name}");
        }
        for name in [
            "inner",
            "inner/file",
            "in/link/file",
            "in/../other",
            "other",
            ".",
        ] {
            assert!(!grants.may_write(&hold(&at(name))), "{name}");
        }
        assert!(grants.may_read(&hold(&at("inner/file"))));
        assert!(!grants.may_read(&hold(&at("other"))));
        // The grant follows its directory, and a new one by its name is another.
        let held = hold(&at("in/file"));
        fs::rename(at("in"), at("moved")).unwrap();
        assert!(grants.may_write(&held));
        fs::create_dir(at("in")).unwrap();
        fs::write(at("in/file"), "x").unwrap();
        assert!(!grants.may_write(&hold(&at("in/file"))));
        fs::remove_file(at("moved/file")).unwrap();
        assert!(!covers(&grants.write, &held));
    }

    #[test]
    fn a_name_that_only_begins_alike_is_not_below() {
        let path = Path::new;
        assert_eq!(below(path("/a/b/c"), path("/a")), Some(path("b/c")));
        assert_eq!(below(path("/a/b"), path("/")), Some(path("a/b")));
        assert_eq!(below(path("/ab"), path("/a")), None);
        assert_eq!(below(path("/a"), path("/a")), None);
        assert_eq!(below(path("pipe:[7]"), path("")), None);
    }
}
