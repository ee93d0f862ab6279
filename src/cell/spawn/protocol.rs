//! What all messages between the message process and the spawner have in common.
//!
//! One datagram of a SOCK_SEQPACKET pair is one message. Each side treats the other as hostile: a
//! message that is not exactly right is an error, never a guess.

use serde::{Deserialize, Serialize};

/// First field of every message; the last digit is the version.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"CFD1");
/// The fixed part of an event, in bytes.
pub(super) const HEADER_BYTES: usize = 16;
/// The largest body of an event, in bytes.
pub(super) const MAX_BODY: usize = 16 * 1024;
/// The most descriptors that one event carries.
pub(super) const MAX_FDS: usize = 6;
/// Cells are numbered from 0; this many can live at once.
pub const MAX_CELLS: u32 = 64;
/// The cell that makes connections to the issuer of tokens, where its keys are fetched.
pub const ISSUER: u32 = MAX_CELLS - 1;

/// What the spawner is started for; decides whose stdin, stdout and stderr a cell gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Pipes, handed to the message process.
    Run,
    /// Our own, passed through; a terminal is replaced by one of the cell's own.
    Exec,
}

impl Mode {
    /// The word on the spawner's command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Exec => "exec",
        }
    }

    /// The reverse of [`Mode::word`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Run, Self::Exec]
            .into_iter()
            .find(|m| m.word() == word)
    }
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("a message of {bytes} bytes where that cannot be")]
    Length { bytes: usize },
    #[error("a message of another protocol or version")]
    Magic,
    #[error("field {field} holds {value}")]
    Field { field: &'static str, value: u32 },
    #[error("{found} descriptors where {expected} belong")]
    Descriptors { found: usize, expected: usize },
    #[error("an event body that cannot be read: {reason}")]
    Body { reason: String },
}

/// How a server's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl Exit {
    /// The exit code that a shell would show: the program's own, or 128 + the signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// What is known about what runs in the cell; each is absent when the command does not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The package's or the program's name.
    pub name: Option<String>,
    /// The exact version of an installed package.
    pub version: Option<String>,
}

pub(super) fn words(a: u32, b: u32, c: u32, d: u32) -> [u8; 16] {
    let mut out = [0; 16];
    for (slot, word) in out.chunks_exact_mut(4).zip([a, b, c, d]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// What follows the magic in the fixed part of any message: its kind, its cell, and one word more.
///
/// # Errors
/// Another protocol, or a cell that cannot be.
pub(super) fn opened(bytes: &[u8; HEADER_BYTES]) -> Result<(u32, u32, u32), ProtocolError> {
    let mut out = [0; 4];
    for (word, chunk) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*chunk);
    }
    let [magic, kind, cell, last] = out;
    if magic != MAGIC {
        return Err(ProtocolError::Magic);
    }
    if cell >= MAX_CELLS {
        return Err(ProtocolError::Field {
            field: "cell",
            value: cell,
        });
    }
    Ok((kind, cell, last))
}
