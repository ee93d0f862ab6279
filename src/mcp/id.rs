//! Request ids: the raw token travels, the key is what tables compare.

/// An id as it stands on the wire: `7`, `"7"`.
#[derive(Clone, Copy, Debug)]
pub struct Id<'a> {
    /// Offset of the token in the line.
    pub start: usize,
    /// The token, quotes included.
    pub raw: &'a [u8],
}

/// An id as tables know it: the number 7 and the string "7" differ, `"7"` and `"\u0037"` do not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestId {
    /// An integer that fits.
    Number(i64),
    /// An integer that does not fit, by its digits.
    Wide(Box<str>),
    /// A string, unescaped.
    Text(Box<str>),
}

impl Id<'_> {
    /// The key under which tables keep this id.
    #[must_use]
    pub fn key(&self) -> RequestId {
        todo!()
    }
}
