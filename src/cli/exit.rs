//! Exit codes, one constant for each cause, and the one way in which an error ends the program.

use super::printable::printable;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::{ExitCode, ExitStatus};

/// An exit code of cofferdam. The numbers are those of `sysexits.h` and of shells, so that systemd
/// and scripts know them by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Done. `run` and `exec` end with the server's own code instead, when it has one.
    pub const OK: Self = Self(0);
    /// The command line is not valid (`EX_USAGE`).
    pub const USAGE: Self = Self(64);
    /// Data that was handed in is not valid (`EX_DATAERR`).
    pub const DATA: Self = Self(65);
    /// Something that is needed is not there: a port in use, a server that does not start (`EX_UNAVAILABLE`).
    pub const UNAVAILABLE: Self = Self(69);
    /// A bug of ours (`EX_SOFTWARE`).
    pub const SOFTWARE: Self = Self(70);
    /// Try again later (`EX_TEMPFAIL`).
    pub const TEMPORARY: Self = Self(75);
    /// A layer of the cell that is not optional cannot be enforced (`EX_NOPERM`).
    pub const CELL: Self = Self(77);
    /// The configuration is not valid, or names something that is not there (`EX_CONFIG`).
    pub const CONFIG: Self = Self(78);
    /// The server's program was found, but cannot be executed.
    pub const CANNOT_EXECUTE: Self = Self(126);
    /// The server's program was not found.
    pub const NOT_FOUND: Self = Self(127);

    /// The number itself.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The code of a child as a shell would give it: its own, or 128 + the signal that ended it.
    #[must_use]
    pub fn of_child(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(Self::SOFTWARE, Self)
    }
}

impl From<u8> for Exit {
    fn from(code: u8) -> Self {
        Self(code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a command ends without having done its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: String,
    details: String,
    hints: Vec<String>,
}

impl Failure {
    /// One sentence, lower case, without a full stop.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            details: String::new(),
            hints: Vec::new(),
        }
    }

    /// What stands below the sentence; colours in it reach only a terminal.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The code that the program will end with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            writeln!(f, "cofferdam: error: {}", printable(&self.message))?;
        }
        f.write_str(&self.details)?;
        if !self.details.is_empty() && !self.details.ends_with('\n') {
            f.write_str("\n")?;
        }
        for hint in &self.hints {
            writeln!(f, "hint: {}", printable(hint))?;
        }
        Ok(())
    }
}

/// Tells people why, on stderr, and gives the code. What `--help` and `--version` print is no
/// failure and goes to stdout.
#[must_use]
pub fn report(failure: &Failure) -> ExitCode {
    if failure.exit == Exit::OK {
        return print(&failure.to_string());
    }
    // A closed stderr must not change the code.
    write!(anstream::stderr(), "{failure}").ok();
    failure.exit.into()
}

/// Prints text on stdout, which in stdio mode is the protocol: only commands that are not `run`
/// print. Colours in it reach only a terminal. A reader that has seen enough (`| head`) is no error.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_child_ends_us_as_a_shell_would_say() {
        assert_eq!(Exit::of_child(ExitStatus::from_raw(3 << 8)).code(), 3);
        assert_eq!(Exit::of_child(ExitStatus::from_raw(0)), Exit::OK);
        assert_eq!(Exit::of_child(ExitStatus::from_raw(9)).code(), 137);
    }

    #[test]
    fn a_failure_reads_as_one_sentence_and_hints() {
        let failure = Failure::new(Exit::CONFIG, "no").details("why").hint("do");
        assert_eq!(failure.to_string(), "cofferdam: error: no\nwhy\nhint: do\n");
    }
}
