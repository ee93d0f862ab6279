//! Any bytes between the message process and the spawner: refused, or a message that reads back.

#![no_main]

use cofferdam::cell::spawn::{Event, Request};
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::fd::OwnedFd;

/// More than any event carries.
const MOST: u32 = 7;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(request.encode().as_slice(), bytes);
    }
    // As many descriptors as it announces, or else it is not read any further.
    let announced = bytes.get(12..16).and_then(|count| count.try_into().ok());
    let count = announced.map_or(0, u32::from_le_bytes).min(MOST);
    let null = |_| OwnedFd::from(File::open("/dev/null").expect("a device"));
    let Ok(event) = Event::decode(bytes, (0..count).map(null).collect()) else {
        return;
    };
    if let Ok((bytes, fds)) = event.encode() {
        assert!(Event::decode(&bytes, fds).is_ok());
    }
});
