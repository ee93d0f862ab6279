//! Bytes in pages of their own: wiped when they are dropped, and kept out of swap where the limit on
//! locked memory (`RLIMIT_MEMLOCK`) allows.
//!
//! Core dumps need no mark on the pages: processes of ours make none (`cell::hide_memory`).

use region::LockGuard;
use zeroize::Zeroizing;

pub(super) struct Locked {
    /// Given back before the bytes are. `None` where the limit is used up.
    _lock: Option<LockGuard>,
    pages: Zeroizing<Vec<u8>>,
    start: usize,
    length: usize,
}

impl Locked {
    pub(super) fn new(value: Vec<u8>) -> Self {
        let value = Zeroizing::new(value);
        let page = region::page::size();
        let whole = value.len().max(1).next_multiple_of(page);
        // Somewhere in it as many whole pages begin, which nothing else is in.
        let mut pages = Zeroizing::new(vec![0; whole + page]);
        let start = pages.as_ptr().align_offset(page);
        let (start, lock) = match pages.get(start..start.saturating_add(whole)) {
            Some(inner) => (start, region::lock(inner.as_ptr(), whole).ok()),
            None => (0, None),
        };
        if let Some(place) = pages.get_mut(start..start + value.len()) {
            place.copy_from_slice(&value);
        }
        Self {
            _lock: lock,
            pages,
            start,
            length: value.len(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let end = self.start + self.length;
        self.pages.get(self.start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_their_pages_are_locked() {
        for length in [0, 1, 4096, 70_000] {
            let value: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            assert_eq!(Locked::new(value.clone()).bytes(), value);
        }
        let kept = Locked::new(vec![7; 100]);
        if kept._lock.is_none() {
            println!("SKIPPED: locked-memory: the limit on locked memory is used up");
            return;
        }
        let address = kept.bytes().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut locked = 0;
        for line in maps.lines() {
            if let Some((from, rest)) = line.split_once('-')
                && let Ok(from) = usize::from_str_radix(from, 16)
            {
                let to = rest.split(' ').next().unwrap();
                inside = (from..usize::from_str_radix(to, 16).unwrap()).contains(&address);
            }
            if inside && let Some(kib) = line.strip_prefix("Locked:") {
                locked = kib.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        assert!(locked >= 4, "{locked} KiB");
    }
}
