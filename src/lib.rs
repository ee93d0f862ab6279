//! cofferdam makes one MCP server safe to run. This file is the map: one sentence for each room.
//!
//! Imports point one way: `main → cli → app → {admin, supervise, proxy} → {transport, policy,
//! secret, identity, audit, telemetry, cell} → {mcp, config}`; `tests/it/architecture.rs` checks it.

/// `/health` and `/metrics` on a listener of their own.
pub mod admin;
/// The only place that wires everything: start order, the event loop, signals, the way out.
pub mod app;
/// One JSON line for each decision, written so that a crash loses at most a fraction of a second.
pub mod audit;
/// The enclosure: what a server may touch, who starts it, and how the whole tree ends.
pub mod cell;
/// One file for each command: parse, call, explain.
pub mod cli;
/// What the user wrote, turned into types that are valid by construction.
pub mod config;
/// Who is asking, pure: what a caller shows becomes a caller, or an answer that says why not.
pub mod identity;
/// The wire vocabulary, pure: envelopes, ids, methods, versions, faults.
pub mod mcp;
/// The engine that decides, pure and synchronous: rules, schemas, limits, the scrubber.
pub mod policy;
/// Joins two byte streams through policy: the session, the pending table, the replies.
pub mod proxy;
/// Secret values that leave no trace in memory, logs or debug output.
pub mod secret;
/// The server's life: start, end of input, the grace it gets, its exit code.
pub mod supervise;
/// Structured logs and Prometheus metrics.
pub mod telemetry;
/// Bytes in, bytes out: newline framing with a cap, writers that never block.
pub mod transport;
