//! Finds where a JSON string pauses, 16 and 64 bytes at a time: its end, or an escape.

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
    let bits = u128::from_le_bytes(*block);
    // One load: the compiler joins the halves.
    let [low, high] = [bits, bits >> 64].map(|half| (half & u128::from(u64::MAX)) as u64);
    let bytes = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
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
/// last bytes of a line, which fill no block.
#[inline]
pub(super) fn next_pause(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.iter()
        .position(|&byte| byte == b'"' || byte == b'\\')
        .map_or(bytes.len(), |found| from + found)
}

/// True for what may follow a backslash, `u` apart.
#[inline]
pub(super) fn is_simple_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

/// How many of the bytes are digits before the first that is not.
#[inline]
pub(super) fn leading_digits(block: [u8; 8]) -> usize {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let values = u64::from_le_bytes(block) ^ 0x3030_3030_3030_3030;
    // 0 to 9 stay below the high bit when 0x76 is added, 10 to 0x7F do not.
    let others = ((values & !HIGH) + 0x7676_7676_7676_7676 | values) & HIGH;
    (others.trailing_zeros() / 8) as usize
}

/// The lowest and the highest byte; `(0xFF, 0)` when there is none.
#[inline]
pub(super) fn extremes(bytes: &[u8]) -> (u8, u8) {
    // Whole blocks without a branch, which the compiler vectorises. The last block overlaps the one
    // before it, so that no bytes are left over.
    let (blocks, rest) = bytes.as_chunks::<64>();
    if let Some(last) = bytes.last_chunk::<64>() {
        let ends = blocks.iter().map(|block| span(block));
        return ends.fold(span(last), wider);
    }
    let (blocks, left) = rest.as_chunks::<16>();
    match bytes.last_chunk::<16>() {
        Some(last) => blocks
            .iter()
            .map(|block| span(block))
            .fold(span(last), wider),
        None => span(left),
    }
}

#[inline]
fn span(block: &[u8]) -> (u8, u8) {
    block.iter().fold((u8::MAX, 0), |(low, high), &byte| {
        (low.min(byte), high.max(byte))
    })
}

#[inline]
fn wider(one: (u8, u8), two: (u8, u8)) -> (u8, u8) {
    (one.0.min(two.0), one.1.max(two.1))
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
        fn digits_are_counted_up_to_the_first_other_byte(block: [u8; 8], digits in "[0-9]{0,8}") {
            let mut block = block;
            block.iter_mut().zip(digits.bytes()).for_each(|(to, from)| *to = from);
            let wanted = block.iter().take_while(|byte| byte.is_ascii_digit()).count();
            prop_assert_eq!(leading_digits(block), wanted);
        }

        #[test]
        fn extremes_are_found_wherever_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let low = bytes.iter().copied().min().unwrap_or(u8::MAX);
            let high = bytes.iter().copied().max().unwrap_or(0);
            prop_assert_eq!(extremes(&bytes), (low, high));
        }
    }
}
