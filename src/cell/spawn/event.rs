//! What the spawner tells the message process.

#[cfg(test)]
mod tests;
mod wire;

use super::credential::CredentialState;
use super::protocol::{Exit, Facts};
use crate::cell::LayerReport;
use crate::cell::egress::News;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// What the spawner says.
#[derive(Debug)]
pub enum Event {
    /// The server's program is running: the launcher has executed it with every layer in force.
    Started {
        cell: u32,
        /// The server's main process.
        pid: u32,
        report: LayerReport,
        facts: Facts,
        /// Mode `Run`: stdin, stdout, stderr of the cell, our ends. Mode `Exec`: the read end of
        /// stderr, or the master of the cell's terminal. Of a server on HTTP: our ends, then the stdin
        /// and stdout that it would have, and a [dialer](crate::cell::egress::dial)'s.
        fds: Vec<OwnedFd>,
    },
    /// One line for people, while something takes long.
    Progress { cell: u32, text: String },
    /// One line about what the cell refused, with the setting that would allow it.
    Denied {
        cell: u32,
        /// As `cofferdam_cell_denials_total` counts it: `read`, `write`, `execute`, `connect`.
        what: String,
        text: String,
    },
    /// What the cell's network refused, with the setting that would allow it, and what passed.
    Network { cell: u32, news: News },
    /// The main process ended, and after it everything that it had started.
    Exited {
        cell: u32,
        exit: Exit,
        /// The signal's meaning, or what outlived SIGKILL; empty for a plain exit.
        cause: String,
        /// The limit that ended it, when the signal says so.
        limit: Option<String>,
    },
    /// The cell did not start; nothing of it is left.
    Failed {
        cell: u32,
        /// 77, 78, 126, 127 or 70.
        exit_code: u8,
        message: String,
    },
    /// The answer to `Rotate`.
    Rotated {
        /// The audit log, opened for appending, and its size in bytes; or why there is none.
        log: Result<(OwnedFd, u64), String>,
    },
    /// The credentials that the server is given, before its first start and whenever one of them
    /// has changed or cannot be read any more.
    Credentials {
        states: Vec<CredentialState>,
        /// A sealed memfd with the values, in the same order, each after its length in bytes (32 bits,
        /// little endian): the message process takes them out of what the server says.
        values: OwnedFd,
    },
    /// What the listener knows its clients by, first and whenever one of the files has changed.
    Access {
        /// A sealed memfd with what the files hold; or why they cannot be read.
        texts: Result<OwnedFd, String>,
    },
    /// The operator's switch, when it is not as it was.
    Switch {
        /// Why nothing may run, if so.
        off: Option<String>,
        /// Tools that may not be called.
        tools: Vec<String>,
    },
    /// The operator asks the message process for something.
    Asked {
        asked: Asked,
        /// Takes the answer, and is closed after it.
        reply: OwnedFd,
    },
    /// What runs stands still, or goes on.
    Frozen {
        /// Takes what the message process knows of it, as JSON; `None`: it goes on.
        facts: Option<OwnedFd>,
    },
    /// The configuration was read again.
    Config {
        /// A sealed memfd with the text of its file, which the spawner itself goes by from now on; or
        /// why everything stays as it is.
        text: Result<OwnedFd, String>,
        /// Takes what came of it, where somebody waits for that.
        reply: Option<OwnedFd>,
    },
}

/// What the operator asks the message process for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Asked {
    /// How it is.
    Status,
    /// To end when what is open is answered, after so many milliseconds at the latest.
    Drain { within: Option<u64> },
}
