//! One direction of the conversation: lines in, segments out, nothing copied that merely passes.
//!
//! Lines that pass unchanged stay where they were read and are written as one contiguous run; only
//! what a rule made is a buffer of its own. Segments are whole lines and leave in order, so nothing
//! can be written into the middle of a line, however slowly the reader takes it.

use crate::proxy::Passage;
use crate::transport::frame::{Frame, FrameBuf};
use crate::transport::writer::Outlet;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use zeroize::Zeroize;

/// Bytes of our own lines that may wait for one reader; while there are more, nothing is read that
/// could make yet another.
const OWN_CAP: usize = 1024 * 1024;

#[derive(Debug)]
enum Segment {
    /// Lies in the frame buffer.
    Run(Range<usize>),
    /// Made by a rule.
    Own { bytes: Vec<u8>, written: usize },
}

/// What the session is asked about.
#[derive(Debug)]
pub(super) enum Incoming<'a> {
    Line(&'a [u8]),
    TooLong {
        id: Option<crate::mcp::OversizeId>,
        bytes: u64,
    },
}

#[derive(Debug)]
pub(super) struct Lane {
    frames: FrameBuf,
    segments: VecDeque<Segment>,
    own: usize,
    /// Offset after the last line that was asked about.
    seen: usize,
    /// The source has ended and its last bytes are framed.
    ended: bool,
    /// The source can be read without waiting.
    asks_first: bool,
    /// The reader has got the beginning of a line, and not its end.
    midline: bool,
}

impl Lane {
    pub(super) fn new(cap: u64) -> Self {
        let cap = usize::try_from(cap).unwrap_or(usize::MAX);
        Self {
            frames: FrameBuf::new(cap),
            segments: VecDeque::new(),
            own: 0,
            seen: 0,
            ended: false,
            asks_first: true,
            midline: false,
        }
    }

    /// Changes the cap for lines that have not been asked about.
    pub(super) fn set_cap(&mut self, cap: u64) {
        self.frames
            .set_cap(usize::try_from(cap).unwrap_or(usize::MAX));
    }

    /// One `read(2)`; false at the end of the source.
    pub(super) fn read(&mut self, from: BorrowedFd<'_>) -> io::Result<bool> {
        let got = match self.frames.read_from(from) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            other => other?,
        };
        Ok(got > 0)
    }

    /// Reads if there is something now; anything else (nothing, the end, a descriptor that cannot say)
    /// is left to `poll` and [`Lane::read`].
    pub(super) fn read_now(&mut self, from: BorrowedFd<'_>) -> bool {
        if !self.asks_first {
            return false;
        }
        match self.frames.read_now(from) {
            Ok(got) => got > 0,
            Err(error) => {
                self.asks_first = error.kind() == io::ErrorKind::WouldBlock;
                false
            }
        }
    }

    /// True when reading more makes sense: what was read before has left.
    pub(super) fn wants_input(&self) -> bool {
        !self.ended && self.segments.is_empty()
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// True while something waits to be written.
    pub(super) fn has_output(&self) -> bool {
        !self.segments.is_empty()
    }

    /// True when too much of our own waits for this lane's reader.
    pub(super) fn is_clogged(&self) -> bool {
        self.own > OWN_CAP
    }

    /// Asks about every line that has been read.
    pub(super) fn process(&mut self, mut ask: impl FnMut(Incoming<'_>) -> Passage) {
        while let Some(frame) = self.frames.next() {
            self.take(frame, &mut ask);
        }
        self.release();
    }

    /// The source has ended: a last line without its LF is still asked about.
    pub(super) fn finish(&mut self, mut ask: impl FnMut(Incoming<'_>) -> Passage) {
        self.process(&mut ask);
        self.ended = true;
        if let Some(frame) = self.frames.finish() {
            self.take(frame, &mut ask);
        }
    }

    fn take(&mut self, frame: Frame, ask: &mut impl FnMut(Incoming<'_>) -> Passage) {
        let (text, whole) = match frame {
            Frame::Line(line) => {
                self.seen = line.next();
                (line.range(), line.with_line_end())
            }
            Frame::Partial(text) => {
                self.seen = text.end;
                (text, None)
            }
            Frame::TooLong { id, bytes } => {
                // Only a line has something to pass.
                drop(ask(Incoming::TooLong { id, bytes }));
                return;
            }
        };
        match (ask(Incoming::Line(self.frames.bytes(text.clone()))), whole) {
            (Passage::Pass, Some(whole)) => match self.segments.back_mut() {
                Some(Segment::Run(run)) if run.end == whole.start => run.end = whole.end,
                _ => self.segments.push_back(Segment::Run(whole)),
            },
            (Passage::Pass, None) => self.own_line(self.frames.bytes(text).to_vec()),
            (Passage::Replace(line), _) => self.own_line(line),
            (Passage::Stop, _) => {}
        }
    }

    fn own_line(&mut self, mut line: Vec<u8>) {
        line.push(b'\n');
        self.push(line);
    }

    /// Adds whole lines of our own.
    pub(super) fn push(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.own += bytes.len();
        self.segments.push_back(Segment::Own { bytes, written: 0 });
    }

    /// Writes what waits, as far as the reader takes it.
    pub(super) fn write(&mut self, to: &mut Outlet) -> io::Result<()> {
        while let Some(segment) = self.segments.front_mut() {
            // Both count from zero, and segments are never empty: the byte before is the last taken.
            let (done, last) = match segment {
                Segment::Run(run) => {
                    let took = to.write(self.frames.bytes(run.clone()))?;
                    run.start += took;
                    let last = run.start.saturating_sub(1)..run.start;
                    let last = if took > 0 {
                        self.frames.bytes(last)
                    } else {
                        &[]
                    };
                    (run.start == run.end, last.first().copied())
                }
                Segment::Own { bytes, written } => {
                    let took = to.write(&bytes[*written..])?;
                    *written += took;
                    self.own -= took;
                    let last = bytes[..*written].last().filter(|_| took > 0).copied();
                    let done = *written == bytes.len();
                    if done {
                        // A credential may have been filled into it.
                        bytes.zeroize();
                    }
                    (done, last)
                }
            };
            if !done {
                self.midline = last.map_or(self.midline, |last| last != b'\n');
                break;
            }
            self.midline = false;
            self.segments.pop_front();
        }
        self.release();
        Ok(())
    }

    /// The source is another one from here on: what the last one left is a half line.
    pub(super) fn cut(&mut self, mut ask: impl FnMut(Incoming<'_>) -> Passage) {
        self.process(&mut ask);
        if let Some(frame) = self.frames.finish() {
            self.take(frame, &mut ask);
        }
        self.release();
        (self.ended, self.asks_first) = (false, true);
    }

    /// Takes back the whole lines of which the reader has got nothing.
    pub(super) fn recall(&mut self) -> Vec<u8> {
        self.take_back().1
    }

    /// Takes back everything that waits: the rest of a line that the reader has the beginning of, and
    /// whole lines.
    pub(super) fn take_back(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut lines = Vec::new();
        for segment in &self.segments {
            match segment {
                Segment::Run(run) => lines.extend_from_slice(self.frames.bytes(run.clone())),
                Segment::Own { bytes, written } => lines.extend_from_slice(&bytes[*written..]),
            }
        }
        let mut rest = Vec::new();
        if std::mem::take(&mut self.midline) {
            let end = memchr::memchr(b'\n', &lines).map_or(lines.len(), |end| end + 1);
            rest.extend(lines.drain(..end));
        }
        self.abandon();
        (rest, lines)
    }

    /// Puts the rest of a line back before everything else.
    pub(super) fn put_back(&mut self, rest: Vec<u8>) {
        self.midline = !rest.is_empty();
        self.push(rest);
    }

    /// Forgets what waits: there is nobody left to read it.
    pub(super) fn abandon(&mut self) {
        self.segments.clear();
        self.own = 0;
        self.release();
    }

    /// Gives back buffers that a burst has grown.
    pub(super) fn rest(&mut self) {
        if self.segments.is_empty() {
            self.segments.shrink_to(16);
            self.frames.shrink();
        }
    }

    fn release(&mut self) {
        let kept = self.segments.iter().find_map(|segment| match segment {
            Segment::Run(run) => Some(run.start),
            Segment::Own { .. } => None,
        });
        self.frames.release(kept.unwrap_or(self.seen));
    }
}
