//! The latest good answers of tools that only read, for the time when the server cannot be asked.
//!
//! An answer is given again only to whom it was given, for the very same arguments, and says how old it
//! is: to the model in its first line, to programs in `_meta`.

use super::repeats::Call;
use crate::mcp::members;
use std::collections::HashMap;
use std::time::Duration;

/// Bytes of all answers together, and of one.
const ALL: usize = 4 * 1024 * 1024;
const ONE: usize = 256 * 1024;
const MOST: usize = 512;

/// The `_meta` member of an answer that was given before.
const MARK: &str = "dev.cofferdam/cached";

#[derive(Debug, Default)]
pub(super) struct Stale {
    kept: HashMap<Call, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// The result as its client got it.
    result: Box<[u8]>,
    at: u64,
}

impl Stale {
    /// Keeps an answer, if it is one that can be given again.
    pub(super) fn keep(&mut self, call: Call, result: &[u8], now: u64) {
        let complete = members(result).all(|(key, value)| match &*key {
            "isError" => value.text == b"false",
            "resultType" => value.text == br#""complete""#,
            _ => true,
        });
        if !complete || result.len() > ONE || result.first() != Some(&b'{') {
            return;
        }
        self.drop(&call);
        while self.kept.len() >= MOST || self.bytes + result.len() > ALL {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.at);
            let Some(oldest) = oldest.map(|(call, _)| call.clone()) else {
                break;
            };
            self.drop(&oldest);
        }
        self.bytes += result.len();
        let result = result.into();
        self.kept.insert(call, Kept { result, at: now });
    }

    /// The result of the same call, if it is at most `limit` old, marked as such.
    pub(super) fn find(&self, call: &Call, limit: Duration, now: u64) -> Option<Vec<u8>> {
        let kept = self.kept.get(call)?;
        let age = Duration::from_micros(now.saturating_sub(kept.at));
        (age <= limit).then(|| marked(&kept.result, age.as_secs()))
    }

    /// Another policy holds: nothing that was answered under the last one is given again.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn drop(&mut self, call: &Call) {
        if let Some(kept) = self.kept.remove(call) {
            self.bytes -= kept.result.len();
        }
    }
}

/// The result with a first line and a `_meta` member about its age; the rest as it was.
fn marked(result: &[u8], age: u64) -> Vec<u8> {
    let note = format!(
        r#"{{"type":"text","text":"[not asked again: the tool cannot be had now. This is what it answered to the same call {age} s ago.]"}}"#
    );
    let mark = format!(r#""{MARK}":{{"ageSeconds":{age}}}"#);
    let (mut content, mut meta) = (None, None);
    for (key, value) in members(result) {
        match (&*key, value.text.first()) {
            ("content", Some(b'[')) => content = Some(value),
            ("_meta", Some(b'{')) => meta = Some(value),
            _ => {}
        }
    }
    // What is put in, behind which byte of the result, and whether something follows it there.
    let mut put: Vec<(usize, String, bool)> = Vec::new();
    if let Some(content) = content {
        let more = content
            .text
            .get(1..)
            .is_some_and(|rest| rest.trim_ascii_start() != b"]");
        put.push((content.start + 1, note, more));
    }
    match meta {
        Some(meta) => {
            let more = meta
                .text
                .get(1..)
                .is_some_and(|rest| rest.trim_ascii_start() != b"}");
            put.push((meta.start + 1, mark, more));
        }
        None => {
            let more = result
                .get(1..)
                .is_some_and(|rest| rest.trim_ascii_start() != b"}");
            put.push((1, format!(r#""_meta":{{{mark}}}"#), more));
        }
    }
    put.sort_by_key(|(at, ..)| *at);
    let mut out = Vec::with_capacity(result.len() + 300);
    let mut from = 0;
    for (at, text, more) in put {
        out.extend_from_slice(result.get(from..at).unwrap_or_default());
        out.extend_from_slice(text.as_bytes());
        if more {
            out.push(b',');
        }
        from = at;
    }
    out.extend_from_slice(result.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::super::who::Party;
    use super::*;
    use serde_json::{Value, json};

    fn call(arguments: u32) -> Call {
        let mut sum = [0; 16];
        sum[..4].copy_from_slice(&arguments.to_le_bytes());
        Call {
            party: Party::default(),
            tool: "t".into(),
            arguments: sum,
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn found(stale: &Stale, arguments: u32, second: u64) -> Option<Value> {
        let found = stale.find(&call(arguments), MINUTE, second * 1_000_000)?;
        Some(serde_json::from_slice(&found).unwrap())
    }

    #[test]
    fn an_answer_is_given_again_with_its_age_and_unchanged_otherwise() {
        let text = json!({ "type": "text", "text": "hello" });
        for result in [
            json!({ "content": [text], "structuredContent": { "n": 1.0 } }),
            json!({ "_meta": { "a": 1 }, "content": [text, text] }),
            json!({ "content": [], "_meta": {} }),
            json!({ "x": 1 }),
            json!({}),
        ] {
            let mut stale = Stale::default();
            stale.keep(call(1), result.to_string().as_bytes(), 0);
            let mut again = found(&stale, 1, 42).unwrap();
            assert_eq!(again["_meta"][MARK]["ageSeconds"], 42, "{again}");
            if result.get("content").is_some() {
                let first = again["content"].as_array_mut().unwrap().remove(0);
                assert!(
                    first["text"].as_str().unwrap().contains("42 s ago"),
                    "{first}"
                );
            }
            again["_meta"].as_object_mut().unwrap().remove(MARK);
            if result.get("_meta").is_none() {
                again.as_object_mut().unwrap().remove("_meta");
            }
            assert_eq!(again, result);
        }
    }

    #[test]
    fn only_the_same_call_and_not_for_long() {
        let mut stale = Stale::default();
        stale.keep(call(1), br#"{"content":[]}"#, 0);
        assert!(found(&stale, 1, 60).is_some());
        assert!(found(&stale, 1, 61).is_none());
        assert!(found(&stale, 2, 1).is_none());
        let mut other = call(1);
        other.party.session = 9;
        assert!(stale.find(&other, MINUTE, 0).is_none());
        stale.clear();
        assert!(found(&stale, 1, 1).is_none());
    }

    #[test]
    fn errors_questions_and_what_is_too_large_are_not_kept() {
        let mut stale = Stale::default();
        let large = format!(r#"{{"content":["{}"]}}"#, "x".repeat(ONE));
        for result in [
            r#"{"content":[],"isError":true}"#,
            r#"{"resultType":"input_required"}"#,
            "[]",
            &large,
        ] {
            stale.keep(call(1), result.as_bytes(), 0);
            assert!(found(&stale, 1, 0).is_none());
        }
    }

    #[test]
    fn room_is_made_by_the_oldest() {
        let mut stale = Stale::default();
        let big = format!(r#"{{"content":["{}"]}}"#, "x".repeat(ONE - 100));
        for n in 0..100 {
            stale.keep(call(n), big.as_bytes(), n.into());
            assert!(stale.bytes <= ALL);
        }
        assert!(stale.find(&call(99), MINUTE, 99).is_some());
        assert!(stale.find(&call(0), MINUTE, 99).is_none());
        for n in 0..2000 {
            stale.keep(call(n), b"{}", 1000 + u64::from(n));
        }
        assert!(stale.kept.len() <= MOST);
        let sum: usize = stale.kept.values().map(|kept| kept.result.len()).sum();
        assert_eq!(sum, stale.bytes);
    }
}
