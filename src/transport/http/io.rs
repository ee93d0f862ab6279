//! A connection with patience that ends: for a header that does not come, and for a reader that does
//! not read. What is still sent when we have said all is read for a while ([`super::linger`]).
//!
//! Timers are set when something is late, not for each request: the one that is set stays until it
//! rings, and then the connection is looked at.

use super::linger::Linger;
use super::two::{Owed, Standing};
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};

/// Bytes of a header that are kept to be looked at.
const KEPT: usize = 32 * 1024;

/// What a connection and its requests know of each other.
#[derive(Debug)]
pub(super) struct Meter {
    /// Requests that are being answered.
    serving: Cell<usize>,
    /// When the last request was finished, or the header began to come.
    since: Cell<Instant>,
    /// Bytes that came while none was being answered: the next header, as it was written. None are kept
    /// of HTTP/2.
    head: RefCell<Vec<u8>>,
    /// Of HTTP/2, which is waited for by other rules ([`super::two`]).
    owed: OnceCell<Owed>,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            serving: Cell::new(0),
            since: Cell::new(now),
            head: RefCell::new(Vec::new()),
            owed: OnceCell::new(),
        }
    }

    /// What its readers have not taken, if it speaks HTTP/2.
    pub(super) fn owed(&self) -> Option<&Owed> {
        self.owed.get()
    }

    /// It speaks HTTP/2.
    fn is_second(&self) {
        self.head.take();
        self.owed.get_or_init(Owed::default);
    }

    /// What a connection of HTTP/2 waits for.
    pub(super) fn standing(&self, owed: &Owed) -> Standing {
        Standing::new(self.serving.get(), self.since.get(), owed)
    }

    /// A request begins; the header that it came with goes to `look`.
    pub(super) fn begin<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        self.serving.set(self.serving.get() + 1);
        look(&self.head.take())
    }

    /// It is answered.
    pub(super) fn end(&self, now: Instant) {
        self.serving.set(self.serving.get().saturating_sub(1));
        self.since.set(now);
    }
}

/// How long a connection may keep us waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a header, from its first byte; also for the first one, from the beginning.
    pub(super) header: Duration,
    /// Between requests.
    pub(super) idle: Duration,
    /// For a reader that takes nothing of what is written.
    pub(super) stall: Duration,
}

/// A stream that fails when the other end is too slow.
#[derive(Debug)]
pub(super) struct Patient<T> {
    inner: T,
    meter: Rc<Meter>,
    patience: Patience,
    fresh: bool,
    alarm: Option<(Instant, Pin<Box<Sleep>>)>,
    stall: Option<Pin<Box<Sleep>>>,
    /// The other end sends no more.
    ended: bool,
    /// We have said all.
    linger: Option<Box<Linger>>,
    /// Bytes that were looked at and are still to be read.
    first: ([u8; PREFACE.len()], u8),
}

/// What a client that speaks HTTP/2 without being asked begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<T> Patient<T> {
    pub(super) fn new(inner: T, meter: Rc<Meter>, patience: Patience) -> Self {
        Self {
            inner,
            meter,
            patience,
            fresh: true,
            alarm: None,
            stall: None,
            ended: false,
            linger: None,
            first: ([0; PREFACE.len()], 0),
        }
    }

    /// When the other end is late, if nothing comes until then.
    fn late_at(&self) -> Option<Instant> {
        let meter = &self.meter;
        if meter.serving.get() > 0 || meter.owed().is_some() {
            return None;
        }
        let patience = match self.fresh || !meter.head.borrow().is_empty() {
            true => self.patience.header,
            false => self.patience.idle,
        };
        Some(meter.since.get() + patience)
    }

    /// Nothing came: fails when that has lasted too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(late) = self.late_at() else {
            return Ok(());
        };
        if self.alarm.as_ref().is_none_or(|(set, _)| *set > late) {
            self.alarm = Some((late, Box::pin(sleep_until(late.into()))));
        }
        while let Some((_, alarm)) = &mut self.alarm
            && alarm.as_mut().poll(cx).is_ready()
        {
            if late <= Instant::now() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.alarm = Some((late, Box::pin(sleep_until(late.into()))));
        }
        Ok(())
    }

    fn stalled<R>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if done.is_ready() {
            self.stall = None;
            return done;
        }
        let patience = self.patience.stall;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(sleep_until((Instant::now() + patience).into())));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> Patient<T> {
    /// Looks at the first bytes, which are read again afterwards.
    ///
    /// # Errors
    /// Those of reading; nothing came, or nothing in time.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        loop {
            let (bytes, count) = &self.first;
            let seen = bytes.get(..usize::from(*count)).unwrap_or_default();
            if !PREFACE.starts_with(seen) {
                return Ok(false);
            }
            if seen.len() == PREFACE.len() {
                self.meter.is_second();
                self.alarm = None;
                return Ok(true);
            }
            let (mut piece, left) = ([0; PREFACE.len()], PREFACE.len() - seen.len());
            let mut buf = ReadBuf::new(piece.get_mut(..left).unwrap_or_default());
            poll_fn(|cx| self.poll_inner(cx, &mut buf)).await?;
            if buf.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (bytes, count) = &mut self.first;
            for byte in buf.filled() {
                if let Some(place) = bytes.get_mut(usize::from(*count)) {
                    *place = *byte;
                    *count += 1;
                }
            }
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.inner).poll_read(cx, buf);
        if done.is_pending() {
            return match self.wait(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        let got = buf.filled().get(before..).unwrap_or_default();
        self.ended |= got.is_empty() && buf.remaining() > 0;
        if self.meter.serving.get() == 0 && !got.is_empty() && self.meter.owed().is_none() {
            let mut head = self.meter.head.borrow_mut();
            if head.is_empty() && !self.fresh {
                self.meter.since.set(Instant::now());
            }
            let room = KEPT.saturating_sub(head.len()).min(got.len());
            head.extend_from_slice(got.get(..room).unwrap_or_default());
            drop(head);
            self.fresh = false;
        }
        done
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (bytes, count) = &mut self.first;
        let room = buf.remaining().min((*count).into());
        if let (1.., Some(seen)) = (room, bytes.get(..room)) {
            buf.put_slice(seen);
            bytes.rotate_left(room);
            *count -= u8::try_from(room).unwrap_or(*count);
            return Poll::Ready(Ok(()));
        }
        self.poll_inner(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.stalled(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.stalled(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_flush(cx);
        self.stalled(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            let done = Pin::new(&mut this.inner).poll_shutdown(cx);
            ready!(this.stalled(cx, done))?;
        }
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        let begun = || Box::new(Linger::new(Instant::now()));
        let linger = this.linger.get_or_insert_with(begun);
        linger.poll(&mut this.inner, cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PATIENCE: Patience = Patience {
        header: Duration::from_millis(100),
        idle: Duration::from_millis(100),
        stall: Duration::from_millis(100),
    };

    fn run<T>(work: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(work)
    }

    fn pair(
        text: &[u8],
    ) -> (
        std::os::unix::net::UnixStream,
        Patient<tokio::net::UnixStream>,
    ) {
        use std::io::Write;
        let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.write_all(text).unwrap();
        let near = tokio::net::UnixStream::from_std(near).unwrap();
        let meter = Rc::new(Meter::new(Instant::now()));
        (far, Patient::new(near, meter, PATIENCE))
    }

    #[test]
    fn the_first_bytes_are_looked_at_and_read_again() {
        run(async {
            for (text, second) in [
                (&b"POST /mcp HTTP/1.1\r\n\r\n and a body"[..], false),
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes", true),
                (b"PRI * HTTP/1.1\r\n\r\n", false),
                (b"G", false),
            ] {
                let (far, mut stream) = pair(text);
                assert_eq!(stream.speaks_http2().await.unwrap(), second);
                drop(far);
                let mut all = Vec::new();
                let mut few = [0; 5];
                let got = stream.read(&mut few).await.unwrap();
                all.extend_from_slice(&few[..got]);
                stream.read_to_end(&mut all).await.unwrap();
                assert_eq!(all, text);
            }
        });
    }

    #[test]
    fn who_says_nothing_or_reads_nothing_is_given_up() {
        run(async {
            let (_far, mut stream) = pair(b"PRI");
            let error = stream.speaks_http2().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let (_far, mut stream) = pair(b"");
            let error = stream.write_all(&vec![b'x'; 8 << 20]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
