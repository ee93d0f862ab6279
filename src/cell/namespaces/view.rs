//! Makes the cell's own file tree and leaves the host's behind.

use super::layout::{DEVICES, Item, Layout};
use super::mapped::Trees;
use crate::cell::sys;
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Names and empty files only; the content is bound.
const ROOT: [(&str, &str); 3] = [("mode", "0755"), ("size", "1m"), ("nr_inodes", "16k")];
/// Anybody's, as the host's are; there is only one user inside.
const SHARED: [(&str, &str); 2] = [("mode", "1777"), ("nr_inodes", "64k")];
/// An instance of its own (`devpts`), where anybody may ask for a terminal and owns what he gets.
const TERMINALS: [(&str, &str); 2] = [("mode", "0600"), ("ptmxmode", "0666")];
/// Covers a directory.
const NOTHING: [(&str, &str); 3] = [("mode", "0"), ("size", "4k"), ("nr_inodes", "2")];
/// A process that may not be traced is not even a name (`proc(5)`; Linux 5.8), so the server finds
/// its own and not pid 1. Not `invisible`: that spares the group 0, in which root is.
const PROCESSES: [(&str, &str); 1] = [("hidepid", "ptraceable")];

/// Until the host's tree is gone, the new one hangs here: a directory that every host has, and of
/// which nothing else is needed meanwhile.
const STAGE: &str = "/proc";

/// What could not be done, and where.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {source}", path.display())]
pub(super) struct ViewError {
    doing: &'static str,
    path: PathBuf,
    source: Errno,
}

impl ViewError {
    /// The kernel lets others do it, but not us.
    pub(super) fn is_forbidden(&self) -> bool {
        self.source == Errno::PERM
    }
}

/// Names what was being done when a call failed.
trait At<T> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T, ViewError>;
}

impl<T, E: Into<Error>> At<T> for Result<T, E> {
    fn at(self, doing: &'static str, path: &Path) -> Result<T, ViewError> {
        self.map_err(|error| ViewError {
            doing,
            path: path.to_owned(),
            source: error.into().0,
        })
    }
}

/// The two crates' own error numbers, as one.
struct Error(Errno);

impl From<Errno> for Error {
    fn from(error: Errno) -> Self {
        Self(error)
    }
}

impl From<nix::errno::Errno> for Error {
    fn from(error: nix::errno::Errno) -> Self {
        Self(Errno::from_raw_os_error(error as i32))
    }
}

/// Builds the tree and makes it the root of this process, in a mount namespace that is ours. `ready`
/// holds the host's files where the launcher has prepared them; else they are taken from the host.
///
/// # Errors
/// The first step that the kernel refuses; the namespaces are then of no use.
pub(super) fn build(layout: &Layout<'_>, mut ready: Trees) -> Result<(), ViewError> {
    let top = Path::new("/");
    // What the host mounts later shall not appear in here.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(top, private).at("separate", top)?;
    let mut steps = layout.steps.iter().peekable();
    let whole = steps.next_if(|(path, item)| path == top && matches!(item, Item::Bind { .. }));
    let root = match whole {
        Some((path, item)) => bound(&mut ready, path, path, item)?,
        None => memory("tmpfs", &ROOT, top)?,
    };
    attach(root.as_fd(), CWD, Path::new(STAGE))?;
    for (path, item) in steps.filter(|(path, _)| path != top) {
        // Relative to the new root; the same words, taken from the old one, are the source.
        let inside = path.strip_prefix(top).unwrap_or(path);
        place(root.as_fd(), inside, path, item, &mut ready)?;
    }
    if let Some(shown) = layout.shown {
        cover(root.as_fd(), shown)?;
    }
    // pivot_root(2), "pivot_root(".", ".")": the old root comes to lie on the new one, and goes.
    rustix::process::fchdir(&root).at("enter", top)?;
    rustix::process::pivot_root(".", ".").at("make the root", top)?;
    unmount(".", UnmountFlags::DETACH).at("leave behind", top)?;
    rustix::process::chdir("/").at("enter", top)?;
    if whole.is_none() {
        seal_root()?;
    }
    Ok(())
}

/// The root itself becomes read-only; what is mounted on it stays as it is. Not recursive, and so a
/// mount that is cloned and thrown away cannot do it: this is a remount.
fn seal_root() -> Result<(), ViewError> {
    let flags = rustix::mount::MountFlags::BIND
        | rustix::mount::MountFlags::RDONLY
        | rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount_remount("/", flags, c"").at("seal", Path::new("/"))
}

fn place(
    root: BorrowedFd<'_>,
    inside: &Path,
    path: &Path,
    item: &Item,
    ready: &mut Trees,
) -> Result<(), ViewError> {
    match item {
        Item::Directory => directory(root, inside),
        Item::Link(target) => symlinkat(target, root, inside).at("link", path),
        Item::Bind { directory: is, .. } => {
            let source = bound(ready, path, path, item)?;
            if *is {
                directory(root, inside)?;
            } else {
                file(root, inside)?;
            }
            attach(source.as_fd(), root, inside)
        }
        Item::Copy(from) => {
            let source = bound(ready, path, from, item)?;
            file(root, inside)?;
            attach(source.as_fd(), root, inside)
        }
        Item::Memory(size) => {
            directory(root, inside)?;
            let [mode, files] = SHARED;
            let made = memory("tmpfs", &[mode, files, ("size", size)], path)?;
            attach(made.as_fd(), root, inside)
        }
        Item::Terminals => {
            directory(root, inside)?;
            let made = terminals(path)?;
            attach(made.as_fd(), root, inside)
        }
        Item::Processes => {
            directory(root, inside)?;
            // A fresh one needs one that is wholly visible already: where something covers a part of
            // the host's /proc, as in most containers, the kernel refuses with EPERM
            // (fs/namespace.c, mount_too_revealing).
            attach(memory("proc", &PROCESSES, path)?.as_fd(), root, inside)
        }
    }
}

fn directory(root: BorrowedFd<'_>, inside: &Path) -> Result<(), ViewError> {
    match mkdirat(root, inside, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        done => done.at("make the directory", inside),
    }
}

fn file(root: BorrowedFd<'_>, inside: &Path) -> Result<(), ViewError> {
    // Found without being opened, which for a device can mean something.
    let found = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(root, inside, found, Mode::empty()) {
        Err(Errno::NOENT) => {
            let flags = OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::RDONLY;
            let made = openat(root, inside, flags, Mode::from_raw_mode(0o444));
            made.map(drop).at("make the file", inside)
        }
        done => done.map(drop).at("find the file", inside),
    }
}

fn bound(ready: &mut Trees, path: &Path, from: &Path, item: &Item) -> Result<OwnedFd, ViewError> {
    ready.remove(path).map_or_else(|| copy(from, item), Ok)
}

/// A copy of a mount from the host, restricted before anybody can see it. All that is mounted below
/// comes along: the kernel refuses to show what a mount of another namespace's owner covers.
pub(super) fn copy(path: &Path, item: &Item) -> Result<OwnedFd, ViewError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let tree = open_tree(CWD, path, flags).at("copy", path)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    // A device is written to all the same (open(2) asks its mount for nothing), but keeps its mode, owner
    // and times.
    if !matches!(item, Item::Bind { write: true, .. }) || is_device(path, item) {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    if matches!(item, Item::Bind { run: false, .. }) {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    if !path.starts_with("/dev") && path != Path::new("/") {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    sys::restrict_mount(tree.as_fd(), attributes.bits().into()).at("restrict", path)?;
    Ok(tree)
}

fn is_device(path: &Path, item: &Item) -> bool {
    let file = matches!(
        item,
        Item::Bind {
            directory: false,
            ..
        }
    );
    let known = || DEVICES.iter().any(|device| path == Path::new(device));
    let asked = || {
        let kind = std::fs::metadata(path).map(|facts| facts.file_type());
        kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device())
    };
    file && path.starts_with("/dev") && (known() || asked())
}

/// Its devices work: they are pseudo terminals and nothing else.
fn terminals(path: &Path) -> Result<OwnedFd, ViewError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    make("devpts", &TERMINALS, attributes, path)
}

/// Nothing in it is a program or a device.
fn memory(kind: &str, options: &[(&str, &str)], path: &Path) -> Result<OwnedFd, ViewError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    make(kind, options, attributes, path)
}

/// A new file system that is not attached anywhere yet.
fn make(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
    path: &Path,
) -> Result<OwnedFd, ViewError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).at("make", path)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value).at("set up", path)?;
    }
    fsconfig_create(context.as_fd()).at("make", path)?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).at("mount", path)
}

fn attach(tree: BorrowedFd<'_>, root: BorrowedFd<'_>, inside: &Path) -> Result<(), ViewError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", root, inside, flags).at("attach", inside)
}

/// Covers what the cell's own `/proc` tells about the host, and makes its settings read-only.
fn cover(root: BorrowedFd<'_>, shown: &[&str]) -> Result<(), ViewError> {
    let inside = Path::new("proc");
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let top = openat(root, inside, flags, Mode::empty()).at("open", inside)?;
    let settings = Path::new("sys");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copied = open_tree(&top, settings, flags).at("copy", settings)?;
    let fixed = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
    sys::restrict_mount(copied.as_fd(), fixed).at("restrict", settings)?;
    attach(copied.as_fd(), top.as_fd(), settings)?;
    let names = rustix::fs::Dir::read_from(&top).at("list", inside)?;
    for entry in names {
        let entry = entry.at("list", inside)?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let number = name.bytes().all(|byte| byte.is_ascii_digit());
        if number || name.starts_with('.') || shown.contains(&name) {
            continue;
        }
        let path = Path::new(name);
        match entry.file_type() {
            FileType::Directory => {
                attach(memory("tmpfs", &NOTHING, path)?.as_fd(), top.as_fd(), path)?;
            }
            FileType::Symlink => {}
            _ => {
                let null = Path::new("/dev/null");
                let covered = open_tree(CWD, null, flags).at("copy", null)?;
                // Without devices a device cannot be opened: EACCES, for root too.
                let closed = MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_RDONLY;
                sys::restrict_mount(covered.as_fd(), closed.bits().into()).at("restrict", path)?;
                attach(covered.as_fd(), top.as_fd(), path)?;
            }
        }
    }
    Ok(())
}
