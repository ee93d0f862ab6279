//! Bodies: those of requests, read within a cap and a time, and those of answers.

use super::{Bytes, Incoming};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than the cap; not more than that was kept.
    #[error("the body is too large")]
    TooLarge,
    /// It did not come in time.
    #[error("the body did not come in time")]
    Slow,
    /// The connection broke off, or what came is no body.
    #[error("the body broke off")]
    Broken,
}

/// Reads a whole body of at most `cap` bytes within `time`.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_body(mut body: Incoming, cap: usize, time: Duration) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > cap as u64 {
        return Err(BodyError::TooLarge);
    }
    // A small body has come with its header, and a timer is set only for what is still on its way.
    let first =
        match std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await {
            Poll::Ready(None) => return Ok(Bytes::new()),
            Poll::Ready(Some(frame)) => frame
                .map_err(|_| BodyError::Broken)?
                .into_data()
                .unwrap_or_default(),
            Poll::Pending => Bytes::new(),
        };
    if body.is_end_stream() && first.len() <= cap {
        return Ok(first);
    }
    // Boxed, because few bodies come in pieces and every request has room for what it may wait for.
    let rest = async move { collect(&mut body, first, cap).await };
    let rest = Box::pin(tokio::time::timeout(time, rest));
    rest.await.unwrap_or(Err(BodyError::Slow))
}

/// Lets a small body pass that nobody wants; true when all of it has. A client that is answered while it
/// still sends may take that for a broken stream and never see the answer (curl does, on HTTP/2). After a
/// larger one the connection is not used again: it is read to its end while it closes.
pub async fn discard(body: Incoming) -> bool {
    const SMALL: usize = 64 * 1024;
    const TIME: Duration = Duration::from_secs(1);
    let most = body.size_hint().upper();
    let small = most.is_some_and(|most| most <= SMALL as u64);
    body.is_end_stream() || small && read_body(body, SMALL, TIME).await.is_ok()
}

async fn collect(body: &mut Incoming, first: Bytes, cap: usize) -> Result<Bytes, BodyError> {
    let hint = usize::try_from(body.size_hint().lower())
        .unwrap_or(cap)
        .min(cap);
    let mut all = Vec::with_capacity(first.len() + hint);
    all.extend_from_slice(&first);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() {
            all.extend_from_slice(&data);
        }
        if all.len() > cap {
            return Err(BodyError::TooLarge);
        }
    }
    if all.len() > cap {
        return Err(BodyError::TooLarge);
    }
    Ok(all.into())
}

/// Something that goes on giving bytes until it ends.
pub trait Source {
    /// The next piece; `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

/// Bytes of a piece of an answer that goes in pieces.
const PIECE: usize = 16 * 1024;

/// The body of an answer.
#[derive(Debug)]
pub enum Outgoing<S> {
    /// All of it; taken once.
    Whole(Bytes),
    /// All of it, taken in pieces ([`Self::in_pieces`]).
    Pieces(Bytes),
    /// Pieces as they come.
    Stream(S),
}

impl<S> Outgoing<S> {
    /// No body at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// The same, in pieces of at most one frame of HTTP/2 (RFC 9113 §4.2): whoever writes it keeps no more
    /// of it than that, and asks for the next when one is taken.
    #[must_use]
    pub fn in_pieces(self) -> Self {
        match self {
            Self::Whole(bytes) if bytes.len() > PIECE => Self::Pieces(bytes),
            other => other,
        }
    }
}

impl<S: Source + Unpin> Body for Outgoing<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) | Self::Pieces(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Pieces(bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(source) => source
                .poll_next(cx)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) | Self::Pieces(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) | Self::Pieces(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
