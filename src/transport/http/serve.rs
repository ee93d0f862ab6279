//! One connection: HTTP/1.1 or HTTP/2 by its first bytes, each request handed to a [`Handler`].

use super::io::{Meter, Patience, Patient};
use super::two::watch;
use super::{
    Bytes, HeaderMap, HeaderValue, Incoming, Outgoing, Request, Response, Source, StatusCode,
    header,
};
use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Largest header block, in bytes; hyper reads no more than this ahead of a body either.
const HEADER_BYTES: u16 = 32 * 1024;
/// Header fields of one request.
const HEADERS: usize = 100;
/// Streams of one HTTP/2 connection at one time.
const STREAMS: u32 = 128;

/// What a connection may use.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub header: Duration,
    pub idle: Duration,
    pub stall: Duration,
}

/// What answers requests. Everything is on one thread.
pub trait Handler: 'static {
    type Source: Source + Unpin + 'static;
    /// What is known of the other end of a connection.
    type Guest: 'static;

    /// Answers one request; dropped when the client goes away before there is an answer.
    fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        guest: Rc<Self::Guest>,
    ) -> impl Future<Output = Response<Outgoing<Self::Source>>> + 'static;
}

/// What is the same for all connections.
#[derive(Debug)]
pub struct Door {
    bounds: Bounds,
    one: http1::Builder,
    two: http2::Builder<Local>,
}

impl Door {
    /// Connections within these bounds.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let mut one = http1::Builder::new();
        one.timer(TokioTimer::new())
            // `Patient` does it without a timer for each request.
            .header_read_timeout(None)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES.into());
        let mut two = http2::Builder::new(Local);
        two.timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_BYTES.into())
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(20));
        Self { bounds, one, two }
    }
}

/// Serves one connection until either end closes it, or it is too slow.
pub async fn connection<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    guest: H::Guest,
    door: Rc<Door>,
    handler: Rc<H>,
) {
    let meter = Rc::new(Meter::new(Instant::now()));
    let Bounds {
        header,
        idle,
        stall,
    } = door.bounds;
    let patience = Patience {
        header,
        idle,
        stall,
    };
    let mut stream = Patient::new(stream, Rc::clone(&meter), patience);
    let Ok(second) = stream.speaks_http2().await else {
        return;
    };
    let stream = TokioIo::new(stream);
    let guest = Rc::new(guest);
    let watched = Rc::clone(&meter);
    let service = service_fn(move |request: Request<Incoming>| {
        let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let doubt = meter.begin(|head| match chunked {
            true => doubt(head).or_else(|| doubtful_body(request.headers(), head)),
            false => doubt(head),
        });
        let serving = Serving(Rc::clone(&meter));
        let (handler, guest) = (Rc::clone(&handler), Rc::clone(&guest));
        // Boxed, because a connection keeps the room that its service's future takes while it is idle.
        Box::pin(async move {
            let mut response = match doubt {
                Some(words) => doubted(words),
                None => handler.answer(request, guest).await,
            };
            if chunked || doubt.is_some() {
                // What follows a chunked body was perhaps meant as part of it by somebody before us.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response.map(|body| Guarded {
                body: if second { body.in_pieces() } else { body },
                serving,
                owed: None,
            }))
        })
    });
    // A client that breaks off, or is too slow, is its own problem.
    if let Some(owed) = watched.owed() {
        let standing = || watched.standing(owed);
        let connection = door.two.serve_connection(stream, service);
        // Boxed, so that the many connections of HTTP/1.1 have no room for it.
        Box::pin(watch(
            connection,
            |c| c.graceful_shutdown(),
            standing,
            patience,
        ))
        .await;
    } else {
        drop(door.one.serve_connection(stream, service).await);
    }
}

/// Tells a client that there is no room for its connection, without reading what it wants.
pub async fn refuse(mut stream: impl AsyncWrite + Unpin) {
    let words = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let said = tokio::time::timeout(Duration::from_secs(1), stream.write_all(words));
    drop(said.await);
}

/// Tasks of HTTP/2 streams stay on this thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

impl<F: Future + 'static> Executor<F> for Local
where
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

/// What somebody before us may have read otherwise in a header as it was written: a line that ends in LF
/// alone (RFC 9112 §2.2). Of a header that came while another request was answered not all is seen.
fn doubt(head: &[u8]) -> Option<&'static str> {
    let mut begun = false;
    let mut last = None;
    for end in memchr::memchr_iter(b'\n', head) {
        let line = head.get(last.map_or(0, |last| last + 1)..end);
        match line.unwrap_or_default() {
            // Blank lines before the request are nobody's (§2.2).
            b"\r" if !begun => {}
            b"\r" => break,
            // The CR was not seen.
            b"" if last.is_none() => {}
            line if line.ends_with(b"\r") => begun = true,
            _ => return Some("a line of a header ends in CR LF\n"),
        }
        last = Some(end);
    }
    None
}

/// The same of the end of a body that has a transfer coding.
fn doubtful_body(headers: &HeaderMap, head: &[u8]) -> Option<&'static str> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let known = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !codings.next().is_some_and(known) || codings.next().is_some() {
        // It is not undone here, and what is inside would be taken for the body (§6.1).
        return Some("chunked is the only transfer coding\n");
    }
    ambiguous(head).then_some("a body has one length\n")
}

/// True when a chunked request also has a length, or its header was not seen whole: a proxy before us
/// may have found another end of it, and what is left would be somebody else's request (RFC 9112 §6.3).
fn ambiguous(head: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else {
        return true;
    };
    let lines = head
        .get(..end)
        .unwrap_or_default()
        .split(|byte| *byte == b'\n');
    let length = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"content-length")
    };
    lines.skip(1).any(length)
}

fn doubted<S>(words: &'static str) -> Response<Outgoing<S>> {
    let words = Bytes::from_static(words.as_bytes());
    let mut response = Response::new(Outgoing::Whole(words));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

/// Ends a request in the books of its connection, however it ends.
#[derive(Debug)]
struct Serving(Rc<Meter>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

/// A body that is part of its request until it is written.
#[derive(Debug)]
struct Guarded<B> {
    body: B,
    serving: Serving,
    /// The number of a piece that its reader has not taken yet, on HTTP/2.
    owed: Option<usize>,
}

impl<B> Guarded<B> {
    /// Whoever asks again has got rid of the last piece.
    fn account(&mut self, more: bool) {
        if let Some(owed) = self.serving.0.owed() {
            if let Some(number) = self.owed.take() {
                owed.end(number);
            }
            self.owed = more.then(|| owed.begin(Instant::now()));
        }
    }
}

impl<B> Drop for Guarded<B> {
    fn drop(&mut self) {
        self.account(false);
    }
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.account(matches!(frame, Poll::Ready(Some(_))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
