//! Tries a few forbidden acts just before the server runs: claims become facts.

use super::egress::TRIED;
use super::report::{Layer, LayerReport, LayerState};
use super::seccomp::Network;
use super::{CellSpec, sys};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, listen, socket};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{getpid, getppid};
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};

/// Every act must fail, with the error of the layer that forbids it.
///
/// # Errors
/// One sentence that names the first act that did not.
pub(super) fn testify(
    spec: &CellSpec,
    network: Network,
    report: &LayerReport,
) -> Result<(), String> {
    let enforced = |layer| report.layers.contains(&(layer, LayerState::Enforced));
    let own_tree = enforced(Layer::Namespaces);
    if enforced(Layer::Landlock) {
        if own_tree {
            root(spec)?;
        } else {
            canary(spec)?;
        }
    }
    if own_tree {
        alone(spec)?;
    }
    if enforced(Layer::NamespaceNet) {
        unconnected()?;
    }
    if enforced(Layer::LandlockScopes) && getppid().as_raw() > 0 {
        refused(
            "a signal to the process outside",
            kill(getppid(), None),
            Errno::EPERM,
        )?;
    }
    if enforced(Layer::Seccomp) {
        let stream = |family| socket(family, SockType::Stream, SockFlag::empty(), None).map(drop);
        refused("a unix socket", stream(AddressFamily::Unix), Errno::EACCES)?;
        if network == Network::Off {
            refused("an IP socket", stream(AddressFamily::Inet), Errno::EACCES)?;
        }
        refused("being traced", ptrace::traceme(), Errno::EPERM)?;
        refused(
            "a user namespace",
            unshare(CloneFlags::CLONE_NEWUSER),
            Errno::EPERM,
        )?;
        refused("an io_uring", Err(sys::try_io_uring()), Errno::ENOSYS)?;
    }
    if enforced(Layer::Supervision) {
        supervised(spec)?;
    }
    if let Some(serves) = spec.serves
        && (enforced(Layer::LandlockNet) || enforced(Layer::Supervision))
    {
        elsewhere(serves.port, enforced(Layer::Supervision))?;
    }
    // Port 1 of loopback; landlock answers before a packet is sent.
    // Where connections are made for the server, whoever makes them answers.
    let supervised = spec.serves.is_some() && enforced(Layer::Supervision);
    let checked = enforced(Layer::LandlockNet) || spec.by_name || supervised;
    if checked && network != Network::Off && !spec.connect_ports.contains(&TRIED.port()) {
        let connected = std::net::TcpStream::connect(TRIED).map(drop);
        let connected = connected.map_err(|error| errno(&error));
        refused(
            "a connection to a port that is not granted",
            connected,
            Errno::EACCES,
        )?;
    }
    Ok(())
}

/// A server that listens has one port: no other can be bound, and where the network is the host's none is
/// got by listening.
fn elsewhere(port: u16, supervised: bool) -> Result<(), String> {
    let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let made = socket(AddressFamily::Inet, kind, flags, None);
    let made = made.map_err(|error| format!("a TCP socket: {}", error.desc()))?;
    // One that needs no privilege, so that it is landlock that says no; the supervisor knows what we try.
    let near = if port == u16::MAX { port - 1 } else { port + 1 };
    let other = if supervised { TRIED.port() } else { near };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, other));
    let bound = rustix::net::bind(&made, &address);
    let bound = bound.map_err(|error| Errno::from_raw(error.raw_os_error()));
    refused("binding a port that is not its own", bound, Errno::EACCES)?;
    if supervised {
        let heard = Backlog::new(1).and_then(|backlog| listen(&made, backlog));
        refused("listening without a port", heard, Errno::EACCES)?;
    }
    Ok(())
}

/// The planted file is ours, and neither its mode nor its times can be changed.
fn supervised(spec: &CellSpec) -> Result<(), String> {
    let Some(path) = &spec.canary else {
        return Ok(());
    };
    let shown = path.display();
    let mode = Mode::from_bits_truncate(0o600);
    let changed = fchmodat(AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink);
    refused(
        &format!("changing the mode of {shown}"),
        changed,
        Errno::EPERM,
    )?;
    let now = TimeSpec::UTIME_NOW;
    let touched = utimensat(AT_FDCWD, path, &now, &now, UtimensatFlags::FollowSymlink);
    refused(
        &format!("changing the times of {shown}"),
        touched,
        Errno::EPERM,
    )
}

/// In a tree of its own the planted file is not even there, and the processes around the server
/// have no entry in `/proc`: neither pid 1, nor any number but those of the cell.
fn alone(spec: &CellSpec) -> Result<(), String> {
    try_canary(spec, Errno::ENOENT)?;
    let asked = |path: &str| std::fs::metadata(path).map(drop).map_err(|e| errno(&e));
    refused("finding pid 1", asked("/proc/1"), Errno::ENOENT)?;
    if getppid().as_raw() == 1 && getpid().as_raw() == 2 {
        return Ok(());
    }
    Err("the cell was tried and the server is not the first process of its own".to_owned())
}

/// The network has no device but loopback, and no route.
fn unconnected() -> Result<(), String> {
    let lines = |path: &str| -> Result<Vec<String>, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(text.lines().map(|line| line.trim().to_owned()).collect())
    };
    let mut devices = lines("/proc/self/net/dev")?.into_iter().skip(2);
    let routes = lines("/proc/self/net/route")?.into_iter().skip(1);
    if devices.all(|device| device.starts_with("lo:")) && routes.count() == 0 {
        return Ok(());
    }
    Err("the cell was tried and its network has a way out: it does not hold".to_owned())
}

/// The planted file can neither be read nor written.
fn canary(spec: &CellSpec) -> Result<(), String> {
    if spec.canary.is_none() {
        return root(spec);
    }
    try_canary(spec, Errno::EACCES)
}

fn try_canary(spec: &CellSpec, expected: Errno) -> Result<(), String> {
    let Some(path) = &spec.canary else {
        return Ok(());
    };
    for (act, write) in [("reading", false), ("writing", true)] {
        let opened = OpenOptions::new().read(!write).write(write).open(path);
        let opened = opened.map(drop).map_err(|error| errno(&error));
        refused(&format!("{act} {}", path.display()), opened, expected)?;
    }
    Ok(())
}

/// Without a canary: the root directory cannot be listed, unless it is granted.
fn root(spec: &CellSpec) -> Result<(), String> {
    let root = std::path::Path::new("/");
    let grants = [&spec.read, &spec.write, &spec.execute]
        .into_iter()
        .flatten();
    if grants
        .filter_map(|path| path.canonicalize().ok())
        .any(|path| path == root)
    {
        return Ok(());
    }
    let listed = std::fs::read_dir(root)
        .map(drop)
        .map_err(|error| errno(&error));
    refused("listing /", listed, Errno::EACCES)
}

fn errno(error: &std::io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

fn refused(act: &str, done: Result<(), Errno>, expected: Errno) -> Result<(), String> {
    match done {
        Err(error) if error == expected => Ok(()),
        Err(error) => Err(format!(
            "the cell was tried and {act} failed with {error}, not {expected}"
        )),
        Ok(()) => Err(format!(
            "the cell was tried and {act} worked: it does not hold"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_a_cell_the_witness_objects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("canary");
        std::fs::write(&path, "x").unwrap();
        let spec = CellSpec {
            canary: Some(path),
            ..CellSpec::default()
        };
        for layer in [
            Layer::Landlock,
            Layer::LandlockScopes,
            Layer::Seccomp,
            Layer::Namespaces,
        ] {
            let layers = vec![(layer, LayerState::Enforced)];
            let report = LayerReport {
                landlock_abi: 6,
                layers,
                ..LayerReport::default()
            };
            let objection = testify(&spec, Network::Off, &report).unwrap_err();
            assert!(objection.contains("does not hold"), "{objection}");
        }
    }
}
