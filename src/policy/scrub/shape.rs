//! The little language that says what a token looks like: a literal prefix, then classes with counts.
//!
//! `ghp_[A-Za-z0-9]{36}` is a whole shape. There is no alternation and no backtracking: each class
//! takes as much as it may, so a match costs one look at each byte and nothing is compiled. That is
//! why the table of detectors loads in microseconds where 150 regexes took milliseconds.

use super::runs::run_end;

/// A class without an upper count may take this much; longer tokens are followed to their end by
/// the caller once the match has succeeded.
pub(super) const ENDLESS: u16 = u16::MAX;

/// One class and how often it may repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Bit `b` is set when ASCII byte `b` belongs to the class; two halves, because a shift of 128
    /// bits takes several steps.
    set: [u64; 2],
    /// The class is that of word runs, whose end is found 64 bytes at a time.
    word: bool,
    pub(super) min: u16,
    pub(super) max: u16,
}

impl Piece {
    fn new(set: u128, min: u16, max: u16) -> Self {
        let low = u64::try_from(set & u128::from(u64::MAX)).unwrap_or(0);
        let high = u64::try_from(set >> 64).unwrap_or(0);
        Self {
            set: [low, high],
            word: set == WORD,
            min,
            max,
        }
    }

    pub(super) fn has(&self, byte: u8) -> bool {
        let [low, high] = self.set;
        let half = if byte & 64 == 0 { low } else { high };
        byte < 128 && half >> (byte & 63) & 1 == 1
    }
}

/// A parsed shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// The bytes before the first class, as written.
    pub(super) prefix: &'static str,
    pub(super) pieces: Box<[Piece]>,
}

impl Shape {
    /// Parses `text`; `None` when it is not in the language.
    pub(super) fn parse(text: &'static str) -> Option<Self> {
        let split = text.find('[').unwrap_or(text.len());
        let (prefix, rest) = text.split_at_checked(split)?;
        let mut pieces = Vec::new();
        let mut rest = rest.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let (set, after) = if first == b'[' {
                parse_class(tail)?
            } else {
                (bits(first, first)?, tail)
            };
            let (min, max, after) = parse_count(after)?;
            pieces.push(Piece::new(set, min, max));
            rest = after;
        }
        Some(Self {
            prefix,
            pieces: pieces.into(),
        })
    }

    /// Matches the classes at `at`, which lies behind the prefix and in a word run that ends at `run`;
    /// gives the end, or how many bytes it looked at in vain.
    ///
    /// The byte behind the match must not belong to the last class: a longer token is another kind.
    /// In JSON a slash may be written `\/`; it counts as one character.
    pub(super) fn ends(&self, bytes: &[u8], at: usize, run: usize) -> Result<usize, usize> {
        let mut end = at;
        let mut cost = 0;
        for piece in &self.pieces {
            if piece.word && piece.max == ENDLESS {
                let mut stop = run;
                if end >= run {
                    stop = run_end(bytes, end);
                    cost += (stop - end) / 16;
                }
                if stop - end < usize::from(piece.min) {
                    return Err(cost);
                }
                end = stop;
                continue;
            }
            let mut count = 0;
            while count < piece.max {
                let Some(width) = width(piece, bytes, end) else {
                    break;
                };
                end += width;
                cost += 1;
                count += u16::from(piece.max != ENDLESS || count < piece.min);
            }
            if count < piece.min {
                return Err(cost);
            }
        }
        match self.pieces.last() {
            Some(last) if last.max != ENDLESS && width(last, bytes, end).is_some() => Err(cost),
            Some(_) => Ok(end),
            None => Err(cost),
        }
    }

    /// The fewest bytes that a whole match has.
    pub(super) fn shortest(&self) -> usize {
        let body: usize = self.pieces.iter().map(|p| usize::from(p.min)).sum();
        self.prefix.len() + body
    }
}

/// How many bytes the next character takes when it belongs to `piece`.
fn width(piece: &Piece, bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at) {
        Some(&byte) if piece.has(byte) => Some(1),
        Some(b'\\') if piece.has(b'/') && bytes.get(at + 1) == Some(&b'/') => Some(2),
        _ => None,
    }
}

/// The bits `low..=high`.
fn bits(low: u8, high: u8) -> Option<u128> {
    let span = high.checked_sub(low)?;
    if high >= 127 {
        return None;
    }
    Some(((1u128 << (span + 1)) - 1) << low)
}

/// Parses what follows `[`, up to and with `]`.
fn parse_class(mut text: &[u8]) -> Option<(u128, &[u8])> {
    let mut set = 0;
    loop {
        match text {
            [b']', rest @ ..] => return Some((set, rest)),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                set |= bits(*low, *high)?;
                text = rest;
            }
            [one, rest @ ..] => {
                set |= bits(*one, *one)?;
                text = rest;
            }
            [] => return None,
        }
    }
}

/// Parses `{n}`, `{n,m}` or `{n,}`; without one the class stands once.
fn parse_count(text: &[u8]) -> Option<(u16, u16, &[u8])> {
    let Some(inner) = text.strip_prefix(b"{") else {
        return Some((1, 1, text));
    };
    let close = inner.iter().position(|&b| b == b'}')?;
    let (count, rest) = inner.split_at_checked(close)?;
    let rest = rest.get(1..)?;
    let count = std::str::from_utf8(count).ok()?;
    let (min, max) = match count.split_once(',') {
        None => (count.parse().ok()?, count.parse().ok()?),
        Some((min, "")) => (min.parse().ok()?, ENDLESS),
        Some((min, max)) => (min.parse().ok()?, max.parse().ok()?),
    };
    Some((min, max, rest))
}

/// The bytes of word runs, as a class.
const WORD: u128 = {
    let (mut set, mut byte) = (0, 0);
    while byte < 128 {
        if is_token(byte) {
            set |= 1 << byte;
        }
        byte += 1;
    }
    set
};

/// A byte of a word run: what most credentials are made of.
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(shape: &'static str, text: &str) -> Option<usize> {
        let run = run_end(text.as_bytes(), 0);
        Shape::parse(shape)
            .unwrap()
            .ends(text.as_bytes(), 0, run)
            .ok()
    }

    #[test]
    fn counts_are_exact_and_the_neighbour_is_checked() {
        assert_eq!(ends("[a-f0-9]{4}", "12ab"), Some(4));
        assert_eq!(ends("[a-f0-9]{4}", "12ab\""), Some(4));
        assert_eq!(ends("[a-f0-9]{4}", "12abc"), None);
        assert_eq!(ends("[a-f0-9]{4}", "12a"), None);
        assert_eq!(ends("[0-9]{2,}.[A-Z-]{2}", "123.A-"), Some(6));
        assert_eq!(ends("[a-z/]{3}", "a\\/b"), Some(4));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["x[", "x[z-a]", "x[a]{", "x[a]{b}", "x[\u{e9}]"] {
            assert_eq!(Shape::parse(bad), None, "{bad}");
        }
    }
}
