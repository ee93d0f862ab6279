//! What a request is about: the capability that rules, limits, audit and metrics name.

use super::{Envelope, Id, Kind, Raw, method};
use smol_str::SmolStr;
use std::borrow::Cow;

/// The kind of thing a request reaches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// `tools/call`.
    Tool,
    /// `resources/read`, `subscribe`, `unsubscribe`.
    Resource,
    /// `prompts/get`.
    Prompt,
    /// Anything else, named by its method.
    Method,
}

impl Capability {
    /// What `method` reaches for.
    #[must_use]
    pub fn of(method: &str) -> Self {
        match method {
            method::TOOLS_CALL => Self::Tool,
            method::RESOURCES_READ
            | method::RESOURCES_SUBSCRIBE
            | method::RESOURCES_UNSUBSCRIBE => Self::Resource,
            method::PROMPTS_GET => Self::Prompt,
            _ => Self::Method,
        }
    }
}

/// The target of a request or notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Kind of target.
    pub capability: Capability,
    /// The method, decoded; borrowed exactly when the protocol has it.
    pub method: Cow<'static, str>,
    /// Tool name, resource URI or prompt name, decoded; `None` when there is none.
    pub name: Option<SmolStr>,
}

impl Subject {
    /// Reads the subject of a request or notification; `None` for answers.
    #[must_use]
    pub fn of(envelope: &Envelope<'_>) -> Option<Self> {
        let (Kind::Request { method, .. } | Kind::Notification { method, .. }) = &envelope.kind
        else {
            return None;
        };
        let capability = Capability::of(method);
        let name = match capability {
            Capability::Tool | Capability::Prompt => envelope.name(),
            Capability::Resource => envelope.uri(),
            Capability::Method => None,
        };
        Some(Self {
            capability,
            method: match method::Method::find(method.as_bytes()) {
                Some(method) => Cow::Borrowed(method.name),
                None => Cow::Owned(method.as_ref().into()),
            },
            name: name.map(Into::into),
        })
    }

    /// True when the protocol has the method and somebody has to answer it. SDKs take a line with such a
    /// method and no id for a notification that nobody handles; a server that looks at the method alone
    /// does what it says.
    #[must_use]
    pub fn is_request(&self) -> bool {
        match self.method {
            Cow::Borrowed(known) => !method::is_notification(known),
            Cow::Owned(_) => false,
        }
    }
}

/// The token under which the sender of a request wants progress (`params._meta.progressToken`);
/// `None` when there is none or it is neither an integer nor a string.
#[must_use]
pub fn wanted_progress<'a>(envelope: &Envelope<'a>) -> Option<Id<'a>> {
    Id::read(envelope.token()?).ok()
}

/// The token that a `notifications/progress` reports on (`params.progressToken`).
#[must_use]
pub fn reported_progress(params: Option<Raw<'_>>) -> Option<Id<'_>> {
    Id::read(params?.member("progressToken")?).ok()
}

/// The request that a `notifications/cancelled` is about (`params.requestId`).
#[must_use]
pub fn cancelled_request(params: Option<Raw<'_>>) -> Option<Id<'_>> {
    Id::read(params?.member("requestId")?).ok()
}
