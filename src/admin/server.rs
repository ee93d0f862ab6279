//! The listener: five routes, bounded in every direction, refused to other people's browsers.

use super::Health;
use crate::config::AdminAddr;
use crate::telemetry::Metrics;
use crate::transport::socket::listen_unix;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

/// Connections at one time; a scraper needs one. The oldest makes room for the next, so that nobody who
/// holds them keeps a probe from its answer.
const CONNECTIONS: usize = 32;
/// Time for a client to send its header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one connection, which is for one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest header block.
const HEADER_BYTES: usize = 16 * 1024;
/// Time that the event loop has to answer before it counts as dead.
const BEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error("the admin listener cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    /// Its thread or runtime cannot be made.
    #[error("the admin listener cannot start: {source}")]
    Start { source: io::Error },
}

/// A listener with all that it will need, from before the process gave up the power to open it.
#[derive(Debug)]
pub struct Server {
    /// What it listens on, with the port that the kernel chose for port 0.
    pub address: String,
    listener: Listener,
    runtime: tokio::runtime::Runtime,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Server {
    /// Listens; nobody is answered yet.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub fn listen(address: &AdminAddr) -> Result<Self, AdminError> {
        let named = |source| AdminError::Listen {
            address: address.to_string(),
            source,
        };
        let (listener, address) = match address {
            AdminAddr::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(named)?;
                listener.set_nonblocking(true).map_err(named)?;
                let bound = listener.local_addr().map_err(named)?.to_string();
                (Listener::Tcp(listener), bound)
            }
            AdminAddr::Unix(path) => {
                let listener = listen_unix(path).map_err(named)?;
                (Listener::Unix(listener), format!("unix:{}", path.display()))
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| AdminError::Start { source })?;
        Ok(Self {
            address,
            listener,
            runtime,
        })
    }

    /// Serves on a thread of its own until the process ends.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn serve(self, health: Arc<Health>, metrics: Arc<Metrics>) -> Result<(), AdminError> {
        let Self {
            listener, runtime, ..
        } = self;
        std::thread::Builder::new()
            .name("admin".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || runtime.block_on(serve(listener, health, metrics)))
            .map_err(|source| AdminError::Start { source })?;
        Ok(())
    }
}

async fn serve(listener: Listener, health: Arc<Health>, metrics: Arc<Metrics>) {
    let mut open = Open::default();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            match listener {
                Listener::Tcp(listener) => {
                    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                        return;
                    };
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => {
                                open.add(connection(stream, &health, &metrics, true));
                            }
                            Err(error) => pause(&error).await,
                        }
                    }
                }
                Listener::Unix(listener) => {
                    let Ok(listener) = tokio::net::UnixListener::from_std(listener) else {
                        return;
                    };
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => {
                                open.add(connection(stream, &health, &metrics, false));
                            }
                            Err(error) => pause(&error).await,
                        }
                    }
                }
            }
        })
        .await;
}

/// The connections that are open, the oldest first.
#[derive(Debug, Default)]
struct Open(VecDeque<AbortHandle>);

impl Open {
    fn add(&mut self, connection: AbortHandle) {
        self.0.retain(|open| !open.is_finished());
        if self.0.len() >= CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

/// Out of descriptors is a passing state; spinning on it would not make it pass.
async fn pause(error: &io::Error) {
    tracing::warn!("the admin listener cannot accept: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn connection<S>(
    stream: S,
    health: &Arc<Health>,
    metrics: &Arc<Metrics>,
    network: bool,
) -> AbortHandle
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    let serving = tokio::task::spawn_local(async move {
        let service = service_fn(|request: Request<Incoming>| {
            let (health, metrics) = (Arc::clone(&health), Arc::clone(&metrics));
            async move { Ok::<_, Infallible>(answer(&request, &health, &metrics, network).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        // A client that breaks off, or stays too long, is its own problem.
        drop(tokio::time::timeout(CONNECTION_TIMEOUT, served).await);
    });
    serving.abort_handle()
}

async fn answer(
    request: &Request<Incoming>,
    health: &Health,
    metrics: &Metrics,
    network: bool,
) -> Response<Full<Bytes>> {
    if network && !addressed_to_us(request) {
        return text(
            StatusCode::FORBIDDEN,
            "this Host or Origin is not served here\n",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/health" => {
            let live = live(health).await;
            let summary = health.summary(live);
            let status = if summary["ready"] == true {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            typed(
                status,
                "application/json",
                format!("{summary:#}\n").into_bytes(),
            )
        }
        "/health/live" => verdict(live(health).await),
        "/health/ready" => verdict(health.ready()),
        "/health/startup" => verdict(health.has_started()),
        "/metrics" => {
            // At a beat the loop publishes what it has counted; without one, what it said last is shown.
            live(health).await;
            typed(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                metrics.render(),
            )
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "try /health, /health/live, /health/ready or /metrics\n",
        ),
    }
}

/// A page in somebody's browser can reach a loopback port by a name that it controls (DNS
/// rebinding), but it cannot choose the Host header: an address or `localhost` is never its name.
fn addressed_to_us(request: &Request<Incoming>) -> bool {
    if request.headers().contains_key(ORIGIN) {
        return false;
    }
    let Some(host) = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
    else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Asks the event loop for a beat and waits for it.
async fn live(health: &Health) -> bool {
    let before = health.ask();
    let waited = tokio::time::timeout(BEAT_TIMEOUT, async {
        while health.beats() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.is_ok()
}

fn verdict(good: bool) -> Response<Full<Bytes>> {
    if good {
        text(StatusCode::OK, "ok\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "unavailable\n")
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    typed(
        status,
        "text/plain; charset=utf-8",
        body.as_bytes().to_vec(),
    )
}

fn typed(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Facts, Phase};
    use crate::transport::socket::remove_socket;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::fs;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    /// An admin listener with an event loop that answers beats until the test ends.
    fn start(address: &AdminAddr) -> (String, Arc<Health>) {
        let health = Arc::new(Health::new(Facts::default()).unwrap());
        let metrics = Arc::new(Metrics::new().unwrap());
        let server = Server::listen(address).unwrap();
        let bound = server.address.clone();
        server.serve(Arc::clone(&health), metrics).unwrap();
        let loop_side = Arc::clone(&health);
        std::thread::spawn(move || {
            loop {
                let mut asked = [PollFd::new(loop_side.asked(), PollFlags::POLLIN)];
                poll(&mut asked, PollTimeout::NONE).unwrap();
                loop_side.beat();
            }
        });
        (bound, health)
    }

    fn ask(address: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(address: &str, path: &str) -> String {
        ask(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        )
    }

    #[test]
    fn live_and_ready_are_told_apart() {
        let (server, health) = start(&AdminAddr::Tcp("127.0.0.1:0".parse().unwrap()));
        assert!(get(&server, "/health/live").starts_with("HTTP/1.1 200"));
        assert!(get(&server, "/health/ready").starts_with("HTTP/1.1 503"));
        health.enter(Phase::Serving);
        assert!(get(&server, "/health/ready").starts_with("HTTP/1.1 200"));
        let summary = get(&server, "/health");
        assert!(summary.contains("\"phase\": \"serving\""), "{summary}");
        assert!(get(&server, "/metrics").contains("cofferdam_build_info"));
    }

    #[test]
    fn a_loop_that_does_not_answer_is_not_live() {
        let health = Arc::new(Health::new(Facts::default()).unwrap());
        health.enter(Phase::Serving);
        let metrics = Arc::new(Metrics::new().unwrap());
        let address = AdminAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let server = Server::listen(&address).unwrap();
        let bound = server.address.clone();
        server.serve(health, metrics).unwrap();
        assert!(get(&bound, "/health/live").starts_with("HTTP/1.1 503"));
    }

    #[test]
    fn who_holds_all_connections_keeps_no_probe_from_its_answer() {
        let (server, _health) = start(&AdminAddr::Tcp("127.0.0.1:0".parse().unwrap()));
        let hold = |request: &str| {
            let mut stream = TcpStream::connect(&server).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        };
        let ask = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
        // Silent, in the midst of a header, and not reading.
        for request in ["", "GET /health/li", &ask.repeat(100)] {
            let held: Vec<TcpStream> = (0..CONNECTIONS + 8).map(|_| hold(request)).collect();
            let mut probe = hold(ask);
            probe
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            let mut answer = String::new();
            // It ends with its answer, so that it holds nothing either.
            probe.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            drop(held);
        }
    }

    #[test]
    fn names_and_origins_of_others_are_refused() {
        let (server, _health) = start(&AdminAddr::Tcp("127.0.0.1:0".parse().unwrap()));
        for head in [
            "Host: evil.example",
            "Host: localhost\r\nOrigin: https://evil.example",
            "X: y",
        ] {
            let request = format!("GET /metrics HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n");
            let answer = ask(&server, &request);
            assert!(!answer.starts_with("HTTP/1.1 200"), "{head}: {answer}");
            assert!(!answer.contains("cofferdam_build_info"), "{head}: {answer}");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let (address, _health) = start(&AdminAddr::Tcp("127.0.0.1:0".parse().unwrap()));
        let again = AdminAddr::Tcp(address.parse().unwrap());
        let error = Server::listen(&again).unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    }

    #[test]
    fn a_unix_socket_is_private_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/admin.sock");
        fs::create_dir(dir.path().join("run")).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let (_, _health) = start(&AdminAddr::Unix(path.clone()));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut stream = UnixStream::connect(&path).unwrap();
        stream
            .write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let taken = Server::listen(&AdminAddr::Unix(path.clone()));
        assert!(taken.is_err());
        let us = std::process::id().try_into().unwrap();
        remove_socket(&path, 1);
        assert!(path.exists(), "it is not that of process 1");
        remove_socket(&path, us);
        assert!(!path.exists());
        fs::write(&path, "x").unwrap();
        remove_socket(&path, us);
        assert!(path.exists(), "a file is no socket");
    }
}
