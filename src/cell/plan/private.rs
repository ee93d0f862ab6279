//! The private directory of one cell.

use super::PlanError;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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
