//! Listening: bound before the process gives up the power to, accepting afterwards.

use crate::config::AdminAddr;
use crate::transport::socket::listen_unix;
use nix::sys::socket::sockopt::{KeepAlive, PeerCredentials, TcpNoDelay};
use nix::sys::socket::{getsockopt, setsockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixListener;
use tokio::net::{TcpStream, UnixStream};

/// A socket that is bound and listens.
#[derive(Debug)]
pub struct Bound {
    /// What it listens on, with the port that the kernel chose for port 0.
    pub address: AdminAddr,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// Who is at the other end of a connection, as far as the kernel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Of a TCP connection.
    pub address: Option<SocketAddr>,
    /// Of a connection to a socket file.
    pub unix: Option<UnixPeer>,
}

/// The process that connected to a socket file, as it was then (unix(7), `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A bound socket inside of a runtime.
#[derive(Debug)]
pub enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Bound {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub fn listen(address: &AdminAddr) -> io::Result<Self> {
        match address {
            AdminAddr::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                // Connections inherit both from here (tcp(7)), and none can be set once we are caged.
                setsockopt(&listener, TcpNoDelay, &true)?;
                setsockopt(&listener, KeepAlive, &true)?;
                let address = AdminAddr::Tcp(listener.local_addr()?);
                Ok(Self {
                    address,
                    socket: Socket::Tcp(listener),
                })
            }
            AdminAddr::Unix(path) => {
                let socket = Socket::Unix(listen_unix(path)?);
                Ok(Self {
                    address: address.clone(),
                    socket,
                })
            }
        }
    }

    /// Hands the socket to the runtime that this is called in.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn open(self) -> io::Result<Listener> {
        match self.socket {
            Socket::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Listener::Tcp),
            Socket::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Listener::Unix),
        }
    }
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// Those of `accept(2)`: of one connection, or no descriptors left.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((
                    Stream::Tcp(stream),
                    Peer {
                        address: Some(address),
                        unix: None,
                    },
                ))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let found = getsockopt(&stream, PeerCredentials)?;
                let unix = UnixPeer {
                    uid: found.uid(),
                    gid: found.gid(),
                    pid: found.pid(),
                };
                Ok((
                    Stream::Unix(stream),
                    Peer {
                        address: None,
                        unix: Some(unix),
                    },
                ))
            }
        }
    }
}

/// True for `localhost` and addresses, with or without a port: names that no page in somebody's
/// browser can have (DNS rebinding needs a name that its owner controls).
#[must_use]
pub fn local_name(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
        _ => authority,
    };
    if let Some(inner) = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return inner
            .parse::<std::net::Ipv6Addr>()
            .is_ok_and(|ip| ip.is_loopback());
    }
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_local() {
        for (name, local) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("127.0.0.1:1", true),
            ("[::1]:80", true),
            ("[::1]", true),
            ("evil.example", false),
            ("localhost.evil.example:80", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1:80", false),
            ("localhost:", false),
            ("localhost:80x", false),
            ("user@localhost", false),
            ("", false),
        ] {
            assert_eq!(local_name(name), local, "{name}");
        }
    }
}
