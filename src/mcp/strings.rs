//! Finds where a JSON string pauses: its end, or an escape.

/// The offset of the first `"` or `\` at or after `from`; the length when there is none.
#[inline]
pub(super) fn quote_or_backslash(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    match memchr::memchr2(b'"', b'\\', rest) {
        Some(found) => from + found,
        None => bytes.len(),
    }
}

/// True when a byte is below 0x20. Whole blocks without a branch, which the compiler vectorises.
pub(super) fn has_control(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let low = |block: &[u8]| {
        block
            .iter()
            .fold(false, |found, &byte| found | (byte < 0x20))
    };
    blocks.iter().any(|block| low(block)) || low(rest)
}
