//! The first look at a whole line: which of the rarer searches can find anything in it.
//!
//! One pass in vector code says what five searches for a substring would; almost every line needs
//! none of them.

/// What a line may hold. Each is a little wider than what is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// A backslash, which starts every escape.
    pub(super) escape: bool,
    /// Three dashes, of the five that frame a key.
    pub(super) dashes: bool,
    /// A colon with a slash or a backslash behind it, as in `://` and `:\/\/`.
    pub(super) url: bool,
    /// `ass` in any case, of `password` and `passwd`.
    pub(super) password: bool,
}

/// Bytes that are looked at side by side, each with the two behind it.
const LANES: usize = 32;
const BLOCK: usize = LANES + 2;

/// What each lane has met so far, as 0 or 1.
#[derive(Default)]
struct Seen {
    escape: [u8; LANES],
    dashes: [u8; LANES],
    url: [u8; LANES],
    password: [u8; LANES],
}

impl Seen {
    /// No branch and no order, so that the compiler vectorises it.
    #[inline(always)]
    fn add(&mut self, block: &[u8; BLOCK]) {
        let is = |byte: u8, wanted: u8| u8::from(byte == wanted);
        for lane in 0..LANES {
            let [a, b, c] = [block[lane], block[lane + 1], block[lane + 2]];
            self.escape[lane] |= is(a, b'\\');
            self.dashes[lane] |= is(a, b'-') & is(b, b'-') & is(c, b'-');
            self.url[lane] |= is(a, b':') & (is(b, b'/') | is(b, b'\\'));
            self.password[lane] |= is(a | 0x20, b'a') & is(b | 0x20, b's') & is(c | 0x20, b's');
        }
    }
}

impl Marks {
    /// Looks at every byte that has two more behind it: whatever is searched for is longer.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut seen = Seen::default();
        let mut rest = bytes;
        while let Some(block) = rest.first_chunk::<BLOCK>() {
            seen.add(block);
            rest = rest.get(LANES..).unwrap_or_default();
        }
        if let Some(last) = bytes.last_chunk::<BLOCK>() {
            seen.add(last);
        } else {
            let mut block = [0; BLOCK];
            for (to, from) in block.iter_mut().zip(bytes) {
                *to = *from;
            }
            seen.add(&block);
        }
        let any = |lanes: [u8; LANES]| lanes.iter().fold(0, |any, lane| any | lane) != 0;
        Self {
            escape: any(seen.escape),
            dashes: any(seen.dashes),
            url: any(seen.url),
            password: any(seen.password),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_seen_where_nothing_is() {
        let line = br#"{"jsonrpc":"2.0","id":-1,"result":{"a":"b--c","d":"as s/:"}}"#;
        let none = Marks {
            escape: false,
            dashes: false,
            url: false,
            password: false,
        };
        assert_eq!(Marks::of(line), none);
        assert_eq!(Marks::of(b""), none);
    }

    proptest! {
        #[test]
        fn whatever_is_searched_for_is_seen(
            before in "[a-z:/\\\\-]{0,70}",
            what in 0..6usize,
            after in "[a-z ]{0,70}",
        ) {
            let needles = ["-----BEGIN ", "://", r":\/\/", r"\u00", "assw", "ASSW"];
            let text = format!("{before}{}{after}", needles[what]);
            let marks = Marks::of(text.as_bytes());
            let seen = [marks.dashes, marks.url, marks.url, marks.escape, marks.password, marks.password];
            prop_assert!(seen[what], "{text}");
        }
    }
}
