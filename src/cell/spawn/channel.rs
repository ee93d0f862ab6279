//! Datagrams with descriptors over one end of a SOCK_SEQPACKET pair, never blocking.

use super::protocol::MAX_FDS;
use crate::cell::pair;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One end of the pair.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
}

/// One datagram as it came.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// What a receive found.
#[derive(Debug)]
pub(super) enum Received {
    Datagram(Datagram),
    /// Nothing yet.
    Empty,
    /// The other side is gone.
    Closed,
}

impl Channel {
    /// Both ends, close-on-exec.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pair::packets()?;
        Ok((Self { socket: ours }, theirs))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends one datagram. A peer that does not read makes this fail with `WouldBlock` once the
    /// socket buffer (about 200 KiB) is full.
    pub(super) fn send(&self, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives one datagram of at most `limit` bytes; a longer one, or one with more descriptors
    /// than any message has, is `InvalidData`.
    pub(super) fn receive(&self, limit: usize) -> io::Result<Received> {
        let mut bytes = vec![0; limit];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.socket, &mut slices, &mut control, flags) {
                Ok(message) => break message,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Err(error) => return Err(error.into()),
            }
        };
        let mut fds = Vec::new();
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = item {
                fds.extend(received);
            }
        }
        if message
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        // Empty datagrams do not occur in the protocol, so zero bytes mean end of file.
        if message.bytes == 0 {
            return Ok(Received::Closed);
        }
        bytes.truncate(message.bytes);
        Ok(Received::Datagram(Datagram { bytes, fds }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_keeps_its_edges_and_its_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs);
        let (read, write) = io::pipe().unwrap();
        ours.send(b"one", &[]).unwrap();
        ours.send(b"two", &[OwnedFd::from(write)]).unwrap();
        let Received::Datagram(one) = theirs.receive(64).unwrap() else {
            panic!("no datagram")
        };
        assert_eq!((&one.bytes[..], one.fds.len()), (&b"one"[..], 0));
        let Received::Datagram(two) = theirs.receive(64).unwrap() else {
            panic!("no datagram")
        };
        assert_eq!((&two.bytes[..], two.fds.len()), (&b"two"[..], 1));
        let flags = rustix::io::fcntl_getfd(&two.fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        drop(two);
        assert_eq!(io::read_to_string(read).unwrap(), "");
    }

    #[test]
    fn nothing_yet_an_oversize_datagram_and_the_end_are_told_apart() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs);
        assert!(matches!(theirs.receive(64).unwrap(), Received::Empty));
        ours.send(&[7; 65], &[]).unwrap();
        assert_eq!(
            theirs.receive(64).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        drop(ours);
        assert!(matches!(theirs.receive(64).unwrap(), Received::Closed));
    }
}
