//! Whether names can be looked up over TCP, so that a cell needs no datagram sockets for it.
//!
//! RFC 7766 §5 makes TCP a must for every name server, yet some networks answer on UDP alone. A cell
//! that may reach hosts by name then needs datagrams, which no landlock rule can narrow, and the
//! operator hears of it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// The port of name servers.
pub(super) const PORT: u16 = 53;
/// Time for each step with one name server; it is near, or it is no use.
const PATIENCE: Duration = Duration::from_millis(400);
/// What the query carries and its answer must repeat.
const ID: [u8; 2] = [0xc0, 0xfe];

/// True when `host` is a name that only a name server knows: no address, and not in `hosts(5)`.
pub(super) fn is_asked_for(hosts: &str, host: &str) -> bool {
    let known = |line: &str| {
        let entry = line.split('#').next().unwrap_or_default();
        entry
            .split_ascii_whitespace()
            .skip(1)
            .any(|name| name.eq_ignore_ascii_case(host))
    };
    // Ranges have a slash.
    host.parse::<IpAddr>().is_err()
        && !host.contains('/')
        && !host.eq_ignore_ascii_case("localhost")
        && !hosts.lines().any(known)
}

/// True when the first name server of `resolv.conf` (resolv.conf(5)) answers a query for `host` over
/// TCP; also when there is none that could be asked.
pub(super) fn answers_over_tcp(resolv_conf: &str, host: &str) -> bool {
    let Some(server) = first_server(resolv_conf) else {
        return true;
    };
    ask(SocketAddr::new(server, PORT), host).unwrap_or(false)
}

fn first_server(resolv_conf: &str) -> Option<IpAddr> {
    resolv_conf.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
    })
}

fn ask(server: SocketAddr, host: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&query(host))?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    // Two bytes of length, then the id and the QR bit of RFC 1035 §4.1.1: any answer will do.
    Ok(head[2..4] == ID && head[4] & 0x80 != 0)
}

/// A recursive question for the A record of `host`, with the length that TCP puts before it
/// (RFC 1035 §4.1, §4.2.2).
fn query(host: &str) -> Vec<u8> {
    let mut message = [ID.as_slice(), &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in host.split('.').filter(|label| !label.is_empty()) {
        let label = label.as_bytes().get(..63).unwrap_or(label.as_bytes());
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend_from_slice(label);
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [length.to_be_bytes().as_slice(), &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_first_server_is_read_and_comments_are_not() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        assert_eq!(first_server(text), Some("192.0.2.1".parse().unwrap()));
        assert!(answers_over_tcp("search x\n", "a.example"));
    }

    #[test]
    fn addresses_and_names_of_the_hosts_file_are_not_asked_for() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1 db db.corp # not.this\n";
        for host in ["192.0.2.1", "::1", "localhost", "DB.corp"] {
            assert!(!is_asked_for(hosts, host), "{host}");
        }
        for host in ["api.example", "not.this", "10.0.0.1.example"] {
            assert!(is_asked_for(hosts, host), "{host}");
        }
    }

    #[test]
    fn an_answer_counts_and_silence_does_not() {
        for (answer, counts) in [
            (&[0, 12, ID[0], ID[1], 0x81, 0x80][..], true),
            (&[0, 12, 0, 0, 0x81, 0x80], false),
            (&[], false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let server = listener.local_addr().unwrap();
            let thread = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 64];
                let length = stream.read(&mut asked).unwrap();
                stream.write_all(answer).unwrap();
                asked[..length].to_vec()
            });
            assert_eq!(ask(server, "api.example").unwrap_or(false), counts);
            let asked = thread.join().unwrap();
            assert_eq!(asked.len(), usize::from(asked[1]) + 2);
            assert!(
                asked
                    .windows(13)
                    .any(|part| part == b"\x03api\x07example\0")
            );
        }
    }
}
