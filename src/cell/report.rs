//! What is in force, layer by layer: asked of the kernel, never assumed.

use serde::{Deserialize, Serialize};

/// The layers of the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    NoNewPrivs,
    Landlock,
    LandlockNet,
    LandlockScopes,
    Seccomp,
    Capabilities,
    Rlimits,
    Environment,
    Descriptors,
}

/// The state of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerState {
    Enforced,
    /// Missing, and the operator listed it as optional.
    Missing(String),
}

/// What the launcher reports before it executes the server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LayerReport {
    /// Landlock ABI of the kernel; 0 without landlock.
    pub landlock_abi: u8,
    /// Each layer with its state.
    pub layers: Vec<(Layer, LayerState)>,
}

impl Layer {
    /// The name in configuration, metrics and `/health`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoNewPrivs => "no-new-privs",
            Self::Landlock => "landlock",
            Self::LandlockNet => "landlock-net",
            Self::LandlockScopes => "landlock-scopes",
            Self::Seccomp => "seccomp",
            Self::Capabilities => "capabilities",
            Self::Rlimits => "rlimits",
            Self::Environment => "environment",
            Self::Descriptors => "descriptors",
        }
    }
}
