//! What the relay tells the spawner, and the spawner whoever asked for the cell: what was refused, and
//! what passed, by host.

use crate::config::AddressRange;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The longest message on the way, in bytes; names have 255.
pub(in crate::cell) const LONGEST: usize = 4096;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum News {
    Refused(Refused),
    Carried(Carried),
}

/// What did not come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    pub reason: Reason,
    /// The allowed host that it had to do with, as [`label`] spells it; empty when there is none.
    pub rule: String,
    /// What was wanted: a name, or `host:port`.
    pub host: String,
    /// One line for people, with the setting that would allow it; empty when it is only counted, because
    /// it was told before or too much is.
    pub text: String,
    pub times: u64,
}

/// What has passed since it was told last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The allowed host, as [`label`] spells it.
    pub rule: String,
    /// Connections that were made to it.
    pub connections: u64,
    /// Bytes to the host and from it.
    pub sent: u64,
    pub received: u64,
}

/// Why it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A look-up of a name that is not allowed.
    Name,
    /// An allowed name, on a port that is not.
    Port,
    /// An address that is not allowed.
    Address,
    /// A datagram.
    Datagram,
    /// TLS or HTTP for another host than the one that was connected to.
    OtherHost,
    /// A beginning that hides for whom it is.
    Protocol,
    /// An allowed name that leads to an address which is not public.
    Private,
    /// Allowed, but the host is not to be found or does not answer.
    Unreachable,
    /// Too many connections at the same time.
    Busy,
}

impl Reason {
    /// For metrics and audit lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Port => "port",
            Self::Address => "address",
            Self::Datagram => "datagram",
            Self::OtherHost => "other_host",
            Self::Protocol => "protocol",
            Self::Private => "private",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
        }
    }

    /// Whether a rule refused it; false where it was allowed and failed.
    #[must_use]
    pub fn is_denial(self) -> bool {
        !matches!(self, Self::Unreachable | Self::Busy)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl News {
    /// The bytes on the way.
    pub(in crate::cell) fn encode(&self) -> Vec<u8> {
        // Nothing in it cannot be spelled.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None` for what no relay of ours sends.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = Some(bytes).filter(|bytes| bytes.len() <= LONGEST)?;
        serde_json::from_slice(bytes).ok()
    }
}

/// How the host of a rule is spelt in metrics.
#[must_use]
pub fn label(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.to_string();
    }
    match host.parse::<AddressRange>() {
        Ok(range) => range.to_string(),
        Err(_) => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_arrive_as_they_were_sent_and_nothing_else_does() {
        let news = News::Refused(Refused {
            reason: Reason::OtherHost,
            rule: "api.example".into(),
            host: "a\"b:443".into(),
            text: String::new(),
            times: 7,
        });
        assert_eq!(News::decode(&news.encode()), Some(news));
        for bytes in [&b""[..], b"{}", b"{\"Refused\":{}}", &[b' '; LONGEST + 1]] {
            assert_eq!(News::decode(bytes), None);
        }
        // What metrics say is what the wire says.
        for reason in [Reason::OtherHost, Reason::Unreachable, Reason::Name] {
            let spelt = serde_json::to_value(reason).unwrap();
            assert_eq!(spelt, reason.name());
        }
    }

    #[test]
    fn one_host_has_one_label() {
        for host in ["API.example.", "api.example"] {
            assert_eq!(label(host), "api.example");
        }
        assert_eq!(label("2001:DB8:0::5"), "2001:db8::5");
    }
}
