//! The private directory of one cell.

use super::PlanError;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The server's own directories, inside the one that the caller made.
pub(super) struct Private {
    pub(super) home: PathBuf,
    pub(super) tmp: PathBuf,
    pub(super) run: PathBuf,
    pub(super) canary: PathBuf,
}

impl Private {
    pub(super) fn make(tmp: &Path) -> Result<Self, PlanError> {
        let [home, temporary, run] = ["home", "tmp", "run"].map(|name| tmp.join(name));
        for path in [&home, &temporary, &run] {
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path);
            made.map_err(|source| PlanError::Private {
                path: path.clone(),
                source,
            })?;
        }
        let canary = tmp.join("canary");
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&canary);
        made.map_err(|source| PlanError::Private {
            path: canary.clone(),
            source,
        })?;
        Ok(Self {
            home,
            tmp: temporary,
            run,
            canary,
        })
    }

    /// A file beside the server's directories, which whoever gets it may read.
    pub(super) fn file(&self, name: &OsStr, text: &str) -> Result<PathBuf, PlanError> {
        let path = self.canary.with_file_name(name);
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                // Whatever the umask says.
                file.set_permissions(Permissions::from_mode(0o644))
            });
        match made {
            Ok(()) => Ok(path),
            Err(source) => Err(PlanError::Private { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_look_inside() {
        let tmp = tempfile::tempdir().unwrap();
        let private = Private::make(tmp.path()).unwrap();
        for path in [&private.home, &private.tmp, &private.run] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(
            private.canary.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
        Private::make(tmp.path()).unwrap();
        let nowhere = Private::make(Path::new("/proc/nowhere"));
        assert!(matches!(nowhere, Err(PlanError::Private { .. })));
    }
}
