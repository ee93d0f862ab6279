//! What a request is about: the capability that rules, limits, audit and metrics name.

use super::{Envelope, Id, Kind, Raw, method};

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
    /// What `method` reaches for, and the member of `params` that names it.
    #[must_use]
    pub fn of(method: &str) -> (Self, Option<&'static str>) {
        match method {
            method::TOOLS_CALL => (Self::Tool, Some("name")),
            method::RESOURCES_READ
            | method::RESOURCES_SUBSCRIBE
            | method::RESOURCES_UNSUBSCRIBE => (Self::Resource, Some("uri")),
            method::PROMPTS_GET => (Self::Prompt, Some("name")),
            _ => (Self::Method, None),
        }
    }
}

/// The target of a request or notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Kind of target.
    pub capability: Capability,
    /// The method, decoded.
    pub method: Box<str>,
    /// Tool name, resource URI or prompt name, decoded; `None` when there is none.
    pub name: Option<Box<str>>,
}

impl Subject {
    /// Reads the subject of a request or notification; `None` for answers.
    #[must_use]
    pub fn of(envelope: &Envelope<'_>) -> Option<Self> {
        let (Kind::Request { method, params, .. } | Kind::Notification { method, params }) =
            &envelope.kind
        else {
            return None;
        };
        let (capability, key) = Capability::of(method);
        let name = key.and_then(|key| params.as_ref()?.member(key)?.as_text());
        Some(Self {
            capability,
            method: method.as_ref().into(),
            name: name.map(Into::into),
        })
    }
}

/// The token under which the sender of a request wants progress (`params._meta.progressToken`);
/// `None` when there is none or it is neither an integer nor a string.
#[must_use]
pub fn wanted_progress(params: Option<Raw<'_>>) -> Option<Id<'_>> {
    let token = params?.member("_meta")?.member("progressToken")?;
    Id::read(token).ok()
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
