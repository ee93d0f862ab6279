//! Finds a key that an object holds twice, compared decoded.

use super::cursor::{Key, Token};
use super::{Fault, json};
use std::hash::{BuildHasher, RandomState};

/// Objects with more keys than this are checked by hash; almost all have fewer.
const INLINE: usize = 8;

/// The keys of one object, as far as they have been read.
#[derive(Debug, Default)]
pub(super) struct Keys<'a> {
    /// One bit for each word.
    words: u32,
    others: Option<Others<'a>>,
}

/// Keys that are no words.
#[derive(Debug, Default)]
struct Others<'a> {
    inline: [&'a [u8]; INLINE],
    used: usize,
    /// One bit for each key seen, by its length and first byte: a new bit is a new key.
    looks: u64,
    many: Option<Box<Many>>,
}

/// Keyed 64-bit hashes of decoded keys: 8 bytes for each key however long it is, and equal keys
/// are always found. Two different keys with one hash would refuse a good message, once in 10^9
/// objects of 100,000 keys; the hash is keyed, so nobody can aim at that.
#[derive(Debug, Default)]
struct Many {
    state: RandomState,
    hashes: Vec<u64>,
}

impl Many {
    fn add(&mut self, decoded: &[u8]) {
        self.hashes.push(self.state.hash_one(decoded));
    }

    #[cold]
    fn unique(&mut self) -> Result<(), Fault> {
        self.hashes.sort_unstable();
        if self
            .hashes
            .windows(2)
            .any(|pair| pair.first() == pair.last())
        {
            return Err(Fault::DuplicateKey);
        }
        Ok(())
    }
}

impl<'a> Keys<'a> {
    /// Adds the next key.
    #[inline(always)]
    pub(super) fn add(&mut self, key: &Key<'a>) -> Result<(), Fault> {
        match key.word {
            Some(word) if self.words & word.bit() != 0 => Err(Fault::DuplicateKey),
            Some(word) => {
                self.words |= word.bit();
                Ok(())
            }
            None => self.others.get_or_insert_default().add(key.other),
        }
    }

    /// At the end of the object.
    #[inline]
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        let many = self.others.as_mut().and_then(|it| it.many.as_mut());
        many.map_or(Ok(()), |many| many.unique())
    }
}

impl<'a> Others<'a> {
    fn add(&mut self, key: Token<'a>) -> Result<(), Fault> {
        if self.many.is_none()
            && !key.escaped
            && let Some((seen, free)) = self.inline.split_at_mut_checked(self.used)
            && let Some(slot) = free.first_mut()
        {
            let first = key.inner.first().copied().unwrap_or_default();
            let look = 1 << ((usize::from(first) ^ key.inner.len() << 2) % 64);
            if self.looks & look != 0 && seen.contains(&key.inner) {
                return Err(Fault::DuplicateKey);
            }
            self.looks |= look;
            *slot = key.inner;
            self.used += 1;
            return Ok(());
        }
        self.add_hashed(key);
        Ok(())
    }

    /// For objects of many keys, and from the first escaped key on.
    #[cold]
    fn add_hashed(&mut self, key: Token<'_>) {
        let inline = &self.inline;
        let used = self.used;
        let many = self.many.get_or_insert_with(|| {
            let mut many = Box::<Many>::default();
            inline.iter().take(used).for_each(|seen| many.add(seen));
            many
        });
        if key.escaped {
            many.add(json::unescape(key.inner).0.as_bytes());
        } else {
            many.add(key.inner);
        }
    }
}

/// True when `key` is not `name` and a parser that ignores case takes it for `name`.
///
/// Go's `encoding/json` folds the long s and the Kelvin sign too; Java's `equalsIgnoreCase` takes
/// the dotless and the dotted i.
pub(super) fn is_case_variant(key: &str, name: &str) -> bool {
    if key.is_ascii() {
        return key != name && key.eq_ignore_ascii_case(name);
    }
    key.chars().map(fold).eq(name.chars().map(fold))
}

fn fold(letter: char) -> char {
    match letter {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        _ => letter.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_variants_of_every_folding_parser_are_seen() {
        for key in ["METHOD", "Method", "mEthod"] {
            assert!(is_case_variant(key, "method"), "{key}");
        }
        assert!(is_case_variant("param\u{17F}", "params"));
        assert!(is_case_variant("\u{131}d", "id"));
        assert!(is_case_variant("\u{130}D", "id"));
        assert!(!is_case_variant("method", "method"));
        assert!(!is_case_variant("methods", "method"));
        assert!(!is_case_variant("mèthod", "method"));
    }
}
