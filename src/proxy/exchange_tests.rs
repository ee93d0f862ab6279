use super::*;
use crate::mcp::{Direction, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

fn admit(
    table: &mut Exchanges<usize>,
    line: &str,
    party: Party,
    place: usize,
) -> Result<(i64, Value), Duplicate> {
    let envelope = parse(line.as_bytes(), Direction::ToServer).unwrap();
    let Kind::Request { id, .. } = envelope.kind else {
        panic!("{line}")
    };
    let mut out = Vec::new();
    let number = table.admit(&envelope, id, party, place, &mut out)?;
    parse(&out, Direction::ToServer).unwrap();
    Ok((number, serde_json::from_slice(&out).unwrap()))
}

fn restored(table: &Exchanges<usize>, line: &str) -> (usize, Value) {
    let envelope = parse(line.as_bytes(), Direction::ToClient).unwrap();
    let address = Address::of_listen(&envelope);
    let (To::Answer(number) | To::Progress(number) | To::Stream(number)) = address.to else {
        panic!("{address:?}")
    };
    let exchange = table.find(number).unwrap();
    let mut out = Vec::new();
    exchange.restore(line.as_bytes(), &address, &mut out);
    (exchange.place, serde_json::from_slice(&out).unwrap())
}

#[test]
fn ids_and_tokens_are_ours_on_the_way_in_and_theirs_on_the_way_out() {
    let mut table = Exchanges::default();
    let line = r#"{"jsonrpc":"2.0","params":{"_meta":{"progressToken":"t\"1"},"name":"x"},"id": "seven" ,"method":"tools/call"}"#;
    let (number, sent) = admit(&mut table, line, NOBODY, 5).unwrap();
    assert_eq!(sent["id"], number);
    assert_eq!(sent["params"]["_meta"]["progressToken"], number);
    assert_eq!(sent["params"]["name"], "x");
    let progress = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progress":1,"progressToken":{number}}}}}"#
    );
    let (place, got) = restored(&table, &progress);
    assert_eq!(
        (place, &got["params"]["progressToken"]),
        (5, &json!("t\"1"))
    );
    let answer = format!(r#"{{"result":{{"id":{number}}},"jsonrpc":"2.0","id":{number}}}"#);
    let (place, got) = restored(&table, &answer);
    assert_eq!((place, &got["id"]), (5, &json!("seven")));
    assert_eq!(
        got["result"]["id"], number,
        "what is inside of a result is the server's own"
    );
}

#[test]
fn listen_notices_carry_the_id_that_the_client_chose() {
    let mut table = Exchanges::default();
    let line = r#"{"jsonrpc":"2.0","id":"listen:0","method":"subscriptions/listen","params":{}}"#;
    let (number, _) = admit(&mut table, line, NOBODY, 1).unwrap();
    let line = r#"{"jsonrpc":"2.0","id":70,"method":"subscriptions/listen","params":{}}"#;
    let (second, _) = admit(&mut table, line, NOBODY, 2).unwrap();
    for (number, spelt, expected) in [
        (number, number.to_string(), json!("listen:0")),
        (second, second.to_string(), json!(70)),
        (second, format!("\"{second}\""), json!("70")),
    ] {
        let notice = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{spelt}}}}}}}"#
        );
        let (_, got) = restored(&table, &notice);
        assert_eq!(
            got["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
            expected
        );
        let answer = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"result":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{spelt}}}}}}}"#
        );
        let (_, got) = restored(&table, &answer);
        assert_eq!(
            got["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
            expected
        );
        assert_ne!(got["id"], json!(number));
    }
}

#[test]
fn a_session_cancels_its_own_requests_and_no_other() {
    let mut table = Exchanges::default();
    let line = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let (first, _) = admit(&mut table, line, 1, 0).unwrap();
    let (second, _) = admit(&mut table, line, 2, 0).unwrap();
    assert_eq!(admit(&mut table, line, 2, 0), Err(Duplicate));
    let cancel = |table: &Exchanges<usize>, id: &str, party| {
        let line = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
        );
        let envelope = parse(line.as_bytes(), Direction::ToServer).unwrap();
        let line = table.cancelled(&envelope, party)?;
        Some(
            serde_json::from_slice::<Value>(&line).unwrap()["params"]["requestId"]
                .as_i64()
                .unwrap(),
        )
    };
    assert_eq!(cancel(&table, "1", 1), Some(first));
    assert_eq!(cancel(&table, "1", 2), Some(second));
    assert_eq!(cancel(&table, "1", 3), None);
    assert_eq!(
        cancel(&table, &first.to_string(), 2).filter(|n| *n == first),
        None
    );
    table.close(second);
    assert_eq!(cancel(&table, "1", 2), None);
    assert!(admit(&mut table, line, 2, 0).is_ok());
}

#[test]
fn progress_of_a_task_finds_its_session_after_the_first_answer() {
    let mut table = Exchanges::default();
    let line = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":"mine"}}}"#;
    let (number, _) = admit(&mut table, line, 9, 0).unwrap();
    table.close(number);
    let progress = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{number},"progress":2}}}}"#
    );
    let address = Address::of(&parse(progress.as_bytes(), Direction::ToClient).unwrap());
    let late = table.late(progress.as_bytes(), &address).unwrap();
    assert_eq!(late.party, 9);
    assert!(
        String::from_utf8(late.line)
            .unwrap()
            .contains("\"progressToken\":\"mine\"")
    );
    table.forget(9);
    assert!(table.late(progress.as_bytes(), &address).is_none());
}

/// What one client may do next.
#[derive(Debug, Clone)]
enum Step {
    Ask {
        client: usize,
        id: u8,
        text: bool,
        token: bool,
    },
    Progress {
        pick: usize,
    },
    Answer {
        pick: usize,
        error: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4_usize, 0..3_u8, any::<bool>(), any::<bool>())
            .prop_map(|(client, id, text, token)| Step::Ask { client, id, text, token }),
        2 => any::<usize>().prop_map(|pick| Step::Progress { pick }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(pick, error)| Step::Answer { pick, error }),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Clients choose equal ids and tokens on purpose; each server message carries the secret of the
    /// request that it is about, and nobody else may get it.
    #[test]
    fn clients_with_equal_ids_never_see_each_other_s_data(steps in steps(), sessions in any::<bool>()) {
        let mut table: Exchanges<usize> = Exchanges::default();
        // Number, client, its id, its token: what the server works on.
        let mut open: Vec<(i64, usize, Value, Option<Value>)> = Vec::new();
        for step in steps {
            match step {
                Step::Ask { client, id, text, token } => {
                    let id = if text { json!(id.to_string()) } else { json!(id) };
                    let token = token.then(|| id.clone());
                    let mut line = json!({"jsonrpc":"2.0","id":id,"method":"tools/call","params":{"name":client.to_string()}});
                    if let Some(token) = &token {
                        line["params"]["_meta"] = json!({"progressToken":token});
                    }
                    let party = if sessions { client as Party + 1 } else { NOBODY };
                    let twice = sessions && open.iter().any(|(_, who, theirs, _)| *who == client && *theirs == id);
                    match admit(&mut table, &line.to_string(), party, client) {
                        Err(Duplicate) => prop_assert!(twice),
                        Ok((number, sent)) => {
                            prop_assert!(!twice);
                            prop_assert_eq!(&sent["params"]["name"], &json!(client.to_string()));
                            prop_assert!(open.iter().all(|(other, ..)| *other != number));
                            open.push((number, client, id, token));
                        }
                    }
                }
                Step::Progress { pick } => {
                    let with: Vec<_> = open.iter().filter(|(.., token)| token.is_some()).collect();
                    if with.is_empty() { continue; }
                    let (number, client, _, token) = with[pick % with.len()];
                    let line = json!({"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":number,"message":client}});
                    let (place, got) = restored(&table, &line.to_string());
                    prop_assert_eq!(place, *client);
                    prop_assert_eq!(&got["params"]["message"], &json!(client));
                    prop_assert_eq!(Some(&got["params"]["progressToken"]), token.as_ref());
                }
                Step::Answer { pick, error } => {
                    if open.is_empty() { continue; }
                    let (number, client, id, _) = open.swap_remove(pick % open.len());
                    let line = if error {
                        json!({"jsonrpc":"2.0","id":number,"error":{"code":1,"message":client.to_string()}})
                    } else {
                        json!({"result":{"secret":client},"jsonrpc":"2.0","id":number})
                    };
                    let (place, got) = restored(&table, &line.to_string());
                    prop_assert_eq!(place, client);
                    prop_assert_eq!(&got["id"], &id);
                    prop_assert!(table.close(number).is_some() && table.close(number).is_none());
                }
            }
        }
        prop_assert_eq!(table.len(), open.len());
    }
}
