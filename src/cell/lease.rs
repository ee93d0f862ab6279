//! Whether somebody has a file open to write: what it holds may be half of what it will hold.

use super::sys;
use nix::errno::Errno;
use nix::sys::statfs::{self, FsType, fstatfs};
use std::fs::File;
use std::os::fd::AsFd;

/// The second name of SMB in `linux/magic.h`, and that of CIFS; nix has the first alone.
const SMB2: u32 = 0xfe53_4d42;
const CIFS: u32 = 0xff53_4d42;

/// Asks the kernel whether anybody has this file open to write; `None` where it does not say: the
/// file is somebody else's and we may not lease it (`CAP_LEASE`), or its file system has no leases
/// or its writers on other hosts.
///
/// Until the file is closed, whoever opens it to write waits: what is read now is of one piece.
#[must_use]
pub fn is_being_written(file: &File) -> Option<bool> {
    match sys::lease(file.as_fd()) {
        Ok(()) => Some(false),
        // NFS and SMB say the same when the server gives no lease.
        Err(Errno::EAGAIN) => (!is_elsewhere(file)?).then_some(true),
        Err(_) => None,
    }
}

fn is_elsewhere(file: &File) -> Option<bool> {
    let FsType(found) = fstatfs(file).ok()?.filesystem_type();
    let of_nix = [statfs::NFS_SUPER_MAGIC, statfs::SMB_SUPER_MAGIC];
    let named = of_nix.iter().any(|FsType(known)| *known == found);
    // The width of the number differs by architecture.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "32 bits of it count"
    )]
    let found = found as u32;
    Some(named || found == SMB2 || found == CIFS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_being_written_until_its_last_writer_closes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"half").unwrap();
        let asked = || is_being_written(&File::open(&path).unwrap());
        assert_eq!(asked(), Some(true));
        let second = writer.try_clone().unwrap();
        drop(writer);
        assert_eq!(asked(), Some(true));
        drop(second);
        assert_eq!(asked(), Some(false));
    }

    #[test]
    fn a_writer_waits_for_the_reader_and_ends_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one").unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(is_being_written(&reader), Some(false));
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "two")
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert!(!writer.is_finished());
        drop(reader);
        writer.join().unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
    }
}
