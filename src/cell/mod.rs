//! The enclosure: what a server may touch, who starts it, and how the whole tree ends.
//!
//! `plan` turns config into a [`CellSpec`], the spawner seals it and starts `cofferdam __cell`,
//! and `launcher` enters the cell and becomes the server.

mod account;
mod caps;
mod cgroup;
mod code;
pub mod denial;
mod descriptors;
pub mod egress;
mod landlock;
mod launcher;
mod lease;
mod limits;
mod namespaces;
mod own;
pub mod package;
mod pair;
mod plan;
mod probe;
pub mod pty;
mod report;
mod seccomp;
mod serving;
mod signals;
pub mod spawn;
mod spec;
pub mod supervise;
mod sys;
mod variables;
mod witness;

pub use account::Account;
pub use code::Code;
pub use descriptors::{SpecError, read_spec, seal, seal_spec};
pub use launcher::enter;
pub use lease::is_being_written;
pub use own::{close_inherited, confine, hide_memory};
pub use plan::{PlanError, plan};
pub use probe::{HostReport, probe};
pub use report::{LaunchFailure, LaunchMessage, Layer, LayerReport, LayerState, MESSAGE_LIMIT};
pub use spec::{CellCgroup, CellSpec, SPEC_LIMIT, Serves};
