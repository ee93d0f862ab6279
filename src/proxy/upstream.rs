//! The answer to a request that a server elsewhere did not answer, whatever it did instead.

use super::reply::{self, own};
use crate::mcp::{self, Direction, Era, Kind, Subject};
use crate::policy::{CREDENTIALS_BREAKER, LIMITS_RESPONSE, Refusal, code};
use std::time::Duration;

/// What came in the place of an answer. Nothing that the server said is repeated to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The server has heard nothing. The reason is for the operator.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The connection ended before the answer.
    #[error("the connection ended before the answer: {0}")]
    Broken(String),
    /// It does not take us for somebody who may ask: 401, 403, 407.
    #[error("it answers {0}: the credential is missing or refused")]
    Denied(u16),
    /// There is nothing to sign in with: it was revoked, or cannot be sent.
    #[error("there is no credential to ask it with")]
    Missing,
    /// It has not taken the credential again and again, and is left alone for so long.
    #[error("it does not accept the credential, and is asked again in {} s", .0.as_secs())]
    Barred(Duration),
    /// What the request was made with was revoked before the answer.
    #[error("the credential was revoked before the answer")]
    Revoked,
    /// It points elsewhere, where nobody follows.
    #[error(
        "it answers {0}, a redirect, which is not followed: write the new place into `server.url`"
    )]
    Redirect(u16),
    /// The request is too large for it.
    #[error("it answers 413: the request is too large for it")]
    RequestTooLarge,
    /// Another status that is no success, and perhaps when to come again.
    #[error("it answers {status}")]
    Status {
        status: u16,
        after: Option<Duration>,
    },
    /// What came is no answer to the request.
    #[error("what it answers is no answer: {0}")]
    NoAnswer(&'static str),
    /// The answer is larger than the cap, in bytes.
    #[error("its answer has more than {cap} bytes")]
    TooLarge { cap: u64 },
    /// It does not pass its health check, and is checked again after so long.
    #[error("it does not pass its health check")]
    Down(Duration),
    /// More requests are open than are kept.
    #[error("too many requests are open")]
    Crowded,
}

impl Trouble {
    fn refusal(&self, subject: &Subject) -> Refusal {
        let tool = subject.capability == mcp::Capability::Tool;
        let unknown = match tool {
            true => "The outcome is unknown: the call may have run, so check before repeating it.",
            false => "Ask again.",
        };
        let (rule, number, text) = match self {
            Self::Unreachable(_) => (
                "server.unavailable",
                5030,
                "The server cannot be reached, so nothing was done; ask again in a few seconds."
                    .to_owned(),
            ),
            Self::Down(_) => (
                "server.unavailable",
                5030,
                "The server does not pass its health check, so it was not asked and nothing was done; ask again later."
                    .to_owned(),
            ),
            Self::Broken(_) => (
                "server.gone",
                5030,
                format!("The connection to the server ended before it answered. {unknown}"),
            ),
            Self::Denied(403) => (
                "server.denied",
                5031,
                "Credential problem: what is used to sign in at the server lacks a right for this, so nothing was done. Changing the arguments to get around it will not help; do not retry, ask the operator.".to_owned(),
            ),
            Self::Denied(_) => (
                "server.denied",
                5031,
                "Credential problem: the server does not accept the credential that it is sent, so nothing was done. The arguments are fine; do not retry, the operator has to renew it.".to_owned(),
            ),
            Self::Missing => (
                "credentials.missing",
                5031,
                "Credential problem: there is none to ask the server with, so nothing was done. The arguments are fine; do not retry, the operator has to act.".to_owned(),
            ),
            Self::Barred(_) => (
                CREDENTIALS_BREAKER,
                5031,
                "Credential problem: the server has refused what it is sent again and again, so it was not asked. The arguments are fine; do not retry, the operator has to renew the credential.".to_owned(),
            ),
            Self::Revoked => (
                "credentials.missing",
                5031,
                format!("Credential problem: what this was asked with was revoked before the answer came. {unknown} The arguments are fine; the operator has to act."),
            ),
            Self::Redirect(_) => (
                "server.moved",
                5020,
                "The server has moved, and a redirect is not followed. Do not retry; tell the operator.".to_owned(),
            ),
            Self::RequestTooLarge => (
                "server.too-large",
                code::SIZE,
                "The request is too large for the server. Send less, or in parts.".to_owned(),
            ),
            Self::Status { status: status @ (429 | 503), .. } => (
                "server.busy",
                5030,
                format!("The server is too busy (HTTP {status}), so nothing was done; ask again later."),
            ),
            Self::Status { status, .. } => (
                "server.status",
                5020,
                format!("The server failed (HTTP {status}). {unknown}"),
            ),
            Self::NoAnswer(why) => (
                "server.malformed",
                5020,
                format!("What the server answered was withheld: {why}. {unknown}"),
            ),
            Self::TooLarge { cap } => (
                LIMITS_RESPONSE,
                code::SIZE,
                format!(
                    "The server's answer has more than {cap} bytes, the limit; it was withheld. Ask for less: a narrower query, a filter or a page."
                ),
            ),
            Self::Crowded => (
                "limits.waiting",
                4290,
                "Too many requests wait for the server; try again when some of them are answered."
                    .to_owned(),
            ),
        };
        let mut refusal = own::about(subject, rule, number, text);
        refusal.retry_after_ms = match self {
            Self::Status { after, .. } => {
                after.and_then(|after| u64::try_from(after.as_millis()).ok())
            }
            Self::Unreachable(_) | Self::Crowded => Some(1000),
            Self::Down(wait) => u64::try_from(wait.as_millis()).ok().map(|it| it.max(1000)),
            _ => None,
        };
        refusal
    }
}

/// The line, with its LF, that answers the request `line` in the server's place; empty when that is no
/// request.
#[must_use]
pub fn answer_for(line: &[u8], trouble: &Trouble) -> Vec<u8> {
    let mut out = Vec::new();
    if let Ok(envelope) = mcp::parse(line, Direction::ToServer)
        && let Kind::Request { id, .. } = &envelope.kind
        && let Some(subject) = Subject::of(&envelope)
    {
        let era = Era::of(&envelope).unwrap_or_default();
        reply::refusal(&mut out, id.raw, &trouble.refusal(&subject), era);
    }
    out
}

/// The line, with its LF, that answers the request with this raw id by an error of the server that
/// names none.
#[must_use]
pub fn pass_error(id: &[u8], error: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    reply::passed(&mut out, id, error);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const CALL: &[u8] =
        br#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x"}}"#;
    const LIST: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

    fn all() -> Vec<Trouble> {
        vec![
            Trouble::Unreachable("10.1.2.3 refused".to_owned()),
            Trouble::Broken("early eof".to_owned()),
            Trouble::Denied(401),
            Trouble::Denied(403),
            Trouble::Missing,
            Trouble::Barred(Duration::from_secs(30)),
            Trouble::Revoked,
            Trouble::Redirect(307),
            Trouble::RequestTooLarge,
            Trouble::Status {
                status: 503,
                after: Some(Duration::from_secs(2)),
            },
            Trouble::Status {
                status: 418,
                after: None,
            },
            Trouble::NoAnswer("it is empty"),
            Trouble::TooLarge { cap: 5 },
            Trouble::Crowded,
            Trouble::Down(Duration::from_secs(5)),
        ]
    }

    #[test]
    fn a_call_is_answered_by_a_result_and_all_else_by_an_error() {
        for trouble in all() {
            let call: Value = serde_json::from_slice(&answer_for(CALL, &trouble)).unwrap();
            assert_eq!(
                (&call["id"], &call["result"]["isError"]),
                (&"a".into(), &true.into())
            );
            let list: Value = serde_json::from_slice(&answer_for(LIST, &trouble)).unwrap();
            let code = list["error"]["code"].as_i64().unwrap();
            assert!(
                list["id"] == 7 && !(-32768..=-32000).contains(&code),
                "{list}"
            );
            assert!(
                !format!("{call}{list}").contains("10.1.2.3"),
                "the reason is not the client's"
            );
        }
    }

    #[test]
    fn what_may_have_run_is_said_so() {
        let text = |trouble| String::from_utf8(answer_for(CALL, &trouble)).unwrap();
        assert!(text(Trouble::Broken(String::new())).contains("outcome is unknown"));
        assert!(text(Trouble::Unreachable(String::new())).contains("nothing was done"));
        assert!(answer_for(br#"{"jsonrpc":"2.0","method":"x"}"#, &Trouble::Crowded).is_empty());
    }

    #[test]
    fn an_error_without_a_name_is_given_one() {
        let line = pass_error(b"7", br#"{"code":-32600,"message":"no"}"#);
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            (&line["id"], &line["error"]["code"]),
            (&7.into(), &(-32600).into())
        );
    }
}
