//! Guards and places as the two peers of a session see them.

use super::tests::{Rig, call, config, request};
use crate::policy::{Policy, scrub::Scrubber};
use crate::proxy::Outbox;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const UNCHECKED: &str = "[schema]\narguments = \"off\"\n";

fn failure(id: u32, code: i32) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": "no" } })
}

fn said(id: u32, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [{ "type": "text", "text": text }] } })
}

fn rule(answer: &Value) -> &str {
    let mark = &answer["result"]["_meta"]["dev.cofferdam/rule"];
    mark.as_str()
        .or(answer["error"]["data"]["rule"].as_str())
        .unwrap_or_default()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn failures_open_the_breaker_and_a_probe_closes_it() {
    let toml = format!("[breaker]\ncalls = 2\npause = \"10s\"\n{UNCHECKED}");
    let mut rig = Rig::new(&toml);
    for id in 0..2 {
        rig.client(&call(id, "t")).server(&failure(id, -32603));
    }
    rig.seen_by_client();
    rig.seen_by_server();
    rig.client(&call(2, "t")).client(&request(3, "tools/list"));
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), rule(&seen[0])), (1, "limits.breaker"));
    assert_eq!(seen[0]["result"]["isError"], true);
    assert_eq!(rig.seen_by_server(), [request(3, "tools/list")]);
    let list = json!({ "jsonrpc": "2.0", "id": 3, "result": { "tools": [{ "name": "t", "inputSchema": { "type": "object" } }] } });
    rig.server(&list);
    assert_eq!(rig.seen_by_client(), [list], "the list is as it always was");
    assert_eq!(
        rig.session.moved_breakers(),
        Some(vec![(Some("t".to_owned()), "open")])
    );
    rig.pass(seconds(10)).client(&call(4, "t"));
    assert_eq!(rig.seen_by_server(), [call(4, "t")]);
    rig.client(&call(5, "t"));
    assert_eq!(
        rule(&rig.seen_by_client()[0]),
        "limits.breaker",
        "one probe"
    );
    rig.server(&said(4, "well")).client(&call(6, "t"));
    assert_eq!(rig.seen_by_server(), [call(6, "t")]);
    assert_eq!(rig.session.moved_breakers(), Some(vec![]));
    assert_eq!(rig.session.moved_breakers(), None);
}

#[test]
fn what_is_about_the_request_is_no_failure_and_what_never_comes_is() {
    let toml = format!("[breaker]\ncalls = 2\n[limits]\ntimeout = \"5s\"\n{UNCHECKED}");
    let mut rig = Rig::new(&toml);
    for id in 0..6 {
        rig.client(&call(id, "t")).server(&failure(id, -32602));
        rig.client(&call(id, "u"));
        rig.server(
            &json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [], "isError": true } }),
        );
    }
    rig.client(&call(7, "t")).client(&call(8, "u"));
    rig.server(&said(7, "x")).server(&said(8, "x"));
    assert!(
        rig.seen_by_client()
            .iter()
            .all(|answer| rule(answer).is_empty())
    );
    for id in 10..30 {
        rig.client(&call(id, "t")).pass(seconds(6));
    }
    rig.seen_by_client();
    rig.client(&call(31, "t"));
    assert_eq!(rule(&rig.seen_by_client()[0]), "limits.breaker");
}

#[test]
fn results_with_an_error_count_where_the_operator_says_so() {
    let toml = format!("[breaker]\ncalls = 2\ntool_errors = true\n{UNCHECKED}");
    let mut rig = Rig::new(&toml);
    for id in 0..2 {
        rig.client(&call(id, "t"));
        rig.server(
            &json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [], "isError": true } }),
        );
    }
    rig.seen_by_client();
    rig.client(&call(3, "t"));
    assert_eq!(rule(&rig.seen_by_client()[0]), "limits.breaker");
}

#[test]
fn an_error_that_comes_again_and_again_is_a_loop_too() {
    let mut rig = Rig::new(&format!("[repeats]\ncalls = 2\n{UNCHECKED}"));
    for id in 0..2 {
        rig.client(&call(id, "t")).server(&failure(id, -32602));
    }
    rig.seen_by_client();
    rig.client(&call(2, "t"));
    assert_eq!(rule(&rig.seen_by_client()[0]), "limits.repeats");
}

#[test]
fn a_cancelled_probe_is_no_failure_and_keeps_nobody_out() {
    let toml = format!("[breaker]\ncalls = 2\npause = \"10s\"\n{UNCHECKED}");
    let mut rig = Rig::new(&toml);
    for id in 0..2 {
        rig.client(&call(id, "t")).server(&failure(id, -32603));
    }
    rig.pass(seconds(10)).client(&call(3, "t"));
    rig.client(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 } }));
    rig.seen_by_server();
    rig.client(&call(4, "t"));
    assert_eq!(rig.seen_by_server(), [call(4, "t")]);
}

#[test]
fn an_answer_that_is_too_large_is_cut_or_refused() {
    let mut rig = Rig::new(&format!("[limits]\nresult = \"2KiB\"\n{UNCHECKED}"));
    let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    rig.client(&call(1, "t")).server(&said(1, &text));
    let cut = &rig.seen_by_client()[0];
    let shown = cut["result"]["content"][0]["text"].as_str().unwrap();
    assert!(shown.starts_with("line 0\n") && shown.contains("[cut here: "));
    assert!(cut.to_string().len() < 2200);
    let rows = json!((0..2000).collect::<Vec<_>>()).to_string();
    rig.client(&call(2, "t")).server(&said(2, &rows));
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), rule(&seen[0])), (1, "limits.result"));
    assert_eq!(seen[0]["id"], 2);
    let small = said(3, "x");
    rig.client(&call(3, "t")).server(&small);
    assert_eq!(rig.seen_by_client(), [small]);
}

#[test]
fn no_more_run_at_one_time_than_may_and_the_rest_wait_their_turn() {
    let mut rig = Rig::new(&format!("[limits]\nconcurrency = 2\n{UNCHECKED}"));
    for id in 1..=3 {
        rig.client(&call(id, "slow"));
    }
    rig.client(&call(4, "other")).client(&request(5, "ping"));
    let sent = [call(1, "slow"), call(2, "slow"), request(5, "ping")];
    assert_eq!(rig.seen_by_server(), sent);
    assert!(rig.session.holds_calls());
    rig.server(&said(1, "x"));
    assert_eq!(rig.seen_by_server(), [call(3, "slow")]);
    rig.server(&said(3, "x"));
    assert_eq!(rig.seen_by_server(), [call(4, "other")]);
    rig.server(&said(2, "x")).server(&said(4, "x"));
    assert_eq!(rig.seen_by_server(), [] as [Value; 0]);
    assert_eq!(rig.seen_by_client().len(), 4);
    assert!(!rig.session.holds_calls());
}

#[test]
fn who_waits_can_be_cancelled_and_does_not_wait_for_ever() {
    let toml = format!("[limits]\nconcurrency = 1\nqueue = 2\nwait = \"5s\"\n{UNCHECKED}");
    let mut rig = Rig::new(&toml);
    for id in 1..=4 {
        rig.client(&call(id, "t"));
    }
    let seen = rig.seen_by_client();
    assert_eq!(
        (&seen[0]["id"], rule(&seen[0])),
        (&json!(4), "limits.concurrency")
    );
    rig.client(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 2 } }));
    rig.seen_by_server();
    assert_eq!(rig.session.next_due(), Some(rig.now + seconds(5)));
    rig.pass(seconds(5));
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), &seen[0]["id"]), (1, &json!(3)));
    assert!(
        seen[0].to_string().contains("nothing was done"),
        "{}",
        seen[0]
    );
    rig.server(&said(1, "x"));
    assert_eq!(rig.seen_by_server(), [] as [Value; 0], "nobody waits");
    // An id that has been answered may be used again.
    rig.client(&call(3, "t"));
    assert_eq!(rig.seen_by_server(), [call(3, "t")]);
}

#[test]
fn a_cancelled_call_gives_its_place_to_the_next() {
    let mut rig = Rig::new(&format!("[limits]\nconcurrency = 1\n{UNCHECKED}"));
    rig.client(&call(1, "t")).client(&call(2, "t"));
    rig.seen_by_server();
    rig.client(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }));
    let seen = rig.seen_by_server();
    assert!(seen.contains(&call(2, "t")), "{seen:?}");
}

fn cancel(id: u32) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } })
}

#[test]
fn what_is_cancelled_is_not_waited_for_and_its_late_answer_passes() {
    let mut rig = Rig::new(&format!("[limits]\ntimeout = \"5s\"\n{UNCHECKED}"));
    rig.client(&call(1, "t")).client(&call(2, "t"));
    rig.client(&cancel(1)).client(&cancel(2)).client(&cancel(2));
    assert_eq!((rig.session.open(), rig.session.owes()), (0, false));
    rig.server(&said(1, "late"));
    assert_eq!(rig.seen_by_client(), [said(1, "late")]);
    rig.client(&call(3, "t"));
    assert_eq!(rig.session.open(), 1);
    rig.pass(seconds(4)).server(&said(3, "x")).pass(seconds(2));
    assert_eq!(rig.session.open(), 0);
    assert_eq!(rig.seen_by_client(), [said(3, "x")], "2 wants no answer");
    rig.server(&said(2, "far too late"));
    assert_eq!(rig.seen_by_client(), [] as [Value; 0]);
}

#[test]
fn where_cancelling_closes_the_stream_it_is_over() {
    let modern = |id: u32| {
        let mut call = call(id, "t");
        call["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        call
    };
    let url = "url = \"http://127.0.0.1:8080/mcp\"\n";
    let mut rig = Rig::new(&format!("{url}[limits]\nconcurrency = 1\n{UNCHECKED}"));
    rig.client(&modern(1)).client(&modern(2)).client(&cancel(1));
    let seen = rig.seen_by_server();
    assert_eq!((seen.len(), &seen[2]), (3, &modern(2)), "{seen:?}");
    assert_eq!(rig.session.open(), 1);
    // What was under way then goes nowhere, and closes no other.
    rig.server(&said(1, "late")).server(&said(2, "x"));
    assert_eq!(rig.seen_by_client(), [said(2, "x")]);
    assert_eq!((rig.session.open(), rig.session.owes()), (0, false));
    // A server with sessions is told, and may still answer.
    rig.client(&call(3, "t")).client(&cancel(3));
    rig.server(&said(3, "late"));
    assert_eq!(rig.seen_by_client(), [said(3, "late")]);
}

#[test]
fn a_tool_has_places_of_its_own() {
    let mut rig = Rig::new(&format!("[tools.t]\nconcurrency = 1\n{UNCHECKED}"));
    rig.client(&call(1, "t"))
        .client(&call(2, "T"))
        .client(&call(3, "u"));
    assert_eq!(rig.seen_by_server(), [call(1, "t"), call(3, "u")]);
    rig.server(&said(3, "x"));
    assert_eq!(rig.seen_by_server(), [] as [Value; 0]);
    rig.server(&failure(1, -32000));
    assert_eq!(rig.seen_by_server(), [call(2, "T")]);
}

#[test]
fn who_waits_when_the_server_is_lost_is_asked_of_the_next_one() {
    let mut rig = Rig::new(&format!("[limits]\nconcurrency = 1\n{UNCHECKED}"));
    rig.client(&call(1, "t")).client(&call(2, "t"));
    rig.seen_by_server();
    let mut out = Outbox::default();
    rig.session.server_lost("it fell", &[], rig.now, &mut out);
    rig.take(&out);
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), rule(&seen[0])), (1, "server.gone"));
    assert_eq!(
        rig.seen_by_server(),
        [] as [Value; 0],
        "the next is not there yet"
    );
    let mut out = Outbox::default();
    rig.session.server_back(rig.now, &mut out);
    rig.take(&out);
    assert_eq!(rig.seen_by_server(), [call(2, "t")]);
    rig.server(&said(2, "x"));
    assert_eq!(rig.seen_by_client(), [said(2, "x")]);
}

#[test]
fn who_waits_when_no_server_will_come_is_answered_once() {
    let mut rig = Rig::new(&format!("[limits]\nconcurrency = 1\n{UNCHECKED}"));
    rig.client(&call(1, "t")).client(&call(2, "t"));
    let mut out = Outbox::default();
    rig.session.server_gone("it fell", rig.now, &mut out);
    rig.session.server_gone("again", rig.now, &mut out);
    rig.take(&out);
    let mut seen = rig.seen_by_client();
    seen.sort_by_key(|answer| answer["id"].as_u64());
    let rules: Vec<&str> = seen.iter().map(rule).collect();
    assert_eq!(rules, ["server.gone", "server.unavailable"]);
}

#[test]
fn only_as_many_calls_are_made_again_as_the_budget_allows() {
    let toml = format!(
        "[retry]\nshare = \"10%\"\nfloor = \"2/min\"\n[tools.t]\nidempotent = true\n{UNCHECKED}"
    );
    let mut rig = Rig::new(&toml);
    for id in 0..50 {
        rig.client(&call(id, "t"));
    }
    rig.seen_by_server();
    let mut out = Outbox::default();
    rig.session.server_lost("it fell", &[], rig.now, &mut out);
    rig.session.server_back(rig.now, &mut out);
    rig.take(&out);
    let again = rig.seen_by_server().len();
    assert_eq!(again, 2 + 5, "the floor and a tenth");
    assert_eq!(
        rig.seen_by_client().len() + again,
        50,
        "each gets one answer"
    );
}

#[test]
fn while_the_server_is_away_a_tool_that_reads_has_its_last_answer() {
    let toml = format!("[tools.look]\neffect = \"read\"\ncached = \"1m\"\n{UNCHECKED}");
    let mut rig = Rig::new(&toml);
    rig.client(&call(1, "look")).server(&said(1, "seen"));
    rig.seen_by_client();
    let away = |rig: &mut Rig, message: &Value| {
        let mut out = Outbox::default();
        let line = message.to_string();
        rig.session
            .while_away(line.as_bytes(), seconds(3), &mut out);
        rig.take(&out);
        rig.seen_by_client().remove(0)
    };
    let answer = away(&mut rig, &call(2, "look"));
    assert_eq!(answer["id"], 2);
    assert_eq!(answer["result"]["content"][1]["text"], "seen");
    assert!(answer["result"]["_meta"]["dev.cofferdam/cached"].is_object());
    assert_eq!(
        rule(&away(&mut rig, &call(3, "other"))),
        "server.unavailable"
    );
    rig.session.switch_tools(["LOOK".to_owned()].into());
    assert_eq!(
        rule(&away(&mut rig, &call(4, "look"))),
        "server.unavailable"
    );
}

#[test]
fn a_reload_brings_guards_and_places_and_takes_them_away() {
    let mut rig = Rig::new(UNCHECKED);
    let renew = |rig: &mut Rig, toml: &str| {
        let config = config(&format!("{toml}{UNCHECKED}"));
        let policy = Policy::new(&config, Scrubber::new(config.scrub, &[]));
        rig.session.renew(&config, Arc::new(policy));
    };
    renew(
        &mut rig,
        "[breaker]\ncalls = 2\n[limits]\nconcurrency = 1\n",
    );
    for id in 0..2 {
        rig.client(&call(id, "t")).server(&failure(id, -32603));
    }
    rig.seen_by_client();
    rig.seen_by_server();
    rig.client(&call(2, "t"));
    assert_eq!(rule(&rig.seen_by_client()[0]), "limits.breaker");
    rig.client(&call(3, "u")).client(&call(4, "u"));
    assert_eq!(rig.seen_by_server(), [call(3, "u")]);
    renew(&mut rig, "");
    assert_eq!(rig.session.moved_breakers(), Some(vec![]));
    rig.client(&call(5, "t"));
    assert_eq!(rig.seen_by_server(), [call(5, "t")]);
    rig.server(&said(3, "x"));
    assert_eq!(rig.seen_by_server(), [call(4, "u")], "who waited goes on");
}

#[test]
fn sessions_of_one_server_share_what_fails_and_not_what_a_session_may_use() {
    let toml = format!("[breaker]\ncalls = 2\n[budget.session]\ncalls = 3\n{UNCHECKED}");
    let (mut one, mut two) = (Rig::new(&toml), Rig::new(&toml));
    two.session.join(&one.session);
    for id in 0..2 {
        one.client(&call(id, "t")).server(&failure(id, -32603));
    }
    two.client(&call(1, "t"))
        .client(&call(2, "u"))
        .client(&call(3, "u"));
    assert_eq!(rule(&two.seen_by_client()[0]), "limits.breaker");
    assert_eq!(two.seen_by_server().len(), 2);
    one.seen_by_client();
    one.client(&call(3, "u")).client(&call(4, "u"));
    assert_eq!(rule(&one.seen_by_client()[0]), "limits.budget-calls");
    two.client(&call(4, "u"));
    assert_eq!(two.seen_by_client(), [] as [Value; 0]);
}
