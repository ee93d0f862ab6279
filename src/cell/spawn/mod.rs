//! The small process that keeps the power to start cells, and our end of its fixed protocol.
//!
//! ```text
//! message process ─Start, Stop, Rotate▶ spawner ──fork, exec──▶ cofferdam __cell ──exec──▶ server
//!        ▲   ▲                           │ │
//!        │   └── Started, Exited, … ─────┘ └─ temp directory, plan, pipes, reaping, the tree's end
//!        └────────── stdin, stdout, stderr of the cell (as descriptors) ───────────────────┘
//! ```
//!
//! The spawner reads the same arguments and the same file as the message process. A request is 16
//! bytes that can name a cell and nothing else, so a message process that was taken over still
//! cannot choose a command, a path, a layer or a variable. Between the two in descent, and in nothing
//! else, stands the [guardian](guard).
//!
//! Which process dies does not matter:
//!
//! | dies (also by kill -9) | who notices | what ends the rest |
//! |---|---|---|
//! | the server | the spawner, by SIGCHLD | it kills every descendant, then reports `Exited` |
//! | the message process | the spawner, by the hang-up of the socket | it kills every descendant and exits |
//! | the spawner, also with the message process | the server, by its parent-death SIGKILL; the guardian, by SIGCHLD | orphans re-parent to the guardian, a subreaper, which kills them |
//! | the guardian | the spawner, by its parent-death signal | as when the message process dies |
//! | guardian and spawner at the same moment | the server, by its parent-death SIGKILL | nothing reaches the server's own children, but the next sweep of cgroups: see [`tree`] |

mod cell;
mod channel;
mod client;
mod companion;
mod completion;
mod credential;
mod dialer;
mod duties;
mod event;
mod freeze;
mod guardian;
mod housework;
mod into;
mod protocol;
mod refusals;
mod relay;
mod removal;
mod request;
mod server;
mod signals;
mod stdio;
pub mod tempdir;
pub mod tree;
mod trial;

pub use cell::StartError;
pub use client::{SpawnError, Spawner};
pub use completion::{Completion, Teller, Watch, run_to_completion};
pub use credential::{CredentialState, PreviousState};
pub use duties::{Duties, Planned, Work};
pub use event::{Asked, Event};
pub use freeze::Frozen;
pub use guardian::{Role, guard};
pub use protocol::{Exit, Facts, ISSUER, MAX_CELLS, Mode, ProtocolError};
pub use request::{Request, Stop};
pub use server::{Ended, message_process, serve};
pub use stdio::{Terminals, adopt};
pub use trial::{try_namespaces, try_supervision};
