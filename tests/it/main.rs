//! Tests of the built program, one module for each behaviour.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails at the line that says so; helpers are part of the tests"
)]

mod cell_floor;
mod cell_launch;
mod cell_runtimes;
mod package_cell;
mod package_install;
mod support;
