//! From a line of a server to whom it is for.

use super::errors::status_of;
use super::seat::Answer;
use super::server::{Handshake, Kind as PlaceKind, Place, Role, Server};
use super::state::State;
use crate::mcp::method::{PROMPTS_CHANGED, RESOURCE_UPDATED, RESOURCES_CHANGED, TOOLS_CHANGED};
use crate::mcp::{Direction, Envelope, Kind, Revision, parse};
use crate::proxy::{Address, Exchange, NOBODY, Outbox, Party, Passage, To};
use crate::transport::http::{StatusCode, event};
use std::time::Instant;

/// Notices that say that something is to be asked for again: they name no data of anybody.
const CHANGED: [&str; 3] = [TOOLS_CHANGED, RESOURCES_CHANGED, PROMPTS_CHANGED];

impl State {
    /// One line of a server.
    pub(super) fn server_line(&mut self, server: &mut Server, line: &[u8], now: Instant) {
        match server.role {
            Role::Next(_) => return self.hear_newcomer(server, line, now),
            // Everything that it was asked is answered.
            Role::Leaving => return,
            _ => {}
        }
        let mut out = Outbox::default();
        match parse(line, Direction::ToClient) {
            Err(_) => drop(server.session.server_line(line, now, &mut out)),
            Ok(envelope) => {
                if !server.late.is_empty()
                    && let To::Answer(number) = Address::of(&envelope).to
                {
                    server.late.answered(number);
                }
                match server.session.server_message(&envelope, now, &mut out) {
                    Passage::Pass => self.deliver(server, &envelope, now),
                    Passage::Replace(line) => self.deliver_line(server, &line, now),
                    Passage::Stop => {}
                }
            }
        }
        self.send(server, out, now);
    }

    /// Lines of our own go where the server's would go.
    pub(super) fn send(&mut self, server: &mut Server, out: Outbox, now: Instant) {
        if !out.to_server.is_empty() {
            server.process.inlet.send(&out.to_server, true);
        }
        for line in out.to_client.split(|byte| *byte == b'\n') {
            if !line.is_empty() {
                self.deliver_line(server, line, now);
            }
        }
    }

    fn deliver_line(&mut self, server: &mut Server, line: &[u8], now: Instant) {
        if let Ok(envelope) = parse(line, Direction::ToClient) {
            self.deliver(server, &envelope, now);
        }
    }

    fn deliver(&mut self, server: &mut Server, envelope: &Envelope<'_>, now: Instant) {
        let address = Address::of(envelope);
        match address.to {
            To::Answer(number) => {
                if let Some(exchange) = server.exchanges.close(number) {
                    let address = match exchange.place.kind {
                        PlaceKind::Listen => Address::of_listen(envelope),
                        _ => address,
                    };
                    self.finish(server, exchange, envelope, &address, now);
                }
            }
            To::Progress(number) | To::Stream(number) => {
                if server.exchanges.find(number).is_some() {
                    self.pass_on(server, number, envelope.line, Some(&address), now);
                } else if let Some(late) = server.exchanges.late(envelope.line, &address)
                    && let Some(visit) = self.visits.get_mut(&late.party)
                {
                    visit.tell(&late.line, now);
                }
            }
            To::Withdrawn(number) => match server.role {
                Role::Own(party) => self.tell(server, party, envelope.line, true, now),
                _ => self.withdraw(server, number, envelope.line, &address, now),
            },
            To::Question => match server.role {
                Role::Own(party) => self.tell(server, party, envelope.line, true, now),
                _ => self.decline(server, envelope, now),
            },
            To::Everybody => self.announce(server, envelope, now),
            To::Nobody => {}
        }
    }

    /// The answer to a request.
    fn finish(
        &mut self,
        server: &mut Server,
        exchange: Exchange<Place>,
        envelope: &Envelope<'_>,
        address: &Address,
        now: Instant,
    ) {
        let mut line = Vec::with_capacity(envelope.line.len() + exchange.raw_id.len());
        exchange.restore(envelope.line, address, &mut line);
        let Place {
            seat, kind, stream, ..
        } = exchange.place;
        seat.about.set(None);
        if exchange.party == NOBODY {
            if let Some(caller) = seat.caller.get() {
                self.owners.note(envelope, caller);
            }
            if seat.streams() {
                seat.push(event(&line), now);
                seat.end();
            } else {
                seat.answer(Answer {
                    status: status_of(envelope),
                    line: line.into(),
                    session: None,
                    retry_after: None,
                });
            }
            return;
        }
        if kind == PlaceKind::Initialize {
            return self.begin(server, exchange.party, envelope, line, &seat, now);
        }
        let Some(visit) = self.visits.get_mut(&exchange.party) else {
            // The session was ended meanwhile; whoever still waits gets the answer all the same.
            if seat.streams() {
                seat.push(event(&line), now);
                seat.end();
            } else {
                seat.answer(json(line));
            }
            return;
        };
        visit.used = now;
        match stream {
            Some(stream) => {
                let event = visit.record(stream, &line);
                seat.push(event, now);
                seat.end();
            }
            None => seat.answer(json(line)),
        }
    }

    /// The answer to `initialize`: a result begins the session, an error ends it.
    fn begin(
        &mut self,
        server: &mut Server,
        party: Party,
        envelope: &Envelope<'_>,
        line: Vec<u8>,
        seat: &super::seat::Seat,
        now: Instant,
    ) {
        let result = match &envelope.kind {
            Kind::Result { result, .. } => Some(*result),
            _ => None,
        };
        let version = result.and_then(|result| result.member("protocolVersion"));
        let revision = version.and_then(|version| Revision::read(&version.as_text()?));
        let session = result.and_then(|_| self.greet(party, revision, now));
        let failed = session.is_none();
        let mut answer = json(line);
        answer.session = session;
        seat.answer(answer);
        if server.role == Role::Shared {
            let done = result.map_or(Handshake::None, |result| {
                Handshake::Done(result.text.into())
            });
            if let Handshake::Asked(waiting) = std::mem::replace(&mut server.handshake, done) {
                for (seat, id, party) in waiting {
                    self.welcome(server, party, &id, &seat, envelope, now);
                }
            }
        }
        if failed {
            self.leave(server, party, now);
        }
    }

    /// One more session on a server that is shared and has been initialized, or could not be.
    fn welcome(
        &mut self,
        server: &mut Server,
        party: Party,
        id: &[u8],
        seat: &super::seat::Seat,
        answer: &Envelope<'_>,
        now: Instant,
    ) {
        let (member, text) = match &answer.kind {
            Kind::Result { result, .. } => ("result", result.text),
            Kind::Error { error, .. } => ("error", error.text),
            _ => return,
        };
        let version = match &answer.kind {
            Kind::Result { result, .. } => result.member("protocolVersion"),
            _ => None,
        };
        let revision = version.and_then(|version| Revision::read(&version.as_text()?));
        let mut said = json(answer_line(id, member, text));
        if member == "result" {
            said.session = self.greet(party, revision, now);
        } else {
            self.leave(server, party, now);
        }
        seat.answer(said);
    }

    /// The session has begun: its id.
    pub(super) fn greet(
        &mut self,
        party: Party,
        revision: Option<Revision>,
        now: Instant,
    ) -> Option<smol_str::SmolStr> {
        let visit = self.visits.get_mut(&party)?;
        visit.revision = Some(revision.unwrap_or(Revision::V2025_03_26));
        visit.used = now;
        Some(visit.id.clone())
    }

    /// A session is over: its server too, if it was its own.
    pub(super) fn leave(&mut self, server: &mut Server, party: Party, now: Instant) {
        self.close_visit(party);
        if server.role == Role::Own(party) {
            let act = server.process.life.end_of_input(now);
            if !server.process.runs && server.process.ended.is_none() {
                // Nobody will say that it is gone.
                server.process.ended = Some(("its session has ended".to_owned(), now));
                self.wake(Some(now));
            }
            return self.act(server, act);
        }
        let open = server
            .exchanges
            .iter()
            .filter(|(_, exchange)| exchange.party == party);
        let open: Vec<i64> = open.map(|(number, _)| number).collect();
        for number in open {
            self.give_up(server, number, now);
        }
        server.exchanges.forget(party);
    }

    /// Nobody wants the answer any more: the server is told.
    pub(super) fn give_up(&mut self, server: &mut Server, number: i64, now: Instant) {
        let Some(exchange) = server.exchanges.close(number) else {
            return;
        };
        let Place { seat, pass, .. } = exchange.place;
        // To a server on HTTP the connection is closed, and nothing late can come of it.
        if self.bridges.is_none() {
            server.late.keep(number, pass);
        }
        seat.about.set(None);
        seat.end();
        let line = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client is gone"}}}}"#
        );
        let mut out = Outbox::default();
        server.pass_in(line.into_bytes(), None, now, &mut out);
        self.send(server, out, now);
    }

    /// Something about a request that is open: an event of its stream.
    fn pass_on(
        &mut self,
        server: &mut Server,
        number: i64,
        line: &[u8],
        address: Option<&Address>,
        now: Instant,
    ) {
        let Some(exchange) = server.exchanges.find(number) else {
            return;
        };
        let mut own = Vec::with_capacity(line.len() + exchange.raw_id.len() + 8);
        match address {
            Some(address) => exchange.restore(line, address, &mut own),
            None => own.extend_from_slice(line),
        }
        if exchange.party == NOBODY {
            if !exchange.place.seat.push(event(&own), now) {
                // Too slow, or gone: its stream is over, and the server need not go on.
                self.give_up(server, number, now);
            }
            return;
        }
        let party = exchange.party;
        if exchange.place.kind == PlaceKind::Initialize {
            return self.tell_later(party, &own, now);
        }
        let Some(visit) = self.visits.get_mut(&party) else {
            return;
        };
        let Some(stream) = server.stream_of(number, visit, now) else {
            return;
        };
        let event = visit.record(stream, &own);
        if let Some(exchange) = server.exchanges.find(number) {
            exchange.place.seat.push(event, now);
        }
    }

    fn tell_later(&mut self, party: Party, line: &[u8], now: Instant) {
        if let Some(visit) = self.visits.get_mut(&party) {
            visit.tell(line, now);
        }
    }

    /// Something for a session that belongs to no request: the stream of one that is open, or the one
    /// that a GET has opened; `soon` where somebody waits for what the client does with it.
    fn tell(&mut self, server: &mut Server, party: Party, line: &[u8], soon: bool, now: Instant) {
        let Some(visit) = self.visits.get_mut(&party) else {
            return;
        };
        let latest = server.latest(party);
        match latest {
            Some(number) if soon || visit.get.is_none() => {
                self.pass_on(server, number, line, None, now);
            }
            _ => visit.tell(line, now),
        }
    }

    /// The server ends a stream that a client listens to.
    fn withdraw(
        &mut self,
        server: &mut Server,
        number: i64,
        line: &[u8],
        address: &Address,
        now: Instant,
    ) {
        let listens = |exchange: &Exchange<Place>| exchange.place.kind == PlaceKind::Listen;
        if !server.exchanges.find(number).is_some_and(listens) {
            return;
        }
        self.pass_on(server, number, line, Some(address), now);
        if let Some(exchange) = server.exchanges.close(number) {
            exchange.place.seat.about.set(None);
            exchange.place.seat.end();
        }
    }

    /// A question of a server that several clients share: nobody can be picked to answer it.
    fn decline(&mut self, server: &mut Server, envelope: &Envelope<'_>, now: Instant) {
        let Kind::Request { id, .. } = &envelope.kind else {
            return;
        };
        let text = br#"{"code":-32601,"message":"This server is shared by several clients; none of them can be asked."}"#;
        let mut out = Outbox::default();
        server.pass_in(answer_line(id.raw, "error", text), None, now, &mut out);
        self.send(server, out, now);
    }

    /// A notification that names no request.
    fn announce(&mut self, server: &mut Server, envelope: &Envelope<'_>, now: Instant) {
        let Kind::Notification { method, params } = &envelope.kind else {
            return;
        };
        let changed = CHANGED.contains(&&**method);
        match server.role {
            Role::Own(party) => {
                let soon = !changed && method != RESOURCE_UPDATED;
                self.tell(server, party, envelope.line, soon, now);
            }
            Role::Shared => {
                let uri = params.and_then(|params| params.member("uri"));
                let uri = uri.and_then(|uri| uri.as_text());
                let watched = uri.as_deref().filter(|_| method == RESOURCE_UPDATED);
                for visit in self
                    .visits
                    .values_mut()
                    .filter(|v| v.serial == server.serial)
                {
                    if changed || watched.is_some_and(|uri| visit.watches(uri)) {
                        visit.tell(envelope.line, now);
                    }
                }
            }
            // What it says may be about anybody's request; with one open it is about that one. Notices
            // of changes come on listen streams alone.
            Role::Modern if !changed && method != RESOURCE_UPDATED => {
                if let Some(number) = server.only() {
                    self.pass_on(server, number, envelope.line, None, now);
                }
            }
            Role::Modern | Role::Spare | Role::Next(_) | Role::Leaving => {}
        }
    }
}

/// An answer that is no error of HTTP.
pub(super) fn json(line: Vec<u8>) -> Answer {
    Answer {
        status: StatusCode::OK,
        line: line.into(),
        session: None,
        retry_after: None,
    }
}

/// An answer to the request with this raw id.
pub(super) fn answer_line(id: &[u8], member: &str, text: &[u8]) -> Vec<u8> {
    let mut line = br#"{"jsonrpc":"2.0","id":"#.to_vec();
    line.extend_from_slice(id);
    line.extend_from_slice(b",\"");
    line.extend_from_slice(member.as_bytes());
    line.extend_from_slice(b"\":");
    line.extend_from_slice(text);
    line.push(b'}');
    line
}
