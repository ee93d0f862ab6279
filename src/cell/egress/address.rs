//! Which resolved addresses a name may lead to: public ones, unless a range was allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of address it is, when no name may lead there by itself; `None` for a public one.
///
/// IANA's registries of special-purpose addresses (RFC 6890), and the forms of IPv6 that carry an
/// IPv4 address. Ranges for documentation stay: nothing answers there.
pub(super) fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(four) => special_four(four),
        IpAddr::V6(six) => special_six(six),
    }
}

fn special_four(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("an address of this host"),
        [127, ..] => Some("a loopback address"),
        [169, 254, ..] => Some("a link-local address"),
        [10, ..] | [192, 168, ..] => Some("a private address"),
        [172, second, ..] if second & 0xf0 == 16 => Some("a private address"),
        // 100.100.100.200 is the metadata service of one provider.
        [100, second, ..] if second & 0xc0 == 64 => Some("an address behind a provider's NAT"),
        // DS-Lite and the like; 192.0.0.192 is the metadata service of one provider.
        [192, 0, 0, _] => Some("a special address"),
        [198, 18 | 19, ..] => Some("an address for benchmarks"),
        // The platform's own services at one provider, with no route elsewhere.
        [168, 63, 129, 16] => Some("a metadata address"),
        [first, ..] if first >= 224 => Some("a multicast or reserved address"),
        _ => None,
    }
}

fn special_six(address: Ipv6Addr) -> Option<&'static str> {
    let low = Ipv4Addr::from_bits(u32::try_from(address.to_bits() & 0xffff_ffff).unwrap_or(0));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Some("a loopback address"),
        // IPv4-mapped, IPv4-compatible, and the well-known prefix of NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, ..] => {
            special_four(low).or(Some("an IPv4 address in disguise"))
        }
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => special_four(low),
        [0x64, 0xff9b, ..] => Some("a private address"),
        // 6to4 carries its IPv4 address in the second and third part (RFC 3056).
        [0x2002, high, low, ..] => {
            special_four(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        [0x2001, 0, ..] => Some("a Teredo address"),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some("a private address"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("a link-local address"),
        [first, ..] if first & 0xffc0 == 0xfec0 => Some("a private address"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("a multicast address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_told() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.192",
            "198.18.0.1",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(special(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "203.0.113.5",
            "169.253.0.1",
            "2606:4700::1111",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert_eq!(special(text.parse().unwrap()), None, "{text}");
        }
    }
}
