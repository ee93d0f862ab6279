//! What is in force, layer by layer: asked of the kernel, never assumed.

use serde::{Deserialize, Serialize};

/// The largest [`LaunchMessage`] in bytes, its newline included.
pub const MESSAGE_LIMIT: usize = 16 * 1024;

/// The layers of the cell: the floor, and what lies around it.
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
    /// Users, processes, mounts, host name and System V objects of the cell's own.
    Namespaces,
    /// A network of the cell's own, without a way out.
    NamespaceNet,
    /// A cgroup of the cell's own, with limits for the whole tree.
    Cgroup,
    /// A process above the server that does what landlock has no right for, within the grants. Only
    /// where namespaces are missing: inside them such files are not there.
    Supervision,
}

impl Layer {
    /// All of them, in the order in which reports list them.
    pub const ALL: [Self; 13] = [
        Self::NoNewPrivs,
        Self::Landlock,
        Self::LandlockNet,
        Self::LandlockScopes,
        Self::Seccomp,
        Self::Capabilities,
        Self::Rlimits,
        Self::Environment,
        Self::Descriptors,
        Self::Namespaces,
        Self::NamespaceNet,
        Self::Cgroup,
        Self::Supervision,
    ];

    /// What makes the cell stronger where the host gives it, and is not required unless the operator
    /// says so.
    pub const DEGRADES: [Self; 4] = [
        Self::Namespaces,
        Self::NamespaceNet,
        Self::Cgroup,
        Self::Supervision,
    ];

    /// The name in the config, in `/health` and in metrics.
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
            Self::Namespaces => "namespaces",
            Self::NamespaceNet => "namespace-net",
            Self::Cgroup => "cgroup",
            Self::Supervision => "supervision",
        }
    }

    /// The layer of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.name() == name)
    }
}

/// The state of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerState {
    Enforced,
    /// Missing, and the operator listed it as optional, or it is by default.
    Missing(String),
}

/// What the launcher reports before it executes the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Landlock ABI of the kernel; 0 without landlock.
    pub landlock_abi: u8,
    /// Each layer with its state.
    pub layers: Vec<(Layer, LayerState)>,
    /// The server's uid; `None` where there is no server.
    #[serde(default)]
    pub user: Option<u32>,
    /// Whether hosts are allowed by name in the host's network, by the supervisor.
    #[serde(default)]
    pub by_name: bool,
    /// What the operator should hear of how the cell came out.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl LayerReport {
    /// One line for people: what is in force, and what is not.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!("landlock ABI {}", self.landlock_abi);
        for (layer, state) in &self.layers {
            match state {
                LayerState::Enforced => text.push_str(", "),
                LayerState::Missing(_) => text.push_str(", NO "),
            }
            text.push_str(layer.name());
        }
        text
    }

    /// `as uid N`, for the start line; empty where there is no server.
    #[must_use]
    pub fn identity(&self) -> String {
        self.user
            .map(|uid| format!(" as uid {uid}"))
            .unwrap_or_default()
    }
}

/// One line of JSON on the launcher's status descriptor, at most [`MESSAGE_LIMIT`] bytes.
///
/// `Entered` comes first and means that every layer is in force and was tried; the descriptor then
/// closes because the server is executed. When the execution itself fails, a `Failed` follows the
/// `Entered`. A `Failed` alone means that the server never ran. End of file without any message
/// means that the launcher was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchMessage {
    Entered(LayerReport),
    Failed(LaunchFailure),
}

/// Why the server was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFailure {
    /// The exit code: 70 our bug, 77 a required layer is missing, 78 a bad spec or a path that is
    /// gone, 126 not executable, 127 not found.
    pub code: u8,
    /// One sentence for people.
    pub text: String,
}

impl LaunchMessage {
    /// The line that goes over the descriptor. A text that is too long is cut, never the line.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        if (line.is_empty() || line.len() >= MESSAGE_LIMIT)
            && let Self::Failed(failure) = self
        {
            let text: String = failure.text.chars().take(1000).collect();
            let short = Self::Failed(LaunchFailure { text, ..*failure });
            line = serde_json::to_vec(&short).unwrap_or_default();
        }
        line.push(b'\n');
        line
    }

    /// One line without its newline.
    ///
    /// # Errors
    /// When the line is not one of ours.
    pub fn decode(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_descriptor() {
        let entered = LaunchMessage::Entered(LayerReport {
            landlock_abi: 7,
            by_name: true,
            layers: vec![
                (Layer::Seccomp, LayerState::Enforced),
                (Layer::LandlockNet, LayerState::Missing("kernel 6.1".into())),
            ],
            user: Some(1000),
            notes: vec!["heard".into()],
        });
        let line = entered.encode();
        assert_eq!(
            LaunchMessage::decode(line.trim_ascii_end()).unwrap(),
            entered
        );
    }

    #[test]
    fn a_long_text_is_cut_below_the_limit() {
        let failed = LaunchMessage::Failed(LaunchFailure {
            code: 78,
            text: "\u{1}".repeat(40_000),
        });
        let line = failed.encode();
        assert!(line.len() <= MESSAGE_LIMIT);
        let LaunchMessage::Failed(short) = LaunchMessage::decode(line.trim_ascii_end()).unwrap()
        else {
            panic!("another kind of message");
        };
        assert_eq!((short.code, short.text.len()), (78, 1000));
    }

    #[test]
    fn every_layer_has_a_name_that_finds_it() {
        for layer in Layer::ALL {
            assert_eq!(Layer::named(layer.name()), Some(layer));
            let json = serde_json::to_string(&layer).unwrap();
            assert_eq!(json, format!("\"{}\"", layer.name()));
        }
    }
}
