//! The sealed spec comes in over one descriptor, and nothing else stays open.

use super::{CellSpec, spec::SPEC_LIMIT};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use zeroize::Zeroizing;

/// Why a spec is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("the spec is not in a sealed memfd: its content could change while it is read")]
    Unsealed,
    #[error("the spec is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the spec cannot be read: {source}")]
    Read { source: std::io::Error },
    #[error("the spec is not valid: {source}")]
    Parse { source: serde_json::Error },
}

/// Reads a spec whose descriptor carries all four seals.
///
/// # Errors
/// When a seal is missing, or the content is too large, unreadable or not a spec.
pub fn read_spec(fd: OwnedFd) -> Result<CellSpec, SpecError> {
    let wanted = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| SpecError::Unsealed)?;
    if !SealFlag::from_bits_truncate(seals).contains(wanted) {
        return Err(SpecError::Unsealed);
    }
    let mut file = File::from(fd);
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let size = file.metadata().map_or(0, |facts| facts.len());
    let room = usize::try_from(size.min(SPEC_LIMIT)).unwrap_or(0);
    let mut text = Zeroizing::new(Vec::with_capacity(room.saturating_add(1)));
    file.seek(SeekFrom::Start(0))
        .map_err(|source| SpecError::Read { source })?;
    file.take(SPEC_LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(|source| SpecError::Read { source })?;
    if text.len() as u64 > SPEC_LIMIT {
        return Err(SpecError::TooLarge { limit: SPEC_LIMIT });
    }
    serde_json::from_slice(&text).map_err(|source| SpecError::Parse { source })
}

/// Writes a spec into a sealed memfd: what the spawner hands to the launcher.
///
/// # Errors
/// When the kernel refuses the memfd, or a path in the spec is not UTF-8.
pub fn seal_spec(spec: &CellSpec) -> std::io::Result<OwnedFd> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, spec)?;
    let mut text = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *text, spec)?;
    if text.len() as u64 > SPEC_LIMIT {
        return Err(std::io::Error::other(SpecError::TooLarge {
            limit: SPEC_LIMIT,
        }));
    }
    seal("cofferdam-spec", &text)
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Puts bytes where whoever gets the descriptor can read them and nobody can change them; the name is
/// for `/proc`.
///
/// # Errors
/// When the kernel refuses the memfd.
pub fn seal(name: &str, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(memfd_create(name, flags)?);
    std::io::Write::write_all(&mut file, bytes)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_spec_comes_back_whole() {
        let spec = CellSpec {
            program: "/bin/true".into(),
            parent: 7,
            ..CellSpec::default()
        };
        assert_eq!(read_spec(seal_spec(&spec).unwrap()).unwrap(), spec);
    }

    #[test]
    fn what_is_not_sealed_is_not_believed() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"{}").unwrap();
        assert!(matches!(read_spec(file.into()), Err(SpecError::Unsealed)));

        use nix::sys::memfd::{MFdFlags, memfd_create};
        let half = File::from(memfd_create("half", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        fcntl(&half, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(matches!(read_spec(half.into()), Err(SpecError::Unsealed)));
    }
}
