//! The keys that almost every message has, known by one comparison each.

use super::strings::BLOCK;

/// A key of the envelope, or one that policy reads, or one that is in most messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Arguments,
    Uri,
    Meta,
    Ref,
    RequestId,
    ProgressToken,
    TaskId,
    IsError,
    ResultType,
    Content,
    Type,
    Text,
    MetaVersion,
    MetaClient,
    MetaCapabilities,
}

/// Two quotes and a colon.
const AROUND: usize = 3;

/// How a word looks on the wire.
#[derive(Debug)]
struct Spelling {
    word: Word,
    text: &'static str,
    /// Between its quotes and with its colon, as numbers.
    bytes: (u64, u64),
    /// The bytes that count.
    mask: (u64, u64),
}

impl Spelling {
    const fn of(word: Word, text: &'static str) -> Self {
        assert!(text.len() + AROUND <= BLOCK, "longer than a block");
        let (length, mut padded) = (text.len(), [b'"'; BLOCK]);
        let (_, rest) = padded.split_at_mut(1);
        let (key, rest) = rest.split_at_mut(length);
        key.copy_from_slice(text.as_bytes());
        if let [_, colon, ..] = rest {
            *colon = b':';
        }
        let mask = u128::MAX >> (8 * (BLOCK - AROUND - length));
        Self {
            word,
            text,
            bytes: halves(&(u128::from_le_bytes(padded) & mask).to_le_bytes()),
            mask: halves(&mask.to_le_bytes()),
        }
    }
}

macro_rules! words {
    ($($letter:literal: $($word:ident = $text:literal),+;)+) => {
        #[cfg(test)]
        const LETTERS: &[u8] = &[$($letter),+];

        /// The words with this first letter; the most frequent ones first.
        #[inline(always)]
        fn like(first: u8) -> &'static [Spelling] {
            match first {
                $($letter => {
                    const WORDS: &[Spelling] = &[$(Spelling::of(Word::$word, $text)),+];
                    WORDS
                })+
                _ => &[],
            }
        }
    };
}

words! {
    b'_': Meta = "_meta";
    b'a': Arguments = "arguments";
    b'c': Content = "content";
    b'e': Error = "error";
    b'i': Id = "id", IsError = "isError";
    b'j': Jsonrpc = "jsonrpc";
    b'm': Method = "method";
    b'n': Name = "name";
    b'p': Params = "params", ProgressToken = "progressToken";
    b'r': Result = "result", ResultType = "resultType", RequestId = "requestId", Ref = "ref";
    b't': Text = "text", Type = "type", TaskId = "taskId";
    b'u': Uri = "uri";
}

/// What the specification's own keys in `_meta` begin with.
const PREFIX: &[u8] = b"io.modelcontextprotocol/";

/// Keys with that prefix, which every modern request has.
const PREFIXED: [(Word, &[u8]); 3] = [
    (Word::MetaVersion, b"protocolVersion"),
    (Word::MetaClient, b"clientInfo"),
    (Word::MetaCapabilities, b"clientCapabilities"),
];

/// A block as two numbers: the processor has no wider ones.
#[inline(always)]
const fn halves(block: &[u8; BLOCK]) -> (u64, u64) {
    let ([low, high], _) = block.as_chunks() else {
        return (0, 0);
    };
    (u64::from_le_bytes(*low), u64::from_le_bytes(*high))
}

impl Word {
    /// The word that `block` begins with, written as a key and without blanks, and the length of all that.
    #[inline(always)]
    pub(super) fn at(block: &[u8; BLOCK]) -> Option<(Self, usize)> {
        let ([_, first, ..], (low, high)) = (block, halves(block));
        let mut words = like(*first).iter();
        let found = words.find(|it| (low & it.mask.0, high & it.mask.1) == it.bytes)?;
        Some((found.word, found.text.len() + AROUND))
    }

    /// As [`at`](Self::at), for the words that are longer than a block.
    #[inline]
    pub(super) fn long_at(line: &[u8]) -> Option<(Self, usize)> {
        let rest = line.strip_prefix(b"\"")?.strip_prefix(PREFIX)?;
        let ends = |rest: &[u8]| rest.starts_with(b"\":");
        let mut words = PREFIXED.iter();
        let (word, text) = words.find(|(_, text)| rest.strip_prefix(*text).is_some_and(ends))?;
        Some((*word, PREFIX.len() + text.len() + AROUND))
    }

    /// The word that `key`, decoded, is.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        if let Some(rest) = key.strip_prefix(PREFIX) {
            let found = PREFIXED.iter().find(|(_, text)| *text == rest);
            return found.map(|(word, _)| *word);
        }
        let mut found = like(*key.first()?).iter();
        let found = found.find(|it| it.text.as_bytes() == key);
        found.map(|it| it.word)
    }

    /// A bit of its own.
    #[inline]
    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::is_case_variant;
    use super::*;

    fn all() -> impl Iterator<Item = &'static Spelling> {
        LETTERS.iter().flat_map(|letter| like(*letter))
    }

    #[test]
    fn every_word_is_found_where_it_stands_and_nothing_longer_or_shorter_is_taken_for_it() {
        for (word, text) in PREFIXED {
            let key = [PREFIX, text].concat();
            assert_eq!(Word::of(&key), Some(word));
            assert_eq!(Word::of(&key[1..]), None);
            assert_eq!(Word::of(&key[..key.len() - 1]), None);
            assert_eq!(Word::of(text), None);
            let line = [b"\"", &*key, b"\":1"].concat();
            assert_eq!(Word::long_at(&line), Some((word, key.len() + 3)));
            assert_eq!(Word::long_at(&line[1..]), None);
            assert_eq!(Word::long_at(&line[..key.len() + 1]), None);
        }
        for Spelling { word, text, .. } in all() {
            let block = |line: &str| *format!("{line:<16}").as_bytes().first_chunk().unwrap();
            let found = Word::at(&block(&format!("\"{text}\":1")));
            assert_eq!(found, Some((*word, text.len() + 3)), "{text}");
            assert_eq!(Word::of(text.as_bytes()), Some(*word), "{text}");
            for other in [
                format!("\"{text}\" :"),
                format!("\"{text}_\":"),
                format!("\"{}\":", &text[1..]),
                format!("\"{}\":", text.to_uppercase()),
                format!(" {text}\":"),
            ] {
                let found = Word::at(&block(&other)).map(|(word, _)| word);
                assert_ne!(found, Some(*word), "{other}");
            }
            assert_ne!(Word::of(&text.as_bytes()[1..]), Some(*word), "{text}");
        }
    }

    /// A word is never looked at as a variant of another key, so it must be none.
    #[test]
    fn no_word_is_another_in_another_case_and_each_has_a_bit_of_its_own() {
        let mut bits = 0;
        for one in all() {
            assert!(
                all().all(|other| !is_case_variant(one.text, other.text)),
                "{}",
                one.text
            );
            assert_eq!(bits & one.word.bit(), 0, "{}", one.text);
            bits |= one.word.bit();
        }
        for (word, text) in PREFIXED {
            assert_eq!(bits & word.bit(), 0, "{text:?}");
            bits |= word.bit();
        }
    }
}
