//! Ranges of addresses, as `cell.egress_private` has them.

use super::EntryError;
use super::entries::shown;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, as in `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    base: IpAddr,
    bits: u8,
}

impl FromStr for AddressRange {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        const HINT: &str = "write a range as in `10.1.0.0/16`, or one address";
        let wrong = || {
            let what = format!("`{}` is not a range of addresses", shown(text));
            EntryError::new(what, HINT)
        };
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { base, bits })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl AddressRange {
    /// The first address and the last.
    #[must_use]
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        match self.base {
            IpAddr::V4(base) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                let first = Ipv4Addr::from_bits(base.to_bits() & mask);
                let last = Ipv4Addr::from_bits(base.to_bits() | !mask);
                (first.into(), last.into())
            }
            IpAddr::V6(base) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.bits))
                    .unwrap_or(0);
                let first = Ipv6Addr::from_bits(base.to_bits() & mask);
                let last = Ipv6Addr::from_bits(base.to_bits() | !mask);
                (first.into(), last.into())
            }
        }
    }

    /// Whether the address lies in the range; of the other family none does.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let (first, last) = self.ends();
        first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_their_bits_say() {
        let range: AddressRange = "10.1.0.0/16".parse().unwrap();
        assert!(range.holds("10.1.255.1".parse().unwrap()));
        assert!(!range.holds("10.2.0.1".parse().unwrap()));
        assert!(!range.holds("::ffff:10.1.0.1".parse().unwrap()));
        let all: AddressRange = "0.0.0.0/0".parse().unwrap();
        assert!(all.holds("1.2.3.4".parse().unwrap()));
        let one: AddressRange = "fd00::1".parse().unwrap();
        assert_eq!(one.to_string(), "fd00::1/128");
        assert!(one.holds("fd00::1".parse().unwrap()) && !one.holds("fd00::2".parse().unwrap()));
        for text in ["", "10.0.0.0/33", "x/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
