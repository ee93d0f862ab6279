//! Looks at what a client says first, and judges whether it is meant for whom it connected to.

use super::greeting::{self, Greeting};
use super::news::Reason;
use super::refusals::Refusal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A client that says nothing for this long may be waiting for the host to speak first.
const FIRST: Duration = Duration::from_millis(50);
/// For the rest of what a client says first, once it has begun.
const WHOLE: Duration = Duration::from_secs(5);

/// What the first bytes of a client decide.
pub(super) enum Decision {
    Wait,
    Pass,
    Refuse(Option<Refusal>),
}

/// Looks at what a client says first, without taking it away.
pub(super) struct Inspector<'a> {
    name: &'a str,
    port: u16,
    bytes: Vec<u8>,
    begun: Option<Instant>,
}

impl<'a> Inspector<'a> {
    pub(super) fn new(name: &'a str, port: u16) -> Self {
        Self {
            name,
            port,
            bytes: vec![0; greeting::LIMIT],
            begun: None,
        }
    }

    /// Waits for a client that speaks first; `false` when it waits for the host.
    pub(super) fn settle(&mut self, client: &TcpStream) -> Result<bool, Option<Refusal>> {
        let begin = Instant::now();
        loop {
            match self.look(client) {
                Decision::Pass => return Ok(true),
                Decision::Refuse(reason) => return Err(reason),
                Decision::Wait => {}
            }
            if self.begun.is_some() {
                // The bytes that are there keep the socket readable.
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let left = FIRST.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&patience)).ok();
        }
    }

    pub(super) fn look(&mut self, client: &TcpStream) -> Decision {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let length = match rustix::net::recv(client, &mut self.bytes[..], flags) {
            // It ended: nothing that could be meant for somebody else.
            Ok((0, _)) => return Decision::Pass,
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Decision::Wait,
            Err(_) => return Decision::Refuse(None),
        };
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let (name, port) = (self.name, self.port);
        let bytes = self.bytes.get(..length).unwrap_or_default();
        let refuse = |reason, text| {
            let host = format!("{name}:{port}");
            Decision::Refuse(Some(Refusal { reason, host, text }))
        };
        let odd = |what: &str| {
            let text = format!("denied: connect to {name}:{port}: it began with {what}");
            refuse(Reason::Protocol, text)
        };
        let other = |protocol: &str, host: &str| {
            let text = format!(
                "denied: connect to {name}:{port} for {host} ({protocol}): allow it with --allow-host {host}:{port}"
            );
            refuse(Reason::OtherHost, text)
        };
        match greeting::read(bytes) {
            Greeting::More if length >= greeting::LIMIT => odd("more than we look at"),
            Greeting::More if begun.elapsed() > WHOLE => odd("half a request"),
            Greeting::More => Decision::Wait,
            Greeting::Malformed(what) => odd(what),
            Greeting::Other => Decision::Pass,
            Greeting::Tls(Some(host)) if host != name => other("TLS", &host),
            // Some clients send none for a name without a dot (RFC 6066 leaves it open).
            Greeting::Tls(None) if name.contains('.') => odd("TLS without a server name"),
            Greeting::Http(Some(host)) if host != name => other("HTTP", &host),
            Greeting::Tls(_) | Greeting::Http(_) => Decision::Pass,
        }
    }
}
