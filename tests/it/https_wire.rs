//! What the listener speaks below HTTP, and HTTP/2 on both sides: versions, suites, groups, alerts, streams.

use crate::http_identity::{Secure, certify, secure};
use crate::rig::Rig;
use crate::support::{example, skip};
use crate::web::{CAPABILITIES, Conn, Site, VERSION, modern_body, post};
use crate::wire::{Wire, mark, said};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::rt::Executor;
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(20);

/// A listener with TLS; `more` is put into its table.
fn listening(more: &str, clients: &str) -> Site {
    let config = format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\ntls = {{ cert = \"tls/server.crt\", key = \"tls/server.key\"{more} }}\n{clients}"
    );
    let rig = Rig::new().file("c.toml", config);
    certify(&rig, "tls");
    certify(&rig, "foreign");
    let mark = mark();
    let program = example("fixture").to_str().unwrap().to_owned();
    let flags = ["--config", "{dir}/c.toml", "--name", &mark];
    Site::around(Wire::start(rig, &mark, &flags, &[&program]))
}

fn path(site: &Site) -> &Path {
    site.wire.rig.path()
}

/// What `openssl s_client` says of a handshake with these words: the suite that was agreed on and the key
/// exchange, or the number of the alert.
fn shake(site: &Site, words: &[&str]) -> Result<(String, String), u8> {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &site.address.to_string()])
        .arg("-CAfile")
        .arg(path(site).join("tls/ca.crt"))
        .args(["-servername", "localhost", "-verify_return_error"])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if let Some((_, number)) = text.split_once("SSL alert number ") {
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        return Err(digits.parse().unwrap());
    }
    let word_after = |words: &str| {
        let rest = text.split_once(words).unwrap_or_else(|| panic!("{text}")).1;
        let end = rest.find(['\n', ',']).unwrap_or(rest.len());
        rest[..end].trim().to_owned()
    };
    let suite = word_after("Cipher is ");
    assert_ne!(suite, "(NONE)", "{text}");
    let group = match text.contains("Server Temp Key: ECDH, ") {
        true => word_after("Server Temp Key: ECDH, "),
        false => word_after("Server Temp Key: "),
    };
    Ok((suite, group))
}

fn openssl_works() -> bool {
    let tried = Command::new("openssl").arg("version").output();
    let works = tried.is_ok_and(|output| output.status.success());
    if !works {
        skip("https.openssl", "openssl is not installed");
    }
    works
}

/// Alerts of RFC 8446 §6.
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
/// Everything that openssl knows, however weak.
const WEAK: [&str; 2] = ["-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"];

#[test]
fn a_scan_of_the_listener_finds_tls_1_3_and_nothing_weak() {
    if !openssl_works() {
        return;
    }
    let site = listening("", "");
    // rustls answers hellos that are too old to name signatures before it looks at their version.
    for (version, alert) in [
        ("-tls1", HANDSHAKE_FAILURE),
        ("-tls1_1", HANDSHAKE_FAILURE),
        ("-tls1_2", PROTOCOL_VERSION),
    ] {
        assert_eq!(
            shake(&site, &[&[version], &WEAK[..]].concat()),
            Err(alert),
            "{version}"
        );
    }
    let accepted = |option: &str, all: &[&str]| -> Vec<String> {
        let spoken = all.iter().filter(|name| {
            let shaken = shake(&site, &["-tls1_3", option, name]);
            assert!(
                matches!(shaken, Ok(_) | Err(HANDSHAKE_FAILURE)),
                "{name}: {shaken:?}"
            );
            shaken.is_ok_and(|(suite, _)| option != "-ciphersuites" || suite == **name)
        });
        spoken.map(|name| (*name).to_owned()).collect()
    };
    // All that TLS 1.3 has (RFC 8446 §B.4).
    let suites = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_CCM_8_SHA256",
    ];
    assert_eq!(accepted("-ciphersuites", &suites), suites[..3]);
    // And §4.2.7; there is one more kind in newer drafts, which openssl 3.0 does not have.
    let groups = [
        "X25519",
        "P-256",
        "P-384",
        "P-521",
        "X448",
        "ffdhe2048",
        "ffdhe3072",
        "ffdhe4096",
        "ffdhe6144",
        "ffdhe8192",
    ];
    assert_eq!(accepted("-groups", &groups), groups[..3]);
    // Where the operator allows 1.2 it is spoken: the scan would have seen it.
    let lax = listening(", min_version = \"1.2\"", "");
    assert!(shake(&lax, &[&["-tls1_2"], &WEAK[..]].concat()).is_ok());
    let weak = [
        "-tls1_2",
        "-cipher",
        "AES128-SHA:ECDHE-ECDSA-AES128-SHA:DHE-RSA-AES128-SHA:@SECLEVEL=0",
    ];
    assert_eq!(shake(&lax, &weak), Err(HANDSHAKE_FAILURE));
}

/// A client has sent its request before it can hear that its certificate is no good.
#[test]
fn a_client_that_is_refused_in_the_handshake_hears_why() {
    let site = listening(
        ", client_ca = \"tls/ca.crt\", client_auth = \"required\"",
        "[clients.ci]\nsan = \"spiffe://cofferdam.local/ci\"\n",
    );
    let connect = |client: Option<&str>| -> Conn<Secure> {
        secure(path(&site), site.address, "tls/ca.crt", client).unwrap()
    };
    let request = post(&json!({"filler": "x".repeat(3000)}), "");
    for (client, alert) in [
        (None, "CertificateRequired"),
        (Some("foreign/client-ci"), "DecryptError"),
    ] {
        for _ in 0..20 {
            let mut conn = connect(client);
            // Twice, so that the second may meet a closed connection.
            let sent = std::io::Write::write_all(conn.reader.get_mut(), request.as_bytes());
            std::thread::sleep(Duration::from_millis(2));
            let again = std::io::Write::write_all(conn.reader.get_mut(), request.as_bytes());
            let error = match sent.and(again) {
                Err(error) if error.kind() == ErrorKind::InvalidData => error,
                _ => conn.reader.read(&mut [0; 16]).unwrap_err(),
            };
            assert!(error.to_string().contains(alert), "{client:?}: {error:?}");
        }
    }
    let mut conn = connect(Some("tls/client-ci"));
    conn.send(post(
        &modern_body(&json!(1), "server/discover", &json!({})),
        "",
    ));
    assert_ne!(conn.head().0, 401);
}

/// Tasks on the thread of the test.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(async move { drop(task.await) }));
    }
}

/// Runs to the end, or says that it hangs.
fn block_on<T>(run: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(PATIENCE, run).await.unwrap() };
    tokio::task::LocalSet::new().block_on(&runtime, bounded)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(file).unwrap();
    all.map(Result::unwrap).collect()
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// A connection that offers these protocols.
async fn offer(site: &Site, alpn: &[&str]) -> std::io::Result<Stream> {
    let mut roots = RootCertStore::empty();
    for root in certificates(&path(site).join("tls/ca.crt")) {
        roots.add(root).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(site.address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
}

/// A call as a request of HTTP/2.
fn request(address: SocketAddr, id: u32, tool: &str, arguments: &Value) -> Request<Full<Bytes>> {
    let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": id}});
    let body = modern_body(&json!(id), "tools/call", &params).to_string();
    Request::post(format!("https://localhost:{}/mcp", address.port()))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .body(Full::new(Bytes::from(body)))
        .unwrap()
}

async fn text(body: Incoming) -> String {
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_listener_speaks_http_2_and_streams_in_it() {
    let site = listening("", "");
    block_on(async {
        let stream = offer(&site, &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let shaken = hyper::client::conn::http2::handshake(Local, TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.unwrap();
        drop(tokio::task::spawn_local(connection));
        // A slow call whose events come one by one, and a quick one beside it on the same connection.
        let steps = json!({"steps": 3, "ms": 300});
        let slow = sender
            .send_request(request(site.address, 1, "progress", &steps))
            .await;
        let mut slow = slow.unwrap();
        assert_eq!(
            (slow.version(), slow.status().as_u16()),
            (Version::HTTP_2, 200)
        );
        assert_eq!(slow.headers()["content-type"], "text/event-stream");
        let mut events = String::new();
        while !events.contains("notifications/progress") {
            let frame = slow.body_mut().frame().await.unwrap().unwrap();
            events.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        assert!(!events.contains("\"result\""), "all at once: {events}");
        let echo = json!({"text": "beside it"});
        let quick = sender
            .send_request(request(site.address, 2, "echo", &echo))
            .await;
        let quick = quick.unwrap();
        assert_eq!(
            (quick.version(), quick.status().as_u16()),
            (Version::HTTP_2, 200)
        );
        assert!(text(quick.into_body()).await.contains("beside it"));
        events.push_str(&text(slow.into_body()).await);
        assert_eq!(
            events.matches("notifications/progress").count(),
            3,
            "{events}"
        );
        assert_eq!(events.matches("\"result\"").count(), 1, "{events}");
        // The older protocol for whoever knows no other; none for whoever speaks neither (RFC 7301 §3.2).
        let old = offer(&site, &["http/1.1"]).await.unwrap();
        assert_eq!(old.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let none = offer(&site, &["spdy/3"]).await.unwrap_err();
        assert!(none.to_string().contains("NoApplicationProtocol"), "{none}");
    });
}

/// A body whose pieces are sent while it is read.
struct Pieces(Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// What an upstream was asked, and how.
type Asked = Arc<Mutex<Vec<(Version, String)>>>;

/// Answers calls with two events, the second some time after the first, and all else at once.
async fn answer(request: Request<Incoming>, asked: Asked) -> Result<Response<Pieces>, Infallible> {
    let version = request.version();
    let message: Value = serde_json::from_str(&text(request.into_body()).await).unwrap_or_default();
    let method = message["method"].as_str().unwrap_or_default().to_owned();
    asked.lock().unwrap().push((version, method.clone()));
    let id = &message["id"];
    let (sender, pieces) = channel(4);
    let event = |message: Value| Bytes::from(format!("event: message\ndata: {message}\n\n"));
    let (kind, result) = match method.as_str() {
        "tools/call" => {
            let token = &message["params"]["_meta"]["progressToken"];
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
            sender.send(event(progress)).await.unwrap();
            (
                "text/event-stream",
                json!({"resultType": "complete", "content": [{"type": "text", "text": "over two"}]}),
            )
        }
        "tools/list" => (
            "application/json",
            json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}),
        ),
        _ => (
            "application/json",
            json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "serverInfo": {"name": "two", "version": "1"}}),
        ),
    };
    let last = json!({"jsonrpc": "2.0", "id": id, "result": result});
    drop(tokio::task::spawn_local(async move {
        if kind == "application/json" {
            return drop(sender.send(Bytes::from(last.to_string())).await);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(sender.send(event(last)).await);
    }));
    let response = Response::builder().header("content-type", kind);
    Ok(response.body(Pieces(pieces)).unwrap())
}

/// Serves connections that agree on `h2`, or else on HTTP/1.1, until the test ends.
fn upstream(dir: &Path, alpn: &str) -> (SocketAddr, Asked) {
    let chain = certificates(&dir.join("tls/server.crt"));
    let key = PrivateKeyDer::from_pem_file(dir.join("tls/server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let (told, two) = (Arc::clone(&asked), alpn == "h2");
    drop(std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let asked = Arc::clone(&told);
                let stream = TokioIo::new(stream);
                let service =
                    hyper::service::service_fn(move |request| answer(request, Arc::clone(&asked)));
                drop(tokio::task::spawn_local(async move {
                    use hyper::server::conn::{http1, http2};
                    match two {
                        true => drop(
                            http2::Builder::new(Local)
                                .serve_connection(stream, service)
                                .await,
                        ),
                        false => drop(
                            http1::Builder::new()
                                .serve_connection(stream, service)
                                .await,
                        ),
                    }
                }));
            }
        });
    }));
    (address, asked)
}

#[test]
fn an_upstream_that_speaks_http_2_is_spoken_to_in_it() {
    for (alpn, version) in [("h2", Version::HTTP_2), ("http/1.1", Version::HTTP_11)] {
        let rig = Rig::new();
        certify(&rig, "tls");
        // It knows one protocol, so whoever offers another gets no connection.
        let (address, asked) = upstream(rig.path(), alpn);
        let url = format!("https://localhost:{}/mcp", address.port());
        let mark = mark();
        let flags = ["--url", &url, "--name", &mark, "--ca", "tls/ca.crt"];
        let mut wire = Wire::start(rig, &mark, &flags, &[]);
        wire.until_stderr("runs elsewhere");
        let params = json!({"name": "echo", "arguments": {}, "_meta": {VERSION: "2026-07-28", CAPABILITIES: {}, "progressToken": "p"}});
        wire.request("1", "tools/call", &params);
        let answer = wire.answer("1");
        assert_eq!(
            said(&answer),
            "over two",
            "{alpn}: {answer} {}",
            wire.stderr()
        );
        let lines = wire.seen.concat();
        let lines = String::from_utf8_lossy(&lines);
        let progress = lines
            .find("notifications/progress")
            .unwrap_or_else(|| panic!("{lines}"));
        assert!(progress < lines.find("over two").unwrap(), "{lines}");
        assert_eq!(wire.finish().code, 0);
        let asked = asked.lock().unwrap();
        assert!(asked.iter().any(|(_, method)| method == "tools/call"));
        assert!(
            asked.iter().all(|(spoken, _)| *spoken == version),
            "{asked:?}"
        );
    }
}
