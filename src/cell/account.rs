//! The unprivileged user that a launcher of root's becomes, and what of the host that user can use.
//!
//! Root without capabilities still owns root's files, `/proc/sys` among them. So the server is
//! somebody else, and what it may use is mapped to that user (see `namespaces::mapped`) or, where
//! nothing can be mapped, must be open to that user as it is.

use super::{CellSpec, sys};
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{
    AccessFlags, Gid, Uid, access, fchown, geteuid, getgroups, getresgid, getresuid, setgroups,
    setresgid, setresuid,
};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Who the server runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// Directories and files of our own making that the server gets: these, and no others, may be
    /// given to the user. All lie in one directory, which is ours too; the first of them directly.
    pub own: Vec<PathBuf>,
    /// Copies of `/etc/passwd` and `/etc/group` that know the user; absent when the host's do.
    pub names: Vec<(PathBuf, PathBuf)>,
}

impl CellSpec {
    /// The user to become; only root can become another.
    pub(super) fn account(&self) -> Option<&Account> {
        self.user.as_ref().filter(|_| geteuid().is_root())
    }
}

impl Account {
    /// Becomes this user for good: all ids, no other groups. Capabilities stay where the secure bits
    /// or the user namespace keep them; the parent-death signal does not.
    pub(super) fn assume(&self) -> Result<(), String> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let failed = |doing: &'static str| move |error: Errno| format!("{doing}: {}", error.desc());
        setgroups(&[]).map_err(failed("setgroups"))?;
        setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
        setresuid(uid, uid, uid).map_err(failed("setresuid"))?;
        self.verify()
    }

    /// The ids as the kernel has them.
    fn verify(&self) -> Result<(), String> {
        let failed = |error: Errno| error.desc().to_owned();
        let users = getresuid().map_err(failed)?;
        let groups = getresgid().map_err(failed)?;
        let others = getgroups().map_err(failed)?;
        let is_user = [users.real, users.effective, users.saved]
            .iter()
            .all(|id| id.as_raw() == self.uid);
        let is_group = [groups.real, groups.effective, groups.saved]
            .iter()
            .all(|id| id.as_raw() == self.gid);
        if is_user && is_group && others.is_empty() {
            return Ok(());
        }
        Err(format!("uid {} does not read back", self.uid))
    }

    /// Gives the user what is our own, where it can be mapped to nobody: the server's private
    /// directories, and a way through the one that they lie in.
    pub(super) fn take_own(&self) -> Result<(), String> {
        for path in &self.own {
            self.take(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if let Some(around) = self.own.first().and_then(|path| path.parent()) {
            let opened = open(around).and_then(|directory| {
                fchmod(&directory, Mode::from_bits_truncate(0o711))?;
                Ok(())
            });
            opened.map_err(|error| format!("{}: {error}", around.display()))?;
        }
        Ok(())
    }

    /// Gives the user one of [`Account::own`].
    pub(super) fn take(&self, path: &Path) -> std::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        Ok(fchown(open(path)?, Some(uid), Some(gid))?)
    }

    /// Why this user could not use a grant as it is on the host; `None` when it could.
    ///
    /// Call it without capabilities as this user: the kernel answers for whoever asks.
    pub(super) fn lacks(&self, path: &Path, write: bool) -> Option<&'static str> {
        let Ok(facts) = std::fs::metadata(path) else {
            return Some("cannot be reached");
        };
        let reads = match facts.is_dir() {
            true => AccessFlags::R_OK | AccessFlags::X_OK,
            false => AccessFlags::R_OK,
        };
        if access(path, reads).is_err() {
            return Some("cannot be read");
        }
        if !write {
            return None;
        }
        // Files made there would be the user's and not the caller's: only where that is wanted.
        if facts.is_dir() && facts.uid() != self.uid {
            return Some("would get files that are not root's");
        }
        access(path, AccessFlags::W_OK)
            .is_err()
            .then_some("cannot be written")
    }

    /// The first grant that the user could not use, said to the operator.
    pub(super) fn unusable(&self, spec: &CellSpec) -> Option<String> {
        let lists = [
            (&spec.read, false),
            (&spec.execute, false),
            (&spec.write, true),
        ];
        let grants = lists
            .into_iter()
            .flat_map(|(paths, write)| paths.iter().map(move |path| (path, write)));
        // A process that changed its user is a stranger to its own entries there until it executes.
        let mut grants = grants.filter(|(path, _)| !path.starts_with("/proc"));
        grants.find_map(|(path, write)| {
            let lack = self.lacks(path, write)?;
            Some(self.refusal(path, lack))
        })
    }

    /// The refusal that names the path and the key.
    pub(super) fn refusal(&self, path: &Path, lack: &str) -> String {
        format!(
            "root's server runs as uid {}: {} {lack}, and owners cannot be mapped there; give it to \
             that user, name another with cell.user (--user), or keep root by cell.user = \"root\"",
            self.uid,
            path.display()
        )
    }
}

/// A file or directory itself, never what a link leads to.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
}

/// Keeps the capabilities through the change of the user: later steps need them, and empty every set.
pub(super) fn keep_capabilities() {
    // Without CAP_SETPCAP it fails; then the change takes them, which is no loss.
    sys::set_securebits(sys::NO_SETUID_FIXUP).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_cannot_use_is_named_with_the_key_that_changes_it() {
        let host = tempfile::tempdir().unwrap();
        let ours = Account {
            uid: geteuid().as_raw(),
            ..Account::default()
        };
        let other = Account {
            uid: ours.uid + 1,
            ..Account::default()
        };
        assert_eq!(ours.lacks(host.path(), true), None);
        assert_eq!(other.lacks(host.path(), false), None);
        let lack = other.lacks(host.path(), true);
        assert_eq!(lack, Some("would get files that are not root's"));
        let absent = host.path().join("absent");
        assert_eq!(ours.lacks(&absent, false), Some("cannot be reached"));

        let spec = CellSpec {
            read: vec!["/proc/self/nothing".into(), host.path().to_owned()],
            write: vec![host.path().to_owned()],
            ..CellSpec::default()
        };
        assert_eq!(ours.unusable(&spec), None);
        let refusal = other.unusable(&spec).unwrap();
        let path = host.path().to_str().unwrap();
        assert!(
            refusal.contains(path) && refusal.contains("cell.user"),
            "{refusal}"
        );
    }
}
