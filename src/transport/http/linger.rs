//! The end of a connection whose other end may still be sending: what it sends is read and dropped for a
//! while.
//!
//! A socket that is closed over unread bytes is reset, and the reset takes with it what we said last
//! (RFC 1122 §4.2.2.13, RFC 9112 §9.6). Clients that send all of a large body before they read would never
//! learn why it was refused.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep_until};

/// Bytes that are dropped at most.
const MOST: usize = 64 * 1024 * 1024;
/// Who has sent nothing for so long has stopped sending.
const QUIET: Duration = Duration::from_secs(1);
/// Time for all of it.
const TIME: Duration = Duration::from_secs(10);
/// Bytes that are read at once: one TLS record.
const PIECE: usize = 16 * 1024;

/// What is still taken from the other end after we have said all.
#[derive(Debug)]
pub(super) struct Linger {
    left: usize,
    until: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl Linger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: MOST,
            until: now + TIME,
            quiet: Box::pin(sleep_until((now + QUIET).into())),
        }
    }

    /// Ready when the other end has closed, or is waited for no longer.
    pub(super) fn poll(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let mut piece = [0; PIECE];
            let mut buf = ReadBuf::new(&mut piece);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Pending => return self.quiet.as_mut().poll(cx),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            let (got, now) = (buf.filled().len(), Instant::now());
            self.left = self.left.saturating_sub(got);
            if got == 0 || self.left == 0 || now >= self.until {
                return Poll::Ready(());
            }
            let quiet = self.until.min(now + QUIET);
            self.quiet.as_mut().reset(quiet.into());
        }
    }
}
