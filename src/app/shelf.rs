//! What a server holds of its credentials, and the files of those that it reads: in a directory of their
//! own inside the cell's private one, which it can read and nothing else.
//!
//! Another value is another file, renamed into the place of the old one, so that a reader finds one of
//! the two whole. Directory and files belong to whoever the directory belongs to: on the floor the
//! launcher gives it to the server's user, elsewhere owners are translated on the way in.

use super::roll::Holders;
use crate::cell::CellSpec;
use crate::config::{Credential, Inject, Signal};
use crate::secret::{Fingerprint, Held, Vault};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Its name in the private directory of the cell.
const NAME: &str = "credentials";
/// A new value until it is renamed; no credential is called so, for it is no part of a path that
/// [`Inject::File`] may have been given for a second file of ours.
const NEW: &str = ".cofferdam-new";
/// In a command, `{credentials.NAME}` is the path of that one's file.
const PLACE: (&str, &str) = ("{credentials.", "}");

/// What one cell has got.
#[derive(Debug)]
pub(super) struct Shelf {
    /// The private directory of the cell.
    private: PathBuf,
    /// The directory of the files, whatever becomes of its name.
    directory: Option<OwnedFd>,
    /// Every value that its processes may hold, the latest of each credential last.
    laid: Vec<Laid>,
    made: Instant,
}

#[derive(Debug)]
pub(super) struct Laid {
    pub(super) name: String,
    pub(super) generation: u32,
    pub(super) fingerprint: Fingerprint,
}

impl Laid {
    fn of(source: &Credential, held: &Held) -> Self {
        Self {
            name: source.name.clone(),
            generation: held.generation,
            fingerprint: held.fingerprint.clone(),
        }
    }
}

impl Shelf {
    /// Lays the values in force into `private`; `None` when no process of the cell holds one.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn make(private: &Path, vault: &Vault) -> io::Result<Option<Self>> {
        let held = vault.each().filter(|(source, _)| source.inject.is_held());
        let laid: Vec<Laid> = held.map(|(source, held)| Laid::of(source, held)).collect();
        if laid.is_empty() {
            return Ok(None);
        }
        let mut shelf = Self {
            private: private.to_owned(),
            directory: None,
            laid,
            made: Instant::now(),
        };
        if files(vault).next().is_some() {
            let root = private.join(NAME);
            rustix::fs::mkdirat(CWD, &root, Mode::RWXU)?;
            let directory = open_directory(CWD, &root)?;
            for (_, path, held) in files(vault) {
                lay(&directory, path, held)?;
            }
            shelf.directory = Some(directory);
        }
        Ok(Some(shelf))
    }

    /// Lets the server of this cell read them, and says where they are.
    pub(super) fn grant(&self, vault: &Vault, spec: &mut CellSpec) {
        if self.directory.is_none() {
            return;
        }
        let root = self.private.join(NAME);
        for (source, path, _) in files(vault) {
            let at = root.join(path);
            if let Some(variable) = source.inject.variable() {
                let value = at.to_string_lossy().into_owned();
                spec.env.retain(|(name, _)| name != variable);
                spec.env.push((variable.to_owned(), value));
            }
            if let Some(user) = &mut spec.user {
                let around = path.ancestors().skip(1).map(|part| root.join(part));
                let own = around.chain([at.clone()]);
                let new: Vec<PathBuf> = own.filter(|it| !user.own.contains(it)).collect();
                user.own.extend(new);
            }
        }
        spec.read.push(root);
    }

    /// Replaces the files that are not of the generation in force, and that of `again` in any case; the
    /// signals that go with them.
    ///
    /// # Errors
    /// A file that could not be replaced; the next call tries again.
    pub(super) fn renew(&mut self, vault: &Vault, again: Option<&str>) -> io::Result<Vec<Signal>> {
        let mut signals = Vec::new();
        let Some(directory) = &self.directory else {
            return Ok(signals);
        };
        for (source, path, held) in files(vault) {
            let laid = self.laid.iter().rev().find(|laid| laid.name == source.name);
            let is_current = laid.is_some_and(|laid| laid.generation == held.generation);
            if held.revoked || (is_current && again != Some(&*source.name)) {
                continue;
            }
            lay(directory, path, held)?;
            if !is_current {
                self.laid.push(Laid::of(source, held));
            }
            if let Inject::File {
                signal: Some(signal),
                ..
            } = source.inject
                && !signals.contains(&signal)
            {
                signals.push(signal);
            }
        }
        Ok(signals)
    }

    /// Every value that the cell may hold.
    pub(super) fn laid(&self) -> &[Laid] {
        &self.laid
    }

    /// When the cell was planned.
    pub(super) fn made(&self) -> Instant {
        self.made
    }

    /// The private directory of the cell.
    pub(super) fn private(&self) -> &Path {
        &self.private
    }

    /// False once the cell is gone, and the directory with it. Its name is never used again.
    pub(super) fn is_there(&self) -> bool {
        self.private.exists()
    }
}

fn lay(shelf: &OwnedFd, path: &Path, held: &Held) -> io::Result<()> {
    let owner = rustix::fs::fstat(shelf)?;
    let give = |to: BorrowedFd<'_>| match rustix::process::geteuid().is_root() {
        true => rustix::fs::fchown(
            to,
            Some(Uid::from_raw(owner.st_uid)),
            Some(Gid::from_raw(owner.st_gid)),
        ),
        false => Ok(()),
    };
    let mut directory = shelf.try_clone()?;
    for part in path.parent().into_iter().flat_map(Path::components) {
        let part = part.as_os_str();
        match rustix::fs::mkdirat(&directory, part, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        directory = open_directory(directory.as_fd(), Path::new(part))?;
        give(directory.as_fd())?;
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match rustix::fs::unlinkat(&directory, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let made = rustix::fs::openat(&directory, NEW, flags | OFlags::CLOEXEC, Mode::RUSR)?;
    let mut file = File::from(made);
    file.write_all(held.secret.expose())?;
    give(file.as_fd())?;
    rustix::fs::renameat(&directory, NEW, &directory, name)?;
    Ok(())
}

/// The command with the paths of files in the place of their names.
pub(super) fn fill(command: &[String], private: &Path, sources: &[Credential]) -> Vec<String> {
    let mut filled = command.to_vec();
    for source in sources {
        let Inject::File { path, .. } = &source.inject else {
            continue;
        };
        let place = format!("{}{}{}", PLACE.0, source.name, PLACE.1);
        let at = private.join(NAME).join(path);
        for word in &mut filled {
            *word = word.replace(&place, &at.to_string_lossy());
        }
    }
    filled
}

fn files(vault: &Vault) -> impl Iterator<Item = (&Credential, &Path, &Held)> {
    vault
        .each()
        .filter_map(|(source, held)| match &source.inject {
            Inject::File { path, .. } => Some((source, path.as_path(), held)),
            Inject::Env { .. } | Inject::Argument { .. } | Inject::Header { .. } => None,
        })
}

fn open_directory(at: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// How many cells hold which value of one credential.
pub(super) fn holders(shelves: &[Shelf], name: &str) -> Vec<Holders> {
    let mut found: Vec<Holders> = Vec::new();
    let all = shelves.iter().flat_map(Shelf::laid);
    for laid in all.filter(|laid| laid.name == name) {
        let known = found
            .iter_mut()
            .find(|it| it.fingerprint == laid.fingerprint);
        match known {
            Some(holders) => holders.servers += 1,
            None => found.push(Holders {
                generation: laid.generation,
                fingerprint: laid.fingerprint.clone(),
                servers: 1,
            }),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn source(name: &str, file: PathBuf, path: &str, signal: Option<Signal>) -> Credential {
        Credential {
            name: name.to_owned(),
            file,
            key: None,
            inject: Inject::File {
                path: path.into(),
                variable: Some("TOKEN_FILE".to_owned()),
                signal,
            },
            environment: None,
            overlap: std::time::Duration::from_secs(60),
            rotate_every: None,
        }
    }

    fn open(sources: &[Credential]) -> Vault {
        use crate::secret::{Key, Orders};
        Vault::open(sources, Key::drawn(), Orders::default(), |_| Some(false), 0).unwrap()
    }

    #[test]
    fn a_new_value_is_another_file_and_the_old_one_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (private, file) = (dir.path().join("p"), dir.path().join("token"));
        std::fs::create_dir(&private).unwrap();
        std::fs::write(&file, "first-value").unwrap();
        let sources = [source("a", file.clone(), "deep/token", Some(Signal::User1))];
        let mut vault = open(&sources);
        let mut shelf = Shelf::make(&private, &vault).unwrap().unwrap();
        let at = private.join("credentials/deep/token");
        assert_eq!(std::fs::read(&at).unwrap(), b"first-value");
        let facts = std::fs::metadata(&at).unwrap();
        assert_eq!(facts.mode() & 0o777, 0o400);
        let around = std::fs::metadata(at.parent().unwrap()).unwrap();
        assert_eq!(around.mode() & 0o777, 0o700);
        assert_eq!(shelf.renew(&vault, None).unwrap(), [], "nothing is new");

        let mut held_open = File::open(&at).unwrap();
        std::fs::write(&file, "second-value").unwrap();
        vault.reread(0);
        assert_eq!(shelf.renew(&vault, None).unwrap(), [Signal::User1]);
        assert_eq!(std::fs::read(&at).unwrap(), b"second-value");
        let mut old = String::new();
        io::Read::read_to_string(&mut held_open, &mut old).unwrap();
        assert_eq!(old, "first-value");
        let names = std::fs::read_dir(at.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");

        assert_eq!(shelf.renew(&vault, Some("a")).unwrap(), [Signal::User1]);
        let generations: Vec<u32> = shelf.laid().iter().map(|it| it.generation).collect();
        assert_eq!(generations, [1, 2], "a process may still hold the first");

        assert!(shelf.is_there());
        std::fs::remove_dir_all(&private).unwrap();
        assert!(!shelf.is_there());
        std::fs::write(&file, "third-value").unwrap();
        vault.reread(0);
        assert!(shelf.renew(&vault, None).is_err());
    }

    #[test]
    fn the_server_is_told_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "some-value").unwrap();
        let sources = [source("a", file, "token", None)];
        let vault = open(&sources);
        let shelf = Shelf::make(dir.path(), &vault).unwrap().unwrap();
        let mut spec = CellSpec {
            user: Some(crate::cell::Account::default()),
            ..CellSpec::default()
        };
        shelf.grant(&vault, &mut spec);
        let root = dir.path().join("credentials");
        let at = root.join("token").to_str().unwrap().to_owned();
        assert_eq!(spec.read, std::slice::from_ref(&root));
        assert_eq!(spec.env, [("TOKEN_FILE".to_owned(), at.clone())]);
        let own = spec.user.unwrap().own;
        assert_eq!(own, [root.clone(), root.join("token")]);
        let words = ["server", "--token={credentials.a}", "{credentials.b}"].map(str::to_owned);
        let filled = fill(&words, dir.path(), &sources);
        assert_eq!(
            filled,
            ["server", &format!("--token={at}"), "{credentials.b}"]
        );
    }
}
