//! An HTTP proxy for the floor, where some clients have no other way: those that look names up by
//! themselves, with datagrams (Go, musl). `CONNECT` (RFC 9110 §9.3.6), and plain HTTP by absolute
//! target (RFC 9112 §3.2.2), one request for each connection. What passes is judged as everywhere.

use super::connection::{not_listed, reset, shown};
use super::greeting::{self, Greeting};
use super::news::Reason;
use super::refusals::Refusal;
use super::relay::Shared;
use super::rules::Target;
use rustix::net::{RecvFlags, recv};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Where it is, for whoever is in such a cell: an address of the range of [`super::rules`] that stands for
/// no name. `policy/presets/none.toml` has it too.
pub(super) const PLACE: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 19, 255, 254)), 3128);
/// For the whole header of a request.
const HEADER: Duration = Duration::from_secs(10);
/// Silence of a client that has promised a body, or of its host.
const IDLE: Duration = Duration::from_secs(300);
const PIECE: usize = 16 * 1024;

/// A request, as far as it concerns a proxy.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Tunnel {
        host: String,
        port: u16,
    },
    /// What the host gets instead of the client's header, and the length of the body.
    Plain {
        host: String,
        port: u16,
        head: Vec<u8>,
        body: u64,
    },
}

impl Shared {
    /// One connection of a client that speaks to a proxy.
    pub(super) fn proxy(&self, client: &TcpStream) {
        client.set_nodelay(true).ok();
        client.set_write_timeout(Some(IDLE)).ok();
        let Some(head) = header(client) else {
            return reset(client);
        };
        let refuse = |status: &str, reason: &str| {
            let length = reason.len();
            let text = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                 Content-Length: {length}\r\n\r\n{reason}"
            );
            (&*client).write_all(text.as_bytes()).ok();
        };
        let (host, port) = match &head {
            Ok(Request::Tunnel { host, port } | Request::Plain { host, port, .. }) => (host, *port),
            Err(what) => {
                let text = format!("denied: a request to the proxy: {what}");
                self.refusals.tell(Reason::Protocol, "", "", &text);
                return refuse("400 Bad Request", "no request for a proxy\n");
            }
        };
        let target = self.rules.spoken(host);
        if !self.rules.allow(&target, port) {
            self.tell(&not_listed(&target, port), &target, port);
            return refuse("403 Forbidden", "this host is not allowed\n");
        }
        match &head {
            Ok(Request::Plain { head, body, .. }) => {
                match self.forward(client, &target, port, head, *body) {
                    Ok(()) => {}
                    Err(Some(refused)) => {
                        self.tell(&refused, &target, port);
                        refuse("502 Bad Gateway", "the host is not to be had\n");
                    }
                    Err(None) => reset(client),
                }
            }
            _ => {
                let yes = b"HTTP/1.1 200 Connection established\r\n\r\n";
                if (&*client).write_all(yes).is_ok() {
                    self.pass(client, &target, port);
                }
            }
        }
    }

    /// One request and its answer; the error is what the operator should hear.
    fn forward(
        &self,
        client: &TcpStream,
        target: &Target,
        port: u16,
        head: &[u8],
        body: u64,
    ) -> Result<(), Option<Refusal>> {
        if let (Target::Name(name), Greeting::Http(Some(host))) = (target, greeting::read(head))
            && host != *name
        {
            let host = shown(target, port);
            let text = format!("denied: connect to {host}: it began with a name of another host");
            let reason = Reason::OtherHost;
            return Err(Some(Refusal { reason, host, text }));
        }
        let host = self.reach(target, port)?;
        let rule = self.rules.label(target, port).unwrap_or_default();
        let meter = self.refusals.meter(&rule);
        meter.connections.fetch_add(1, Ordering::Relaxed);
        let broken = |_: io::Error| None;
        for stream in [client, &host] {
            stream.set_read_timeout(Some(IDLE)).map_err(broken)?;
            stream.set_write_timeout(Some(IDLE)).map_err(broken)?;
        }
        (&host).write_all(head).map_err(broken)?;
        let promised = &mut Read::take(client, body);
        let sent = copy(promised, &mut &host).map_err(broken)?;
        meter
            .sent
            .fetch_add(head.len() as u64 + sent, Ordering::Relaxed);
        let received = copy(&mut &host, &mut &*client).map_err(broken)?;
        meter.received.fetch_add(received, Ordering::Relaxed);
        Ok(())
    }
}

/// Piece by piece, in little memory.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let (mut piece, mut all) = (vec![0; PIECE], 0);
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(all);
        }
        to.write_all(piece.get(..length).unwrap_or_default())?;
        all += length as u64;
    }
}

/// Takes the header away, and nothing behind it; `None` when none comes.
fn header(client: &TcpStream) -> Option<Result<Request, &'static str>> {
    let begin = Instant::now();
    let mut bytes = vec![0; greeting::LIMIT];
    client.set_read_timeout(Some(HEADER)).ok()?;
    loop {
        let (length, _) = recv(client, &mut bytes[..], RecvFlags::PEEK).ok()?;
        let seen = bytes.get(..length)?;
        if let Some(end) = memchr::memmem::find(seen, b"\r\n\r\n") {
            let mut head = vec![0; end + 4];
            (&*client).read_exact(&mut head).ok()?;
            return Some(read(&head));
        }
        if length == 0 || begin.elapsed() > HEADER {
            return None;
        }
        if length == greeting::LIMIT {
            return Some(Err("its header is too long"));
        }
        // The bytes that are there keep the socket readable.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads a whole header.
fn read(head: &[u8]) -> Result<Request, &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "its header is no text")?;
    let text = text
        .strip_suffix("\r\n\r\n")
        .ok_or("its header has no end")?;
    if text.bytes().any(|byte| byte == 0 || byte == 127) {
        return Err("its header has control characters");
    }
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("it is no request of HTTP/1");
    };
    if method == "CONNECT" {
        let (host, port) = authority(target, None)?;
        return Ok(Request::Tunnel { host, port });
    }
    let rest = target
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"))
        .and_then(|_| target.get(7..))
        .ok_or("its target is neither CONNECT's nor begins with http://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let (host, port) = authority(place, Some(80))?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut said = format!("{method} {slash}{path} HTTP/1.1\r\nHost: {place}\r\n");
    let mut body = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a field without a name")?;
        if name.is_empty() || !name.bytes().all(is_token) || value.contains(['\r', '\n']) {
            return Err("a field that cannot be read");
        }
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => return Err("a body without a length"),
            "content-length" => {
                let length = value.trim_matches([' ', '\t']);
                let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                let length = length.parse().ok().filter(|_| digits && body.is_none());
                body = Some(length.ok_or("a length that cannot be read")?);
            }
            // Those of the connection between the two of us.
            "host"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect" => continue,
            _ => {}
        }
        said.push_str(line);
        said.push_str("\r\n");
    }
    said.push_str("Connection: close\r\n\r\n");
    let (head, body) = (said.into_bytes(), body.unwrap_or(0));
    Ok(Request::Plain {
        host,
        port,
        head,
        body,
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `host:port`, and the port that is meant without one.
fn authority(text: &str, usual: Option<u16>) -> Result<(String, u16), &'static str> {
    const WRONG: &str = "its target names no host and port";
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| WRONG)?),
        _ => (text, usual.ok_or(WRONG)?),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let fits = match bare {
        Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            (1..=253).contains(&host.len()) && host.bytes().all(known)
        }
    };
    fits.then(|| (host.to_owned(), port)).ok_or(WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tunnel_names_its_host_and_port() {
        for (target, host, port) in [
            ("api.example:443", "api.example", 443),
            ("[2001:db8::1]:8443", "[2001:db8::1]", 8443),
        ] {
            let text = format!("CONNECT {target} HTTP/1.1\r\nHost: whatever\r\n\r\n");
            let host = host.to_owned();
            assert_eq!(read(text.as_bytes()), Ok(Request::Tunnel { host, port }));
        }
        for target in [
            "api.example",
            "a b:1",
            "u@api.example:443",
            ":443",
            "a:b:1",
            "a:70000",
            "[x]:1",
        ] {
            let text = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
            assert!(read(text.as_bytes()).is_err(), "{target}");
        }
    }

    #[test]
    fn a_plain_request_becomes_one_for_its_host() {
        let text = "POST http://api.example:8080/a?b HTTP/1.1\r\nHost: other.example\r\n\
             Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\n\
             Content-Length: 3\r\nX-A: b\r\n\r\n";
        let expected = "POST /a?b HTTP/1.1\r\nHost: api.example:8080\r\nContent-Length: 3\r\n\
             X-A: b\r\nConnection: close\r\n\r\n";
        let Ok(Request::Plain {
            host,
            port,
            head,
            body,
        }) = read(text.as_bytes())
        else {
            panic!("{:?}", read(text.as_bytes()));
        };
        assert_eq!((host.as_str(), port, body), ("api.example", 8080, 3));
        assert_eq!(String::from_utf8(head).unwrap(), expected);
        let bare = read(b"GET http://api.example?x HTTP/1.0\r\n\r\n").unwrap();
        assert!(
            matches!(bare, Request::Plain { port: 80, head, .. } if head.starts_with(b"GET /?x HTTP/1.1\r\nHost: api.example\r\n"))
        );
    }

    #[test]
    fn what_could_be_two_requests_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n",
            "GET https://api.example/ HTTP/1.1\r\n\r\n",
            "GET http://u:p@api.example/ HTTP/1.1\r\n\r\n",
            "GET http://api.example/ HTTP/2\r\n\r\n",
            "POST http://api.example/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://api.example/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST http://api.example/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "GET http://api.example/ HTTP/1.1\r\n X: folded\r\n\r\n",
            "GET http://api.example/ HTTP/1.1\r\nX : a\r\n\r\n",
            "GET http://api.example/ HTTP/1.1\nHost: a\r\n\r\n",
            "GET http://api.example/ HTTP/1.1\r\nX: a\rY: b\r\n\r\n",
            "GET http://api.example/\tx HTTP/1.1\r\nX\n: b\r\n\r\n",
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_on_is_one_header(text in "GET http://a\\.b/[ -~\r\n\t]{0,60}\r\n\r\n") {
            if let Ok(Request::Plain { head, .. }) = read(text.as_bytes()) {
                let text = String::from_utf8(head).unwrap();
                prop_assert_eq!(text.find("\r\n\r\n"), Some(text.len() - 4));
                prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
            }
        }
    }
}
