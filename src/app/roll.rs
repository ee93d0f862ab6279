//! What each running instance says of its credentials, for `cofferdam credentials`: one small file for
//! each in the state directory, without any value, locked while the instance lives.

use crate::config::Aged;
use crate::secret::Fingerprint;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In the state directory.
const DIRECTORY: &str = "instances";
/// Instances of one number, as in containers that share a state directory.
const NAMESAKES: u32 = 64;
const MOST: u64 = 1 << 20;
/// A reader may meet a writer; how often and how long it looks again.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(4);

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// Of the process that starts cells.
    pub(crate) pid: u32,
    /// Seconds since 1970.
    pub(crate) since: u64,
    pub(crate) credentials: Vec<Shown>,
    /// The last drill that was asked for since it started.
    pub(crate) drill: Option<Drilled>,
}

/// One credential of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) name: String,
    /// Where it goes, in words.
    pub(crate) inject: String,
    pub(crate) generation: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) since: u64,
    pub(crate) expires: Option<u64>,
    pub(crate) rotate_by: Option<u64>,
    pub(crate) aged: Option<Aged>,
    pub(crate) revoked: bool,
    pub(crate) previous: Option<Fingerprint>,
    pub(crate) problem: Option<String>,
    /// The message process goes by this.
    pub(crate) known: bool,
    /// Servers by the value that they hold; they may hold more than one.
    pub(crate) holders: Vec<Holders>,
}

/// How many servers hold one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holders {
    pub(crate) generation: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) servers: u32,
}

/// How a drill has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drilled {
    pub(crate) id: String,
    /// From the order to the last server that was replaced; absent while one is left.
    pub(crate) millis: Option<u64>,
    /// Servers that have not been replaced.
    pub(crate) left: u32,
}

/// The file of this instance; removed with it.
#[derive(Debug)]
pub(super) struct Roll {
    file: File,
    path: PathBuf,
    last: Option<Instance>,
}

impl Roll {
    /// # Errors
    /// No state can be kept.
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let directory = state.join(DIRECTORY);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory)?;
        let pid = std::process::id();
        for number in 0..NAMESAKES {
            let path = directory.join(format!("{pid}-{number}.json"));
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(&path)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Self {
                    file,
                    path,
                    last: None,
                });
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Writes it where it says something else than before. Lost when the disk is full: then nobody
    /// sees that it changed.
    pub(super) fn write(&mut self, instance: Instance) {
        if self.last.as_ref() == Some(&instance) {
            return;
        }
        let Ok(text) = serde_json::to_vec(&instance) else {
            return;
        };
        let length = text.len() as u64;
        let written = self
            .file
            .write_all_at(&text, 0)
            .and_then(|()| self.file.set_len(length));
        self.last = written.is_ok().then_some(instance);
    }
}

impl Drop for Roll {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// Every instance that runs, the oldest first. What a killed one has left is removed.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn instances(state: &Path) -> io::Result<Vec<Instance>> {
    let entries = match std::fs::read_dir(state.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all: Vec<Instance> = entries
        .flatten()
        .filter_map(|it| read(&it.path()))
        .collect();
    all.sort_by_key(|it| (it.since, it.pid));
    Ok(all)
}

fn read(path: &Path) -> Option<Instance> {
    let file = File::open(path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        std::fs::remove_file(path).ok();
        return None;
    }
    for _ in 0..TRIES {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MOST).read_to_end(&mut text))
            .ok()?;
        if let Ok(instance) = serde_json::from_slice(&text) {
            return Some(instance);
        }
        std::thread::sleep(BETWEEN);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_seen_while_they_live() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(instances(state.path()).unwrap(), []);
        let mut instance = Instance {
            pid: 7,
            since: 1,
            credentials: Vec::new(),
            drill: Some(Drilled {
                id: "a long one".to_owned(),
                millis: None,
                left: 1,
            }),
        };
        let mut one = Roll::open(state.path()).unwrap();
        let two = Roll::open(state.path()).unwrap();
        assert_ne!(one.path, two.path);
        one.write(instance.clone());
        instance.drill = None;
        one.write(instance.clone());
        assert_eq!(instances(state.path()).unwrap(), [instance]);
        let left = one.path.clone();
        drop((one, two));
        // What a killed one leaves behind.
        std::fs::write(&left, "{}").unwrap();
        assert_eq!(instances(state.path()).unwrap(), []);
        assert!(!left.exists());
    }
}
