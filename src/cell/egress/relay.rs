//! `cofferdam __egress CONTROL EVENTS PARENT RULE… [-- RANGE…]`: the process outside that answers
//! the cell's name server and makes its connections.
//!
//! One thread waits for all that was opened inside; each connection has a thread of its own with a
//! small stack, and ends with it. The process dies with the spawner.

use super::connection::{not_listed, reset, shown};
use super::floor::{Floor, Word};
use super::handover::{self, Handed, Kind};
use super::news::Reason;
use super::refusals::{Refusal, Refusals};
use super::rules::{Book, Rules};
use super::{cage, lookup, proxy, stub, watch};
use crate::cell::sys;
use crate::config::{AddressRange, EgressRule};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Connections at the same time, those to the name server included.
const MOST: usize = 512;
/// Descriptors of one connection: two sockets and two pipes, and one to look a name up.
const EACH: u64 = 7;
/// Threads that wait for the kernel need little.
const STACK: usize = 128 * 1024;
/// Between two reports of what was counted.
const TELL: Duration = Duration::from_millis(500);
/// Words of a supervisor that are heard at once.
const AT_ONCE: usize = 32;
/// For one question to the name server over TCP.
const QUESTION: Duration = Duration::from_secs(5);

/// Serves until the spawner ends it.
#[must_use]
pub fn serve(control: RawFd, events: RawFd, parent: i32, words: &[String]) -> ExitCode {
    match start(control, events, parent, words) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(relay)) => relay.run(),
        Err(error) => {
            let text = format!("cofferdam: __egress: {error}\n");
            drop(io::stderr().write_all(text.as_bytes()));
            ExitCode::from(70)
        }
    }
}

/// `None` when there will be nothing to serve.
fn start(
    control: RawFd,
    events: RawFd,
    parent: i32,
    words: &[String],
) -> Result<Option<Relay>, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| said(&error))?;
    if getppid().as_raw() != parent {
        return Ok(None);
    }
    let owned = sys::adopt(&[control, events]).map_err(|error| said(&error))?;
    let [control, events] =
        <[OwnedFd; 2]>::try_from(owned).map_err(|_| "two descriptors".to_owned())?;
    sys::close_all_but(&[control.as_raw_fd(), events.as_raw_fd()]).map_err(|error| said(&error))?;
    let (rules, private) = read_words(words)?;
    let rules = Rules::new(&rules);
    let most = room();
    // The cell takes its time: what can be done before it is, is.
    let cage = cage::confine(&rules.ports(), true)?;
    let (sockets, floor) = match handover::receive(control.as_fd()) {
        Ok(Handed::Sockets(sockets)) if sockets.is_empty() => return Ok(None),
        Ok(Handed::Sockets(sockets)) => (sockets, None),
        Ok(Handed::Floor) => (Vec::new(), Some(Floor(control))),
        Err(error) => return Err(said(&error)),
    };
    cage.close()?;
    let shared = Shared {
        book: Mutex::new(Book::new(rules.clone())),
        listeners: rules.listeners(),
        private,
        refusals: Refusals::new(events, &rules),
        connections: AtomicUsize::new(0),
        rules,
        most,
    };
    let shared = Arc::new(shared);
    Ok(Some(Relay {
        sockets,
        floor,
        shared,
    }))
}

fn read_words(words: &[String]) -> Result<(Vec<EgressRule>, Vec<AddressRange>), String> {
    let mut parts = words.split(|word| word == "--");
    let wrong = |word: &String| format!("cannot read {word:?}");
    let rules = parts.next().unwrap_or_default().iter();
    let rules = rules.map(|word| word.parse().map_err(|_| wrong(word)));
    let ranges = parts.next().unwrap_or_default().iter();
    let ranges = ranges.map(|word| word.parse().map_err(|_| wrong(word)));
    Ok((
        rules.collect::<Result<_, _>>()?,
        ranges.collect::<Result<_, _>>()?,
    ))
}

/// Connections for which there are descriptors.
fn room() -> usize {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 64;
    };
    let wanted = EACH * MOST as u64 + handover::MOST as u64 + 64;
    let limit = hard.min(wanted);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).ok();
    let free = limit.saturating_sub(handover::MOST as u64 + 64) / EACH;
    usize::try_from(free).unwrap_or(MOST).clamp(8, MOST)
}

/// The sockets of one cell.
struct Relay {
    sockets: Vec<(Kind, OwnedFd)>,
    /// The way to the supervisor, where it makes the connections.
    floor: Option<Floor>,
    shared: Arc<Shared>,
}

/// What all connections use.
pub(super) struct Shared {
    pub(super) book: Mutex<Book>,
    pub(super) rules: Rules,
    listeners: BTreeSet<SocketAddr>,
    /// Ranges that are not public, to which allowed names may lead all the same.
    pub(super) private: Vec<AddressRange>,
    pub(super) refusals: Refusals,
    connections: AtomicUsize,
    most: usize,
}

impl Relay {
    fn run(mut self) -> ExitCode {
        for (_, socket) in &self.sockets {
            rustix::io::ioctl_fionbio(socket, true).ok();
        }
        let mut told = Instant::now();
        loop {
            let sockets = self.sockets.iter().map(|(_, socket)| socket.as_fd());
            let floor = self.floor.iter().map(Floor::as_fd);
            let mut fds: Vec<PollFd<'_>> = sockets
                .chain([self.shared.refusals.channel()])
                .chain(floor)
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            // What is only counted is told from time to time, and there is no time without it.
            let patience = self.shared.has_something_to_tell().then_some(Timespec {
                tv_sec: 0,
                tv_nsec: TELL.subsec_nanos().into(),
            });
            match poll(&mut fds, patience.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return ExitCode::from(70),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            for ((kind, socket), ready) in self.sockets.iter().zip(&ready) {
                if *ready {
                    match kind {
                        Kind::Questions => self.shared.answer_datagrams(socket),
                        Kind::Attempts => self.shared.note_attempts(socket),
                        Kind::Names | Kind::Connections => self.accept(*kind, socket),
                    }
                }
            }
            if self.sockets.len() + 2 == ready.len() && ready.last() == Some(&true) {
                self.attend();
            }
            // The spawner has nothing to say but that the cell has ended; what it had tried until
            // then has been told in this round.
            let ended = ready.get(self.sockets.len()) == Some(&true);
            if ended || told.elapsed() >= TELL {
                self.shared.refusals.flush();
                told = Instant::now();
            }
            if ended {
                return ExitCode::SUCCESS;
            }
        }
    }

    fn accept(&self, kind: Kind, listener: &OwnedFd) {
        let stream = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(stream) => TcpStream::from(stream),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(_) => {
                // No descriptors: the listener stays ready, and would keep this thread busy.
                std::thread::sleep(Duration::from_millis(10));
                return;
            }
        };
        self.take(stream, move |shared, stream| match kind {
            Kind::Names => shared.answer_stream(stream).unwrap_or(()),
            _ => shared.connect(&stream),
        });
    }

    /// What the supervisor of a cell on the floor has to say.
    fn attend(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(floor) = &self.floor else { return };
            match floor.next() {
                Ok(None) => return,
                Ok(Some(Word::Ask(meant))) => floor.answer(self.shared.expects(meant)),
                Ok(Some(Word::Take(meant, stream))) => {
                    self.take(stream, move |shared, stream| {
                        let allowed = shared.allows(meant).is_ok();
                        match meant.port() {
                            _ if meant == proxy::PLACE => shared.proxy(&stream),
                            lookup::PORT if !allowed => shared.answer_stream(stream).unwrap_or(()),
                            _ => shared.connect_to(&stream, meant),
                        }
                    });
                }
                // The server has ended, or its supervisor has.
                Err(_) => self.floor = None,
            }
        }
    }

    /// Gives a connection a thread, if there is room for one.
    fn take(&self, stream: TcpStream, job: impl FnOnce(&Shared, TcpStream) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= shared.most {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            reset(&stream);
            let most = shared.most;
            let text = format!("denied: more than {most} connections at the same time");
            shared.refusals.tell(Reason::Busy, "", "", &text);
            return;
        }
        let place = Place(shared);
        let thread = std::thread::Builder::new().stack_size(STACK);
        // Without a thread the connection is closed by what the closure drops.
        drop(thread.spawn(move || job(&place.0, stream)));
    }
}

/// Counts one connection for as long as it lives.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn has_something_to_tell(&self) -> bool {
        self.connections.load(Ordering::Relaxed) > 0 || self.refusals.has_counted()
    }

    fn answer_datagrams(&self, socket: &OwnedFd) {
        let Ok(socket) = socket.try_clone().map(UdpSocket::from) else {
            return;
        };
        let mut message = [0; 1024];
        // So many at once, so that connections are not kept waiting by a flood.
        for _ in 0..32 {
            let Ok((length, from)) = socket.recv_from(&mut message) else {
                return;
            };
            if let Some(answer) = self.answer(message.get(..length).unwrap_or_default()) {
                socket.send_to(&answer, from).ok();
            }
        }
    }

    /// Tells what nobody answers. What somebody does has its own words.
    fn note_attempts(&self, socket: &OwnedFd) {
        for _ in 0..watch::AT_ONCE {
            let Some(attempt) = watch::next(socket) else {
                return;
            };
            let (address, port) = (attempt.to.ip(), attempt.to.port());
            let Ok(target) = self.book.lock().map(|book| book.target(address)) else {
                return;
            };
            if attempt.datagram {
                let host = shown(&target, port);
                let text = format!("denied: a datagram to {host}: only TCP can be allowed");
                let reason = Reason::Datagram;
                self.tell(&Refusal { reason, host, text }, &target, port);
            } else if !self.hears(attempt.to) {
                self.tell(&not_listed(&target, port), &target, port);
            }
        }
    }

    /// Whether a listener gets what goes there.
    fn hears(&self, to: SocketAddr) -> bool {
        let all = match to {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let heard = |address| {
            self.listeners
                .contains(&SocketAddr::new(address, to.port()))
        };
        heard(to.ip()) || heard(all)
    }

    fn answer_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(QUESTION))?;
        stream.set_write_timeout(Some(QUESTION))?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message)?;
            let Some(answer) = self.answer(&message) else {
                return Ok(());
            };
            let length = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes();
            stream.write_all(&[&length[..], &answer].concat())?;
        }
    }

    fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let answer = stub::answer(message, &mut *self.book.lock().ok()?)?;
        if let Some(name) = answer.refused {
            let text = format!("denied: look up {name}: allow it with --allow-host {name}");
            self.refusals.tell(Reason::Name, "", &name, &text);
        }
        Some(answer.bytes)
    }
}
