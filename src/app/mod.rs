//! The only place that wires everything.

use crate::config::Config;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// What `run` needs besides the configuration.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The command line without the program's own name; the spawner parses the same words.
    pub words: Vec<OsString>,
    /// 0 to 2.
    pub verbose: u8,
    pub quiet: bool,
    /// The file that was read, if there was one.
    pub config_file: Option<PathBuf>,
}

/// Runs one server until it ends or the client goes.
#[must_use]
pub fn run(config: Config, options: RunOptions) -> ExitCode {
    drop((config, options));
    ExitCode::from(70)
}

/// The built-in demonstration.
#[must_use]
pub fn demo() -> ExitCode {
    ExitCode::from(70)
}
