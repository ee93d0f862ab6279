//! Protocol revisions, and the era of one request.

use super::Raw;

/// The `_meta` member that every 2026-07-28 request carries.
pub const PROTOCOL_VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

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
    pub fn of(params: Option<Raw<'_>>) -> Option<Self> {
        let _ = params;
        todo!()
    }
}
