//! One line of the client as a request of HTTP: what its headers have to say of it.

use crate::mcp::method::{PROMPTS_GET, RESOURCES_READ, TOOLS_CALL};
use crate::mcp::{self, Direction, Envelope, Era, Kind, RawId, RequestId};
use crate::policy::Mirror;
use crate::transport::http::{Bytes, HeaderMap, HeaderName, HeaderValue, coded, header};
use std::cell::Cell;
use std::collections::HashMap;

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Which arguments of which tools are repeated in headers.
pub(super) type Mirrors = HashMap<String, Box<[Mirror]>>;

/// A request that waits for its answer.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// Without its LF.
    pub(super) line: Bytes,
    pub(super) key: RequestId,
    pub(super) raw_id: RawId,
    pub(super) method: String,
    pub(super) era: Era,
    /// The tool, or the method.
    pub(super) about: String,
    /// Its answer is on its way.
    pub(super) answered: Cell<bool>,
}

impl Ask {
    /// One of our own; `None` when the line is no request.
    pub(super) fn read(line: &Bytes) -> Option<Self> {
        Self::of(&mcp::parse(line, Direction::ToServer).ok()?, line)
    }

    /// `None` when `envelope`, which is that of the line, holds no request.
    pub(super) fn of(envelope: &Envelope<'_>, line: &Bytes) -> Option<Self> {
        let Kind::Request { id, method, .. } = &envelope.kind else {
            return None;
        };
        Some(Self {
            key: id.key(),
            raw_id: id.raw.into(),
            method: method.clone().into_owned(),
            era: Era::of(envelope).unwrap_or_default(),
            about: match envelope.name().filter(|_| **method == *TOOLS_CALL) {
                Some(tool) => format!("{method} {tool}"),
                None => method.clone().into_owned(),
            },
            answered: Cell::new(false),
            line: line.clone(),
        })
    }
}

/// The headers of any POST: what goes and what may come.
pub(super) fn describe(headers: &mut HeaderMap) {
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let both = HeaderValue::from_static("application/json, text/event-stream");
    headers.insert(header::ACCEPT, both);
}

/// What the headers of a modern message repeat of its body (MCP 2026-07-28, transports); nothing for a
/// legacy one.
pub(super) fn repeat(headers: &mut HeaderMap, envelope: &Envelope<'_>, mirrors: &Mirrors) {
    let Some(version) = envelope.version().and_then(|version| version.as_text()) else {
        return;
    };
    headers.insert(VERSION, coded(&version));
    let (Kind::Request { method, .. } | Kind::Notification { method, .. }) = &envelope.kind else {
        return;
    };
    headers.insert(METHOD, coded(method));
    let Some(name) = name(envelope, method) else {
        return;
    };
    headers.insert(NAME, coded(&name));
    let of_tool = mirrors.get(&name).filter(|_| &**method == TOOLS_CALL);
    for mirror in of_tool.into_iter().flatten() {
        if let (Some(said), Ok(name)) = (
            mirror.said(envelope.arguments()),
            HeaderName::try_from(format!("mcp-param-{}", mirror.header)),
        ) {
            headers.insert(name, coded(&said));
        }
    }
}

fn name(envelope: &Envelope<'_>, method: &str) -> Option<String> {
    let params = match &envelope.kind {
        Kind::Request { params, .. } | Kind::Notification { params, .. } => *params,
        _ => None,
    };
    let name = match method {
        TOOLS_CALL | PROMPTS_GET => envelope.name(),
        RESOURCES_READ => envelope.uri(),
        method if method.starts_with("tasks/") => params?.member("taskId")?.as_text(),
        _ => None,
    };
    name.map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::listed;

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

    fn headers(line: &str) -> HeaderMap {
        let tools = br#"{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"}}}}]}"#;
        let mirrors: Mirrors = listed(tools).tools.into_iter().collect();
        let mut headers = HeaderMap::new();
        let envelope = mcp::parse(line.as_bytes(), Direction::ToServer).unwrap();
        repeat(&mut headers, &envelope, &mirrors);
        headers
    }

    #[test]
    fn a_modern_request_is_repeated_and_a_legacy_one_is_not() {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"region":"\u00fc","n":7}},{META}}}}}"#
        );
        let got = headers(&call);
        for (name, value) in [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "t"),
            ("mcp-param-region", "=?base64?w7w=?="),
            ("mcp-param-n", "7"),
        ] {
            assert_eq!(got[name], value, "{name}");
        }
        let absent = call.replace(r#""region":"\u00fc","#, r#""region":null,"#);
        assert!(!headers(&absent).contains_key("mcp-param-region"));
        let read = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":"x:\/y",{META}}}}}"#
        );
        assert_eq!(headers(&read)["mcp-name"], "x:/y");
        let legacy = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
        assert!(headers(legacy).is_empty());
    }

    #[test]
    fn no_body_can_write_a_header_of_its_own() {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t\r\nX-Evil: 1",{META}}}}}"#
        );
        let got = headers(&call);
        assert_eq!(got.len(), 3);
        assert!(got["mcp-name"].to_str().unwrap().starts_with("=?base64?"));
    }
}
