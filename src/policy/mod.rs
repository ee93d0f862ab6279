//! The engine that decides. Pure and synchronous: no tokio, no clock, no files; time and state are
//! arguments. The stages run in the order of `engine.rs`, which reads top to bottom.

mod asks;
mod digest;
mod engine;
mod lists;
mod mirrors;
mod names;
mod outbound;
mod permissions;
mod rates;
mod rules;
mod schema;
pub mod scrub;
mod toolbook;
mod tools;
mod uris;
mod verdict;

pub use engine::{Deadlines, Policy};
pub use mirrors::{Listed, Mirror, Scalar, listed};
pub(crate) use names::fold;
pub use rates::{Admission, Clock, Limiter, Permit, Ticket};
pub use rules::{LIMITS_REQUEST, LIMITS_RESPONSE, LIMITS_TIMEOUT, RULES, Rule, code, rule};
pub use toolbook::ToolBook;
pub use verdict::{Decision, Note, Origin, Refusal, Shape, Verdict};
