//! What one audit line says, and how it is spelt.

use crate::mcp::{Capability, Direction, Subject};
use ring::digest::{SHA256, digest};
use std::borrow::Cow;
use std::time::{Duration, Instant};

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
    /// `cancelled`, `malformed`, `cached`, or `unknown` (what an instance had begun that was killed); apart from the decision, because a forwarded call can fail.
    pub status: &'static str,
    /// From the request to its answer.
    pub latency: Option<Duration>,
    /// Bytes of the request and of its answer, line ends excluded.
    pub request_bytes: usize,
    pub response_bytes: usize,
    /// Arguments of a tool call, already in the form that may be written.
    pub arguments: &'a Arguments,
    /// Who asked, behind a listener.
    pub caller: Option<Caller<'a>>,
}

/// Who asked, as identity was proved; not what a client calls itself.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub client: &'a str,
    pub tenant: Option<&'a str>,
    /// For whom it asked.
    pub user: Option<&'a str>,
    /// By what it was known.
    pub how: &'static str,
}

impl Caller<'_> {
    fn write(self, line: &mut Vec<u8>) {
        line.extend_from_slice(br#","caller":{"client":"#);
        string(line, self.client);
        for (key, value) in [("tenant", self.tenant), ("user", self.user)] {
            if let Some(value) = value {
                line.push(b',');
                quoted(line, key);
                line.push(b':');
                string(line, value);
            }
        }
        line.extend_from_slice(br#","how":"#);
        quoted(line, self.how);
        line.push(b'}');
    }
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

/// Digits of the policy's digest in each line, enough to tell policies apart; `/health` and the
/// metrics have all of it.
const POLICY_DIGITS: usize = 16;

/// What is the same in many lines, spelt once.
#[derive(Debug)]
pub(super) struct Context {
    server: String,
    /// From after the time up to the direction.
    head: Vec<u8>,
    /// All up to the direction, at the time `at`: lines that were read together share it.
    start: Vec<u8>,
    at: Option<Instant>,
    /// Direction and subject of the line before, and how they are spelt.
    direction: Option<Direction>,
    subject: Option<Subject>,
    about: Vec<u8>,
    /// From after the arguments to the LF.
    pub(super) tail: Vec<u8>,
    clock: Clock,
}

impl Context {
    pub(super) fn new(server: &str, policy: &str) -> Self {
        Self::of(server, ending(policy))
    }

    /// The same without the name of a client.
    pub(super) fn anonymous(&self) -> Self {
        Self::of(&self.server, self.tail.clone())
    }

    fn of(server: &str, tail: Vec<u8>) -> Self {
        let mut context = Self {
            server: server.to_owned(),
            head: Vec::new(),
            start: Vec::new(),
            at: None,
            direction: None,
            subject: None,
            about: Vec::new(),
            tail,
            clock: Clock::new(Instant::now(), jiff::Timestamp::now()),
        };
        context.name_client("");
        context
    }

    pub(super) fn name_client(&mut self, client: &str) {
        self.at = None;
        self.head = br#"Z","server":"#.to_vec();
        string(&mut self.head, &self.server);
        if !client.is_empty() {
            self.head.extend_from_slice(br#","client":"#);
            string(&mut self.head, client);
        }
        self.head.extend_from_slice(br#","direction":""#);
    }

    /// Another policy decides from here on.
    pub(super) fn name_policy(&mut self, policy: &str) {
        self.tail = ending(policy);
    }

    pub(super) fn set_clock(&mut self) {
        self.at = None;
        self.clock.set();
    }

    /// Direction and subject, which are those of the line before in a busy moment.
    fn about(&mut self, line: &mut Vec<u8>, direction: Direction, subject: Option<&Subject>) {
        if self.direction != Some(direction) || self.subject.as_ref() != subject {
            self.direction = Some(direction);
            self.subject = subject.cloned();
            self.about.clear();
            about(&mut self.about, direction, subject);
        }
        line.extend_from_slice(&self.about);
    }

    pub(super) fn start(&mut self, line: &mut Vec<u8>, now: Instant) {
        if self.at != Some(now) {
            self.at = Some(now);
            self.start.clear();
            self.clock.write(&mut self.start, now);
            self.start.extend_from_slice(&self.head);
        }
        line.extend_from_slice(&self.start);
    }
}

fn about(line: &mut Vec<u8>, direction: Direction, subject: Option<&Subject>) {
    line.extend_from_slice(match direction {
        Direction::ToServer => b"to_server\"",
        Direction::ToClient => b"to_client\"",
    });
    let Some(subject) = subject else { return };
    line.extend_from_slice(match subject.capability {
        Capability::Tool => br#","type":"tool","method":"#,
        Capability::Resource => br#","type":"resource","method":"#,
        Capability::Prompt => br#","type":"prompt","method":"#,
        Capability::Method => br#","type":"method","method":"#,
    });
    match &subject.method {
        // Of the protocol: no letter of it needs an escape.
        Cow::Borrowed(known) => quoted(line, known),
        Cow::Owned(other) => string(line, other),
    }
    if let Some(name) = &subject.name {
        line.extend_from_slice(br#","target":"#);
        string(line, name);
    }
}

/// From after the arguments to the LF.
fn ending(policy: &str) -> Vec<u8> {
    let mut tail = br#","policy":"#.to_vec();
    string(&mut tail, policy.get(..POLICY_DIGITS).unwrap_or(policy));
    tail.extend_from_slice(b"}\n");
    tail
}

/// Spells the time, in UTC with milliseconds; all but those once for each second.
///
/// It goes by the monotonic clock, which the message path has read already, from a point that
/// [`Clock::set`] takes anew with each write to the file: a clock that is set back is followed.
#[derive(Debug)]
struct Clock {
    point: Instant,
    point_millis: i64,
    second: i64,
    /// The start of a line, up to the milliseconds.
    start: Vec<u8>,
}

impl Clock {
    fn new(point: Instant, time: jiff::Timestamp) -> Self {
        Self {
            point,
            point_millis: time.as_millisecond(),
            second: i64::MIN,
            start: Vec::new(),
        }
    }

    fn set(&mut self) {
        self.point = Instant::now();
        self.point_millis = jiff::Timestamp::now().as_millisecond();
    }

    fn write(&mut self, line: &mut Vec<u8>, now: Instant) {
        let since = now.saturating_duration_since(self.point);
        let since = i64::try_from(since.as_secs()).unwrap_or_default() * 1000
            + i64::from(since.subsec_millis());
        let time = self.point_millis.saturating_add(since);
        let (second, millis) = (time.div_euclid(1000), time.rem_euclid(1000));
        if self.second != second {
            self.second = second;
            // No clock shows a year that jiff cannot spell.
            let whole = jiff::Timestamp::from_second(second).unwrap_or_default();
            let whole = format!("{whole:.0}");
            self.start = br#"{"v":1,"time":""#.to_vec();
            self.start
                .extend_from_slice(whole.trim_end_matches('Z').as_bytes());
            self.start.push(b'.');
        }
        line.extend_from_slice(&self.start);
        let digit = |n: i64| b'0' + (n % 10) as u8;
        line.extend_from_slice(&[digit(millis / 100), digit(millis / 10), digit(millis)]);
    }
}

impl Record<'_> {
    /// Appends the line, LF included.
    pub(super) fn write(&self, line: &mut Vec<u8>, now: Instant, context: &mut Context) {
        context.start(line, now);
        context.about(line, self.direction, self.subject);
        if let Some(id) = self.id {
            // A proved token: a JSON number or string already.
            line.extend_from_slice(br#","id":"#);
            line.extend_from_slice(id);
        }
        line.extend_from_slice(br#","decision":""#);
        line.extend_from_slice(self.decision.as_bytes());
        line.extend_from_slice(br#"","status":""#);
        line.extend_from_slice(self.status.as_bytes());
        line.push(b'"');
        if let Some(rule) = self.rule {
            line.extend_from_slice(br#","rule":"#);
            string(line, rule);
        }
        if let Some(latency) = self.latency {
            line.extend_from_slice(br#","latency_us":"#);
            number(line, latency.as_micros());
        }
        line.extend_from_slice(br#","request_bytes":"#);
        number(line, self.request_bytes as u64);
        line.extend_from_slice(br#","response_bytes":"#);
        number(line, self.response_bytes as u64);
        if let Some(caller) = self.caller {
            caller.write(line);
        }
        match self.arguments {
            Arguments::Absent => {}
            Arguments::Digest(sum) => {
                line.extend_from_slice(br#","arguments_sha256":""#);
                line.extend_from_slice(hex(sum).as_flattened());
                line.push(b'"');
            }
            Arguments::Redacted(bytes) => {
                line.extend_from_slice(br#","arguments":"#);
                line.extend_from_slice(bytes);
            }
        }
        line.extend_from_slice(&context.tail);
    }
}

/// What the cell refused to the server: no message, and so a direction and members of its own.
#[derive(Debug)]
pub struct Denial<'a> {
    /// `read`, `write`, `execute`, `connect`.
    pub what: &'static str,
    /// Who says so: `refused` by the cell, or `reported` by the server, which may lie.
    pub status: &'static str,
    /// The line for people.
    pub text: &'a str,
}

impl Denial<'_> {
    /// Appends the line, LF included.
    pub(super) fn write(&self, line: &mut Vec<u8>, now: Instant, context: &mut Context) {
        context.start(line, now);
        line.extend_from_slice(br#"cell","decision":"refuse","status":"#);
        quoted(line, self.status);
        line.extend_from_slice(br#","rule":"cell."#);
        line.extend_from_slice(self.what.as_bytes());
        line.extend_from_slice(br#"","detail":"#);
        // Strings always serialise, and a Vec takes every byte.
        drop(serde_json::to_writer(&mut *line, self.text));
        line.extend_from_slice(&context.tail);
    }
}

/// Something that a guard noticed: no message, and so a direction of its own.
#[derive(Debug)]
pub struct Notice<'a> {
    pub rule: &'static str,
    /// A tool; `None`: the server.
    pub target: Option<&'a str>,
    /// `open`, `half-open`, `closed`, `alert`, `warned`, `cached`.
    pub status: &'static str,
    /// The line for people.
    pub text: &'a str,
}

impl Notice<'_> {
    /// Appends the line, LF included.
    pub(super) fn write(&self, line: &mut Vec<u8>, now: Instant, context: &mut Context) {
        context.start(line, now);
        line.extend_from_slice(br#"guard","type":"notice""#);
        if let Some(target) = self.target {
            line.extend_from_slice(br#","target":"#);
            string(line, target);
        }
        line.extend_from_slice(br#","decision":"forward","status":"#);
        quoted(line, self.status);
        line.extend_from_slice(br#","rule":"#);
        quoted(line, self.rule);
        line.extend_from_slice(br#","detail":"#);
        string(line, self.text);
        line.extend_from_slice(&context.tail);
    }
}

/// What an operator has done, or tried.
#[derive(Debug)]
pub struct Operator<'a> {
    /// `reload`, `drain`, `freeze`.
    pub act: &'static str,
    pub done: bool,
    /// What came of it.
    pub text: &'a str,
}

impl Operator<'_> {
    /// Appends the line, LF included.
    pub(super) fn write(&self, line: &mut Vec<u8>, now: Instant, context: &mut Context) {
        context.start(line, now);
        line.extend_from_slice(br#"operator","type":"#);
        quoted(line, self.act);
        line.extend_from_slice(match self.done {
            true => br#","decision":"forward","status":"success","detail":"#,
            false => br#","decision":"refuse","status":"error","detail":"#.as_slice(),
        });
        string(line, self.text);
        line.extend_from_slice(&context.tail);
    }
}

/// A connection or look-up of the server that did not come about.
#[derive(Debug)]
pub struct Outbound<'a> {
    /// A name, or `host:port`.
    pub host: &'a str,
    /// One word.
    pub reason: &'a str,
    /// Whether a rule refused it; false where it was allowed and failed.
    pub denied: bool,
    /// What is said of it, with the setting that would allow it.
    pub text: &'a str,
}

impl Outbound<'_> {
    /// Appends the line, LF included.
    pub(super) fn write(&self, line: &mut Vec<u8>, now: Instant, context: &mut Context) {
        context.start(line, now);
        line.extend_from_slice(br#"to_network","type":"network","target":"#);
        string(line, self.host);
        line.extend_from_slice(match self.denied {
            true => br#","decision":"refuse","status":"refused","rule":"#,
            false => br#","decision":"forward","status":"unavailable","rule":"#,
        });
        string(line, &format!("egress.{}", self.reason));
        line.extend_from_slice(br#","detail":"#);
        string(line, self.text);
        line.extend_from_slice(&context.tail);
    }
}

/// The longest name that a line repeats; names come from peers.
const NAME_CAP: usize = 256;

pub(super) fn quoted(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

pub(super) fn string(line: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(NAME_CAP);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    // Almost every name says the same in JSON.
    if text.bytes().all(
        |byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'/' | b'.'),
    ) {
        quoted(line, text);
        return;
    }
    // Strings always serialise, and a Vec takes every byte.
    drop(serde_json::to_writer(line, text));
}

pub(super) fn number(line: &mut Vec<u8>, number: impl Into<u128>) {
    let mut rest = u64::try_from(number.into()).unwrap_or(u64::MAX);
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[start..]);
}

fn hex(bytes: &[u8; 32]) -> [[u8; 2]; 32] {
    const PAIRS: [[u8; 2]; 256] = {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut at = 0;
        while at < 256 {
            pairs[at] = [DIGITS[at >> 4], DIGITS[at & 15]];
            at += 1;
        }
        pairs
    };
    bytes.map(|byte| PAIRS[usize::from(byte)])
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
            caller: Some(Caller {
                client: "c\"i",
                tenant: Some("a"),
                user: None,
                how: "mtls",
            }),
        };
        let mut line = Vec::new();
        let mut context = Context::new("s", "p");
        let now = Instant::now();
        context.clock = Clock::new(now, jiff::Timestamp::UNIX_EPOCH);
        record.write(&mut line, now, &mut context);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["status"], "success");
        assert_eq!(value["latency_us"], 1500);
        assert_eq!(
            value["caller"],
            serde_json::json!({"client": "c\"i", "tenant": "a", "how": "mtls"})
        );
        assert_eq!(value["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!(
            value["arguments_sha256"],
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        assert!(value["target"].as_str().unwrap().len() <= NAME_CAP);
    }

    #[test]
    fn what_the_cell_refused_is_a_line_too() {
        let denial = Denial {
            what: "write",
            status: "refused",
            text: &"\"\n\u{1b}".repeat(200),
        };
        let mut line = Vec::new();
        denial.write(&mut line, Instant::now(), &mut Context::new("s", "p"));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["direction"], "cell");
        assert_eq!(value["rule"], "cell.write");
        assert_eq!(value["status"], "refused");
        assert_eq!(value["detail"], denial.text);
    }

    #[test]
    fn times_and_numbers_are_spelt_as_the_libraries_do() {
        let point = Instant::now();
        let time = jiff::Timestamp::from_millisecond(1_795_251_208_999).unwrap();
        let mut clock = Clock::new(point, time);
        for millis in [0, 1, 2, 999, 1000, 1001, 1500, 3_600_000, 40_000_000_000] {
            let later = Duration::from_millis(millis);
            let mut line = Vec::new();
            clock.write(&mut line, point + later);
            let spelt = format!(r#"{{"v":1,"time":"{:.3}"#, time + later);
            assert_eq!(
                String::from_utf8(line).unwrap(),
                spelt.trim_end_matches('Z')
            );
        }
        // What happened before the point was taken is dated to the point.
        let mut line = Vec::new();
        clock.write(
            &mut line,
            point.checked_sub(Duration::from_secs(5)).unwrap(),
        );
        assert!(line.ends_with(b":28.999"), "{}", line.escape_ascii());
        for n in [0, 7, 10, 1_234_567_890, u64::MAX] {
            let mut line = Vec::new();
            number(&mut line, n);
            assert_eq!(String::from_utf8(line).unwrap(), n.to_string());
        }
    }
}
