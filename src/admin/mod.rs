//! What operators see and turn: `/health` and `/metrics` on a listener of their own, the switch, and
//! the socket on which a running instance is asked.
//!
//! The listener has a thread of its own. The message path runs on another thread and shares nothing with this one but atomics and one
//! small mutex that it takes a few times in its life, so a slow scrape delays no message.

mod health;
mod instances;
mod notify;
mod server;
pub mod switch;
mod wire;

pub use health::{
    Checked, Facts, Fronted, Health, Keys, Listener, Phase, RefusedCredentials, Reloaded,
};
pub use instances::{AskError, Instance, Places};
pub use server::{AdminError, Server};
pub use wire::{Ask, MOST as MOST_ASKED};
