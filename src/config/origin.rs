//! Where each effective value came from, so that `check` can say it beside the value.

use std::collections::BTreeMap;
use std::fmt;

/// Who set a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody; it is built in.
    Default,
    /// This line of the file, counted from 1.
    File { line: usize },
    /// This flag, as in `--memory`.
    Flag(&'static str),
    /// The words after `--`.
    Command,
    /// A variable of our environment.
    Environment(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { line } => write!(f, "file, line {line}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Command => f.write_str("command"),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

/// Origins by key: `limits.request` for a value, `cell.read` with an index for an entry of a list.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    values: BTreeMap<String, Origin>,
    entries: BTreeMap<&'static str, Vec<Origin>>,
}

impl Origins {
    pub(super) fn set(&mut self, key: impl Into<String>, origin: Origin) {
        self.values.insert(key.into(), origin);
    }

    pub(super) fn push(&mut self, key: &'static str, origin: Origin) {
        self.entries.entry(key).or_default().push(origin);
    }

    pub(super) fn replace(&mut self, key: &'static str, index: usize, origin: Origin) {
        if let Some(entry) = self.entries.get_mut(key).and_then(|all| all.get_mut(index)) {
            *entry = origin;
        }
    }

    pub(super) fn remove(&mut self, key: &'static str, index: usize) {
        if let Some(all) = self.entries.get_mut(key)
            && index < all.len()
        {
            all.remove(index);
        }
    }

    /// Who set the value of this key.
    #[must_use]
    pub fn of(&self, key: &str) -> Origin {
        self.values.get(key).copied().unwrap_or(Origin::Default)
    }

    /// Who wrote this entry of a list.
    #[must_use]
    pub fn entry(&self, key: &str, index: usize) -> Origin {
        self.entries
            .get(key)
            .and_then(|all| all.get(index))
            .copied()
            .unwrap_or(Origin::Default)
    }
}
