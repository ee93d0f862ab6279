//! The spawner's ear for what the supervisor of a cell refused.

use super::channel::{Channel, Received};
use super::stdio::pass_on;
use crate::cell::CellSpec;
use crate::cell::supervise::refusals;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Lines that are read at once, so that other cells have their turn.
const LINES: usize = 16;

/// Our end, while the other one lives.
#[derive(Debug)]
pub(super) struct Refusals {
    channel: Option<Channel>,
}

impl Refusals {
    /// Of a process without a supervisor.
    pub(super) fn none() -> Self {
        Self { channel: None }
    }

    /// Our end; and the launcher's, which the spec then names, when there may be a supervisor.
    pub(super) fn of(spec: &mut CellSpec) -> io::Result<(Self, Option<OwnedFd>)> {
        if !spec.supervision {
            return Ok((Self { channel: None }, None));
        }
        let (ours, theirs) = Channel::pair()?;
        pass_on(&theirs)?;
        spec.refusals = Some(theirs.as_raw_fd());
        let channel = Some(ours);
        Ok((Self { channel }, Some(theirs)))
    }

    /// What to poll.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// What was told since: what each refusal was about, and a line for people.
    pub(super) fn hear(&mut self) -> Vec<(&'static str, String)> {
        let mut told = Vec::new();
        for _ in 0..LINES {
            let Some(channel) = &self.channel else { break };
            match channel.receive(refusals::LINE) {
                Ok(Received::Datagram(line)) => told.extend(refusals::read(&line.bytes)),
                Ok(Received::Empty) => break,
                // Whoever says what cannot be said is not heard again.
                Ok(Received::Closed) | Err(_) => self.channel = None,
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_said_is_not_heard_and_ends_the_hearing() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (mut refusals, theirs) = (
            Refusals {
                channel: Some(ours),
            },
            Channel::new(theirs),
        );
        theirs.send(b"w\nno", &[]).unwrap();
        theirs.send(b"nonsense", &[]).unwrap();
        theirs.send(b"r\nneither", &[]).unwrap();
        let told = refusals.hear();
        assert_eq!(told, [("write", "no".into()), ("read", "neither".into())]);
        theirs.send(&[b'r'; refusals::LINE + 1], &[]).unwrap();
        theirs.send(b"r\nlate", &[]).unwrap();
        assert_eq!(refusals.hear(), []);
        assert!(refusals.as_fd().is_none());
    }
}
