//! A request of 2026-07-28: no session, the version in each, headers that repeat the body. The checks
//! stand in the order of the specification (basic, transports).

use super::errors::{
    HEADER_MISMATCH, INTERNAL, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, VERSION, error,
    with_data,
};
use super::post::{Post, Reply, Sender, VERSION_HEADER, bare, id_of};
use super::seat::Answer;
use super::server::{Held, Kind as PlaceKind, Role, Server};
use super::state::State;
use crate::identity::{Caller, How};
use crate::mcp::method::{Method, PROMPTS_GET, RESOURCES_READ, SUBSCRIPTIONS_LISTEN, TOOLS_CALL};
use crate::mcp::{Direction, Envelope, Id, Kind, Raw, Revision, flatten, parse};
use crate::proxy::{NOBODY, Outbox};
use crate::transport::http::{CONNECTIONS, HeaderMap, HeaderName, StatusCode, decoded, value};
use serde_json::json;
use std::rc::Rc;
use std::time::Instant;

/// Streams that one client listens on at one time, of one server process.
const LISTENS: usize = 32;
/// Those of all, where each takes a connection to the server: the rest is for requests that end.
const STREAMS: usize = CONNECTIONS / 2;

const METHOD_HEADER: HeaderName = HeaderName::from_static("mcp-method");
const NAME_HEADER: HeaderName = HeaderName::from_static("mcp-name");
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVED: &str = Revision::V2026_07_28.as_str();

impl State {
    pub(super) fn modern(&mut self, post: &Post<'_>, now: Instant) -> Reply {
        let (id, params) = match &post.envelope.kind {
            Kind::Request { id, params, .. } => (*id, *params),
            // Clients on HTTP have none to send: closing the stream is what cancels.
            Kind::Notification { .. } => return bare(StatusCode::ACCEPTED),
            _ => {
                return Reply::Now(error(
                    StatusCode::BAD_REQUEST,
                    None,
                    INVALID_REQUEST,
                    "Servers of this version ask nothing, so there is nothing to answer.",
                ));
            }
        };
        let checked = versions(post, id, params)
            .and_then(|()| names(post, id))
            .and_then(|()| is_served(post.envelope, id));
        if let Err(refused) = checked {
            return Reply::Now(refused);
        }
        if self.owners.is_foreign(post.envelope, post.caller) {
            let words = "Failed to retrieve task: Task not found";
            let refused = error(StatusCode::OK, Some(id.raw), INVALID_PARAMS, words);
            return Reply::Now(refused);
        }
        let cell = match self.server_for(Role::Modern, None) {
            Ok(cell) => cell,
            Err(why) => return self.without_server(post, why),
        };
        let seat = self.seat(post.caller, now);
        self.with(cell, |state, server| {
            let held = || post.held(NOBODY, Rc::clone(&seat));
            if server.keeps_waiting() {
                state.keep(server, held());
            } else if waits_for_tools(server, post.envelope) {
                state.take_modern(server, post.envelope, held(), now);
            } else {
                let from = post.sender(NOBODY);
                state.enter(server, post.envelope, (id, post.headers), from, &seat, now);
            }
        });
        Reply::Wait(seat)
    }

    /// A modern request, for a process that can be asked.
    pub(super) fn take_modern(
        &mut self,
        server: &mut Server,
        envelope: &Envelope<'_>,
        held: Held,
        now: Instant,
    ) {
        let Kind::Request { id, .. } = &envelope.kind else {
            return;
        };
        if !waits_for_tools(server, envelope) {
            let from = Sender {
                party: NOBODY,
                caller: &held.caller,
                pass: held.pass,
            };
            return self.enter(
                server,
                envelope,
                (*id, &held.headers),
                from,
                &held.seat,
                now,
            );
        }
        let mut out = Outbox::default();
        server.session.ask_for_tools(envelope, now, &mut out);
        self.send(server, out, now);
        let seat = Rc::clone(&held.seat);
        if !server.hold(held) {
            seat.answer(error(
                StatusCode::SERVICE_UNAVAILABLE,
                Some(id.raw),
                super::errors::UNAVAILABLE,
                "Too many calls wait for the server's tool list; try again in a second.",
            ));
        }
    }

    /// The last check, and in.
    fn enter(
        &mut self,
        server: &mut Server,
        envelope: &Envelope<'_>,
        (id, headers): (Id<'_>, &HeaderMap),
        from: Sender<'_>,
        seat: &Rc<super::seat::Seat>,
        now: Instant,
    ) {
        if calls(envelope)
            && let Some(header) = parameter_mismatch(server, envelope, headers)
        {
            return seat.answer(mismatch(id, &format!("Mcp-Param-{header}")));
        }
        let listens = matches!(&envelope.kind, Kind::Request { method, .. } if method == SUBSCRIPTIONS_LISTEN);
        let kind = if listens {
            PlaceKind::Listen
        } else {
            PlaceKind::Plain
        };
        if listens && !self.has_room_to_listen(server, from.caller) {
            return seat.answer(error(
                StatusCode::OK,
                Some(id.raw),
                INTERNAL,
                "As many streams are listened on as may be; end another one first.",
            ));
        }
        self.submit(server, envelope, from, seat, kind, now);
    }

    /// Streams are open for hours. No client has so many that others find none, or no connection to a server
    /// on HTTP; whoever comes to a listener that asks nobody for a name may be many clients.
    fn has_room_to_listen(&self, server: &Server, caller: &Caller) -> bool {
        let listening = server.exchanges.iter().map(|(_, exchange)| &exchange.place);
        let listening = listening.filter(|place| place.kind == PlaceKind::Listen);
        let (mut all, mut own) = (0, 0);
        for place in listening {
            all += 1;
            own += usize::from(place.seat.caller.get().is_some_and(|it| it.is_same(caller)));
        }
        (all < STREAMS || self.bridges.is_none()) && (own < LISTENS || caller.how == How::Loopback)
    }

    /// What waits for a server or its tools, and for which nobody waits, gives its place back. What a session
    /// has asked for goes on: its client may fetch the answer later.
    pub(super) fn forget_held(&mut self) {
        let wanted = |held: &Held| held.party != NOBODY || !held.seat.gone.get();
        for server in self.servers.iter_mut().flatten() {
            server.held.retain(wanted);
            server.waiting.retain(wanted);
        }
    }

    /// The tools are known, or never will be: what waited for them goes on.
    pub(super) fn release(&mut self, server: &mut Server, now: Instant) {
        if server.held.is_empty() || server.keeps_waiting() || !server.session.tools().is_settled()
        {
            return;
        }
        for held in std::mem::take(&mut server.held) {
            let body = held.body.clone();
            let line = flatten(&body);
            if let Ok(envelope) = parse(&line, Direction::ToServer) {
                self.take_modern(server, &envelope, held, now);
            }
        }
    }
}

/// Which headers belong to a call is in the tool's schema.
fn waits_for_tools(server: &Server, envelope: &Envelope<'_>) -> bool {
    calls(envelope) && !server.session.tools().is_settled()
}

fn calls(envelope: &Envelope<'_>) -> bool {
    matches!(&envelope.kind, Kind::Request { method, .. } if method == TOOLS_CALL)
}

/// `_meta` says the version and the capabilities, and we serve that version.
fn versions(post: &Post<'_>, id: Id<'_>, params: Option<Raw<'_>>) -> Result<(), Answer> {
    let bad = |code, words: &str| Err(error(StatusCode::BAD_REQUEST, Some(id.raw), code, words));
    let Some(version) = post
        .envelope
        .version()
        .and_then(|version| version.as_text())
    else {
        return bad(
            INVALID_PARAMS,
            "params._meta must hold io.modelcontextprotocol/protocolVersion, a string.",
        );
    };
    let meta = params.and_then(|params| params.member("_meta"));
    let capabilities = meta.and_then(|meta| meta.member(CAPABILITIES));
    if capabilities.is_none_or(|value| value.text.first() != Some(&b'{')) {
        return bad(
            INVALID_PARAMS,
            "params._meta must hold io.modelcontextprotocol/clientCapabilities, an object.",
        );
    }
    let header = value(post.headers, &VERSION_HEADER);
    if header.is_some_and(|header| header != version) {
        return Err(mismatch(id, "MCP-Protocol-Version"));
    }
    if version != SERVED {
        return Err(version_refused(post.envelope, Some(&version)));
    }
    if header.is_none() {
        return Err(mismatch(id, "MCP-Protocol-Version"));
    }
    Ok(())
}

/// `Mcp-Method` and `Mcp-Name` say what the body says.
fn names(post: &Post<'_>, id: Id<'_>) -> Result<(), Answer> {
    let Kind::Request { method, params, .. } = &post.envelope.kind else {
        return Ok(());
    };
    if said(post.headers, &METHOD_HEADER).is_none_or(|said| said != *method) {
        return Err(mismatch(id, "Mcp-Method"));
    }
    let task = || params.and_then(|params| params.member("taskId")?.as_text());
    let name = match &**method {
        TOOLS_CALL | PROMPTS_GET => post.envelope.name(),
        RESOURCES_READ => post.envelope.uri(),
        // The extension repeats the task; clients without it do not.
        task_method if task_method.starts_with("tasks/") => {
            let header = said(post.headers, &NAME_HEADER);
            return match (header, task()) {
                (Some(header), Some(task)) if header != task => Err(mismatch(id, "Mcp-Name")),
                _ => Ok(()),
            };
        }
        _ => return Ok(()),
    };
    // A body without a name is for the server to refuse, but not under a name in the header.
    match (said(post.headers, &NAME_HEADER), name) {
        (Some(header), Some(name)) if header == name => Ok(()),
        (None, None) if value(post.headers, &NAME_HEADER).is_none() => Ok(()),
        _ => Err(mismatch(id, "Mcp-Name")),
    }
}

/// A method of an earlier era never reaches a process that clients share: some servers become one of that
/// era by it, for everybody. What no revision has is for the server to know.
fn is_served(envelope: &Envelope<'_>, id: Id<'_>) -> Result<(), Answer> {
    let Kind::Request { method, .. } = &envelope.kind else {
        return Ok(());
    };
    let known = Method::find(method.as_bytes());
    if known.is_none_or(|known| known.is_in(Revision::V2026_07_28) && !known.is_notification()) {
        return Ok(());
    }
    Err(error(
        StatusCode::NOT_FOUND,
        Some(id.raw),
        METHOD_NOT_FOUND,
        &format!("{SERVED} has no request {method}."),
    ))
}

/// The header of an argument that does not say what the argument says.
fn parameter_mismatch(
    server: &Server,
    envelope: &Envelope<'_>,
    headers: &HeaderMap,
) -> Option<String> {
    let name = envelope.name()?;
    let mirrors = server.session.tools().mirrors(&name);
    let wrong = mirrors.iter().find(|mirror| {
        let header = HeaderName::try_from(format!("mcp-param-{}", mirror.header));
        let Ok(header) = header else { return false };
        let raw = value(headers, &header);
        let said = raw.and_then(decoded);
        // One that cannot be decoded is no absent one.
        raw.is_some() != said.is_some() || !mirror.agrees(envelope.arguments(), said.as_deref())
    });
    wrong.map(|mirror| mirror.header.to_string())
}

fn said<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<std::borrow::Cow<'h, str>> {
    decoded(value(headers, name)?)
}

fn mismatch(id: Id<'_>, header: &str) -> Answer {
    let words = format!("The header {header} does not say what the body says.");
    error(
        StatusCode::BAD_REQUEST,
        Some(id.raw),
        HEADER_MISMATCH,
        &words,
    )
}

/// This version is not served here.
pub(super) fn version_refused(envelope: &Envelope<'_>, requested: Option<&str>) -> Answer {
    let asked = match &envelope.kind {
        Kind::Request { params, .. } => {
            let member = params.and_then(|params| params.member("protocolVersion"));
            member.and_then(|version| version.as_text().map(|text| text.into_owned()))
        }
        _ => None,
    };
    let requested = requested.map(str::to_owned).or(asked);
    with_data(
        StatusCode::BAD_REQUEST,
        id_of(envelope),
        VERSION,
        &format!("This protocol version is not served; {SERVED} is."),
        &json!({ "supported": [SERVED], "requested": requested }),
    )
}
