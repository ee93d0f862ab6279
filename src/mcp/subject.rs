//! What a request is about: the capability that rules, limits, audit and metrics name.

use super::Envelope;

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
        let _ = envelope;
        todo!()
    }
}
