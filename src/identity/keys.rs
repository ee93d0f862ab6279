//! API keys: what is shown once, and the file that holds nothing but hashes of it.
//!
//! A key is `cfd_` and 256 random bits in base64url, so an unsalted SHA-256 of it can be neither guessed
//! nor looked up. The file is a JSON list; `cofferdam client` writes it.

use super::{How, sorted};
use crate::config::principal_name;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::{Deserialize, Serialize};
use std::fmt;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// What every key starts with, so that scanners find one that was leaked.
pub const KEY_PREFIX: &str = "cfd_";

/// Random bytes of a key.
const RANDOM: usize = 32;
/// Each request compares with all of them.
const MOST_KEYS: usize = 4096;

/// A key as it is shown, once.
#[derive(Clone)]
pub struct ApiKey(String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

impl ApiKey {
    /// Makes a key of bytes that nobody can guess.
    #[must_use]
    pub fn new(random: &[u8; RANDOM]) -> Self {
        Self(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// The key itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the file holds of it: SHA-256 in lower-case hex.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(&hash(&self.0))
    }
}

/// One key in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub client: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Of the whole key, in lower-case hex.
    pub sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<Timestamp>,
    /// From then on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Refused; the entry stays, so that it can be told what was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

impl Entry {
    /// True when the key opens the door at `now`, in seconds since 1970.
    #[must_use]
    pub fn is_valid(&self, now: u64) -> bool {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires.as_second())
    }
}

/// Why a file of keys cannot be used. No text of these holds what is in the file.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("it is not a list of keys (line {line}, column {column})")]
    Shape { line: usize, column: usize },
    #[error("it holds more than {MOST_KEYS} keys")]
    TooMany,
    #[error("key {number}: `sha256` is not 64 hexadecimal digits")]
    Hash { number: usize },
    #[error("key {number}: the name of its client or tenant cannot be used")]
    Name { number: usize },
    #[error("keys {first} and {second} are the same")]
    Twice { first: usize, second: usize },
}

/// The keys that are known.
#[derive(Debug, Clone, Default)]
pub struct KeyBook {
    entries: Vec<(Hash, Entry)>,
}

type Hash = [u8; SHA256_OUTPUT_LEN];

impl KeyBook {
    /// Reads the file. An empty one (or one of blanks) has no keys.
    ///
    /// # Errors
    /// When it is not a list of keys, or holds one that cannot be meant. Then nothing of it is used.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeysError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let list: Vec<Entry> = serde_json::from_slice(bytes).map_err(|error| KeysError::Shape {
            line: error.line(),
            column: error.column(),
        })?;
        if list.len() > MOST_KEYS {
            return Err(KeysError::TooMany);
        }
        let mut entries: Vec<(Hash, Entry)> = Vec::with_capacity(list.len());
        for (at, entry) in list.into_iter().enumerate() {
            let number = at + 1;
            let hash = unhex(&entry.sha256).ok_or(KeysError::Hash { number })?;
            let names = std::iter::once(&entry.client).chain(&entry.tenant);
            if entry.client == "*" || names.into_iter().any(|name| principal_name(name).is_err()) {
                return Err(KeysError::Name { number });
            }
            if let Some(first) = entries.iter().position(|(other, _)| *other == hash) {
                let first = first + 1;
                return Err(KeysError::Twice {
                    first,
                    second: number,
                });
            }
            entries.push((hash, entry));
        }
        Ok(Self { entries })
    }

    /// Every key, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// True when the file has a key, of whatever state, for the client of this name.
    #[must_use]
    pub fn names(&self, client: &str) -> bool {
        self.entries().any(|entry| entry.client == client)
    }

    /// The whole file again, with `entries` in it, one to a paragraph.
    #[must_use]
    pub fn render(entries: &[Entry]) -> String {
        // Serialising strings and times cannot fail.
        let mut text = serde_json::to_string_pretty(entries).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The entry of a key, if it is one and is valid at `now`. Takes the same time whatever the key is:
    /// every entry is compared, and none decides the way.
    #[must_use]
    pub fn find(&self, key: &str, now: u64) -> Option<&Entry> {
        let presented = hash(key);
        let mut found = 0_u32;
        let mut index = 0_u32;
        for (hash, _) in &self.entries {
            index += 1;
            let same: Choice = hash.ct_eq(&presented);
            found.conditional_assign(&index, same);
        }
        let at = usize::try_from(found).ok()?.checked_sub(1)?;
        let (_, entry) = self.entries.get(at)?;
        entry.is_valid(now).then_some(entry)
    }
}

impl Entry {
    /// Who the key stands for.
    pub(super) fn caller(&self) -> super::Caller {
        super::Caller {
            client: self.client.clone(),
            tenant: self.tenant.clone(),
            user: None,
            scopes: sorted(self.scopes.iter().cloned()),
            groups: Vec::new(),
            how: How::Key,
            expires: self
                .expires
                .and_then(|time| u64::try_from(time.as_second()).ok()),
        }
    }
}

fn hash(key: &str) -> Hash {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower or upper case, 64 digits.
fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    let digits = text.as_bytes();
    if digits.len() != 2 * hash.len() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
    }
    Some(hash)
}
