//! Whom a line of a shared server is for: the number of ours that it carries, and where it stands.

use crate::mcp::method::{CANCELLED, PROGRESS};
use crate::mcp::{self, Envelope, Id, Kind, Raw, RequestId};
use std::ops::Range;

/// The `_meta` member that notices of a `subscriptions/listen` stream carry.
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Whom a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The answer to the request with this number.
    Answer(i64),
    /// Progress of the request with this number.
    Progress(i64),
    /// A notice on the stream that the listen request with this number opened.
    Stream(i64),
    /// The server gives up a listen stream, or one of its own requests: the number says which.
    Withdrawn(i64),
    /// A question of the server.
    Question,
    /// A notification that names no request.
    Everybody,
    /// Something that names a request which is none of ours.
    Nobody,
}

/// Whom a line is for, and where our number stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub to: To,
    pub(super) spans: [Option<Range<usize>>; 2],
    /// The subscription is spelt as a string of digits.
    pub(super) quoted: bool,
}

impl Address {
    fn plain(to: To) -> Self {
        Self {
            to,
            spans: [None, None],
            quoted: false,
        }
    }

    fn at(to: impl FnOnce(i64) -> To, id: Option<Id<'_>>) -> Self {
        match id.map(|id| (id.key(), id.span())) {
            Some((RequestId::Number(number), span)) => Self {
                to: to(number),
                spans: [Some(span), None],
                quoted: false,
            },
            _ => Self::plain(To::Nobody),
        }
    }

    /// Reads the address of a proved line of the server.
    #[must_use]
    pub fn of(envelope: &Envelope<'_>) -> Self {
        match &envelope.kind {
            Kind::Request { .. } => Self::plain(To::Question),
            Kind::Error { id, .. } => Self::at(To::Answer, *id),
            Kind::Result { id, .. } => Self::at(To::Answer, Some(*id)),
            Kind::Notification { method, params } if method == PROGRESS => {
                Self::at(To::Progress, mcp::reported_progress(*params))
            }
            Kind::Notification { method, params } => {
                let params = *params;
                if let Some((number, quoted, span)) = params.and_then(subscription) {
                    return Self {
                        to: To::Stream(number),
                        spans: [Some(span), None],
                        quoted,
                    };
                }
                match &**method {
                    CANCELLED => Self::at(To::Withdrawn, mcp::cancelled_request(params)),
                    _ => Self::plain(To::Everybody),
                }
            }
        }
    }

    /// The same for the answer to a listen request, whose `_meta` may repeat the number.
    #[must_use]
    pub fn of_listen(envelope: &Envelope<'_>) -> Self {
        let mut address = Self::of(envelope);
        if let Kind::Result { result, .. } = &envelope.kind
            && let Some((number, quoted, span)) = subscription(*result)
            && address.to == To::Answer(number)
        {
            address.spans[1] = Some(span);
            address.quoted = quoted;
        }
        address
    }
}

/// The number in `_meta` of `params` or of a result, and whether it is spelt as a string.
fn subscription(body: Raw<'_>) -> Option<(i64, bool, Range<usize>)> {
    // Large results have no such member, and a walk over them would cost a second parse.
    let near = body
        .text
        .get(..body.text.len().min(NEAR))
        .unwrap_or_default();
    let far = body
        .text
        .get(body.text.len().saturating_sub(NEAR)..)
        .unwrap_or_default();
    let named = |part| memchr::memmem::find(part, b"subscriptionId").is_some();
    if !named(near) && !named(far) {
        return None;
    }
    let raw = body.member("_meta")?.member(SUBSCRIPTION)?;
    let id = Id::read(raw).ok()?;
    match id.key() {
        RequestId::Number(number) => Some((number, false, raw.span())),
        RequestId::Text(text) => Some((text.parse().ok()?, true, raw.span())),
        RequestId::Wide(_) => None,
    }
}

/// Bytes at either end of a body in which `_meta` of a notice lies.
const NEAR: usize = 4096;
