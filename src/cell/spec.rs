//! The sealed description of one cell: everything the launcher needs, nothing it must look up.

use super::account::Account;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The largest spec that the launcher reads, in bytes. Thousands of granted paths fit.
pub const SPEC_LIMIT: u64 = 1 << 20;

/// The spawner's attempt to make a cgroup for a cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellCgroup {
    /// Last component of its path; `None`: there is none.
    pub leaf: Option<String>,
    /// Why the limits of the spec are not in force for the tree as a whole.
    pub lack: Option<String>,
}

impl CellCgroup {
    /// The operator wants none.
    #[must_use]
    pub fn off() -> Self {
        Self {
            leaf: None,
            lack: Some("switched off".to_owned()),
        }
    }
}

/// The one TCP port that a server may listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serves {
    /// As the server calls it.
    pub port: u16,
    /// The number that it has in the host's network, so that two servers can use the same, and others
    /// do not know it; the spawner fills it in. `None`: the same.
    pub outside: Option<u16>,
}

/// Written by the spawner into a sealed memfd (all four of `F_SEAL_WRITE`, `F_SEAL_GROW`,
/// `F_SEAL_SHRINK`, `F_SEAL_SEAL`), read by `cofferdam __cell SPEC_FD STATUS_FD`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Those of the three above that lie where the server of an earlier life could write: no part of
    /// them may be a link when they are opened.
    #[serde(default)]
    pub pinned: Vec<PathBuf>,
    /// Names that lead to what is granted through links; in a file tree of the cell's own they are
    /// there too. They grant nothing.
    #[serde(default)]
    pub names: Vec<PathBuf>,
    /// Namespaces of the cell's own, where the kernel gives them; else they are reported as missing.
    #[serde(default)]
    pub namespaces: bool,
    /// A supervisor above the server, where it has no namespaces; else it is reported as missing.
    #[serde(default)]
    pub supervision: bool,
    /// The descriptor on which the supervisor tells what it refused; the spawner fills it in.
    #[serde(default)]
    pub refusals: Option<i32>,
    /// Whom a launcher that is root becomes; `None`, and for every other launcher: nobody else.
    #[serde(default)]
    pub user: Option<Account>,
    /// TCP ports that may be connected to; empty: no sockets at all, unless the server listens.
    pub connect_ports: Vec<u16>,
    /// A server on HTTP, and where it listens.
    #[serde(default)]
    pub serves: Option<Serves>,
    /// The descriptor on which that server is asked for; the spawner fills it in.
    #[serde(default)]
    pub door: Option<i32>,
    /// TCP ports that landlock lets be bound. The launcher fills it in.
    #[serde(skip)]
    pub bind_ports: Vec<u16>,
    /// Datagram sockets for name resolution (install cells only).
    pub datagrams: bool,
    /// Numbers of the only system calls there are, sorted; the tables still refuse what they refuse.
    /// `None`: all that the tables do not refuse.
    pub syscalls: Option<Vec<u32>>,
    /// Hosts by name or address, `host:port`. Where the cell has a network of its own they are all
    /// that can be reached; elsewhere their ports are in `connect_ports`.
    #[serde(default)]
    pub egress: Vec<crate::config::EgressRule>,
    /// Ranges that are not public, to which the names of `egress` may lead all the same.
    #[serde(default)]
    pub egress_private: Vec<String>,
    /// Files that a network of the cell's own brings instead of the host's: which path is covered,
    /// and where ours lies.
    #[serde(default)]
    pub covers: Vec<(PathBuf, PathBuf)>,
    /// Landlock checks TCP ports also in a network of the cell's own, where the server could
    /// otherwise use every port of its loopback.
    #[serde(default)]
    pub ports_always: bool,
    /// RLIMIT_DATA in bytes, for each process.
    pub memory: Option<u64>,
    /// How many tasks the server may add to those that the system runs when it starts. RLIMIT_NPROC
    /// counts all tasks of the user, so the launcher adds what is there. It does not bind uid 0, unless the server is somebody else.
    pub processes: Option<u64>,
    /// RLIMIT_FSIZE in bytes: the largest file that may be written.
    pub file_size: Option<u64>,
    /// RLIMIT_NOFILE, soft and hard.
    pub open_files: Option<u64>,
    /// Thousandths of a processor for the whole tree; only a cgroup can limit them.
    pub cpu: Option<u64>,
    /// The cgroup that the launcher was started in; `None`: nobody has tried to make one. The spawner
    /// fills it in, unless it is switched off.
    pub cgroup: Option<CellCgroup>,
    /// Layers that may be missing; every other one is required.
    pub optional: Vec<super::Layer>,
    /// Take stdin as the controlling terminal (the slave of our own pty).
    pub terminal: bool,
    /// The process that must be our parent: when it is not, it died before we could ask for the
    /// parent-death signal. The spawner fills in its own pid; 0 skips the check.
    pub parent: i32,
    /// A file next to the granted ones that nothing grants: the launcher tries to open it at the
    /// end and refuses to start if it can.
    pub canary: Option<PathBuf>,
    /// Terminals that may be read, written and controlled. The launcher fills it in.
    #[serde(skip)]
    pub terminals: Vec<PathBuf>,
    /// Whether the cell has a user namespace of its own, in which tasks are counted apart. The
    /// launcher fills it in.
    #[serde(skip)]
    pub counted_apart: bool,
    /// Whether somebody outside serves `egress` for a network of the cell's own. The launcher fills
    /// it in.
    #[serde(skip)]
    pub relayed: bool,
    /// Variables for a cell with the host's network, where hosts are allowed by name all the same; one that
    /// `env` names already stays as it is.
    #[serde(default)]
    pub floor_env: Vec<(String, String)>,
    /// Whether a supervisor makes the connections, in the host's network. The launcher fills it in.
    #[serde(skip)]
    pub by_name: bool,
    /// What the operator should hear when the cell has the host's network.
    #[serde(skip)]
    pub floor_warnings: Vec<String>,
    /// What the operator should hear about this cell; stays with whoever planned it.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

impl CellSpec {
    /// Overwrites the values of the variables: credentials may be among them.
    pub fn wipe(&mut self) {
        super::variables::wipe(&mut self.env);
    }
}
