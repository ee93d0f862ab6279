//! What the first bytes of a client say about whom it wants to talk to: TLS (RFC 8446 §4.1.2, RFC
//! 6066 §3) and HTTP/1 (RFC 9112 §3) name a host, other protocols do not.
//!
//! The bytes come from the server and may be anything, a piece at a time. What cannot be told yet is
//! [`Greeting::More`]; the caller bounds how long it waits and how much it reads.

/// The most that a client may say before it is clear whom it wants, in bytes.
pub const LIMIT: usize = 16 * 1024;

/// What the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// Too few to tell.
    More,
    /// TLS, for that server name; in lower case.
    Tls(Option<String>),
    /// HTTP/1, for that host, in lower case and without its port.
    Http(Option<String>),
    /// HTTP or TLS that no honest client sends; one clause about it.
    Malformed(&'static str),
    /// Neither of the two.
    Other,
}

/// Methods that servers act on (IANA's registry, the ones in use); the names are case-sensitive.
const METHODS: [&[u8]; 22] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
    b"SEARCH",
    b"MERGE",
    b"PURGE",
    b"LINK",
    b"QUERY",
];

/// Reads what there is; an empty slice is [`Greeting::More`].
#[must_use]
pub fn read(bytes: &[u8]) -> Greeting {
    match bytes.first() {
        None => Greeting::More,
        Some(0x16) => tls(bytes),
        Some(_) => http(bytes),
    }
}

/// A handshake that may be spread over several records.
fn tls(bytes: &[u8]) -> Greeting {
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [] | [0x16] | [0x16, 3] | [0x16, 3, _] | [0x16, 3, _, _] => return Greeting::More,
            [0x16, 3, _, high, low, after @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                // Plain text of a record has 2^14 bytes at most.
                if length == 0 || length > 1 << 14 {
                    return Greeting::Malformed("a TLS record of an impossible length");
                }
                let there = after.get(..length).unwrap_or(after);
                handshake.extend_from_slice(there);
                match client_hello(&handshake) {
                    Greeting::More if there.len() == length => {
                        rest = after.get(length..).unwrap_or_default();
                    }
                    known => return known,
                }
            }
            // The first byte could be that of another protocol; in the middle it cannot.
            _ if handshake.is_empty() => return Greeting::Other,
            _ => return Greeting::Malformed("a TLS handshake that breaks off"),
        }
    }
}

fn client_hello(handshake: &[u8]) -> Greeting {
    let [kind, l0, l1, l2, rest @ ..] = handshake else {
        return Greeting::More;
    };
    if *kind != 1 {
        return Greeting::Malformed("a TLS handshake that does not begin with a ClientHello");
    }
    let length = u32::from_be_bytes([0, *l0, *l1, *l2]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LIMIT {
        return Greeting::Malformed("a ClientHello that is too long");
    }
    match rest.get(..length) {
        None => Greeting::More,
        Some(hello) => match server_name(hello) {
            Ok(name) => Greeting::Tls(name),
            Err(()) => Greeting::Malformed("a ClientHello that cannot be read"),
        },
    }
}

/// The server name of a whole ClientHello.
fn server_name(hello: &[u8]) -> Result<Option<String>, ()> {
    // legacy_version and random.
    let rest = hello.get(34..).ok_or(())?;
    let (_session, rest) = sized(rest, 1)?;
    let (_ciphers, rest) = sized(rest, 2)?;
    let (_compression, rest) = sized(rest, 1)?;
    if rest.is_empty() {
        return Ok(None);
    }
    let (mut extensions, _) = sized(rest, 2)?;
    let mut found = None;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_first_chunk::<2>().ok_or(())?;
        let (body, after) = sized(rest, 2)?;
        extensions = after;
        if *kind != [0, 0] {
            continue;
        }
        // One list with one name, of type host_name; a second of either could be read by another.
        let (list, end) = sized(body, 2)?;
        let (kind, rest) = list.split_first().ok_or(())?;
        let (name, more) = sized(rest, 2)?;
        if found.is_some() || *kind != 0 || !end.is_empty() || !more.is_empty() {
            return Err(());
        }
        found = Some(plain_name(name).ok_or(())?);
    }
    Ok(found)
}

/// What a length of `width` bytes measures, and what comes after it.
fn sized(bytes: &[u8], width: usize) -> Result<(&[u8], &[u8]), ()> {
    let (length, rest) = bytes.split_at_checked(width).ok_or(())?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    rest.split_at_checked(length).ok_or(())
}

/// A name as names are written, in lower case and without a final dot.
fn plain_name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if text.is_empty() || text.len() > 255 || !text.bytes().all(known) {
        return None;
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    Some(text.to_ascii_lowercase())
}

/// A request line and headers.
fn http(bytes: &[u8]) -> Greeting {
    // Servers skip empty lines before a request (RFC 9112 §2.2).
    let blank = bytes
        .iter()
        .take_while(|b| matches!(b, b'\r' | b'\n'))
        .count();
    let bytes = bytes.get(blank..).unwrap_or_default();
    let Some(word) = bytes.split(|b| *b == b' ').next().filter(|w| !w.is_empty()) else {
        return if bytes.is_empty() {
            Greeting::More
        } else {
            Greeting::Other
        };
    };
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let whole = first.len() < bytes.len();
    let known = METHODS.contains(&word) && word.len() < bytes.len();
    let could_be = METHODS.iter().any(|m| m.starts_with(word)) && word.len() == bytes.len();
    let is_http = |line: &[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let version = line.len().checked_sub(9).and_then(|at| line.get(at..));
        version.is_some_and(|v| v.starts_with(b" HTTP/1."))
    };
    let request = known || (whole && is_http(first));
    if !request {
        let text = |b: &u8| matches!(b, b' '..=b'~' | b'\t');
        // A line of text that is not finished may still become a request, whatever its method.
        let unfinished = !whole && first.iter().all(text) && word.len() < bytes.len();
        return if could_be || (unfinished && token(word)) {
            Greeting::More
        } else {
            Greeting::Other
        };
    }
    if word == b"CONNECT" {
        return Greeting::Malformed("CONNECT, which asks for a way to another host");
    }
    let Some(head) = head(bytes) else {
        return Greeting::More;
    };
    match request_host(head) {
        Ok(host) => Greeting::Http(host),
        Err(what) => Greeting::Malformed(what),
    }
}

/// Characters of a method (RFC 9110 §5.6.2).
fn token(word: &[u8]) -> bool {
    word.iter()
        .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// Everything before the empty line.
fn head(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        if matches!(line, b"\n" | b"\r\n") {
            return bytes.get(..at);
        }
        at += line.len();
    }
    None
}

fn request_host(head: &[u8]) -> Result<Option<String>, &'static str> {
    let mut lines = head
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request = lines.next().unwrap_or_default();
    let mut words = request.split(|b| *b == b' ').skip(1);
    let target = words.next().unwrap_or_default();
    let mut host = absolute(target)?;
    let mut named = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = match line.iter().position(|b| *b == b':') {
            Some(at) => line.split_at(at),
            None => return Err("a header without a colon"),
        };
        if line.contains(&b'\r') || line.contains(&0) || !token(name) || name.is_empty() {
            return Err("a header that parsers read differently");
        }
        if !name.eq_ignore_ascii_case(b"host") {
            continue;
        }
        if std::mem::replace(&mut named, true) {
            return Err("two Host headers");
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let value = plain_host(value).ok_or("a Host header that is no host")?;
        if *host.get_or_insert_with(|| value.clone()) != value {
            return Err("a Host header that is not the host of the request");
        }
    }
    Ok(host)
}

/// The host of a target in absolute form (RFC 9112 §3.2.2); `None` for a path.
fn absolute(target: &[u8]) -> Result<Option<String>, &'static str> {
    const WRONG: &str = "a request target that is no path and no address";
    if target.starts_with(b"/") || target == b"*" {
        return Ok(None);
    }
    let text = std::str::from_utf8(target).map_err(|_| WRONG)?;
    let (_, rest) = text.split_once("://").ok_or(WRONG)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    plain_host(authority.as_bytes()).map(Some).ok_or(WRONG)
}

/// A host without its port.
fn plain_host(value: &[u8]) -> Option<String> {
    let name = plain_name(value)?;
    let host = match name.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => name.split(':').next().unwrap_or_default(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(name: Option<&str>) -> Vec<u8> {
        let mut extensions = vec![0, 23, 0, 0];
        if let Some(name) = name {
            let length = |extra: usize| u16::try_from(name.len() + extra).unwrap().to_be_bytes();
            extensions.extend([0, 0]);
            extensions.extend(length(5));
            extensions.extend(length(3));
            extensions.push(0);
            extensions.extend(length(0));
            extensions.extend_from_slice(name.as_bytes());
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut handshake = vec![1, 0];
        handshake.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        handshake.extend(body);
        handshake
    }

    fn records(handshake: &[u8], piece: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in handshake.chunks(piece) {
            bytes.extend([0x16, 3, 1]);
            bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    #[test]
    fn the_server_name_is_found_however_the_hello_is_cut() {
        let handshake = hello(Some("API.example.com"));
        for piece in [1, 7, 50, 16_000] {
            let bytes = records(&handshake, piece);
            let expected = Greeting::Tls(Some("api.example.com".into()));
            assert_eq!(read(&bytes), expected);
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Greeting::More, "{piece} {cut}");
            }
        }
        assert_eq!(read(&records(&hello(None), 99)), Greeting::Tls(None));
    }

    #[test]
    fn a_hello_that_lies_is_malformed() {
        let mut two = hello(Some("a.example"));
        let length = two.len();
        two[length - 9] = 0;
        for bytes in [
            records(&two, 999),
            vec![0x16, 3, 1, 0, 0],
            vec![0x16, 3, 1, 0x50, 0],
            vec![0x16, 3, 1, 0, 4, 2, 0, 0, 0],
            [records(&[1, 0], 9), vec![b'x'; 9]].concat(),
        ] {
            assert!(matches!(read(&bytes), Greeting::Malformed(_)), "{bytes:?}");
        }
    }

    fn http(text: &str) -> Greeting {
        read(text.as_bytes())
    }

    fn host(text: &str) -> Greeting {
        Greeting::Http(Some(text.to_owned()))
    }

    #[test]
    fn the_host_of_a_request_is_found() {
        for text in [
            "GET / HTTP/1.1\r\nHost: A.example\r\n\r\n",
            "GET / HTTP/1.1\nhost:a.example.:8080 \n\n",
            "\r\n\r\nPOST http://a.example:80/x HTTP/1.1\r\nAccept: *\r\nHost: a.example\r\n\r\nHost: b",
            "GET http://a.example HTTP/1.0\r\n\r\n",
            "BREW /pot HTTP/1.1\r\nHost: a.example\r\n\r\n",
        ] {
            assert_eq!(http(text), host("a.example"), "{text:?}");
        }
        assert_eq!(http("GET / HTTP/1.0\r\n\r\n"), Greeting::Http(None));
    }

    #[test]
    fn smuggling_is_malformed() {
        for text in [
            "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "CONNECT b",
            "\r\nCONNECT b.example:443 HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
            "GET / HTTP/1.1\r\nX: 1\rHost: b\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://x@b/ HTTP/1.1\r\n\r\n",
        ] {
            assert!(matches!(http(text), Greeting::Malformed(_)), "{text:?}");
        }
    }

    #[test]
    fn what_may_become_a_request_is_waited_for() {
        for text in [
            "",
            "\r\n",
            "G",
            "GET",
            "GET /",
            "GET / HTTP/1.1\r\nHost: b\r\n",
            "FOO /x",
        ] {
            assert_eq!(http(text), Greeting::More, "{text:?}");
        }
    }

    #[test]
    fn other_protocols_name_nobody() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9\r\n"[..],
            b"EHLO me\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\x16\x02",
        ] {
            assert_eq!(read(bytes), Greeting::Other, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), tls in any::<bool>()) {
            let mut bytes = bytes;
            if tls {
                bytes.splice(0..0, [0x16, 3, 1]);
            }
            drop(read(&bytes));
        }
    }
}
