//! One file for each command: parse, call, explain.

pub mod args;
pub mod exit;
pub mod out;

use args::Command;
use exit::{Exit, Failure};
use std::ffi::OsString;
use std::process::ExitCode;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = cell() {
        return code;
    }
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match dispatch(&words) {
        Ok(code) => code,
        Err(failure) => exit::report(&failure),
    }
}

fn dispatch(words: &[OsString]) -> Result<ExitCode, Failure> {
    match args::parse(words)?.command {
        Command::Schema => Ok(out::print(&crate::config::json_schema())),
        Command::Check(args) => {
            let resolved = args::resolve(&args.run)?;
            Ok(out::print(&format!("{resolved:#?}\n")))
        }
        _ => Err(Failure::new(Exit::SOFTWARE, "not wired")),
    }
}

/// `__cell SPEC_FD STATUS_FD`, before anything else is set up: no thread, no signal handler, no
/// parser of flags may come between the spawner and the cell.
fn cell() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "__cell" {
        return None;
    }
    let mut number = || args.next()?.to_str()?.parse().ok();
    Some(crate::cell::enter(number().unwrap_or(-1), number().unwrap_or(-1)))
}
