//! What can go wrong between the command line and an installed package, and the exit code of each.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a package could not be prepared. The text is one sentence; [`PackageError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The command line asks for something that cannot be installed apart from running it.
    #[error("{tool}: {what} is not supported")]
    Unsupported {
        tool: String,
        what: String,
        hint: String,
    },
    /// The command line names no package.
    #[error("{tool}: no package is named")]
    NoPackage { tool: String },
    /// node, npm, python, pip, venv or uv is not there.
    #[error("{what} was not found")]
    MissingTool { what: String, hint: String },
    /// The registry did not answer, and nothing that is installed would do.
    #[error("{package} is not installed and the registry cannot be reached")]
    Unreachable { package: String, said: String },
    /// The installer ended with an error of its own: unknown package, no wheel, no space.
    #[error("{package} could not be installed: {said}")]
    Refuse {
        package: String,
        said: String,
        hint: String,
    },
    /// The install cell was ended because it took too long.
    #[error("{package} was not installed within {} s", limit.as_secs())]
    TimeOut { package: String, limit: Duration },
    /// Another start holds the lock of this package and did not end.
    #[error("another start has been installing {package} for {} s", waited.as_secs())]
    Busy { package: String, waited: Duration },
    /// The package has no program of the wanted name.
    #[error("{package} has no program named {wanted:?}; it has: {}", list(offered))]
    NoProgram {
        package: String,
        wanted: String,
        offered: Vec<String>,
    },
    /// A file of the installed package is not what was installed.
    #[error("{package} in the cache is not what was installed: {change}")]
    Tampered {
        package: String,
        change: String,
        record: PathBuf,
    },
    /// What the installer left behind cannot be sealed.
    #[error("{package} cannot be sealed: {what}")]
    Unsealable { package: String, what: String },
    /// The cell of the server may write to the cache, so a digest in it proves nothing.
    #[error("the server may write {}, which holds the package cache {}", granted.display(), cache.display())]
    Exposed { granted: PathBuf, cache: PathBuf },
    /// The install cell could not be started.
    #[error("the install cell could not be started: {source}")]
    Cell { source: io::Error },
    /// The cache itself failed.
    #[error("{}: {source}", path.display())]
    Cache { path: PathBuf, source: io::Error },
}

impl PackageError {
    /// The exit code of `cofferdam` (sysexits.h and the shell's 127).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unsupported { .. } | Self::NoPackage { .. } => 64,
            Self::Unreachable { .. } | Self::Refuse { .. } => 69,
            Self::TimeOut { .. } | Self::Busy { .. } => 75,
            Self::Tampered { .. } | Self::Unsealable { .. } | Self::Cell { .. } => 77,
            Self::Exposed { .. } => 78,
            Self::Cache { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory => 78,
                _ => 75,
            },
            Self::MissingTool { .. } | Self::NoProgram { .. } => 127,
        }
    }

    /// What the operator can do about it; empty when the sentence says it all.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unsupported { hint, .. } | Self::MissingTool { hint, .. } => hint.clone(),
            Self::NoPackage { .. } => "name it as in `npx -y PACKAGE`".to_owned(),
            Self::Unreachable { said, .. } => {
                format!("start it once with the network there, then it starts without; {said}")
            }
            Self::Refuse { hint, .. } => hint.clone(),
            Self::TimeOut { .. } => "start it again; nothing was kept".to_owned(),
            Self::Busy { .. } => "start it again when the other one has ended".to_owned(),
            Self::NoProgram { .. } => {
                "name the package and the program apart: `npx -p PACKAGE PROGRAM`, `uvx --from PACKAGE PROGRAM`"
                    .to_owned()
            }
            Self::Tampered { record, .. } => format!(
                "find out who changed it; to install it anew remove {}",
                record.display()
            ),
            Self::Unsealable { .. } => "do not run this package".to_owned(),
            Self::Exposed { .. } => {
                "grant less, or set packages.cache to a place outside of it".to_owned()
            }
            Self::Cell { .. } => "`cofferdam doctor` says what this host can enforce".to_owned(),
            Self::Cache { .. } => "packages.cache says where packages are installed".to_owned(),
        }
    }

    /// An error of the cache at `path`.
    pub(super) fn cache(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Cache {
            path: path.into(),
            source,
        }
    }

    /// An older copy will do: the registry could not be asked, nothing is wrong with the package.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::TimeOut { .. } | Self::Busy { .. }
        )
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
