//! One file for each command: parse, call, explain.

/// The program.
#[must_use]
pub fn main() -> std::process::ExitCode {
    if let Some(code) = cell() {
        return code;
    }
    std::process::ExitCode::SUCCESS
}

/// `__cell SPEC_FD STATUS_FD`, before anything else is set up: no thread, no signal handler, no
/// parser of flags may come between the spawner and the cell.
fn cell() -> Option<std::process::ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "__cell" {
        return None;
    }
    let mut number = || args.next()?.to_str()?.parse().ok();
    Some(crate::cell::enter(
        number().unwrap_or(-1),
        number().unwrap_or(-1),
    ))
}
