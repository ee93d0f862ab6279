//! The keys of an issuer, and when to ask for new ones.

use super::jwk::{Jwk, Raw};
use crate::config::Algorithm;
use serde::Deserialize;
use std::sync::Arc;

const MOST_BYTES: usize = 256 * 1024;
/// Real issuers publish 1 to 10.
const MOST_KEYS: usize = 64;

/// Why a text is no key set.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("it is larger than {MOST_BYTES} bytes")]
    TooLarge,
    #[error("it is not a JSON Web Key Set (line {line}, column {column})")]
    Shape { line: usize, column: usize },
    #[error("it holds more than {MOST_KEYS} keys")]
    TooMany,
    #[error("it holds no public key that can verify a token")]
    Empty,
}

/// A JSON Web Key Set (RFC 7517 §5).
#[derive(Debug, Clone, Default)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

impl Jwks {
    /// Reads a key set. Keys that are not for signatures, or of a kind that is not known, are left out.
    ///
    /// # Errors
    /// When it is no key set, or no key of it is of use.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Raw>,
        }
        if bytes.len() > MOST_BYTES {
            return Err(JwksError::TooLarge);
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|error| JwksError::Shape {
            line: error.line(),
            column: error.column(),
        })?;
        if set.keys.len() > MOST_KEYS {
            return Err(JwksError::TooMany);
        }
        let keys: Vec<Jwk> = set.keys.into_iter().filter_map(Jwk::read).collect();
        match keys.is_empty() {
            true => Err(JwksError::Empty),
            false => Ok(Self { keys }),
        }
    }

    /// How many keys are of use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that a token can mean: those of its `kid`, or, without one, those of its kind.
    pub(super) fn candidates<'s>(
        &'s self,
        kid: Option<&'s str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'s Jwk> {
        /// Each costs a signature check, and whoever has no token chooses the header.
        const MOST_TRIED: usize = 4;
        self.keys
            .iter()
            .filter(move |key| kid.is_none() || key.kid.as_deref() == kid)
            .filter(move |key| key.verifies(algorithm))
            .take(MOST_TRIED)
    }

    /// True when a key has this id.
    pub(super) fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }
}

/// A key set that is replaced as the issuer rotates. What fetches it is not here: `wants` says when.
///
/// ```text
/// unknown kid, or older than max_age ──► wants(now) == true, at most once in `pause`
///        fetched ──► replace(bytes) ── good ──► the new set
///                                  └── bad ──► the old set stays
/// ```
#[derive(Debug, Clone)]
pub struct JwksCache {
    current: Arc<Jwks>,
    fetched: u64,
    asked: Option<u64>,
    /// Seconds after which a set is fetched again.
    max_age: u64,
    /// Least number of seconds between two fetches, whatever tokens ask for.
    pause: u64,
}

impl JwksCache {
    /// Starts with a set that was fetched at `now`, in seconds since 1970.
    #[must_use]
    pub fn new(first: Jwks, now: u64, max_age: u64, pause: u64) -> Self {
        Self {
            current: Arc::new(first),
            fetched: now,
            asked: None,
            max_age,
            pause,
        }
    }

    #[must_use]
    pub fn current(&self) -> Arc<Jwks> {
        Arc::clone(&self.current)
    }

    /// True when the set should be fetched now; remembers that it was asked. A flood of tokens with ids
    /// that nobody knows asks the issuer once in `pause` seconds.
    pub fn wants(&mut self, now: u64, unknown_key: bool) -> bool {
        let old = now.saturating_sub(self.fetched) >= self.max_age;
        let rested = self
            .asked
            .is_none_or(|asked| now.saturating_sub(asked) >= self.pause);
        let wants = (old || unknown_key) && rested;
        if wants {
            self.asked = Some(now);
        }
        wants
    }

    /// Takes what was fetched.
    ///
    /// # Errors
    /// As for [`Jwks::parse`]; the old set then stays.
    pub fn replace(&mut self, bytes: &[u8], now: u64) -> Result<(), JwksError> {
        self.current = Arc::new(Jwks::parse(bytes)?);
        self.fetched = now;
        Ok(())
    }
}
