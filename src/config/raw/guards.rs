//! The twin of `[breaker]`, `[retry]`, `[repeats]` and `[budget]`.

use super::At;
use crate::config::guards::{Percent, RepeatAction};
use crate::config::rates::Rate;
use crate::config::units::{ByteSize, TimeSpan};
use schemars::JsonSchema;
use serde::Deserialize;

/// When calls stop for a while because too many of them fail, by tool and for the whole server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Breaker {
    /// The time that counts; default 60s.
    pub(in crate::config) window: Option<At<TimeSpan>>,
    /// Calls in that time below which nothing stops; default 10.
    pub(in crate::config) calls: Option<At<i64>>,
    /// The share of them that has to fail; default 50%.
    pub(in crate::config) failures: Option<At<Percent>>,
    /// From then until calls are tried again; default 30s.
    pub(in crate::config) pause: Option<At<TimeSpan>>,
    /// Calls that are tried at one time, and that have to succeed; default 1.
    pub(in crate::config) probes: Option<At<i64>>,
    /// A result with isError counts as a failure; default false.
    pub(in crate::config) tool_errors: Option<At<bool>>,
}

/// How often calls may be made again because a server was lost.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Retry {
    /// Share of the requests that were passed on; default 10%.
    pub(in crate::config) share: Option<At<Percent>>,
    /// As often in any case; default 60/min.
    pub(in crate::config) floor: Option<At<Rate>>,
}

/// When the same call with the same answer is one too many.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Repeats {
    /// Answers that were the same; default 10.
    pub(in crate::config) calls: Option<At<i64>>,
    /// Within so long; default 5m.
    pub(in crate::config) window: Option<At<TimeSpan>>,
    /// Whether the model is stopped or the operator warned; default refuse.
    pub(in crate::config) action: Option<At<RepeatAction>>,
}

/// What may be used up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Budgets {
    /// Of one session.
    pub(in crate::config) session: Option<At<Budget>>,
    /// Of one client, whatever the number of its sessions.
    pub(in crate::config) client: Option<At<Budget>>,
}

/// What may be used up.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(in crate::config) struct Budget {
    /// Calls of tools, reads of resources, prompts.
    pub(in crate::config) calls: Option<At<i64>>,
    /// Bytes of arguments and results.
    pub(in crate::config) bytes: Option<At<ByteSize>>,
    /// Estimated tokens of arguments and results.
    pub(in crate::config) tokens: Option<At<i64>>,
    /// After so long it begins anew; default: a session never, a client and a tool after 1d.
    pub(in crate::config) per: Option<At<TimeSpan>>,
    /// Tokens in one minute that the operator is told of.
    pub(in crate::config) alert: Option<At<i64>>,
}
