//! The process that makes a cell's connections: started beside the launcher, heard, and ended with
//! the cell.

use super::channel::{Channel, Received};
use super::companion::{self, Companion};
use crate::cell::egress::{LONGEST, News};
use crate::cell::{CellSpec, pair};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long it may take over what it has not told when the cell has ended.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// Messages that are read at once, so that other cells have their turn.
const AT_ONCE: usize = 16;

/// What of it is ours.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) companion: Companion,
    events: Option<Channel>,
}

/// The way by which the sockets of a cell get out, its two ends; `None` when no host is allowed, or
/// nobody will use it.
pub(super) fn way_out(spec: &CellSpec) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    if spec.egress.is_empty() || !(spec.namespaces || spec.supervision) {
        return Ok(None);
    }
    pair::packets().map(Some)
}

impl Relay {
    /// Starts `cofferdam __egress`, which gets the sockets of the cell over `control`.
    pub(super) fn start(spec: &CellSpec, control: OwnedFd) -> io::Result<Self> {
        let (events, theirs) = Channel::pair()?;
        let mut command = companion::command("__egress", [&control, &theirs])?;
        command
            .args(spec.egress.iter().map(ToString::to_string))
            .arg("--")
            .args(&spec.egress_private);
        Ok(Self {
            companion: Companion::start(&mut command)?,
            events: Some(events),
        })
    }

    /// Asks it to end, and returns what it still had to tell; the cell has ended.
    pub(super) fn finish(&mut self) -> Vec<News> {
        let mut lines = Vec::new();
        let begin = Instant::now();
        if let Some(events) = self.events() {
            rustix::net::shutdown(events, Shutdown::Write).ok();
        }
        while let Some(events) = self.events() {
            let left = LAST_WORDS.saturating_sub(begin.elapsed());
            if left.is_zero() {
                break;
            }
            let mut fds = [PollFd::from_borrowed_fd(events, PollFlags::IN)];
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: left.subsec_nanos().into(),
            };
            poll(&mut fds, Some(&patience)).ok();
            lines.extend(self.hear());
        }
        self.companion.end();
        lines
    }

    /// What to poll, while it lives.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// What it has told; afterwards [`Relay::events`] says whether it still lives.
    pub(super) fn hear(&mut self) -> Vec<News> {
        let mut all = Vec::new();
        while let Some(events) = &self.events
            && all.len() < AT_ONCE
        {
            match events.receive(LONGEST) {
                // What is no news does not come from a relay that is itself.
                Ok(Received::Datagram(told)) => all.extend(News::decode(&told.bytes)),
                Ok(Received::Empty) => break,
                Ok(Received::Closed) => self.events = None,
                // Too long.
                Err(_) => {}
            }
        }
        all
    }
}
