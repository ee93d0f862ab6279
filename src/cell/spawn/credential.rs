//! What the message process is told of a credential besides its value.

use crate::config::Aged;
use serde::{Deserialize, Serialize};

/// One credential, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialState {
    pub name: String,
    pub generation: u32,
    pub fingerprint: String,
    /// Another value than the last event said, or a drill: servers that hold it are replaced.
    pub changed: bool,
    /// Why its file gives no value now.
    pub problem: Option<String>,
    /// The value may not be used, and there is no other.
    pub revoked: bool,
    /// Since when the value is what it is; like every time here in seconds since 1970.
    pub since: u64,
    /// When it says that it ends.
    pub expires: Option<u64>,
    /// When it will be older than it may be.
    pub rotate_by: Option<u64>,
    pub aged: Option<Aged>,
    pub previous: Option<PreviousState>,
}

/// The generation before, while somebody may still use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousState {
    pub generation: u32,
    pub fingerprint: String,
    pub until: u64,
}
