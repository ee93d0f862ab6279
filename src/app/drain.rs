//! The server's stderr: always drained, so that a full pipe never freezes the server; logged line by
//! line, within a rate.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest piece that is logged as one line.
const LINE: usize = 4096;
/// Lines that may come at once.
const BURST: u32 = 400;
/// Lines that are let through in a second after that.
const PER_SECOND: u32 = 100;

/// What came of one read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Drained {
    More,
    End,
}

#[derive(Debug)]
pub(super) struct Drain {
    from: OwnedFd,
    line: Vec<u8>,
    tokens: u32,
    refilled: Instant,
    dropped: u64,
}

impl Drain {
    pub(super) fn new(from: OwnedFd, now: Instant) -> Self {
        Self {
            from,
            line: Vec::new(),
            tokens: BURST,
            refilled: now,
            dropped: 0,
        }
    }

    /// One `read(2)`: each line within the rate goes to `log`, the number above it to `dropped`.
    pub(super) fn read(
        &mut self,
        now: Instant,
        mut log: impl FnMut(&[u8]),
        mut dropped: impl FnMut(u64),
    ) -> io::Result<Drained> {
        let mut bytes = [0; 16 * 1024];
        let got = match nix::unistd::read(&self.from, &mut bytes) {
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => return Ok(Drained::More),
            other => other?,
        };
        self.refill(now);
        let before = self.dropped;
        for piece in bytes[..got].split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let ended = piece.ends_with(b"\n") || piece.ends_with(b"\r");
            let text = &piece[..piece.len() - usize::from(ended)];
            for part in text.chunks(LINE) {
                self.line.extend_from_slice(part);
                while self.line.len() > LINE {
                    // What was behind a word's end waits for the rest of its word.
                    let rest = self.line.split_off(word_end(&self.line[..LINE]));
                    self.emit(&mut log);
                    self.line = rest;
                }
            }
            if ended {
                self.emit(&mut log);
            }
        }
        if got == 0 {
            self.emit(&mut log);
        }
        if self.dropped > before {
            dropped(self.dropped - before);
        }
        Ok(if got == 0 {
            Drained::End
        } else {
            Drained::More
        })
    }

    fn emit(&mut self, log: &mut impl FnMut(&[u8])) {
        if self.line.is_empty() {
            return;
        }
        if self.tokens > 0 {
            self.tokens -= 1;
            log(&self.line);
        } else {
            self.dropped += 1;
        }
        self.line.clear();
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        let earned = u32::try_from(passed.as_millis())
            .unwrap_or(u32::MAX)
            .saturating_mul(PER_SECOND)
            / 1000;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = now
                - passed.saturating_sub(Duration::from_millis(
                    u64::from(earned) * 1000 / u64::from(PER_SECOND),
                ));
        }
    }
}

/// Where a piece of a long line ends: behind its last word, so that no secret is cut in two and shown
/// because neither half is known. A piece that is one long word is cut where it is full.
fn word_end(piece: &[u8]) -> usize {
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b',' | b';');
    match piece.iter().rposition(ends) {
        Some(at) if at >= piece.len() / 2 => at + 1,
        _ => piece.len(),
    }
}

impl AsFd for Drain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_a_flood_is_cut_to_the_rate() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let start = Instant::now();
        let mut drain = Drain::new(read, start);
        nix::unistd::write(&write, b"one\r\ntwo\n\nthr").unwrap();
        let mut lines = Vec::new();
        let mut lost = 0;
        drain
            .read(start, |line| lines.push(line.to_vec()), |n| lost += n)
            .unwrap();
        nix::unistd::write(&write, b"ee\n").unwrap();
        drain
            .read(start, |line| lines.push(line.to_vec()), |n| lost += n)
            .unwrap();
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);

        lines.clear();
        nix::unistd::write(&write, &b"x\n".repeat(1000)).unwrap();
        drain
            .read(start, |line| lines.push(line.to_vec()), |n| lost += n)
            .unwrap();
        assert_eq!(lines.len(), BURST as usize - 3);
        assert_eq!(lines.len() + usize::try_from(lost).unwrap(), 1000);

        lines.clear();
        nix::unistd::write(&write, &b"y\n".repeat(1000)).unwrap();
        let later = start + Duration::from_millis(500);
        drain
            .read(later, |line| lines.push(line.to_vec()), |n| lost += n)
            .unwrap();
        assert_eq!(lines.len(), 50);
    }

    #[test]
    fn a_long_line_is_cut_between_words() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let now = Instant::now();
        let mut drain = Drain::new(read, now);
        let text = format!(
            "{} the-word-at-the-edge {}",
            "a".repeat(LINE - 10),
            "b".repeat(2 * LINE)
        );
        nix::unistd::write(&write, text.as_bytes()).unwrap();
        drop(write);
        let mut lines: Vec<String> = Vec::new();
        for _ in 0..2 {
            drain
                .read(
                    now,
                    |line| lines.push(String::from_utf8(line.to_vec()).unwrap()),
                    |_| {},
                )
                .unwrap();
        }
        assert_eq!(lines.concat(), text);
        assert!(lines.iter().all(|line| line.len() <= LINE));
        assert!(lines[1].starts_with("the-word-at-the-edge "), "{lines:?}");
    }

    #[test]
    fn the_last_words_without_a_line_end_are_logged_at_the_end() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let now = Instant::now();
        let mut drain = Drain::new(read, now);
        nix::unistd::write(&write, b"last words").unwrap();
        drop(write);
        let mut lines = Vec::new();
        drain
            .read(now, |line| lines.push(line.to_vec()), |_| {})
            .unwrap();
        let end = drain
            .read(now, |line| lines.push(line.to_vec()), |_| {})
            .unwrap();
        assert_eq!((end, lines), (Drained::End, vec![b"last words".to_vec()]));
    }
}
