//! Finds where a JSON string pauses, 16 and 64 bytes at a time: its end, or an escape.

/// Bytes that are looked at side by side.
pub(super) const BLOCK: usize = 16;

/// A mask with bit `i` set when byte `i` is `"` or `\`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[expect(
    unsafe_code,
    reason = "a byte mask in one instruction is what makes proving cheap; portable code is 4 times slower"
)]
pub(super) fn pauses(block: &[u8; 16]) -> u32 {
    // SAFETY: SSE2 is part of x86-64; there is no such processor without it. No safe way exists
    // because calls of functions with a target feature are only safe from functions that name it.
    unsafe { pauses_sse2(block) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn pauses_sse2(block: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let ([low, high], _) = block.as_chunks::<8>() else {
        return 0;
    };
    // One load: the compiler joins the halves.
    let bytes = _mm_set_epi64x(i64::from_le_bytes(*high), i64::from_le_bytes(*low));
    let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"'.cast_signed()));
    let backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\'.cast_signed()));
    _mm_movemask_epi8(_mm_or_si128(quotes, backslashes)).cast_unsigned()
}

/// A mask with bit `i` set when byte `i` is `"` or `\`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn pauses(block: &[u8; 16]) -> u32 {
    block.iter().rev().fold(0, |mask, &byte| {
        mask << 1 | u32::from(byte == b'"' || byte == b'\\')
    })
}

/// The same for 64 bytes.
#[inline]
pub(super) fn pauses_wide(block: &[u8; 64]) -> u64 {
    let (parts, _) = block.as_chunks::<16>();
    let [one, two, three, four] = parts else {
        return 0;
    };
    u64::from(pauses(one))
        | u64::from(pauses(two)) << 16
        | u64::from(pauses(three)) << 32
        | u64::from(pauses(four)) << 48
}

/// The offset of the first `"` or `\` at or after `from`; the length when there is none. For the
/// last bytes of a line, which fill no wide block.
#[inline]
pub(super) fn next_pause(bytes: &[u8], from: usize) -> usize {
    let mut rest = bytes.get(from..).unwrap_or_default();
    while let Some((block, after)) = rest.split_first_chunk::<16>() {
        let mask = pauses(block);
        if mask != 0 {
            return bytes.len() - rest.len() + mask.trailing_zeros() as usize;
        }
        rest = after;
    }
    if rest.is_empty() {
        return bytes.len();
    }
    let start = bytes.len() - rest.len();
    if let Some(block) = bytes.last_chunk::<16>() {
        // The block begins before the rest; what lies there is shifted out.
        let mask = pauses(block) >> (16 - rest.len());
        return bytes.len().min(start + mask.trailing_zeros() as usize);
    }
    rest.iter()
        .position(|&byte| byte == b'"' || byte == b'\\')
        .map_or(bytes.len(), |found| start + found)
}

/// True for what may follow a backslash, `u` apart.
#[inline]
pub(super) fn is_simple_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

/// Bytes that are compared side by side.
const LANES: usize = 32;

/// The lowest and the highest byte; `(0xFF, 0)` when there is none.
#[inline]
pub(super) fn extremes(bytes: &[u8]) -> (u8, u8) {
    // Each lane keeps its own extremes, without a branch, which the compiler vectorises; lanes are
    // compared with each other once. The last block overlaps the one before it, so that no bytes
    // are left over.
    let Some(last) = bytes.last_chunk::<LANES>() else {
        return span(bytes, bytes);
    };
    let (mut low, mut high) = (*last, *last);
    let (blocks, _) = bytes.as_chunks::<LANES>();
    for block in blocks {
        for ((low, high), &byte) in low.iter_mut().zip(&mut high).zip(block) {
            *low = byte.min(*low);
            *high = byte.max(*high);
        }
    }
    span(&low, &high)
}

#[inline(always)]
fn span(low: &[u8], high: &[u8]) -> (u8, u8) {
    (
        low.iter().fold(u8::MAX, |low, &byte| low.min(byte)),
        high.iter().fold(0, |high, &byte| high.max(byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_say_where_strings_pause(text in "[a\"\\\\\u{7f}é]{64,80}") {
            let block = text.as_bytes().first_chunk::<64>().unwrap();
            let mask = pauses_wide(block);
            for (index, byte) in block.iter().enumerate() {
                prop_assert_eq!(mask >> index & 1 == 1, matches!(byte, b'"' | b'\\'), "{}", index);
            }
        }

        #[test]
        fn the_next_pause_is_the_first(text in "[a\"\\\\é]{0,50}", from in 0usize..60) {
            let bytes = text.as_bytes();
            let wanted = bytes.iter().skip(from).position(|byte| matches!(byte, b'"' | b'\\'));
            let wanted = wanted.map_or(bytes.len(), |found| from + found);
            prop_assert_eq!(next_pause(bytes, from), wanted);
        }

        #[test]
        fn extremes_are_found_wherever_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let low = bytes.iter().copied().min().unwrap_or(u8::MAX);
            let high = bytes.iter().copied().max().unwrap_or(0);
            prop_assert_eq!(extremes(&bytes), (low, high));
        }
    }
}
