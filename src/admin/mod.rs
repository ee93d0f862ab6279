//! `/health` and `/metrics` on a listener of their own, on a thread of their own.
//!
//! The message path runs on another thread and shares nothing with this one but atomics and one
//! small mutex that it takes a few times in its life, so a slow scrape delays no message.

mod health;
mod notify;
mod server;
pub mod switch;

pub use health::{Facts, Fronted, Health, Listener, Phase};
pub use server::{AdminError, Server};
