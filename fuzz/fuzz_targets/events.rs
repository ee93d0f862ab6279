//! Any bytes as a stream of events: cut anywhere it is the same stream, and nothing is kept beyond the cap.

#![no_main]

use cofferdam::transport::http::{Events, News};
use libfuzzer_sys::fuzz_target;

/// Small, so that the fuzzer meets it.
const CAP: usize = 512;

fn read(bytes: &[u8], step: usize) -> (Vec<News>, Option<Vec<u8>>, Option<u64>) {
    let mut events = Events::new(CAP);
    let mut all = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        let mut rest = piece;
        while let Some(news) = events.next(&mut rest) {
            if let News::Event(event) = &news {
                assert!(event.data.len() <= CAP + 16);
            }
            all.push(news);
        }
        assert!(rest.is_empty());
    }
    (all, events.last_id().map(<[u8]>::to_vec), events.retry())
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    assert_eq!(read(bytes, usize::from(step)), read(bytes, bytes.len()));
});
