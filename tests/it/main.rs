//! Tests of the built program, one module for each behaviour.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails at the line that says so; helpers are part of the tests"
)]

mod architecture;
mod fidelity;
