//! The tasks: each waits for one descriptor, or for the clock, and works on the state when it has
//! something.

use super::seat::Seat;
use super::server::{Role, Server};
use super::state::Gate;
use super::who::Guest;
use crate::app::drain::{Drain, Drained};
use crate::app::wake::readable;
use crate::identity::Certificate;
use crate::mcp::Direction;
use crate::proxy::Outbox;
use crate::telemetry::logs::SERVER;
use crate::transport::frame::{Frame, FrameBuf};
use crate::transport::http::{Bounds, Door, Listener, Peer, Stream, connection, refuse};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;

/// A connection that sends nothing is closed after so long.
const IDLE: Duration = Duration::from_secs(75);
/// A reader that takes nothing of what is written to it is given up after so long.
const STALL: Duration = Duration::from_secs(30);
/// The server of a session is not read for so long because a client of it reads slowly.
const PAUSE: Duration = Duration::from_secs(2);

/// Accepts connections until the gate closes.
pub(super) async fn accept(gate: Rc<Gate>, listener: Listener) {
    let door = Rc::new(Door::new(Bounds {
        header: gate.listen.header_timeout,
        idle: IDLE,
        stall: STALL,
    }));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors is a passing state; spinning on it would not make it pass.
                tracing::warn!("the listener cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let full = gate.connections.get() >= gate.listen.connections;
        let slot = Slot::take(&gate);
        if full && gate.tls.is_some() {
            // Whatever we said before a handshake would not be understood.
            continue;
        }
        let (gate, door) = (Rc::clone(&gate), Rc::clone(&door));
        drop(match (stream, full) {
            (Stream::Tcp(stream), true) => spawn_local(async move {
                refuse(stream).await;
                drop(slot);
            }),
            (Stream::Unix(stream), true) => spawn_local(async move {
                refuse(stream).await;
                drop(slot);
            }),
            (Stream::Tcp(stream), false) => spawn_local(async move {
                welcome(stream, peer, door, gate).await;
                drop(slot);
            }),
            (Stream::Unix(stream), false) => spawn_local(async move {
                welcome(stream, peer, door, gate).await;
                drop(slot);
            }),
        });
    }
}

/// Serves one connection, after a handshake where there is TLS.
async fn welcome(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Peer,
    door: Rc<Door>,
    gate: Rc<Gate>,
) {
    let Some(tls) = &gate.tls else {
        let guest = Guest::new(&peer, None);
        return connection(stream, guest, door, gate).await;
    };
    let shaken = tokio::time::timeout(gate.listen.header_timeout, tls.accept(stream)).await;
    let Ok(Ok(stream)) = shaken else {
        gate.metrics.tls_failed.inc();
        return;
    };
    let leaf = stream.get_ref().1.peer_certificates();
    let leaf = leaf.and_then(|chain| chain.first());
    let Ok(certificate) = leaf.map(|leaf| Certificate::parse(leaf)).transpose() else {
        // What TLS takes and we cannot read is nobody's proof of anything.
        gate.metrics.tls_failed.inc();
        return;
    };
    let guest = Guest::new(&peer, certificate);
    // Boxed, so that connections without TLS have no room for it.
    Box::pin(connection(stream, guest, door, gate)).await;
}

/// Counts one connection for as long as it lives.
struct Slot(Rc<Gate>);

impl Slot {
    fn take(gate: &Rc<Gate>) -> Self {
        gate.connections.set(gate.connections.get() + 1);
        gate.metrics.http_connections.inc();
        Self(Rc::clone(gate))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.metrics.http_connections.dec();
    }
}

/// A descriptor that the runtime waits for.
#[expect(
    deprecated,
    reason = "its successor is unsafe because some types change their descriptor; an OwnedFd has one for life"
)]
pub(in crate::app) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// Waits until a descriptor is readable, again and again while `news` wants more. One whose other end
/// is closed is readable for ever.
pub(super) async fn watch(fd: OwnedFd, mut news: impl FnMut() -> bool) -> io::Result<()> {
    let fd = watched(fd, Interest::READABLE)?;
    loop {
        let mut guard = fd.readable().await?;
        if !news() {
            return Ok(());
        }
        guard.clear_ready();
    }
}

/// Reads the answers of one server until there are no more.
pub(super) async fn read(gate: Rc<Gate>, cell: u32, process: u64, from: OwnedFd) {
    let cap = usize::try_from(gate.config().limits.response.0).unwrap_or(usize::MAX);
    let mut frames = FrameBuf::new(cap);
    let Ok(from) = watched(from, Interest::READABLE) else {
        return gate.mute(cell, process);
    };
    'server: loop {
        let Ok(mut guard) = from.readable().await else {
            break;
        };
        loop {
            match frames.read_now(from.get_ref().as_fd()) {
                Ok(0) => break 'server,
                Ok(_) => {
                    // A pipe that gave less than it could is empty; what comes then is news (epoll(7)).
                    let more = frames.is_brimful();
                    let Some(clogged) = gate.take(cell, process, &mut frames) else {
                        return;
                    };
                    for seat in clogged {
                        // Its client may be busy; one that takes nothing for long loses its stream.
                        let room = poll_fn(|cx| seat.poll_room(cx));
                        if tokio::time::timeout(PAUSE, room).await.is_err() {
                            seat.cut();
                        }
                    }
                    if !more {
                        guard.clear_ready();
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    break;
                }
                Err(_) => break 'server,
            }
        }
    }
    if let Some(last) = frames.finish() {
        gate.take_frame(cell, process, &frames, last);
    }
    gate.mute(cell, process);
}

/// Logs what a server says on stderr until it says no more.
pub(super) async fn drain(gate: Rc<Gate>, cell: u32, process: u64, from: OwnedFd) {
    let name = gate.config().server.name.clone();
    let Ok(pipe) = from.try_clone() else {
        return;
    };
    let mut drain = Drain::new(from, Instant::now());
    let Ok(pipe) = watched(pipe, Interest::READABLE) else {
        return;
    };
    loop {
        let Ok(mut guard) = pipe.readable().await else {
            return;
        };
        // The pipe may be one that blocks: it is asked before each read.
        while readable(drain.as_fd(), Duration::ZERO) {
            let mut lines = Vec::new();
            let lost = |lost| gate.metrics.stderr_dropped.inc_by(lost);
            let read = drain.read(Instant::now(), |line| lines.push(line.to_vec()), lost);
            gate.work(|state| {
                state.with_process(cell, process, |_, server: &mut Server| {
                    for line in &lines {
                        let text = server.session.stderr_line(line);
                        tracing::info!(target: SERVER, server = name.as_str(), "{text}");
                    }
                });
            });
            if !matches!(read, Ok(Drained::More)) {
                return;
            }
        }
        guard.clear_ready();
    }
}

/// Writes what requests that came together have left for their servers: one write for all of them.
pub(super) async fn flush(gate: Rc<Gate>) {
    loop {
        gate.unsent.notified().await;
        let mut state = gate.state.borrow_mut();
        let cells = std::mem::take(&mut state.unsent);
        let mut full = Vec::new();
        for cell in cells {
            let left = state.with(cell, |_, server| {
                server.process.inlet.flush();
                server.process.inlet.wants_pump()
            });
            if left == Some(true) {
                full.push(cell);
            }
        }
        // Nobody needs to be told of those again.
        state.unsent.clear();
        drop(state);
        for cell in full {
            pump(&gate, cell);
        }
    }
}

/// Writes what a server has not taken yet, as it takes it.
fn pump(gate: &Rc<Gate>, cell: u32) {
    let begun = gate.state.borrow_mut().with(cell, |_, server| {
        let outlet = server.process.inlet.outlet()?;
        let fd = outlet.as_fd().try_clone_to_owned().ok()?;
        server.process.inlet.pumped = true;
        Some((fd, server.process.number))
    });
    let Some((fd, process)) = begun.flatten() else {
        return;
    };
    let gate = Rc::clone(gate);
    drop(spawn_local(async move {
        let fd = watched(fd, Interest::WRITABLE);
        loop {
            let guard = match &fd {
                Ok(fd) => fd.writable().await,
                Err(_) => return,
            };
            let Ok(mut guard) = guard else { return };
            let left = gate.work(|state| {
                state.with_process(cell, process, |_, server| {
                    let inlet = &mut server.process.inlet;
                    inlet.flush();
                    // What is left when nobody reads any more is for the next one.
                    let left = inlet.outlet().is_some() && inlet.waiting() > 0;
                    inlet.pumped = left;
                    left
                })
            });
            if left != Some(true) {
                return;
            }
            guard.clear_ready();
        }
    }));
}

impl Gate {
    /// Every line that has been read, and the readers of a session that are behind; `None` when that
    /// server is of no interest any more.
    fn take(
        self: &Rc<Self>,
        cell: u32,
        process: u64,
        frames: &mut FrameBuf,
    ) -> Option<Vec<Rc<Seat>>> {
        let now = Instant::now();
        let there = self.work(|state| {
            state.with_process(cell, process, |state, server| {
                let mut lines = 0;
                let mut seen = None;
                while let Some(frame) = frames.next() {
                    lines += 1;
                    if let Frame::Line(line) = &frame {
                        seen = Some(line.next());
                    }
                    state.frame(server, frames, frame, now);
                }
                if let Some(seen) = seen {
                    frames.release(seen);
                }
                if lines > 0 {
                    let took = Instant::now().saturating_duration_since(now);
                    let tally = server.session.tally();
                    tally.overhead(Direction::ToClient, took, lines);
                }
                state.release(server, now);
                (server.session.next_due(), state.behind(server))
            })
        });
        let (due, behind) = there?;
        self.wake_by(due);
        Some(behind)
    }

    fn take_frame(self: &Rc<Self>, cell: u32, process: u64, frames: &FrameBuf, frame: Frame) {
        let now = Instant::now();
        self.work(|state| {
            state.with_process(cell, process, |state, server| {
                state.frame(server, frames, frame, now);
            });
        });
    }
}

impl super::state::State {
    /// Readers that are behind, where nobody else has to wait for them.
    fn behind(&self, server: &Server) -> Vec<Rc<Seat>> {
        let Role::Own(party) = server.role else {
            return Vec::new();
        };
        let get = self.visits.get(&party).and_then(|visit| visit.get.as_ref());
        let posts = server
            .exchanges
            .iter()
            .map(|(_, exchange)| &exchange.place.seat);
        let all = posts.chain(get).filter(|seat| seat.is_clogged());
        all.cloned().collect()
    }

    fn frame(&mut self, server: &mut Server, frames: &FrameBuf, frame: Frame, now: Instant) {
        match frame {
            Frame::Line(line) => self.server_line(server, frames.bytes(line.range()), now),
            Frame::Partial(text) => self.server_line(server, frames.bytes(text), now),
            Frame::TooLong { .. } if server.role.is_beside() => {}
            Frame::TooLong { id, bytes } => {
                let mut out = Outbox::default();
                server
                    .session
                    .oversize_from_server(id, bytes, now, &mut out);
                self.send(server, out, now);
            }
        }
    }
}
