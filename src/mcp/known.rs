//! Members that many stages read, noted while the line is proved so that nobody walks it again.

use super::cursor::Cursor;
use super::{Envelope, PROTOCOL_VERSION_KEY, Raw, json};
use std::borrow::Cow;

/// Where they lie in one line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    name: Place,
    uri: Place,
    arguments: Place,
    token: Place,
    version: Place,
    client: Place,
    failed: bool,
}

/// The offsets of a value, as small as they can be: an envelope is moved more often than it is read.
/// No value starts at offset 0, so zero means none there; the cap of a line is 1 GiB at most.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: u32,
    end: u32,
}

impl Place {
    fn of(value: &Raw<'_>) -> Self {
        let span = value.span();
        match (u32::try_from(span.start), u32::try_from(span.end)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    fn of_line<'a>(&self, line: &'a [u8]) -> Option<Raw<'a>> {
        if self.start == 0 {
            return None;
        }
        let start = self.start as usize;
        let text = line.get(start..self.end as usize)?;
        Some(Raw { start, text })
    }

    /// Decoded; `None` when it is no string. It is read where it lies in the line, because a cursor
    /// looks at sixteen bytes at once where there are so many.
    fn text_of_line<'a>(&self, line: &'a [u8]) -> Option<Cow<'a, str>> {
        if self.start == 0 {
            return None;
        }
        json::decode(Cursor::new(line, self.start as usize).string().ok()?)
    }
}

impl Known {
    /// Notes a member of `params`; `name` is decoded.
    #[inline]
    pub(super) fn param(&mut self, name: &[u8], value: Raw<'_>) {
        match name {
            b"name" => self.name = Place::of(&value),
            b"uri" => self.uri = Place::of(&value),
            b"arguments" => self.arguments = Place::of(&value),
            _ => {}
        }
    }

    /// Notes a member of `params._meta`; `name` is decoded.
    #[inline]
    pub(super) fn meta(&mut self, name: &[u8], value: Raw<'_>) {
        if name == PROTOCOL_VERSION_KEY.as_bytes() {
            self.version = Place::of(&value);
        } else if name == b"progressToken" {
            self.token = Place::of(&value);
        } else if name == b"io.modelcontextprotocol/clientInfo" {
            self.client = Place::of(&value);
        }
    }

    /// Notes a member of `result`; `name` is decoded.
    #[inline]
    pub(super) fn answer(&mut self, name: &[u8], value: Raw<'_>) {
        if name == b"isError" {
            self.failed = value.text == b"true";
        }
    }
}

impl<'a> Envelope<'a> {
    /// `params.name`, decoded; `None` when it is no string.
    #[must_use]
    pub fn name(&self) -> Option<Cow<'a, str>> {
        self.known.name.text_of_line(self.line)
    }

    /// `params.uri`, decoded; `None` when it is no string.
    #[must_use]
    pub fn uri(&self) -> Option<Cow<'a, str>> {
        self.known.uri.text_of_line(self.line)
    }

    /// `params.arguments`.
    #[must_use]
    pub fn arguments(&self) -> Option<Raw<'a>> {
        self.known.arguments.of_line(self.line)
    }

    /// `params._meta.progressToken`.
    #[must_use]
    pub fn token(&self) -> Option<Raw<'a>> {
        self.known.token.of_line(self.line)
    }

    /// The version that every modern request carries in `params._meta`.
    #[must_use]
    pub fn version(&self) -> Option<Raw<'a>> {
        self.known.version.of_line(self.line)
    }

    /// The name and version of the client in `params._meta`.
    #[must_use]
    pub fn client(&self) -> Option<Raw<'a>> {
        self.known.client.of_line(self.line)
    }

    /// True when `result.isError` is `true`.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.known.failed
    }
}
