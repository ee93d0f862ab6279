//! The tool list that cofferdam asks for itself, when a client calls tools that it never listed.
//!
//! ```text
//! Idle ── a call needs the list, or another server may have another ──▶ Asking ── last page, error or deadline ──▶ Idle (parked calls go on)
//! ```
//! The question goes to the same process with an id that no client can guess. It is never the first
//! message of a connection: the call that waits for it has fixed the era already.

use crate::identity::Caller;
use crate::mcp::{self, Envelope, Era, Kind, PROTOCOL_VERSION_KEY, RequestId};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls that wait for the list at one time.
const PARKED: usize = 256;
/// Time for the whole list; then calls go on without their schema.
const PATIENCE: Duration = Duration::from_secs(10);
/// Members of a request's `_meta` that our own question repeats, so that a modern server takes it.
const META: [&str; 3] = [
    PROTOCOL_VERSION_KEY,
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
];

/// A call that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) id: RequestId,
    pub(super) line: Box<[u8]>,
    /// Whose it is, behind a listener.
    pub(super) caller: Option<Arc<Caller>>,
}

#[derive(Debug)]
struct Asking {
    id: RequestId,
    meta: Option<Vec<u8>>,
    first: bool,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Listing {
    prefix: String,
    count: u64,
    asking: Option<Asking>,
    parked: VecDeque<Parked>,
}

impl Listing {
    pub(super) fn new() -> Self {
        // Keys of a fresh RandomState come from the kernel's random source.
        let nonce = RandomState::new().hash_one(std::process::id());
        Self {
            prefix: format!("cofferdam-{nonce:016x}"),
            count: 0,
            asking: None,
            parked: VecDeque::new(),
        }
    }

    /// Keeps a call until the list is there; false when too many wait already. The first one asks.
    pub(super) fn park(
        &mut self,
        id: RequestId,
        envelope: &Envelope<'_>,
        era: Era,
        caller: Option<&Arc<Caller>>,
        now: Instant,
        to_server: &mut Vec<u8>,
    ) -> bool {
        if self.parked.len() >= PARKED {
            return false;
        }
        self.parked.push_back(Parked {
            id,
            line: envelope.line.into(),
            caller: caller.cloned(),
        });
        self.begin(envelope, era, now, to_server);
        true
    }

    /// Asks, unless that is under way.
    pub(super) fn begin(
        &mut self,
        envelope: &Envelope<'_>,
        era: Era,
        now: Instant,
        to_server: &mut Vec<u8>,
    ) {
        if self.asking.is_none() {
            let meta = (era == Era::Modern)
                .then(|| repeated_meta(envelope))
                .flatten();
            self.ask(meta, None, true, now + PATIENCE, to_server);
        }
    }

    /// Asks a server that was greeted as the one before was, unless that is under way.
    pub(super) fn renew(&mut self, now: Instant, to_server: &mut Vec<u8>) {
        if self.asking.is_none() {
            self.ask(None, None, true, now + PATIENCE, to_server);
        }
    }

    fn ask(
        &mut self,
        meta: Option<Vec<u8>>,
        cursor: Option<&[u8]>,
        first: bool,
        until: Instant,
        to_server: &mut Vec<u8>,
    ) {
        let id = self.own_id();
        let mut params: Vec<u8> = Vec::new();
        if let Some(meta) = &meta {
            params.extend_from_slice(b"\"_meta\":");
            params.extend_from_slice(meta);
        }
        if let Some(cursor) = cursor {
            if !params.is_empty() {
                params.push(b',');
            }
            params.extend_from_slice(b"\"cursor\":");
            params.extend_from_slice(cursor);
        }
        to_server.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":\"");
        to_server.extend_from_slice(id.as_bytes());
        to_server.extend_from_slice(b"\",\"method\":\"tools/list\",\"params\":{");
        to_server.extend_from_slice(&params);
        to_server.extend_from_slice(b"}}\n");
        self.asking = Some(Asking {
            id: RequestId::Text(id.into_boxed_str()),
            meta,
            first,
            until,
        });
    }

    /// An id that no client can collide with.
    pub(super) fn own_id(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.prefix, self.count)
    }

    /// True when an answer with this id is for us, now or once.
    pub(super) fn is_ours(&self, id: &RequestId) -> bool {
        matches!(id, RequestId::Text(text) if text.starts_with(&self.prefix))
    }

    /// Takes an answer to our question. `Some` when the list is complete (or will never be), with
    /// the calls that may go on.
    pub(super) fn answered(
        &mut self,
        id: &RequestId,
        envelope: &Envelope<'_>,
        tools: &mut crate::policy::ToolBook,
        to_server: &mut Vec<u8>,
    ) -> Option<VecDeque<Parked>> {
        let asking = self.asking.take_if(|asking| asking.id == *id)?;
        if let Kind::Result { result, .. } = &envelope.kind {
            tools.learn(result.text, asking.first);
            if let Some(cursor) = tools.next_cursor() {
                let Asking { meta, until, .. } = asking;
                let cursor = cursor.to_vec();
                self.ask(meta, Some(&cursor), false, until, to_server);
                return None;
            }
            if !tools.is_listed() {
                tools.mark_unlistable();
            }
        } else {
            tools.mark_unlistable();
        }
        Some(std::mem::take(&mut self.parked))
    }

    /// Gives up when the answer to our question came and cannot be read: the calls that may go on.
    pub(super) fn failed(
        &mut self,
        id: &RequestId,
        tools: &mut crate::policy::ToolBook,
    ) -> VecDeque<Parked> {
        if self.asking.take_if(|asking| asking.id == *id).is_none() {
            return VecDeque::new();
        }
        tracing::warn!("the server's tool list cannot be read; calls go on unchecked");
        tools.mark_unlistable();
        std::mem::take(&mut self.parked)
    }

    /// Gives up when the list is overdue: the calls that may go on.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        tools: &mut crate::policy::ToolBook,
    ) -> VecDeque<Parked> {
        if self.asking.take_if(|asking| asking.until <= now).is_none() {
            return VecDeque::new();
        }
        tracing::warn!("the server did not list its tools in time; calls go on unchecked");
        tools.mark_unlistable();
        std::mem::take(&mut self.parked)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.asking.as_ref().map(|asking| asking.until)
    }

    /// True when the call with this id waits.
    pub(super) fn holds(&self, id: &RequestId) -> bool {
        self.parked.iter().any(|parked| parked.id == *id)
    }

    /// True when any call waits.
    pub(super) fn holds_any(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Forgets a call that the client has cancelled; true when it was waiting.
    pub(super) fn cancel(&mut self, id: &RequestId) -> bool {
        let before = self.parked.len();
        self.parked.retain(|parked| parked.id != *id);
        self.parked.len() < before
    }

    /// The server is gone: what waited.
    pub(super) fn drain(&mut self) -> VecDeque<Parked> {
        self.asking = None;
        std::mem::take(&mut self.parked)
    }
}

/// `_meta` with what a modern server needs to see, as the client itself wrote it.
fn repeated_meta(envelope: &Envelope<'_>) -> Option<Vec<u8>> {
    let Kind::Request {
        params: Some(params),
        ..
    } = &envelope.kind
    else {
        return None;
    };
    let meta = params.member("_meta")?;
    let mut out = vec![b'{'];
    for (key, value) in mcp::members(meta.text) {
        if META.contains(&key.as_ref()) {
            if out.len() > 1 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value.text);
        }
    }
    out.push(b'}');
    Some(out)
}
