//! Why a cell cannot be planned, and what the operator can do about it.

use std::path::PathBuf;

/// Each error names what is wrong and the flag that would change it.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("there is no command to run")]
    NoCommand,
    #[error("{name}: command not found")]
    NotFound { name: String },
    #[error("{}: not executable: {reason}", path.display())]
    NotExecutable { path: PathBuf, reason: String },
    #[error("{}: {source} (granted by {flag})", path.display())]
    Path {
        path: PathBuf,
        flag: &'static str,
        source: std::io::Error,
    },
    #[error(
        "{} is in a writable grant and leads out of it, to {}, which nothing else grants: grant that by its \
         own name, or keep the first where the server cannot write",
        by.display(),
        real.display()
    )]
    Outside { by: PathBuf, real: PathBuf },
    #[error("{program}: command not found (granted by --allow-exec or cell.execute)")]
    Execute { program: String },
    #[error("there is no layer {name:?}; the layers are {}", layer_names())]
    Layer { name: String },
    #[error("{reason} (asked for by --user or cell.user)")]
    User { reason: String },
    #[error(
        "root has no {power} here, so its server cannot run as uid {uid}; to keep root, set cell.user \
         = \"root\" (--user root)"
    )]
    Powerless { power: String, uid: u32 },
    #[error("{}:{line}: {reason} (named by --syscalls or cell.syscalls)", path.display())]
    Syscalls {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    #[error("uv run: {reason}")]
    UvRun { reason: String },
    #[error("the private directory {} cannot be made: {source}", path.display())]
    Private {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the path {path:?} is not UTF-8")]
    NotUtf8 { path: PathBuf },
    #[error("a built-in table is not valid: {reason}")]
    Table { reason: String },
}

impl PlanError {
    /// The exit code of `run`: 126 and 127 as a shell has them, 70 our bug, 75 temporary, 77 what
    /// this host does not let us do, else 78.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Table { .. } => 70,
            Self::Private { .. } => 75,
            Self::Powerless { .. } => 77,
            Self::NoCommand
            | Self::Path { .. }
            | Self::Outside { .. }
            | Self::Execute { .. }
            | Self::Layer { .. }
            | Self::User { .. }
            | Self::Syscalls { .. }
            | Self::UvRun { .. }
            | Self::NotUtf8 { .. } => 78,
        }
    }
}

fn layer_names() -> String {
    crate::cell::Layer::ALL
        .map(crate::cell::Layer::name)
        .join(", ")
}
