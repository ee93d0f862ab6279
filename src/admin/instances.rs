//! Where running instances are found: each listens on a socket of its own, `NAME.PID.sock`, in a
//! directory that only its user can enter.
//!
//! A client may start the same server twice at once, so the process number is part of the name. What
//! a killed run has left answers nobody, and is removed by whoever finds it.

use super::wire::Ask;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Below a runtime directory that is not ours alone.
const OURS: &str = "cofferdam";
const SUFFIX: &str = ".sock";
/// Bytes of one answer.
const MOST: u64 = 4 << 20;
/// Instances that are looked at; nobody runs so many.
const INSTANCES: usize = 4096;

/// What decides where the sockets are; nothing else is looked up.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `$RUNTIME_DIRECTORY`, set by systemd.
    pub runtime_directory: Option<PathBuf>,
    pub xdg_runtime_dir: Option<PathBuf>,
    /// Of us.
    pub uid: u32,
    /// Where state of all servers is, for hosts without a runtime directory.
    pub state: Option<PathBuf>,
}

impl Places {
    /// As the environment says; `state` is the state directory of a server, or of all.
    #[must_use]
    pub fn of_this_process(state: Option<PathBuf>) -> Self {
        let path = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Self {
            // A list; the first is ours.
            runtime_directory: path("RUNTIME_DIRECTORY")
                .and_then(|list| std::env::split_paths(&list).next()),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR").map(PathBuf::from),
            uid: nix::unistd::geteuid().as_raw(),
            state,
        }
    }

    /// The directories in which an instance may listen, the best first.
    fn directories(&self) -> Vec<PathBuf> {
        let user = PathBuf::from(format!("/run/user/{}", self.uid));
        let xdg = self.xdg_runtime_dir.iter().map(|dir| dir.join(OURS));
        let root = (self.uid == 0).then(|| Path::new("/run").join(OURS));
        // Clients start us with five variables, and this is not among them.
        let user = user.is_dir().then(|| user.join(OURS));
        let named = self.runtime_directory.iter().cloned();
        let known = named.chain(xdg).chain(root).chain(user);
        known.chain(self.state.clone()).collect()
    }

    /// Listens as the instance `pid` of `server`.
    ///
    /// # Errors
    /// No directory takes a socket; the last reason.
    pub fn listen(&self, server: &str, pid: i32) -> io::Result<(UnixListener, PathBuf)> {
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for directory in self.directories() {
            let path = directory.join(format!("{server}.{pid}{SUFFIX}"));
            match listen(&directory, &path) {
                Ok(listener) => return Ok((listener, path)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Removes the socket of an instance that was killed.
    pub fn remove(&self, server: &str, pid: i32) {
        let name = format!("{server}.{pid}{SUFFIX}");
        let mut directories = self.directories().into_iter();
        // The kernel remembers each name that it was asked for in vain, and a watch on a directory walks
        // through them all: it is asked for no more than are needed.
        directories.any(|directory| fs::remove_file(directory.join(&name)).is_ok());
    }

    /// Everything that runs; what does not answer any more is removed.
    #[must_use]
    pub fn find(&self) -> Vec<Instance> {
        let mut directories = self.directories();
        directories.push(Path::new("/run").join(OURS));
        if self.uid == 0 {
            directories.extend(below(Path::new("/run/user")).map(|user| user.join(OURS)));
        }
        // A unit has a directory below, and state one for each server.
        let deeper: Vec<PathBuf> = directories.iter().flat_map(|dir| below(dir)).collect();
        let all: BTreeSet<PathBuf> = directories
            .into_iter()
            .chain(deeper)
            .filter_map(|dir| fs::canonicalize(dir).ok())
            .collect();
        let mut found: Vec<Instance> = all
            .iter()
            .flat_map(|dir| below(dir))
            .filter_map(Instance::at)
            .take(INSTANCES)
            .collect();
        found.sort_by(|a, b| (&a.server, a.pid).cmp(&(&b.server, b.pid)));
        found
    }
}

fn below(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn listen(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)?;
    let held = File::open(directory)?;
    let short = short(&held, path)?;
    if fs::symlink_metadata(path).is_ok() {
        // Ours by its number, so whoever listened there is gone, or lives in another pid namespace.
        if UnixStream::connect(&short).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(&short)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The same file by a path that fits into an address (108 bytes, unix(7)), while `directory` is open.
fn short(directory: &File, path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

/// One sidecar that runs.
#[derive(Debug)]
pub struct Instance {
    pub server: String,
    /// Of the message process: the one that a client or a service manager has started.
    pub pid: i32,
    pub path: PathBuf,
    stream: UnixStream,
}

/// Why an instance has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("it does not answer: {source}")]
    Unreached { source: io::Error },
    #[error("it answers with something that is no answer")]
    Garbled,
}

impl Instance {
    fn at(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
        let (server, pid) = name.rsplit_once('.')?;
        let (server, pid) = (server.to_owned(), pid.parse().ok()?);
        let directory = File::open(path.parent()?).ok()?;
        match UnixStream::connect(short(&directory, &path).ok()?) {
            Ok(stream) => Some(Self {
                server,
                pid,
                path,
                stream,
            }),
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    // Left by a run that was killed; another user's stays.
                    fs::remove_file(&path).ok();
                }
                None
            }
        }
    }

    /// Asks, and waits for the answer for `limit`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn ask(mut self, ask: &Ask, limit: Duration) -> Result<Value, AskError> {
        let mut talk = || -> io::Result<Vec<u8>> {
            let mut line = serde_json::to_vec(ask)?;
            line.push(b'\n');
            self.stream.set_write_timeout(Some(limit))?;
            self.stream.set_read_timeout(Some(limit))?;
            self.stream.write_all(&line)?;
            let mut answer = Vec::new();
            (&mut self.stream).take(MOST).read_to_end(&mut answer)?;
            Ok(answer)
        };
        let answer = talk().map_err(|source| AskError::Unreached { source })?;
        serde_json::from_slice(&answer).map_err(|_| AskError::Garbled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn places(dir: &Path) -> Places {
        Places {
            runtime_directory: Some(dir.to_owned()),
            uid: 4_000_000_000,
            ..Places::default()
        }
    }

    fn here<'f>(found: &'f [Instance], dir: &Path) -> Vec<(&'f str, i32)> {
        let dir = fs::canonicalize(dir).unwrap();
        let ours = found.iter().filter(|it| it.path.starts_with(&dir));
        ours.map(|it| (&*it.server, it.pid)).collect()
    }

    #[test]
    fn two_of_one_server_are_found_and_the_dead_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than an address may be.
        let at = dir.path().join("d".repeat(120));
        let places = places(&at);
        let (first, path) = places.listen("a.b", 7).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::metadata(&at).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(places.listen("a.b", 7).is_err(), "somebody answers there");
        let (second, _) = places.listen("a.b", 8).unwrap();
        fs::write(at.join("a.b.9.sock"), "no socket").unwrap();
        fs::write(at.join("notes"), "no socket").unwrap();
        assert_eq!(here(&places.find(), &at), [("a.b", 7), ("a.b", 8)]);
        drop(second);
        assert_eq!(here(&places.find(), &at), [("a.b", 7)]);
        assert!(!at.join("a.b.8.sock").exists());
        drop(first);
        assert!(
            places.listen("a.b", 7).is_ok(),
            "one that is left is replaced"
        );
    }

    #[test]
    fn an_answer_is_read_to_its_end_and_garbage_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        for (answer, good) in [("{\"a\":1}\n", true), ("half {", false), ("", false)] {
            let (listener, path) = places.listen("s", 1).unwrap();
            listener.set_nonblocking(false).unwrap();
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                line
            });
            let found = places.find();
            let ours = found.into_iter().find(|it| it.path.ends_with("s.1.sock"));
            let got = ours.unwrap().ask(&Ask::Status, Duration::from_secs(5));
            assert_eq!(got.is_ok(), good, "{got:?}");
            assert_eq!(serving.join().unwrap(), "{\"command\":\"status\"}\n");
            fs::remove_file(path).unwrap();
        }
    }
}
