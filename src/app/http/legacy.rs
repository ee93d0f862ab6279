//! Sessions of 2025-03-26 to 2025-11-25: begun by `initialize`, each with a server process of its own
//! unless the server is declared safe to share.

use super::errors::{INVALID_REQUEST, error};
use super::post::{
    Post, Reply, SESSION_HEADER, Sender, VERSION_HEADER, bare, id_of, is_modern, no_server,
};
use super::route::{answer_line, json};
use super::seat::Seat;
use super::server::{Handshake, Kind as PlaceKind, Place, Role, Server};
use super::state::{NoServer, State};
use super::visit::GET;
use crate::identity::Caller;
use crate::mcp::method::{
    CANCELLED, INITIALIZED, RESOURCES_SUBSCRIBE, RESOURCES_UNSUBSCRIBE, ROOTS_CHANGED,
};
use crate::mcp::{Direction, Envelope, Era, Id, Kind, Revision, parse};
use crate::proxy::{Outbox, Party};
use crate::transport::http::{HeaderMap, StatusCode, resume_from, value};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A session without a stream that nobody used for so long makes room for a new one.
const LEFT: Duration = Duration::from_secs(60);

/// Where a GET or a POST of a session may go on.
type Found = Result<Party, Reply>;

impl State {
    /// The first request of a session.
    pub(super) fn initialize(&mut self, post: &Post<'_>, id: Id<'_>, now: Instant) -> Reply {
        if let Some(session) = value(post.headers, &SESSION_HEADER) {
            return match self.find_visit(session, post.caller) {
                Some(_) => refused(id.raw, "This session is initialized already."),
                None => no_session(Some(id.raw)),
            };
        }
        let (share, most) = self
            .config
            .listen
            .as_ref()
            .map_or((false, 0), |listen| (listen.share, listen.sessions));
        if self.visits.len() >= most && !self.make_room(post.caller, now) {
            return no_server(id.raw, NoServer::Full);
        }
        // The number of a session's own server is known only once there is one.
        let (role, revision) = match share {
            true => (Role::Shared, asked(post.envelope)),
            false => (Role::Own(0), None),
        };
        let cell = match self.server_for(role, revision) {
            Ok(cell) => cell,
            Err(why) => return self.without_server(post, why),
        };
        let seat = self.seat(post.caller, now);
        let opened = self.with(cell, |state, server| {
            let party = state.open_visit(post.caller, server, now)?;
            if share {
                state.shake_hands(server, post.envelope, id, (party, post.caller), &seat, now);
            } else {
                server.role = Role::Own(party);
                let kind = PlaceKind::Initialize;
                server.session.belongs_to(Arc::clone(post.caller));
                state.submit(server, post.envelope, post.sender(party), &seat, kind, now);
            }
            Some(())
        });
        match opened.flatten() {
            Some(()) => Reply::Wait(seat),
            None => no_server(id.raw, NoServer::Unavailable),
        }
    }

    /// Ends the session of this caller that was left longest ago; false when none was left.
    fn make_room(&mut self, caller: &Caller, now: Instant) -> bool {
        // A stream that broke off is taken up again after a moment, and its session has its place until then;
        // but where most have lost theirs, clients come and go without a goodbye.
        let broken = self.visits.values().filter(|visit| visit.broke_off());
        let busy = broken.count() * 2 > self.visits.len();
        let left = self.visits.iter().filter(|(party, visit)| {
            visit.caller.is_same(caller)
                && (visit.is_left(LEFT, now) || busy && visit.broke_off())
                && !self.works_for(**party, visit.cell)
        });
        let oldest = left.min_by_key(|(_, visit)| visit.used);
        let Some((party, cell, serial)) = oldest.map(|(p, v)| (*p, v.cell, v.serial)) else {
            return false;
        };
        self.with_same(cell, serial, |state, server| {
            state.leave(server, party, now);
        });
        self.close_visit(party);
        true
    }

    /// The first client's `initialize` is the server's; the others get the same result.
    fn shake_hands(
        &mut self,
        server: &mut Server,
        envelope: &Envelope<'_>,
        id: Id<'_>,
        (party, caller): (Party, &Arc<Caller>),
        seat: &Rc<Seat>,
        now: Instant,
    ) {
        match &mut server.handshake {
            Handshake::Done(result) => {
                let line = answer_line(id.raw, "result", result);
                let version = parse(&line, Direction::ToClient).ok().and_then(|answer| {
                    let Kind::Result { result, .. } = answer.kind else {
                        return None;
                    };
                    Revision::read(&result.member("protocolVersion")?.as_text()?)
                });
                let mut answer = json(line);
                answer.session = self.greet(party, version, now);
                seat.answer(answer);
            }
            Handshake::Asked(waiting) => waiting.push((Rc::clone(seat), id.raw.into(), party)),
            Handshake::None => {
                server.handshake = Handshake::Asked(Vec::new());
                // Nobody in particular could answer the server's questions, so it is told not to ask.
                let line = without_capabilities(envelope);
                if let Ok(envelope) = parse(&line, Direction::ToServer) {
                    let kind = PlaceKind::Initialize;
                    let from = Sender {
                        party,
                        caller,
                        pass: None,
                    };
                    self.submit(server, &envelope, from, seat, kind, now);
                }
            }
        }
    }

    /// Any other message of a session.
    pub(super) fn legacy(&mut self, post: &Post<'_>, session: &str, now: Instant) -> Reply {
        let id = id_of(post.envelope);
        let party = match self.visit(session, post.headers, post.caller, id, now) {
            Ok(party) => party,
            Err(reply) => return reply,
        };
        let Some((cell, serial)) = self
            .visits
            .get(&party)
            .map(|visit| (visit.cell, visit.serial))
        else {
            return no_session(id);
        };
        let seat = id.map(|_| self.seat(post.caller, now));
        let done = self.with_same(cell, serial, |state, server| {
            state.note_watch(server, party, post.envelope);
            let waits =
                server.keeps_waiting() && state.keeps(server, post, (party, seat.as_ref()), now);
            if !waits {
                let from = post.sender(party);
                state.take_legacy(server, post.envelope, from, seat.as_ref(), now);
            }
        });
        match (done, seat) {
            (None, _) => {
                self.close_visit(party);
                no_session(id)
            }
            (Some(()), Some(seat)) => Reply::Wait(seat),
            (Some(()), None) => bare(StatusCode::ACCEPTED),
        }
    }

    /// A message of a session, for a process that can be asked.
    pub(super) fn take_legacy(
        &mut self,
        server: &mut Server,
        envelope: &Envelope<'_>,
        from: Sender<'_>,
        seat: Option<&Rc<Seat>>,
        now: Instant,
    ) {
        match (&envelope.kind, seat) {
            (Kind::Request { .. }, Some(seat)) => {
                self.submit(server, envelope, from, seat, PlaceKind::Plain, now);
            }
            (Kind::Notification { method, .. }, _) => {
                self.notified(server, envelope, method, (from.party, from.caller), now);
            }
            _ if server.role == Role::Own(from.party) => {
                let mut out = Outbox::default();
                server.pass_in(envelope.line.to_vec(), Some(from.caller), now, &mut out);
                self.send(server, out, now);
            }
            // A shared server has asked nobody.
            _ => {}
        }
    }

    fn notified(
        &mut self,
        server: &mut Server,
        envelope: &Envelope<'_>,
        method: &str,
        (party, caller): (Party, &Arc<Caller>),
        now: Instant,
    ) {
        let line = match method {
            CANCELLED => match server.exchanges.cancelled(envelope, party) {
                Some(line) => line,
                None => return,
            },
            INITIALIZED if server.role == Role::Shared => {
                if std::mem::replace(&mut server.initialized, true) {
                    return;
                }
                envelope.line.to_vec()
            }
            ROOTS_CHANGED if server.role == Role::Shared => return,
            _ => envelope.line.to_vec(),
        };
        let mut out = Outbox::default();
        server.pass_in(line, Some(caller), now, &mut out);
        self.send(server, out, now);
        if method == CANCELLED {
            self.withdrawn(server, envelope, party);
        }
    }

    /// A cancelled request has no answer to wait for (MCP 2025-11-25, cancellation).
    fn withdrawn(&mut self, server: &mut Server, envelope: &Envelope<'_>, party: Party) {
        let Kind::Notification { params, .. } = &envelope.kind else {
            return;
        };
        let Some(key) = crate::mcp::cancelled_request(*params).map(|id| id.key()) else {
            return;
        };
        let Some(number) = server.exchanges.number(party, &key) else {
            return;
        };
        if let Some(exchange) = server.exchanges.close(number) {
            let Place { seat, pass, .. } = exchange.place;
            server.late.keep(number, pass);
            seat.about.set(None);
            if seat.streams() {
                seat.end();
            } else {
                // Nothing more comes on this request: a stream that ends says so.
                seat.open();
                seat.end();
            }
        }
    }

    fn note_watch(&mut self, server: &Server, party: Party, envelope: &Envelope<'_>) {
        let Kind::Request { method, .. } = &envelope.kind else {
            return;
        };
        let on = match &**method {
            RESOURCES_SUBSCRIBE => true,
            RESOURCES_UNSUBSCRIBE => false,
            _ => return,
        };
        if server.role == Role::Shared
            && let (Some(uri), Some(visit)) = (envelope.uri(), self.visits.get_mut(&party))
        {
            visit.watch(&uri, on);
        }
    }

    /// The session that a request names.
    fn visit(
        &mut self,
        session: &str,
        headers: &HeaderMap,
        caller: &Caller,
        id: Option<&[u8]>,
        now: Instant,
    ) -> Found {
        let Some((party, visit)) = self.find_visit(session, caller) else {
            return Err(no_session(id));
        };
        if visit.revision.is_none() {
            let words = "This session is not initialized yet.";
            return Err(refused(id.unwrap_or(b"null"), words));
        }
        // A version that nobody knows is refused, an absent one is 2025-03-26 (2025-06-18, transports).
        let known = |version: &str| {
            Revision::read(version).is_some_and(|revision| revision.era() == Era::Legacy)
        };
        if value(headers, &VERSION_HEADER).is_some_and(|version| !known(version)) {
            let words = "The header MCP-Protocol-Version names no version of this session.";
            return Err(refused(id.unwrap_or(b"null"), words));
        }
        if let Some(visit) = self.visits.get_mut(&party) {
            visit.used = now;
        }
        Ok(party)
    }

    /// The session that a GET or a DELETE names; the modern era has neither.
    fn named_session<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let modern = value(headers, &VERSION_HEADER).is_some_and(is_modern);
        value(headers, &SESSION_HEADER).filter(|_| !modern && !self.stateless())
    }

    /// A GET: the stream for what belongs to no request, or one that broke off.
    pub(super) fn get(&mut self, headers: &HeaderMap, caller: &Arc<Caller>, now: Instant) -> Reply {
        let Some(session) = self.named_session(headers) else {
            return bare(StatusCode::METHOD_NOT_ALLOWED);
        };
        let party = match self.visit(session, headers, caller, None, now) {
            Ok(party) => party,
            Err(reply) => return reply,
        };
        let last = value(headers, &super::serve::LAST_EVENT);
        let after = match last.map(resume_from) {
            Some(None) => return bare(StatusCode::BAD_REQUEST),
            Some(Some(after)) => Some(after),
            None => None,
        };
        let seat = self.seat(caller, now);
        match after {
            Some((stream, event)) if stream != GET => {
                self.resume(party, stream, event, &seat, now);
            }
            _ => {
                if let Some(visit) = self.visits.get_mut(&party) {
                    visit.listen(&seat, after.map(|(_, event)| event), now);
                }
            }
        }
        Reply::Wait(seat)
    }

    /// Goes on with the stream of a request: what was missed, then what is still to come.
    fn resume(&mut self, party: Party, stream: u32, event: u64, seat: &Rc<Seat>, now: Instant) {
        let Some(visit) = self.visits.get(&party) else {
            return;
        };
        seat.open();
        for event in visit.missed(stream, event) {
            seat.push(event, now);
        }
        let (cell, serial) = (visit.cell, visit.serial);
        let goes_on = self.with_same(cell, serial, |_, server| {
            let mine = server.exchanges.iter().find(|(_, exchange)| {
                exchange.party == party && exchange.place.stream == Some(stream)
            });
            let number = mine.map(|(number, _)| number);
            let exchange = number.and_then(|number| server.exchanges.find_mut(number))?;
            let old = std::mem::replace(&mut exchange.place.seat, Rc::clone(seat));
            seat.about.set(old.about.take());
            old.end();
            Some(())
        });
        if goes_on.flatten().is_none() {
            seat.end();
        }
    }

    /// A DELETE: the session is over.
    pub(super) fn delete(&mut self, headers: &HeaderMap, caller: &Caller, now: Instant) -> Reply {
        let Some(session) = self.named_session(headers) else {
            return bare(StatusCode::METHOD_NOT_ALLOWED);
        };
        let Some((party, visit)) = self.find_visit(session, caller) else {
            return no_session(None);
        };
        let (cell, serial) = (visit.cell, visit.serial);
        self.with_same(cell, serial, |state, server| {
            state.leave(server, party, now);
        });
        self.close_visit(party);
        bare(StatusCode::NO_CONTENT)
    }
}

/// The revision that an `initialize` asks for; those that nobody knows are one.
fn asked(envelope: &Envelope<'_>) -> Option<Revision> {
    let Kind::Request { params, .. } = &envelope.kind else {
        return None;
    };
    Revision::read(&params.as_ref()?.member("protocolVersion")?.as_text()?)
}

/// The same for one that never was, that is over, and that is somebody else's.
fn no_session(id: Option<&[u8]>) -> Reply {
    Reply::Now(error(
        StatusCode::NOT_FOUND,
        Some(id.unwrap_or(b"null")),
        INVALID_REQUEST,
        "There is no such session, or no longer; send initialize without Mcp-Session-Id.",
    ))
}

fn refused(id: &[u8], words: &str) -> Reply {
    Reply::Now(error(
        StatusCode::BAD_REQUEST,
        Some(id),
        INVALID_REQUEST,
        words,
    ))
}

/// `initialize` of a client that has no capabilities.
fn without_capabilities(envelope: &Envelope<'_>) -> Vec<u8> {
    let line = envelope.line;
    let params = match &envelope.kind {
        Kind::Request { params, .. } => *params,
        _ => None,
    };
    match params.and_then(|params| params.member("capabilities")) {
        Some(found) => {
            let span = found.span();
            let before = line.get(..span.start).unwrap_or_default();
            let after = line.get(span.end..).unwrap_or_default();
            [before, b"{}", after].concat()
        }
        None => line.to_vec(),
    }
}
