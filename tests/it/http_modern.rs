//! Clients of 2026-07-28 on HTTP in front of one server process.

use crate::web::{
    CAPABILITIES, Conn, Site, VERSION, lines, modern, modern_body, post, until_reached,
};
use crate::wire::{eventually, said};
use serde_json::{Value, json};

fn finished() -> Value {
    json!({"jsonrpc":"2.0","id":"@ID@","result":{"content":[{"type":"text","text":"done"}],"resultType":"complete"}})
}

fn progress(n: u32) -> Value {
    json!({"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"@ID@","progress":n}})
}

#[test]
fn an_answer_that_comes_first_is_json_with_the_client_s_own_id() {
    let site = Site::hostile(&[], &[]);
    let mut conn = site.connect();
    for id in [
        json!(0),
        json!("7"),
        json!("\u{fc}\""),
        json!(9_007_199_254_740_993_u64),
    ] {
        conn.send(modern(
            &id,
            "tools/call",
            &json!({"name":"echo","arguments":{"text":"hi"}}),
            "",
        ));
        let reply = conn.reply();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("mcp-session-id"), None);
        assert_eq!((&reply.json()["id"], said(&reply.json())), (&id, "hi"));
    }
}

#[test]
fn what_precedes_an_answer_makes_it_a_stream_without_event_ids() {
    let site = Site::hostile(&[], &[]);
    let mut params =
        json!({"name":"emit","arguments":lines(&[progress(1), progress(2), finished()])});
    params["_meta"]["progressToken"] = json!("mine");
    let reply = site.modern(&json!("x"), "tools/call", &params);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    assert!(
        !reply.body.contains("id: ") && !reply.body.contains("retry"),
        "{reply:?}"
    );
    let events = reply.events();
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(
        events[0]["params"],
        json!({"progressToken":"mine","progress":1})
    );
    assert_eq!(events[2]["id"], "x");
}

#[test]
fn equal_ids_and_tokens_of_many_clients_stay_apart() {
    let site = Site::hostile(&[], &[]);
    let address = site.address;
    let clients: Vec<_> = (0..8)
        .map(|client| {
            std::thread::spawn(move || {
                let mut conn = Conn::to(address);
                for round in 0..40 {
                    let mine = format!("{client}-{round}");
                    let mut report = progress(1);
                    report["params"]["message"] = json!(mine);
                    let mut answer = finished();
                    answer["result"]["content"][0]["text"] = json!(mine);
                    let arguments = lines(&[report, answer]);
                    let mut params = json!({"name":"emit","arguments":arguments});
                    params["_meta"]["progressToken"] = json!(1);
                    conn.send(modern(&json!(1), "tools/call", &params, ""));
                    let reply = conn.reply();
                    let events = reply.events();
                    assert_eq!(events.len(), 2, "{reply:?}");
                    assert_eq!(events[0]["params"]["message"], json!(mine));
                    assert_eq!(events[0]["params"]["progressToken"], json!(1));
                    assert_eq!(
                        (&events[1]["id"], said(&events[1])),
                        (&json!(1), mine.as_str())
                    );
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_client_that_goes_away_cancels_its_request_and_no_other() {
    let site = Site::logging(&[], &[]);
    let mut stays = site.connect();
    stays.send(modern(
        &json!(1),
        "tools/call",
        &json!({"name":"late","arguments":{"ms":1500}}),
        "",
    ));
    let mut leaves = site.connect();
    leaves.send(modern(&json!(1), "tools/call", &json!({"name":"hang"}), ""));
    until_reached(&site, "\"name\":\"hang\"");
    drop(leaves);
    until_reached(&site, "notifications/cancelled");
    let reached = site.reached();
    let line = reached
        .lines()
        .find(|line| line.contains("cancelled"))
        .unwrap();
    let cancelled: Value = serde_json::from_str(line).unwrap();
    let hung = reached
        .lines()
        .find(|line| line.contains("\"hang\""))
        .unwrap();
    let hung: Value = serde_json::from_str(hung).unwrap();
    assert_eq!(cancelled["params"]["requestId"], hung["id"]);
    let reply = stays.reply();
    assert_eq!(
        (&reply.json()["id"], said(&reply.json())),
        (&json!(1), "late")
    );
    assert_eq!(site.reached().matches("notifications/cancelled").count(), 1);
}

#[test]
fn a_method_that_the_server_does_not_know_is_404() {
    let site = Site::hostile(&[], &[]);
    let mut listener = site.connect();
    listener.send(modern(
        &json!("listen:0"),
        "subscriptions/listen",
        &json!({"notifications":{}}),
        "",
    ));
    let reply = listener.reply();
    assert_eq!(reply.status, 404, "the fake does not know it: {reply:?}");
    assert_eq!(reply.json()["error"]["code"], -32601);
    assert_eq!(reply.json()["id"], "listen:0");
}

#[test]
fn a_request_of_an_earlier_era_does_not_reach_the_process_that_all_share() {
    let site = Site::logging(&[], &[]);
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/result",
        "tasks/list",
        "notifications/initialized",
        "notifications/cancelled",
    ] {
        let params = json!({"protocolVersion":"2025-11-25","capabilities":{},"requestId":1});
        let reply = site.modern(&json!(method), method, &params);
        let answer = reply.json();
        assert_eq!((reply.status, &answer["id"]), (404, &json!(method)));
        assert_eq!(answer["error"]["code"], -32601, "{reply:?}");
        assert!(!site.reached().contains(method), "{method}");
    }
    // What nobody has heard of is for the server to know, and it serves all as before.
    assert_eq!(site.modern(&json!(1), "acme/thing", &json!({})).status, 404);
    assert!(site.reached().contains("acme/thing"));
    let reply = site.call(&json!(2), "echo", &json!({"text":"here"}));
    assert_eq!(said(&reply.json()), "here");
}

#[test]
fn the_checks_come_in_order_and_nothing_reaches_the_server() {
    let site = Site::logging(&[], &[]);
    let good = modern_body(
        &json!(5),
        "tools/call",
        &json!({"name":"echo","arguments":{"text":"x"}}),
    );
    let without = |path: &[&str]| {
        let mut body = good.clone();
        body["params"]["_meta"]
            .as_object_mut()
            .unwrap()
            .remove(path[0]);
        body
    };
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body["params"]["_meta"][key] = value;
        body
    };
    let v = "MCP-Protocol-Version: 2026-07-28\r\n";
    let m = "Mcp-Method: tools/call\r\n";
    let n = "Mcp-Name: echo\r\n";
    let rows: Vec<(&str, Value, String, u16, i64)> = vec![
        (
            "no version",
            without(&[VERSION]),
            format!("{v}{m}{n}"),
            400,
            -32602,
        ),
        (
            "no capabilities",
            without(&[CAPABILITIES]),
            format!("{v}{m}{n}"),
            400,
            -32602,
        ),
        (
            "a version that is no string",
            with(VERSION, json!(1)),
            format!("{v}{m}{n}"),
            400,
            -32602,
        ),
        (
            "capabilities that are no object",
            with(CAPABILITIES, json!([])),
            format!("{v}{m}{n}"),
            400,
            -32602,
        ),
        (
            "a later version",
            with(VERSION, json!("2027-01-01")),
            format!("MCP-Protocol-Version: 2027-01-01\r\n{m}{n}"),
            400,
            -32022,
        ),
        (
            "a legacy version",
            with(VERSION, json!("2025-11-25")),
            format!("MCP-Protocol-Version: 2025-11-25\r\n{m}{n}"),
            400,
            -32022,
        ),
        (
            "another version in the header",
            good.clone(),
            format!("MCP-Protocol-Version: 2025-11-25\r\n{m}{n}"),
            400,
            -32020,
        ),
        (
            "no version in the header",
            good.clone(),
            format!("{m}{n}"),
            400,
            -32020,
        ),
        (
            "two versions in the header",
            good.clone(),
            format!("{v}{v}{m}{n}"),
            400,
            -32020,
        ),
        (
            "no method in the header",
            good.clone(),
            format!("{v}{n}"),
            400,
            -32020,
        ),
        (
            "another method in the header",
            good.clone(),
            format!("{v}Mcp-Method: tools/list\r\n{n}"),
            400,
            -32020,
        ),
        (
            "the method in other letters",
            good.clone(),
            format!("{v}Mcp-Method: Tools/Call\r\n{n}"),
            400,
            -32020,
        ),
        (
            "no name in the header",
            good.clone(),
            format!("{v}{m}"),
            400,
            -32020,
        ),
        (
            "another name in the header",
            good.clone(),
            format!("{v}{m}Mcp-Name: other\r\n"),
            400,
            -32020,
        ),
        (
            "a broken code in the header",
            good.clone(),
            format!("{v}{m}Mcp-Name: =?base64?ZWNobw?=\r\n"),
            400,
            -32020,
        ),
        (
            "two names in the header",
            good.clone(),
            format!("{v}{m}{n}{n}"),
            400,
            -32020,
        ),
    ];
    for (what, body, headers, status, code) in rows {
        let reply = site.ask(&post(&body, &headers));
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        let error = reply.json();
        assert_eq!(error["error"]["code"], code, "{what}: {error}");
        assert_eq!(error["id"], 5, "{what}: {error}");
        if code == -32022 {
            assert_eq!(
                error["error"]["data"]["supported"],
                json!(["2026-07-28"]),
                "{error}"
            );
        }
    }
    assert_eq!(site.reached(), "");
    let coded = site.ask(&post(
        &good,
        &format!("{v}{m}mcp-name:  =?base64?ZWNobw==?= \r\n"),
    ));
    assert_eq!(said(&coded.json()), "x", "{coded:?}");
}

#[test]
fn headers_of_arguments_are_checked_against_the_schema() {
    let tools = json!({"tools":[{"name":"echo","inputSchema":{"type":"object","properties":{
        "text":{"type":"string","x-mcp-header":"Region"},
        "n":{"type":"integer","x-mcp-header":"Count"}}}}]});
    let rig = crate::rig::Rig::new().file("tools.json", tools.to_string());
    let site = Site::in_rig(
        rig,
        &["--read", "{dir}/tools.json", "--user", "root"],
        &["tools={dir}/tools.json"],
    );
    let ask = |arguments: Value, headers: &str| {
        let params = json!({"name":"echo","arguments":arguments});
        let reply = site.ask(&modern(&json!(1), "tools/call", &params, headers));
        (reply.status, reply.json()["error"]["code"].as_i64())
    };
    let region = "Mcp-Param-Region: eu\r\n";
    // The first call waits for the list like all others.
    assert_eq!(ask(json!({"text":"eu"}), ""), (400, Some(-32020)));
    assert_eq!(ask(json!({"text":"eu"}), region), (200, None));
    assert_eq!(ask(json!({"text":"us"}), region), (400, Some(-32020)));
    assert_eq!(
        ask(
            json!({"text":"eu","n":42}),
            &format!("{region}mcp-param-count: 42\r\n")
        ),
        (200, None)
    );
    assert_eq!(
        ask(
            json!({"text":"eu","n":42}),
            &format!("{region}mcp-param-count: 41\r\n")
        ),
        (400, Some(-32020))
    );
    assert_eq!(
        ask(
            json!({"text":"eu"}),
            &format!("{region}mcp-param-count: 1\r\n")
        ),
        (400, Some(-32020))
    );
    assert_eq!(
        ask(
            json!({"text":"eu"}),
            &format!("{region}mcp-param-other: 1\r\n")
        ),
        (200, None)
    );
    assert_eq!(
        ask(
            json!({"text":"\u{fc}"}),
            "Mcp-Param-Region: =?base64?w7w=?=\r\n"
        ),
        (200, None)
    );
}

#[test]
fn a_dead_server_answers_each_request_once_and_the_next_starts_another() {
    let site = Site::hostile(&[], &[]);
    let mut waiting: Vec<Conn> = (0..5).map(|_| site.connect()).collect();
    for conn in &mut waiting {
        conn.send(modern(
            &json!("w"),
            "tools/call",
            &json!({"name":"hang"}),
            "",
        ));
    }
    assert!(eventually(|| site.wire.stderr().contains("runs as")));
    assert_eq!(
        said(&site.call(&json!(1), "echo", &json!({"text":"up"})).json()),
        "up"
    );
    let mut killer = site.connect();
    killer.send(modern(
        &json!("k"),
        "tools/call",
        &json!({"name":"die","arguments":{"signal":9}}),
        "",
    ));
    for conn in waiting.iter_mut().chain([&mut killer]) {
        let reply = conn.reply();
        let answer = reply.json();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        assert!(said(&answer).contains("The server ended"), "{answer}");
    }
    assert_eq!(
        said(
            &site
                .call(&json!(2), "echo", &json!({"text":"again"}))
                .json()
        ),
        "again"
    );
    let over = {
        site.wire.terminate();
        site.wire.wait()
    };
    assert_eq!(over.code, 0, "{}", over.text());
}

#[test]
fn get_and_delete_are_not_of_this_era() {
    let site = Site::logging(&[], &[]);
    for method in ["GET", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD"] {
        let head = format!(
            "{method} /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nConnection: close\r\n\r\n"
        );
        let mut conn = site.connect();
        conn.send(head);
        let (status, head) = conn.head();
        assert_eq!(status, 405, "{method}");
        let allowed = match method {
            "GET" | "DELETE" => "allow: post\r\n",
            _ => "allow: get, post, delete\r\n",
        };
        assert!(head.to_lowercase().contains(allowed), "{method}: {head}");
    }
    assert_eq!(site.reached(), "");
}

#[test]
fn a_request_that_takes_long_becomes_a_stream_with_signs_of_life() {
    let site = Site::hostile(&[], &[]);
    let begun = std::time::Instant::now();
    let mut conn = site.connect();
    let arguments = json!({"name":"late","arguments":{"ms":17_000}});
    conn.send(modern(&json!(1), "tools/call", &arguments, ""));
    let (status, head) = conn.head();
    assert_eq!(status, 200);
    assert!(head.contains("text/event-stream"), "{head}");
    assert_eq!(conn.chunk().as_deref(), Some(":\n\n"));
    let quiet = begun.elapsed().as_secs();
    assert!((9..=16).contains(&quiet), "{quiet} s");
    let seen = conn.until("late");
    assert!(seen.contains("\"id\":1"), "{seen}");
    assert!(conn.chunk().is_none());
}

#[test]
fn a_killed_spawner_leaves_no_request_without_an_answer_and_nothing_behind() {
    let site = Site::hostile(&[], &[]);
    let mut waiting: Vec<Conn> = (0..5).map(|_| site.connect()).collect();
    for conn in &mut waiting {
        conn.send(modern(
            &json!("w"),
            "tools/call",
            &json!({"name":"hang"}),
            "",
        ));
    }
    let text = site.call(&json!(1), "echo", &json!({"text":"up"})).json();
    assert_eq!(said(&text), "up");
    site.wire.kill_guardian();
    for conn in &mut waiting {
        let answer = conn.reply().json();
        assert_eq!(
            (&answer["id"], &answer["result"]["isError"]),
            (&json!("w"), &json!(true)),
            "{answer}"
        );
    }
    let over = site.wire.wait();
    assert_eq!(over.code, 70, "{}", over.text());
}

#[test]
fn a_request_to_stop_is_an_orderly_end_with_every_answer() {
    let site = Site::hostile(&[], &["term=ignore"]);
    let mut waiting: Vec<Conn> = (0..5).map(|_| site.connect()).collect();
    for conn in &mut waiting {
        conn.send(modern(
            &json!("w"),
            "tools/call",
            &json!({"name":"hang"}),
            "",
        ));
    }
    let text = site.call(&json!(1), "echo", &json!({"text":"up"})).json();
    assert_eq!(said(&text), "up");
    let begun = std::time::Instant::now();
    site.wire.terminate();
    site.wire
        .until_stderr("draining: nothing new is begun; 5 requests are open");
    // None of them will be answered: once more is at once.
    site.wire.terminate();
    for conn in &mut waiting {
        let answer = conn.reply().json();
        assert_eq!(
            (&answer["id"], &answer["result"]["isError"]),
            (&json!("w"), &json!(true)),
            "{answer}"
        );
    }
    let over = site.wire.wait();
    assert_eq!(over.code, 0, "{}", over.text());
    assert!(begun.elapsed().as_secs() < 4, "{:?}", begun.elapsed());
}
