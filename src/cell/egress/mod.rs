//! Hosts by name, for every client: the cell has a network of its own, and what leads out of it is
//! made by a process outside, which looks names up, checks addresses and connects by itself.
//!
//! ```text
//! cell:    server ── DNS ──▶ 127.0.0.1:53           an allowed name has a synthetic address
//!                 ── TCP ──▶ 198.18.0.1:443         which stands for the name
//!                              │ the sockets are made by pid 1 and handed out
//! outside: __egress ── accept, name and port, TLS or HTTP name ── look up, check ──▶ the host
//! ```
//!
//! On the floor, where the cell has the host's network, the same comes to the relay by the supervisor
//! (`floor.rs`).
//!
//! Nothing that the server asks of the name server leaves the cell: it is answered from the rules.
//! The relay resolves a name only when a connection to it is made, and connects to the very address
//! that it has checked.

mod address;
mod cage;
mod connection;
pub mod dial;
mod door;
mod floor;
mod greeting;
mod handover;
mod inside;
mod inspect;
mod lookup;
mod news;
pub mod parsers;
mod proxy;
mod refusals;
mod relay;
mod rules;
mod splice;
mod stub;
mod watch;

pub(in crate::cell) use door::{Door, Host, Ways};
pub(in crate::cell) use floor::{TRIED, Way};
pub(in crate::cell) use inside::open;
pub(in crate::cell) use news::LONGEST;
pub use news::{Carried, News, Reason, Refused, label};
pub use relay::serve;

/// What the cell's `resolv.conf(5)` says: the name server is ours, near, and has every answer.
pub(in crate::cell) const RESOLV_CONF: &str =
    "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n";
/// What the cell's `hosts(5)` says; the host's own entries are for the relay.
pub(in crate::cell) const HOSTS: &str = "127.0.0.1 localhost cofferdam\n::1 localhost\n";
/// What the cell's `nsswitch.conf(5)` says: no service of the host answers in here.
pub(in crate::cell) const NSSWITCH: &str =
    "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";
