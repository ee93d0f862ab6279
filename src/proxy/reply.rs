//! The one place that turns what went wrong into bytes on the wire.

use crate::mcp::{Era, Fault};
use crate::policy::{Refusal, Shape};
use serde_json::{Value, json};

/// The `_meta` member that marks an answer as ours; a vendor prefix, because those whose second
/// label is `mcp` are reserved (MCP 2026-07-28, `_meta`).
const MARK: &str = "dev.cofferdam/rule";

/// Appends the answer to the request `id` (its raw token) as one line.
pub(super) fn refusal(out: &mut Vec<u8>, id: &[u8], refusal: &Refusal, era: Era) {
    let body = match refusal.shape {
        Shape::ToolResult => ("result", tool_result(refusal, era)),
        Shape::Error(code) => ("error", error(code, refusal)),
    };
    line(out, Some(id), era, body);
}

/// Appends the answer to the request `id` (its raw token): this result, which is raw JSON.
pub(super) fn result(out: &mut Vec<u8>, id: &[u8], result: &[u8]) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id);
    out.extend_from_slice(br#","result":"#);
    out.extend_from_slice(result);
    out.extend_from_slice(b"}\n");
}

/// Appends the answer to a line that is no message; `id` when one could be read.
pub(super) fn malformed(out: &mut Vec<u8>, id: Option<&[u8]>, fault: Fault, era: Era) {
    let body = json!({
        "code": fault.code(),
        "message": fault.to_string(),
        "data": { "rule": "protocol.malformed", "hint": "the line was not passed on; send one JSON-RPC message for each line" },
    });
    line(out, id, era, ("error", body));
}

/// Appends the notice that a request (its raw id) was given up.
pub(super) fn cancelled(out: &mut Vec<u8>, id: &[u8], reason: &str) {
    out.extend_from_slice(
        br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"#,
    );
    out.extend_from_slice(id);
    out.extend_from_slice(format!(",\"reason\":\"{reason}\"}}}}\n").as_bytes());
}

/// Appends an error that the server gave without saying to which request: it can only be this one.
pub(super) fn passed(out: &mut Vec<u8>, id: &[u8], error: &[u8]) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"error\":");
    out.extend_from_slice(error);
    out.extend_from_slice(b"}\n");
}

/// A denial carries no `structuredContent`: clients validate it even when `isError` is set, and then
/// show their own error in place of the denial.
fn tool_result(refusal: &Refusal, era: Era) -> Value {
    let mut text = refusal.text.clone();
    if !text.contains(refusal.rule) {
        text = format!("{text} (rule {})", refusal.rule);
    }
    let mut result = json!({
        "content": [{ "type": "text", "text": text }],
        "isError": true,
    });
    if era == Era::Modern {
        result["resultType"] = json!("complete");
    }
    result["_meta"] = json!({ MARK: refusal.rule });
    result
}

fn error(code: i32, refusal: &Refusal) -> Value {
    if refusal.concealed {
        return json!({ "code": code, "message": refusal.text });
    }
    let mut data = json!({ "rule": refusal.rule, "hint": refusal.text });
    if let Some(after) = refusal.retry_after_ms {
        data["retryAfterMs"] = json!(after);
    }
    json!({ "code": code, "message": refusal.text, "data": data })
}

/// Modern messages leave an unknown id out, legacy ones say `null` (JSON-RPC 2.0 §5).
fn line(out: &mut Vec<u8>, id: Option<&[u8]>, era: Era, (member, body): (&str, Value)) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    match (id, era) {
        (Some(id), _) => {
            out.extend_from_slice(br#","id":"#);
            out.extend_from_slice(id);
        }
        (None, Era::Legacy) => out.extend_from_slice(br#","id":null"#),
        (None, Era::Modern) => {}
    }
    out.extend_from_slice(b",\"");
    out.extend_from_slice(member.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(body.to_string().as_bytes());
    out.extend_from_slice(b"}\n");
}

/// Refusals that the session itself makes; those of policy are made in `policy`.
pub(super) mod own {
    use crate::mcp::{Capability, Subject};
    use crate::policy::{
        CREDENTIALS_BREAKER, CREDENTIALS_MISSING, LIMITS_REQUEST, LIMITS_RESPONSE, LIMITS_TIMEOUT,
        Refusal, Shape, code,
    };

    /// A request id that is open already.
    pub(in crate::proxy) fn duplicate_id() -> Refusal {
        make(
            "protocol.duplicate-id",
            Shape::Error(-32600),
            "This request id is still open; use an id once until its answer has come.".to_owned(),
        )
    }

    /// A request line above the cap.
    pub(in crate::proxy) fn request_too_large(bytes: u64, cap: u64) -> Refusal {
        let mut refusal = make(
            LIMITS_REQUEST,
            Shape::Error(-32600),
            format!(
                "The request has {bytes} bytes and the limit is {cap}; it was not passed on. Send less, or in parts."
            ),
        );
        refusal.operator_hint = Some("limits.request, or --request-limit".to_owned());
        refusal
    }

    /// A result line above the cap.
    pub(in crate::proxy) fn response_too_large(subject: &Subject, bytes: u64, cap: u64) -> Refusal {
        let mut refusal = about(
            subject,
            LIMITS_RESPONSE,
            code::SIZE,
            format!(
                "The server's answer has {bytes} bytes and the limit is {cap}; it was withheld. Ask for less: a narrower query, a filter or a page."
            ),
        );
        refusal.operator_hint = Some("limits.response, or --response-limit".to_owned());
        refusal
    }

    /// No answer in time.
    pub(in crate::proxy) fn timeout(subject: &Subject, waited: std::time::Duration) -> Refusal {
        let mut refusal = about(
            subject,
            LIMITS_TIMEOUT,
            code::TIMEOUT,
            format!(
                "No answer within {} s; the request was cancelled. It may still have had an effect: check before repeating it.",
                waited.as_secs_f32().round()
            ),
        );
        refusal.operator_hint =
            Some("limits.timeout and limits.timeout_total, or timeout of the tool".to_owned());
        refusal
    }

    /// The server ended while the request was open.
    pub(in crate::proxy) fn server_gone(subject: &Subject, how: &str) -> Refusal {
        let advice = if subject.capability == Capability::Tool {
            "The outcome is unknown: the call may have run, so check before repeating it."
        } else {
            "Nothing was answered; ask again when the server is back."
        };
        about(
            subject,
            "server.gone",
            5030,
            format!("The server ended ({how}) before it answered. {advice}"),
        )
    }

    /// The server could not be started, or is no longer there to be asked.
    pub(in crate::proxy) fn unavailable(
        subject: &Subject,
        wait: Option<std::time::Duration>,
    ) -> Refusal {
        let when = match wait {
            Some(wait) => format!("in {} s", wait.as_secs_f32().ceil()),
            None => "when it is back".to_owned(),
        };
        let text = format!("The server is not running, so nothing was done; ask again {when}.");
        let mut refusal = about(subject, "server.unavailable", 5030, text);
        refusal.retry_after_ms = wait.and_then(|wait| u64::try_from(wait.as_millis()).ok());
        refusal
    }

    /// The operator wants nothing to run.
    pub(in crate::proxy) fn switched_off(subject: &Subject) -> Refusal {
        about(
            subject,
            "switch.server",
            5030,
            "The operator has switched this server off, so nothing was done. Do not retry; ask the operator.".to_owned(),
        )
    }

    /// The server may not run with the credential that there is.
    pub(in crate::proxy) fn withheld(subject: &Subject) -> Refusal {
        about(
            subject,
            CREDENTIALS_MISSING,
            5031,
            "Credential problem: the one that the server works with was revoked, so nothing was done. The arguments are fine; do not retry, the operator has to act.".to_owned(),
        )
    }

    /// The operator wants this tool not to be called.
    pub(in crate::proxy) fn tool_off(subject: &Subject) -> Refusal {
        about(
            subject,
            "switch.tool",
            5030,
            "The operator has switched this tool off, so nothing was done. Do not retry; ask the operator.".to_owned(),
        )
    }

    /// The credential of the tool is not accepted, and nobody has changed it.
    pub(in crate::proxy) fn credential_breaker(
        subject: &Subject,
        wait: std::time::Duration,
    ) -> Refusal {
        let mut refusal = about(
            subject,
            CREDENTIALS_BREAKER,
            5030,
            "Credential problem: what the server uses to sign in was refused several times, so this call was not made. The arguments are fine; do not retry, the operator has to renew it.".to_owned(),
        );
        refusal.retry_after_ms = u64::try_from(wait.as_millis()).ok();
        refusal
    }

    /// An answer that is no JSON-RPC message.
    pub(in crate::proxy) fn broken_answer(subject: &Subject, why: &str) -> Refusal {
        about(
            subject,
            "server.malformed",
            5020,
            format!(
                "The server's answer was withheld because it is not a valid message: {why}. The call may have run."
            ),
        )
    }

    /// More calls wait for the tool list than are kept.
    pub(in crate::proxy) fn busy(subject: &Subject) -> Refusal {
        let mut refusal = about(
            subject,
            "limits.waiting",
            4290,
            "Too many calls wait for the server's tool list; try again in a second.".to_owned(),
        );
        refusal.retry_after_ms = Some(1000);
        refusal
    }

    /// More requests are open than are kept.
    pub(in crate::proxy) fn crowded(subject: &Subject) -> Refusal {
        let mut refusal = about(
            subject,
            "limits.waiting",
            4290,
            "Too many requests wait for the server; try again when some of them are answered."
                .to_owned(),
        );
        refusal.retry_after_ms = Some(1000);
        refusal
    }

    /// A tool call is refused by a result that the model can read; anything else by an error.
    pub(in crate::proxy) fn about(
        subject: &Subject,
        rule: &'static str,
        code: i32,
        text: String,
    ) -> Refusal {
        let shape = if subject.capability == Capability::Tool {
            Shape::ToolResult
        } else {
            Shape::Error(code)
        };
        make(rule, shape, text)
    }

    fn make(rule: &'static str, shape: Shape, text: String) -> Refusal {
        Refusal {
            rule,
            shape,
            text,
            retry_after_ms: None,
            operator_hint: None,
            concealed: false,
            scopes: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{Capability, Subject};

    fn subject(capability: Capability) -> Subject {
        Subject {
            capability,
            method: "tools/call".into(),
            name: Some("x".into()),
        }
    }

    fn parsed(out: &[u8]) -> Value {
        assert_eq!(out.last(), Some(&b'\n'));
        serde_json::from_slice(out).unwrap()
    }

    #[test]
    fn a_refused_call_is_a_result_without_structured_content() {
        let mut out = Vec::new();
        let refused = own::timeout(
            &subject(Capability::Tool),
            std::time::Duration::from_secs(3),
        );
        refusal(&mut out, b"\"7\"", &refused, Era::Modern);
        let answer = parsed(&out);
        assert_eq!(answer["id"], "7");
        assert_eq!(answer["result"]["isError"], true);
        assert_eq!(answer["result"]["resultType"], "complete");
        assert!(answer["result"].get("structuredContent").is_none());
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(
            text.contains("3 s") && text.ends_with("(rule limits.timeout)"),
            "{text}"
        );
        assert!(
            !text.contains("--"),
            "the model is not told the setting: {text}"
        );
    }

    #[test]
    fn a_refused_method_is_an_error_outside_the_reserved_codes() {
        let mut out = Vec::new();
        refusal(
            &mut out,
            b"7",
            &own::server_gone(&subject(Capability::Method), "killed"),
            Era::Legacy,
        );
        let answer = parsed(&out);
        let code = answer["error"]["code"].as_i64().unwrap();
        assert!(!(-32768..=-32000).contains(&code));
        assert_eq!(answer["error"]["data"]["rule"], "server.gone");
    }

    #[test]
    fn a_line_without_an_id_is_answered_as_its_era_wants() {
        let mut out = Vec::new();
        malformed(&mut out, None, Fault::Encoding, Era::Legacy);
        assert!(parsed(&out)["id"].is_null() && parsed(&out).get("id").is_some());
        out.clear();
        malformed(&mut out, None, Fault::Encoding, Era::Modern);
        assert!(parsed(&out).get("id").is_none());
    }
}
