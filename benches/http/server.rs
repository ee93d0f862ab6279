//! The bare HTTP server: hyper on one thread around the same answers that the stdio server gives.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

/// Serves for as long as it lives; with the files of a certificate and its key, over TLS.
pub(crate) fn run(files: &[&str]) -> io::Result<()> {
    let acceptor = match files {
        [certificate, key] => Some(acceptor(certificate, key)?),
        _ => None,
    };
    alone(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?)?;
        LocalSet::new()
            .run_until(async move {
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    let acceptor = acceptor.clone();
                    spawn_local(async move {
                        let service = hyper::service::service_fn(answer);
                        let http = hyper::server::conn::http1::Builder::new();
                        // Who hangs up in the middle is no concern of a bench.
                        match acceptor {
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    let io = TokioIo::new(stream);
                                    drop(http.serve_connection(io, service).await);
                                }
                            }
                            None => {
                                drop(http.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    });
                }
            })
            .await
    })
}

/// Runs on this thread alone.
pub(crate) fn alone(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(work)
}

/// Says where it listens, to whoever started it.
pub(crate) fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()
}

fn acceptor(certificate: &str, key: &str) -> io::Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn answer(request: Request<Incoming>) -> Result<Response<Pieces>, Infallible> {
    let Ok(body) = request.into_body().collect().await else {
        return Ok(Response::new(Pieces::default()));
    };
    let (mut lines, mut large) = (Vec::new(), String::new());
    super::echo::answer(&body.to_bytes(), &mut lines, &mut large);
    let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
    let lines: Vec<&[u8]> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    let (kind, pieces) = match lines.as_slice() {
        [] => {
            let mut taken = Response::new(Pieces::default());
            *taken.status_mut() = StatusCode::ACCEPTED;
            return Ok(taken);
        }
        [only] => ("application/json", VecDeque::from([only.to_vec().into()])),
        many => {
            let events = many.iter().map(|line| {
                let event = [b"data: ", *line, b"\n\n"].concat();
                Bytes::from(event)
            });
            ("text/event-stream", events.collect())
        }
    };
    let is_one = pieces.len() == 1;
    let mut response = Response::new(Pieces { pieces, is_one });
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// A body of one piece, whose length is known, or of events.
#[derive(Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    is_one: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self.pieces.front() {
            Some(only) if self.is_one => hyper::body::SizeHint::with_exact(only.len() as u64),
            Some(_) => hyper::body::SizeHint::new(),
            None => hyper::body::SizeHint::with_exact(0),
        }
    }
}
