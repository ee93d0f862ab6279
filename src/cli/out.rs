//! Text for stdout, which in stdio mode is the protocol: only commands that are not `run` print.

use super::exit::{Exit, Failure, report};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Prints text; colours in it reach only a terminal. A reader that has seen enough (`| head`) is no
/// error.
#[must_use]
pub(super) fn print(text: &str) -> ExitCode {
    let mut stdout = anstream::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => report(&Failure::new(
            Exit::UNAVAILABLE,
            format!("cannot write to stdout: {error}"),
        )),
    }
}

/// Text from outside, with control characters spelled out: a file or a path must not write to the
/// terminal.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => safe.extend(c.escape_debug()),
            false => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(printable("é \u{1b}[2J\n\u{9b}"), "é \\u{1b}[2J\\n\\u{9b}");
    }
}
