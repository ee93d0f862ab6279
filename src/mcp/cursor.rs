//! Proves JSON by the grammar of RFC 8259, in one pass, and says where strings end.
//!
//! The cursor expects that no byte is below 0x20 (the caller proves it for the whole line), so the
//! only blank is a space. It never panics and always ends, whatever the bytes are.
//!
//! What is not inlined takes the cursor by value and gives back where it has come to: a cursor whose
//! address is taken lives in memory, and each step then waits for the store of the one before.

use super::keys::Keys;
use super::strings::{BLOCK, is_simple_escape, next_pause, pauses, pauses_wide};
use super::words::Word;
use super::{Fault, MAX_DEPTH, json};

/// A place in the bytes.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A string that was passed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Token<'a> {
    /// Between the quotes, still escaped.
    pub(super) inner: &'a [u8],
    /// Has at least one escape.
    pub(super) escaped: bool,
    /// Has half a surrogate pair.
    pub(super) lone: bool,
}

/// The key that was passed last, in a place of its own: most are words, and nothing more is stored for them.
#[derive(Debug, Default)]
pub(super) struct Key<'a> {
    /// Which of those that are known it is, however it was spelt.
    pub(super) word: Option<Word>,
    /// What it is when it is none of them.
    pub(super) other: Token<'a>,
}

impl<'a> Cursor<'a> {
    /// Starts at offset `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Where the cursor is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The byte under the cursor.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// What was passed since `start`.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// Passes spaces.
    #[inline]
    pub(super) fn blanks(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// Passes `byte` if it is next.
    #[inline]
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Goes on where a function that took the cursor by value has come to.
    #[inline(always)]
    pub(super) fn go_on(&mut self, at: usize) {
        self.at = at;
    }

    /// Passes one value. `depth` counts the containers around it; keys must be unique in the
    /// outermost `unique` levels of objects and arrays.
    #[inline(always)]
    pub(super) fn value(&mut self, depth: usize, unique: usize) -> Result<(), Fault> {
        self.at = match self.peek() {
            Some(b'"') => return self.string().map(|_| ()),
            _ => Self::new(self.bytes, self.at).past_value(depth, unique)?,
        };
        Ok(())
    }

    /// Where the value ends.
    fn past_value(mut self, depth: usize, unique: usize) -> Result<usize, Fault> {
        match self.peek() {
            Some(b'{') if unique > 0 => {
                self.object(depth, |cursor, _| cursor.value(depth + 1, unique - 1))?;
            }
            Some(b'[') if unique > 1 => self.array(depth, unique - 1)?,
            Some(b'{' | b'[') => return Self::new(self.bytes, self.at).past_tree(depth),
            _ => self.leaf()?,
        }
        Ok(self.at)
    }

    /// Passes a value that holds no others.
    #[inline(always)]
    fn leaf(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(Self::new(self.bytes, self.at).unknown()),
        }
    }

    /// Passes a value whose keys nobody compares, without recursion: what is open is a stack of
    /// bits, 1 for an object.
    fn past_tree(mut self, outside: usize) -> Result<usize, Fault> {
        self.pass_tree(outside)?;
        Ok(self.at)
    }

    #[inline(always)]
    fn pass_tree(&mut self, outside: usize) -> Result<(), Fault> {
        const { assert!(MAX_DEPTH <= u128::BITS as usize) };
        let mut objects = 0_u128;
        let mut depth = outside;
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth >= MAX_DEPTH {
                        return Err(Fault::Depth);
                    }
                    depth += 1;
                    let object = open == b'{';
                    objects = objects << 1 | u128::from(object);
                    self.at += 1;
                    self.blanks();
                    // `]` and `}` are two after `[` and `{`.
                    if self.peek() != Some(open + 2) {
                        if object {
                            self.any_key()?;
                        }
                        continue;
                    }
                }
                _ => self.leaf()?,
            }
            loop {
                if depth == outside {
                    return Ok(());
                }
                self.blanks();
                let object = objects & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.blanks();
                        if object {
                            self.any_key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ => return Err(Fault::Syntax),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    /// Passes a key and its colon, up to the value.
    #[inline(always)]
    fn key(&mut self, key: &mut Key<'a>) -> Result<(), Fault> {
        if let Some(block) = self.bytes.get(self.at..self.at + BLOCK)
            && let Some(block) = block.first_chunk()
            && let Some((word, length)) = Word::at(block)
        {
            self.past_word(key, word, length);
            return Ok(());
        }
        self.at = Self::new(self.bytes, self.at).other_key(key)?;
        Ok(())
    }

    #[inline(always)]
    fn past_word(&mut self, key: &mut Key<'a>, word: Word, length: usize) {
        self.at += length;
        self.blanks();
        key.word = Some(word);
    }

    /// A key that is not among the words, or is one of them with blanks or escapes or near the end of the line.
    #[inline(never)]
    fn other_key(mut self, key: &mut Key<'a>) -> Result<usize, Fault> {
        if let Some((word, length)) = Word::long_at(self.bytes.get(self.at..).unwrap_or_default()) {
            self.past_word(key, word, length);
            return Ok(self.at);
        }
        let other = self.any_key()?;
        key.word = match other.escaped {
            true => Word::of(json::unescape(other.inner).0.as_bytes()),
            false => Word::of(other.inner),
        };
        key.other = other;
        Ok(self.at)
    }

    /// As [`key`](Self::key), where nobody wants to know which it is.
    #[inline(always)]
    fn any_key(&mut self) -> Result<Token<'a>, Fault> {
        let key = self.string()?;
        if key.lone {
            return Err(Fault::Surrogate);
        }
        self.colon()?;
        Ok(key)
    }

    #[inline(always)]
    fn colon(&mut self) -> Result<(), Fault> {
        self.blanks();
        if !self.eat(b':') {
            return Err(Fault::Syntax);
        }
        self.blanks();
        Ok(())
    }

    /// Tells the numbers of other languages from junk.
    #[cold]
    fn unknown(self) -> Fault {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let numbers: [&[u8]; 4] = [b"NaN", b"Infinity", b"+", b"."];
        if numbers.iter().any(|number| rest.starts_with(number)) {
            Fault::Number
        } else {
            Fault::Syntax
        }
    }

    /// Passes an object in which no key is twice; `member` gets each key with the cursor on its
    /// value and passes the value.
    #[inline(always)]
    pub(super) fn object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(&mut Self, &Key<'a>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault::Depth);
        }
        self.at += 1;
        self.blanks();
        if self.eat(b'}') {
            return Ok(());
        }
        let (mut keys, mut key) = (Keys::default(), Key::default());
        loop {
            self.key(&mut key)?;
            keys.add(&key)?;
            member(self, &key)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(Fault::Syntax),
            }
            self.blanks();
        }
        self.at += 1;
        keys.finish()
    }

    #[inline(always)]
    fn array(&mut self, depth: usize, unique: usize) -> Result<(), Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault::Depth);
        }
        self.at += 1;
        self.blanks();
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1, unique)?;
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(Fault::Syntax),
            }
            self.blanks();
        }
        self.at += 1;
        Ok(())
    }

    /// Passes a string, which must begin under the cursor.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<Token<'a>, Fault> {
        if !self.eat(b'"') {
            return Err(Fault::Syntax);
        }
        // Keys and names end within the first block.
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if let Some(block) = rest.first_chunk::<BLOCK>() {
            let end = pauses(block).trailing_zeros() as usize;
            if block.get(end) == Some(&b'"') {
                self.at += end + 1;
                return Ok(Token {
                    inner: rest.get(..end).unwrap_or_default(),
                    escaped: false,
                    lone: false,
                });
            }
        }
        let (token, at) = Self::new(self.bytes, self.at).long_string()?;
        self.at = at;
        Ok(token)
    }

    /// The rest of a string whose opening quote was passed, and where it ends. By value, so that a
    /// caller's cursor can stay in registers.
    #[inline(never)]
    fn long_string(mut self) -> Result<(Token<'a>, usize), Fault> {
        let start = self.at;
        let mut escaped = false;
        let mut lone = false;
        loop {
            self.pass_blocks(&mut escaped);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    lone |= self.escape()?;
                }
                Some(_) => self.at = next_pause(self.bytes, self.at),
                None => return Err(Fault::Syntax),
            }
        }
        let token = Token {
            inner: self.since(start),
            escaped,
            lone,
        };
        Ok((token, self.at + 1))
    }

    /// Passes whole blocks up to the end of the string, an escape that needs a closer look, or the
    /// last bytes.
    #[inline]
    fn pass_blocks(&mut self, escaped: &mut bool) {
        let mut rest = self.bytes.get(self.at..).unwrap_or_default();
        while let Some((block, after)) = rest.split_first_chunk::<64>() {
            let mut mask = pauses_wide(block);
            while mask != 0 {
                let index = mask.trailing_zeros() as usize;
                let simple = block.get(index + 1).copied().is_some_and(is_simple_escape);
                if block.get(index) == Some(&b'"') || !simple {
                    self.at = self.bytes.len() - rest.len() + index;
                    return;
                }
                *escaped = true;
                // The backslash and what it escapes, which may be one of the two itself.
                mask &= !(0b11 << index);
            }
            rest = after;
        }
        self.at = self.bytes.len() - rest.len();
    }

    /// Passes one escape (both halves of a surrogate pair); true when it is half a pair.
    #[inline]
    fn escape(&mut self) -> Result<bool, Fault> {
        match self.bytes.get(self.at + 1) {
            Some(&byte) if is_simple_escape(byte) => {
                self.at += 2;
                Ok(false)
            }
            Some(b'u') => self.unit_pair(),
            _ => Err(Fault::Syntax),
        }
    }

    fn unit_pair(&mut self) -> Result<bool, Fault> {
        let first = unit(self.bytes, self.at).ok_or(Fault::Syntax)?;
        self.at += 6;
        match first {
            0xD800..=0xDBFF => match unit(self.bytes, self.at) {
                Some(0xDC00..=0xDFFF) => {
                    self.at += 6;
                    Ok(false)
                }
                _ => Ok(true),
            },
            0xDC00..=0xDFFF => Ok(true),
            _ => Ok(false),
        }
    }

    #[inline(always)]
    fn number(&mut self) -> Result<(), Fault> {
        self.eat(b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(Fault::Number),
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        match self.peek() {
            // `01`, `0x1`, `1n`, `1_000`: a number that goes on is another language's.
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' | b'+' | b'-') => {
                Err(Fault::Number)
            }
            _ => Ok(()),
        }
    }

    /// At least one digit.
    #[inline(always)]
    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(Fault::Number);
        }
        Ok(())
    }

    #[inline(always)]
    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        if self.bytes.get(self.at..self.at + word.len()) != Some(word) {
            return Err(Fault::Syntax);
        }
        self.at += word.len();
        Ok(())
    }
}

/// The code unit of a `\uXXXX` at `at`.
pub(super) fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let escape = bytes.get(at..at.checked_add(6)?)?;
    let digits = escape.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |value, &digit| {
        Some(value << 4 | char::from(digit).to_digit(16)?)
    })
}
