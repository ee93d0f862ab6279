//! A strict JSON walker over proved bytes, with no tree and no allocation on the common path.

use super::Raw;
use std::borrow::Cow;

/// The members of an object, in order: decoded key, raw value (offsets relative to the slice given).
#[derive(Debug)]
pub struct Members<'a> {
    bytes: &'a [u8],
}

/// Walks the members of `object`, which `parse` has proved; not an object gives none.
#[must_use]
pub fn members(object: &[u8]) -> Members<'_> {
    Members { bytes: object }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Raw<'a>);
    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.bytes;
        todo!()
    }
}

/// The elements of an array, in order.
#[derive(Debug)]
pub struct Elements<'a> {
    bytes: &'a [u8],
}

/// Walks the elements of `array`, which `parse` has proved; not an array gives none.
#[must_use]
pub fn elements(array: &[u8]) -> Elements<'_> {
    Elements { bytes: array }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Raw<'a>;
    fn next(&mut self) -> Option<Self::Item> {
        let _ = self.bytes;
        todo!()
    }
}

/// Decodes a raw string token; `None` when the value is not a string.
#[must_use]
pub fn text(raw: &[u8]) -> Option<Cow<'_, str>> {
    let _ = raw;
    todo!()
}
