//! Whom root's server runs as.

use super::private::Private;
use super::{PlanError, Planner};
use crate::cell::Account;
use ::caps::{CapSet, Capability};
use nix::unistd::{Uid, geteuid};
use std::fs;
use std::path::{Path, PathBuf};

/// Nobody's: above what systemd, containers and subordinate ids use, and what it calls unused
/// (<https://systemd.io/UIDS-GIDS/>, 0x7FFF0000 to 0x7FFFFFFF).
const UNUSED: u32 = 0x7fff_c0de;
/// The kernel's own overflow id, for namespaces in which the other one does not exist.
const NOBODY: u32 = 65534;
/// What the account is called inside.
pub(super) const NAME: &str = "cofferdam";
/// Read as they are: libc's own look-ups load modules, which a static program cannot count on.
const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// To become somebody else, and to end what somebody else runs.
const POWERS: [Capability; 3] = [
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_KILL,
];

fn holds(power: Capability) -> bool {
    ::caps::has_cap(None, CapSet::Effective, power).unwrap_or(false)
}

impl Planner<'_> {
    pub(super) fn choose_user(&mut self, private: &Private) -> Result<(), PlanError> {
        let us = geteuid();
        let Some((uid, gid)) = wanted(self.config.user.as_deref(), us)? else {
            if us.is_root() && self.config.user.is_none() {
                // Root of a namespace that knows nobody else: outside it is not root.
                let text = "the server stays uid 0, for this user namespace has no other user";
                self.spec.warnings.push(text.to_owned());
            }
            return Ok(());
        };
        if let Some(lacking) = POWERS.into_iter().find(|power| !holds(*power)) {
            let power = lacking.to_string();
            return Err(PlanError::Powerless { power, uid });
        }
        let own = [&private.home, &private.tmp, &private.run, &private.canary];
        self.spec.user = Some(Account {
            uid,
            gid,
            own: own.map(Clone::clone).into(),
            // Without a view of its own the server sees the host's files, whatever copies there are.
            names: match self.spec.namespaces {
                true => names(uid, gid, private)?,
                false => Vec::new(),
            },
        });
        Ok(())
    }
}

/// Whom the server runs as when nobody says so; `None`: as we do.
pub(in crate::cell) fn usual() -> Option<Account> {
    let (uid, gid) = wanted(None, geteuid()).ok().flatten()?;
    Some(Account {
        uid,
        gid,
        ..Account::default()
    })
}

/// The ids to take; `None`: nobody else's.
fn wanted(user: Option<&str>, us: Uid) -> Result<Option<(u32, u32)>, PlanError> {
    let Some(text) = user else {
        let maps = ["uid_map", "gid_map"]
            .map(|file| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default());
        let known = |id: &u32| us.is_root() && maps.iter().all(|text| knows(text, *id));
        return Ok([UNUSED, NOBODY].into_iter().find(known).map(|id| (id, id)));
    };
    let asked = |reason: String| PlanError::User { reason };
    let users = fs::read_to_string(USERS).unwrap_or_default();
    let (uid, gid) = match text.parse::<u32>() {
        Ok(uid) => {
            let known = users.lines().filter_map(entry).find(|user| user.1 == uid);
            (uid, known.and_then(|user| user.2).unwrap_or(uid))
        }
        Err(_) if text == "root" => (0, 0),
        Err(_) => {
            let known = users.lines().filter_map(entry).find(|user| user.0 == text);
            let missing = || {
                asked(format!(
                    "there is no user {text:?} in {USERS}: write a number"
                ))
            };
            let (_, uid, gid) = known.ok_or_else(missing)?;
            (uid, gid.unwrap_or(uid))
        }
    };
    if us.as_raw() == uid {
        return Ok(None);
    }
    if !us.is_root() {
        let text = format!("only root can run the server as user {text:?}, and this is uid {us}");
        return Err(asked(text));
    }
    match gid {
        0 => Err(asked(format!("the group of user {text:?} is root's"))),
        gid => Ok(Some((uid, gid))),
    }
}

/// One line of `passwd(5)` or `group(5)`: the name, the id, and a user's group.
fn entry(line: &str) -> Option<(&str, u32, Option<u32>)> {
    let mut fields = line.split(':');
    let (name, _) = (fields.next()?, fields.next()?);
    let id = fields.next()?.parse().ok()?;
    Some((name, id, fields.next().and_then(|group| group.parse().ok())))
}

/// Whether a map of `user_namespaces(7)` knows that id inside.
fn knows(text: &str, id: u32) -> bool {
    text.lines().any(|line| {
        let mut words = line
            .split_whitespace()
            .filter_map(|word| word.parse::<u64>().ok());
        match (words.next(), words.next(), words.next()) {
            (Some(first), Some(_), Some(count)) => {
                (first..first.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// Without a name, `os.userInfo()`, `getpass.getuser()` and ssh give up.
fn names(uid: u32, gid: u32, private: &Private) -> Result<Vec<(PathBuf, PathBuf)>, PlanError> {
    let mut names = Vec::new();
    let home = private.home.to_string_lossy();
    let user = format!("{NAME}:x:{uid}:{gid}:{NAME}:{home}:/usr/sbin/nologin\n");
    let group = format!("{NAME}:x:{gid}:\n");
    for (path, id, line) in [(USERS, uid, user), (GROUPS, gid, group)] {
        let path = Path::new(path);
        // A host without it is left as it is: nothing there could be replaced.
        let Ok(mut text) = fs::read_to_string(path) else {
            continue;
        };
        if text.lines().filter_map(entry).any(|known| known.1 == id) {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&line);
        let copy = private.file(path.file_name().unwrap_or_default(), &text)?;
        // Where a link leads elsewhere, that file is what is granted.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        names.push((path, copy));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_becomes_somebody_else() {
        let (root, other) = (Uid::from_raw(0), Uid::from_raw(1000));
        assert_eq!(wanted(None, other).unwrap(), None);
        assert_eq!(wanted(Some("1000"), other).unwrap(), None);
        for user in ["0", "root", "1001"] {
            let refused = wanted(Some(user), other).unwrap_err();
            assert_eq!(refused.exit_code(), 78);
            assert!(refused.to_string().contains("cell.user"), "{refused}");
        }
        assert_eq!(wanted(Some("root"), root).unwrap(), None);
        assert_eq!(wanted(Some("0"), root).unwrap(), None);
        let unnamed = wanted(Some("2147400000"), root).unwrap();
        assert_eq!(unnamed, Some((2_147_400_000, 2_147_400_000)));
        let missing = wanted(Some("no-such-user"), root).unwrap_err().to_string();
        assert!(missing.contains("no-such-user"), "{missing}");
        if let Some((uid, gid)) = wanted(None, root).unwrap() {
            assert!(uid != 0 && gid != 0);
        }
    }

    #[test]
    fn accounts_are_lines() {
        assert_eq!(
            entry("me:x:1000:100:Me,,,:/home/me:/bin/sh"),
            Some(("me", 1000, Some(100)))
        );
        assert_eq!(entry("adm:x:4:me"), Some(("adm", 4, None)));
        assert_eq!(entry("+::::::"), None);
        assert_eq!(entry("# nothing"), None);
    }

    #[test]
    fn a_map_says_which_ids_exist() {
        let whole = "         0          0 4294967295\n";
        assert!(knows(whole, UNUSED) && knows(whole, 0));
        let part = "0 100000 65536\n";
        assert!(knows(part, NOBODY) && !knows(part, UNUSED));
        assert!(!knows("0 0 1\n", NOBODY) && !knows("junk", 0));
    }
}
