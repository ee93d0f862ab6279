//! In whose name something is counted.

use crate::identity::Principal;

/// One conversation: a session, and who takes part in it where several clients share a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Party {
    /// Number of the session.
    pub session: u64,
    /// `None` on stdin and stdout, and where a session has one client.
    pub client: Option<Principal>,
}

/// What has a budget of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Account {
    Session(Party),
    Client(Option<Principal>),
    Tool(Box<str>),
}

impl Account {
    /// One word, for metrics and audit.
    pub(super) const fn scope(&self) -> &'static str {
        match self {
            Self::Session(_) => "session",
            Self::Client(_) => "client",
            Self::Tool(_) => "tool",
        }
    }
}
