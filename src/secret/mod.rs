//! Secret values that leave no trace in memory, logs or debug output.

mod expiry;
mod guess;
mod memory;
pub mod orders;
pub mod source;
mod vault;
mod watch;
mod whole;

pub use guess::looks_secret;
pub use orders::{Drill, Fingerprint, Key, Orders, Revoked};
pub use vault::{Held, News, Previous, Vault};
pub use watch::{SETTLE, Watch};
pub use whole::{Lack, Look, Whole, patiently, read_whole};

use memory::Locked;
use std::fmt;

/// A value that is never printed, is wiped when dropped, and lies in locked memory where it may.
pub struct Secret {
    name: String,
    value: Locked,
}

impl Secret {
    /// Wraps a value under the name that logs may show.
    #[must_use]
    pub fn new(name: impl Into<String>, value: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            value: Locked::new(value),
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
        self.value.bytes()
    }
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
