//! HTTP towards one server: connections that are used again, HTTP/2 where TLS agrees on it, redirects not
//! followed, and an error that says whether the request may have been heard.

use super::serve::Local;
use super::{
    Bytes, HeaderMap, HeaderValue, Incoming, Method, Request, Response, StatusCode, header,
};
use crate::config::Endpoint;
use crate::transport::tls::ClientTls;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;

/// Connections of HTTP/1.1 at one time; a stream of events has one for itself.
pub const CONNECTIONS: usize = 256;
/// A request that finds all of them in use waits for so long.
const ROOM: Duration = Duration::from_secs(10);
/// A connection that was not used for so long is not used again: servers close theirs from 5 s on, and a
/// request that crosses that may have been heard.
const FRESH: Duration = Duration::from_secs(4);
/// Idle connections that are kept: as many as there may be, because making one costs more than a request.
const IDLE: usize = CONNECTIONS;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest header block, in bytes.
const HEADER_BYTES: u32 = 64 * 1024;
/// Header fields of one answer.
const HEADERS: usize = 128;

/// Makes connections to the server, and to nobody else.
pub trait Dial: 'static {
    /// A connected socket that does not block; or why there is none.
    fn dial(&self) -> impl Future<Output = Result<TcpStream, String>>;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server was not reached: it has heard nothing.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke off, or what came is no HTTP: the server may have acted.
    #[error("the connection broke off: {0}")]
    Broken(String),
    /// All connections stayed in use: the server has heard nothing.
    #[error("all {CONNECTIONS} connections to it are in use")]
    Crowded,
}

/// A client of one server. Everything is on one thread.
#[derive(Debug)]
pub struct Client<D> {
    place: Endpoint,
    tls: Option<ClientTls>,
    dial: D,
    idle: RefCell<Vec<Idle>>,
    two: RefCell<Option<http2::SendRequest<Full<Bytes>>>>,
    room: std::sync::Arc<Semaphore>,
    /// Requests that wait for room.
    waiting: Cell<usize>,
}

/// Counts one request that waits, for as long as it does.
struct Waits<'c>(&'c Cell<usize>);

impl<'c> Waits<'c> {
    fn begin(count: &'c Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[derive(Debug)]
struct Idle {
    lane: One,
    until: Instant,
}

/// A connection of HTTP/1.1.
#[derive(Debug)]
struct One {
    sender: http1::SendRequest<Full<Bytes>>,
    _permit: OwnedSemaphorePermit,
}

enum Lane {
    One(One),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// An answer, its body still on its way. Dropping it before its end ends the exchange.
#[derive(Debug)]
pub struct Answer<D> {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    lane: Option<(Rc<Client<D>>, One)>,
}

impl<D: Dial> Client<D> {
    /// A client that has no connection yet.
    #[must_use]
    pub fn new(place: Endpoint, tls: Option<ClientTls>, dial: D) -> Self {
        Self {
            place,
            tls,
            dial,
            idle: RefCell::default(),
            two: RefCell::default(),
            room: std::sync::Arc::new(Semaphore::new(CONNECTIONS)),
            waiting: Cell::new(0),
        }
    }

    /// How connections are made.
    pub fn dialer(&self) -> &D {
        &self.dial
    }

    /// Sends a request and waits for the head of its answer, however long that takes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(
        self: &Rc<Self>,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer<D>, ClientError> {
        self.send_to(&self.place.target, method, headers, body)
            .await
    }

    /// True when a request would have to wait for a connection.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let open = self
            .two
            .borrow()
            .as_ref()
            .is_some_and(|two| !two.is_closed());
        self.room.available_permits() == 0 && self.idle.borrow().is_empty() && !open
    }

    /// The same for another path and query of the server; `target` must be proved to be such.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_to(
        self: &Rc<Self>,
        target: &str,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer<D>, ClientError> {
        // One more than can be idle: a new connection is the last resort.
        for _ in 0..=IDLE + 1 {
            let (lane, fresh) = self.lane().await?;
            let (unsent, why) = match lane {
                Lane::One(mut lane) => {
                    let request =
                        self.request((false, target), method.clone(), headers, body.clone());
                    match lane.sender.try_send_request(request).await {
                        Ok(answer) => return Ok(self.answer(answer, Some(lane))),
                        Err(mut error) => (error.take_message().is_some(), error.into_error()),
                    }
                }
                Lane::Two(mut sender) => {
                    let request =
                        self.request((true, target), method.clone(), headers, body.clone());
                    match sender.try_send_request(request).await {
                        Ok(answer) => return Ok(self.answer(answer, None)),
                        Err(mut error) => {
                            self.two.take();
                            (error.take_message().is_some(), error.into_error())
                        }
                    }
                }
            };
            if !unsent {
                return Err(ClientError::Broken(why.to_string()));
            }
            if fresh {
                return Err(ClientError::Unreachable(why.to_string()));
            }
        }
        Err(ClientError::Unreachable(
            "no connection stays open".to_owned(),
        ))
    }

    fn answer(self: &Rc<Self>, answer: Response<Incoming>, lane: Option<One>) -> Answer<D> {
        let (head, body) = answer.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
            lane: lane.map(|lane| (Rc::clone(self), lane)),
        }
    }

    fn request(
        &self,
        (second, target): (bool, &str),
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.headers_mut() = headers.clone();
        let target = match second {
            true => format!("{}{target}", self.place.origin()),
            false => target.to_owned(),
        };
        // It was proved to be a URL when it was configured.
        *request.uri_mut() = target.parse().unwrap_or_default();
        if !second && let Ok(host) = HeaderValue::from_str(&self.place.authority()) {
            request.headers_mut().insert(header::HOST, host);
        }
        request
    }

    /// A connection, and whether it is a new one.
    async fn lane(&self) -> Result<(Lane, bool), ClientError> {
        let now = Instant::now();
        if let Some(sender) = self.two.borrow().as_ref().filter(|two| !two.is_closed()) {
            return Ok((Lane::Two(sender.clone()), false));
        }
        while let Some(idle) = self.idle.borrow_mut().pop() {
            if idle.until > now && idle.lane.sender.is_ready() {
                return Ok((Lane::One(idle.lane), false));
            }
        }
        let room = std::sync::Arc::clone(&self.room).acquire_owned();
        let waits = Waits::begin(&self.waiting);
        let room = tokio::time::timeout(ROOM, room).await;
        drop(waits);
        let room = room.map_err(|_| ClientError::Crowded)?;
        let permit = room.map_err(|_| ClientError::Unreachable("it is ending".to_owned()))?;
        let stream = self.dial.dial().await.map_err(ClientError::Unreachable)?;
        let unusable = |error: &dyn std::fmt::Display| ClientError::Unreachable(error.to_string());
        let stream = tokio::net::TcpStream::from_std(stream).map_err(|error| unusable(&error))?;
        let Some(tls) = &self.tls else {
            return Ok((Lane::One(one(stream, permit).await?), true));
        };
        let shaken = tokio::time::timeout(HANDSHAKE, tls.connect(stream)).await;
        let stream = shaken
            .map_err(|_| unusable(&"its TLS handshake does not end"))?
            .map_err(|error| unusable(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Ok((Lane::One(one(stream, permit).await?), true));
        }
        let sender = two(stream).await?;
        *self.two.borrow_mut() = Some(sender.clone());
        Ok((Lane::Two(sender), true))
    }

    fn keep(&self, lane: One, patience: Duration) {
        let mut idle = self.idle.borrow_mut();
        // Whoever waits for room waits for a connection to end: one that is kept would be in its way.
        if self.waiting.get() == 0 && !lane.sender.is_closed() && idle.len() < IDLE {
            let until = Instant::now() + patience.min(FRESH);
            idle.push(Idle { lane, until });
        }
    }
}

async fn one(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    permit: OwnedSemaphorePermit,
) -> Result<One, ClientError> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ClientError::Unreachable(error.to_string()))?;
    drop(spawn_local(async move { drop(connection.await) }));
    Ok(One {
        sender,
        _permit: permit,
    })
}

async fn two(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> Result<http2::SendRequest<Full<Bytes>>, ClientError> {
    let (sender, connection) = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ClientError::Unreachable(error.to_string()))?;
    drop(spawn_local(async move { drop(connection.await) }));
    Ok(sender)
}

impl<D: Dial> Answer<D> {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// The body broke off.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    self.lane = None;
                    return Err(ClientError::Broken(error.to_string()));
                }
                None => {
                    if let Some((client, lane)) = self.lane.take() {
                        client.keep(lane, patience(&self.headers));
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The whole body, if it has at most `cap` bytes; `None` when it has more.
    ///
    /// # Errors
    /// The body broke off.
    pub async fn whole(&mut self, cap: usize) -> Result<Option<Vec<u8>>, ClientError> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await? {
            if all.len() + piece.len() > cap {
                return Ok(None);
            }
            all.extend_from_slice(&piece);
        }
        Ok(Some(all))
    }
}

/// How long the server says that it keeps an idle connection, less what a request may be on its way.
fn patience(headers: &HeaderMap) -> Duration {
    let text = headers
        .get("keep-alive")
        .and_then(|value| value.to_str().ok());
    let seconds = text.and_then(|text| {
        let mut parts = text.split(',').map(str::trim);
        parts.find_map(|part| part.strip_prefix("timeout=")?.parse::<u64>().ok())
    });
    seconds.map_or(FRESH, |seconds| {
        Duration::from_secs(seconds.saturating_sub(1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    struct Straight(std::net::SocketAddr);

    impl Dial for Straight {
        async fn dial(&self) -> Result<TcpStream, String> {
            let stream = TcpStream::connect(self.0).map_err(|error| error.to_string())?;
            stream.set_nonblocking(true).unwrap();
            Ok(stream)
        }
    }

    /// Answers each request after a moment, on connections that stay open.
    fn serve(stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            if line.ends_with("\r\n\r\n") {
                line.clear();
                std::thread::sleep(Duration::from_millis(500));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if reader.get_mut().write_all(answer).is_err() {
                    return;
                }
            }
        }
    }

    #[test]
    fn more_requests_than_connections_are_answered_in_turn() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || serve(stream));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let place: Endpoint = format!("http://{address}/mcp").parse().unwrap();
        let client = Rc::new(Client::new(place, None, Straight(address)));
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let all: Vec<_> = (0..CONNECTIONS + 40)
                .map(|_| {
                    let client = Rc::clone(&client);
                    spawn_local(async move {
                        let headers = HeaderMap::new();
                        let sent = client.send(Method::POST, &headers, Bytes::new()).await;
                        sent.unwrap().whole(10).await.unwrap().unwrap()
                    })
                })
                .collect();
            for one in all {
                let answered = tokio::time::timeout(ROOM / 2, one).await;
                assert_eq!(answered.unwrap().unwrap(), b"ok");
            }
            assert_eq!(client.waiting.get(), 0);
        });
    }
}
