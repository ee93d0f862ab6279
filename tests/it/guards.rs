//! Breakers, places, budgets and kept answers, in front of servers that fail, hang and say too much.

use crate::rig::Rig;
use crate::web::Site;
use crate::wire::{Wire, eventually, hex, refused_by, rule, said};
use serde_json::{Value, json};

const ADMIN: &[&str] = &["--admin", "unix:{dir}/admin.sock"];

fn configured(toml: &str) -> Rig {
    Rig::new().file("c.toml", toml)
}

fn hostile(toml: &str) -> Wire {
    let flags = [&["--config", "{dir}/c.toml"], ADMIN].concat();
    Wire::in_rig(configured(toml), &flags, &[])
}

/// A server that can be made to die, greeted.
fn mortal(toml: &str) -> Wire {
    let flags = [&["--config", "{dir}/c.toml"], ADMIN].concat();
    let mut wire = Wire::mortal(configured(toml), &flags, &[]);
    wire.greet(&json!({}));
    wire
}

fn notes(wire: &Wire, name: &str) -> String {
    std::fs::read_to_string(wire.path().join("notes").join(name)).unwrap_or_default()
}

const FAILURE: &str = r#"{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32603,"message":"no"}}
"#;

#[test]
fn a_tool_that_fails_is_not_asked_until_the_pause_is_over_and_the_list_stays_the_same() {
    let toml = "[breaker]\ncalls = 3\npause = \"1s\"\n";
    let mut wire = hostile(toml);
    let list = wire.ask("1", "tools/list", &json!({}));
    for id in 10..13 {
        wire.emit(&id.to_string(), FAILURE);
        assert_eq!(wire.answer(&id.to_string())["error"]["code"], -32603);
    }
    wire.emit("20", FAILURE);
    let refused = wire.answer("20");
    refused_by(&refused, "limits.breaker");
    assert!(said(&refused).contains("nothing was done"), "{refused}");
    assert!(said(&refused).contains("again in 1 s"), "{refused}");
    assert!(
        !said(&refused).contains("[breaker]"),
        "no setting: {refused}"
    );
    wire.alive();
    assert_eq!(wire.ask("1", "tools/list", &json!({})), list);
    let shown = || -> String { wire.admin("/health").split_whitespace().collect() };
    let open = r#""breakers":[{"tool":"emit","state":"open"}]"#;
    assert!(eventually(|| shown().contains(open)), "{}", shown());
    assert!((wire.metric("cofferdam_breakers_open") - 1.0).abs() < 0.1);
    let mut id = 30;
    assert!(eventually(|| {
        id += 1;
        let well = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}
"#;
        wire.emit(&id.to_string(), well);
        wire.answer(&id.to_string())["result"]["isError"].is_null()
    }));
    assert!(wire.metric("cofferdam_breakers_open").abs() < 0.1);
    let stderr = wire.stderr();
    assert!(stderr.contains("emit: too many calls failed"), "{stderr}");
    assert!(stderr.contains("emit: calls succeed again"), "{stderr}");
    let state = wire
        .path()
        .join("home/.local/state/cofferdam/hostile/audit.jsonl");
    wire.close_input();
    assert!(eventually(|| {
        let audit = std::fs::read_to_string(&state).unwrap_or_default();
        audit.contains(r#""type":"notice","target":"emit""#) && audit.contains(r#""status":"open""#)
    }));
}

#[test]
fn a_server_that_dies_again_and_again_is_left_alone_and_what_it_read_is_still_known() {
    let toml = "[breaker]\ncalls = 3\nfailures = \"50%\"\npause = \"1m\"\n[tools.look]\neffect = \"read\"\ncached = \"1m\"\n";
    let mut wire = mortal(toml);
    let arguments = json!({ "key": "same", "n": 1 });
    let fresh = wire.call("1", "look", &arguments);
    assert_eq!(said(&fresh), "\"same\"");
    for id in 10..12 {
        refused_by(
            &wire.call(&id.to_string(), "die", &json!({})),
            "server.gone",
        );
    }
    // It is up again by now, and is not asked.
    refused_by(
        &wire.call("20", "work", &json!({"key": 20})),
        "limits.breaker",
    );
    let error = wire.ask("21", "resources/read", &json!({"uri": "file:///a"}));
    assert_eq!(error["error"]["code"], 5030, "{error}");
    assert!(error["error"]["data"]["retryAfterMs"].as_u64().unwrap() > 1000);
    let other_order: Value = serde_json::from_str(r#"{"n":1.0,"key":"same"}"#).unwrap();
    let again = wire.call("22", "look", &other_order);
    assert!(said(&again).contains("s ago"), "{again}");
    assert_eq!(again["result"]["content"][1]["text"], "\"same\"");
    assert!(again["result"]["_meta"]["dev.cofferdam/cached"]["ageSeconds"].is_u64());
    refused_by(
        &wire.call("23", "look", &json!({"key": "other"})),
        "limits.breaker",
    );
    assert!(wire.ask("24", "tools/list", &json!({}))["result"]["tools"].is_array());
    assert!(!notes(&wire, "ledger").contains(" 20"), "it was not asked");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn while_nothing_runs_a_tool_that_reads_has_its_last_answer() {
    let mut wire = mortal("[tools.look]\neffect = \"read\"\ncached = \"1m\"\n");
    let arguments = json!({ "key": 1 });
    assert_eq!(said(&wire.call("1", "look", &arguments)), "1");
    std::fs::write(wire.path().join("notes/stillborn"), "100").unwrap();
    refused_by(&wire.call("2", "die", &json!({})), "server.gone");
    assert!(eventually(|| {
        rule(&wire.call("3", "work", &json!({"key": 3}))) == "server.unavailable"
    }));
    let again = wire.call("4", "look", &arguments);
    assert_eq!(again["result"]["content"][1]["text"], "1", "{again}");
    refused_by(
        &wire.call("5", "look", &json!({"key": 2})),
        "server.unavailable",
    );
}

#[test]
fn on_stdin_no_more_run_at_one_time_than_may() {
    let mut wire = hostile(
        "[limits]\nconcurrency = 1\nqueue = 1\nwait = \"2s\"\n[schema]\narguments = \"off\"\n",
    );
    wire.begin("1", "hang", &json!({}));
    wire.begin("2", "echo", &json!({"text": "waited"}));
    wire.begin("3", "echo", &json!({"text": "no room"}));
    let full = wire.answer("3");
    refused_by(&full, "limits.concurrency");
    assert!(said(&full).contains("again in 1 s"), "{full}");
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    assert_eq!(said(&wire.answer("2")), "waited");
    wire.begin("4", "hang", &json!({}));
    let late = wire.call("5", "echo", &json!({"text": "too late"}));
    refused_by(&late, "limits.concurrency");
    assert!(said(&late).contains("nothing was done"), "{late}");
    // What waits at the end of input is answered, not lost.
    wire.begin("6", "echo", &json!({"text": "last"}));
    let over = wire.finish();
    let ids: Vec<&Value> = over.rest.iter().map(|answer| &answer["id"]).collect();
    assert!(
        ids.contains(&&json!(4)) && ids.contains(&&json!(6)),
        "{ids:?}"
    );
}

#[test]
fn a_flood_of_calls_is_answered_once_each_whatever_waits_or_dies() {
    let toml = "[limits]\nconcurrency = 3\nqueue = 20\n[tools.look]\neffect = \"read\"\n[retry]\nfloor = \"5/min\"\nshare = \"0%\"\n[breaker]\ncalls = 50\n";
    let mut wire = mortal(toml);
    let mut owed = Vec::new();
    for id in 100..200 {
        let tool = match id % 10 {
            0 => "die",
            1..=4 => "look",
            _ => "work",
        };
        wire.begin(&id.to_string(), tool, &json!({ "key": id }));
        owed.push(id);
        if id % 7 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    for id in &owed {
        let answer = wire.answer(&id.to_string());
        assert!(answer["result"].is_object(), "{answer}");
    }
    assert_eq!(wire.others(), [] as [Value; 0], "each is answered once");
    let ledger = notes(&wire, "ledger");
    for id in owed.iter().filter(|id| *id % 10 > 4) {
        let runs = ledger
            .lines()
            .filter(|line| line.ends_with(&format!(" {id}")));
        assert!(runs.count() <= 1, "{id} ran twice");
    }
    let again = wire.metric("cofferdam_retries_total");
    assert!(again <= 5.1, "{again} retries");
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_model_in_a_loop_is_stopped() {
    let mut wire = hostile("[repeats]\ncalls = 3\n");
    for id in 1..=3 {
        let answer = wire.call(&id.to_string(), "echo", &json!({"text": "same"}));
        assert_eq!(said(&answer), "same");
    }
    let stopped = wire.call("4", "echo", &json!({"text": "same"}));
    refused_by(&stopped, "limits.repeats");
    assert!(said(&stopped).contains("Stop repeating it"), "{stopped}");
    let answer = wire.call("5", "echo", &json!({"text": "another"}));
    assert_eq!(said(&answer), "another");
}

#[test]
fn a_result_above_its_limit_is_cut_and_json_is_refused() {
    let mut wire = hostile("[limits]\nresult = \"4KiB\"\n");
    let text: String = (0..2000).map(|n| format!("row {n} \u{1f600}\n")).collect();
    let cut = wire.call("1", "echo", &json!({ "text": text }));
    let shown = said(&cut);
    let (kept, marker) = shown.rsplit_once('\n').unwrap();
    assert!(text.starts_with(kept) && kept.len() > 2000, "{shown}");
    assert!(marker.contains("Ask for less"), "{marker}");
    let rows = json!((0..3000).collect::<Vec<_>>()).to_string();
    let refused = wire.call("2", "echo", &json!({ "text": rows }));
    refused_by(&refused, "limits.result");
    let structured = json!({"jsonrpc":"2.0","id":"@","result":{"content":[{"type":"text","text":text}],"structuredContent":{"rows":[1]}}});
    let structured = structured.to_string().replace("\"@\"", "@ID@") + "\n";
    wire.begin("3", "emit", &json!({"hex": hex(structured.as_bytes())}));
    refused_by(&wire.answer("3"), "limits.result");
    assert!((wire.metric("cofferdam_results_cut_total") - 1.0).abs() < 0.1);
}

#[test]
fn a_budget_is_a_hard_stop() {
    let toml = "[budget.session]\ntokens = 5000\nalert = 1000\n";
    let mut wire = hostile(toml);
    let text = "word ".repeat(1000);
    let mut id = 0;
    assert!(eventually(|| {
        id += 1;
        let answer = wire.call(&id.to_string(), "echo", &json!({ "text": text }));
        rule(&answer) == "limits.budget-tokens"
    }));
    assert!(id <= 6, "{id} calls of about 1250 tokens each way");
    refused_by(
        &wire.call("100", "echo", &json!({"text": "x"})),
        "limits.budget-tokens",
    );
    assert!(wire.ask("101", "tools/list", &json!({}))["result"].is_object());
    assert!(
        wire.stderr().contains("tokens within a minute"),
        "{}",
        wire.stderr()
    );
}

#[test]
fn behind_a_listener_all_sessions_share_a_breaker_and_each_has_a_budget() {
    let toml = "[breaker]\ncalls = 2\npause = \"1m\"\n[budget.session]\ncalls = 4\n";
    let flags = [&["--config", "{dir}/c.toml"], ADMIN].concat();
    let site = Site::in_rig(configured(toml), &flags, &[]);
    let (one, two) = (site.initialize("2025-11-25"), site.initialize("2025-06-18"));
    let call = |session: &str, id: u32, tool: &str, arguments: Value| {
        let message = json!({"jsonrpc":"2.0","id":id,"method":"tools/call","params":{"name":tool,"arguments":arguments}});
        site.post(session, &message).json()
    };
    let fail = || json!({"hex": hex(FAILURE.as_bytes())});
    for id in 1..=2 {
        assert_eq!(call(&one, id, "emit", fail())["error"]["code"], -32603);
    }
    refused_by(&call(&two, 3, "emit", fail()), "limits.breaker");
    refused_by(
        &site.call(&json!(4), "emit", &fail()).json(),
        "limits.breaker",
    );
    for id in 5..=6 {
        assert_eq!(said(&call(&one, id, "echo", json!({"text": "x"}))), "x");
    }
    refused_by(
        &call(&one, 7, "echo", json!({"text": "x"})),
        "limits.budget-calls",
    );
    assert_eq!(said(&call(&two, 8, "echo", json!({"text": "x"}))), "x");
    let list = json!({"jsonrpc":"2.0","id":9,"method":"tools/list","params":{}});
    assert!(site.post(&one, &list).json()["result"]["tools"].is_array());
    let shown = || site.wire.admin("/health").replace(' ', "");
    assert!(eventually(|| shown().contains("\"open\"")), "{}", shown());
}

#[test]
fn what_is_guarded_is_shown_and_mistakes_are_told() {
    let check = |toml: &str| {
        let file = format!("[server]\nname = \"s\"\ncommand = [\"/bin/true\"]\n{toml}\n");
        Rig::new()
            .file("server.toml", file)
            .run(&["check", "--config", "server.toml"])
    };
    let plain = check("");
    assert!(
        !plain.contains("Guards") && !plain.contains("concurrency"),
        "{plain}"
    );
    let shown = check(
        "[breaker]\nfailures = \"30%\"\n[repeats]\naction = \"warn\"\n[limits]\nconcurrency = 4\nresult_tokens = 20000\n[budget.session]\ntokens = 100000\nalert = 5000\n[tools.a]\neffect = \"read\"\ncached = \"1m\"\nbudget = { calls = 5 }",
    );
    for words in [
        "opens for 30s when 30% of 10 or more calls in 1m fail",
        "warn after 10 same answers in 5m",
        "4 at one time",
        "64 may wait",
        "about 20000 tokens",
        "100000 tokens, alert at 5000 tokens a minute",
        "stand-in up to 1m old",
        "budget 5 calls, each 1d",
        "file, line 4",
    ] {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
    for (toml, told) in [
        (
            "[breaker]\nfailures = \"0%\"",
            "`breaker.failures` must be from 1% to 100%",
        ),
        ("[breaker]\nfailures = 50", "expected"),
        (
            "[breaker]\npause = \"10ms\"",
            "`breaker.pause` must be from 1s to 1d",
        ),
        ("[breaker]\ntrip = 1", "unknown key `trip`"),
        (
            "[repeats]\ncalls = 1",
            "`repeats.calls` must be from 2 to 1000",
        ),
        ("[repeats]\naction = \"kill\"", "`kill`"),
        ("[budget.session]", "`budget.session` limits nothing"),
        (
            "[budget.session]\ncalls = 0",
            "`budget.session.calls` must be from 1",
        ),
        (
            "[budget.client]\nbytes = \"10B\"",
            "`budget.client.bytes` must be from 1KiB",
        ),
        ("[retry]\nshare = \"150%\"", "`150%` is not a share"),
        (
            "[limits]\nresult_tokens = 1",
            "`limits.result_tokens` must be from 256",
        ),
        (
            "[tools.a]\ncached = \"1m\"",
            "`tools.a.cached` needs `effect = \"read\"`",
        ),
        (
            "[tools.a]\neffect = \"write\"\ncached = \"1m\"",
            "`tools.a.cached` needs",
        ),
        (
            "[tools.a]\nalternative = \"a\"",
            "names no tool that could take its place",
        ),
        (
            "[tools.a]\nalternative = \"b\"\n[tools.b]\nallow = false",
            "names no tool that",
        ),
    ] {
        let said = check(toml);
        assert!(said.starts_with("exit: 78"), "{toml}: {said}");
        assert!(said.contains(told), "{told} is not in\n{said}");
    }
}

#[test]
fn behind_a_listener_servers_that_die_again_and_again_are_left_alone() {
    let toml = "[breaker]\ncalls = 2\npause = \"2s\"\n";
    let flags = [&["--config", "{dir}/c.toml"], ADMIN].concat();
    let site = Site::in_rig(configured(toml), &flags, &[]);
    for id in 1..=2 {
        let lost = site.call(&json!(id), "die", &json!({"signal": 9})).json();
        refused_by(&lost, "server.gone");
    }
    let echo = |id: u32| site.call(&json!(id), "echo", &json!({"text": "x"})).json();
    refused_by(&echo(3), "limits.breaker");
    let shown = || -> String { site.wire.admin("/health").split_whitespace().collect() };
    let open = r#"{"tool":null,"state":"open"}"#;
    assert!(eventually(|| shown().contains(open)), "{}", shown());
    let mut id = 10;
    assert!(eventually(|| {
        id += 1;
        rule(&echo(id)).is_empty()
    }));
    // The tool that killed it has a breaker of its own, which closes when it does no harm any more.
    assert!(eventually(|| !shown().contains(open)), "{}", shown());
}
