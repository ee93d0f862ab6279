//! The first look at every byte: finds word runs that are long enough to hold a credential.
//!
//! Blocks of 64 bytes become one bit each, in loops that the compiler turns into vector code; all
//! else is arithmetic on `u64`. Ordinary text has a long run every hundred bytes or so, and only
//! there does anything slower happen.

/// The shortest run that is looked at. Every detector's run has at least this many bytes.
pub(super) const RUN: usize = 12;

/// Calls `visit(start, end)` for each maximal run of at least [`RUN`] word bytes.
///
/// `visit` gives the place to go on from; anything at or before `end` means `end`.
pub(super) fn long_runs(bytes: &[u8], mut visit: impl FnMut(usize, usize) -> usize) {
    let mut base = 0;
    // Whether the byte before `base` is a word byte; after a jump it never is.
    let mut carry = 0;
    while base < bytes.len() {
        let word = mask_at(bytes, base);
        let gap = !word;
        let starts = word & !(word << 1 | carry);
        // Positions whose next twelve bytes hold a gap, as far as this block knows.
        let two = gap | gap >> 1;
        let four = two | two >> 2;
        let near = four | four >> 4 | four >> 8;
        let mut candidates = starts & !near;
        carry = word >> 63;
        let mut next = base + 64;
        while candidates != 0 {
            let bit = candidates.trailing_zeros() as usize;
            candidates &= candidates - 1;
            let start = base + bit;
            let length = (gap >> bit).trailing_zeros() as usize;
            let end = if bit + length.min(64) < 64 {
                start + length
            } else {
                run_end(bytes, base + 64)
            };
            if end - start < RUN {
                continue;
            }
            let resume = visit(start, end).max(end);
            if resume >= base + 64 {
                next = resume;
                carry = 0;
                break;
            }
            // Skip what a finding has swallowed.
            candidates &= u64::MAX << (resume - base);
        }
        base = next;
    }
}

/// The end of the run that covers `from`, or `from` when no word byte is there.
pub(super) fn run_end(bytes: &[u8], mut from: usize) -> usize {
    while from < bytes.len() {
        let gap = !mask_at(bytes, from);
        if gap != 0 {
            return from + gap.trailing_zeros() as usize;
        }
        from += 64;
    }
    bytes.len()
}

/// One bit for each of the 64 bytes at `from`; beyond the end there is no word.
#[inline(always)]
fn mask_at(bytes: &[u8], from: usize) -> u64 {
    let rest = bytes.get(from..).unwrap_or_default();
    match rest.first_chunk::<64>() {
        Some(block) => word_mask(block),
        None => {
            let mut block = [0; 64];
            for (to, from) in block.iter_mut().zip(rest) {
                *to = *from;
            }
            word_mask(&block)
        }
    }
}

/// One bit for each byte that is a letter, a digit, `-` or `_`.
#[inline]
fn word_mask(block: &[u8; 64]) -> u64 {
    let mut flags = [0u8; 64];
    for (flag, &byte) in flags.iter_mut().zip(block) {
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        *flag =
            u8::from(letter) | u8::from(digit) | u8::from(byte == b'-') | u8::from(byte == b'_');
    }
    // Eight flags of 0 or 1 become eight bits: the product moves flag `i` to bit `56 + i`.
    let (eights, _) = flags.as_chunks::<8>();
    eights.iter().rev().fold(0, |mask, eight| {
        mask << 8 | u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56
    })
}

/// Where a candidate may start inside a run: at its start and behind each `-` and `_`.
///
/// Eight bytes at a time: most runs are so short that calling `memchr` would take longer.
pub(super) fn word_starts(bytes: &[u8], start: usize, end: usize) -> WordStarts<'_> {
    WordStarts {
        run: bytes.get(..end).unwrap_or(bytes),
        next: Some(start),
        at: start,
        hits: 0,
    }
}

/// See [`word_starts`].
#[derive(Debug)]
pub(super) struct WordStarts<'a> {
    run: &'a [u8],
    /// The start itself, given first.
    next: Option<usize>,
    /// Where the next eight bytes are.
    at: usize,
    /// The high bit of each of the last eight bytes that is a separator.
    hits: u64,
}

impl Iterator for WordStarts<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        const LOW: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = LOW << 7;
        if let Some(start) = self.next.take() {
            return Some(start);
        }
        while self.hits == 0 {
            let rest = self.run.get(self.at..).filter(|rest| !rest.is_empty())?;
            let eight = match rest.first_chunk::<8>() {
                Some(eight) => u64::from_le_bytes(*eight),
                None => rest
                    .iter()
                    .rev()
                    .fold(0, |word, b| word << 8 | u64::from(*b)),
            };
            // A byte of a run is ASCII, so adding 0x7f sets its high bit unless it is zero.
            let differs = |b: u8| (eight ^ (LOW * u64::from(b))) + (HIGH - LOW);
            self.hits = !(differs(b'-') & differs(b'_')) & HIGH;
            self.at += 8;
        }
        let bit = self.hits.trailing_zeros() as usize;
        self.hits &= self.hits - 1;
        Some(self.at - 8 + bit / 8 + 1)
    }
}

/// The same as [`long_runs`], one byte at a time; what the tests compare with.
#[cfg(test)]
pub(super) fn long_runs_slowly(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..]
            .iter()
            .take_while(|b| super::shape::is_token(**b))
            .count();
        if length >= RUN {
            runs.push((at, at + length));
        }
        at += length.max(1);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::shape::is_token;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_byte_is_classified_as_the_table_says() {
        for byte in 0..=255u8 {
            for at in [0, 7, 8, 63] {
                let mut block = [b' '; 64];
                block[at] = byte;
                assert_eq!(
                    word_mask(&block),
                    u64::from(is_token(byte)) << at,
                    "{byte} at {at}"
                );
            }
        }
    }

    #[test]
    fn words_start_behind_separators() {
        let text = b"..ab-cd_e-fghijklmnop-_q";
        let starts: Vec<_> = word_starts(text, 2, text.len()).collect();
        assert_eq!(starts, [2, 5, 8, 10, 22, 23]);
    }

    proptest! {
        #[test]
        fn finds_what_the_slow_way_finds(text in "([a-zA-Z_-]{1,40}[ ./é\"]{1,2}|[ab]{50,200}|.){0,40}") {
            let mut fast = Vec::new();
            long_runs(text.as_bytes(), |start, end| { fast.push((start, end)); end });
            prop_assert_eq!(fast, long_runs_slowly(text.as_bytes()));
        }
    }
}
