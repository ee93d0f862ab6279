//! Names of peers as they may be written down: no audit line, journal or log keeps a credential that
//! somebody has put into the name of a tool, a URI or a method.

use super::session::Session;
use crate::mcp::Subject;
use crate::policy::scrub::{Finding, Scrubber};
use smol_str::SmolStr;
use std::borrow::Cow;

/// Names in which nothing was found, and bytes of each, that are remembered: an agent uses few tools, so
/// that almost no name is searched twice.
const CLEAN: usize = 8;
const LONGEST: usize = 256;

/// Characters of a hint to the operator that are shown.
const HINT: usize = 256;

/// What has been searched.
#[derive(Debug, Default)]
pub(super) struct Names {
    clean: Vec<SmolStr>,
    found: Vec<Finding>,
}

impl Names {
    /// Other secrets may be known from here on.
    pub(super) fn forget(&mut self) {
        self.clean.clear();
    }

    /// The name as it may be written down.
    pub(super) fn shown(&mut self, scrubber: &Scrubber, name: &SmolStr) -> SmolStr {
        let redacted = self.redacted(scrubber, name);
        redacted.map_or_else(|| name.clone(), Into::into)
    }

    /// The name without what looks like a credential; `None` when there is nothing to take out.
    pub(super) fn redacted(&mut self, scrubber: &Scrubber, name: &str) -> Option<String> {
        if self.clean.iter().any(|clean| clean == name) {
            return None;
        }
        scrubber.text(name.as_bytes(), &mut self.found);
        if self.found.is_empty() {
            if name.len() <= LONGEST {
                if self.clean.len() == CLEAN {
                    self.clean.remove(0);
                }
                self.clean.push(name.into());
            }
            return None;
        }
        let clean = scrubber.redact(name.as_bytes(), &self.found);
        Some(String::from_utf8_lossy(&clean).into_owned())
    }
}

impl Session {
    /// What a request is about, as it may be written down.
    pub(super) fn shown<'s>(&mut self, subject: &'s Subject) -> Cow<'s, Subject> {
        let scrubber = self.policy.scrubber();
        let name = subject.name.as_ref();
        let name = name.and_then(|name| self.names.redacted(scrubber, name));
        // Whoever invents a method can write anything there.
        let method = match &subject.method {
            Cow::Borrowed(_) => None,
            Cow::Owned(method) => self.names.redacted(scrubber, method),
        };
        if name.is_none() && method.is_none() {
            return Cow::Borrowed(subject);
        }
        let mut subject = subject.clone();
        if let Some(method) = method {
            subject.method = Cow::Owned(method);
        }
        if let Some(name) = name {
            subject.name = Some(name.into());
        }
        Cow::Owned(subject)
    }

    /// What a hint says, which quotes a peer: searched before it is cut, because half a credential is no
    /// longer found.
    pub(super) fn shown_hint(&mut self, hint: &str) -> String {
        let hint = self.clean(hint.as_bytes());
        match hint.char_indices().nth(HINT) {
            Some((end, _)) => format!("{}…", hint.get(..end).unwrap_or_default()),
            None => hint,
        }
    }
}
