//! Any bytes, cut anywhere: framing and proof never panic, and what is proved is what serde_json reads.

#![no_main]

use cofferdam::mcp::{self, Direction};
use cofferdam::transport::frame::{Frame, FrameBuf};
use libfuzzer_sys::fuzz_target;

/// Small, so that the fuzzer meets it.
const CAP: usize = 4096;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let direction = if step & 1 == 0 { Direction::ToServer } else { Direction::ToClient };
    let mut frames = FrameBuf::new(CAP);
    for piece in bytes.chunks(usize::from(step).max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let took = frames.extend(rest);
            assert!(took > 0, "released lines leave room");
            rest = &rest[took..];
            while let Some(frame) = frames.next() {
                if let Frame::Line(line) = frame {
                    prove(frames.bytes(line.range()), direction);
                    frames.release(line.next());
                }
            }
        }
    }
    if let Some(Frame::Partial(range)) = frames.finish() {
        prove(frames.bytes(range), direction);
    }
});

fn prove(line: &[u8], direction: Direction) {
    assert!(line.len() <= CAP + 1);
    let Ok(envelope) = mcp::parse(line, direction) else { return };
    let value: serde_json::Value = serde_json::from_slice(line).expect("proved, so it is JSON");
    assert!(value.is_object());
    assert!(!line.iter().any(|byte| *byte < 0x20), "no raw control byte passes");
    // The walkers take whatever is proved.
    drop(cofferdam::mcp::Subject::of(&envelope));
}
