//! Socket files to listen on: private, replaced when their owner is gone, removed by somebody else
//! when their owner is caged.

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Removes the socket file at `path` if the process `owner` listens on it, which cannot do it by
/// itself once it is caged. One that is left by an owner who died is replaced by the next listener.
pub fn remove_socket(path: &Path, owner: i32) {
    let listens = || -> nix::Result<i32> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let asked = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(asked.as_raw_fd(), &UnixAddr::new(path)?)?;
        // The credentials are those from when the other side began to listen (unix(7)).
        Ok(getsockopt(&asked, PeerCredentials)?.pid())
    };
    if listens() == Ok(owner) {
        // Gone already is as good.
        drop(fs::remove_file(path));
    }
}

/// Listens on a socket file of mode 0600. One that nobody answers on is left over from a killed run
/// and is replaced.
///
/// # Errors
/// When the path is in use, or cannot be made.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        fs::remove_file(path)?;
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
