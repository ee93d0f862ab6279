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
