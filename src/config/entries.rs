//! The small texts inside lists and flags: variables, hosts, listener addresses, fixed words.

use super::{
    AddressRange, AdminAddr, Auth, Check, EgressRule, EnvRule, Payloads, Preset, Replace, Restart,
    SecretsMode, StateMode,
};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Why one entry is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct EntryError {
    /// One clause about the text.
    pub what: String,
    /// What to write instead; empty when there is nothing to say.
    pub hint: &'static str,
}

impl EntryError {
    pub(super) fn new(what: impl Into<String>, hint: &'static str) -> Self {
        Self {
            what: what.into(),
            hint,
        }
    }
}

/// A closed set of words that a value is chosen from.
pub trait Word: Copy + PartialEq + 'static {
    /// Every word with what it stands for.
    const WORDS: &'static [(&'static str, Self)];

    /// The word for this value.
    fn as_str(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("", |(word, _)| word)
    }

    /// The value of a word.
    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, value)| *value)
    }
}

impl Word for Preset {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("node", Self::Node),
        ("python", Self::Python),
        ("none", Self::None),
    ];
}

impl Word for SecretsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("redact", Self::Redact),
        ("refuse", Self::Refuse),
        ("flag", Self::Flag),
        ("off", Self::Off),
    ];
}

impl Word for Check {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("refuse", Self::Refuse),
        ("warn", Self::Warn),
        ("off", Self::Off),
    ];
}

impl Word for Auth {
    const WORDS: &'static [(&'static str, Self)] =
        &[("local", Self::Local), ("required", Self::Required)];
}

impl Word for StateMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("session", Self::Session), ("stateless", Self::Stateless)];
}

impl Word for Restart {
    const WORDS: &'static [(&'static str, Self)] =
        &[("always", Self::Always), ("never", Self::Never)];
}

impl Word for Replace {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("overlap", Self::Overlap),
        ("swap", Self::Swap),
        ("never", Self::Never),
    ];
}

impl Word for Payloads {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("digest", Self::Digest),
        ("redacted", Self::Redacted),
    ];
}

/// POSIX: letters, digits and `_`, no digit first. Anything else could not be set by a shell either.
pub(super) fn variable_name(name: &str) -> Result<(), EntryError> {
    let mut bytes = name.bytes();
    let starts = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if starts && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(());
    }
    Err(EntryError::new(
        format!("`{}` is not the name of a variable", shown(name)),
        "write NAME to pass a variable on, or NAME=value to set one",
    ))
}

/// A number, or what `useradd(8)` takes as a name and a little more.
pub(super) fn user(text: &str) -> Result<(), EntryError> {
    let wrong = |what: &str| {
        let hint = "write the name of a user, a number, or `root`";
        Err(EntryError::new(format!("`{}` {what}", shown(text)), hint))
    };
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // The last number means `no change` to setresuid(2).
        return match text.parse::<u32>() {
            Ok(number) if number < u32::MAX => Ok(()),
            Ok(_) | Err(_) => wrong("is too large for a user"),
        };
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.@\\$".contains(&b);
    if text.is_empty() || text.len() > 255 || text.starts_with('-') || !text.bytes().all(plain) {
        return wrong("is not the name of a user");
    }
    Ok(())
}

impl FromStr for EnvRule {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let Some((name, value)) = text.split_once('=') else {
            variable_name(text)?;
            return Ok(Self::Pass(text.to_owned()));
        };
        variable_name(name)?;
        if value.contains('\0') {
            return Err(EntryError::new(
                format!("the value of `{name}` holds a NUL byte"),
                "",
            ));
        }
        Ok(Self::Set(name.to_owned(), value.to_owned()))
    }
}

impl EnvRule {
    /// The variable that the rule is about.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Pass(name) | Self::Set(name, _) => name,
        }
    }
}

const HOST_HINT: &str = "write a host and a port, as in `api.example.com:443` or `[::1]:8080`";

impl FromStr for EgressRule {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        const DEFAULT_PORT: u16 = 443;
        let wrong = |what: &str| EntryError::new(format!("`{}` {what}", shown(text)), HOST_HINT);
        if text.contains("://") {
            return Err(wrong("is an address, not a host"));
        }
        let is_range = |host: &str| host.contains('/') && host.parse::<AddressRange>().is_ok();
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| wrong("has no closing bracket"))?;
            if host.parse::<Ipv6Addr>().is_err() && !(host.contains(':') && is_range(host)) {
                return Err(wrong("is not an IPv6 address or range"));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(wrong("has text behind the bracket")),
            }
        } else if text.parse::<Ipv6Addr>().is_ok() || is_range(text) {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port != 0 => port,
                _ => return Err(wrong("has a port that is not between 1 and 65535")),
            },
        };
        if host.contains('/') && !is_range(host) {
            return Err(wrong("is neither a host nor a range of addresses"));
        }
        let known = host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:*/".contains(&b));
        // 253 is the longest name of the DNS (RFC 1035 section 2.3.4).
        if host.is_empty() || host.len() > 253 || !known {
            return Err(wrong("is not a host"));
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for AdminAddr {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let wrong = || {
            EntryError::new(
                format!("`{}` is not an address to listen on", shown(text)),
                "write an address and a port, as in `127.0.0.1:9464`, or `unix:/path/to.sock`",
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // `sun_path` holds 108 bytes with the final NUL (unix(7)).
            if path.is_empty() || path.len() > 107 || path.contains('\0') {
                return Err(wrong());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| wrong())?;
            return Ok(Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        text.parse().map(Self::Tcp).map_err(|_| wrong())
    }
}

impl fmt::Display for AdminAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Text for a message: no control characters, not endless.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = text
        .chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_port() {
        let parse = |text: &str| text.parse::<EgressRule>().map(|rule| rule.to_string());
        assert_eq!(
            parse("api.example.com").as_deref(),
            Ok("api.example.com:443")
        );
        assert_eq!(
            parse("API.example.com:8443").as_deref(),
            Ok("api.example.com:8443")
        );
        assert_eq!(parse("[::1]:80").as_deref(), Ok("[::1]:80"));
        assert_eq!(parse("::1").as_deref(), Ok("[::1]:443"));
        assert_eq!(parse("*:5432").as_deref(), Ok("*:5432"));
        assert_eq!(parse("10.0.0.0/8:5432").as_deref(), Ok("10.0.0.0/8:5432"));
        assert_eq!(parse("10.0.0.0/8").as_deref(), Ok("10.0.0.0/8:443"));
        assert_eq!(parse("[FD00::/8]:80").as_deref(), Ok("[fd00::/8]:80"));
        assert_eq!(parse("fd00::/8").as_deref(), Ok("[fd00::/8]:443"));
        for text in [
            "",
            ":443",
            "https://x",
            "x/y",
            "10.0.0.0/33",
            "[10.0.0.0/8]:80",
            "[fd00::/129]:80",
            "x:0",
            "x:65536",
            "x:",
            "[::1",
            "[x]:1",
            "[::1]80",
            "a b",
            "x:1:2",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_pass_or_are_set() {
        assert_eq!("LANG".parse(), Ok(EnvRule::Pass("LANG".into())));
        assert_eq!("A=b=c".parse(), Ok(EnvRule::Set("A".into(), "b=c".into())));
        assert_eq!("A=".parse(), Ok(EnvRule::Set("A".into(), String::new())));
        for text in ["", "=x", "1A", "A-B", "A B=1", "A=\0"] {
            assert!(text.parse::<EnvRule>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn listeners_are_tcp_or_unix() {
        let parse = |text: &str| text.parse::<AdminAddr>().map(|addr| addr.to_string());
        assert_eq!(parse("127.0.0.1:9464").as_deref(), Ok("127.0.0.1:9464"));
        assert_eq!(parse("localhost:1").as_deref(), Ok("127.0.0.1:1"));
        assert_eq!(parse("unix:/run/x.sock").as_deref(), Ok("unix:/run/x.sock"));
        for text in ["", "9464", ":9464", "127.0.0.1", "unix:", "example.com:80"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
