//! Protocol revisions, and the era of one request.

use super::Envelope;

/// The `_meta` member that every 2026-07-28 request carries.
pub const PROTOCOL_VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// The published revisions of the protocol, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05: the first.
    V2024_11_05,
    /// 2025-03-26: the only one with batches.
    V2025_03_26,
    /// 2025-06-18: structured content, elicitation.
    V2025_06_18,
    /// 2025-11-25: tasks, URL elicitation.
    V2025_11_25,
    /// 2026-07-28: no handshake, `_meta` on every request.
    V2026_07_28,
}

impl Revision {
    /// Every revision, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
        Self::V2026_07_28,
    ];

    /// As it is written on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Reads the wire form; `None` for a revision that is not known.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|revision| revision.as_str() == text)
    }

    /// The era that the revision belongs to.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Self::V2026_07_28 => Era::Modern,
            _ => Era::Legacy,
        }
    }
}

/// Era is a property of each request, not of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Era {
    /// The four revisions that open with `initialize`.
    #[default]
    Legacy,
    /// 2026-07-28: version and capabilities in `_meta` of each request.
    Modern,
}

impl Era {
    /// Modern when `params._meta` holds the version key; otherwise `None`, and the caller's known era holds.
    #[must_use]
    pub fn of(envelope: &Envelope<'_>) -> Option<Self> {
        envelope.version().map(|_| Self::Modern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{Direction, parse};
    use pretty_assertions::assert_eq;

    fn era(params: &str) -> Option<Era> {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{params}}}"#);
        Era::of(&parse(line.as_bytes(), Direction::ToServer).unwrap())
    }

    #[test]
    fn only_the_version_key_makes_a_request_modern() {
        let key = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        let escaped = r#"{"_met\u0061":{"io.modelcontextprotocol\/protocolVersion":"2026-07-28"}}"#;
        assert_eq!(era(key), Some(Era::Modern));
        assert_eq!(era(escaped), Some(Era::Modern));
        assert_eq!(era(r#"{"_meta":{"progressToken":1}}"#), None);
        assert_eq!(era(r#"{"_meta":null}"#), None);
        assert_eq!(era("null"), None);
    }

    #[test]
    fn revisions_read_what_they_write() {
        for revision in Revision::ALL {
            assert_eq!(Revision::read(revision.as_str()), Some(revision));
        }
        assert_eq!(Revision::read("2025-03-27"), None);
        assert_eq!(Revision::V2025_11_25.era(), Era::Legacy);
        assert_eq!(Revision::V2026_07_28.era(), Era::Modern);
    }
}
