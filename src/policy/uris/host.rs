//! The one spelling of a host in a URI.

use super::percent_decoded;
use crate::policy::names::fold;
// The types alone: nothing in `core` reaches a network.
use core::net::{Ipv4Addr, Ipv6Addr};

/// A host with its port, as the WHATWG parser would write them (URL §3.5, §4.4): without the user, an
/// address as four numbers, the port only where it is not the scheme's own.
pub(super) fn plain(scheme: &str, authority: &str) -> String {
    let whole = fold(&percent_decoded(authority)).into_owned();
    let whole = whole.rsplit('@').next().unwrap_or_default();
    let (host, port) = match whole.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (whole, ""),
    };
    let host = host.replace('\u{3002}', ".");
    let host = host.strip_suffix('.').unwrap_or(&host);
    let host = match address(host) {
        Some(address) => address,
        None => host.to_owned(),
    };
    let own = match scheme {
        "http" | "ws" => "80",
        "https" | "wss" => "443",
        "ftp" => "21",
        _ => "",
    };
    match port.trim_start_matches('0') {
        "" if port.is_empty() => host,
        "" => format!("{host}:0"),
        same if same == own => host,
        other => format!("{host}:{other}"),
    }
}

/// An address in the spelling that all its spellings share; one of IPv4 that is written as IPv6 leads
/// to the same place.
fn address(host: &str) -> Option<String> {
    let inside = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    match inside {
        Some(inside) => {
            let six: Ipv6Addr = inside.parse().ok()?;
            Some(match six.to_ipv4_mapped() {
                Some(four) => four.to_string(),
                None => format!("[{six}]"),
            })
        }
        None => ipv4(host).map(|four| four.to_string()),
    }
}

/// Decimal, octal and hexadecimal numbers, of which the last fills what is left (WHATWG URL §3.5, and
/// `inet_aton(3)`).
fn ipv4(host: &str) -> Option<Ipv4Addr> {
    let mut numbers = host.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let last = numbers.pop()?;
    if numbers.len() > 3 {
        return None;
    }
    let mut whole = 0_u32;
    for (at, number) in numbers.iter().enumerate() {
        whole |= u32::from(u8::try_from(*number).ok()?) << (24 - 8 * at);
    }
    // 32 bits less 8 for each number before it.
    let room = u64::from(u32::MAX) >> (8 * numbers.len());
    (u64::from(last) <= room).then(|| Ipv4Addr::from_bits(whole | last))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    match digits {
        "" if radix == 16 => Some(0),
        "" => None,
        // `from_str_radix` takes a sign.
        _ if digits.starts_with('+') => None,
        _ => u32::from_str_radix(digits, radix).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn an_address_has_one_spelling() {
        for spelling in [
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "0x7F000001",
            "127.1",
            "127.0.1",
            "0177.0.0.01",
            "017700000001",
            "127.0.0.1.",
            "127。0。0。1",
            "１２７.0.0.1",
            "%31%32%37.0.0.1",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:7f00:0001]",
            "me@127.1",
            "127.1:80",
            "127.1:080",
            "127.1:",
        ] {
            assert_eq!(plain("http", spelling), "127.0.0.1", "{spelling}");
        }
        assert_eq!(plain("http", "[0::1]"), "[::1]");
        assert_eq!(plain("http", "[::1]:080"), "[::1]");
        assert_eq!(plain("https", "127.1:080"), "127.0.0.1:80");
        assert_eq!(plain("http", "h:0"), "h:0");
        for other in [
            "1.2.3.4.5",
            "256.1.1.1",
            "4294967296",
            "a.1",
            "1..2",
            "+1",
            "09",
            "10.*",
        ] {
            assert_eq!(plain("http", other), other);
        }
        assert_eq!(plain("http", "0x"), "0.0.0.0");
    }
}
