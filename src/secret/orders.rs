//! What the operator has ordered of the credentials of one server: values that may not be used any more,
//! and a drill. One file for all instances, written by `cofferdam credentials`.
//!
//! A value is named by its [`Fingerprint`], keyed by a number that lies beside the file: who cannot read
//! the state of a server can test no guess.

use crate::config::open_file;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// In the state directory.
const ORDERS: &str = "credentials.json";
const KEY: &str = "credentials.key";
const KEY_BYTES: usize = 32;
/// Bytes of the orders.
const MOST: u64 = 1 << 20;
/// Revoked values of one server that are remembered; the oldest are forgotten first.
const REVOKED: usize = 4096;

/// Which value it is, in 12 hexadecimal digits that say nothing about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes fingerprints.
pub struct Key(Option<hmac::Key>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key of the server whose state lies in `state`; made at its first use. Where no state can be
    /// kept it is drawn for this process alone, and [`Key::open`] says why.
    #[must_use]
    pub fn open(state: &Path) -> (Self, Option<io::Error>) {
        match Self::of(state) {
            Ok(key) => (key, None),
            Err(error) => (Self::drawn(), Some(error)),
        }
    }

    fn of(state: &Path) -> io::Result<Self> {
        let path = state.join(KEY);
        for _ in 0..2 {
            match open_file(&path) {
                Ok(file) => {
                    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
                    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
                    if bytes.len() == KEY_BYTES {
                        return Ok(Self(Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))));
                    }
                    return Err(io::Error::other("the key of fingerprints is not whole"));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// A key that ends with this process.
    #[must_use]
    pub fn drawn() -> Self {
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok())
    }

    /// The fingerprint of a value of this credential; the same value elsewhere has another.
    #[must_use]
    pub fn fingerprint(&self, name: &str, value: &[u8]) -> Fingerprint {
        use std::fmt::Write as _;
        let Some(key) = &self.0 else {
            return Fingerprint("unknown".to_owned());
        };
        let mut context = hmac::Context::with_key(key);
        context.update(name.as_bytes());
        context.update(&[0]);
        context.update(value);
        let tag = context.sign();
        let mut digits = String::with_capacity(12);
        for byte in tag.as_ref().iter().take(6) {
            // Into memory.
            let _ = write!(digits, "{byte:02x}");
        }
        Fingerprint(digits)
    }
}

/// Whole under its name, or not there: two first starts may meet.
fn make(path: &Path) -> io::Result<()> {
    let mut bytes = zeroize::Zeroizing::new([0; KEY_BYTES]);
    let drawn = SystemRandom::new().fill(&mut *bytes);
    drawn.map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    let beside = beside(path);
    let linked = write(&beside, &*bytes).and_then(|()| match std::fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    std::fs::remove_file(&beside).ok();
    linked
}

/// What is ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    #[serde(default)]
    pub revoked: Vec<Revoked>,
    /// The last drill that was asked for.
    #[serde(default)]
    pub drill: Option<Drill>,
}

/// A value that may not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    pub name: String,
    pub fingerprint: Fingerprint,
    /// Seconds since 1970.
    pub at: u64,
}

/// A rotation without another value, to see that it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    pub name: String,
    /// Another one for each drill.
    pub id: String,
}

impl Orders {
    /// Where they are.
    #[must_use]
    pub fn path(state: &Path) -> PathBuf {
        state.join(ORDERS)
    }

    /// Reads them; none when there is no file.
    ///
    /// # Errors
    /// What the file system says, or that the file is none of ours.
    pub fn read(state: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        match open_file(&Self::path(state)) {
            Ok(file) => file.take(MOST).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        Ok(serde_json::from_slice(&text)?)
    }

    /// Puts them in the place of what was there, whole.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, state: &Path) -> io::Result<()> {
        let surplus = self.revoked.len().saturating_sub(REVOKED);
        self.revoked.drain(..surplus);
        let path = Self::path(state);
        let beside = beside(&path);
        let written = write(&beside, &serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&beside, &path));
        if written.is_err() {
            std::fs::remove_file(&beside).ok();
        }
        written
    }

    /// True when this value may not be used.
    #[must_use]
    pub fn revokes(&self, name: &str, fingerprint: &Fingerprint) -> bool {
        let mut all = self.revoked.iter();
        all.any(|it| it.name == name && it.fingerprint == *fingerprint)
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
    }
    // Left behind by a process of this number that was killed.
    std::fs::remove_file(path).ok();
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn fingerprints_are_keyed_by_the_server_and_survive_it() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = one.path().join("state");
        let of = |state: &Path, name: &str| {
            let (key, error) = Key::open(state);
            assert!(error.is_none());
            key.fingerprint(name, b"some-value")
        };
        let first = of(&state, "a");
        assert_eq!(first.as_str().len(), 12);
        assert_eq!(of(&state, "a"), first);
        assert_ne!(of(&state, "b"), first);
        assert_ne!(of(other.path(), "a"), first);
        let facts = std::fs::metadata(state.join(KEY)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);

        std::fs::write(state.join(KEY), "half").unwrap();
        let (key, error) = Key::open(&state);
        assert!(error.is_some());
        assert_ne!(key.fingerprint("a", b"some-value"), first);
    }

    #[test]
    fn orders_are_read_as_they_were_written() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Orders::read(state.path()).unwrap(), Orders::default());
        let print = Key::drawn().fingerprint("a", b"x");
        let revoked = |at| Revoked {
            name: "a".to_owned(),
            fingerprint: print.clone(),
            at,
        };
        let mut orders = Orders {
            revoked: (0..5000).map(revoked).collect(),
            drill: None,
        };
        orders.write(state.path()).unwrap();
        let read = Orders::read(state.path()).unwrap();
        assert_eq!(read.revoked.len(), REVOKED);
        assert_eq!(read.revoked.last(), Some(&revoked(4999)));
        assert!(read.revokes("a", &print) && !read.revokes("b", &print));
        std::fs::write(Orders::path(state.path()), "{").unwrap();
        assert!(Orders::read(state.path()).is_err());
    }
}
