//! The pinned real servers and SDK clients, installed from committed lock files.
//!
//! `target/fixtures/npm/node_modules` and `target/fixtures/pypi/bin` hold them, and
//! `target/fixtures/conformance` the public conformance suite and a newer Node.js, on which the MCP
//! Inspector in `target/fixtures/inspector` runs too. A stamp with the digest of the locks and of the
//! runtimes makes a second run instant.

use crate::say::{say, step};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The TypeScript SDK 2.x declares it.
const NODE_MINIMUM: (u32, u32) = (20, 0);
/// The PyPI servers declare it.
const PYTHON_MINIMUM: (u32, u32) = (3, 10);

/// Installs what is missing and returns the directory of the fixtures.
pub(crate) fn set_up(root: &Path) -> Result<PathBuf, String> {
    let locks = root.join("tests/fixtures");
    let home = crate::target_dir(root).join("fixtures");
    let node = runtime(
        "node",
        NODE_MINIMUM,
        "Node.js",
        "the package `nodejs` of your distribution",
    )?;
    let npm = version_line("npm").ok_or("npm is missing; it comes with Node.js (Debian: `npm`)")?;
    let python = runtime(
        "python3",
        PYTHON_MINIMUM,
        "Python",
        "the packages `python3 python3-venv`",
    )?;

    for name in ["npm", "conformance", "inspector"] {
        let files = ["package.json", "package-lock.json"].map(|file| format!("{name}/{file}"));
        let wanted = digest(
            &locks,
            &files.each_ref().map(String::as_str),
            &[&node, &npm],
        )?;
        let stamp = home.join(format!("{name}.stamp"));
        if stale(&stamp, &wanted) {
            install_npm(&locks.join(name), &home.join(name))?;
            write(&stamp, &wanted)?;
        }
    }
    let wanted = digest(&locks, &["pypi/requirements.txt"], &[&python])?;
    if stale(&home.join("pypi.stamp"), &wanted) {
        install_pypi(&locks.join("pypi/requirements.txt"), &home.join("pypi"))?;
        write(&home.join("pypi.stamp"), &wanted)?;
    }
    say!(
        "xtask: fixtures are in {} ({node}, {python})",
        home.display()
    );
    Ok(home)
}

/// Makes a Python environment at `home` and installs exactly the hashed `requirements` into it.
pub(crate) fn install_pypi(requirements: &Path, home: &Path) -> Result<(), String> {
    clear(home)?;
    step(
        "making a Python environment",
        Command::new("python3").arg("-m").arg("venv").arg(home),
    )
    .map_err(|e| format!("{e}\nhint: on Debian the module is in the package python3-venv"))?;
    let mut pip = Command::new(home.join("bin/pip"));
    pip.args(["install", "--require-hashes", "--no-deps", "-r"])
        .arg(requirements);
    step("installing pinned Python packages", &mut pip).map_err(|e| {
        format!("{e}\nhint: this step needs the network, or a pip mirror in pip's own settings")
    })
}

fn install_npm(lock: &Path, home: &Path) -> Result<(), String> {
    clear(home)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(lock.join(file), home.join(file)).map_err(|e| format!("{file}: {e}"))?;
    }
    // Lifecycle scripts stay off: none of the pinned packages needs one.
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(home);
    step("installing pinned npm packages", &mut npm).map_err(|e| {
        format!("{e}\nhint: this step needs the network, or an npm mirror in npm's own settings")
    })
}

fn runtime(program: &str, minimum: (u32, u32), name: &str, get: &str) -> Result<String, String> {
    let (major, minor) = minimum;
    let line = version_line(program)
        .ok_or_else(|| format!("{name} is missing; install {major}.{minor} or newer ({get})"))?;
    let mut numbers = line
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .filter_map(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < minimum {
        return Err(format!(
            "{line} is too old; install {name} {major}.{minor} or newer ({get})"
        ));
    }
    Ok(format!("{name} {}.{}", found.0, found.1))
}

fn version_line(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn digest(locks: &Path, files: &[&str], runtimes: &[&str]) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        let path = locks.join(file);
        std::fs::read(&path)
            .map_err(|e| format!("{}: {e}", path.display()))?
            .hash(&mut hasher);
    }
    runtimes.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

pub(crate) fn stale(stamp: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).ok().as_deref() != Some(wanted)
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Empties `dir`, so that a half-finished installation never counts as one.
fn clear(dir: &Path) -> Result<(), String> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))
}
