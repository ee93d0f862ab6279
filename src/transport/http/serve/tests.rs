use super::*;
use crate::transport::http::discard;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

const BOUNDS: Bounds = Bounds {
    header: Duration::from_secs(10),
    idle: Duration::from_secs(10),
    stall: Duration::from_secs(10),
};

/// Answers every request in one way, and minds no body that is not small.
struct Always(Response<Bytes>);

/// No stream.
struct Never;

impl Source for Never {
    fn poll_next(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(None)
    }
}

impl Handler for Always {
    type Source = Never;
    type Guest = ();

    async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        _guest: Rc<()>,
    ) -> Response<Outgoing<Never>> {
        discard(request.into_body()).await;
        self.0.clone().map(Outgoing::Whole)
    }
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer
}

/// Serves one connection within `bounds` on a thread of its own, which ends with it.
fn serve_one(
    bounds: Bounds,
    answer: Response<Bytes>,
) -> (SocketAddr, std::thread::JoinHandle<Duration>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let begun = Instant::now();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let door = Rc::new(Door::new(bounds));
            connection(stream, (), door, Rc::new(Always(answer))).await;
        });
        begun.elapsed()
    });
    (address, serving)
}

#[test]
fn who_sends_all_of_a_body_before_it_reads_hears_the_answer() {
    for length in [900_000, 8_000_000, 40_000_000] {
        let refusal = answer(StatusCode::PAYLOAD_TOO_LARGE, "too large");
        let (address, serving) = serve_one(BOUNDS, refusal);
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        for piece in vec![b'x'; length].chunks(64 * 1024) {
            stream.write_all(piece).unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{length}: {answer}");
        assert!(answer.ends_with("\r\n\r\ntoo large"), "{length}: {answer}");
        drop(stream);
        // Who closes is waited for no longer.
        let took = serving.join().unwrap();
        assert!(took < Duration::from_secs(8), "{length}: {took:?}");
    }
}

#[test]
fn who_neither_sends_nor_closes_is_not_waited_for_long() {
    let (address, serving) = serve_one(BOUNDS, answer(StatusCode::FORBIDDEN, "no"));
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\nx")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // Open, and silent.
    let took = serving.join().unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(stream);
}

#[test]
fn a_body_with_two_lengths_is_seen() {
    let head = |lines: &str| format!("POST / HTTP/1.1\r\n{lines}\r\n\r\nContent-Length: 1");
    for (lines, expected) in [
        ("Transfer-Encoding: chunked", false),
        ("Transfer-Encoding: chunked\r\nCoNtEnT-lEnGtH: 3", true),
        ("content-length:3\r\nTransfer-Encoding: chunked", true),
    ] {
        assert_eq!(ambiguous(head(lines).as_bytes()), expected, "{lines}");
    }
    assert!(ambiguous(b"") && ambiguous(b"POST / HTTP/1.1\r\nTransfer-Enc"));
}
