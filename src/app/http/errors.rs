//! What HTTP adds to the errors of the protocol: a status, and codes of its own (MCP 2026-07-28,
//! transports).

use super::seat::Answer;
use crate::mcp::{Envelope, Kind};
use crate::transport::http::StatusCode;
use serde_json::{Value, json};

/// The headers do not say what the body says.
pub(super) const HEADER_MISMATCH: i64 = -32020;
/// A capability that the client did not declare is needed.
pub(super) const CAPABILITY: i64 = -32021;
/// This version is not served.
pub(super) const VERSION: i64 = -32022;
pub(super) const INVALID_REQUEST: i64 = -32600;
pub(super) const INVALID_PARAMS: i64 = -32602;
pub(super) const METHOD_NOT_FOUND: i64 = -32601;
/// Also what a stream beyond the largest number is told (subscriptions).
pub(super) const INTERNAL: i64 = -32603;
const PARSE: i64 = -32700;
/// Nobody is there to answer, or there is no room.
pub(super) const UNAVAILABLE: i64 = 5030;

/// An error for the request with this raw id.
pub(super) fn error(status: StatusCode, id: Option<&[u8]>, code: i64, message: &str) -> Answer {
    with_data(status, id, code, message, &Value::Null)
}

/// The same with `data`.
pub(super) fn with_data(
    status: StatusCode,
    id: Option<&[u8]>,
    code: i64,
    message: &str,
    data: &Value,
) -> Answer {
    let mut body = json!({ "code": code, "message": message });
    if !data.is_null() {
        body["data"] = data.clone();
    }
    let mut line = br#"{"jsonrpc":"2.0""#.to_vec();
    if let Some(id) = id {
        line.extend_from_slice(br#","id":"#);
        line.extend_from_slice(id);
    }
    line.extend_from_slice(br#","error":"#);
    line.extend_from_slice(body.to_string().as_bytes());
    line.push(b'}');
    Answer {
        status,
        line: line.into(),
        session: None,
        retry_after: None,
    }
}

/// The status of an answer of the server to a modern request.
pub(super) fn status_of(envelope: &Envelope<'_>) -> StatusCode {
    let Kind::Error { error, .. } = &envelope.kind else {
        return StatusCode::OK;
    };
    let code = error.member("code");
    let code = code.and_then(|code| std::str::from_utf8(code.text).ok()?.parse::<i64>().ok());
    match code {
        Some(METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Some(HEADER_MISMATCH | CAPABILITY | VERSION | INVALID_REQUEST | PARSE) => {
            StatusCode::BAD_REQUEST
        }
        _ => StatusCode::OK,
    }
}
