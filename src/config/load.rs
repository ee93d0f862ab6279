//! Reads one file, within a cap, into its serde twin.

use super::diagnose::{self, Problem};
use super::plain::open_file;
use super::raw::Raw;
use serde::Deserialize;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Far above any real file; a larger one is some other file by mistake.
const MOST_BYTES: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration {} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("the configuration {} is larger than 1 MiB", path.display())]
    TooLarge { path: PathBuf },
    #[error("the configuration {} is not UTF-8 (byte {offset})", path.display())]
    NotText { path: PathBuf, offset: usize },
    #[error("the configuration {} is not valid", path.display())]
    Invalid {
        path: PathBuf,
        text: String,
        problems: Vec<Problem>,
    },
    #[error("the flags are not valid")]
    Flags { problems: Vec<Problem> },
}

impl Error {
    /// Every mistake with its place, for people; empty for errors that are one sentence.
    #[must_use]
    pub fn details(&self, colour: bool) -> String {
        match self {
            Self::Invalid {
                path,
                text,
                problems,
            } => diagnose::render(path, text, problems, colour),
            _ => String::new(),
        }
    }

    /// What to do about an error that is one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotAFile { .. } => Some(
                "two processes read the configuration, so a pipe would be empty for the second; name a file",
            ),
            Self::TooLarge { .. } | Self::NotText { .. } => {
                Some("the configuration is a TOML file; is this the right one?")
            }
            _ => None,
        }
    }
}

/// A file that has been read and has the right shape; its values are not checked yet.
#[derive(Debug)]
pub struct File {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) raw: Raw,
}

impl File {
    /// Takes the text of a file; `path` is for messages and for relative paths in it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every mistake that was found.
    pub fn parse(path: impl Into<PathBuf>, text: impl Into<String>) -> Result<Self, Error> {
        let (path, text) = (path.into(), text.into());
        // The common case parses once; only a bad file pays for a second look.
        match toml::Deserializer::parse(&text).and_then(Raw::deserialize) {
            Ok(raw) => Ok(Self { path, text, raw }),
            Err(error) => {
                let mut problems = diagnose::explain::<Raw>(&text);
                if problems.is_empty() {
                    let span = error.span().unwrap_or(0..0);
                    problems.push(Problem::new(
                        diagnose::Place::File(span),
                        error.message().to_owned(),
                    ));
                }
                Err(Error::Invalid {
                    path,
                    text,
                    problems,
                })
            }
        }
    }
}

/// Reads and parses a file.
///
/// # Errors
/// When the file cannot be read, is not text, is larger than 1 MiB, or has mistakes.
pub fn load(path: &Path) -> Result<File, Error> {
    File::parse(path, read(path)?)
}

/// Reads the text of a file.
///
/// # Errors
/// When the file cannot be read, is not text, or is larger than 1 MiB.
pub fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = match open_file(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(Error::NotAFile {
                path: path.to_owned(),
            });
        }
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::TooLarge {
            path: path.to_owned(),
        });
    }
    String::from_utf8(bytes).map_err(|error| Error::NotText {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })
}
