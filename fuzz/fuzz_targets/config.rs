//! Any text as a configuration: an error with a place, or a configuration, never a panic.

#![no_main]

use cofferdam::config::{File, Overrides, Surroundings, build};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let around = Surroundings { directory: "/".into(), ..Surroundings::default() };
    match File::parse("fuzz.toml", text) {
        Ok(file) => drop(build(Some(&file), &Overrides::default(), &around)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
