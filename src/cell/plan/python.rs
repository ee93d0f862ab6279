//! Where a Python keeps its libraries: the virtual environment and the installation under it.

use super::host::Host;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Everything to read for a Python binary known by this name, each with the file that says so.
pub(super) fn roots(host: &Host<'_>, python: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    let mut hop = Some(python.to_owned());
    for _ in 0..8 {
        let Some(path) = hop else { break };
        if let Some(prefix) = path.parent().and_then(Path::parent) {
            let marker = prefix.join("pyvenv.cfg");
            if let Some(home) = base(&marker) {
                found.push((prefix.to_owned(), python.to_owned()));
                // Whoever made the environment may be no friend: what it names must be a Python.
                let base = home.parent().map(libraries).unwrap_or_default();
                let base = base.into_iter().filter(|dir| is_library(dir));
                found.extend(base.map(|dir| (dir, marker.clone())));
            }
        }
        hop = path
            .read_link()
            .ok()
            .and_then(|link| Some(path.parent()?.join(link)));
    }
    let real = python.canonicalize().unwrap_or_else(|_| python.to_owned());
    let own = real.parent().and_then(Path::parent).map(libraries);
    let own = own.into_iter().flatten();
    found.extend(own.map(|dir| (dir, python.to_owned())));
    // Debian keeps sitecustomize here, which every start imports.
    let name = real.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') == "python" {
        found.push((Path::new("/etc").join(name), python.to_owned()));
    }
    found.retain(|(path, _)| path.exists() && !host.too_wide(path));
    found
}

/// Whether the directory is `lib` or `lib64` of a Python: one of the two holds its first module.
pub(super) fn is_library(dir: &Path) -> bool {
    let named = |dir: &Path| dir.ends_with("lib") || dir.ends_with("lib64");
    // What the presets grant anyway.
    if [Path::new("/usr/lib"), Path::new("/usr/lib64")].contains(&dir) {
        return true;
    }
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    named(&real) && real.parent().is_some_and(is_installation)
}

/// Whether the file is a program of a Python, which has its libraries beside it.
pub(super) fn is_program(real: &Path) -> bool {
    let dir = real.parent().filter(|dir| dir.ends_with("bin"));
    dir.and_then(Path::parent).is_some_and(is_installation)
}

fn is_installation(prefix: &Path) -> bool {
    let mut entries = libraries(prefix)
        .into_iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .take(4096)
        .flatten();
    entries.any(|entry| entry.path().join("os.py").is_file())
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
        std::fs::create_dir(dir.join("base/lib/python3.11")).unwrap();
        std::fs::write(dir.join("base/lib/python3.11/os.py"), "").unwrap();
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
        let found: Vec<PathBuf> = found.into_iter().map(|(path, _)| path).collect();
        assert!(found.contains(&dir.join("venv")), "{found:?}");
        assert!(found.contains(&dir.join("base/lib")), "{found:?}");
        assert!(!found.contains(&dir.join("base")), "{found:?}");
    }
}
