//! One HTTP request, from its header to its answer.

use super::post::{Reply, SESSION_HEADER, bare};
use super::seat::{Answer, Outcome, Seat};
use super::state::{Gate, State};
use super::turns::Pass;
use super::who::{Guest, Unknown};
use crate::identity::{self, Caller};
use crate::mcp::{Direction, Kind, Subject, flatten, parse};
use crate::transport::http::{
    BodyError, Bytes, Handler, HeaderName, HeaderValue, Incoming, Method, Outgoing, Parts, Request,
    Response, Source, StatusCode, accepts_events, accepts_json, carries_json, discard, header,
    read_body,
};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

pub(super) const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const ONLY_POST: HeaderValue = HeaderValue::from_static("POST");

type Out = Response<Outgoing<Ticket>>;

/// Holds a seat for as long as somebody is there to be answered.
#[derive(Debug)]
pub(super) struct Ticket {
    gate: Rc<Gate>,
    seat: Rc<Seat>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.busy.set(self.gate.busy.get() - 1);
        let over = self.seat.is_over();
        self.seat.leave();
        match self.seat.about.get() {
            _ if over => {}
            Some(about) => self.gate.left(about),
            None => self.gate.work(State::forget_held),
        }
    }
}

impl Source for Ticket {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.seat.poll_event(cx)
    }
}

impl Handler for Gate {
    type Source = Ticket;
    type Guest = Guest;

    async fn answer(self: Rc<Self>, request: Request<Incoming>, guest: Rc<Guest>) -> Out {
        let (mut parts, body) = request.into_parts();
        let admitted = match self.admit(&mut parts, &guest, self.issuer.is_none()) {
            Err(No::Stale) => {
                self.renew_keys().await;
                self.admit(&mut parts, &guest, true)
            }
            admitted => admitted,
        };
        let mut whole = true;
        let reply = match admitted {
            Ok((Method::POST, caller)) => self.take_post(&parts, body, caller).await,
            refused_or_other => {
                // Who asks first whether to send a body has not sent it.
                whole = !parts.headers.contains_key(header::EXPECT) && discard(body).await;
                refused_or_other.map(|(method, caller)| self.take_other(&method, &parts, &caller))
            }
        };
        let mut response = match reply {
            // Not after the last attempt.
            Err(No::Stale) => self.words(StatusCode::UNAUTHORIZED, &ONLY_POST),
            Err(No::Status(status)) => {
                self.metrics.http_refused(status.as_u16());
                self.words(status, &self.methods())
            }
            Err(No::Said(answer)) | Ok(Reply::Said(answer)) => self.said(answer),
            Ok(Reply::Now(answer)) => self.response(answer),
            Ok(Reply::Wait(seat)) => {
                self.busy.set(self.busy.get() + 1);
                let ticket = Ticket {
                    gate: Rc::clone(&self),
                    seat,
                };
                match poll_fn(|cx| ticket.seat.poll_outcome(cx)).await {
                    Outcome::Answered(answer) => self.response(answer),
                    Outcome::Streaming => stream(ticket),
                }
            }
        };
        if !whole {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// Why a request goes no further.
enum No {
    Status(StatusCode),
    Said(identity::Answer),
    /// Its token is signed with a key that is not known, and the issuer may be asked.
    Stale,
}

impl From<StatusCode> for No {
    fn from(status: StatusCode) -> Self {
        Self::Status(status)
    }
}

impl Gate {
    /// What can be said of a request by its header alone; its method and its sender if it goes on.
    fn admit(
        &self,
        parts: &mut Parts,
        guest: &Guest,
        last: bool,
    ) -> Result<(Method, Arc<Caller>), No> {
        if !self.names.are_ours(parts) {
            return Err(StatusCode::FORBIDDEN.into());
        }
        // Whoever has no token yet learns here who makes them.
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if reads
            && self.challenges.is_metadata_path(parts.uri.path())
            && let Some(metadata) = self.challenges.metadata()
        {
            return Err(No::Said(metadata));
        }
        if parts.uri.path() != self.listen.path {
            return Err(StatusCode::NOT_FOUND.into());
        }
        let caller = self.identify(parts, guest, last).map_err(|why| match why {
            Unknown::Denied(answer) => No::Said(answer),
            Unknown::Key => No::Stale,
        })?;
        // A token in a URL ends up in logs, and nothing else is asked for in one.
        if parts.uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(StatusCode::BAD_REQUEST.into());
        }
        Ok((Self::method(parts)?, caller))
    }

    /// The checks of the transport: method, and what the client takes and sends.
    fn method(parts: &Parts) -> Result<Method, StatusCode> {
        match parts.method {
            Method::POST => {
                let headers = &parts.headers;
                if !accepts_json(headers) || !accepts_events(headers) {
                    return Err(StatusCode::NOT_ACCEPTABLE);
                }
                let plain = !headers.contains_key(header::CONTENT_ENCODING);
                if !carries_json(headers) || !plain {
                    return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
                }
                Ok(Method::POST)
            }
            Method::GET => match accepts_events(&parts.headers) {
                true => Ok(Method::GET),
                false => Err(StatusCode::NOT_ACCEPTABLE),
            },
            Method::DELETE => Ok(Method::DELETE),
            _ => Err(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    async fn take_post(
        self: &Rc<Self>,
        parts: &Parts,
        body: Incoming,
        caller: Arc<Caller>,
    ) -> Result<Reply, No> {
        let cap = usize::try_from(self.config().limits.request.0).unwrap_or(usize::MAX);
        let read = read_body(body, cap, self.listen.body_timeout).await;
        let body = read.map_err(|error| match error {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken => StatusCode::BAD_REQUEST,
        })?;
        let pass = match self.turns().is_off() {
            true => None,
            false => match self.turn(&caller, &body).await {
                Ok(pass) => pass,
                Err(reply) => return Ok(reply),
            },
        };
        let now = Instant::now();
        Ok(self.work(|state| state.post(&parts.headers, &caller, &body, pass, now)))
    }

    /// A place for the request that a body holds, or the answer that it gets instead. What is no
    /// request needs none.
    async fn turn(
        self: &Rc<Self>,
        caller: &Arc<Caller>,
        body: &Bytes,
    ) -> Result<Option<Pass>, Reply> {
        let line = flatten(body);
        let Ok(envelope) = parse(&line, Direction::ToServer) else {
            return Ok(None);
        };
        let subject = Subject::of(&envelope);
        let (Kind::Request { .. }, Some(subject)) = (&envelope.kind, subject) else {
            return Ok(None);
        };
        if let Some(refused) = self.work(|state| state.lacks_scopes(&envelope, caller)) {
            return Err(Reply::Said(refused));
        }
        match self.turns().pass(caller, &subject).await {
            Ok(pass) => Ok(Some(pass)),
            Err(refused) => Err(self.work(|state| state.too_much(&envelope, caller, &refused))),
        }
    }

    fn take_other(self: &Rc<Self>, method: &Method, parts: &Parts, caller: &Arc<Caller>) -> Reply {
        let now = Instant::now();
        let headers = &parts.headers;
        self.work(|state| match *method {
            Method::GET => state.get(headers, caller, now),
            Method::DELETE => state.delete(headers, caller, now),
            _ => bare(StatusCode::METHOD_NOT_ALLOWED),
        })
    }

    /// An answer as it stands.
    fn response(&self, answer: Answer) -> Out {
        if answer.line.is_empty() && answer.status.is_client_error() {
            self.metrics.http_refused(answer.status.as_u16());
            // Nothing but a POST goes without a session.
            return self.words(answer.status, &ONLY_POST);
        }
        if answer.status.is_client_error() || answer.status.is_server_error() {
            self.metrics.http_refused(answer.status.as_u16());
        }
        let empty = answer.line.is_empty();
        let mut response = Response::new(Outgoing::Whole(answer.line));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        if !empty {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
        }
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(seconds) = answer.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(session) = answer.session
            && let Ok(session) = HeaderValue::from_str(&session)
        {
            headers.insert(SESSION_HEADER, session);
        }
        response
    }

    /// An answer that is made where identities are known.
    fn said(&self, answer: identity::Answer) -> Out {
        if answer.status >= 400 {
            self.metrics.http_refused(answer.status);
        }
        let mut response = Response::new(Outgoing::Whole(answer.body.into()));
        if let Ok(status) = StatusCode::from_u16(answer.status) {
            *response.status_mut() = status;
        }
        for (name, value) in answer.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        response
    }

    /// The methods that are served.
    fn methods(&self) -> HeaderValue {
        match self.listen.state {
            crate::config::StateMode::Stateless => ONLY_POST,
            crate::config::StateMode::Session => METHODS,
        }
    }

    /// A refusal in words of HTTP; where the method is at fault, those that are `allowed`.
    fn words(&self, status: StatusCode, allowed: &HeaderValue) -> Out {
        let text = match status {
            StatusCode::FORBIDDEN => "this Host or Origin is not served here\n",
            StatusCode::NOT_FOUND => "there is no such path or session here\n",
            StatusCode::NOT_ACCEPTABLE => {
                "accept application/json and text/event-stream; a GET the latter\n"
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "send application/json, not compressed\n",
            StatusCode::METHOD_NOT_ALLOWED => "this method is not served here\n",
            StatusCode::PAYLOAD_TOO_LARGE => "the body is above the limit\n",
            StatusCode::REQUEST_TIMEOUT => "the body did not come in time\n",
            _ => "this is no request that is understood here\n",
        };
        let mut response = Response::new(Outgoing::Whole(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, allowed.clone());
        }
        if matches!(
            status,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT
        ) {
            // What is left of the body is not worth reading.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn stream(ticket: Ticket) -> Out {
    let mut response = Response::new(Outgoing::Stream(ticket));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    response
}
