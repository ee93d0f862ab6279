//! Integration tests, in one binary; one module for each behaviour.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a test says no by panicking"
)]

mod policy_corpus;
mod policy_props;
