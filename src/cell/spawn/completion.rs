//! One program in a cell of its own that is waited for: what the spawner does before a server starts,
//! with an ear for whoever no longer waits.

use super::cell::{Launched, START_LIMIT, StartError, exit_of, timespec};
use super::channel::Channel;
use super::event::Event;
use super::protocol::Exit;
use super::server::parent_is_gone;
use super::signals::Signals;
use super::tree;
use crate::cell::{CellSpec, LaunchFailure, LayerReport};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitStatus, getpid};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A cell that ran to its end.
#[derive(Debug)]
pub struct Completion {
    pub exit: Exit,
    pub report: LayerReport,
}

/// The spawner's ears while it does something long: it still notices when nobody waits any more.
#[derive(Debug)]
pub struct Watch<'a> {
    pub(super) control: &'a Channel,
    pub(super) signals: &'a Signals,
    /// The cell that is being prepared.
    pub(super) cell: u32,
    /// Main processes of other cells, which live on.
    pub(super) others: Vec<Pid>,
    /// Children that ended meanwhile.
    pub(super) reaped: Vec<(Pid, WaitStatus)>,
}

/// The way to the operator alone.
#[derive(Debug, Clone, Copy)]
pub struct Teller<'a> {
    control: &'a Channel,
    cell: u32,
}

impl Teller<'_> {
    /// Shows the operator one line; dropped when the message process does not read.
    pub fn tell(&self, text: impl Into<String>) {
        let event = Event::Progress {
            cell: self.cell,
            text: text.into(),
        };
        if let Ok((bytes, fds)) = event.encode() {
            drop(self.control.send(&bytes, &fds));
        }
    }
}

impl<'a> Watch<'a> {
    /// Shows the operator one line; dropped when the message process does not read.
    pub fn progress(&self, text: impl Into<String>) {
        self.teller().tell(text);
    }

    /// Shows lines while the watch is lent to [`run_to_completion`].
    #[must_use]
    pub fn teller(&self) -> Teller<'a> {
        Teller {
            control: self.control,
            cell: self.cell,
        }
    }

    /// Waits, for example for a lock, with open ears.
    ///
    /// # Errors
    /// Nobody waits for the result any more.
    pub fn pause(&mut self, time: Duration) -> Result<(), StartError> {
        self.reap();
        wait(self, None, None, None, Instant::now() + time)
    }

    fn reap(&mut self) {
        let reaped = &mut self.reaped;
        tree::reap(&mut |pid, status| reaped.push((pid, status)));
    }

    fn ended(&self, pid: Pid) -> Option<Exit> {
        self.reaped
            .iter()
            .find(|(p, _)| *p == pid)
            .map(|(_, status)| exit_of(*status))
    }
}

/// Runs one program in a cell of its own until it ends, and everything that it started with it.
///
/// Stdin is empty; what it writes to stdout and stderr goes to `output` in pieces as it comes. The
/// other cells' events wait meanwhile.
///
/// # Errors
/// The cell cannot be entered, the time is over, or the message process is gone; in each case
/// nothing of the cell is left.
pub fn run_to_completion(
    spec: &CellSpec,
    watch: &mut Watch<'_>,
    limit: Duration,
    output: &mut dyn FnMut(&[u8]),
) -> Result<Completion, StartError> {
    let os = |doing| move |source| StartError::Os { doing, source };
    let (mut read, write) = io::pipe().map_err(os("make a pipe"))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(|e| os("set up a pipe")(e.into()))?;
    let stderr = write.try_clone().map_err(os("make a pipe"))?;
    let mut spec = spec.clone();
    spec.parent = getpid().as_raw_nonzero().get();
    let (stdin, stdout) = (Stdio::null(), Stdio::from(write));
    let mut launched = Launched::start(&spec, stdin, stdout, stderr.into(), None, None)?;
    let deadline = Instant::now() + limit;
    let mut verdict = None;
    let outcome = loop {
        watch.reap();
        let ended = watch.ended(launched.pid);
        verdict = verdict.or_else(|| launched.listen(ended.is_some()));
        if let Some(exit) = ended {
            break Ok(exit);
        }
        let entering = launched.deadline().filter(|d| Instant::now() >= *d);
        if entering.is_some() {
            break Err(StartError::Slow {
                seconds: START_LIMIT.as_secs(),
            });
        }
        if Instant::now() >= deadline {
            break Err(StartError::Endless {
                seconds: limit.as_secs(),
            });
        }
        let heard = wait(
            watch,
            launched.status(),
            Some(&read),
            launched.deadline(),
            deadline,
        );
        if heard.is_err() {
            break Err(StartError::Abandoned);
        }
        pour(&mut read, output);
    };
    let mut late = Vec::new();
    tree::kill_all_but(&watch.others, &mut |pid, status| late.push((pid, status)));
    watch.reaped.append(&mut late);
    pour(&mut read, output);
    let exit = outcome?;
    match verdict {
        Some(Ok(report)) => Ok(Completion { exit, report }),
        Some(Err(LaunchFailure { code, text })) => Err(StartError::Refused {
            exit_code: code,
            message: text,
        }),
        None => Err(StartError::Slow { seconds: 0 }),
    }
}

/// Waits for anything; an error when the message process is gone.
fn wait(
    watch: &Watch<'_>,
    status: Option<&io::PipeReader>,
    output: Option<&io::PipeReader>,
    entering: Option<Instant>,
    deadline: Instant,
) -> Result<(), StartError> {
    let until = entering.map_or(deadline, |e| e.min(deadline));
    let left = until.saturating_duration_since(Instant::now());
    let mut fds = vec![
        // Requests wait: only a hang-up, which is always reported, ends this.
        PollFd::from_borrowed_fd(watch.control.as_fd(), PollFlags::empty()),
        PollFd::from_borrowed_fd(watch.signals.as_fd(), PollFlags::IN),
    ];
    for pipe in [status, output].into_iter().flatten() {
        fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
    }
    match poll(&mut fds, Some(&timespec(left))) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(_) => return Err(StartError::Abandoned),
    }
    let hung_up = fds.first().is_some_and(|fd| !fd.revents().is_empty());
    // An output pipe at its end stays readable; without this pause a daemon that closed its
    // output would make the loop spin until it ends.
    if let Some(pipe) = fds.last()
        && pipe.revents() == PollFlags::HUP
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    let seen = watch.signals.take();
    if hung_up || (seen.terminate && parent_is_gone()) {
        return Err(StartError::Abandoned);
    }
    Ok(())
}

fn pour(read: &mut io::PipeReader, output: &mut dyn FnMut(&[u8])) {
    let mut chunk = [0; 8192];
    // Bounded, so that a flood cannot keep the caller from its deadline.
    for _ in 0..64 {
        match read.read(&mut chunk) {
            Ok(n) if n > 0 => output(chunk.get(..n).unwrap_or_default()),
            Ok(_) | Err(_) => return,
        }
    }
}
