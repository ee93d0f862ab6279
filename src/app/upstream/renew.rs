//! The session of the revisions that have one: opened by the client's `initialize`, and opened anew,
//! without a word to the client, when the server has forgotten it (404).

use super::ask::{Ask, SESSION, VERSION};
use super::bridge::{Bridge, GREETED, TOLD, slow};
use crate::mcp::{self, Direction, Kind};
use crate::proxy::Trouble;
use crate::transport::http::{Bytes, HeaderMap, HeaderValue, coded};
use std::rc::Rc;
use tokio::task::AbortHandle;

/// What a session consists of.
#[derive(Debug, Default)]
pub(super) struct Visit {
    pub(super) session: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// The client's `initialize`, and its `notifications/initialized`.
    opening: Option<Bytes>,
    pub(super) greeting: Option<Bytes>,
    /// Counted up with each session.
    pub(super) generation: u64,
    /// The stream of the GET.
    pub(super) listening: Option<AbortHandle>,
}

impl Visit {
    /// Takes the answer to an `initialize`; an error opens nothing.
    pub(super) fn begin(&mut self, opening: &Bytes, headers: &HeaderMap, answer: &[u8]) -> bool {
        let text = answer.strip_suffix(b"\n").unwrap_or(answer);
        let envelope = mcp::parse(text, Direction::ToClient);
        let Ok(Kind::Result { result, .. }) = envelope.map(|it| it.kind) else {
            return false;
        };
        let version = result.member("protocolVersion").and_then(|it| it.as_text());
        self.version = version.map(|version| coded(&version));
        self.session = headers.get(SESSION).cloned();
        self.opening = Some(opening.clone());
        self.generation += 1;
        true
    }

    /// The headers that belong to the session.
    pub(super) fn sign(&self, headers: &mut HeaderMap) {
        if let Some(session) = &self.session {
            headers.insert(SESSION, session.clone());
        }
        if let Some(version) = &self.version {
            headers.insert(VERSION, version.clone());
        }
    }
}

impl Bridge {
    /// Opens the session anew, unless somebody else has done so since `generation`.
    ///
    /// # Errors
    /// The server will not have it, or says nothing.
    pub(super) async fn renew(self: &Rc<Self>, generation: u64) -> Result<(), Trouble> {
        let _turn = self.renewing.lock().await;
        let lost = || Trouble::Status {
            status: 404,
            after: None,
        };
        let (opening, greeting) = {
            let visit = self.visit.borrow();
            if visit.generation != generation {
                return Ok(());
            }
            (visit.opening.clone(), visit.greeting.clone())
        };
        let opening = opening.ok_or_else(lost)?;
        let line = {
            let envelope = mcp::parse(&opening, Direction::ToServer).map_err(|_| lost())?;
            let Kind::Request { id, .. } = &envelope.kind else {
                return Err(lost());
            };
            let ours = format!("\"cofferdam-renew-{generation}\"");
            id.replaced(&opening, ours.as_bytes())
        };
        let ask = Ask::read(&line.into()).ok_or_else(lost)?;
        // All who find the session gone wait for this.
        let answered = tokio::time::timeout(TOLD, self.private(&ask)).await;
        let (headers, answer) = answered.unwrap_or_else(|_| Err(slow()))?;
        if !self.visit.borrow_mut().begin(&opening, &headers, &answer) {
            return Err(lost());
        }
        tracing::info!("the server had forgotten the session; it was opened anew");
        if let Some(greeting) = greeting {
            let told = tokio::time::timeout(GREETED, self.tell_once(&greeting)).await;
            told.unwrap_or_else(|_| Err(slow()))?;
            self.listen();
        }
        Ok(())
    }
}
