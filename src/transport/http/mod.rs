//! HTTP towards clients, by hyper: connections that are bounded in every direction, bodies, event
//! streams, and what a header says. What a request means is decided elsewhere.

mod body;
mod head;
mod io;
mod listener;
mod serve;
mod sse;

pub use body::{BodyError, Outgoing, Source, discard, read_body};
pub use head::{accepts_events, accepts_json, carries_json, decoded, value};
pub use hyper::body::{Bytes, Incoming};
pub use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
pub use hyper::http::request::Parts;
pub use hyper::{Method, Request, Response, StatusCode};
pub use listener::{Bound, Listener, Peer, Stream, UnixPeer, local_name};
pub use serve::{Bounds, Door, Handler, connection, refuse};
pub use sse::{COMMENT, event, numbered, prime, resume_from};
