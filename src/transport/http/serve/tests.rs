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

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

const DATA: u8 = 0;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A client of HTTP/2 that hides nothing.
struct Frames(TcpStream, Vec<u8>);

impl Frames {
    /// Streams of the other end have this window.
    fn new(address: SocketAddr, window: u32) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        let often = Duration::from_millis(50);
        stream.set_read_timeout(Some(often)).unwrap();
        let settings = frame(4, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat();
        stream.write_all(&hello).unwrap();
        Self(stream, Vec::new())
    }

    fn send(&mut self, frame: &[u8]) {
        // Who is being given up hears of it by reading.
        drop(self.0.write_all(frame));
    }

    /// `GET http://x/`, in the static table of RFC 7541.
    fn get(&mut self, stream: u32) {
        self.send(&frame(1, 0x5, stream, &[0x82, 0x86, 0x84, 0x01, 1, b'x']));
    }

    /// The next frame: its kind and length. `None` when nothing comes for a while, an error at the end.
    fn next(&mut self) -> Result<Option<(u8, u32)>, ()> {
        loop {
            if let Some((head, rest)) = self.1.split_first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                if rest.len() >= length as usize {
                    let (kind, flags) = (head[3], head[4]);
                    let payload: Vec<u8> = self.1.drain(..9 + length as usize).skip(9).collect();
                    if kind == PING && flags == 0 {
                        self.send(&frame(PING, 1, 0, &payload));
                    }
                    return Ok(Some((kind, length)));
                }
            }
            let mut piece = [0; 64 * 1024];
            match self.0.read(&mut piece) {
                Ok(0) => return Err(()),
                Ok(count) => self.1.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(_) => return Err(()),
            }
        }
    }
}

#[test]
fn an_http_2_reader_that_takes_nothing_is_given_up() {
    let stall = Duration::from_millis(500);
    let bounds = Bounds { stall, ..BOUNDS };
    // Nothing at all; a bit, of which there is no more.
    for window in [0, 1, 20_000] {
        let (address, serving) = serve_one(bounds, answer(StatusCode::OK, vec![b'x'; 1 << 20]));
        let mut client = Frames::new(address, window);
        client.get(1);
        let begun = Instant::now();
        // It is lively otherwise, and goes on asking.
        let mut stream = 3;
        while client.next().is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(5), "{window}");
            client.send(&frame(PING, 0, 0, &[0; 8]));
            client.get(stream);
            stream += 2;
        }
        let took = serving.join().unwrap();
        assert!(took > stall && took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn an_http_2_reader_that_takes_a_little_at_a_time_gets_all() {
    const LENGTH: u32 = 1 << 20;
    let stall = Duration::from_millis(500);
    let bounds = Bounds { stall, ..BOUNDS };
    let answer = answer(StatusCode::OK, vec![b'x'; LENGTH as usize]);
    let (address, serving) = serve_one(bounds, answer);
    let mut client = Frames::new(address, 60_000);
    client.get(1);
    let (begun, mut got) = (Instant::now(), 0);
    while got < LENGTH {
        assert!(begun.elapsed() < Duration::from_secs(15), "{got}");
        match client.next().unwrap() {
            Some((DATA, length)) => got += length,
            Some(_) => {}
            None => {
                let more = 60_000_u32.to_be_bytes();
                client.send(&[frame(8, 0, 0, &more), frame(8, 0, 1, &more)].concat());
            }
        }
    }
    assert!(begun.elapsed() > stall, "it was not slow");
    drop(client);
    serving.join().unwrap();
}

#[test]
fn an_http_2_connection_is_kept_between_requests_and_ends_with_words() {
    let bounds = Bounds {
        header: Duration::from_millis(300),
        idle: Duration::from_millis(1500),
        ..BOUNDS
    };
    let (address, serving) = serve_one(bounds, answer(StatusCode::OK, "x"));
    let mut client = Frames::new(address, 60_000);
    let begun = Instant::now();
    for stream in [1, 3] {
        client.get(stream);
        while !matches!(client.next().unwrap(), Some((DATA, _))) {
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        // What follows an answer is no beginning of a header.
        client.send(&frame(8, 0, 0, &1_u32.to_be_bytes()));
        std::thread::sleep(Duration::from_millis(800));
    }
    let mut parted = false;
    while let Ok(next) = client.next() {
        parted |= matches!(next, Some((GOAWAY, _)));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let took = serving.join().unwrap();
    assert!(parted, "no word after {took:?}");
    assert!(took > Duration::from_millis(2300), "{took:?}");
}

#[test]
fn what_somebody_before_us_may_read_otherwise_is_refused() {
    let chunks = "1\r\nx\r\n0\r\n\r\n";
    for (head, status) in [
        (
            "\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n",
            200,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 11\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 11\n\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n", 200),
    ] {
        let (address, serving) = serve_one(BOUNDS, answer(StatusCode::OK, "x"));
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(format!("{head}{chunks}").as_bytes())
            .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        drop(stream);
        serving.join().unwrap();
        let expected = format!("HTTP/1.1 {status}");
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{head}");
    }
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
