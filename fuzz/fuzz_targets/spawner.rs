//! Any bytes between the message process and the spawner: refused, or a message that reads back.

#![no_main]

use cofferdam::cell::spawn::{Event, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(request.encode().as_slice(), bytes);
    }
    drop(Event::decode(bytes, Vec::new()));
});
