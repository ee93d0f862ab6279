//! Cuts a byte stream into lines, with a cap that holds before memory is taken.
//!
//! The bytes of a line stay where `read(2)` put them until they are released, so a line that policy
//! lets pass is written from here, and a run of such lines is written at once.

use super::grow_pipe;
use crate::mcp::{IdScan, OversizeId};
use rustix::io::{ReadWriteFlags, preadv2};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// What a buffer starts with and goes back to: as much as a pipe holds unless it was grown.
const IDLE_BYTES: usize = 64 << 10;

/// A read smaller than this costs more as a system call than as a copy.
const MIN_READ: usize = 16 << 10;

/// A line, in offsets that [`FrameBuf::bytes`] takes and that stay valid until they are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    start: usize,
    end: usize,
    carriage: bool,
}

impl Line {
    /// The line without its LF and without one CR before that.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The line with its line end when that is exactly LF; `None` after CR LF. Two such ranges can
    /// be written as one when the second begins where the first ends.
    #[must_use]
    pub fn with_line_end(&self) -> Option<Range<usize>> {
        (!self.carriage).then(|| self.start..self.end + 1)
    }

    /// The offset after the line end: what to release when the line is done with.
    #[must_use]
    pub fn next(&self) -> usize {
        self.end + 1 + usize::from(self.carriage)
    }
}

/// What the stream gave next.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole line within the cap, never blank.
    Line(Line),
    /// A line over the cap. It was not kept.
    TooLong {
        /// Its id, when one could be read as it streamed past.
        id: Option<OversizeId>,
        /// Its length without the LF (a CR before that counted).
        bytes: u64,
    },
    /// The stream ended inside a line. It is not a message.
    Partial(Range<usize>),
}

/// A bounded buffer between a descriptor and the messages in it.
///
/// Use: `read_from`, then `next` until `None`, `release` what is done with, and again. `shrink`
/// when the descriptor has nothing more for now. At end of input, `finish`.
#[derive(Debug)]
pub struct FrameBuf {
    /// Zeroed once when it grows, never again; `filled` bytes of it are of the stream.
    buffer: Vec<u8>,
    filled: usize,
    /// The offset that the outside knows `buffer[0]` by. It grows when bytes move down.
    base: usize,
    /// Index up to which the caller has released.
    released: usize,
    /// Index after the last line that was handed out.
    delivered: usize,
    /// Index at which the line that is being read begins.
    line: usize,
    /// Index up to which there is no LF in that line.
    scanned: usize,
    /// Longest line, in bytes.
    cap: usize,
    skip: Option<Box<Skip>>,
}

/// A line over the cap, while it streams past.
#[derive(Debug, Default)]
struct Skip {
    scan: IdScan,
    bytes: u64,
}

impl FrameBuf {
    /// Lines may have `cap` bytes without their line end.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self {
            buffer: vec![0; IDLE_BYTES],
            filled: 0,
            base: 0,
            released: 0,
            delivered: 0,
            line: 0,
            scanned: 0,
            cap,
            skip: None,
        }
    }

    /// Changes the cap for the lines that have not been handed out yet.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    /// Reads once, as much as there is room for. `Ok(0)` is the end of the input.
    ///
    /// # Errors
    /// Those of `read(2)`: `WouldBlock` when there is nothing yet, `Interrupted`. `OutOfMemory` when
    /// the buffer is full of lines that were not released (see [`has_room`](Self::has_room)).
    pub fn read_from(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.make_room(fd);
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let count = nix::unistd::read(fd, room)?;
        self.filled += count;
        Ok(count)
    }

    /// Like [`read_from`](Self::read_from), and never waits, whatever mode the descriptor is in.
    ///
    /// # Errors
    /// Those of `preadv2(2)` with `RWF_NOWAIT`: `WouldBlock` when there is nothing now, others where
    /// the descriptor cannot be read so (a terminal).
    pub fn read_now(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.make_room(fd);
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        // This offset stands for the place that the descriptor is at.
        let here = u64::MAX;
        let count = preadv2(
            fd,
            &mut [IoSliceMut::new(room)],
            here,
            ReadWriteFlags::NOWAIT,
        )?;
        self.filled += count;
        Ok(count)
    }

    /// True when the last read took all that there was room for, so that there may be more.
    #[must_use]
    pub fn is_brimful(&self) -> bool {
        self.filled == self.buffer.len()
    }

    /// Takes bytes that were read elsewhere (a test, a decoder); gives back how many fitted.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            self.grow_or_move(|_| {});
            let rest = bytes.get(taken..).unwrap_or_default();
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let count = rest.len().min(room.len());
            if count == 0 {
                break;
            }
            room.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            self.filled += count;
            taken += count;
        }
        taken
    }

    /// False while the buffer is full of lines that were handed out and not released: reading has
    /// to wait for the writer.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.filled - self.free_to() < self.most()
    }

    /// The bytes of a range that [`next`](Self::next) gave; empty once they are released.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        range
            .start
            .checked_sub(self.base)
            .zip(range.end.checked_sub(self.base))
            .and_then(|(start, end)| self.buffer.get(start..end))
            .unwrap_or_default()
    }

    /// Everything before the offset `upto` is done with.
    pub fn release(&mut self, upto: usize) {
        let upto = upto.saturating_sub(self.base).min(self.delivered);
        self.released = self.released.max(upto);
        if self.free_to() == self.filled {
            self.move_down(self.filled);
        }
    }

    /// Gives the memory of a burst back. For when the descriptor has nothing more: what is still in
    /// the buffer is kept.
    pub fn shrink(&mut self) {
        let keep = self.filled - self.free_to();
        if self.buffer.len() > IDLE_BYTES && keep <= IDLE_BYTES / 2 {
            self.reallocate(IDLE_BYTES);
        }
    }

    /// At the end of the input: the line over the cap that was being skipped, or the half line.
    pub fn finish(&mut self) -> Option<Frame> {
        if let Some(skip) = self.skip.take() {
            return Some(skip.finish());
        }
        let line = self.line..self.filled;
        self.line = self.filled;
        self.scanned = self.filled;
        let content = self.buffer.get(line.clone()).unwrap_or_default();
        if is_blank(content) {
            return None;
        }
        self.delivered = line.end;
        Some(Frame::Partial(self.base + line.start..self.base + line.end))
    }

    /// The line that ends at the LF at index `end`; `None` when it is blank.
    fn cut(&mut self, end: usize) -> Option<Frame> {
        let start = self.line;
        self.line = end + 1;
        self.scanned = end + 1;
        let content = self.buffer.get(start..end).unwrap_or_default();
        if let Some(mut skip) = self.skip.take() {
            skip.feed(content);
            return Some(skip.finish());
        }
        let stripped = content.strip_suffix(b"\r");
        let carriage = stripped.is_some();
        if stripped.unwrap_or(content).len() > self.cap {
            let mut skip = Skip::default();
            skip.feed(content);
            return Some(skip.finish());
        }
        let content = stripped.unwrap_or(content);
        if is_blank(content) {
            return None;
        }
        let start = self.base + start;
        let end = start + content.len();
        self.delivered = self.line;
        Some(Frame::Line(Line {
            start,
            end,
            carriage,
        }))
    }

    /// Drops what there is of a line that is longer than the cap already.
    fn skip_overlong(&mut self) {
        let length = self.filled - self.line;
        // One more than the cap may be the CR of a line that is just within it.
        if self.skip.is_none() && length <= self.cap + 1 {
            return;
        }
        let skip = self.skip.get_or_insert_default();
        skip.feed(self.buffer.get(self.line..self.filled).unwrap_or_default());
        self.filled = self.line;
        self.scanned = self.line;
    }

    /// Index below which nobody needs the bytes.
    fn free_to(&self) -> usize {
        if self.released >= self.delivered {
            self.line
        } else {
            self.released
        }
    }

    /// The largest size: a whole line of the cap, its line end, and a full read behind it.
    fn most(&self) -> usize {
        self.cap.saturating_add(2 + IDLE_BYTES).max(IDLE_BYTES)
    }

    fn make_room(&mut self, fd: BorrowedFd<'_>) {
        self.grow_or_move(|size| {
            if size == IDLE_BYTES {
                // The first message larger than a pipe: let the peer write it in larger steps.
                grow_pipe(fd.as_fd());
            }
        });
    }

    /// Makes room for a read worth its system call. Moving bytes is only done when at least as many
    /// have been released since the last time, or when the size is at its limit: the cost of each
    /// byte stays constant.
    fn grow_or_move(&mut self, growing: impl FnOnce(usize)) {
        let size = self.buffer.len();
        if size - self.filled >= MIN_READ {
            return;
        }
        let free = self.free_to();
        let keep = self.filled - free;
        if keep <= free {
            self.move_down(free);
        } else if size < self.most() {
            growing(size);
            self.reallocate((size * 2).min(self.most()));
        } else if self.filled == size && free > 0 {
            self.move_down(free);
        }
    }

    fn reallocate(&mut self, size: usize) {
        let free = self.free_to();
        let mut fresh = vec![0; size.max(self.filled - free)];
        let kept = self.buffer.get(free..self.filled).unwrap_or_default();
        if let Some(target) = fresh.get_mut(..kept.len()) {
            target.copy_from_slice(kept);
        }
        self.buffer = fresh;
        self.rebase(free);
    }

    fn move_down(&mut self, free: usize) {
        self.buffer.copy_within(free..self.filled, 0);
        self.rebase(free);
    }

    fn rebase(&mut self, free: usize) {
        self.base += free;
        self.filled -= free;
        self.released = self.released.saturating_sub(free);
        self.delivered = self.delivered.saturating_sub(free);
        self.line -= free;
        self.scanned -= free;
    }
}

/// Not fused: `None` means that more has to be read.
impl Iterator for FrameBuf {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        loop {
            let unseen = self.buffer.get(self.scanned..self.filled)?;
            let Some(found) = memchr::memchr(b'\n', unseen) else {
                self.scanned = self.filled;
                self.skip_overlong();
                return None;
            };
            if let Some(frame) = self.cut(self.scanned + found) {
                return Some(frame);
            }
        }
    }
}

impl Skip {
    fn feed(&mut self, bytes: &[u8]) {
        self.scan.feed(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn finish(self) -> Frame {
        Frame::TooLong {
            id: self.scan.finish(),
            bytes: self.bytes,
        }
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;
