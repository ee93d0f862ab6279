//! Supervision of a cell without namespaces: what landlock has no right for is done by a process that
//! stands above the server, where the grants allow it.
//!
//! ```text
//! launcher ── fork ──▶ goes on with the launch ── exec ──▶ the server, and all that it starts
//!    │ becomes the supervisor                                  │
//!    │◀─────── the listener, over a socket pair ───────────────┤ before exec
//!    │                                                         │
//!    │◀─────── chmod, utime, inotify_add_watch: it waits ──────┤
//!    │  copies the path ▶ pins the file ▶ still the caller?    │
//!    │  ▶ below a granted descriptor? ▶ acts on the pinned file│
//!    └──────── the result, as if the kernel had given it ─────▶┘
//! ```
//!
//! It is an ancestor of the server, because where Yama restricts tracing only an ancestor may read the
//! server's memory. It is in a landlock domain that grants what the spec grants and `/proc`; the
//! server's own domain lies inside, so landlock lets the supervisor look into processes of
//! the cell and no others, and them not into the supervisor. It has no capability, and a filter that names what it
//! calls (`policy/seccomp/supervisor.toml`). Where hosts are allowed it makes the connections as well
//! (`sockets.rs`, `cell/egress/floor.rs`). It also passes signals on, and ends as the server ended;
//! when it dies, the server is killed by its parent-death signal, and a call that waits gets ENOSYS.

mod grants;
pub mod notice;
pub(super) mod refusals;
mod serve;
mod sockets;
mod watchers;

use super::egress::{Host, Way, Ways};
use super::landlock::{Granted, LandlockError};
use super::launcher::bind_to_parent;
use super::report::Layer;
use super::sys::Unotify;
use super::{CellSpec, caps, landlock, seccomp, signals, sys, variables};
use grants::Grants;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid};
use refusals::Refusals;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid as Child, WaitOptions, WaitStatus, waitpid};
use serve::{Memory, Supervisor};
use sockets::Sockets;
use std::borrow::Cow;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use watchers::Watchers;

/// What the two sides say: the launcher is ready to be looked at; it can be, it can be but for its
/// descriptors, or it cannot (and why); and here is the listener.
const LOOK: u8 = b'H';
const SEEN: u8 = b'R';
const SEEN_FROM_AFAR: u8 = b'W';
const BLIND: u8 = b'F';
const LISTENER: u8 = b'L';
/// The longest reason, in bytes.
const REASON: usize = 512;

/// Who this process is after [`stand_by`].
#[derive(Debug)]
pub(super) enum Side {
    /// The supervisor, after the server has ended.
    Watched(ExitCode),
    /// Its child, on its way to become the server.
    Server { status: File, link: Link },
    /// The process that was started: there is no supervisor, and this is why.
    Alone { status: File, reason: String },
}

/// Who does for the server what landlock has no right for.
#[derive(Debug)]
pub(super) enum Beside {
    /// In namespaces of its own nothing else is within reach.
    Unneeded,
    /// Nobody, and why.
    Nobody(String),
    Supervisor(Link),
}

/// The launcher's way to its supervisor.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: UnixStream,
    /// The supervisor, which is our parent.
    pub(super) parent: i32,
    /// What the launcher's own domain will grant, if it is open since the one around it was made.
    pub(super) granted: Option<Granted>,
    /// Whether the supervisor makes the connections, and so hosts are allowed by name.
    pub(super) by_name: bool,
}

/// What it does for the server's sockets.
#[derive(Debug, Default)]
struct Net {
    /// The way to the relay, where hosts are allowed.
    way: Option<Way>,
    /// Where the server listens, if it does.
    host: Option<Host>,
}

/// Divides this process in two. `status` stays open in the process that becomes the server and nowhere
/// else, because the spawner takes its closing for the execution of the server. `ways` lead to the relay,
/// where hosts are allowed, and to whoever connects to the server.
pub(super) fn stand_by(spec: &CellSpec, status: File, ways: Ways) -> Side {
    let signals = signals::relayed();
    let before = match signals.thread_swap_mask(SigmaskHow::SIG_BLOCK) {
        Ok(before) => before,
        Err(error) => return alone(status, format!("signal mask: {error}")),
    };
    let give_up = |status, reason| {
        before.thread_set_mask().ok();
        alone(status, reason)
    };
    let prepared = match prepare(spec, ways) {
        Ok(prepared) => prepared,
        Err(reason) => return give_up(status, reason),
    };
    let Prepared {
        ours,
        theirs,
        null,
        granted,
        net,
    } = prepared;
    let parent = getpid().as_raw();
    match sys::fork_into(CloneFlags::empty()) {
        Ok(None) => {
            let by_name = net.way.is_some();
            drop((ours, net));
            before.thread_set_mask().ok();
            let stream = theirs;
            let link = Link {
                stream,
                parent,
                granted,
                by_name,
            };
            Side::Server { status, link }
        }
        Ok(Some(child)) => {
            drop((theirs, status));
            Side::Watched(watch(spec, (granted, net), (child, ours), &null, &signals))
        }
        Err(error) => give_up(status, format!("fork: {error}")),
    }
}

fn alone(status: File, reason: String) -> Side {
    Side::Alone { status, reason }
}

/// What both processes need.
struct Prepared {
    ours: UnixStream,
    theirs: UnixStream,
    null: File,
    granted: Option<Granted>,
    net: Net,
}

/// Everything that may fail, and the domain that both processes share. What is given to the server's
/// user is given here, because the domain does not reach it.
fn prepare(spec: &CellSpec, ways: Ways) -> Result<Prepared, String> {
    let abi = landlock::kernel_abi();
    let missing = landlock::missing(abi);
    if let Some((_, reason)) = missing.iter().find(|(layer, _)| *layer == Layer::Landlock) {
        return Err(format!("nothing would confine the supervisor: {reason}"));
    }
    let (ours, theirs) = UnixStream::pair().map_err(|error| format!("socketpair: {error}"))?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| format!("/dev/null: {error}"))?;
    // An ignored SIGCHLD is inherited, and then nothing can be waited for (wait(2)).
    sys::default_action(libc::SIGCHLD).map_err(|error| format!("SIGCHLD: {error}"))?;
    if let Some(user) = spec.account() {
        user.take_own()?;
    }
    prctl::set_no_new_privs().map_err(|error| format!("no_new_privs: {error}"))?;
    let refused = |error: LandlockError| error.to_string();
    let granted = Granted::open(spec, abi).map_err(refused)?;
    let way = ways.egress.map(Way::open).transpose();
    let way = way.map_err(|error| format!("the way to the relay: {error}"))?;
    let outside = spec.serves.map(|it| it.outside.unwrap_or(it.port));
    let host = spec.serves.zip(outside);
    let host = host.map(|(serves, outside)| Host::new(serves.port, outside, ways.door));
    let net = Net { way, host };
    let mut around = Cow::Borrowed(spec);
    if let Some(way) = &net.way {
        around.to_mut().connect_ports = vec![way.port()];
    }
    if let Some(outside) = outside {
        around.to_mut().bind_ports = vec![outside];
    }
    landlock::restrict_around(&around, granted.as_ref(), abi).map_err(refused)?;
    Ok(Prepared {
        ours,
        theirs,
        null,
        granted,
        net,
    })
}

/// The launcher's part, when the main filter is in force: gives the listener to the supervisor.
///
/// # Errors
/// There is no supervision; no call waits for an answer.
pub(super) fn hand_over(link: &mut UnixStream, by_name: bool, serves: bool) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("the supervisor does not answer: {error}");
    // Whoever changed its user hides from everybody until it executes; the supervisor must see it now.
    prctl::set_dumpable(true).map_err(|error| format!("dumpable: {error}"))?;
    link.write_all(&[LOOK]).map_err(broken)?;
    let mut reply = [0; REASON];
    let length = link.read(&mut reply).map_err(broken)?;
    let watchers = match reply.get(..length).unwrap_or_default().split_first() {
        Some((&word @ (SEEN | SEEN_FROM_AFAR), [])) => word == SEEN_FROM_AFAR,
        Some((&BLIND, reason)) => return Err(String::from_utf8_lossy(reason).into_owned()),
        _ => return Err("the supervisor ended before it was ready".to_owned()),
    };
    let listener =
        seccomp::notify::install(watchers, by_name, serves).map_err(|error| error.to_string())?;
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [LISTENER];
    sendmsg(
        &*link,
        &[IoSlice::new(&byte)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
    .map_err(|error| broken(error.into()))
}

/// The supervisor's part: until the server has ended.
fn watch(
    spec: &CellSpec,
    held: (Option<Granted>, Net),
    (server, link): (Pid, UnixStream),
    null: &File,
    signals: &SigSet,
) -> ExitCode {
    prctl::set_name(c"supervise").ok();
    prctl::set_dumpable(false).ok();
    variables::forget();
    // The other end must see the end of file when the server closes its own.
    rustix::stdio::dup2_stdin(null).ok();
    rustix::stdio::dup2_stdout(null).ok();
    rustix::stdio::dup2_stderr(null).ok();
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let (Ok(heard), Some(child)) = (
        SignalFd::with_flags(signals, flags),
        Child::from_raw(server.as_raw()),
    ) else {
        // The server dies with us.
        return ExitCode::from(70);
    };
    // While the launcher does its own part; it waits for this at the end of it.
    let ready = confine(spec, held, child);
    let mut watch = Watch {
        child,
        heard,
        state: State::Waiting(link, ready),
    };
    loop {
        if let Some(end) = watch.turn() {
            let code = end.exit_status().and_then(|code| u8::try_from(code).ok());
            return match end.terminating_signal() {
                Some(signal) => sys::die_by(signal),
                None => ExitCode::from(code.unwrap_or(70)),
            };
        }
    }
}

/// Gives up what it does not need. What is left: looking at the server, and doing what is granted.
fn confine(
    spec: &CellSpec,
    (granted, net): (Option<Granted>, Net),
    child: Child,
) -> Result<Ready, String> {
    let channel = spec.refusals.map(|fd| sys::adopt(&[fd])).transpose();
    let channel = channel.map_err(|error| format!("the way to the spawner: {error}"))?;
    if let Some(user) = spec.account() {
        // Only the same user may read the memory of the server, and end with it.
        user.assume()?;
    }
    bind_to_parent(spec).map_err(|failure| failure.text)?;
    caps::clear()?;
    let tried = spec.canary.as_ref();
    let ready = Ready {
        grants: Grants::new(spec, granted),
        refusals: Refusals::new(
            channel.and_then(|mut fds| fds.pop()),
            tried.and_then(|path| path.canonicalize().ok()),
        ),
        net,
    };
    let number = child.as_raw_nonzero().get().unsigned_abs();
    let (connects, serves) = (ready.net.way.is_some(), ready.net.host.is_some());
    seccomp::own::install_supervisor(number, connects, serves)
        .map_err(|error| error.to_string())?;
    Ok(ready)
}

/// What a confined supervisor has.
#[derive(Debug)]
struct Ready {
    grants: Grants,
    refusals: Refusals,
    net: Net,
}

/// How far the handing over is.
enum State {
    Waiting(UnixStream, Result<Ready, String>),
    Confined(UnixStream, Ready, (Memory, Watchers)),
    Serving(Supervisor),
    /// There is nothing to answer; the launch went on without, or ended.
    Idle,
}

struct Watch {
    child: Child,
    heard: SignalFd,
    state: State,
}

impl Watch {
    /// Waits for something and deals with it; how the server ended, when it has.
    fn turn(&mut self) -> Option<WaitStatus> {
        let other = match &self.state {
            State::Waiting(link, _) | State::Confined(link, ..) => Some(link.as_fd()),
            State::Serving(supervisor) => Some(supervisor.listener.as_fd()),
            State::Idle => None,
        };
        let mut fds = vec![PollFd::from_borrowed_fd(self.heard.as_fd(), PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        poll(&mut fds, None).ok();
        let mut all = fds.iter().map(PollFd::revents);
        let heard = all.next().unwrap_or(PollFlags::empty());
        let said = all.next().unwrap_or(PollFlags::empty());
        drop(fds);
        if said.contains(PollFlags::IN) {
            self.attend();
        } else if !said.is_empty() {
            self.state = State::Idle;
        }
        if heard.is_empty() {
            // Each call of the server that waits comes by here: no more than it takes.
            return None;
        }
        while let Ok(Some(signal)) = self.heard.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                // It is not reaped yet, so the number is still its own.
                Ok(signal) => {
                    let server = Pid::from_raw(self.child.as_raw_nonzero().get());
                    nix::sys::signal::kill(server, signal).ok();
                }
            }
        }
        match waitpid(Some(self.child), WaitOptions::NOHANG) {
            Ok(Some((_, end))) => Some(end),
            Ok(None) | Err(_) => None,
        }
    }

    fn attend(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Waiting(link, ready) => self.look(link, ready),
            State::Confined(link, ready, (memory, watchers)) => match receive(&link) {
                Some((LISTENER, Some(listener))) => {
                    // Before Linux 6.6 a call takes longer, and no more.
                    sys::listen(listener.as_fd(), &mut Unotify::StayNear).ok();
                    let Ready {
                        grants,
                        refusals,
                        net,
                    } = ready;
                    let borrowed = matches!(watchers, Watchers::Borrowed);
                    let sockets = Sockets::new(net, borrowed);
                    State::Serving(Supervisor {
                        listener,
                        grants,
                        memory,
                        watchers,
                        refusals,
                        sockets,
                    })
                }
                _ => State::Idle,
            },
            State::Serving(mut supervisor) => match supervisor.answer() {
                true => State::Serving(supervisor),
                false => State::Idle,
            },
            State::Idle => State::Idle,
        };
    }

    /// The launcher has given up what it must: now we see whether we can read it.
    fn look(&self, link: UnixStream, ready: Result<Ready, String>) -> State {
        if receive(&link).is_none_or(|(word, _)| word != LOOK) {
            return State::Idle;
        }
        let child = self.child.as_raw_nonzero().get();
        let found = ready.and_then(|ready| match Memory::find(child) {
            Ok(memory) => Ok((ready, memory)),
            Err(error) => Err(format!("the memory of the server cannot be read: {error}")),
        });
        match found {
            Ok((ready, memory)) => {
                let watchers = Watchers::of(self.child);
                let word = match watchers {
                    Watchers::Borrowed => SEEN,
                    Watchers::Made(_) => SEEN_FROM_AFAR,
                };
                match say(&link, &[word]) {
                    true => State::Confined(link, ready, (memory, watchers)),
                    false => State::Idle,
                }
            }
            Err(reason) => {
                let mut reply = vec![BLIND];
                reply.extend(reason.bytes().take(REASON - 1));
                say(&link, &reply);
                State::Idle
            }
        }
    }
}

fn say(link: &UnixStream, word: &[u8]) -> bool {
    rustix::net::send(link, word, SendFlags::NOSIGNAL).is_ok()
}

fn receive(link: &UnixStream) -> Option<(u8, Option<OwnedFd>)> {
    let mut word = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut word)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(link, &mut slices, &mut control, flags).ok()?;
    let descriptor = control.drain().find_map(|item| match item {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (received.bytes == 1).then_some((word[0], descriptor))
}
