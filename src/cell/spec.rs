//! The sealed description of one cell: everything the launcher needs, nothing it must look up.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Written by the spawner into a sealed memfd, read by `cofferdam __cell`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CellSpec {
    /// Absolute path of what is executed.
    pub program: PathBuf,
    /// Arguments, `argv[0]` first.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Landlock: read only.
    pub read: Vec<PathBuf>,
    /// Landlock: read and write, never execute.
    pub write: Vec<PathBuf>,
    /// Landlock: read and execute.
    pub execute: Vec<PathBuf>,
    /// TCP ports that may be connected to; empty: no IP sockets at all.
    pub connect_ports: Vec<u16>,
    /// Datagram sockets for name resolution (install cells only).
    pub datagrams: bool,
    /// RLIMIT_DATA in bytes.
    pub memory: Option<u64>,
    /// RLIMIT_NPROC.
    pub processes: Option<u64>,
    /// Layers that may be missing; every other one is required.
    pub optional: Vec<super::Layer>,
    /// Take stdin as the controlling terminal (the slave of our own pty).
    pub terminal: bool,
}
