//! The parts that every install cell shares: finding programs, and what the system must give.

use super::Setup;
use super::cache::Staging;
use super::settings::Settings;
use crate::cell::CellSpec;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Data segment of an installer: npm takes 0.5 GiB for the largest known server.
const MEMORY: u64 = 4 * 1024 * 1024 * 1024;

/// The largest file of a package, and how many files npm may have open while it unpacks.
const FILE: u64 = 2 * 1024 * 1024 * 1024;
const OPEN_FILES: u64 = 16 * 1024;

/// Programs, libraries and the loader. Nothing of a user is in them.
const SYSTEM: &[&str] = &[
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
];

/// Name resolution, certificates, time zones; how many processors and how much memory there is.
const SYSTEM_READ: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/share/python-wheels",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
];

/// Build tools, only where the operator lets scripts run.
const SYSTEM_SCRIPTS: &[&str] = &[
    "/bin",
    "/usr/bin",
    "/usr/local/bin",
    "/usr/libexec",
    "/usr/include",
];

/// A cell with the system's libraries, the network settings and `staging` as the only place to
/// write. What the installer itself needs is added by the caller.
pub(super) fn system_cell(setup: &Setup<'_>, staging: &Staging, settings: &Settings) -> CellSpec {
    let private = staging.private();
    let there = |paths: &[&str]| -> Vec<PathBuf> {
        paths
            .iter()
            .map(PathBuf::from)
            .filter(|path| path.exists())
            .collect()
    };
    let mut execute = there(SYSTEM);
    let mut env: BTreeMap<String, String> = settings.env.clone();
    for (name, value) in [
        ("HOME", private.join("home")),
        ("TMPDIR", private.join("tmp")),
        ("XDG_CACHE_HOME", private.join("home/.cache")),
        ("XDG_CONFIG_HOME", private.join("home/.config")),
    ] {
        env.insert(name.to_owned(), value.display().to_string());
    }
    env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
    env.insert("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
    env.insert("NO_COLOR".to_owned(), "1".to_owned());
    if setup.packages.scripts {
        execute.extend(there(SYSTEM_SCRIPTS));
        execute.push(staging.root().to_owned());
    }
    let mut read = there(SYSTEM_READ);
    read.extend(release_files());
    // `/etc/resolv.conf` is often a link into `/run`; landlock looks at what it points to.
    read.extend(real(Path::new("/etc/resolv.conf")));
    read.extend(settings.read.iter().filter(|path| path.exists()).cloned());
    let mut write = vec![staging.root().to_owned()];
    write.extend(there(&["/dev/null"]));
    CellSpec {
        program: PathBuf::new(),
        args: Vec::new(),
        env: env.into_iter().collect(),
        cwd: staging.tree().to_owned(),
        read,
        write,
        execute,
        connect_ports: settings.ports.clone(),
        datagrams: true,
        memory: Some(MEMORY),
        // Counted for the whole user, so any number would be wrong on a busy desktop.
        processes: None,
        file_size: Some(FILE),
        open_files: Some(OPEN_FILES),
        optional: setup.optional.to_vec(),
        ..CellSpec::default()
    }
}

/// `/etc/debian_version`, `/etc/fedora-release`: pip tells the index which system it runs on, and
/// fails when such a file is there and cannot be opened.
fn release_files() -> Vec<PathBuf> {
    let items = fs::read_dir("/etc").into_iter().flatten().flatten();
    let names = items.filter(|item| {
        let name = item.file_name();
        let name = name.to_str().unwrap_or_default();
        name.ends_with("-release") || name.ends_with("_version") || name.ends_with("-version")
    });
    names
        .map(|item| item.path())
        .filter(|path| path.is_file())
        .collect()
}

/// The program that a shell would start for `name`.
pub(super) fn find_program(name: &str, env: &BTreeMap<String, String>) -> Option<PathBuf> {
    find_all(name, env).next()
}

/// Every program of that name on PATH.
pub(super) fn find_all(
    name: &str,
    env: &BTreeMap<String, String>,
) -> impl Iterator<Item = PathBuf> {
    let path = env
        .get("PATH")
        .map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    let candidates: Vec<PathBuf> = if name.contains('/') {
        Vec::new()
    } else {
        path.split(':')
            .filter(|dir| dir.starts_with('/'))
            .map(|dir| Path::new(dir).join(name))
            .collect()
    };
    candidates.into_iter().filter(|path| {
        fs::metadata(path)
            .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    })
}

/// The path behind all links.
pub(super) fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// Starts with `#!`.
pub(super) fn is_script(path: &Path) -> bool {
    use std::io::Read as _;
    let mut head = [0; 2];
    fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut head).is_ok()) && head == *b"#!"
}
