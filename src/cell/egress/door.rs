//! The way to a server on HTTP in its cell: a SOCK_SEQPACKET pair between `__dial`, which connects, and
//! whoever stands in the cell.
//!
//! ```text
//! a network of the cell's own:  pid 1 ── I ──▶ __dial      sockets are made inside, on demand
//!                                     ◀── 4, 6 ──          of IPv4 or IPv6
//!                                     ── S, a socket; or F ──▶ connects it, from outside
//! the host's network:     supervisor ── L, an address ──▶  the server listens there
//! ```
//! A socket stays in the network that it was made in, so a connection made with it from outside ends
//! inside. On the floor `__dial` connects to no address that the supervisor has not named: what else
//! listens on this host cannot put itself in the server's place.

use super::floor;
use nix::errno::Errno as NixErrno;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, ipproto, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The cell has a network of its own.
const INSIDE: u8 = b'I';
/// The server listens.
const LISTENS: u8 = b'L';
/// What is asked for: a socket of that family.
const FOUR: u8 = b'4';
const SIX: u8 = b'6';
/// What is answered.
const SOCKET: u8 = b'S';
const FAILED: u8 = b'F';
/// Addresses that a server may listen on; more are not heard of.
const ADDRESSES: usize = 8;
/// For pid 1, which does nothing else.
const PATIENCE: Duration = Duration::from_secs(2);

/// The ways out of a cell that its launcher was given.
#[derive(Debug, Default)]
pub(in crate::cell) struct Ways {
    /// Where the sockets of its network are handed out.
    pub(in crate::cell) egress: Option<OwnedFd>,
    /// Where the server in it is asked for.
    pub(in crate::cell) door: Option<Door>,
}

/// The end in the cell.
#[derive(Debug)]
pub(in crate::cell) struct Door(OwnedFd);

impl Door {
    pub(in crate::cell) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Says that sockets are made here.
    ///
    /// # Errors
    /// Nobody hears it.
    pub(in crate::cell) fn is_inside(&self) -> io::Result<()> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(&self.0, &[INSIDE], flags)?;
        Ok(())
    }

    /// Makes the socket that is asked for and hands it out; false when nobody will ask again. Whoever asks
    /// cannot say where to it will be connected, nor make it anything but TCP.
    pub(in crate::cell) fn attend(&self) -> bool {
        let mut word = [0; 2];
        let asked = rustix::net::recv(&self.0, &mut word[..], RecvFlags::DONTWAIT);
        let family = match (asked, word) {
            (Ok((_, 1)), [FOUR, _]) => AddressFamily::INET,
            (Ok((_, 1)), [SIX, _]) => AddressFamily::INET6,
            (Err(Errno::AGAIN | Errno::INTR), _) => return true,
            _ => return false,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::STREAM;
        let made = rustix::net::socket_with(family, kind, flags, Some(ipproto::TCP));
        let fds = made.as_ref().map(|socket| [socket.as_fd()]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let word = match &fds {
            Ok(fds) => {
                ancillary.push(SendAncillaryMessage::ScmRights(fds));
                [SOCKET]
            }
            Err(_) => [FAILED],
        };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&word)], &mut ancillary, flags).is_ok()
    }

    /// Says where the server listens, in the host's network.
    pub(in crate::cell) fn announce(&self, address: SocketAddr) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // Nobody may be left to hear it.
        rustix::net::send(&self.0, &floor::encode(LISTENS, address), flags).ok();
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The one port of a server in the host's network, and what is done in its place there: it binds and
/// listens on no address but loopback, under a number that nobody knows beforehand.
#[derive(Debug)]
pub(in crate::cell) struct Host {
    /// The port that the server may name.
    port: u16,
    /// The one that it gets.
    outside: u16,
    door: Option<Door>,
    /// What was said of where it listens.
    told: Vec<SocketAddr>,
}

impl Host {
    pub(in crate::cell) fn new(port: u16, outside: u16, door: Option<Door>) -> Self {
        Self {
            port,
            outside,
            door,
            told: Vec::new(),
        }
    }

    /// Binds a socket of the server's that is to have the address `meant`.
    ///
    /// # Errors
    /// `EACCES` for any port but its own, any address that is not this host, and what is no TCP socket; what
    /// `bind(2)` says.
    pub(in crate::cell) fn bind(
        &self,
        socket: BorrowedFd<'_>,
        meant: SocketAddr,
    ) -> Result<(), NixErrno> {
        let ip = meant.ip().to_canonical();
        if meant.port() != self.port || !(ip.is_unspecified() || ip.is_loopback()) {
            return Err(NixErrno::EACCES);
        }
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        let here = match (family(socket)?, ip) {
            (AddressFamily::INET, _) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (_, IpAddr::V4(_)) => mapped,
            (_, IpAddr::V6(six)) if six.is_loopback() => ip,
            // All addresses, and so those of IPv4 unless it says otherwise.
            _ => match sockopt::ipv6_v6only(socket).map_err(floor::of)? {
                true => IpAddr::V6(Ipv6Addr::LOCALHOST),
                false => mapped,
            },
        };
        rustix::net::bind(socket, &SocketAddr::new(here, self.outside)).map_err(floor::of)
    }

    /// Lets a socket listen that [`Host::bind`] has bound.
    ///
    /// # Errors
    /// `EACCES` when it is another, and what `listen(2)` says.
    pub(in crate::cell) fn listen(
        &mut self,
        socket: BorrowedFd<'_>,
        backlog: i32,
    ) -> Result<(), NixErrno> {
        family(socket)?;
        let address = self.address(socket)?;
        rustix::net::listen(socket, backlog).map_err(floor::of)?;
        // What a thread of the server did to it meanwhile could have cost it its address.
        if self.address(socket).is_err() {
            rustix::net::shutdown(socket, rustix::net::Shutdown::Both).ok();
            return Err(NixErrno::EACCES);
        }
        // The server may do this often, and who is told reads it only now and then.
        if let Some(door) = &self.door
            && !self.told.contains(&address)
        {
            door.announce(address);
            self.told.push(address);
        }
        Ok(())
    }

    fn address(&self, socket: BorrowedFd<'_>) -> Result<SocketAddr, NixErrno> {
        let address = rustix::net::getsockname(socket).map_err(floor::of)?;
        let address = SocketAddr::try_from(address).map_err(floor::of)?;
        let ip = address.ip().to_canonical();
        if address.port() == self.outside && ip.is_loopback() {
            Ok(SocketAddr::new(ip, self.outside))
        } else {
            Err(NixErrno::EACCES)
        }
    }
}

/// Of a TCP socket.
fn family(socket: BorrowedFd<'_>) -> Result<AddressFamily, NixErrno> {
    let plain = sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_protocol(socket) == Ok(Some(ipproto::TCP));
    match sockopt::socket_domain(socket).map_err(floor::of)? {
        family @ (AddressFamily::INET | AddressFamily::INET6) if plain => Ok(family),
        _ => Err(NixErrno::EACCES),
    }
}

/// The end outside.
#[derive(Debug)]
pub(super) struct Knocker {
    door: OwnedFd,
    /// The server's port in a network of its own, and in the host's.
    port: u16,
    outside: u16,
    known: Known,
}

/// Where the server is.
#[derive(Debug)]
enum Known {
    /// Nobody has said anything yet.
    Nothing,
    /// In a network of its own.
    Inside,
    /// In the host's, where it listens on these.
    Outside(Vec<SocketAddr>),
    /// The cell is no more.
    Over,
}

/// What can be connected, and to what.
pub(super) type Line = (OwnedFd, SocketAddr);

impl Knocker {
    pub(super) fn new(door: OwnedFd, port: u16, outside: u16) -> Self {
        let known = Known::Nothing;
        Self {
            door,
            port,
            outside,
            known,
        }
    }

    /// Sockets, each with the address that it is to be connected to, the likelier first; none while the
    /// server does not listen.
    ///
    /// # Errors
    /// There will be no more, in one sentence.
    pub(super) fn lines(&mut self) -> Result<Vec<Line>, String> {
        while !matches!(self.known, Known::Inside | Known::Over)
            && self.hear(RecvFlags::DONTWAIT)?
        {}
        match &self.known {
            Known::Nothing => Ok(Vec::new()),
            Known::Over => Err(over()),
            Known::Inside => {
                let near = [
                    (FOUR, IpAddr::V4(Ipv4Addr::LOCALHOST)),
                    (SIX, IpAddr::V6(Ipv6Addr::LOCALHOST)),
                ];
                let mut lines = Vec::new();
                for (family, address) in near {
                    // A kernel without IPv6 has none of it.
                    let socket = self.ask(family)?;
                    lines.extend(socket.map(|it| (it, SocketAddr::new(address, self.port))));
                }
                Ok(lines)
            }
            Known::Outside(addresses) => {
                let lines = addresses.iter().filter_map(|address| {
                    let family = match address {
                        SocketAddr::V4(_) => AddressFamily::INET,
                        SocketAddr::V6(_) => AddressFamily::INET6,
                    };
                    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                    let kind = SocketType::STREAM;
                    let made = rustix::net::socket_with(family, kind, flags, Some(ipproto::TCP));
                    Some((made.ok()?, *address))
                });
                Ok(lines.collect())
            }
        }
    }

    /// Takes one word that says where the server is; false when there is none now.
    fn hear(&mut self, flags: RecvFlags) -> Result<bool, String> {
        let mut bytes = [0; 32];
        let length = match rustix::net::recv(&self.door, &mut bytes[..], flags) {
            Ok((_, length)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(_) => 0,
        };
        match bytes.get(..length).unwrap_or_default() {
            [] => {
                self.known = Known::Over;
                return Err(over());
            }
            [INSIDE] => self.known = Known::Inside,
            word => {
                let (said, address) = floor::decode(word).ok_or("a word that there is not")?;
                let near = address.ip().is_loopback() && address.port() == self.outside;
                if said != LISTENS || !near {
                    return Err("a word that there is not".to_owned());
                }
                let mut known = match std::mem::replace(&mut self.known, Known::Nothing) {
                    Known::Outside(known) => known,
                    _ => Vec::new(),
                };
                known.retain(|other| *other != address);
                known.insert(0, address);
                known.truncate(ADDRESSES);
                self.known = Known::Outside(known);
            }
        }
        Ok(true)
    }

    /// A socket from inside.
    fn ask(&self, family: u8) -> Result<Option<OwnedFd>, String> {
        let asked = rustix::net::send(&self.door, &[family], SendFlags::NOSIGNAL);
        asked.map_err(|_| over())?;
        let begin = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            if left.is_zero() || !floor::wait(self.door.as_fd(), left) {
                return Err("pid 1 of the cell does not answer".to_owned());
            }
            let mut word = [0; 2];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut word)];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let length = match rustix::net::recvmsg(&self.door, &mut slices, &mut ancillary, flags)
            {
                Ok(message) => message.bytes,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(_) => 0,
            };
            let socket = ancillary.drain().find_map(|item| match item {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            return match (length, word, socket) {
                (1, [SOCKET, _], Some(socket)) => Ok(Some(socket)),
                (1, [FAILED, _], None) => Ok(None),
                (0, ..) => Err(over()),
                _ => Err("a word that there is not".to_owned()),
            };
        }
    }
}

fn over() -> String {
    "the server has ended".to_owned()
}

/// Connects what does not block, within a time.
///
/// # Errors
/// What `connect(2)` says.
pub(super) fn connect((socket, to): Line, patience: Duration) -> io::Result<TcpStream> {
    match rustix::net::connect(&socket, &to) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) if floor::wait_out(socket.as_fd(), patience) => {
            sockopt::socket_error(&socket)??;
        }
        Err(Errno::INPROGRESS) => return Err(io::ErrorKind::TimedOut.into()),
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::pair;
    use std::net::TcpListener;

    fn free() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    fn at(text: &str, port: u16) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), port)
    }

    #[test]
    fn sockets_from_inside_are_connected_outside() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (ours, theirs) = pair::packets().unwrap();
        let mut knocker = Knocker::new(theirs, port, 1);
        assert!(
            knocker.lines().unwrap().is_empty(),
            "nobody has said anything"
        );
        let door = Door::new(ours);
        door.is_inside().unwrap();
        let inside =
            std::thread::spawn(
                move || {
                    while floor::wait(door.as_fd(), PATIENCE) && door.attend() {}
                },
            );
        let mut lines = knocker.lines().unwrap();
        assert_eq!(lines.first().unwrap().1, at("127.0.0.1", port));
        let stream = connect(lines.remove(0), PATIENCE).unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        assert!(listener.accept().is_ok());
        // Nobody listens on the other family.
        for line in lines {
            assert!(connect(line, PATIENCE).is_err());
        }
        drop(knocker);
        inside.join().unwrap();
    }

    #[test]
    fn pid_1_answers_two_words_and_no_other() {
        for word in [&b"C"[..], b"44", b"", b"I"] {
            let (ours, theirs) = pair::packets().unwrap();
            let door = Door::new(ours);
            assert!(door.attend(), "nothing was asked");
            rustix::net::send(&theirs, word, SendFlags::empty()).unwrap();
            assert!(!door.attend(), "{word:?}");
        }
        let (ours, theirs) = pair::packets().unwrap();
        drop(theirs);
        assert!(!Door::new(ours).attend());
    }

    #[test]
    fn on_the_floor_it_is_where_it_was_said_to_listen() {
        let outside = free();
        let (ours, theirs) = pair::packets().unwrap();
        let mut host = Host::new(8080, outside, Some(Door::new(ours)));
        let mut knocker = Knocker::new(theirs, 8080, outside);
        for (family, meant, here) in [
            (AddressFamily::INET, "0.0.0.0", "127.0.0.1"),
            (AddressFamily::INET, "127.0.0.9", "127.0.0.1"),
            (AddressFamily::INET6, "::", "127.0.0.1"),
            (AddressFamily::INET6, "::ffff:127.0.0.1", "127.0.0.1"),
            (AddressFamily::INET6, "::1", "::1"),
        ] {
            let server = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
            assert_eq!(host.listen(server.as_fd(), 1), Err(NixErrno::EACCES));
            match host.bind(server.as_fd(), at(meant, 8080)) {
                Err(NixErrno::EADDRNOTAVAIL) if family == AddressFamily::INET6 => continue,
                done => assert_eq!(done, Ok(()), "{meant}"),
            }
            host.listen(server.as_fd(), 1).unwrap();
            // Once more is another length of the queue.
            host.listen(server.as_fd(), 2).unwrap();
            let lines = knocker.lines().unwrap();
            let line = lines.into_iter().next().unwrap();
            assert_eq!(line.1, at(here, outside), "{meant}");
            assert!(connect(line, PATIENCE).is_ok(), "{meant}");
        }
        drop(host);
        // What was said is heard first.
        assert!(knocker.lines().is_err());
        assert!(knocker.lines().is_err());
    }

    #[test]
    fn no_other_port_or_address_is_bound_and_nothing_else_listens() {
        let mut host = Host::new(8080, free(), None);
        let server = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        for meant in [
            at("127.0.0.1", 8081),
            at("127.0.0.1", 0),
            at("0.0.0.0", 80),
            at("192.0.2.1", 8080),
            at("10.0.0.1", 8080),
            at("::ffff:10.0.0.1", 8080),
            at("2001:db8::1", 8080),
        ] {
            let bound = host.bind(server.as_fd(), meant);
            assert_eq!(bound, Err(NixErrno::EACCES), "{meant}");
        }
        // Bound by somebody else, in whatever way.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(host.listen(taken.as_fd(), 1), Err(NixErrno::EACCES));
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(host.listen(datagrams.as_fd(), 1), Err(NixErrno::EACCES));
        let (local, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let meant = at("127.0.0.1", 8080);
        assert_eq!(host.bind(local.as_fd(), meant), Err(NixErrno::EACCES));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(host.bind(file.as_fd(), meant).is_err() && host.listen(file.as_fd(), 1).is_err());
    }

    #[test]
    fn nonsense_is_no_place() {
        let port = free();
        for word in [
            &b"X"[..],
            b"II",
            &floor::encode(b'?', at("127.0.0.1", port)),
            &floor::encode(LISTENS, at("127.0.0.1", port - 1)),
            &floor::encode(LISTENS, at("10.0.0.1", port)),
        ] {
            let (ours, theirs) = pair::packets().unwrap();
            rustix::net::send(&ours, word, SendFlags::empty()).unwrap();
            assert!(Knocker::new(theirs, 1, port).lines().is_err(), "{word:?}");
        }
    }
}
