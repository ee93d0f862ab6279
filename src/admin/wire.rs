//! What can be asked of a running instance: one line of JSON on its socket, and one object as answer.

use serde::{Deserialize, Serialize};

/// Bytes of a question, its line end included.
pub const MOST: usize = 64 * 1024;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "command",
    rename_all = "lowercase",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Ask {
    /// How it is.
    Status,
    /// Everything off, or only these tools.
    Kill { tools: Vec<String> },
    /// Everything on again, or only these tools; what was frozen goes on.
    Resume { tools: Vec<String> },
    /// Read the configuration and the files it names again.
    Reload,
    /// Take no new requests, answer those that are open, and end.
    Drain {
        /// Milliseconds after which what is open is answered by us; the default is the instance's.
        within: Option<u64>,
    },
    /// Stop the server's processes without ending them, and write down what is known.
    Freeze,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_travel_and_what_nobody_asks_is_refused() {
        let tools = vec!["a".to_owned()];
        for ask in [
            Ask::Status,
            Ask::Kill { tools },
            Ask::Resume { tools: Vec::new() },
            Ask::Reload,
            Ask::Drain { within: Some(5) },
            Ask::Drain { within: None },
            Ask::Freeze,
        ] {
            let text = serde_json::to_string(&ask).unwrap();
            assert_eq!(serde_json::from_str::<Ask>(&text).unwrap(), ask, "{text}");
        }
        for bad in [
            "{}",
            "{\"command\":\"exec\"}",
            "{\"command\":\"kill\"}",
            "{\"command\":\"drain\",\"x\":1}",
        ] {
            assert!(serde_json::from_str::<Ask>(bad).is_err(), "{bad}");
        }
    }
}
