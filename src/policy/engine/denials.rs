//! Which rule denies a method, a resource or a prompt.

use super::Policy;
use crate::mcp::method;
use crate::policy::names::{Denied, NameList, fold};
use crate::policy::rules::{
    METHODS_ALLOW, METHODS_DENY, METHODS_SPELLING, PROMPTS_ALLOW, PROMPTS_DENY, RESOURCES_ALLOW,
    RESOURCES_DENY,
};

impl Policy {
    /// Method rules, the same in both directions.
    pub(super) fn method_rule(&self, method: &str) -> Option<&'static str> {
        method_rule(&self.methods, method)
    }

    pub(super) fn uri_rule(&self, uri: Option<&str>) -> Option<&'static str> {
        let denied = match uri {
            Some(uri) => self.resources.denies(uri),
            None => unreadable(self.resources.is_open(), self.resources.is_closed()),
        };
        denied.map(|by| match by {
            Denied::ByDeny => RESOURCES_DENY,
            Denied::ByAllow => RESOURCES_ALLOW,
        })
    }

    pub(super) fn prompt_rule(&self, name: Option<&str>) -> Option<&'static str> {
        let denied = match name {
            Some(name) => self.prompts.denies(name),
            None => unreadable(self.prompts.is_open(), self.prompts.is_closed()),
        };
        denied.map(|by| match by {
            Denied::ByDeny => PROMPTS_DENY,
            Denied::ByAllow => PROMPTS_ALLOW,
        })
    }
}

/// A name that cannot be read could be any name, also a denied one.
fn unreadable(open: bool, closed: bool) -> Option<Denied> {
    match (open, closed) {
        (true, _) => None,
        (false, true) => Some(Denied::ByAllow),
        (false, false) => Some(Denied::ByDeny),
    }
}

/// The handshake, `ping` and the protocol's own notifications pass an allow list: it names what a
/// client may reach for, and without them there is no session. A deny list can name them.
fn is_always_allowed(method: &str) -> bool {
    matches!(
        method,
        method::INITIALIZE | method::SERVER_DISCOVER | method::PING
    ) || method::Method::find(method.as_bytes()).is_some_and(method::Method::is_notification)
}

pub(super) fn method_rule(methods: &NameList, method: &str) -> Option<&'static str> {
    if method != method::TOOLS_CALL && method::Method::find(method.as_bytes()).is_none() {
        let folded = fold(method);
        if method::ALL.iter().any(|known| fold(known.name) == folded) {
            return Some(METHODS_SPELLING);
        }
    }
    match methods.denies(method)? {
        Denied::ByDeny => Some(METHODS_DENY),
        Denied::ByAllow if is_always_allowed(method) => None,
        Denied::ByAllow => Some(METHODS_ALLOW),
    }
}
