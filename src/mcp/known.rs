//! Members that many stages read, noted while the line is proved so that nobody walks it again.

use super::{PROTOCOL_VERSION_KEY, Raw};

/// Where they lie in one line; all `None` in a message that has no such member.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// `params.name`.
    pub name: Option<Raw<'a>>,
    /// `params.uri`.
    pub uri: Option<Raw<'a>>,
    /// `params.arguments`.
    pub arguments: Option<Raw<'a>>,
    /// `params._meta.progressToken`.
    pub token: Option<Raw<'a>>,
    /// `params._meta`, the version that every modern request carries.
    pub version: Option<Raw<'a>>,
    /// `params._meta`, the name and version of the client.
    pub client: Option<Raw<'a>>,
    /// `result.isError` is `true`.
    pub failed: bool,
}

impl<'a> Known<'a> {
    /// Notes a member of `params`; `name` is decoded.
    #[inline]
    pub(super) fn param(&mut self, name: &[u8], value: Raw<'a>) {
        match name {
            b"name" => self.name = Some(value),
            b"uri" => self.uri = Some(value),
            b"arguments" => self.arguments = Some(value),
            _ => {}
        }
    }

    /// Notes a member of `params._meta`; `name` is decoded.
    #[inline]
    pub(super) fn meta(&mut self, name: &[u8], value: Raw<'a>) {
        if name == PROTOCOL_VERSION_KEY.as_bytes() {
            self.version = Some(value);
        } else if name == b"progressToken" {
            self.token = Some(value);
        } else if name == b"io.modelcontextprotocol/clientInfo" {
            self.client = Some(value);
        }
    }

    /// Notes a member of `result`; `name` is decoded.
    #[inline]
    pub(super) fn answer(&mut self, name: &[u8], value: Raw<'a>) {
        if name == b"isError" {
            self.failed = value.text == b"true";
        }
    }
}
