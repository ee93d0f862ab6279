//! What a fresh server has to be told so that its client need not know that it is fresh.
//!
//! ```text
//! Unknown ── initialize, and its answer, passed ──▶ Known ── server replaced ──▶ Asking ── the same answer ──▶ Known
//!                                                                                   └── another ──▶ Known, announced, or the end
//! ```
//! A modern client (2026-07-28) makes no handshake: each of its requests says everything, so nothing
//! is kept for it and nothing is replayed.

use crate::mcp::method::{
    INITIALIZE, LOGGING_SET_LEVEL, RESOURCES_SUBSCRIBE, RESOURCES_UNSUBSCRIBE,
};
use crate::mcp::{self, Direction, Kind, RequestId, Subject};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Subscriptions that are made again; more are not remembered.
const SUBSCRIPTIONS: usize = 1024;

/// Notifications that say that a list is another one now, by the capability that promises them.
const ANNOUNCEMENTS: [(&str, &str); 3] = [
    ("tools", "notifications/tools/list_changed"),
    ("prompts", "notifications/prompts/list_changed"),
    ("resources", "notifications/resources/list_changed"),
];

/// How the new server's answer compares with what the client was told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Same,
    /// It can be announced: these lines for the client.
    Announce(Vec<u8>),
    /// The client would go on with something that is not there.
    Estranged(String),
}

#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// As it was passed on, like every line here.
    initialize: Option<Box<[u8]>>,
    /// The result that the client was told.
    told: Option<Box<[u8]>>,
    initialized: Option<Box<[u8]>>,
    level: Option<Box<[u8]>>,
    subscriptions: BTreeMap<Box<str>, Box<[u8]>>,
    asking: Option<RequestId>,
}

impl Handshake {
    /// Notes a request that was passed on, if a fresh server would need it.
    pub(super) fn passed_on(&mut self, subject: &Subject, line: &[u8]) {
        match &*subject.method {
            INITIALIZE => {
                *self = Self {
                    initialize: Some(line.into()),
                    ..Self::default()
                };
            }
            LOGGING_SET_LEVEL => self.level = Some(line.into()),
            RESOURCES_SUBSCRIBE => {
                if let Some(uri) = subject.name.as_deref()
                    && self.subscriptions.len() < SUBSCRIPTIONS
                {
                    self.subscriptions.insert(uri.into(), line.into());
                }
            }
            RESOURCES_UNSUBSCRIBE => {
                if let Some(uri) = subject.name.as_deref() {
                    self.subscriptions.remove(uri);
                }
            }
            _ => {}
        }
    }

    /// The client has said that it is ready.
    pub(super) fn initialized(&mut self, line: &[u8]) {
        self.initialized = Some(line.into());
    }

    /// The client is told this result of its `initialize`.
    pub(super) fn told(&mut self, result: &[u8]) {
        self.told = Some(result.into());
    }

    /// The server that was asked is gone.
    pub(super) fn forget_question(&mut self) {
        self.asking = None;
    }

    /// True while a new server has not answered.
    pub(super) fn asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Takes the new server's answer, if `id` is that of our question.
    pub(super) fn closes(&mut self, id: &RequestId) -> bool {
        self.asking.take_if(|asked| asked == id).is_some()
    }

    /// The question to a new server; `None` when there is none to ask.
    pub(super) fn ask(&mut self, id: String) -> Option<Vec<u8>> {
        let line = self.question(&id)?;
        self.asking = Some(RequestId::Text(id.into()));
        Some(line)
    }

    /// The same for a server that does not serve yet.
    pub(super) fn question(&self, id: &str) -> Option<Vec<u8>> {
        self.told.as_ref()?;
        with_id(self.initialize.as_deref()?, id)
    }

    /// The lines that follow a good answer; each request among them needs an id of ours.
    pub(super) fn follow_up(&self, mut id: impl FnMut() -> String) -> Vec<u8> {
        let mut lines = Vec::new();
        if let Some(line) = &self.initialized {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        }
        for request in self.level.iter().chain(self.subscriptions.values()) {
            lines.extend(with_id(request, &id()).unwrap_or_default());
        }
        lines
    }

    /// Compares the new server's result with the one that the client knows.
    pub(super) fn compare(&self, result: &[u8]) -> Compared {
        let read = |text: &[u8]| serde_json::from_slice::<Map<String, Value>>(text).ok();
        let told = self.told.as_deref().and_then(read).unwrap_or_default();
        let Some(new) = read(result) else {
            return Compared::Estranged("its answer to initialize is no object".to_owned());
        };
        if told == new {
            return Compared::Same;
        }
        let version = |of: &Map<String, Value>| of.get("protocolVersion").cloned();
        if version(&told) != version(&new) {
            return Compared::Estranged("it speaks another protocol version".to_owned());
        }
        let none = Map::new();
        let able = |of: &'_ Map<String, Value>| {
            let found = of.get("capabilities").and_then(Value::as_object);
            found.unwrap_or(&none).clone()
        };
        let (had, has) = (able(&told), able(&new));
        if let Some(lost) = had.keys().find(|name| !has.contains_key(*name)) {
            let lost = crate::transport::terminal::one_line(lost);
            return Compared::Estranged(format!("it does not offer {lost} any more"));
        }
        Compared::Announce(announcements(&had, |_| true))
    }

    /// What says that the tools are others now; `None` where that was not promised, or the client is not
    /// ready to be told.
    pub(super) fn announces_tools(&self) -> Option<Vec<u8>> {
        self.initialized.as_ref()?;
        let told: Map<String, Value> = serde_json::from_slice(self.told.as_deref()?).ok()?;
        let had = told.get("capabilities")?.as_object()?;
        let lines = announcements(had, |capability| capability == "tools");
        (!lines.is_empty()).then_some(lines)
    }
}

/// What says that lists are others now, as far as that was promised.
fn announcements(had: &Map<String, Value>, of: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut lines = Vec::new();
    for (capability, method) in ANNOUNCEMENTS {
        let promised = had.get(capability).and_then(|it| it.get("listChanged"));
        if of(capability) && promised == Some(&Value::Bool(true)) {
            let line = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"}}\n");
            lines.extend_from_slice(line.as_bytes());
        }
    }
    lines
}

/// The same request with a text id of ours, LF included; `None` when it cannot be read, which a line
/// that was passed on always can.
fn with_id(line: &[u8], id: &str) -> Option<Vec<u8>> {
    let envelope = mcp::parse(line, Direction::ToServer).ok()?;
    let Kind::Request { id: old, .. } = &envelope.kind else {
        return None;
    };
    let mut out = old.replaced(line, format!("\"{id}\"").as_bytes());
    out.push(b'\n');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(told: &str) -> Handshake {
        let line = br#"{"id": 0, "jsonrpc":"2.0","method":"initialize","params":{"x":1}}"#;
        let envelope = mcp::parse(line, Direction::ToServer).unwrap();
        let mut handshake = Handshake::default();
        handshake.passed_on(&Subject::of(&envelope).unwrap(), line);
        handshake.told(told.as_bytes());
        handshake
    }

    #[test]
    fn the_question_is_the_client_s_own_with_an_id_of_ours() {
        let mut handshake = known("{}");
        let line = handshake.ask("ours-1".to_owned()).unwrap();
        let expected =
            &b"{\"id\": \"ours-1\", \"jsonrpc\":\"2.0\",\"method\":\"initialize\",\"params\":{\"x\":1}}\n"[..];
        assert_eq!(line, expected);
        assert!(handshake.asking());
        assert!(!handshake.closes(&RequestId::Text("ours-2".into())));
        assert!(handshake.closes(&RequestId::Text("ours-1".into())));
        assert!(!handshake.asking());
    }

    #[test]
    fn without_an_answered_handshake_nothing_is_asked() {
        assert_eq!(Handshake::default().ask("ours".to_owned()), None);
        let mut handshake = known("{}");
        handshake.told = None;
        assert_eq!(handshake.ask("ours".to_owned()), None);
    }

    #[test]
    fn what_differs_is_announced_and_what_is_missing_ends_it() {
        let told = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"prompts":{}},"serverInfo":{"version":"1"}}"#;
        let handshake = known(told);
        assert_eq!(handshake.compare(told.as_bytes()), Compared::Same);
        let other_order = r#"{"capabilities":{"prompts":{},"tools":{"listChanged":true}},"protocolVersion":"2025-06-18","serverInfo":{"version":"1"}}"#;
        assert_eq!(handshake.compare(other_order.as_bytes()), Compared::Same);
        let newer = told.replace(r#""version":"1""#, r#""version":"2""#);
        let announced =
            &b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n"[..];
        assert_eq!(
            handshake.compare(newer.as_bytes()),
            Compared::Announce(announced.to_vec())
        );
        for (from, to) in [
            ("2025-06-18", "2025-11-25"),
            (r#","prompts":{}"#, ""),
            (told, "[]"),
        ] {
            let other = told.replace(from, to);
            let compared = handshake.compare(other.as_bytes());
            assert!(matches!(compared, Compared::Estranged(_)), "{other}");
        }
    }
}
