//! Names to addresses outside of the cell: hosts(5), then the name servers of resolv.conf(5).
//!
//! A client of our own, because the C library of a static program loads its resolver's parts as
//! shared objects, which the relay's cage forbids.

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
pub(super) const HOSTS: &str = "/etc/hosts";
/// The port of name servers.
pub(super) const PORT: u16 = 53;

/// Time for one question to one server.
const PATIENCE: Duration = Duration::from_secs(2);
/// Servers that are asked, as the C library has it (`MAXNS`).
const SERVERS: usize = 3;
/// Rounds over all servers.
const ROUNDS: usize = 2;
/// Domains that are tried (`MAXDNSRCH`).
const DOMAINS: usize = 6;
/// Addresses that are kept of one name.
const ADDRESSES: usize = 16;
/// The largest file that is read, in bytes.
const FILE: u64 = 1 << 20;

pub(super) const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// What resolv.conf(5) says.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<SocketAddr>,
    domains: Vec<String>,
    /// A name with fewer dots is looked for in the domains first.
    dots: usize,
}

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Four,
    Six,
}

/// The addresses of a name, of one family; none when it has none of that family.
///
/// # Errors
/// Nobody who would tell.
pub(super) fn resolve(name: &str, family: Family) -> io::Result<Vec<IpAddr>> {
    let known = in_hosts(&read(HOSTS), name);
    if !known.is_empty() {
        let wanted = |address: &IpAddr| address.is_ipv4() == (family == Family::Four);
        return Ok(known.into_iter().filter(wanted).collect());
    }
    let settings = Settings::parse(&read(RESOLV_CONF));
    let kind = match family {
        Family::Four => TYPE_A,
        Family::Six => TYPE_AAAA,
    };
    let mut last = None;
    for candidate in settings.candidates(name) {
        match settings.ask(&candidate, kind) {
            Ok(mut found) if !found.is_empty() => {
                found.truncate(ADDRESSES);
                return Ok(found);
            }
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(Vec::new()), Err)
}

/// Whether the host's own file says that a name is at that address.
pub(super) fn is_at(name: &str, address: IpAddr) -> bool {
    in_hosts(&read(HOSTS), name).contains(&address)
}

fn read(path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        file.take(FILE).read_to_end(&mut text).ok();
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words
            .any(|word| word.eq_ignore_ascii_case(name))
            .then_some(address)
    });
    lines.take(ADDRESSES).collect()
}

impl Settings {
    fn parse(text: &str) -> Self {
        let mut settings = Self {
            servers: Vec::new(),
            domains: Vec::new(),
            dots: 1,
        };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    let server = address.map(|address| SocketAddr::new(address, PORT));
                    settings.servers.extend(server);
                }
                Some("search" | "domain") => {
                    settings.domains = words.take(DOMAINS).map(str::to_owned).collect();
                }
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    settings.dots = dots.unwrap_or(settings.dots);
                }
                _ => {}
            }
        }
        settings.servers.truncate(SERVERS);
        if settings.servers.is_empty() {
            let here = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
            settings.servers.push(here);
        }
        settings
    }

    /// The names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        let domains = self.domains.iter().map(|domain| {
            let domain = domain.trim_end_matches('.');
            format!("{name}.{domain}")
        });
        let mut all: Vec<String> = domains.collect();
        let dots = name.bytes().filter(|b| *b == b'.').count();
        let at = if dots >= self.dots { 0 } else { all.len() };
        all.insert(at, name.to_owned());
        all
    }

    fn ask(&self, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ROUNDS {
            for server in &self.servers {
                match ask(*server, name, kind) {
                    Ok(Some(addresses)) => return Ok(addresses),
                    Ok(None) => last = io::ErrorKind::NotFound.into(),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }
}

/// `None` when the server will not say; an empty list when there is none.
fn ask(server: SocketAddr, name: &str, kind: u16) -> io::Result<Option<Vec<IpAddr>>> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let query = query(id, name, kind);
    let answer = ask_datagram(server, &query)?;
    match judge(&query, &answer, kind) {
        Verdict::Cut => {
            let answer = ask_stream(server, &query)?;
            match judge(&query, &answer, kind) {
                Verdict::Found(addresses) => Ok(Some(addresses)),
                _ => Ok(None),
            }
        }
        Verdict::Found(addresses) => Ok(Some(addresses)),
        Verdict::Unwilling => Ok(None),
        Verdict::Foreign => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn ask_datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let family = if server.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    // Connected, so that only the server's datagrams arrive; from a port that the kernel draws.
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &server)?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(query)?;
    let mut answer = vec![0; 4096];
    // Answers to other questions are passed over, a few of them.
    for _ in 0..8 {
        let length = socket.recv(&mut answer)?;
        let bytes = answer.get(..length).unwrap_or_default();
        if is_answer(query, bytes) {
            return Ok(bytes.to_vec());
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Over TCP each message has its length before it (RFC 1035 §4.2.2).
fn ask_stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

pub(super) fn query(id: [u8; 2], name: &str, kind: u16) -> Vec<u8> {
    let mut message = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = label.as_bytes();
        let label = label.get(..63).unwrap_or(label);
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// What an answer is worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Found(Vec<IpAddr>),
    /// It did not fit into a datagram.
    Cut,
    /// The server failed or refuses.
    Unwilling,
    /// Not an answer to this question.
    Foreign,
}

fn is_answer(query: &[u8], answer: &[u8]) -> bool {
    let question = query.get(12..).unwrap_or_default();
    let repeated = answer.get(12..12 + question.len());
    answer.get(..2) == query.get(..2)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && repeated.is_some_and(|bytes| bytes.eq_ignore_ascii_case(question))
}

pub(super) fn judge(query: &[u8], answer: &[u8], kind: u16) -> Verdict {
    let Some([_, _, flags, code, _, _, a0, a1, ..]) = answer.get(..12) else {
        return Verdict::Foreign;
    };
    // A server that fails may leave the question out.
    if answer.get(..2) == query.get(..2) && !matches!(code & 15, 0 | 3) {
        return Verdict::Unwilling;
    }
    if !is_answer(query, answer) {
        return Verdict::Foreign;
    }
    if flags & 2 != 0 {
        return Verdict::Cut;
    }
    if code & 15 == 3 {
        return Verdict::Found(Vec::new());
    }
    let count = u16::from_be_bytes([*a0, *a1]);
    let records = answer.get(query.len()..).unwrap_or_default();
    Verdict::Found(addresses(records, count, kind))
}

/// The addresses among the records; names of aliases on the way do not matter, because the server is
/// trusted to say only what belongs to the question.
fn addresses(mut records: &[u8], count: u16, kind: u16) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for _ in 0..count.min(64) {
        let Some((record, body, rest)) = record(records) else {
            break;
        };
        records = rest;
        if record != kind {
            continue;
        }
        let four: Option<[u8; 4]> = body.try_into().ok();
        let six: Option<[u8; 16]> = body.try_into().ok();
        match kind {
            TYPE_A => found.extend(four.map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))),
            _ => found.extend(six.map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))),
        }
    }
    found
}

/// The type and the data of the first record, and what follows it.
fn record(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let mut rest = bytes;
    loop {
        let (length, after) = rest.split_first()?;
        match length {
            0 => {
                rest = after;
                break;
            }
            // A pointer ends a name (RFC 1035 §4.1.4).
            0xc0.. => {
                rest = after.get(1..)?;
                break;
            }
            length => rest = after.get(usize::from(*length)..)?,
        }
    }
    // Type, class, lifetime, length.
    let (head, rest) = rest.split_first_chunk::<10>()?;
    let [k0, k1, _, _, _, _, _, _, l0, l1] = *head;
    let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((u16::from_be_bytes([k0, k1]), body, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(query: &[u8], flags: [u8; 2], records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = query.to_vec();
        bytes[2] = 0x80 | flags[0];
        bytes[3] = flags[1];
        bytes[7] = u8::try_from(records.len()).unwrap();
        bytes.extend(records.concat());
        bytes
    }

    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01x\xc0\x0c";
    const FOUR: &[u8] = b"\x01x\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xcb\0\x71\x05";

    #[test]
    fn addresses_behind_an_alias_are_found() {
        let query = query([1, 2], "a.example", TYPE_A);
        let whole = answer(&query, [0, 0], &[ALIAS, FOUR]);
        let found = Verdict::Found(vec!["203.0.113.5".parse().unwrap()]);
        assert_eq!(judge(&query, &whole, TYPE_A), found);
        assert_eq!(judge(&query, &whole, TYPE_AAAA), Verdict::Found(vec![]));
    }

    #[test]
    fn what_is_no_answer_to_the_question_does_not_count() {
        let asked = query([1, 2], "a.example", TYPE_A);
        let other = query([1, 2], "b.example", TYPE_A);
        assert_eq!(
            judge(&asked, &answer(&other, [0, 0], &[FOUR]), TYPE_A),
            Verdict::Foreign
        );
        assert_eq!(judge(&asked, &asked, TYPE_A), Verdict::Foreign);
        assert_eq!(
            judge(&asked, &answer(&asked, [2, 0], &[]), TYPE_A),
            Verdict::Cut
        );
        assert_eq!(
            judge(&asked, &answer(&asked, [0, 2], &[]), TYPE_A),
            Verdict::Unwilling
        );
        let none = judge(&asked, &answer(&asked, [0, 3], &[]), TYPE_A);
        assert_eq!(none, Verdict::Found(vec![]));
    }

    #[test]
    fn settings_are_read_as_the_c_library_reads_them() {
        let text = "# x\nnameserver 192.0.2.1\nnameserver fe80::1%2\nnameserver 2001:db8::1\n\
            search a.example b.example.\noptions edns0 ndots:2\n";
        let settings = Settings::parse(text);
        assert_eq!(settings.servers.len(), 2);
        assert_eq!(
            settings.candidates("db.x"),
            ["db.x.a.example", "db.x.b.example", "db.x"]
        );
        assert_eq!(settings.candidates("db.x.y")[0], "db.x.y");
        assert_eq!(
            Settings::parse("").servers,
            ["127.0.0.1:53".parse().unwrap()]
        );
    }

    #[test]
    fn the_hosts_file_comes_first() {
        let hosts = "127.0.0.1 localhost\n203.0.113.1 a.example b # c\n2001:db8::1 A.example\n";
        assert_eq!(in_hosts(hosts, "a.example").len(), 2);
        assert!(in_hosts(hosts, "c").is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let query = query([1, 2], "a.example", TYPE_A);
            judge(&query, &bytes, TYPE_A);
            let whole = answer(&query, [0, 0], &[&bytes]);
            judge(&query, &whole, TYPE_A);
        }
    }
}
