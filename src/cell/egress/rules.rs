//! Which names, addresses and ports are allowed, and which synthetic address stands for which name.

use super::address::special;
use crate::config::{AddressRange, EgressRule};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Listeners of one port above this many become one for all addresses.
const PER_PORT: usize = 32;
/// Names of patterns that have an address at the same time; the oldest gives its own up.
const MOST_NAMES: usize = 4096;
/// Named exactly: 198.18.0.1 and on; met through a pattern: 198.19.0.1 and on. The range is for
/// benchmarks of networks and leads nowhere (RFC 2544).
const EXACT: u32 = 0xc612_0000;
const MET: u32 = 0xc613_0000;
/// Exact names that there is room for.
const MOST_EXACT: usize = 0xfffe;

/// What an address inside of the cell stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A host by name, in lower case and without a final dot.
    Name(String),
    /// An address that was meant as such.
    Address(IpAddr),
}

/// The rules of one cell.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    rules: Vec<(Host, u16)>,
    /// Exact names in order; the place of a name gives its synthetic address.
    exact: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    /// `*` stands for any characters, one at least.
    Pattern(String),
    Address(IpAddr),
    Range(AddressRange),
    /// `*` alone: names, and public addresses.
    Any,
    /// This very host: `localhost`.
    Here,
}

impl Rules {
    pub(super) fn new(rules: &[EgressRule]) -> Self {
        let rules: Vec<(Host, u16)> = rules
            .iter()
            .map(|rule| (host(&rule.host), rule.port))
            .collect();
        let names = rules.iter().filter_map(|(host, _)| match host {
            Host::Name(name) => Some(name.clone()),
            _ => None,
        });
        let exact: BTreeSet<String> = names.collect();
        let exact = exact.into_iter().take(MOST_EXACT).collect();
        Self { rules, exact }
    }

    /// Every port that leads somewhere.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        self.rules.iter().map(|(_, port)| *port).collect()
    }

    /// Every host as metrics name it.
    pub(super) fn labels(&self) -> impl Iterator<Item = String> {
        self.rules.iter().map(|(host, _)| host.label())
    }

    /// The rule that a target falls under, as metrics name it: one with the port where there is one.
    pub(super) fn label(&self, target: &Target, port: u16) -> Option<String> {
        let meant = |(host, _): &&(Host, u16)| host.is(target);
        let with_port = |(host, known): &&(Host, u16)| *known == port && host.is(target);
        let rule = self.rules.iter().find(with_port);
        let rule = rule.or_else(|| self.rules.iter().find(meant));
        rule.map(|(host, _)| host.label())
    }

    /// Whether a name leads anywhere, on whatever port.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.rules.iter().any(|(host, _)| host.is_name(name))
    }

    /// The names that are allowed on that port and known beforehand.
    pub(super) fn names(&self, port: u16) -> impl Iterator<Item = &str> {
        let rules = self.rules.iter().filter(move |(_, known)| *known == port);
        rules.filter_map(|(host, _)| match host {
            Host::Name(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// What somebody who speaks of a host by its name or address means.
    pub(super) fn spoken(&self, host: &str) -> Target {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        match bare.unwrap_or(&host).parse::<IpAddr>() {
            Ok(address) => Target::Address(address.to_canonical()),
            Err(_) if host == "localhost" => Target::Address(Ipv4Addr::LOCALHOST.into()),
            Err(_) => Target::Name(host),
        }
    }

    /// Whether that is allowed on that port.
    pub(super) fn allow(&self, target: &Target, port: u16) -> bool {
        self.rules
            .iter()
            .any(|(host, known)| *known == port && host.is(target))
    }

    /// Whether the operator wrote down this very address, so that it may be a private one.
    pub(super) fn lists(&self, address: IpAddr, port: u16) -> bool {
        let meant = |host: &Host| match host {
            Host::Any => false,
            // A range that holds public addresses, or several kinds of others, was not written down for
            // the sake of one kind.
            Host::Range(range) => {
                let (first, last) = range.ends();
                range.holds(address) && special(first).is_some() && special(first) == special(last)
            }
            host => host.is_address(address),
        };
        self.rules
            .iter()
            .any(|(host, known)| *known == port && meant(host))
    }

    /// The addresses that an address stands for: itself, and with `localhost` the other loopback,
    /// because clients try both and the host may listen on one.
    pub(super) fn same(&self, address: IpAddr, port: u16) -> Vec<IpAddr> {
        let here = self.rules.contains(&(Host::Here, port)) && Host::Here.is_address(address);
        let loopbacks = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ];
        let others = loopbacks
            .into_iter()
            .filter(|other| here && *other != address);
        [address].into_iter().chain(others).collect()
    }

    fn exact_address(&self, name: &str) -> Option<Ipv4Addr> {
        let index = self
            .exact
            .binary_search_by(|known| known.as_str().cmp(name));
        let index = u32::try_from(index.ok()?).ok()?;
        Some(Ipv4Addr::from_bits(EXACT + 1 + index))
    }

    fn exact_name(&self, address: Ipv4Addr) -> Option<&str> {
        let index = address.to_bits().checked_sub(EXACT + 1)?;
        let name = self.exact.get(usize::try_from(index).ok()?)?;
        Some(name.as_str())
    }

    /// Where to listen inside of the cell. One address for each name and port, so that the server
    /// keeps the ports of its own loopback; all addresses where names are not known beforehand.
    pub(super) fn listeners(&self) -> BTreeSet<SocketAddr> {
        let mut by_port: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
        for (host, port) in &self.rules {
            let addresses = by_port.entry(*port).or_default();
            match host {
                Host::Name(name) => {
                    addresses.extend(self.exact_address(name).map(IpAddr::V4));
                }
                Host::Address(address @ IpAddr::V4(_)) => drop(addresses.insert(*address)),
                // The kernel lets nobody bind to one of these without a device that has it.
                Host::Address(IpAddr::V6(address)) if *address != Ipv6Addr::LOCALHOST => {
                    addresses.insert(Ipv6Addr::UNSPECIFIED.into());
                }
                Host::Address(address) => drop(addresses.insert(*address)),
                Host::Here => {
                    addresses.extend([
                        IpAddr::from(Ipv4Addr::LOCALHOST),
                        Ipv6Addr::LOCALHOST.into(),
                    ]);
                }
                Host::Range(range) => drop(addresses.insert(match range.ends().0 {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                })),
                Host::Pattern(_) => drop(addresses.insert(Ipv4Addr::UNSPECIFIED.into())),
                Host::Any => {
                    addresses.extend([
                        IpAddr::from(Ipv4Addr::UNSPECIFIED),
                        Ipv6Addr::UNSPECIFIED.into(),
                    ]);
                }
            }
        }
        let mut listeners = BTreeSet::new();
        for (port, addresses) in by_port {
            let (four, six): (BTreeSet<_>, BTreeSet<_>) =
                addresses.into_iter().partition(IpAddr::is_ipv4);
            for (addresses, all) in [
                (four, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
                (six, Ipv6Addr::UNSPECIFIED.into()),
            ] {
                if addresses.contains(&all) || addresses.len() > PER_PORT {
                    listeners.insert(SocketAddr::new(all, port));
                } else {
                    listeners.extend(addresses.into_iter().map(|it| SocketAddr::new(it, port)));
                }
            }
        }
        listeners
    }
}

fn host(text: &str) -> Host {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    match text.parse::<IpAddr>() {
        Ok(address) => Host::Address(address),
        Err(_) if text.contains('/') => text.parse().map_or(Host::Name(text), Host::Range),
        Err(_) if text == "*" => Host::Any,
        Err(_) if text == "localhost" => Host::Here,
        Err(_) if text.contains('*') => Host::Pattern(text),
        Err(_) => Host::Name(text),
    }
}

impl Host {
    fn label(&self) -> String {
        match self {
            Self::Name(text) | Self::Pattern(text) => text.clone(),
            Self::Address(address) => address.to_string(),
            Self::Range(range) => range.to_string(),
            Self::Any => "*".to_owned(),
            Self::Here => "localhost".to_owned(),
        }
    }

    fn is(&self, target: &Target) -> bool {
        match target {
            Target::Name(name) => self.is_name(name),
            Target::Address(address) => self.is_address(*address),
        }
    }

    fn is_name(&self, name: &str) -> bool {
        match self {
            Self::Name(known) => known == name,
            Self::Pattern(pattern) => fits(pattern, name),
            Self::Any => true,
            Self::Address(_) | Self::Range(_) | Self::Here => false,
        }
    }

    fn is_address(&self, address: IpAddr) -> bool {
        match self {
            Self::Address(known) => *known == address,
            Self::Range(range) => range.holds(address),
            Self::Here => [
                IpAddr::from(Ipv4Addr::LOCALHOST),
                Ipv6Addr::LOCALHOST.into(),
            ]
            .contains(&address),
            Self::Any => true,
            Self::Name(_) | Self::Pattern(_) => false,
        }
    }
}

/// Whether `name` fits a pattern whose `*` each stand for one character or more. Greedy from the
/// left for all parts but the last, which is enough for patterns without other signs.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // At least one character for the star before this part.
        let from = name.char_indices().nth(1).map(|(at, _)| at);
        let found = from.and_then(|from| name.get(from..)?.find(part).map(|at| from + at));
        let Some(after) = found.and_then(|at| name.get(at + part.len()..)) else {
            return false;
        };
        name = after;
    }
    name.len() > last.len() && name.ends_with(last)
}

/// Who has which synthetic address.
#[derive(Debug)]
pub(super) struct Book {
    rules: Rules,
    /// Names met through a pattern, by place; used from the start again when it is full.
    met: Vec<String>,
    places: HashMap<String, usize>,
    next: usize,
}

impl Book {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            met: Vec::new(),
            places: HashMap::new(),
            next: 0,
        }
    }

    /// The address that stands for an allowed name, given to it now if it has none.
    pub(super) fn address(&mut self, name: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.rules.exact_address(name) {
            return Some(address);
        }
        if !self.rules.knows(name) {
            return None;
        }
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => self.place(name),
        };
        let place = u32::try_from(place).ok()?;
        Some(Ipv4Addr::from_bits(MET + 1 + place))
    }

    fn place(&mut self, name: &str) -> usize {
        let place = self.next;
        self.next = (place + 1) % MOST_NAMES;
        match self.met.get_mut(place) {
            Some(old) => {
                self.places.remove(old.as_str());
                name.clone_into(old);
            }
            None => self.met.push(name.to_owned()),
        }
        self.places.insert(name.to_owned(), place);
        place
    }

    /// What an address stands for.
    pub(super) fn target(&self, address: IpAddr) -> Target {
        let IpAddr::V4(four) = address else {
            return Target::Address(address);
        };
        if let Some(name) = self.rules.exact_name(four) {
            return Target::Name(name.to_owned());
        }
        let place = four.to_bits().checked_sub(MET + 1);
        let place = place.and_then(|place| usize::try_from(place).ok());
        match place.and_then(|place| self.met.get(place)) {
            Some(name) => Target::Name(name.clone()),
            None => Target::Address(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Rules {
        let rules: Vec<EgressRule> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Rules::new(&rules)
    }

    fn name(text: &str) -> Target {
        Target::Name(text.to_owned())
    }

    #[test]
    fn a_name_is_allowed_on_its_port_and_nowhere_else() {
        let rules = rules(&["API.example.com.:443", "*.b.example:80", "10.0.0.1:5432"]);
        assert!(rules.allow(&name("api.example.com"), 443));
        assert!(!rules.allow(&name("api.example.com"), 80));
        assert!(!rules.allow(&name("example.com"), 443));
        assert!(!rules.allow(&name("api.example.com.evil.org"), 443));
        assert!(rules.allow(&name("x.y.b.example"), 80));
        assert!(!rules.allow(&name("b.example"), 80));
        assert!(
            !rules.allow(&name(".b.example"), 80),
            "one character at least"
        );
        let ten = "10.0.0.1".parse().unwrap();
        assert!(rules.allow(&Target::Address(ten), 5432) && rules.lists(ten, 5432));
        assert!(!rules.allow(&Target::Address(ten), 443));
        assert!(!rules.allow(&name("10.0.0.1"), 5432));
    }

    #[test]
    fn patterns_need_something_for_each_star() {
        for (pattern, name, fit) in [
            ("*.a", "x.a", true),
            ("*.a", "x.y.a", true),
            ("*.a", ".a", false),
            ("*.a", "a", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", false),
            ("a*b*c", "a1bc", false),
            ("a*b*c", "a1b1b2c", true),
            ("s3.*.example", "s3.eu.example", true),
            ("s3.*.example", "s3..example", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn any_host_is_no_list_of_addresses() {
        let any = rules(&["*:443"]);
        let one = "192.0.2.1".parse().unwrap();
        assert!(any.allow(&Target::Address(one), 443));
        assert!(!any.lists(one, 443));
        assert!(any.knows("whatever.example"));
    }

    #[test]
    fn localhost_is_both_loopbacks_and_an_address_is_itself() {
        let rules = rules(&["localhost:1", "127.0.0.1:2"]);
        let four = IpAddr::from(Ipv4Addr::LOCALHOST);
        let six = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(rules.same(six, 1), [six, four]);
        assert_eq!(rules.same(four, 2), [four]);
    }

    #[test]
    fn addresses_stand_for_names_both_ways() {
        let mut book = Book::new(rules(&["b.org:1", "a.org:1", "*.c.org:1"]));
        let address = book.address("a.org").unwrap();
        assert_eq!(address, Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(book.target(address.into()), name("a.org"));
        assert_eq!(book.address("c.org"), None);
        let met = book.address("x.c.org").unwrap();
        assert_eq!(met, Ipv4Addr::new(198, 19, 0, 1));
        assert_eq!(book.address("x.c.org"), Some(met));
        assert_eq!(book.target(met.into()), name("x.c.org"));
        let nobody = "198.19.0.9".parse().unwrap();
        assert_eq!(book.target(nobody), Target::Address(nobody));
    }

    #[test]
    fn the_oldest_name_of_a_full_book_gives_way() {
        let mut book = Book::new(rules(&["*.c.org:1"]));
        let first = book.address("first.c.org").unwrap();
        for number in 0..MOST_NAMES {
            book.address(&format!("n{number}.c.org")).unwrap();
        }
        assert_eq!(book.target(first.into()), name("n4095.c.org"));
        assert_eq!(book.met.len(), MOST_NAMES);
        assert_eq!(book.places.len(), MOST_NAMES);
    }

    #[test]
    fn listeners_leave_loopback_alone_where_they_can() {
        let found = |texts: &[&str]| -> Vec<String> {
            let listeners = rules(texts).listeners();
            listeners.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            found(&["a.org:443", "b.org:443", "a.org:80"]),
            ["198.18.0.1:80", "198.18.0.1:443", "198.18.0.2:443"]
        );
        assert_eq!(found(&["a.org:443", "*.b.org:443"]), ["0.0.0.0:443"]);
        assert_eq!(found(&["localhost:9"]), ["127.0.0.1:9", "[::1]:9"]);
        assert_eq!(found(&["[2001:db8::1]:9"]), ["[::]:9"]);
        let many: Vec<String> = (0..40).map(|n| format!("n{n}.org:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(found(&many), ["0.0.0.0:1"]);
    }

    #[test]
    fn a_range_opens_what_is_not_public_only_when_it_was_meant() {
        let rules = rules(&[
            "10.0.0.0/8:1",
            "0.0.0.0/0:2",
            "203.0.113.0/24:3",
            "[fd00::/8]:4",
        ]);
        let lists = |text: &str, port| rules.lists(text.parse().unwrap(), port);
        assert!(lists("10.255.0.1", 1) && lists("fd12::1", 4));
        assert!(!lists("11.0.0.1", 1) && !lists("10.0.0.1", 3));
        // All addresses, for the sake of public ones.
        assert!(!lists("169.254.169.254", 2) && !lists("10.0.0.1", 2));
        let address = |text: &str| Target::Address(text.parse().unwrap());
        assert!(rules.allow(&address("8.8.8.8"), 2) && !rules.allow(&address("8.8.8.8"), 3));
        assert_eq!(
            rules.label(&address("203.0.113.9"), 3).unwrap(),
            "203.0.113.0/24"
        );
        assert_eq!(rules.label(&name("a.example"), 3), None);
        let heard: Vec<String> = rules.listeners().iter().map(ToString::to_string).collect();
        assert_eq!(heard, ["0.0.0.0:1", "0.0.0.0:2", "0.0.0.0:3", "[::]:4"]);
    }
}
