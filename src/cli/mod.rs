//! One file for each command: parse, call, explain.

/// The program.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
