//! Lines come out as they went in, whatever the reads cut, and memory stays below its bound.

use super::*;
use crate::mcp::RequestId;
use pretty_assertions::assert_eq;
use proptest::prelude::*;
use std::io::Write;

/// What a caller sees, as owned values.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Line(Vec<u8>),
    TooLong(Option<RequestId>, u64),
    Partial(Vec<u8>),
}

fn see(frames: &FrameBuf, frame: Frame) -> Seen {
    match frame {
        Frame::Line(line) => Seen::Line(frames.bytes(line.range()).to_vec()),
        Frame::TooLong { id, bytes } => Seen::TooLong(id.map(|id| id.key), bytes),
        Frame::Partial(range) => Seen::Partial(frames.bytes(range).to_vec()),
    }
}

/// Feeds `pieces` and releases after every `hold`-th frame.
fn run(cap: usize, pieces: &[&[u8]], hold: usize) -> Vec<Seen> {
    let mut frames = FrameBuf::new(cap);
    let mut seen = Vec::new();
    let mut held = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let count = frames.extend(rest);
            rest = &rest[count..];
            let mut last = None;
            while let Some(frame) = frames.next() {
                if let Frame::Line(line) = &frame {
                    held.push((line.range(), frames.bytes(line.range()).to_vec()));
                    last = Some(line.next());
                }
                seen.push(see(&frames, frame));
            }
            if held.len() >= hold || count == 0 {
                for (range, bytes) in held.drain(..) {
                    assert_eq!(frames.bytes(range), bytes, "a held range moved");
                }
                if let Some(last) = last {
                    frames.release(last);
                } else {
                    frames.release(usize::MAX);
                }
            }
            assert!(frames.buffer.len() <= frames.most());
        }
    }
    if let Some(frame) = frames.finish() {
        seen.push(see(&frames, frame));
    }
    seen
}

#[test]
fn lines_lose_their_end_and_blank_ones_vanish() {
    let seen = run(100, &[b"one\n\n \r\ntwo\r\nthr", b"ee\n\nhalf"], 1);
    assert_eq!(
        seen,
        [
            Seen::Line(b"one".to_vec()),
            Seen::Line(b"two".to_vec()),
            Seen::Line(b"three".to_vec()),
            Seen::Partial(b"half".to_vec()),
        ]
    );
}

#[test]
fn only_one_cr_is_part_of_the_line_end() {
    assert_eq!(run(9, &[b"a\r\r\n"], 1), [Seen::Line(b"a\r".to_vec())]);
}

#[test]
fn a_run_of_plain_lines_is_contiguous() {
    let mut frames = FrameBuf::new(100);
    frames.extend(b"one\ntwo\nthree\r\nfour\n");
    let mut lines = Vec::new();
    while let Some(Frame::Line(line)) = frames.next() {
        lines.push(line);
    }
    let one = lines[0].with_line_end().unwrap();
    let two = lines[1].with_line_end().unwrap();
    assert_eq!(one.end, two.start);
    assert_eq!(frames.bytes(one.start..two.end), b"one\ntwo\n");
    assert_eq!(lines[2].with_line_end(), None);
    assert_eq!(lines[2].next(), lines[3].range().start);
    frames.release(lines[3].next());
    assert_eq!(frames.bytes(lines[3].range()), b"");
}

#[test]
fn the_cap_is_exact_and_an_id_is_read_from_what_is_not_kept() {
    let head = br#"{"jsonrpc":"2.0","id":"x7","method":"tools/call","params":{"a":""#;
    let line = |length: usize| {
        let mut line = head.to_vec();
        line.resize(length - 3, b'a');
        line.extend_from_slice(b"\"}}");
        line
    };
    for cap in [100, 70_000, 200_000] {
        let fits = line(cap);
        let over = line(cap + 1);
        let stream = [&fits, b"\r\n".as_slice(), &over, b"\nnext\n", &fits].concat();
        for step in [1, 7, 4096, usize::MAX] {
            if step < 4096 && cap > 100 {
                continue;
            }
            let pieces: Vec<_> = stream.chunks(step.min(stream.len())).collect();
            let seen = run(cap, &pieces, 1);
            let id = RequestId::Text("x7".into());
            assert_eq!(
                seen,
                [
                    Seen::Line(fits.clone()),
                    Seen::TooLong(Some(id), over.len() as u64),
                    Seen::Line(b"next".to_vec()),
                    Seen::Partial(fits.clone()),
                ]
            );
        }
    }
}

#[test]
fn a_line_without_end_takes_no_memory_and_is_reported_at_the_end() {
    let mut frames = FrameBuf::new(1 << 20);
    frames.extend(br#"{"id":3,"method":"x","a":""#);
    let piece = vec![b'a'; 1 << 20];
    for _ in 0..64 {
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            rest = &rest[frames.extend(rest)..];
            assert_eq!(frames.next(), None);
        }
    }
    assert!(frames.buffer.len() <= (1 << 20) + 2 + IDLE_BYTES);
    let Some(Frame::TooLong { id, bytes }) = frames.finish() else {
        panic!();
    };
    assert_eq!(bytes, (64 << 20) + 26);
    let id = id.unwrap();
    assert_eq!((id.key, id.request), (RequestId::Number(3), true));
    assert_eq!(frames.finish(), None);
}

#[test]
fn a_buffer_of_unreleased_lines_has_no_room_until_they_are_released() {
    let mut frames = FrameBuf::new(1000);
    let line = [vec![b'a'; 999], b"\n".to_vec()].concat();
    let mut last = 0;
    while frames.extend(&line) == line.len() {
        while let Some(Frame::Line(line)) = frames.next() {
            last = line.next();
        }
    }
    while frames.next().is_some() {}
    assert!(!frames.has_room());
    let (read, mut write) = io::pipe().unwrap();
    write.write_all(b"x").unwrap();
    let error = frames.read_from(read.as_fd()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    frames.release(last);
    assert!(frames.has_room());
    assert_eq!(frames.read_from(read.as_fd()).unwrap(), 1);
}

#[test]
fn a_burst_grows_the_buffer_and_shrink_gives_it_back() {
    let mut frames = FrameBuf::new(1 << 20);
    let mut rest = vec![b'a'; 1 << 20];
    rest.push(b'\n');
    rest.extend_from_slice(b"begun");
    frames.extend(&rest);
    let Some(Frame::Line(line)) = frames.next() else {
        panic!();
    };
    assert_eq!(line.range().len(), 1 << 20);
    frames.shrink();
    assert_eq!(frames.bytes(line.range()).len(), 1 << 20, "still in use");
    frames.release(line.next());
    frames.shrink();
    assert_eq!(frames.buffer.len(), IDLE_BYTES);
    frames.extend(b" here\n");
    let Some(Frame::Line(line)) = frames.next() else {
        panic!();
    };
    assert_eq!(frames.bytes(line.range()), b"begun here");
}

#[test]
fn the_end_of_input_reads_as_zero() {
    let (read, write) = io::pipe().unwrap();
    drop(write);
    let mut frames = FrameBuf::new(10);
    assert_eq!(frames.read_from(read.as_fd()).unwrap(), 0);
    assert_eq!(frames.finish(), None);
}

proptest! {
    #[test]
    fn how_the_stream_is_cut_does_not_matter(
        lines in proptest::collection::vec("[a-z\r ]{0,40}", 0..30),
        step in 1usize..50,
        hold in 1usize..5,
    ) {
        let stream = lines.join("\n").into_bytes();
        let whole = run(20, &[&stream], 1);
        let pieces: Vec<_> = stream.chunks(step).collect();
        prop_assert_eq!(run(20, &pieces, hold), whole);
    }
}
