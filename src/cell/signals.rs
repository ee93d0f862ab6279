//! What the processes that stand above a server pass on to it.

use nix::sys::signal::{SigSet, Signal};

/// What passes through to the server, and what tells that a child changed.
pub(super) fn relayed() -> SigSet {
    [
        Signal::SIGCHLD,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ]
    .into_iter()
    .collect()
}
