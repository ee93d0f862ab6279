//! Landlock: files, TCP ports and scopes, each right asked for by name and compared with what
//! the kernel granted.

use super::{CellSpec, Layer, sys};
use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::path::Path;

/// Truncation is a write that ABI 1 and 2 do not see: any file of the user could be emptied.
const FILES_FROM: u8 = 3;
/// TCP bind and connect, Linux 6.7.
const NET_FROM: u8 = 4;
/// Signals and abstract sockets, Linux 6.12.
const SCOPES_FROM: u8 = 6;

/// Why the process could not be restricted.
#[derive(Debug, thiserror::Error)]
pub(super) enum LandlockError {
    #[error("cannot open {path} to grant it: {reason}")]
    Path { path: String, reason: String },
    #[error("landlock: {reason}")]
    Kernel { reason: String },
    #[error("landlock did not enforce all that was asked: {status}")]
    Partial { status: String },
}

/// What the kernel offers of the three layers that landlock carries.
#[must_use]
pub(super) fn missing(abi: u8) -> Vec<(Layer, String)> {
    let needs = [
        (Layer::Landlock, FILES_FROM, "6.2"),
        (Layer::LandlockNet, NET_FROM, "6.7"),
        (Layer::LandlockScopes, SCOPES_FROM, "6.12"),
    ];
    let lacks = |from: u8, linux: &str| match abi {
        0 => "the kernel has landlock switched off or none at all".to_owned(),
        _ => format!("the kernel has landlock ABI {abi}, this needs {from} (Linux {linux})"),
    };
    needs
        .into_iter()
        .filter(|(_, from, _)| abi < *from)
        .map(|(layer, from, linux)| (layer, lacks(from, linux)))
        .collect()
}

/// The ABI of the kernel; 0 when it has none.
#[must_use]
pub(super) fn kernel_abi() -> u8 {
    sys::landlock_abi().unwrap_or(0)
}

/// Whether TCP ports are checked. In a network of the cell's own, in which only the relay's sockets
/// lead anywhere, ports could only keep the server from its own loopback.
#[must_use]
pub(super) fn checks_ports(spec: &CellSpec) -> bool {
    !spec.relayed || spec.ports_always
}

/// Restricts this process and all its children to what the spec grants.
///
/// Every right of the kernel's own ABI is handled, so all that is not granted is refused; each is a
/// hard requirement, because the crate would otherwise drop what it cannot have without a word.
///
/// # Errors
/// When a path cannot be opened or the kernel enforces less than it was asked for.
pub(super) fn restrict(spec: &CellSpec, abi: u8) -> Result<(), LandlockError> {
    let kernel = |error: ::landlock::RulesetError| LandlockError::Kernel {
        reason: error.to_string(),
    };
    let level = ABI::from(i32::from(abi));
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(level))
        .map_err(kernel)?;
    let ports = abi >= NET_FROM && checks_ports(spec);
    if ports {
        ruleset = ruleset
            .handle_access(AccessNet::from_all(level))
            .map_err(kernel)?;
    }
    if abi >= SCOPES_FROM {
        ruleset = ruleset.scope(Scope::from_all(level)).map_err(kernel)?;
    }
    let mut created = ruleset.create().map_err(kernel)?;

    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let grants = [
        (&spec.read, read),
        (&spec.execute, read | AccessFs::Execute),
        (&spec.write, read | written(level)),
    ];
    for (paths, access) in grants {
        for path in paths {
            created = created
                .add_rule(beneath(path, access, level)?)
                .map_err(kernel)?;
        }
    }
    let device = AccessFs::from_all(level) & (read | AccessFs::WriteFile | AccessFs::IoctlDev);
    for path in &spec.terminals {
        created = created
            .add_rule(beneath(path, device, level)?)
            .map_err(kernel)?;
    }
    if ports {
        for port in &spec.connect_ports {
            let rule = NetPort::new(*port, AccessNet::ConnectTcp);
            created = created.add_rule(rule).map_err(kernel)?;
        }
    }
    let status = created.restrict_self().map_err(kernel)?;
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(LandlockError::Partial {
            status: format!("{status:?}"),
        });
    }
    Ok(())
}

/// What writing means: contents, names and links, but neither devices nor sockets, and no `ioctl`.
fn written(level: ABI) -> BitFlags<AccessFs> {
    let all = AccessFs::WriteFile
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeFifo
        | AccessFs::MakeSym
        | AccessFs::Refer
        | AccessFs::Truncate;
    all & AccessFs::from_all(level)
}

/// A rule for one path; a plain file takes only the rights that files have.
fn beneath(
    path: &Path,
    access: BitFlags<AccessFs>,
    level: ABI,
) -> Result<PathBeneath<PathFd>, LandlockError> {
    let failed = |reason: String| LandlockError::Path {
        path: path.display().to_string(),
        reason,
    };
    let fd = PathFd::new(path).map_err(|error| failed(error.to_string()))?;
    let kind = nix::sys::stat::fstat(&fd)
        .map_err(|error| failed(error.to_string()))?
        .st_mode;
    let directory = kind & libc::S_IFMT == libc::S_IFDIR;
    let access = if directory {
        access
    } else {
        access & AccessFs::from_file(level)
    };
    Ok(PathBeneath::new(fd, access).set_compatibility(CompatLevel::HardRequirement))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_abi_lacks_what_came_later() {
        let layers = |abi| {
            missing(abi)
                .into_iter()
                .map(|(layer, _)| layer)
                .collect::<Vec<_>>()
        };
        let all = [Layer::Landlock, Layer::LandlockNet, Layer::LandlockScopes];
        assert_eq!(layers(0), all);
        assert_eq!(layers(2), all);
        assert_eq!(layers(3), [Layer::LandlockNet, Layer::LandlockScopes]);
        assert_eq!(layers(5), [Layer::LandlockScopes]);
        assert_eq!(layers(6), []);
        assert_eq!(layers(200), []);
    }

    #[test]
    fn writing_never_means_devices_sockets_or_execution() {
        let rights = written(ABI::V9);
        for refused in [
            AccessFs::Execute,
            AccessFs::MakeChar,
            AccessFs::MakeBlock,
            AccessFs::MakeSock,
            AccessFs::IoctlDev,
            AccessFs::ResolveUnix,
        ] {
            assert!(!rights.contains(refused), "{refused:?}");
        }
    }
}
