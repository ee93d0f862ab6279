//! What is said of a server that listens in the host's network, or cannot.

use super::{CellSpec, Serves};

/// What the operator should know of one that does; `floor`: there is no network of the cell's own.
pub(super) fn note(spec: &CellSpec, floor: bool) -> Option<String> {
    let serves = spec.serves.filter(|_| floor)?;
    let outside = serves.outside.unwrap_or(serves.port);
    Some(format!(
        "the server listens in the host's network, on port {outside} of loopback: any program on this host \
         that finds it can connect past every rule"
    ))
}

/// Nothing would hold it to its port: the kernel's own rules let it listen on a port that it has not
/// bound.
pub(super) fn unheld(serves: Serves, reason: &str) -> String {
    format!(
        "a server that listens (on port {}) needs namespaces or the supervisor, which holds it to its \
         port: {reason}",
        serves.port
    )
}
