//! A POST: which era it is of, and whose server it reaches.

use super::errors::{INVALID_PARAMS, INVALID_REQUEST, UNAVAILABLE, error};
use super::seat::{Answer, Seat};
use super::server::{Handed, Held, Kind as PlaceKind, Place, Server};
use super::state::{NoServer, State};
use super::turns::Pass;
use crate::config::StateMode;
use crate::identity::{self, Caller};
use crate::mcp::method::{INITIALIZE, SERVER_DISCOVER};
use crate::mcp::{Direction, Envelope, Era, Kind, Revision, Subject, flatten, parse};
use crate::policy::{Refusal, Shape};
use crate::proxy::{Outbox, Party};
use crate::transport::http::{Bytes, HeaderMap, HeaderName, StatusCode, value};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");

/// What follows from a request at once.
#[derive(Debug)]
pub(super) enum Reply {
    /// This.
    Now(Answer),
    /// This, which says who may.
    Said(identity::Answer),
    /// Whatever comes to the seat.
    Wait(Rc<Seat>),
}

/// A message with what its header said.
#[derive(Clone, Copy)]
pub(super) struct Post<'a> {
    pub(super) envelope: &'a Envelope<'a>,
    pub(super) headers: &'a HeaderMap,
    pub(super) caller: &'a Arc<Caller>,
    /// Its place among the requests that may run, if they are counted.
    pub(super) pass: &'a Cell<Option<Pass>>,
    /// The body as it came, for a request that has to wait.
    pub(super) body: &'a Bytes,
}

/// Who sends a request.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    pub(super) party: Party,
    pub(super) caller: &'a Arc<Caller>,
    pub(super) pass: Option<Pass>,
}

impl Post<'_> {
    pub(super) fn sender(&self, party: Party) -> Sender<'_> {
        Sender {
            party,
            caller: self.caller,
            pass: self.pass.take(),
        }
    }

    /// The same, to be looked at later.
    pub(super) fn held(&self, party: Party, seat: Rc<Seat>) -> Held {
        Held {
            party,
            seat,
            body: self.body.clone(),
            headers: self.headers.clone(),
            caller: Arc::clone(self.caller),
            pass: self.pass.take(),
        }
    }
}

/// No body, this status.
pub(super) fn bare(status: StatusCode) -> Reply {
    Reply::Now(Answer {
        status,
        line: Bytes::new(),
        session: None,
        retry_after: None,
    })
}

/// True when the version in the header is of the modern era, or later than anything known.
pub(super) fn is_modern(version: &str) -> bool {
    match Revision::read(version) {
        Some(revision) => revision.era() == Era::Modern,
        None => version > Revision::V2025_11_25.as_str() && version.starts_with("20"),
    }
}

impl State {
    /// The body of a POST.
    pub(super) fn post(
        &mut self,
        headers: &HeaderMap,
        caller: &Arc<Caller>,
        body: &Bytes,
        pass: Option<Pass>,
        now: Instant,
    ) -> Reply {
        let pass = &Cell::new(pass);
        let line = flatten(body);
        let version = value(headers, &VERSION_HEADER);
        let modern = version.is_some_and(is_modern);
        let Ok(envelope) = parse(&line, Direction::ToServer) else {
            let era = if modern { Era::Modern } else { Era::Legacy };
            return Reply::Now(Answer {
                status: StatusCode::BAD_REQUEST,
                line: self.turn_away(&line, era, now),
                session: None,
                retry_after: None,
            });
        };
        if let Kind::Request { id, .. } = &envelope.kind
            && (self.draining || self.frozen)
        {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let words = match self.frozen {
                true => "The operator has stopped this server; nothing was done.",
                false => "This server is going away; connect again.",
            };
            let code = UNAVAILABLE;
            return Reply::Now(error(status, Some(id.raw), code, words));
        }
        let post = Post {
            envelope: &envelope,
            headers,
            caller,
            pass,
            body,
        };
        if let Some(refused) = self.lacks_scopes(&envelope, caller) {
            return Reply::Said(refused);
        }
        if envelope.version().is_some() || modern {
            return self.modern(&post, now);
        }
        if self.stateless() {
            return Reply::Now(super::modern::version_refused(&envelope, version));
        }
        match &envelope.kind {
            Kind::Request { id, method, .. } if method == INITIALIZE => {
                self.initialize(&post, *id, now)
            }
            _ => match value(headers, &SESSION_HEADER) {
                Some(session) => self.legacy(&post, session, now),
                None => Reply::Now(without_session(&envelope)),
            },
        }
    }

    /// The answer to somebody whose proof does not reach far enough (MCP authorization).
    pub(super) fn lacks_scopes(
        &mut self,
        envelope: &Envelope<'_>,
        caller: &Arc<Caller>,
    ) -> Option<identity::Answer> {
        if !self.policy.tells_callers_apart() {
            return None;
        }
        let Kind::Request { params, .. } = &envelope.kind else {
            return None;
        };
        let subject = Subject::of(envelope)?;
        let refused = self.policy.missing_scopes(&subject, *params, caller)?;
        // The answer is one of HTTP; this one is for the books.
        drop(self.desk.turn_down(envelope, caller, &refused));
        self.rest_soon();
        Some(self.challenges.insufficient_scope(&refused.scopes))
    }

    /// The answer to a request that comes too often, or finds no room in the queue: a tool's result
    /// where there is one, so that the model sees it.
    pub(super) fn too_much(
        &mut self,
        envelope: &Envelope<'_>,
        caller: &Arc<Caller>,
        refused: &Refusal,
    ) -> Reply {
        let line = self.desk.turn_down(envelope, caller, refused).into();
        self.rest_soon();
        Reply::Now(Answer {
            status: match refused.shape {
                Shape::ToolResult => StatusCode::OK,
                Shape::Error(_) => StatusCode::TOO_MANY_REQUESTS,
            },
            line,
            session: None,
            retry_after: refused.retry_after_seconds(),
        })
    }

    pub(super) fn stateless(&self) -> bool {
        let listen = self.config.listen.as_ref();
        listen.is_some_and(|listen| listen.state == StateMode::Stateless)
    }

    /// Hands a request to a server; the seat that its answer comes to.
    pub(super) fn submit(
        &mut self,
        server: &mut Server,
        envelope: &Envelope<'_>,
        from: Sender<'_>,
        seat: &Rc<Seat>,
        kind: PlaceKind,
        now: Instant,
    ) {
        let Kind::Request { id, .. } = &envelope.kind else {
            return;
        };
        let place = Place {
            seat: Rc::clone(seat),
            kind,
            stream: None,
            pass: from.pass,
        };
        let mut out = Outbox::default();
        match server.hand_in(
            envelope,
            *id,
            (from.party, from.caller),
            place,
            now,
            &mut out,
        ) {
            Handed::In(_) => self.send(server, out, now),
            Handed::Duplicate => seat.answer(error(
                StatusCode::BAD_REQUEST,
                Some(id.raw),
                INVALID_REQUEST,
                "This request id is still open; use an id once until its answer has come.",
            )),
            Handed::Full => seat.answer(no_room(id.raw)),
        }
    }
}

/// What a message is told that names neither a version nor a session.
fn without_session(envelope: &Envelope<'_>) -> Answer {
    let id = id_of(envelope);
    let discovers =
        matches!(&envelope.kind, Kind::Request { method, .. } if method == SERVER_DISCOVER);
    let (code, words) = match discovers {
        true => (
            INVALID_PARAMS,
            "params._meta must hold io.modelcontextprotocol/protocolVersion and io.modelcontextprotocol/clientCapabilities.",
        ),
        false => (
            INVALID_REQUEST,
            "No session: send initialize first and repeat its Mcp-Session-Id, or name the protocol version in params._meta.",
        ),
    };
    error(StatusCode::BAD_REQUEST, id, code, words)
}

pub(super) fn id_of<'a>(envelope: &Envelope<'a>) -> Option<&'a [u8]> {
    match &envelope.kind {
        Kind::Request { id, .. } => Some(id.raw),
        _ => None,
    }
}

/// The server does not read what waits for it already.
pub(super) fn no_room(id: &[u8]) -> Answer {
    error(
        StatusCode::SERVICE_UNAVAILABLE,
        Some(id),
        UNAVAILABLE,
        "The server does not keep up; try again in a second.",
    )
}

/// No process can be had.
pub(super) fn no_server(id: &[u8], why: NoServer) -> Reply {
    let words = match why {
        NoServer::Full => "As many sessions are open as may be; try again later.",
        _ => "The server is not available; try again later.",
    };
    Reply::Now(error(
        StatusCode::SERVICE_UNAVAILABLE,
        Some(id),
        UNAVAILABLE,
        words,
    ))
}
