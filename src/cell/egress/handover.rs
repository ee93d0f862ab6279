//! Sockets that were made inside of the cell, on their way out over a SOCK_SEQPACKET pair.
//!
//! A datagram is one byte for each descriptor that comes with it; the end of file ends the handover.

use super::floor;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors in one datagram; the kernel takes 253 (`SCM_MAX_FD`).
const CHUNK: usize = 32;
/// Descriptors in one handover.
pub(super) const MOST: usize = 512;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Questions to the name server, as datagrams.
    Questions,
    /// Listens for questions over TCP.
    Names,
    /// Listens for connections.
    Connections,
    /// Sees attempts at what is not open.
    Attempts,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Questions => b'Q',
            Self::Names => b'N',
            Self::Connections => b'C',
            Self::Attempts => b'A',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Questions,
            Self::Names,
            Self::Connections,
            Self::Attempts,
        ];
        all.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Sends them all. The other side keeps copies; ours are the caller's to drop.
pub(super) fn send(control: BorrowedFd<'_>, sockets: &[(Kind, OwnedFd)]) -> io::Result<()> {
    for chunk in sockets.chunks(CHUNK) {
        let words: Vec<u8> = chunk.iter().map(|(kind, _)| kind.byte()).collect();
        let borrowed: Vec<BorrowedFd<'_>> = chunk.iter().map(|(_, fd)| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let slices = [IoSlice::new(&words)];
        rustix::net::sendmsg(control, &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// What came.
#[derive(Debug)]
pub(super) enum Handed {
    /// All sockets of a network; none when whoever should have sent them has gone without.
    Sockets(Vec<(Kind, OwnedFd)>),
    /// There is no such network: connections come one by one ([`floor`]).
    Floor,
}

/// Waits for all of them.
pub(super) fn receive(control: BorrowedFd<'_>) -> io::Result<Handed> {
    let mut all = Vec::new();
    loop {
        let mut words = [0; CHUNK];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut words)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = match rustix::net::recvmsg(control, &mut slices, &mut ancillary, flags) {
            Ok(message) => message,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut fds = Vec::new();
        for item in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = item {
                fds.extend(received);
            }
        }
        if message.bytes == 0 {
            return Ok(Handed::Sockets(all));
        }
        if words.get(..message.bytes) == Some(&[floor::HELLO]) && fds.is_empty() {
            // What a network gave that did not come about is nobody's.
            return Ok(Handed::Floor);
        }
        let kinds = words.get(..message.bytes).unwrap_or_default();
        let kinds: Option<Vec<Kind>> = kinds.iter().map(|byte| Kind::of(*byte)).collect();
        let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
        match kinds {
            Some(kinds) if kinds.len() == fds.len() && !message.flags.intersects(cut) => {
                all.extend(kinds.into_iter().zip(fds));
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        if all.len() > MOST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::pair;

    #[test]
    fn all_sockets_arrive_in_order_and_end_with_the_sender() {
        let (ours, theirs) = pair::packets().unwrap();
        let sockets: Vec<(Kind, OwnedFd)> = (0..70)
            .map(|n| {
                let kind = if n == 0 {
                    Kind::Questions
                } else {
                    Kind::Connections
                };
                (kind, std::fs::File::open("/dev/null").unwrap().into())
            })
            .collect();
        send(ours.as_fd(), &sockets).unwrap();
        drop(ours);
        let Handed::Sockets(got) = receive(theirs.as_fd()).unwrap() else {
            panic!("no sockets");
        };
        assert_eq!(got.len(), 70);
        assert_eq!((got[0].0, got[69].0), (Kind::Questions, Kind::Connections));
    }

    #[test]
    fn nonsense_is_an_error() {
        let (ours, theirs) = pair::packets().unwrap();
        rustix::net::send(&ours, b"C", SendFlags::empty()).unwrap();
        assert!(receive(theirs.as_fd()).is_err());
    }
}
