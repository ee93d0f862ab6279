//! `cofferdam __dial CONTROL STATUS PARENT HOST PORT`: makes connections to the one server that runs
//! elsewhere, and hands them to the message process, which can make none. `cofferdam __dial CONTROL DOOR
//! PARENT inside PORT OUTSIDE`: the same for a server in a cell, which is reached through its [`super::door`].
//!
//! ```text
//! message process ── C ──▶ __dial ── look up, connect ──▶ HOST:PORT
//!                 ◀── S, and the connected socket; or F, and why not
//! ```
//! Whoever asks cannot say where to. What comes over the connections is not read here.

use super::cage;
use super::door::{self, Knocker};
use super::lookup::{self, Family};
use crate::cell::{LaunchMessage, LayerReport, sys};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time for all addresses of the host together.
const CONNECT: Duration = Duration::from_secs(10);
/// From the start of a server in a cell until it listens.
const START: Duration = Duration::from_secs(30);
/// The same for one that has listened before: it may be about to end.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two attempts: a server that has started should not have to wait to be found.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Time for one connection over loopback.
const NEAR: Duration = Duration::from_secs(5);
/// The word for a server in a cell.
pub(in crate::cell) const INSIDE: &str = "inside";
/// Connections that are made at one time; more wait in the socket.
const AT_ONCE: usize = 32;
/// The longest answer, in bytes.
const LONGEST: usize = 512;
/// Threads that wait for the kernel need little.
const STACK: usize = 128 * 1024;

/// Serves until whoever asks is gone.
#[must_use]
pub fn serve(control: RawFd, other: RawFd, parent: i32, place: &[String]) -> ExitCode {
    match start(control, other, parent, place) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(dial)) => dial.run(),
        Err(error) => {
            let text = format!("cofferdam: __dial: {error}\n");
            drop(io::stderr().write_all(text.as_bytes()));
            ExitCode::from(70)
        }
    }
}

/// `None` when nobody is left to serve.
fn start(
    control: RawFd,
    other: RawFd,
    parent: i32,
    place: &[String],
) -> Result<Option<Dial>, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| said(&error))?;
    if getppid().as_raw() != parent {
        return Ok(None);
    }
    let owned = sys::adopt(&[control, other]).map_err(|error| said(&error))?;
    let [control, other] =
        <[OwnedFd; 2]>::try_from(owned).map_err(|_| "two descriptors".to_owned())?;
    sys::close_all_but(&[control.as_raw_fd(), other.as_raw_fd()]).map_err(|error| said(&error))?;
    let number = |text: &String| text.parse::<u16>().map_err(|_| "a port".to_owned());
    let place = match place {
        [host, port] => {
            let port = number(port)?;
            cage::confine(&[port].into(), true)?.close()?;
            // There is no cell, and so no layer of one.
            let entered = LaunchMessage::Entered(LayerReport::default()).encode();
            let mut status = io::PipeWriter::from(other);
            status.write_all(&entered).map_err(|error| said(&error))?;
            let host = host.clone();
            Place::Elsewhere { host, port }
        }
        [inside, port, outside] if inside == INSIDE => {
            let (port, outside) = (number(port)?, number(outside)?);
            cage::confine(&[port, outside].into(), false)?.close()?;
            Place::Inside(Inside::new(Knocker::new(other, port, outside)))
        }
        _ => return Err("a host and a port".to_owned()),
    };
    Ok(Some(Dial {
        control: Arc::new(control),
        place: Arc::new(place),
        busy: Arc::new(AtomicUsize::new(0)),
    }))
}

struct Dial {
    control: Arc<OwnedFd>,
    place: Arc<Place>,
    busy: Arc<AtomicUsize>,
}

enum Place {
    Elsewhere { host: String, port: u16 },
    Inside(Inside),
}

/// A server in a cell, which may still have to start.
struct Inside {
    knocker: Mutex<Knocker>,
    since: Instant,
    /// It has been reached.
    listens: AtomicBool,
}

impl Dial {
    fn run(self) -> ExitCode {
        loop {
            let mut byte = [0; 1];
            match rustix::net::recv(&self.control, &mut byte, RecvFlags::empty()) {
                Ok((_, 1)) if byte == *b"C" => self.one(),
                Ok((_, 0)) => return ExitCode::SUCCESS,
                Err(Errno::INTR) => {}
                // Nonsense comes from nobody who is still himself.
                Ok(_) | Err(_) => return ExitCode::from(70),
            }
        }
    }

    fn one(&self) {
        while self.busy.load(Ordering::Acquire) >= AT_ONCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.busy.fetch_add(1, Ordering::AcqRel);
        let (control, place) = (Arc::clone(&self.control), Arc::clone(&self.place));
        let done = Done(Arc::clone(&self.busy));
        let work = move || {
            drop(answer(control.as_fd(), place.connect()));
            drop(done);
        };
        let thread = std::thread::Builder::new().stack_size(STACK);
        if let Err(error) = thread.spawn(work) {
            let why = format!("no thread for a connection: {error}");
            drop(answer(self.control.as_fd(), Err(why)));
        }
    }
}

/// Counts one connection that is being made.
struct Done(Arc<AtomicUsize>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Place {
    fn connect(&self) -> Result<TcpStream, String> {
        match self {
            Self::Elsewhere { host, port } => find(host, *port),
            Self::Inside(inside) => inside.connect(),
        }
    }
}

impl Inside {
    fn new(knocker: Knocker) -> Self {
        Self {
            knocker: Mutex::new(knocker),
            since: Instant::now(),
            listens: AtomicBool::new(false),
        }
    }

    /// Tries until it listens, or has had enough time for that.
    fn connect(&self) -> Result<TcpStream, String> {
        let until = match self.listens.load(Ordering::Acquire) {
            true => Instant::now() + AGAIN,
            false => (self.since + START).max(Instant::now() + AGAIN),
        };
        let mut pause = SHORTEST;
        let mut last = "it does not listen".to_owned();
        loop {
            let knocker = self.knocker.lock();
            let lines = knocker.unwrap_or_else(PoisonError::into_inner).lines()?;
            for line in lines {
                let to = line.1;
                let made = door::connect(line, NEAR).and_then(|stream| {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                });
                match made {
                    Ok(stream) => {
                        self.listens.store(true, Ordering::Release);
                        return Ok(stream);
                    }
                    Err(error) => last = format!("cannot connect to {to}: {error}"),
                }
            }
            if Instant::now() >= until {
                return Err(format!("the server in the cell is not reached: {last}"));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Looks a host up and connects to it.
fn find(host: &str, port: u16) -> Result<TcpStream, String> {
    let deadline = Instant::now() + CONNECT;
    if let Ok(address) = host.parse::<IpAddr>() {
        return reach(&[address], port, deadline);
    }
    if host == "localhost" {
        // Never asked of a name server, which could say otherwise (RFC 6761 §6.3).
        let near = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return reach(&near, port, deadline);
    }
    let mut last = format!("there is no host {host}");
    for family in [Family::Four, Family::Six] {
        match lookup::resolve(host, family) {
            Ok(addresses) if addresses.is_empty() => {}
            Ok(addresses) => match reach(&addresses, port, deadline) {
                Ok(stream) => return Ok(stream),
                Err(why) => last = why,
            },
            Err(error) => last = format!("cannot look up {host}: {error}"),
        }
    }
    Err(last)
}

fn reach(addresses: &[IpAddr], port: u16, deadline: Instant) -> Result<TcpStream, String> {
    let mut last = "it took too long".to_owned();
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let place = SocketAddr::new(*address, port);
        let made = TcpStream::connect_timeout(&place, left).and_then(|stream| {
            // Whoever gets it can set nothing any more.
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match made {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("cannot connect to {place}: {error}"),
        }
    }
    Err(last)
}

fn answer(control: BorrowedFd<'_>, made: Result<TcpStream, String>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let mut words = b"S".to_vec();
    let fds = made.as_ref().map(|stream| [stream.as_fd()]);
    match &fds {
        Ok(fds) => {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        Err(why) => {
            words = format!("F{why}").into_bytes();
            words.truncate(LONGEST);
        }
    }
    let slices = [IoSlice::new(&words)];
    rustix::net::sendmsg(control, &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The other end: whoever holds it may ask for connections to that one place.
#[derive(Debug)]
pub struct Dialer(OwnedFd);

/// What came of a question.
#[derive(Debug)]
pub enum Dialed {
    /// Connected, without delay, and it does not block.
    Stream(TcpStream),
    /// Why there is none.
    Failed(String),
    /// No answer yet.
    Nothing,
}

impl Dialer {
    /// Takes the end over that came from the spawner.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Asks for one connection.
    ///
    /// # Errors
    /// Those of `send(2)`: `WouldBlock` when far too many were asked for, or that nobody answers.
    pub fn ask(&self) -> io::Result<()> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(&self.0, b"C", flags)?;
        Ok(())
    }

    /// The next answer; which question it answers makes no difference.
    ///
    /// # Errors
    /// `UnexpectedEof` when there will be no more; nonsense is `InvalidData`.
    pub fn take(&self) -> io::Result<Dialed> {
        let mut words = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut words)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = match rustix::net::recvmsg(&self.0, &mut slices, &mut ancillary, flags) {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Dialed::Nothing),
            Err(Errno::CONNRESET) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error.into()),
        };
        let mut fds = Vec::new();
        for item in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = item {
                fds.extend(received);
            }
        }
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        if message.flags.intersects(cut) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let words = words.get(..message.bytes).unwrap_or_default();
        match (words.split_first(), fds.pop()) {
            (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Some((b'S', _)), Some(stream)) => Ok(Dialed::Stream(stream.into())),
            (Some((b'F', why)), None) => {
                Ok(Dialed::Failed(String::from_utf8_lossy(why).into_owned()))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AsFd for Dialer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::pair;
    use std::net::TcpListener;

    fn served(host: &str, port: u16) -> Dialer {
        let (ours, theirs) = pair::packets().unwrap();
        let dial = Dial {
            control: Arc::new(theirs),
            place: Arc::new(Place::Elsewhere {
                host: host.to_owned(),
                port,
            }),
            busy: Arc::default(),
        };
        std::thread::spawn(move || dial.run());
        Dialer::new(ours)
    }

    fn next(dialer: &Dialer) -> Dialed {
        for _ in 0..1000 {
            match dialer.take().unwrap() {
                Dialed::Nothing => std::thread::sleep(Duration::from_millis(5)),
                other => return other,
            }
        }
        panic!("no answer");
    }

    #[test]
    fn each_question_gets_a_connection_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = served("localhost", port);
        for _ in 0..3 {
            dialer.ask().unwrap();
        }
        let mut made = Vec::new();
        for _ in 0..3 {
            let Dialed::Stream(stream) = next(&dialer) else {
                panic!("no connection");
            };
            assert!(stream.nodelay().unwrap());
            made.push((stream, listener.accept().unwrap()));
        }
    }

    #[test]
    fn a_place_where_nobody_listens_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let dialer = served("127.0.0.1", port);
        dialer.ask().unwrap();
        let Dialed::Failed(why) = next(&dialer) else {
            panic!("connected");
        };
        assert!(why.contains(&format!("127.0.0.1:{port}")), "{why}");
    }

    #[test]
    fn nonsense_ends_it() {
        let dialer = served("127.0.0.1", 1);
        rustix::net::send(&dialer.0, b"X", SendFlags::empty()).unwrap();
        let mut ended = false;
        for _ in 0..1000 {
            match dialer.take() {
                Ok(Dialed::Nothing) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                    ended = true;
                    break;
                }
                Ok(other) => panic!("{other:?}"),
            }
        }
        assert!(ended);
    }
}
