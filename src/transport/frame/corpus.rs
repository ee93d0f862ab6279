//! Every form of `tests/corpus/framing.jsonl` through framing and proof: what a stream of those
//! bytes and one LF gives. In the corpus each character of `bytes` (at most U+00FF) is one byte.

use super::*;
use crate::mcp::{Direction, Kind, parse};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    name: String,
    to: String,
    bytes: String,
    expect: Vec<String>,
}

fn verdict(line: &[u8], direction: Direction) -> String {
    match parse(line, direction) {
        Ok(envelope) => {
            assert_eq!(envelope.line, line, "what is forwarded is what came");
            let kind = match envelope.kind {
                Kind::Request { .. } => "request",
                Kind::Notification { .. } => "notification",
                Kind::Result { .. } => "result",
                Kind::Error { .. } => "error",
            };
            format!("forward {kind}")
        }
        Err(bad) => {
            let id = match &bad.id {
                Some((raw, _)) => format!("id {}", String::from_utf8_lossy(raw)),
                None => "no id".to_owned(),
            };
            let kind = if bad.request { "request" } else { "other" };
            format!("refuse {:?} {} {id} {kind}", bad.fault, bad.fault.code())
        }
    }
}

#[test]
fn every_form_of_the_corpus_is_forwarded_or_refused_as_it_says() {
    let corpus = include_str!("../../../tests/corpus/framing.jsonl");
    let mut wrong = Vec::new();
    for line in corpus.lines() {
        let form: Form = serde_json::from_str(line).unwrap();
        let direction = match form.to.as_str() {
            "server" => Direction::ToServer,
            "client" => Direction::ToClient,
            other => panic!("{other}"),
        };
        let bytes = form.bytes.chars().map(|c| u8::try_from(c).unwrap());
        let mut frames = FrameBuf::new(1 << 20);
        frames.extend(&bytes.chain([b'\n']).collect::<Vec<_>>());
        let mut given = Vec::new();
        while let Some(frame) = frames.next() {
            let Frame::Line(line) = frame else {
                panic!("{frame:?}");
            };
            given.push(verdict(frames.bytes(line.range()), direction));
        }
        if given != form.expect {
            wrong.push(format!("{}: {given:?}, not {:?}", form.name, form.expect));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(corpus.lines().count() > 400);
}
