//! Landlock: files, TCP ports and scopes, each right asked for by name and compared with what
//! the kernel granted.

use super::{CellSpec, Layer, sys};
use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Truncation is a write that ABI 1 and 2 do not see: any file of the user could be emptied.
const FILES_FROM: u8 = 3;
/// TCP bind and connect, Linux 6.7.
const NET_FROM: u8 = 4;
/// Signals and abstract sockets, Linux 6.12.
const SCOPES_FROM: u8 = 6;
/// Grants that are held open at most: everybody may have 1,024 descriptors.
const HELD: usize = 512;
/// What reading means.
const READ: BitFlags<AccessFs> = ::landlock::make_bitflags!(AccessFs::{ReadFile | ReadDir});

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

/// Leads whoever opens it to entries of its own.
const OWN: &str = "/proc/self";

/// A rule to be.
#[derive(Debug)]
struct Grant {
    file: OwnedFd,
    access: BitFlags<AccessFs>,
    purpose: Purpose,
}

/// What a grant is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Executing is reading too.
    Read,
    Write,
    Terminal,
}

/// What a spec grants, held open for two rulesets: opening is most of what one costs. Without what is
/// another thing for the process that will be restricted.
#[derive(Debug)]
pub(super) struct Granted {
    grants: Vec<Grant>,
}

/// Granted files and directories.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) read: Vec<OwnedFd>,
    pub(super) write: Vec<OwnedFd>,
}

impl Granted {
    /// `None` when it would hold too much open, for us or under the limit that the server gets.
    ///
    /// # Errors
    /// When a path cannot be opened.
    pub(super) fn open(spec: &CellSpec, abi: u8) -> Result<Option<Self>, LandlockError> {
        let paths = [&spec.read, &spec.execute, &spec.write, &spec.terminals];
        let count: usize = paths.iter().map(|paths| paths.len()).sum();
        let room = spec.open_files.unwrap_or(u64::MAX) / 2;
        if count > HELD || u64::try_from(count).is_ok_and(|count| count > room) {
            return Ok(None);
        }
        let grants: Result<_, _> = opened(spec, abi, |path| !path.starts_with(OWN)).collect();
        grants.map(|grants| Some(Self { grants }))
    }

    /// The files alone, without terminals.
    pub(super) fn files(self) -> Files {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for grant in self.grants {
            match grant.purpose {
                Purpose::Read => read.push(grant.file),
                Purpose::Write => write.push(grant.file),
                Purpose::Terminal => {}
            }
        }
        Files { read, write }
    }

    /// The descriptors that hold it.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.grants.iter().map(|grant| grant.file.as_raw_fd())
    }
}

/// Whether TCP ports are checked. In a network of the cell's own, in which only the relay's sockets
/// lead anywhere, ports could only keep the server from its own loopback.
#[must_use]
pub(super) fn checks_ports(spec: &CellSpec) -> bool {
    !spec.relayed || spec.ports_always
}

/// Restricts this process and all its children to what the spec grants; `held` is that, when it is
/// open already.
///
/// # Errors
/// When a path cannot be opened or the kernel enforces less than it was asked for.
pub(super) fn restrict(
    spec: &CellSpec,
    held: Option<&Granted>,
    abi: u8,
) -> Result<(), LandlockError> {
    enforce(spec, held, &[], abi)
}

/// The same for a process that may read the entries of processes in `/proc` as well.
///
/// # Errors
/// As [`restrict`].
pub(super) fn restrict_around(
    spec: &CellSpec,
    held: Option<&Granted>,
    abi: u8,
) -> Result<(), LandlockError> {
    enforce(spec, held, &[Path::new("/proc")], abi)
}

/// What the spec grants, one by one.
fn opened(
    spec: &CellSpec,
    abi: u8,
    wanted: impl Fn(&Path) -> bool + Copy,
) -> impl Iterator<Item = Result<Grant, LandlockError>> {
    let level = ABI::from(i32::from(abi));
    let device = AccessFs::from_all(level) & (READ | AccessFs::WriteFile | AccessFs::IoctlDev);
    let grants = [
        (&spec.read, READ, Purpose::Read),
        (&spec.execute, READ | AccessFs::Execute, Purpose::Read),
        (&spec.write, READ | written(level), Purpose::Write),
        (&spec.terminals, device, Purpose::Terminal),
    ];
    grants
        .into_iter()
        .flat_map(move |(paths, access, purpose)| {
            let open = move |path: &PathBuf| {
                let pinned = spec.pinned.contains(path);
                open(path, pinned, access, purpose, level)
            };
            paths.iter().filter(move |path| wanted(path)).map(open)
        })
}

/// A plain file takes only the rights that files have.
fn open(
    path: &Path,
    pinned: bool,
    access: BitFlags<AccessFs>,
    purpose: Purpose,
    level: ABI,
) -> Result<Grant, LandlockError> {
    let failed = |error: Errno| LandlockError::Path {
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = if pinned {
        openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    } else {
        openat(CWD, path, flags, Mode::empty())
    };
    let file = file.map_err(failed)?;
    let kind = FileType::from_raw_mode(fstat(&file).map_err(failed)?.st_mode);
    let directory = kind == FileType::Directory;
    let access = if directory {
        access
    } else {
        access & AccessFs::from_file(level)
    };
    Ok(Grant {
        file,
        access,
        purpose,
    })
}

/// Every right of the kernel's own ABI is handled, so all that is not granted is refused; each is a
/// hard requirement, because the crate would otherwise drop what it cannot have without a word.
fn enforce(
    spec: &CellSpec,
    held: Option<&Granted>,
    readable: &[&Path],
    abi: u8,
) -> Result<(), LandlockError> {
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
    let mut allow = |grant: &Grant| -> Result<(), LandlockError> {
        let rule = PathBeneath::new(grant.file.as_fd(), grant.access)
            .set_compatibility(CompatLevel::HardRequirement);
        (&mut created).add_rule(rule).map_err(kernel).map(drop)
    };
    for grant in held.iter().flat_map(|held| &held.grants) {
        allow(grant)?;
    }
    // All of `/proc` holds what is our own.
    let own = readable.is_empty();
    let rest = |path: &Path| held.is_none() || own && path.starts_with(OWN);
    for grant in opened(spec, abi, rest) {
        allow(&grant?)?;
    }
    for path in readable {
        allow(&open(path, false, READ, Purpose::Read, level)?)?;
    }
    if ports {
        for port in &spec.connect_ports {
            let rule = NetPort::new(*port, AccessNet::ConnectTcp);
            created = created.add_rule(rule).map_err(kernel)?;
        }
        for port in &spec.bind_ports {
            let rule = NetPort::new(*port, AccessNet::BindTcp);
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
