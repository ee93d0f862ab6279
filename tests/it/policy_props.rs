//! What must hold for every message, whatever the policy: tried with thousands of them.

use crate::policy_corpus::{origin, policy, proved};
use cofferdam::mcp::{Direction, Era, Subject};
use cofferdam::policy::{Policy, ToolBook, Verdict};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Spellings of one name that some program somewhere takes for the name itself.
fn spelling(name: &'static str) -> impl Strategy<Value = String> {
    let invisible = prop::sample::select(vec![
        "", "\u{200b}", "\u{ad}", "\u{feff}", "\u{2060}", "\u{0}",
    ]);
    let blank = prop::sample::select(vec!["", " ", "\t", "\n", "\u{3000}"]);
    (any::<u32>(), any::<u32>(), 0..name.len(), invisible, blank).prop_map(
        move |(upper, wide, at, invisible, blank)| {
            let mut spelled = String::from(blank);
            for (index, c) in name.chars().enumerate() {
                if index == at {
                    spelled.push_str(invisible);
                }
                let c = if upper >> (index % 32) & 1 == 1 {
                    c.to_ascii_uppercase()
                } else {
                    c
                };
                // Fullwidth forms lie 0xFEE0 above ASCII.
                let c = if wide >> (index % 32) & 1 == 1 {
                    char::from_u32(u32::from(c) + 0xFEE0).unwrap_or(c)
                } else {
                    c
                };
                spelled.push(c);
            }
            spelled + blank
        },
    )
}

/// Any JSON value of a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-zA-Z/_$]{1,8}", inner, 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

static DENIES: LazyLock<Policy> = LazyLock::new(|| {
    policy(
        "[tools.delete_repo]\nallow = false\n[prompts]\ndeny = [\"delete_repo\"]\n[scrub]\nsecrets = \"off\"\n[schema]\narguments = \"off\"\n",
    )
});
static CHECKS: LazyLock<Policy> = LazyLock::new(|| policy("[scrub]\nsecrets = \"off\"\n"));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_spelling_of_a_denied_tool_is_callable(name in spelling("delete_repo")) {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name}}).to_string();
        let envelope = proved(&line, Direction::ToServer);
        let subject = Subject::of(&envelope);
        let decision = DENIES.client(&envelope, subject.as_ref(), Era::Legacy, &mut ToolBook::default(), None);
        prop_assert!(matches!(decision.verdict, Verdict::Refuse(_)), "{:?}", decision.verdict);
        prop_assert_eq!(decision.rule, Some("tools.deny"));
    }

    #[test]
    fn no_spelling_of_a_denied_name_is_listed(
        names in prop::collection::vec(prop_oneof![spelling("delete_repo"), spelling("read_repo")], 0..6),
        extra in any_json(),
    ) {
        for (method, member) in [("tools/list", "tools"), ("prompts/list", "prompts")] {
            let entries: Vec<Value> = names.iter().map(|name| json!({"x": extra, "name": name})).collect();
            let line = json!({"jsonrpc": "2.0", "id": 1, "result": {"a": 1, member: entries, "nextCursor": "c"}}).to_string();
            let envelope = proved(&line, Direction::ToClient);
            let origin = origin(method, None, Era::Legacy);
            let decision = DENIES.server(&envelope, Some(&origin), &mut ToolBook::default(), None);
            let after = match decision.verdict {
                Verdict::Forward => line.clone(),
                Verdict::Rewrite(bytes) => String::from_utf8(bytes).expect("UTF-8"),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            let tree: Value = serde_json::from_str(&after).expect("still JSON");
            let left = tree["result"][member].as_array().expect("a list");
            let kept = names.iter().filter(|name| is_read(name)).count();
            prop_assert_eq!(left.len(), kept);
            prop_assert!(left.iter().all(|entry| entry["name"].as_str().is_some_and(is_read)));
            prop_assert_eq!(&tree["result"]["nextCursor"], "c");
        }
    }

    #[test]
    fn whatever_is_not_refused_is_not_changed(params in any_json(), method in "[a-z]{1,6}/[a-zA-Z]{1,6}") {
        let line = match &params {
            Value::Object(_) => json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}),
            _ => json!({"jsonrpc": "2.0", "id": 1, "method": method}),
        }.to_string();
        if let Ok(envelope) = cofferdam::mcp::parse(line.as_bytes(), Direction::ToServer) {
            let subject = Subject::of(&envelope);
            for policy in [&DENIES, &CHECKS] {
                // The engine never writes a line towards the server: it passes or it does not.
                let decision = policy.client(&envelope, subject.as_ref(), Era::Modern, &mut ToolBook::default(), None);
                prop_assert!(!matches!(decision.verdict, Verdict::Rewrite(_)));
            }
        }
        let line = json!({"jsonrpc": "2.0", "id": 1, "result": params}).to_string();
        if let Ok(envelope) = cofferdam::mcp::parse(line.as_bytes(), Direction::ToClient) {
            let origin = origin("resources/read", Some("a:b"), Era::Legacy);
            let decision = CHECKS.server(&envelope, Some(&origin), &mut ToolBook::default(), None);
            prop_assert!(matches!(decision.verdict, Verdict::Forward));
        }
    }

    #[test]
    fn no_refusal_of_arguments_holds_an_argument(
        value in "[A-Z]{6}[0-9]{6}",
        shape in 0..6,
    ) {
        let schema = json!({"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}, "properties": {
            "a": {"type": "integer"}, "b": {"enum": ["x"]}, "c": {"anyOf": [{"type": "null"}, {"maxLength": 2}]},
            "d": {"type": "array", "items": {"pattern": "^x"}},
        }});
        let mut tools = ToolBook::default();
        tools.learn(json!({"tools": [{"name": "t", "inputSchema": schema}]}).to_string().as_bytes(), true);
        let arguments = match shape {
            0 => json!({"a": value}),
            1 => json!({"a": 1, "b": value}),
            2 => json!({"a": 1, "c": value}),
            3 => json!({"a": 1, "d": [value]}),
            4 => json!({"a": 1, "free": value}),
            _ => json!(value),
        };
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": arguments}}).to_string();
        let envelope = proved(&line, Direction::ToServer);
        let subject = Subject::of(&envelope);
        match CHECKS.client(&envelope, subject.as_ref(), Era::Legacy, &mut tools, None).verdict {
            Verdict::Refuse(refusal) => prop_assert!(!refusal.text.contains(&value), "{}", refusal.text),
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }
}

/// The oracle of the list test: of the two names that are generated only one has an `a` second last.
fn is_read(name: &str) -> bool {
    let plain: String = name
        .chars()
        .map(|c| {
            char::from_u32(u32::from(c).wrapping_sub(0xFEE0))
                .filter(char::is_ascii_graphic)
                .unwrap_or(c)
        })
        .filter(char::is_ascii_graphic)
        .collect();
    plain.eq_ignore_ascii_case("read_repo")
}
