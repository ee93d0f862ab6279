//! Connections of a cell that shares the host's network: its supervisor makes each of them to a listener of
//! its own, and the relay gets the other end with the address that was meant.
//!
//! ```text
//! server ── connect(198.18.0.1:443) ──▶ supervisor ── is that allowed? ──▶ relay
//!    │ its socket is connected to the supervisor's listener          │
//!    └────────────── the accepted end, and what was meant ──────────▶┘ as in a network of the cell's own
//! ```
//!
//! Anybody on the host can connect to that listener: what the supervisor has not connected itself is closed.

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, acceptfrom_with, getsockname,
    ipproto, recvmsg, sendmsg, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The first word: there is no network of the cell's own.
pub(super) const HELLO: u8 = b'F';
/// May this be connected to? And: this is connected.
const ASK: u8 = b'?';
const TAKE: u8 = b'!';
const YES: u8 = b'Y';
const NO: u8 = b'N';
/// A word, a port, and an address as IPv6 has it.
const LENGTH: usize = 19;

/// Connections that wait to be accepted; the supervisor makes one after the other.
const BACKLOG: i32 = 16;
/// For the relay's answer, and for the other end of a connection to ourselves.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the launcher finds out that connections are made for it. The supervisor refuses this one without
/// asking, and so without telling anybody: TCP port 1 of loopback.
pub(in crate::cell) const TRIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

pub(super) fn encode(word: u8, meant: SocketAddr) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let address = match meant.ip() {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    };
    let parts = [word].into_iter().chain(meant.port().to_be_bytes());
    for (to, from) in bytes.iter_mut().zip(parts.chain(address.octets())) {
        *to = from;
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Option<(u8, SocketAddr)> {
    let [word, p0, p1, address @ ..]: &[u8; LENGTH] = bytes.try_into().ok()?;
    let address = IpAddr::from(Ipv6Addr::from(*address)).to_canonical();
    Some((
        *word,
        SocketAddr::new(address, u16::from_be_bytes([*p0, *p1])),
    ))
}

/// The supervisor's side.
#[derive(Debug)]
pub(in crate::cell) struct Way {
    control: OwnedFd,
    listener: TcpListener,
    port: u16,
}

impl Way {
    /// Opens the listener and tells the relay that connections will come one by one.
    pub(in crate::cell) fn open(control: OwnedFd) -> io::Result<Self> {
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, Some(ipproto::TCP))?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = TcpListener::from(socket);
        let port = listener.local_addr()?.port();
        rustix::net::send(&control, &[HELLO], SendFlags::NOSIGNAL)?;
        Ok(Self {
            control,
            listener,
            port,
        })
    }

    /// The only port that the supervisor must be able to connect to.
    pub(in crate::cell) fn port(&self) -> u16 {
        self.port
    }

    /// Connects a socket of the server's to what it meant, if that is allowed.
    ///
    /// # Errors
    /// `EACCES` when it is not, or nobody answers; and what `connect(2)` says of this socket.
    pub(in crate::cell) fn connect(
        &self,
        socket: BorrowedFd<'_>,
        meant: SocketAddr,
    ) -> Result<(), Errno> {
        let plain = sockopt::socket_type(socket) == Ok(SocketType::STREAM)
            && sockopt::socket_protocol(socket) == Ok(Some(ipproto::TCP));
        let domain = sockopt::socket_domain(socket).map_err(of)?;
        let here = match domain {
            AddressFamily::INET if plain => IpAddr::V4(Ipv4Addr::LOCALHOST),
            AddressFamily::INET6 if plain => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
            _ => return Err(Errno::EACCES),
        };
        if meant == TRIED || !self.ask(meant) {
            return Err(Errno::EACCES);
        }
        self.connect_here(socket, SocketAddr::new(here, self.port))?;
        let ours = getsockname(socket).map_err(of)?;
        let ours = SocketAddr::try_from(ours).map_err(of)?;
        let end = self.accept(ours.port())?;
        let fds = [end.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let bytes = encode(TAKE, meant);
        let words = [IoSlice::new(&bytes)];
        sendmsg(&self.control, &words, &mut control, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(of)
    }

    fn ask(&self, meant: SocketAddr) -> bool {
        let mut answer = [0];
        rustix::net::send(&self.control, &encode(ASK, meant), SendFlags::NOSIGNAL).is_ok()
            && wait(self.control.as_fd(), PATIENCE)
            && rustix::net::recv(&self.control, &mut answer[..], RecvFlags::DONTWAIT).is_ok()
            && answer == [YES]
    }

    /// Nobody has to wait for us while this takes its time: loopback answers at once.
    fn connect_here(&self, socket: BorrowedFd<'_>, to: SocketAddr) -> Result<(), Errno> {
        let flags = fcntl_getfl(socket).map_err(of)?;
        fcntl_setfl(socket, flags | OFlags::NONBLOCK).map_err(of)?;
        let done = rustix::net::connect(socket, &to);
        fcntl_setfl(socket, flags).map_err(of)?;
        match done {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
            Err(error) => Err(of(error)),
        }
    }

    /// The other end of the socket that has that port.
    fn accept(&self, port: u16) -> Result<OwnedFd, Errno> {
        let begin = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            if left.is_zero() || !wait(self.listener.as_fd(), left) {
                return Err(Errno::ETIMEDOUT);
            }
            let Ok((end, Some(peer))) = acceptfrom_with(&self.listener, SocketFlags::CLOEXEC)
            else {
                continue;
            };
            let known = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            if SocketAddr::try_from(peer) == Ok(known) {
                return Ok(end);
            }
        }
    }
}

pub(super) fn of(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

pub(super) fn wait(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    wait_for(fd, PollFlags::IN, patience)
}

pub(super) fn wait_out(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    wait_for(fd, PollFlags::OUT, patience)
}

fn wait_for(fd: BorrowedFd<'_>, what: PollFlags, patience: Duration) -> bool {
    let patience = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: patience.subsec_nanos().into(),
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0)
}

/// The relay's side.
#[derive(Debug)]
pub(super) struct Floor(pub(super) OwnedFd);

/// What the supervisor says.
#[derive(Debug)]
pub(super) enum Word {
    Ask(SocketAddr),
    Take(SocketAddr, TcpStream),
}

impl Floor {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next word, `None` when there is none now.
    ///
    /// # Errors
    /// There will be no more.
    pub(super) fn next(&self) -> io::Result<Option<Word>> {
        let mut bytes = [0; LENGTH + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let length = match recvmsg(&self.0, &mut slices, &mut control, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stream = control.drain().find_map(|item| match item {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next().map(TcpStream::from),
            _ => None,
        });
        match (decode(bytes.get(..length).unwrap_or_default()), stream) {
            (Some((ASK, meant)), None) => Ok(Some(Word::Ask(meant))),
            (Some((TAKE, meant)), Some(stream)) => Ok(Some(Word::Take(meant, stream))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(super) fn answer(&self, yes: bool) {
        let word = if yes { YES } else { NO };
        // Whoever does not read it waits in vain.
        rustix::net::send(&self.0, &[word], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::pair;
    use std::io::{Read, Write};

    /// Answers each question, and gives back what it took.
    fn relay(theirs: OwnedFd, yes: bool, words: usize) -> Vec<(SocketAddr, Option<TcpStream>)> {
        let floor = Floor(theirs);
        let mut hello = [0; 8];
        let (length, _) = rustix::net::recv(&floor.0, &mut hello[..], RecvFlags::empty()).unwrap();
        assert_eq!(hello[..length], [HELLO]);
        let mut heard = Vec::new();
        while heard.len() < words {
            assert!(wait(floor.as_fd(), PATIENCE));
            heard.push(match floor.next().unwrap().unwrap() {
                Word::Ask(meant) => {
                    floor.answer(yes);
                    (meant, None)
                }
                Word::Take(meant, stream) => (meant, Some(stream)),
            });
        }
        heard
    }

    #[test]
    fn what_is_allowed_is_connected_to_the_relay_and_strangers_are_not() {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let (ours, theirs) = pair::packets().unwrap();
            let relay = std::thread::spawn(move || relay(theirs, true, 2));
            let way = Way::open(ours).unwrap();
            let mut stranger = TcpStream::connect(("127.0.0.1", way.port())).unwrap();
            let meant: SocketAddr = "198.18.0.1:443".parse().unwrap();
            let client = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
            way.connect(client.as_fd(), meant).unwrap();
            let heard = relay.join().unwrap();
            assert_eq!(heard.iter().map(|it| it.0).collect::<Vec<_>>(), [meant; 2]);
            let mut client = TcpStream::from(client);
            client.write_all(b"hello").unwrap();
            let mut got = [0; 5];
            let mut end = heard[1].1.as_ref().unwrap();
            end.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"hello");
            // Closed without a word.
            assert_eq!(stranger.read(&mut got).unwrap_or(0), 0);
        }
    }

    #[test]
    fn what_is_refused_is_not_connected() {
        let (ours, theirs) = pair::packets().unwrap();
        let relay = std::thread::spawn(move || relay(theirs, false, 1));
        let way = Way::open(ours).unwrap();
        let client = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let meant: SocketAddr = "203.0.113.1:443".parse().unwrap();
        assert_eq!(way.connect(client.as_fd(), meant), Err(Errno::EACCES));
        assert_eq!(way.connect(client.as_fd(), TRIED), Err(Errno::EACCES));
        assert_eq!(relay.join().unwrap().len(), 1);
        assert!(rustix::net::getpeername(&client).is_err());
        // Nobody is there to ask.
        assert_eq!(way.connect(client.as_fd(), meant), Err(Errno::EACCES));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(way.connect(file.as_fd(), meant).is_err());
    }

    #[test]
    fn addresses_arrive_as_they_were_meant() {
        for text in ["1.2.3.4:5", "[2001:db8::1]:443", "127.0.0.1:65535"] {
            let meant = text.parse().unwrap();
            assert_eq!(decode(&encode(ASK, meant)), Some((ASK, meant)));
        }
        assert_eq!(decode(&[0; LENGTH + 1]), None);
    }
}
