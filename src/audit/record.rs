//! What one audit line says, and how it is spelt.

use crate::mcp::{Capability, Direction, Subject};
use ring::digest::{SHA256, digest};
use std::io::Write;
use std::time::Duration;

/// What one line says. Borrowed: nothing is built unless it is written.
#[derive(Debug)]
pub struct Record<'a> {
    pub direction: Direction,
    /// The subject of the request; `None` for a line that could not be read.
    pub subject: Option<&'a Subject>,
    /// The id as it stood on the wire.
    pub id: Option<&'a [u8]>,
    /// What policy decided: `forward`, `rewrite`, `refuse`, `drop`.
    pub decision: &'static str,
    /// The rule that decided, when one did.
    pub rule: Option<&'a str>,
    /// How it ended: `success`, `tool_error`, `error`, `refused`, `timeout`, `unavailable`,
    /// `cancelled`, `malformed`; apart from the decision, because a forwarded call can fail.
    pub status: &'static str,
    /// From the request to its answer.
    pub latency: Option<Duration>,
    /// Bytes of the request and of its answer, line ends excluded.
    pub request_bytes: usize,
    pub response_bytes: usize,
    /// Arguments of a tool call, already in the form that may be written.
    pub arguments: &'a Arguments,
}

/// What an audit line may say of the arguments of a call; kept from the call until its answer.
#[derive(Debug, Clone)]
pub enum Arguments {
    /// Nothing, by configuration or because there are none.
    Absent,
    /// Their SHA-256.
    Digest([u8; 32]),
    /// Raw JSON that the scrubber has passed.
    Redacted(Box<[u8]>),
}

impl Arguments {
    /// Only the digest of these bytes.
    #[must_use]
    pub fn digest(arguments: &[u8]) -> Self {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, arguments).as_ref());
        Self::Digest(sum)
    }
}

/// What is the same in every line of one process.
#[derive(Debug, Clone, Default)]
pub(super) struct Context {
    pub(super) server: String,
    pub(super) client: String,
    pub(super) policy: String,
}

impl Record<'_> {
    /// Appends the line, LF included.
    pub(super) fn write(&self, line: &mut Vec<u8>, time: jiff::Timestamp, context: &Context) {
        // Writing into a Vec cannot fail.
        drop(write!(line, r#"{{"v":1,"time":"{time:.3}","server":"#));
        string(line, &context.server);
        if !context.client.is_empty() {
            line.extend_from_slice(br#","client":"#);
            string(line, &context.client);
        }
        line.extend_from_slice(br#","direction":""#);
        line.extend_from_slice(match self.direction {
            Direction::ToServer => b"to_server\"",
            Direction::ToClient => b"to_client\"",
        });
        if let Some(subject) = self.subject {
            line.extend_from_slice(br#","type":""#);
            line.extend_from_slice(match subject.capability {
                Capability::Tool => b"tool\"",
                Capability::Resource => b"resource\"",
                Capability::Prompt => b"prompt\"",
                Capability::Method => b"method\"",
            });
            line.extend_from_slice(br#","method":"#);
            string(line, &subject.method);
            if let Some(name) = &subject.name {
                line.extend_from_slice(br#","target":"#);
                string(line, name);
            }
        }
        if let Some(id) = self.id {
            // A proved token: a JSON number or string already.
            line.extend_from_slice(br#","id":"#);
            line.extend_from_slice(id);
        }
        drop(write!(
            line,
            r#","decision":"{}","status":"{}""#,
            self.decision, self.status
        ));
        if let Some(rule) = self.rule {
            line.extend_from_slice(br#","rule":"#);
            string(line, rule);
        }
        if let Some(latency) = self.latency {
            drop(write!(line, r#","latency_us":{}"#, latency.as_micros()));
        }
        drop(write!(
            line,
            r#","request_bytes":{},"response_bytes":{}"#,
            self.request_bytes, self.response_bytes
        ));
        match self.arguments {
            Arguments::Absent => {}
            Arguments::Digest(sum) => {
                line.extend_from_slice(br#","arguments_sha256":""#);
                hex(line, sum);
                line.push(b'"');
            }
            Arguments::Redacted(bytes) => {
                line.extend_from_slice(br#","arguments":"#);
                line.extend_from_slice(bytes);
            }
        }
        line.extend_from_slice(br#","policy":"#);
        string(line, &context.policy);
        line.extend_from_slice(b"}\n");
    }
}

/// The longest name that a line repeats; names come from peers.
const NAME_CAP: usize = 256;

fn string(line: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(NAME_CAP);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // Strings always serialise, and a Vec takes every byte.
    drop(serde_json::to_writer(line, &text[..end]));
}

fn hex(line: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        line.push(DIGITS[usize::from(byte >> 4)]);
        line.push(DIGITS[usize::from(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_whatever_the_peer_calls_its_tool() {
        let subject = Subject {
            capability: Capability::Tool,
            method: "tools/call".into(),
            name: Some("a\"b\n\u{1b}[31m".repeat(100).into()),
        };
        let record = Record {
            direction: Direction::ToServer,
            subject: Some(&subject),
            id: Some(b"\"x\""),
            decision: "forward",
            rule: None,
            status: "success",
            latency: Some(Duration::from_micros(1500)),
            request_bytes: 10,
            response_bytes: 20,
            arguments: &Arguments::digest(b"{}"),
        };
        let mut line = Vec::new();
        record.write(&mut line, jiff::Timestamp::UNIX_EPOCH, &Context::default());
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["status"], "success");
        assert_eq!(value["latency_us"], 1500);
        assert_eq!(value["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!(
            value["arguments_sha256"],
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        assert!(value["target"].as_str().unwrap().len() <= NAME_CAP);
    }
}
