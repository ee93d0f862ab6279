//! The clients: connections that are kept and ask again as soon as they are answered.

use super::target::Target;
use memchr::memmem;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

/// Nobody waits longer for one answer.
const SILENCE: Duration = Duration::from_secs(20);

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// Alone.
    Json,
    /// Behind a notification, as events.
    Sse,
}

/// What the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2026-07-28: no sessions.
    Modern,
    /// 2025-11-25: one session for each connection, where the server wants one.
    Legacy,
}

/// What one slice has shown: microseconds, and requests a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) rate: f64,
}

/// `clients` connections to one target, for so long.
pub(crate) fn slice(
    target: &Target,
    era: Era,
    shape: Shape,
    clients: usize,
    length: Duration,
) -> io::Result<Figures> {
    let connector = target.authority().map(connector).transpose()?;
    let times = Rc::new(RefCell::new(Vec::with_capacity(1 << 16)));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let took = runtime.enable_all().build()?.block_on(async {
        let mut open = Vec::with_capacity(clients);
        for _ in 0..clients {
            let stream = TcpStream::connect(target.address()).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match &connector {
                Some(connector) => {
                    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                    Box::new(connector.connect(name, stream).await?)
                }
                None => Box::new(stream),
            };
            let mut client = Client::new(stream);
            client.greet(target, era).await?;
            open.push(client);
        }
        let begun = Instant::now();
        let until = begun + length;
        let work = LocalSet::new();
        let asked: Vec<_> = open
            .into_iter()
            .map(|mut client| {
                let times = Rc::clone(&times);
                let request = client.request(target, era, shape);
                work.spawn_local(async move {
                    while Instant::now() < until {
                        let asked = Instant::now();
                        let answer = client.ask(&request);
                        let answer = tokio::time::timeout(SILENCE, answer).await;
                        answer.map_err(|_| io::Error::other("no answer"))??;
                        times.borrow_mut().push(asked.elapsed());
                    }
                    Ok::<(), io::Error>(())
                })
            })
            .collect();
        work.await;
        for one in asked {
            let ended = one.await.map_err(io::Error::other)?;
            ended.map_err(|error| io::Error::other(format!("{}: {error}", target.name())))?;
        }
        Ok::<Duration, io::Error>(begun.elapsed())
    })?;
    let mut times = times.take();
    times.sort_unstable();
    let at = |share: usize| {
        let found = times.get(times.len() * share / 100);
        found.copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    Ok(Figures {
        p50: at(50),
        p99: at(99),
        rate: f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX)) / took.as_secs_f64(),
    })
}

fn connector(authority: &Path) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(authority).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    session: Option<String>,
}

impl Client {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
            session: None,
        }
    }

    /// What has to be said first, and what makes sure that the tools are known.
    async fn greet(&mut self, target: &Target, era: Era) -> io::Result<()> {
        if era == Era::Legacy {
            let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
            self.ask(&self.post(target, "", hello)).await?;
            let head = String::from_utf8_lossy(&self.buffer).into_owned();
            let session = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("mcp-session-id")
                    .then(|| value.trim().to_owned())
            });
            self.session = session;
            let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            self.ask(&self.post(target, "", ready)).await?;
        }
        let (headers, meta) = match era {
            Era::Modern => ("mcp-method: tools/list\r\n", META),
            Era::Legacy => ("", ""),
        };
        let params = meta.trim_end_matches(',');
        let list =
            format!(r#"{{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{{params}}}}}"#);
        self.ask(&self.post(target, headers, &list)).await
    }

    fn request(&self, target: &Target, era: Era, shape: Shape) -> Vec<u8> {
        let (headers, meta) = match era {
            Era::Modern => ("mcp-method: tools/call\r\nmcp-name: echo\r\n", META),
            Era::Legacy => ("", ""),
        };
        let meta = match shape {
            Shape::Json => meta.to_owned(),
            Shape::Sse => meta.replacen('{', r#"{"progressToken":7,"#, 1),
        };
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{{{meta}"name":"echo","arguments":{{"text":"a short text of a small call, 64 bytes long or thereabouts"}}}}}}"#
        );
        self.post(target, headers, &call)
    }

    fn post(&self, target: &Target, headers: &str, body: &str) -> Vec<u8> {
        let version = match (headers, &self.session) {
            ("", None) => "",
            ("", Some(_)) => "mcp-protocol-version: 2025-11-25\r\n",
            _ => "mcp-protocol-version: 2026-07-28\r\n",
        };
        let session = self
            .session
            .iter()
            .map(|id| format!("mcp-session-id: {id}\r\n"));
        let key = target
            .key()
            .map(|key| format!("authorization: Bearer {key}\r\n"));
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n{version}{headers}{}{}content-length: {}\r\n\r\n{body}",
            target.host(),
            session.collect::<String>(),
            key.unwrap_or_default(),
            body.len()
        )
        .into_bytes()
    }

    /// One request and its whole answer, which has to be a good one.
    async fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("the connection was closed"));
            }
            if is_whole(&self.buffer) {
                break;
            }
        }
        let good = self.buffer.starts_with(b"HTTP/1.1 20")
            && memmem::find(&self.buffer, b"\"error\"").is_none();
        match good {
            true => Ok(()),
            false => Err(io::Error::other(
                String::from_utf8_lossy(&self.buffer).into_owned(),
            )),
        }
    }
}

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"}},"#;

/// Whether a whole response has come: a length, or the last chunk.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = bytes.split_at(end + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    match head.split("content-length:").nth(1) {
        Some(rest) => {
            let length = rest
                .lines()
                .next()
                .and_then(|text| text.trim().parse().ok());
            length.is_some_and(|length: usize| body.len() >= length)
        }
        None if head.contains("transfer-encoding: chunked") => body.ends_with(b"0\r\n\r\n"),
        // 202 and 204 have none.
        None => true,
    }
}
