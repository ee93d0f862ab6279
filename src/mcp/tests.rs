//! Properties of the proof and the walkers. The table of forms is in `tests/corpus/framing.jsonl`.

use super::*;
use pretty_assertions::assert_eq;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn to_server(line: &[u8]) -> Result<Envelope<'_>, Malformed> {
    parse(line, Direction::ToServer)
}

#[test]
fn the_four_kinds_are_told_apart_and_their_parts_slice_exactly() {
    let line =
        br#" { "jsonrpc" : "2.0", "id" : 7 , "method":"tools\/call", "params" : {"name":"x"} } "#;
    let envelope = to_server(line).unwrap();
    let Kind::Request { id, method, params } = envelope.kind else {
        panic!("{envelope:?}");
    };
    assert_eq!(method, "tools/call");
    assert_eq!(id.key(), RequestId::Number(7));
    assert_eq!(&line[id.start..id.start + id.raw.len()], b"7");
    assert_eq!(&line[params.unwrap().span()], br#"{"name":"x"}"#);

    let line = br#"{"jsonrpc":"2.0","id":"a","result":{"x":[1,2]}}"#;
    let Kind::Result { id, result } = to_server(line).unwrap().kind else {
        panic!();
    };
    assert_eq!(id.key(), RequestId::Text("a".into()));
    assert_eq!(&line[result.span()], br#"{"x":[1,2]}"#);

    let line = br#"{"jsonrpc":"2.0","id":null,"error":{"code":1}}"#;
    let Kind::Error { id: None, error } = to_server(line).unwrap().kind else {
        panic!();
    };
    assert_eq!(&line[error.span()], br#"{"code":1}"#);
}

#[test]
fn subjects_tokens_and_cancelled_ids_are_read_decoded() {
    let read = |line: &str| {
        let envelope = to_server(line.as_bytes()).unwrap();
        Subject::of(&envelope)
    };
    let subject = |capability, method: &str, name: Option<&str>| {
        Some(Subject {
            capability,
            method: method.to_owned().into(),
            name: name.map(Into::into),
        })
    };
    assert_eq!(
        read(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"n\u0061me":"\u0065cho"}}"#
        ),
        subject(Capability::Tool, "tools/call", Some("echo"))
    );
    assert_eq!(
        read(
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a:b","name":"c"}}"#
        ),
        subject(Capability::Resource, "resources/subscribe", Some("a:b"))
    );
    assert_eq!(
        read(r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":7}}"#),
        subject(Capability::Prompt, "prompts/get", None)
    );
    assert_eq!(
        read(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#),
        subject(Capability::Method, "notifications/x", None)
    );
    assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), None);

    let line = br#"{"jsonrpc":"2.0","method":"x","params":{"_meta":{"progressToken":"t"},"requestId":3,"progressToken":4.5}}"#;
    let envelope = to_server(line).unwrap();
    let Kind::Notification { params, .. } = envelope.kind else {
        panic!();
    };
    let token = wanted_progress(&envelope).unwrap();
    assert_eq!(token.key(), RequestId::Text("t".into()));
    assert_eq!(&line[token.start..token.start + 3], br#""t""#);
    assert_eq!(
        cancelled_request(params).unwrap().key(),
        RequestId::Number(3)
    );
    assert!(reported_progress(params).is_none());
}

#[test]
fn text_decodes_and_replaces_half_pairs() {
    let read = |raw: &str| text(raw.as_bytes()).map(|text| text.into_owned());
    assert_eq!(
        read(r#""a\n\u00e9\ud83d\udc4d\/""#).as_deref(),
        Some("a\né👍/")
    );
    assert_eq!(read(r#""\ud83dx""#).as_deref(), Some("\u{fffd}x"));
    for not in ["7", "", "\"", "\"a", "\"a\"b", "{}", r#""\q""#, r#""\u12""#] {
        assert_eq!(read(not), None, "{not}");
    }
    assert!(text(b"\"\xff\"").is_none() && text(b"\"\xff\\n\"").is_none());
}

/// JSON as text, with escapes, blanks and numbers as peers write them, and duplicates possible.
fn json_text() -> impl Strategy<Value = String> {
    let string = prop_oneof![
        "\"[a-c]{0,2}\"",
        r#""([ -!#-\[\]-~é漢👍]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\udc4d){0,90}""#,
    ];
    let leaf = prop_oneof![
        string.clone(),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?",
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
    ];
    // Keys that are known as words, also spelt another way, and what only looks like them.
    let key = prop_oneof![
        2 => string,
        1 => r#""(id|\\u0069d|ID|t(ext|\\u0065xt|ype)|type[\\\\]"|uri_|_meta|content|arguments)""#,
        1 => r#""io\.modelcontextprotocol(/|\\/)(clientInfo|clientinfo|protocolVersion)?""#,
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        let member = (key.clone(), " {0,2}", inner.clone())
            .prop_map(|(key, blank, value)| format!("{key}{blank}:{blank}{value}"));
        prop_oneof![
            vec(inner, 0..6).prop_map(|items| format!("[{}]", items.join(" , "))),
            vec(member, 0..20).prop_map(|items| format!("{{ {} }}", items.join(","))),
        ]
    })
}

/// True when an object in `raw` has a key twice; an oracle that shares nothing with the proof.
fn has_duplicates(raw: &serde_json::value::RawValue) -> bool {
    use serde_json::value::RawValue;
    struct Pairs(Vec<(String, Box<RawValue>)>);
    impl<'de> serde::Deserialize<'de> for Pairs {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Pairs;
                fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    to.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Pairs, A::Error> {
                    let mut pairs = Vec::new();
                    while let Some(pair) = map.next_entry()? {
                        pairs.push(pair);
                    }
                    Ok(Pairs(pairs))
                }
            }
            from.deserialize_map(Visitor)
        }
    }
    if let Ok(items) = serde_json::from_str::<Vec<Box<RawValue>>>(raw.get()) {
        return items.iter().any(|item| has_duplicates(item));
    }
    let Ok(Pairs(pairs)) = serde_json::from_str(raw.get()) else {
        return false;
    };
    let keys: std::collections::HashSet<_> = pairs.iter().map(|(key, _)| key).collect();
    keys.len() < pairs.len() || pairs.iter().any(|(_, value)| has_duplicates(value))
}

/// What the walkers read, rebuilt as a tree.
fn walked(raw: &[u8]) -> Value {
    match raw.first() {
        Some(b'{') => members(raw)
            .map(|(key, value)| {
                assert_eq!(&raw[value.span()], value.text);
                (key.into_owned(), walked(value.text))
            })
            .collect::<Map<_, _>>()
            .into(),
        Some(b'[') => elements(raw).map(|value| walked(value.text)).collect(),
        Some(b'"') => text(raw).unwrap().into_owned().into(),
        _ => serde_json::from_slice(raw).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn params_are_accepted_exactly_when_they_are_json_without_duplicates(params in json_text()) {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"p":{params}}}}}"#);
        let raw: Box<serde_json::value::RawValue> = serde_json::from_str(&params).unwrap();
        match to_server(line.as_bytes()) {
            Ok(envelope) => {
                prop_assert!(!has_duplicates(&raw));
                let Kind::Request { params: Some(span), .. } = envelope.kind else {
                    panic!();
                };
                prop_assert_eq!(&line[span.span()], format!(r#"{{"p":{params}}}"#));
                let tree: Value = serde_json::from_str(&params).unwrap();
                prop_assert_eq!(walked(params.as_bytes()), tree);
            }
            Err(bad) => {
                prop_assert_eq!(bad.fault, Fault::DuplicateKey);
                prop_assert!(has_duplicates(&raw));
            }
        }
    }

    #[test]
    fn one_changed_byte_is_judged_as_serde_json_judges_it(
        params in json_text(),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(b','), Just(b'}'), Just(b'0')],
    ) {
        // Where keys are not compared, so that only the grammar decides.
        let mut line = format!(r#"{{"jsonrpc":"2.0","id":1,"result":[[[{params}]]]}}"#).into_bytes();
        let at = 32 + at.index(line.len() - 32);
        line[at] = byte;
        let ours = parse(&line, Direction::ToClient).map(|_| ()).map_err(|bad| bad.fault);
        let control = line.iter().any(|byte| *byte < 0x20);
        let theirs = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&line);
        match ours {
            Ok(()) => prop_assert!(theirs.is_ok()),
            Err(Fault::Control) => prop_assert!(control),
            // These are JSON, but not messages.
            Err(Fault::DuplicateKey | Fault::CaseVariant | Fault::Surrogate | Fault::Mixed) => {}
            Err(fault) => prop_assert!(theirs.is_err() || control, "{fault:?}"),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_walkers_end(bytes in vec(any::<u8>(), 0..200)) {
        let _unused = to_server(&bytes).is_ok();
        prop_assert!(members(&bytes).count() <= bytes.len());
        prop_assert!(elements(&bytes).count() <= bytes.len());
        let _unused = text(&bytes);
    }

    #[test]
    fn arbitrary_structure_never_panics_and_walkers_end(text in r#"[{}\[\]:,"\\u0-9d a-e]{0,200}"#) {
        let bytes = text.as_bytes();
        let _unused = to_server(bytes).is_ok();
        for (_, value) in members(bytes) {
            prop_assert_eq!(&bytes[value.span()], value.text);
        }
        for value in elements(bytes) {
            prop_assert_eq!(&bytes[value.span()], value.text);
        }
    }

    #[test]
    fn the_id_scan_agrees_with_the_proof_however_it_is_fed(
        id in prop_oneof![any::<i64>().prop_map(|id| json!(id)), ".{0,20}".prop_map(|id| json!(id))],
        before in json_text(),
        after in json_text(),
        step in 1usize..60,
    ) {
        let line = format!(
            r#"{{"a":{before},"\u0069d" : {id} ,"method":"x","jsonrpc":"2.0","b":{after}}}"#
        );
        let mut scan = IdScan::default();
        line.as_bytes().chunks(step).for_each(|piece| scan.feed(piece));
        let found = scan.finish().unwrap();
        prop_assert!(found.request);
        let token = id.to_string();
        prop_assert_eq!(&*found.raw, token.as_bytes());
        let Kind::Request { id, .. } = to_server(line.as_bytes()).unwrap().kind else {
            panic!();
        };
        prop_assert_eq!(found.key, id.key());
    }
}

#[test]
fn the_id_scan_trusts_only_one_legal_id() {
    let found = |line: &str| {
        let mut scan = IdScan::default();
        scan.feed(line.as_bytes());
        scan.finish().map(|found| (found.key, found.request))
    };
    let seven = Some((RequestId::Number(7), true));
    assert_eq!(found(r#"{"method":"x","id":7}"#), seven);
    assert_eq!(
        found(r#"{"params":{"id":8,"x":"\"}{"},"id":7,"method":"x""#),
        seven
    );
    assert_eq!(found(r#"{"id":7}"#), Some((RequestId::Number(7), false)));
    for none in [
        r#"{"params":{"id":7}}"#,
        r#"{"id":7,"id":8}"#,
        r#"{"id":7,"i\u0064":7}"#,
        r#"{"id":null}"#,
        r#"{"id":1.5,"x":1}"#,
        r#"{"id":{"id":7}}"#,
        r#"{"id":7"#,
        r#"{"id":"7"#,
        r#"{"a":1 "id":7}"#,
        r#"[{"id":7}]"#,
        r#"{"id":7}{"id":8}"#,
        r#"{"method":"x"}"#,
    ] {
        assert_eq!(found(none), None, "{none}");
    }
    let long = format!(r#"{{"id":"{}"}}"#, "a".repeat(MAX_ID_BYTES));
    assert_eq!(found(&long), None);
}
