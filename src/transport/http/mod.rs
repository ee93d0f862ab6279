//! HTTP by hyper, towards clients and towards one server: connections that are bounded in every
//! direction, bodies, event streams, and what a header says. What a request means is decided elsewhere.

mod body;
mod client;
mod events;
mod head;
mod io;
mod linger;
mod listener;
mod serve;
mod sse;
mod two;

pub use body::{BodyError, Outgoing, Source, discard, read_body};
pub use client::{Answer, CONNECTIONS, Client, ClientError, Dial};
pub use events::{Event, Events, News};
pub use head::{accepts_events, accepts_json, carries_events, carries_json, coded, decoded, value};
pub use hyper::body::{Bytes, Incoming};
pub use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
pub use hyper::http::request::Parts;
pub use hyper::{Method, Request, Response, StatusCode};
pub use listener::{Bound, Listener, Peer, Stream, UnixPeer, local_name};
pub use serve::{Bounds, Door, Handler, connection, refuse};
pub use sse::{COMMENT, event, numbered, prime, resume_from};
