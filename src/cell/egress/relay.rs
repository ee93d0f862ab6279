//! `cofferdam __egress CONTROL EVENTS PARENT RULE… [-- RANGE…]`: the process outside that answers
//! the cell's name server and makes its connections.
//!
//! One thread waits for all that was opened inside; each connection has a thread of its own with a
//! small stack, and ends with it. The process dies with the spawner.

use super::address::special;
use super::greeting::{self, Greeting};
use super::handover::{self, Kind};
use super::lookup::{self, Family};
use super::refusals::Refusals;
use super::rules::{Book, Rules, Target};
use super::{cage, splice, stub, watch};
use crate::cell::sys;
use crate::config::{AddressRange, EgressRule};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SocketFlags, sockopt};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
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
/// A client that says nothing for this long may be waiting for the host to speak first.
const FIRST: Duration = Duration::from_millis(50);
/// For the rest of what a client says first, once it has begun.
const WHOLE: Duration = Duration::from_secs(5);
/// For all addresses of one host.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence on both sides, in seconds, after which a connection ends.
const IDLE: i64 = 2 * 60 * 60;
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
    let cage = cage::confine(&rules.ports())?;
    let sockets = handover::receive(control.as_fd()).map_err(|error| said(&error))?;
    drop(control);
    if sockets.is_empty() {
        return Ok(None);
    }
    cage.close()?;
    let shared = Shared {
        book: Mutex::new(Book::new(rules.clone())),
        rules,
        private,
        refusals: Refusals::new(events),
        connections: AtomicUsize::new(0),
        most,
    };
    let shared = Arc::new(shared);
    Ok(Some(Relay { sockets, shared }))
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
    shared: Arc<Shared>,
}

/// What all connections use.
struct Shared {
    book: Mutex<Book>,
    rules: Rules,
    /// Ranges that are not public, to which allowed names may lead all the same.
    private: Vec<AddressRange>,
    refusals: Refusals,
    connections: AtomicUsize,
    most: usize,
}

impl Relay {
    fn run(self) -> ExitCode {
        for (_, socket) in &self.sockets {
            rustix::io::ioctl_fionbio(socket, true).ok();
        }
        loop {
            let sockets = self.sockets.iter().map(|(_, socket)| socket.as_fd());
            let mut fds: Vec<PollFd<'_>> = sockets
                .chain([self.shared.refusals.channel()])
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            match poll(&mut fds, None) {
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
            // The spawner has nothing to say but that the cell has ended; what it had tried until
            // then has been told in this round.
            if ready.last() == Some(&true) {
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
        let shared = Arc::clone(&self.shared);
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= shared.most {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            reset(&stream);
            let most = shared.most;
            let text = format!("denied: more than {most} connections at the same time");
            shared.refusals.tell(&text);
            return;
        }
        let place = Place(shared);
        let thread = std::thread::Builder::new().stack_size(STACK);
        // Without a thread the connection is closed by what the closure drops.
        let spawned = thread.spawn(move || match kind {
            Kind::Names => place.0.answer_stream(stream).unwrap_or(()),
            _ => place.0.connect(&stream),
        });
        drop(spawned);
    }
}

/// Counts one connection for as long as it lives.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The end of a connection that the client hears as a refusal.
fn reset(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).ok();
}

/// What the first bytes of a client decide.
enum Decision {
    Wait,
    Pass,
    Refuse(String),
}

impl Shared {
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
            let port = attempt.to.port();
            let Ok(target) = self.book.lock().map(|book| book.target(attempt.to.ip())) else {
                return;
            };
            let host = shown(&target, port);
            if attempt.datagram {
                self.refusals.tell(&format!(
                    "denied: a datagram to {host}: only TCP can be allowed"
                ));
            } else if !self.rules.allow(&target, port) {
                self.refusals.tell(&not_listed(&host));
            }
        }
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
            self.refusals.tell(&text);
        }
        Some(answer.bytes)
    }

    /// One connection, from its first byte to its last.
    fn connect(&self, client: &TcpStream) {
        if let Err(reason) = self.relay(client) {
            reset(client);
            if !reason.is_empty() {
                self.refusals.tell(&reason);
            }
        }
    }

    /// The error is what the operator should hear; empty for the ends that connections have.
    fn relay(&self, client: &TcpStream) -> Result<(), String> {
        let meant = client.local_addr().map_err(|_| String::new())?;
        let port = meant.port();
        let target = {
            let book = self.book.lock().map_err(|_| String::new())?;
            book.target(meant.ip().to_canonical())
        };
        if !self.rules.allow(&target, port) {
            let host = shown(&target, port);
            return Err(not_listed(&host));
        }
        client.set_nodelay(true).ok();
        let mut inspector = match &target {
            Target::Name(name) => Some(Inspector::new(name, port)),
            // The operator wrote down an address: whatever answers there is meant.
            Target::Address(_) => None,
        };
        if let Some(inspect) = &mut inspector
            && inspect.settle(client)?
        {
            inspector = None;
        }
        let host = self.reach(&target, port)?;
        host.set_nodelay(true).ok();
        let mut refused = String::new();
        let mut look = inspector.map(|mut inspect| {
            let refused = &mut refused;
            move |client: &TcpStream| match inspect.look(client) {
                Decision::Wait => None,
                Decision::Pass => Some(true),
                Decision::Refuse(reason) => {
                    *refused = reason;
                    Some(false)
                }
            }
        });
        let inspect = look.as_mut().map(|look| -> splice::Inspect<'_> { look });
        let carried = splice::carry(client, &host, IDLE, inspect);
        drop(look);
        match carried {
            Ok(_) => Ok(()),
            Err(_) => {
                // What one side hears as an error the other does too.
                reset(&host);
                Err(refused)
            }
        }
    }

    /// Looks up, checks, and connects to what was checked.
    fn reach(&self, target: &Target, port: u16) -> Result<TcpStream, String> {
        let host = shown(target, port);
        let deadline = Instant::now() + CONNECT;
        let name = match target {
            Target::Address(address) => {
                let addresses = self.rules.same(*address, port);
                return self.reach_any(&host, &addresses, port, deadline);
            }
            Target::Name(name) => name,
        };
        // IPv6 only where IPv4 leads nowhere: most names have both, and one question is faster.
        let mut last = format!("cannot look up {host}: there is no such name");
        for family in [Family::Four, Family::Six] {
            match lookup::resolve(name, family) {
                Ok(addresses) if addresses.is_empty() => {}
                Ok(addresses) => match self.reach_any(&host, &addresses, port, deadline) {
                    Ok(stream) => return Ok(stream),
                    Err(reason) => last = reason,
                },
                // Why the other family leads nowhere says more.
                Err(_) if last.starts_with("denied") => {}
                Err(error) => last = format!("cannot look up {host}: {error}"),
            }
        }
        Err(last)
    }

    fn reach_any(
        &self,
        host: &str,
        addresses: &[IpAddr],
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, String> {
        let mut last = String::new();
        for address in addresses {
            let place = SocketAddr::new(*address, port);
            if let Some(what) = self.closed(*address, port) {
                last = format!(
                    "denied: connect to {host}: it is at {address}, {what}: allow it with --allow-host {place}"
                );
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&place, left) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("cannot connect to {host} at {address}: {error}"),
            }
        }
        Err(last)
    }

    /// Why an address may not be connected to, unless it is listed.
    fn closed(&self, address: IpAddr, port: u16) -> Option<&'static str> {
        let what = special(address)?;
        let listed = self.rules.lists(address, port)
            || self.private.iter().any(|range| range.holds(address));
        (!listed).then_some(what)
    }
}

fn not_listed(host: &str) -> String {
    format!("denied: connect to {host}: allow it with --allow-host {host}")
}

fn shown(target: &Target, port: u16) -> String {
    match target {
        Target::Name(name) => format!("{name}:{port}"),
        Target::Address(address) => SocketAddr::new(*address, port).to_string(),
    }
}

/// Looks at what a client says first, without taking it away.
struct Inspector<'a> {
    name: &'a str,
    port: u16,
    bytes: Vec<u8>,
    begun: Option<Instant>,
}

impl<'a> Inspector<'a> {
    fn new(name: &'a str, port: u16) -> Self {
        Self {
            name,
            port,
            bytes: vec![0; greeting::LIMIT],
            begun: None,
        }
    }

    /// Waits for a client that speaks first; `false` when it waits for the host.
    fn settle(&mut self, client: &TcpStream) -> Result<bool, String> {
        let begin = Instant::now();
        loop {
            match self.look(client) {
                Decision::Pass => return Ok(true),
                Decision::Refuse(reason) => return Err(reason),
                Decision::Wait => {}
            }
            if self.begun.is_some() {
                // The bytes that are there keep the socket readable.
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let left = FIRST.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&patience)).ok();
        }
    }

    fn look(&mut self, client: &TcpStream) -> Decision {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let length = match rustix::net::recv(client, &mut self.bytes[..], flags) {
            // It ended: nothing that could be meant for somebody else.
            Ok((0, _)) => return Decision::Pass,
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Decision::Wait,
            Err(_) => return Decision::Refuse(String::new()),
        };
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let (name, port) = (self.name, self.port);
        let bytes = self.bytes.get(..length).unwrap_or_default();
        let odd = |what: &str| {
            Decision::Refuse(format!(
                "denied: connect to {name}:{port}: it began with {what}"
            ))
        };
        let other = |protocol: &str, host: &str| {
            Decision::Refuse(format!(
                "denied: connect to {name}:{port} for {host} ({protocol}): allow it with --allow-host {host}:{port}"
            ))
        };
        match greeting::read(bytes) {
            Greeting::More if length >= greeting::LIMIT => odd("more than we look at"),
            Greeting::More if begun.elapsed() > WHOLE => odd("half a request"),
            Greeting::More => Decision::Wait,
            Greeting::Malformed(what) => odd(what),
            Greeting::Other => Decision::Pass,
            Greeting::Tls(Some(host)) if host != name => other("TLS", &host),
            // Some clients send none for a name without a dot (RFC 6066 leaves it open).
            Greeting::Tls(None) if name.contains('.') => odd("TLS without a server name"),
            Greeting::Http(Some(host)) if host != name => other("HTTP", &host),
            Greeting::Tls(_) | Greeting::Http(_) => Decision::Pass,
        }
    }
}
