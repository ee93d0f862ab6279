//! How a failed call says that a credential is at fault, and what the agent is told instead of trying
//! again: `policy/problems.toml`.

use crate::mcp::{Envelope, Kind, Raw, elements, members};
use aho_corasick::{AhoCorasick, MatchKind};
use foldhash::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const TABLE: &str = include_str!("../../policy/problems.toml");
/// Bytes of a failed result that are searched: what went wrong stands at its beginning.
const SEARCHED: usize = 16 * 1024;

/// One way to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Of the table: in metrics and logs.
    pub name: &'static str,
    /// It is not accepted at all; else it lacks a right for this call.
    pub invalid: bool,
}

struct Table {
    problems: Vec<Problem>,
    /// `None` never: the words are fixed, and a test builds it.
    words: Option<AhoCorasick>,
}

fn table() -> &'static Table {
    static BUILT: OnceLock<Table> = OnceLock::new();
    BUILT.get_or_init(|| {
        let rows = rows(TABLE);
        let words = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(rows.iter().map(|row| row.words));
        let problem = |row: &Row| Problem {
            name: row.name,
            invalid: row.invalid,
        };
        Table {
            problems: rows.iter().map(problem).collect(),
            words: words.ok(),
        }
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    name: &'static str,
    invalid: bool,
    words: &'static str,
    example: &'static str,
    has_reason: bool,
}

/// Only so much of TOML as the table has; a test holds it against a real reader.
fn rows(text: &'static str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        if line == "[[problem]]" {
            rows.push(Row::default());
        }
        let (Some((key, value)), Some(row)) = (line.split_once(" = "), rows.last_mut()) else {
            continue;
        };
        let mut inner = value.chars();
        inner.next();
        inner.next_back();
        let value = inner.as_str();
        match key {
            "name" => row.name = value,
            "kind" => row.invalid = value == "invalid",
            "match" => row.words = value,
            "example" => row.example = value,
            "why" => row.has_reason = !value.is_empty(),
            _ => {}
        }
    }
    rows
}

/// What a failed result or an error says of a credential, if anything.
#[must_use]
pub fn problem(envelope: &Envelope<'_>) -> Option<Problem> {
    let said = match &envelope.kind {
        Kind::Result { result, .. } if envelope.failed() => result.text,
        Kind::Error { error, .. } => error.text,
        _ => return None,
    };
    search(said.get(..SEARCHED).unwrap_or(said))
}

/// The gravest that is said.
fn search(said: &[u8]) -> Option<Problem> {
    let table = table();
    let words = table.words.as_ref()?;
    let mut found = None;
    let alone = |at: usize| !said.get(at).is_some_and(u8::is_ascii_alphanumeric);
    for hit in words.find_iter(said) {
        let before = hit.start().checked_sub(1).is_none_or(alone);
        // An escape (`\n401`) ends with a letter that is none.
        let escaped = hit.start() >= 2 && said.get(hit.start() - 2) == Some(&b'\\');
        if !(before || escaped) || !alone(hit.end()) {
            continue;
        }
        let Some(problem) = table.problems.get(hit.pattern().as_usize()) else {
            continue;
        };
        if problem.invalid {
            return Some(*problem);
        }
        found = found.or(Some(*problem));
    }
    found
}

/// What the agent reads before the server's own words.
fn advice(invalid: bool, rule: &str) -> String {
    match invalid {
        true => format!(
            "Credential problem: what the server uses to sign in was not accepted (rule {rule}). The arguments are fine; do not retry, the operator has to renew it. The server said:"
        ),
        false => format!(
            "Credential problem: what the server uses to sign in lacks a right for this (rule {rule}). Changing the arguments to get around it will not help; do not retry, ask the operator. The server said:"
        ),
    }
}

/// The line with the advice before what the server says; `None` when it has no place.
pub(super) fn advised(envelope: &Envelope<'_>, invalid: bool, rule: &str) -> Option<Vec<u8>> {
    let advice = advice(invalid, rule);
    let (at, text) = match &envelope.kind {
        Kind::Result { result, .. } => {
            let content = result.member("content")?;
            if content.text.first() != Some(&b'[') {
                return None;
            }
            let comma = match elements(content.text).next() {
                Some(_) => ",",
                None => "",
            };
            let text = format!("{{\"type\":\"text\",\"text\":\"{advice}\"}}{comma}");
            (content.start + 1, text)
        }
        Kind::Error { error, .. } => {
            let message = message(*error)?;
            (message + 1, format!("{advice} "))
        }
        _ => return None,
    };
    let mut line = Vec::with_capacity(envelope.line.len() + text.len());
    line.extend_from_slice(envelope.line.get(..at)?);
    line.extend_from_slice(text.as_bytes());
    line.extend_from_slice(envelope.line.get(at..)?);
    Some(line)
}

/// Where the text of an error begins in its line.
fn message(error: Raw<'_>) -> Option<usize> {
    let (_, value) = members(error.text).find(|(key, _)| key == "message")?;
    (value.text.first() == Some(&b'"')).then_some(error.start + value.start)
}

/// Tools that fail by their credential again and again are not called for a while: the agent that does
/// not read what it is told costs the operator an account that is locked.
///
/// ```text
/// closed ── [`TRIPS`] in a row ──▶ open for [`PAUSE`] ──▶ one call passes ── fails ──▶ open
///    ▲                                                          └──────── works ──▶ closed
///    └────────────────────────── another credential ──────────────────────────────────┘
/// ```
#[derive(Debug, Default)]
pub struct CredentialBreaker {
    tools: HashMap<Box<str>, Trips>,
}

#[derive(Debug, Default)]
struct Trips {
    in_a_row: u32,
    open_until: Option<Instant>,
}

/// Failures in a row that open it.
const TRIPS: u32 = 3;
/// How long no call passes then.
const PAUSE: Duration = Duration::from_secs(30);
/// Tools that are watched; a server with more has the rest unwatched.
const TOOLS: usize = 1024;

impl CredentialBreaker {
    /// How long a call of this tool has to wait; `None`: it may pass, as a trial where one is due.
    pub fn bars(&mut self, tool: &str, now: Instant) -> Option<Duration> {
        if self.tools.is_empty() {
            return None;
        }
        let until = self.tools.get_mut(tool)?.open_until.as_mut()?;
        if *until > now {
            return Some(*until - now);
        }
        *until = now + PAUSE;
        None
    }

    /// A call was answered; `at_fault`: its credential was not accepted.
    pub fn answered(&mut self, tool: &str, at_fault: bool, now: Instant) {
        if !at_fault {
            if !self.tools.is_empty() {
                self.tools.remove(tool);
            }
            return;
        }
        if !self.tools.contains_key(tool) && self.tools.len() >= TOOLS {
            return;
        }
        let trips = self.tools.entry(tool.into()).or_default();
        trips.in_a_row = trips.in_a_row.saturating_add(1);
        if trips.in_a_row >= TRIPS {
            trips.open_until = Some(now + PAUSE);
        }
    }

    /// Another credential is in force: what failed may work.
    pub fn reset(&mut self) {
        self.tools.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{Direction, parse};

    #[test]
    fn the_table_is_what_a_real_reader_sees_and_every_example_matches() {
        let table: toml::Table = TABLE.parse().unwrap();
        let real = table["problem"].as_array().unwrap();
        let rows = rows(TABLE);
        assert_eq!(rows.len(), real.len());
        for (row, real) in rows.iter().zip(real) {
            let text = |key: &str| real[key].as_str().unwrap();
            assert_eq!(
                (row.name, row.words, row.example),
                (text("name"), text("match"), text("example"))
            );
            assert_eq!(row.words, row.words.to_lowercase(), "{}", row.words);
            assert!(row.has_reason && ["invalid", "lacking"].contains(&text("kind")));
            assert!(row.example.to_lowercase().contains(row.words), "{row:?}");
            let found = search(row.example.as_bytes()).unwrap_or_else(|| panic!("{row:?}"));
            assert_eq!(found.invalid, row.invalid, "{row:?}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for text in [
            "no such file: notes-401-unauthorized2.md",
            "line 401: unexpected token",
            "the function invalid_tokens was not found",
            "404 Not Found",
            "HTTP 4013 is not a status",
            "token count exceeded",
            "permission denied: /etc/shadow",
        ] {
            assert_eq!(search(text.as_bytes()), None, "{text}");
        }
        assert!(
            search(br"failed:\nHTTP 401\n").is_some(),
            "an escape is no letter"
        );
    }

    fn answer(result: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,{result}}}"#)
    }

    #[test]
    fn the_advice_comes_first_and_nothing_is_lost() {
        let line =
            answer(r#""result":{"content":[{"type":"text","text":"HTTP 401"}],"isError":true}"#);
        let envelope = parse(line.as_bytes(), Direction::ToClient).unwrap();
        assert!(problem(&envelope).unwrap().invalid);
        let out = advised(&envelope, true, "r").unwrap();
        let out: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let said = out["result"]["content"][0]["text"].as_str().unwrap();
        assert!(said.contains("do not retry"), "{said}");
        assert_eq!(out["result"]["content"][1]["text"], "HTTP 401");

        let line = answer(r#""error":{"code":-32000,"message":"HTTP 401"}"#);
        let envelope = parse(line.as_bytes(), Direction::ToClient).unwrap();
        let out = advised(&envelope, true, "r").unwrap();
        let out: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let said = out["error"]["message"].as_str().unwrap();
        assert!(said.ends_with("The server said: HTTP 401"), "{said}");

        for other in [
            r#""result":{"content":[{"type":"text","text":"HTTP 401"}]}"#,
            r#""result":{"content":[],"isError":true}"#,
        ] {
            let line = answer(other);
            let envelope = parse(line.as_bytes(), Direction::ToClient).unwrap();
            assert_eq!(problem(&envelope), None, "{other}");
        }
    }

    #[test]
    fn the_breaker_opens_after_three_and_lets_one_try() {
        let mut breaker = CredentialBreaker::default();
        let start = Instant::now();
        for _ in 0..2 {
            breaker.answered("t", true, start);
        }
        breaker.answered("t", false, start);
        for _ in 0..2 {
            breaker.answered("t", true, start);
            assert_eq!(breaker.bars("t", start), None);
        }
        breaker.answered("t", true, start);
        assert_eq!(breaker.bars("t", start), Some(PAUSE));
        assert_eq!(breaker.bars("other", start), None);
        let later = start + PAUSE;
        assert_eq!(breaker.bars("t", later), None, "one tries");
        assert_eq!(breaker.bars("t", later), Some(PAUSE), "and no other");
        breaker.answered("t", true, later);
        assert!(breaker.bars("t", later).is_some());
        breaker.answered("t", false, later);
        assert_eq!(breaker.bars("t", later), None);
        for _ in 0..3 {
            breaker.answered("t", true, later);
        }
        breaker.reset();
        assert_eq!(breaker.bars("t", later), None);
    }
}
