//! What was refused: each once, with the words that would allow it, and only so many.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

/// Refusals that are told; what comes after is summed up in one line.
const TOLD: usize = 64;

/// The way to the spawner, and what has gone over it.
#[derive(Debug)]
pub(super) struct Refusals {
    channel: OwnedFd,
    told: Mutex<HashSet<String>>,
}

impl Refusals {
    pub(super) fn new(channel: OwnedFd) -> Self {
        Self {
            channel,
            told: Mutex::default(),
        }
    }

    /// Readable when the spawner wants no more of us.
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Tells the operator, if this is new. Never waits.
    pub(super) fn tell(&self, text: &str) {
        let line = {
            let Ok(mut told) = self.told.lock() else {
                return;
            };
            if told.len() > TOLD || told.contains(text) {
                return;
            }
            told.insert(text.to_owned());
            if told.len() > TOLD {
                "further refusals of the network are not told"
            } else {
                text
            }
        };
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        rustix::net::send(&self.channel, line.as_bytes(), flags).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    #[test]
    fn each_is_told_once_and_a_flood_is_summed_up() {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        let refusals = Refusals::new(theirs);
        for number in 0..1000 {
            refusals.tell(&format!("host {number}"));
            refusals.tell("host 0");
        }
        drop(refusals);
        let mut lines = Vec::new();
        let mut bytes = [0; 100];
        loop {
            let (count, _) = recv(&ours, &mut bytes[..], RecvFlags::empty()).unwrap();
            if count == 0 {
                break;
            }
            lines.push(String::from_utf8(bytes[..count].to_vec()).unwrap());
        }
        assert_eq!(lines.len(), TOLD + 1);
        assert_eq!(lines[1], "host 1");
        assert!(lines[TOLD].starts_with("further"), "{}", lines[TOLD]);
    }
}
