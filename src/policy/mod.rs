//! The engine that decides. Pure and synchronous: no tokio, no clock, no files; time and state are
//! arguments. The stages run in the order of `engine.rs`, which reads top to bottom.

mod engine;
pub mod scrub;
mod toolbook;
mod verdict;

pub use engine::{Deadlines, Policy};
pub use toolbook::ToolBook;
pub use verdict::{Decision, Note, Origin, Refusal, Shape, Verdict};
