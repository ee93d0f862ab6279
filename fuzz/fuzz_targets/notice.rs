//! Any call with any arguments, and any memory behind them: refused, or what the kernel would read.

#![no_main]

use cofferdam::cell::supervise::notice::{
    ADDRESS_BYTES, Act, Form, PATH_BYTES, Place, Request, WORKING_DIRECTORY, address, process,
    status_flags, times,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, [u64; 6], &[u8])| {
    let (number, args, memory) = input;
    for form in [Form::Seconds, Form::Micros, Form::Nanos] {
        if times(form, memory).is_ok() {
            assert!(memory.len() >= form.bytes());
        }
    }
    if let Ok(address) = address(memory) {
        assert!(memory.len() >= if address.is_ipv4() && memory[0] == 2 { 16 } else { 24 });
        assert_eq!(address.port().to_be_bytes(), memory[2..4]);
    }
    assert!(process(memory).is_none_or(|pid| pid > 0));
    let _ = status_flags(memory);
    let Some(Ok(request)) = Request::read(i32::from(number % 512), args) else {
        return;
    };
    match request.act {
        Act::Mode(mode) => assert_eq!(mode & !0o171_777, 0, "a set-id bit"),
        Act::Connect { length, .. } | Act::Bind { length, .. } => assert!(length <= ADDRESS_BYTES),
        _ => {}
    }
    match request.place(memory) {
        Ok(Place::Path(path)) => {
            assert!(!path.is_empty() && path.len() < PATH_BYTES && !path.contains(&0));
            assert_eq!(memory.get(path.len()), Some(&0));
        }
        Ok(Place::Descriptor(number)) => assert!(number >= 0 && request.follow),
        Ok(Place::Base) => assert!(request.empty || request.base != WORKING_DIRECTORY),
        Err(_) => {}
    }
});
