//! What planning asks of the host: variables, the working directory, programs on PATH.

use super::error::PlanError;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Where we were started.
pub(super) struct Host<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<OsString>,
    pub(super) cwd: PathBuf,
}

/// Version managers that put scripts called shims on PATH: `ROOT/shims/NAME` runs
/// `ROOT/versions/VERSION/bin/NAME`. The name of the root's directory, the variable that chooses a
/// version, the file that does.
const SHIMS: [(&str, &str, &str); 3] = [
    (".pyenv", "PYENV_VERSION", ".python-version"),
    (".nodenv", "NODENV_VERSION", ".node-version"),
    (".rbenv", "RBENV_VERSION", ".ruby-version"),
];

/// Directories that hold more than one thing on every host. What lies directly in one of them is
/// granted as a file; so it is in any `bin`.
const SHARED: [&str; 16] = [
    "/tmp",
    "/var/tmp",
    "/dev/shm",
    "/var",
    "/etc",
    "/opt",
    "/srv",
    "/usr",
    "/usr/local",
    "/usr/share",
    "/home",
    "/run",
    "/mnt",
    "/media",
    "/proc",
    "/var/lib",
];

impl Host<'_> {
    /// A variable as text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.env)(name)?.into_string().ok()
    }

    /// The home directory of the operator: the variable, or what the account says.
    pub(super) fn home(&self) -> Option<PathBuf> {
        let account = || {
            Some(
                nix::unistd::User::from_uid(nix::unistd::getuid())
                    .ok()??
                    .dir,
            )
        };
        let home = (self.env)("HOME").map(PathBuf::from).or_else(account);
        home.filter(|home| home.is_absolute() && home.parent().is_some())
    }

    /// Whether a grant of this directory would hold the home directory.
    pub(super) fn holds_home(&self, path: &Path) -> bool {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let homes = self
            .home()
            .into_iter()
            .flat_map(|home| [home.canonicalize().ok(), Some(home)]);
        real.parent().is_none()
            || homes
                .flatten()
                .any(|home| home.starts_with(path) || home.starts_with(&real))
    }

    /// Whether granting this by ourselves would grant far more than one server: the home directory
    /// or anything above it, and the directories that everything shares.
    pub(super) fn too_wide(&self, path: &Path) -> bool {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let shared = SHARED.iter().any(|dir| real == Path::new(dir));
        shared || real.ends_with("bin") || real.ends_with("sbin") || self.holds_home(path)
    }

    /// A program by path or by its name on PATH, with shims resolved to what they would run.
    pub(super) fn find(&self, name: &str) -> Result<PathBuf, PlanError> {
        let missing = || PlanError::NotFound {
            name: name.to_owned(),
        };
        if name.contains('/') {
            let path = absolute(&self.cwd, Path::new(name));
            return match self.behind_shim(&path) {
                Some(real) => real.ok_or_else(missing),
                None => executable(&path).map(|()| path),
            };
        }
        let mut refused = None;
        let list = (self.env)("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        for dir in std::env::split_paths(&list) {
            let path = absolute(&self.cwd, &dir.join(name));
            if !path.is_file() {
                continue;
            }
            match self.behind_shim(&path) {
                Some(Some(real)) => return Ok(real),
                Some(None) => continue,
                None => {}
            }
            match executable(&path) {
                Ok(()) => return Ok(path),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(missing))
    }

    /// `None`: not a shim. `Some(None)`: a shim that stands for the system's own program, or for
    /// none.
    fn behind_shim(&self, path: &Path) -> Option<Option<PathBuf>> {
        let (dir, name) = (path.parent()?, path.file_name()?);
        let root = dir.parent().filter(|_| dir.ends_with("shims"))?;
        let manager = root.file_name()?;
        let (_, variable, file) = SHIMS.iter().find(|(dir, ..)| manager == *dir)?;
        let versions = self
            .text(variable)
            .or_else(|| {
                self.cwd
                    .ancestors()
                    .find_map(|dir| small_file(&dir.join(file)))
            })
            .or_else(|| small_file(&root.join("version")))
            .unwrap_or_default();
        let real = versions
            .split([':', '\n', ' '])
            .map(|version| version.trim().trim_start_matches("python-"))
            // A version is one plain name: nothing in it may lead out of `versions`.
            .filter(|version| {
                Path::new(version)
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)))
                    && !version.is_empty()
            })
            .filter_map(|version| version_dir(root, version))
            .map(|version| version.join("bin").join(name))
            .find(|candidate| executable(candidate).is_ok());
        Some(real)
    }
}

/// `versions/VERSION`, or the newest `versions/VERSION.*` as pyenv reads `3.11`.
fn version_dir(root: &Path, version: &str) -> Option<PathBuf> {
    let exact = root.join("versions").join(version);
    if exact.is_dir() {
        return Some(exact);
    }
    let prefix = format!("{version}.");
    let mut patches: Vec<(u64, PathBuf)> = std::fs::read_dir(root.join("versions"))
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let patch = entry
                .file_name()
                .to_str()?
                .strip_prefix(&prefix)?
                .parse()
                .ok()?;
            Some((patch, entry.path()))
        })
        .collect();
    patches.sort();
    patches.pop().map(|(_, path)| path)
}

/// A file of one short line, as version files are.
fn small_file(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .ok()?
        .take(1024)
        .read_to_string(&mut text)
        .ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Makes a path absolute and takes out `.`.
pub(super) fn absolute(cwd: &Path, path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in cwd.join(path).components() {
        match part {
            Component::CurDir => {}
            // `..` is left to the kernel, for the part before it may be a link.
            other => clean.push(other),
        }
    }
    clean
}

/// Whether we could execute that file.
pub(super) fn executable(path: &Path) -> Result<(), PlanError> {
    let refused = |reason: &str| {
        Err(PlanError::NotExecutable {
            path: path.to_owned(),
            reason: reason.to_owned(),
        })
    };
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            refused("permission denied")
        }
        Err(_) => {
            let name = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            Err(PlanError::NotFound { name })
        }
        Ok(meta) if meta.is_dir() => refused("is a directory"),
        Ok(_) => match nix::unistd::access(path, nix::unistd::AccessFlags::X_OK) {
            Ok(()) => Ok(()),
            Err(_) => refused("permission denied"),
        },
    }
}
