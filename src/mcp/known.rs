//! Members that many stages read, noted while the line is proved so that nobody walks it again.

use super::cursor::{Cursor, Key};
use super::words::Word;
use super::{Envelope, Raw, json};
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
    is_error: Place,
}

/// The offsets of a value, as small as they can be: an envelope is moved more often than it is read.
/// No value starts at offset 0, so zero means none there; the cap of a line is 1 GiB at most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    start: u32,
    end: u32,
}

impl Place {
    #[inline(always)]
    pub(super) fn new(start: usize, end: usize) -> Self {
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    /// The value, when there is one.
    #[inline]
    pub(super) fn of_line<'a>(&self, line: &'a [u8]) -> Option<Raw<'a>> {
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
    /// Notes a member of `params`.
    #[inline]
    pub(super) fn param(&mut self, word: Word, value: Place) {
        match word {
            Word::Name => self.name = value,
            Word::Uri => self.uri = value,
            Word::Arguments => self.arguments = value,
            _ => {}
        }
    }

    /// Notes a member of `params._meta`.
    #[inline]
    pub(super) fn meta(&mut self, key: &Key<'_>, value: Place) {
        match key.word {
            Some(Word::ProgressToken) => self.token = value,
            Some(Word::MetaVersion) => self.version = value,
            Some(Word::MetaClient) => self.client = value,
            _ => {}
        }
    }

    /// Notes a member of `result`.
    #[inline]
    pub(super) fn answer(&mut self, key: &Key<'_>, value: Place) {
        if key.word == Some(Word::IsError) {
            self.is_error = value;
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
        let told = self.known.is_error.of_line(self.line);
        told.is_some_and(|it| it.text == b"true")
    }
}
