//! Where a Python keeps its libraries: the virtual environment and the installation under it.

use super::host::Host;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Everything to read for a Python binary known by this name.
pub(super) fn roots(host: &Host<'_>, python: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut hop = Some(python.to_owned());
    for _ in 0..8 {
        let Some(path) = hop else { break };
        if let Some(prefix) = path.parent().and_then(Path::parent) {
            let marker = prefix.join("pyvenv.cfg");
            if let Some(home) = base(&marker) {
                found.push(prefix.to_owned());
                found.extend(home.parent().map(libraries).unwrap_or_default());
            }
        }
        hop = path
            .read_link()
            .ok()
            .and_then(|link| Some(path.parent()?.join(link)));
    }
    let real = python.canonicalize().unwrap_or_else(|_| python.to_owned());
    found.extend(
        real.parent()
            .and_then(Path::parent)
            .map(libraries)
            .unwrap_or_default(),
    );
    // Debian keeps sitecustomize here, which every start imports.
    if let Some(name) = real.file_name() {
        found.push(Path::new("/etc").join(name));
    }
    found.retain(|path| path.exists() && !host.too_wide(path));
    found
}

fn libraries(prefix: &Path) -> Vec<PathBuf> {
    ["lib", "lib64"].map(|dir| prefix.join(dir)).into()
}

/// `home = /usr/bin` of `pyvenv.cfg` (PEP 405); `None` when there is no such file.
fn base(marker: &Path) -> Option<PathBuf> {
    let mut text = String::new();
    std::fs::File::open(marker)
        .ok()?
        .take(16 * 1024)
        .read_to_string(&mut text)
        .ok()?;
    let home = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "home").then(|| PathBuf::from(value.trim()))
    });
    Some(home.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_environment_brings_its_base() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for path in ["venv/bin", "venv/lib", "base/bin", "base/lib"] {
            std::fs::create_dir_all(dir.join(path)).unwrap();
        }
        std::fs::write(dir.join("base/bin/python3.11"), "").unwrap();
        std::os::unix::fs::symlink(dir.join("base/bin/python3.11"), dir.join("venv/bin/python"))
            .unwrap();
        let home = format!(
            "home = {}\nversion = 3.11\n",
            dir.join("base/bin").display()
        );
        std::fs::write(dir.join("venv/pyvenv.cfg"), home).unwrap();
        let env = |_: &str| None;
        let host = Host {
            env: &env,
            cwd: dir.clone(),
        };
        let found = roots(&host, &dir.join("venv/bin/python"));
        assert!(found.contains(&dir.join("venv")), "{found:?}");
        assert!(found.contains(&dir.join("base/lib")), "{found:?}");
        assert!(!found.contains(&dir.join("base")), "{found:?}");
    }
}
