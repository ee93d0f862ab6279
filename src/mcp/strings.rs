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

/// True when a byte is below 0x20. Whole blocks without a branch, which the compiler vectorises.
pub(super) fn has_control(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let low = |block: &[u8]| block.iter().fold(u8::MAX, |low, &byte| low.min(byte)) < 0x20;
    blocks.iter().any(|block| low(block)) || low(rest)
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
        fn a_control_byte_is_found_wherever_it_is(
            length in 1usize..200,
            at in any::<prop::sample::Index>(),
            byte in 0u8..0x20,
        ) {
            let mut bytes = vec![0xE9; length];
            prop_assert!(!has_control(&bytes));
            bytes[at.index(length)] = byte;
            prop_assert!(has_control(&bytes));
            bytes[at.index(length)] = 0x20;
            prop_assert!(!has_control(&bytes));
        }
    }
}
