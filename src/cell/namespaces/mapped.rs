//! What root's server may use, as mounts in which root's files are the server's.
//!
//! A mount can translate owners (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`, Linux 5.12): in these, root
//! and the server's user change places. What is root's on disk belongs to the server in there, and
//! what the server makes is root's on disk. Nothing on disk changes for it. Only the host's root can
//! make such mounts, so the launcher makes them, before the namespaces, and pid 1 puts them in place.

use super::layout::{DEVICES, Item, Layout};
use super::view::{self, ViewError};
use crate::cell::account::Account;
use crate::cell::sys;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What stands where, ready to be attached.
pub(super) type Trees = BTreeMap<PathBuf, OwnedFd>;

/// Why there are no such mounts.
#[derive(Debug)]
pub(super) enum Failure {
    /// None at all: the cell is the floor.
    Floor(String),
    /// One grant cannot be had, and the start must be refused.
    Refused(String),
}

/// Prepares every mount of the layout for that user, and says what is not mapped. Empty, and nothing
/// is mapped, where we may not clone a mount: pid 1 may, in its own namespace ([`copies`]).
pub(super) fn trees(
    layout: &Layout<'_>,
    account: &Account,
    notes: &mut Vec<String>,
) -> Result<Trees, Failure> {
    let trees = match copies(layout) {
        Ok(trees) => trees,
        Err(error) if error.is_forbidden() => Trees::new(),
        Err(error) => return Err(Failure::Floor(error.to_string())),
    };
    // Where there are no user namespaces at all, the next step says so.
    let swap = match trees.is_empty() {
        true => None,
        false => swapped(account).ok(),
    };
    let mut plain = Vec::new();
    for (path, item) in &layout.steps {
        let Item::Bind {
            write, directory, ..
        } = item
        else {
            continue;
        };
        let reach = match (trees.get(path), swap.as_ref().and_then(Swap::as_fd)) {
            (Some(tree), Some(swap)) => translate(tree.as_fd(), swap, *directory)?,
            _ => Reach::Nothing,
        };
        match reach {
            Reach::All => {}
            Reach::Top => notes.push(format!(
                "what is mounted below {} cannot be mapped: uid {} is a stranger there",
                path.display(),
                account.uid
            )),
            Reach::Nothing => {
                if !as_it_is(path, *write, account)? {
                    plain.push(path);
                }
            }
        }
    }
    if let Some(first) = plain.first() {
        notes.push(format!(
            "{} of the granted paths cannot be mapped ({} is the first): uid {} reads there what \
             everybody may read",
            plain.len(),
            first.display(),
            account.uid
        ));
    }
    Ok(trees)
}

/// The host's mounts as they are.
pub(super) fn copies(layout: &Layout<'_>) -> Result<Trees, ViewError> {
    let mut trees = Trees::new();
    for (path, item) in &layout.steps {
        let from = match item {
            Item::Bind { .. } => path,
            Item::Copy(from) => from,
            _ => continue,
        };
        trees.insert(path.clone(), view::copy(from, item)?);
    }
    Ok(trees)
}

/// How much of a mount is mapped.
enum Reach {
    All,
    /// Without what is mounted below.
    Top,
    Nothing,
}

fn translate(
    tree: BorrowedFd<'_>,
    swap: BorrowedFd<'_>,
    directory: bool,
) -> Result<Reach, Failure> {
    match sys::map_mount(tree, swap, true) {
        Ok(()) => Ok(Reach::All),
        // EINVAL: a file system here or below cannot. EPERM: it is not ours to map (it belongs to
        // another user namespace), or it is mapped already.
        Err(Errno::EINVAL | Errno::EPERM) => {
            match directory && sys::map_mount(tree, swap, false).is_ok() {
                true => Ok(Reach::Top),
                false => Ok(Reach::Nothing),
            }
        }
        Err(error) => Err(Failure::Floor(format!("map owners: {}", error.desc()))),
    }
}

/// Whether what cannot be mapped needs no word: it is the kernel's own, the same for everybody, or
/// our own, given to the user.
fn as_it_is(path: &Path, write: bool, account: &Account) -> Result<bool, Failure> {
    let failed = |error| Failure::Floor(format!("{}: {error}", path.display()));
    if account.own.iter().any(|own| own == path) {
        let mut within = account.own.iter().filter(|own| own.starts_with(path));
        within
            .try_for_each(|own| account.take(own))
            .map_err(failed)?;
        return Ok(true);
    }
    if DEVICES.iter().any(|device| path == Path::new(device)) {
        return Ok(true);
    }
    let facts = fs::metadata(path).map_err(failed)?;
    let all = |bits: u32| facts.mode() & bits == bits;
    let lack = match (write, facts.is_dir()) {
        _ if facts.uid() == account.uid => None,
        // Files made there would be the user's and not the caller's.
        (true, true) => Some("would get files that are not root's"),
        (true, false) => (!all(0o006)).then_some("cannot be written"),
        (false, true) => (!all(0o005)).then_some("cannot be read"),
        (false, false) => (!all(0o004)).then_some("cannot be read"),
    };
    match lack {
        Some(lack) => Err(Failure::Refused(account.refusal(path, lack))),
        None => Ok(["/sys", "/proc", "/dev"]
            .iter()
            .any(|top| path.starts_with(top))),
    }
}

/// A user namespace that lives as long as its descriptor. The process that it needed to begin with
/// ends meanwhile, and is reaped last: whoever becomes the server has no child that it does not know.
struct Swap {
    users: Option<OwnedFd>,
    child: Option<Pid>,
}

impl Swap {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.users.as_ref().map(OwnedFd::as_fd)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Some(child) = self.child {
            waitpid(Some(child), WaitOptions::empty()).ok();
        }
    }
}

/// In it root and the account have changed places, and everybody else is who they are.
fn swapped(account: &Account) -> Result<Swap, String> {
    let (ours, mut theirs) = UnixStream::pair().map_err(|error| format!("socketpair: {error}"))?;
    let child = sys::fork_into(CloneFlags::CLONE_NEWUSER)
        .map_err(|error| format!("the kernel refuses user namespaces: {}", error.desc()))?;
    let Some(child) = child else {
        prctl::set_pdeathsig(Signal::SIGKILL).ok();
        drop(ours);
        // The end of file: the launcher has what it wants, or is dead.
        theirs.read_to_end(&mut Vec::new()).ok();
        sys::die_by(libc::SIGKILL);
        // Not reached: nothing survives that signal.
        loop {
            nix::unistd::pause();
        }
    };
    drop(theirs);
    let made = || {
        for (file, id) in [("uid_map", account.uid), ("gid_map", account.gid)] {
            write_map(child.as_raw(), file, &swap_of(file, id)?)?;
        }
        let path = format!("/proc/{child}/ns/user");
        File::open(&path).map_err(|error| format!("{path}: {error}"))
    };
    let users = made().ok().map(OwnedFd::from);
    drop(ours);
    let child = Pid::from_raw(child.as_raw());
    Ok(Swap { users, child })
}

/// Writes a map from outside, which needs the powers of root there (`user_namespaces(7)`).
pub(super) fn write_map(process: i32, file: &str, text: &str) -> Result<(), String> {
    let path = format!("/proc/{process}/{file}");
    fs::write(&path, text).map_err(|error| format!("{path}: {error}"))
}

/// Every id that a map of ours knows, root and `id` in each other's place. A line of
/// `user_namespaces(7)`: first id inside, first id outside, how many.
fn swap(id: u32, known: &str) -> String {
    let mut text = format!("0 {id} 1\n{id} 0 1\n");
    for line in known.lines() {
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (end, id) = (first.saturating_add(count), u64::from(id));
        for (from, to) in [(first.max(1), end.min(id)), (first.max(id + 1), end)] {
            if from < to {
                text.push_str(&format!("{from} {from} {}\n", to - from));
            }
        }
    }
    text
}

fn swap_of(file: &str, id: u32) -> Result<String, String> {
    let path = format!("/proc/self/{file}");
    let known = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(swap(id, &known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn two_change_places_and_everybody_else_stays() {
        let whole = "         0          0 4294967295\n";
        assert_eq!(
            swap(65534, whole),
            "0 65534 1\n65534 0 1\n1 1 65533\n65535 65535 4294901760\n"
        );
        assert_eq!(swap(1, whole), "0 1 1\n1 0 1\n2 2 4294967293\n");
        let part = "0 100000 1000\n65534 200000 1\n";
        assert_eq!(swap(65534, part), "0 65534 1\n65534 0 1\n1 1 999\n");
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_when_the_user_could_not_use_it() {
        let host = tempfile::tempdir().unwrap();
        let account = Account {
            uid: host.path().metadata().unwrap().uid() + 1,
            ..Account::default()
        };
        let file = host.path().join("file");
        fs::write(&file, "x").unwrap();
        for (path, mode, write, usable) in [
            (host.path(), 0o777, true, false),
            (host.path(), 0o755, false, true),
            (host.path(), 0o711, false, false),
            (&file, 0o666, true, true),
            (&file, 0o644, true, false),
            (&file, 0o644, false, true),
            (&file, 0o640, false, false),
        ] {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(path, mode.clone()).unwrap();
            let said = as_it_is(path, write, &account);
            assert_eq!(said.is_ok(), usable, "{path:?} {mode:?} {write}: {said:?}");
            if let Err(failure) = said {
                let Failure::Refused(text) = failure else {
                    panic!("{failure:?}");
                };
                assert!(text.contains(path.to_str().unwrap()) && text.contains("cell.user"));
            }
        }
    }
}
