//! Where a server that runs elsewhere is reached: an `http` or `https` URL, taken apart.

use super::EntryError;
use super::entries::shown;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest URL, in bytes.
const LONGEST: usize = 2048;

/// A URL without user, password and fragment (RFC 3986); it is shown without its query, which may hold
/// a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`.
    pub tls: bool,
    /// A name in lower case, or an address; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// Path and query as written; begins with a slash.
    pub target: String,
}

impl Endpoint {
    /// The host as an address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// True when only programs of this host (or pod) can be meant.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.address().map(|it| it.to_canonical());
        self.host == "localhost" || address.is_some_and(|it| it.is_loopback())
    }

    /// `host`, or `host:port` where the scheme does not imply the port; what a `Host` header says.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        };
        if self.port == default_port(self.tls) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Scheme and authority: all that a credential is ever sent to.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let more = if query.is_empty() { "" } else { "?…" };
        write!(f, "{}{path}{more}", self.origin())
    }
}

impl FromStr for Endpoint {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        read(text).ok_or_else(|| {
            // A password or a query may be a secret.
            let start = text.split(['?', '#']).next().unwrap_or_default();
            let start = match start.contains('@') {
                true => start.split("://").next().unwrap_or_default(),
                false => start,
            };
            let what = format!("`{}` is not the URL of a server", shown(start));
            EntryError::new(what, "write it as in `https://mcp.example.com/mcp`")
        })
    }
}

fn read(text: &str) -> Option<Endpoint> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain || text.len() > LONGEST || text.contains(['#', '\\', '"', '<', '>', '`']) {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let tls = match &*scheme.to_ascii_lowercase() {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end)?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    let port = match port? {
        "" => default_port(tls),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    let target = match target.strip_prefix('/') {
        Some(_) => target.to_owned(),
        None => format!("/{target}"),
    };
    (port != 0 && is_host(host)).then(|| Endpoint {
        tls,
        host: host.to_ascii_lowercase(),
        port,
        target,
    })
}

/// An address, or a name of letters, digits, `-`, `_` and dots between them (RFC 1123 §2.1). What looks
/// like an address but is none (`127.1`, `0x7f.1`) is refused: resolvers differ in what they make of it.
fn is_host(host: &str) -> bool {
    if host.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && label.bytes().all(fits)
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.starts_with(|c: char| c.is_ascii_digit());
    name.len() <= 253 && !numeric && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, origin, target) in [
            ("https://Example.com/mcp", "https://example.com", "/mcp"),
            ("https://example.com:443", "https://example.com", "/"),
            (
                "HTTPS://example.com:8443/a?b=c",
                "https://example.com:8443",
                "/a?b=c",
            ),
            ("http://127.0.0.1:80/", "http://127.0.0.1", "/"),
            ("http://[::1]:8080/x", "http://[::1]:8080", "/x"),
            ("http://localhost?k=v", "http://localhost", "/?k=v"),
        ] {
            let url: Endpoint = text.parse().unwrap();
            assert_eq!((&*url.origin(), &*url.target), (origin, target), "{text}");
        }
        let url: Endpoint = "https://h/p?key=secret".parse().unwrap();
        assert_eq!(url.to_string(), "https://h/p?…");
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_without_being_repeated() {
        for text in [
            "",
            "example.com/mcp",
            "ftp://example.com",
            "https://",
            "https:///mcp",
            "https://user:secret@example.com/",
            "https://example.com/#x",
            "https://example.com:0/",
            "https://example.com:+1/",
            "https://example.com:70000/",
            "https://exa mple.com/",
            "https://[::1/",
            "https://[::1]x/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://-a.com/",
            "https://a..b/",
            "https://b\u{fc}cher.example/",
            "https://a/\r\nX: y",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(!error.what.contains("secret"), "{text}");
        }
    }

    #[test]
    fn loopback_is_known_by_its_forms() {
        for (host, near) in [
            ("localhost", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost.example", false),
            ("10.0.0.1", false),
        ] {
            let url: Endpoint = format!("http://{host}/").parse().unwrap();
            assert_eq!(url.is_loopback(), near, "{host}");
        }
    }
}
