//! Socket files to listen on: private, replaced when their owner is gone, removed by somebody else
//! when their owner is caged.

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
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
    let socket = bind_private(path)?;
    listen(&socket, Backlog::MAXCONN)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket that is bound to a file of mode 0600 from the moment that there is one: the file gets the mode
/// of the socket, less the umask (`unix_bind_bsd` of Linux).
fn bind_private(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&made, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(made.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_file_is_never_anybody_else_s() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let bound = bind_private(&path).unwrap();
        assert_eq!(mode(), 0o600, "before anybody can connect");
        drop(bound);
        let listener = listen_unix(&path).unwrap();
        assert_eq!(mode(), 0o600);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
    }
}
