//! The engine that decides. Pure and synchronous: no tokio, no clock, no files; time and state are
//! arguments. The stages run in the order of `engine.rs`, which reads top to bottom.

mod asks;
mod digest;
mod engine;
mod guards;
mod inject;
mod lists;
mod mirrors;
mod names;
mod outbound;
mod permissions;
mod problems;
mod rates;
mod rules;
mod schema;
pub mod scrub;
mod toolbook;
mod tools;
mod uris;
mod verdict;

pub use engine::{Deadlines, Policy};
pub use guards::{
    Alert, Asking, Circuit, Ending, Guards, News, Party, Pass, RetryBudget, Ruling, Weight,
};
pub use mirrors::{Listed, Mirror, Scalar, listed};
pub(crate) use names::fold;
pub use problems::{CredentialBreaker, Problem, problem};
pub use rates::{Admission, Clock, Limiter, Permit, Ticket};
pub use rules::{
    CREDENTIALS_BREAKER, CREDENTIALS_MISSING, LIMITS_REQUEST, LIMITS_RESPONSE, LIMITS_RESULT,
    LIMITS_TIMEOUT, PROTOCOL_NO_ID, RULES, Rule, code, rule,
};
pub use toolbook::ToolBook;
pub use verdict::{Decision, Note, Origin, Refusal, Shape, Verdict};

use std::time::Duration;

/// Microseconds, in which guards and rates count; the most that fits where there are more.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
