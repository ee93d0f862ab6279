//! The detectors as data: reads `policy/detectors/*.toml` and indexes them by their first bytes.
//!
//! The files are plain TOML, but only a small part of it (tables in arrays, strings on one line), so
//! a reader of a few lines loads them in microseconds; a test holds it against the real parser.

use super::check::Check;
use super::runs::RUN;
use super::shape::{Shape, is_token};
use memchr::memchr;
use memchr::memmem::Finder;
use std::sync::OnceLock;

const FILES: [&str; 5] = [
    include_str!("../../../policy/detectors/cloud.toml"),
    include_str!("../../../policy/detectors/source.toml"),
    include_str!("../../../policy/detectors/ai.toml"),
    include_str!("../../../policy/detectors/services.toml"),
    include_str!("../../../policy/detectors/operations.toml"),
];
const NAMES: &str = include_str!("../../../policy/detectors/names.toml");

/// Buckets of the index; a power of two well above the number of prefixes.
const BUCKETS: usize = 4096;

/// Buckets of what stands before a run.
const DOTS: usize = 1024;

/// Slots for words; a power of two, more than twice their number.
const SLOTS: usize = 1024;

/// One kind of credential.
#[derive(Debug)]
pub(super) struct Detector {
    /// Stands in placeholders, metrics and audit: lower case, digits, hyphens.
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) check: Check,
    /// How many distinct pairs of neighbours the part behind the prefix needs at least.
    pub(super) floor: usize,
}

/// All detectors and the way to find those that may start with three given bytes.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) detectors: Vec<Detector>,
    pub(super) names: Vec<(&'static str, Role)>,
    /// Open addressing into `names`, plus one; zero is free.
    slots: Box<[u16; SLOTS]>,
    /// Finds what has no word run to start from; made once, because making one takes longer than
    /// reading a small message.
    pub(super) finders: Finders,
    /// The first entry of each bucket's chain, plus one; zero is none.
    heads: Box<[u16; BUCKETS]>,
    /// Entries: detector and the next entry of the chain, plus one.
    chain: Vec<(u16, u16)>,
    /// Detectors whose prefix has a byte outside of word runs (`SG.`): they are found by what stands
    /// before a run.
    dotted: Vec<Dotted>,
    /// For each bucket of the three bytes before a run: whether one of `dotted` may end there.
    dots: [bool; DOTS],
}

/// What a word in a name says about the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The value is a password: short and readable values count too.
    Password,
    /// The value is a secret when it looks random.
    Secret,
    /// Decides only together with a qualifier (`key`).
    Weak,
    /// Makes a weak word decide (`api`).
    Qualifier,
    /// The name is of something else (`nextToken`, `passwordPolicy`).
    Veto,
}

/// One detector of [`Table::dotted`].
#[derive(Debug)]
struct Dotted {
    detector: u16,
    /// Where the run starts in the prefix.
    anchor: usize,
    /// The three bytes before the run; `None` when the prefix has fewer.
    key: Option<[u8; 3]>,
}

/// Literal searches over whole lines.
#[derive(Debug)]
pub(super) struct Finders {
    pub(super) key: Finder<'static>,
    pub(super) url: Finder<'static>,
    pub(super) escaped_url: Finder<'static>,
    pub(super) unicode: Finder<'static>,
    pub(super) password: [Finder<'static>; 2],
}

impl Finders {
    fn new() -> Self {
        Self {
            key: Finder::new("-----BEGIN "),
            url: Finder::new("://"),
            // PHP writes its slashes so.
            escaped_url: Finder::new(r":\/\/"),
            unicode: Finder::new(r"\u00"),
            password: [Finder::new("assw"), Finder::new("ASSW")],
        }
    }
}

/// The one table of this process; built at first use.
pub(super) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::load(&FILES, NAMES))
}

impl Table {
    fn load(files: &[&'static str], names: &'static str) -> Self {
        let mut table = Self {
            detectors: Vec::with_capacity(256),
            names: Vec::with_capacity(192),
            slots: Box::new([0; SLOTS]),
            finders: Finders::new(),
            heads: Box::new([0; BUCKETS]),
            chain: Vec::with_capacity(512),
            dotted: Vec::new(),
            dots: [false; DOTS],
        };
        for file in files {
            for entry in entries(file) {
                if let Some(detector) = detector(&entry) {
                    table.add(detector);
                }
            }
        }
        for (word, role) in entries(names)
            .filter_map(|entry| named(&entry))
            .take(SLOTS / 2)
        {
            table.name(word, role);
        }
        table
    }

    fn add(&mut self, detector: Detector) {
        let Ok(index) = u16::try_from(self.detectors.len()) else {
            return;
        };
        let prefix = detector.shape.prefix.as_bytes();
        if let Some(last) = prefix.iter().take(RUN).rposition(|&b| !is_token(b)) {
            let key = prefix
                .get(..=last)
                .and_then(<[u8]>::last_chunk::<3>)
                .copied();
            if let Some(dot) = key.and_then(|key| self.dots.get_mut(bucket(key) % DOTS)) {
                *dot = true;
            }
            self.dotted.push(Dotted {
                detector: index,
                anchor: last + 1,
                key,
            });
        } else {
            // A shorter prefix is completed from the first class: `SK[0-9a-f]{32}` has 16 keys.
            let mut keys = vec![prefix.iter().copied().take(3).collect::<Vec<u8>>()];
            while keys.first().is_some_and(|k| k.len() < 3) {
                let Some(piece) = detector.shape.pieces.first() else {
                    return;
                };
                keys = keys
                    .iter()
                    .flat_map(|key| {
                        (0..128u8).filter(|&b| piece.has(b)).map(move |b| {
                            let mut longer = key.clone();
                            longer.push(b);
                            longer
                        })
                    })
                    .collect();
            }
            for key in keys {
                if let Ok(key) = <[u8; 3]>::try_from(key) {
                    self.link(bucket(key), index);
                }
            }
        }
        self.detectors.push(detector);
    }

    fn link(&mut self, bucket: usize, detector: u16) {
        if let Some(head) = self.heads.get_mut(bucket) {
            self.chain.push((detector, *head));
            *head = u16::try_from(self.chain.len()).unwrap_or(*head);
        }
    }

    /// Whether any detector may start with `key`; mostly not.
    #[inline]
    pub(super) fn may_start(&self, key: [u8; 3]) -> bool {
        self.heads.get(bucket(key)) != Some(&0)
    }

    /// The detectors that may start with `key`.
    pub(super) fn starting(&self, key: [u8; 3]) -> impl Iterator<Item = &Detector> {
        let mut next = self.heads.get(bucket(key)).copied().unwrap_or(0);
        std::iter::from_fn(move || {
            let (detector, after) = *self.chain.get(usize::from(next).checked_sub(1)?)?;
            next = after;
            self.detectors.get(usize::from(detector))
        })
    }

    /// The detectors whose prefix begins before a run that starts at `run`, and where.
    pub(super) fn around(
        &self,
        bytes: &[u8],
        run: usize,
    ) -> impl Iterator<Item = (&Detector, usize)> {
        let before = bytes.get(..run).and_then(<[u8]>::last_chunk::<3>).copied();
        let likely = before.is_some_and(|key| {
            self.dots.get(bucket(key) % DOTS) == Some(&true) || is_short_dot(key)
        });
        let all = if likely { self.dotted.as_slice() } else { &[] };
        all.iter().filter_map(move |dotted| {
            let near = dotted.key.is_none() || dotted.key == before;
            let detector = self
                .detectors
                .get(usize::from(dotted.detector))
                .filter(|_| near)?;
            let start = run.checked_sub(dotted.anchor)?;
            let prefix = detector.shape.prefix.as_bytes();
            let rest = bytes.get(start..)?;
            rest.starts_with(prefix).then_some((detector, start))
        })
    }

    /// What the lower-case `word` says in a name.
    pub(super) fn role(&self, word: &[u8]) -> Option<Role> {
        let mut slot = slot(word);
        loop {
            let index = usize::from(*self.slots.get(slot)?).checked_sub(1)?;
            let (known, role) = self.names.get(index)?;
            if known.as_bytes() == word {
                return Some(*role);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// Adds a word; the slots are many more than the words, so that a search always ends.
    fn name(&mut self, word: &'static str, role: Role) {
        self.names.push((word, role));
        let Ok(index) = u16::try_from(self.names.len()) else {
            return;
        };
        let mut slot = slot(word.as_bytes());
        while self.slots.get(slot).is_some_and(|taken| *taken != 0) {
            slot = (slot + 1) % SLOTS;
        }
        if let Some(free) = self.slots.get_mut(slot) {
            *free = index;
        }
    }
}

/// Where the search for `word` starts (FNV-1a).
fn slot(word: &[u8]) -> usize {
    let hash = word.iter().fold(0x811C_9DC5u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ hash >> 15) as usize % SLOTS
}

/// Right before a run that `:AA…` or `Q~…` may own; these are too short for a key.
fn is_short_dot([_, before, last]: [u8; 3]) -> bool {
    last == b':' && before.is_ascii_digit() || last == b'~' && before == b'Q'
}

fn bucket(key: [u8; 3]) -> usize {
    let [a, b, c] = key;
    let key = u32::from_le_bytes([a, b, c, 0]).wrapping_mul(0x9E37_79B1);
    (key >> 20) as usize % BUCKETS
}

fn detector(entry: &Entry) -> Option<Detector> {
    let shape = Shape::parse(entry.value("match")?)?;
    let body = shape.shortest() - shape.prefix.len();
    let floor = match entry.value("floor") {
        Some(floor) => floor.parse().ok()?,
        None => (body / 2).min(12),
    };
    let check = match entry.value("check") {
        Some(check) => Check::parse(check)?,
        None => Check::None,
    };
    Some(Detector {
        name: entry.value("name")?,
        shape,
        check,
        floor,
    })
}

fn named(entry: &Entry) -> Option<(&'static str, Role)> {
    let role = match entry.value("role")? {
        "password" => Role::Password,
        "secret" => Role::Secret,
        "weak" => Role::Weak,
        "qualifier" => Role::Qualifier,
        "veto" => Role::Veto,
        _ => return None,
    };
    Some((entry.value("word")?, role))
}

/// The pairs of one `[[table]]`.
#[derive(Debug, Default)]
struct Entry(Vec<(&'static str, &'static str)>);

impl Entry {
    fn value(&self, key: &str) -> Option<&'static str> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
}

/// Walks the tables of `file`.
fn entries(file: &'static str) -> impl Iterator<Item = Entry> {
    let mut rest = file;
    let lines = std::iter::from_fn(move || {
        let end = memchr(b'\n', rest.as_bytes())?;
        let (line, after) = rest.split_at_checked(end)?;
        rest = after.get(1..)?;
        Some(line)
    });
    let mut lines = lines.peekable();
    std::iter::from_fn(move || {
        lines.find(|line| line.starts_with("[["))?;
        let mut entry = Entry::default();
        while let Some(line) = lines.next_if(|line| !line.starts_with("[[")) {
            if let Some((key, rest)) = line.split_once(' ')
                && let Some(value) = rest.strip_prefix("= \"")
            {
                entry
                    .0
                    .push((key, value.strip_suffix('"').unwrap_or(value)));
            }
        }
        Some(entry)
    })
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
