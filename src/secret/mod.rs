//! Secret values that leave no trace in memory, logs or debug output.

mod guess;
pub mod source;
mod vault;
mod watch;

pub use guess::looks_secret;
pub use vault::{Held, News, Vault};
pub use watch::{SETTLE, Watch};

use std::fmt;
use std::sync::OnceLock;
use zeroize::Zeroizing;

/// A value that is never printed and is wiped when dropped.
pub struct Secret {
    name: String,
    value: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// Wraps a value under the name that logs may show.
    #[must_use]
    pub fn new(name: impl Into<String>, value: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            value: Zeroizing::new(value),
        }
    }

    /// The name that logs may show.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value itself; callers must not copy it anywhere that outlives them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.value
    }
}

/// Which value it is, in 12 hex digits that say nothing about it: an HMAC with a key that this process
/// has drawn for itself.
fn fingerprint(value: &[u8]) -> String {
    use ring::hmac;
    static KEY: OnceLock<Option<hmac::Key>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).ok()
    });
    let Some(key) = key else {
        return "unknown".to_owned();
    };
    let tag = hmac::sign(key, value);
    let digits = tag.as_ref().iter().take(6);
    digits.fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_has_the_name_and_not_the_value() {
        let secret = Secret::new("token", b"do-not-print".to_vec());
        let printed = format!("{secret:?} {:?}", [&secret]);
        assert!(printed.contains("token") && !printed.contains("do-not-print"));
        assert!(!printed.contains(&format!("{:?}", b"do-not-print")));
    }
}
