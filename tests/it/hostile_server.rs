//! A server that means harm: what it writes, what it closes, how it dies, what it leaves behind.

use crate::rig::Rig;
use crate::wire::{Over, Wire, eventually, hex, refused_by, rule, said};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Control sequences that a terminal would obey, and text that turns a line around.
const NASTY: &str = "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://x/\x1b\\\x1bP1;2q\x1b\\\u{9b}31m\u{202e}drow\u{2066}\x08\x7f\u{200b}";

/// No byte that a terminal obeys, and no mark that reorders text.
fn assert_tame(over: &Over) {
    let text = std::str::from_utf8(&over.stderr).unwrap();
    let wild = text.chars().find(|c| {
        (c.is_control() && *c != '\n')
            || matches!(u32::from(*c), 0x200E..=0x200F | 0x202A..=0x202E | 0x2066..=0x2069)
    });
    assert_eq!(wild, None, "{text:?}");
}

/// Without another server in the place of one that ends, its end is cofferdam's.
const ONCE: [&str; 2] = ["--restart", "never"];

#[test]
fn junk_on_stdout_is_counted_shown_once_and_never_forwarded() {
    let first = hex(format!("Starting up!\n{NASTY}\n").as_bytes());
    let mut wire = Wire::hostile(
        &["--admin", "unix:{dir}/admin.sock"],
        &[
            &format!("first={first}"),
            &format!("last={}", hex(b"bye\n")),
        ],
    );
    wire.alive();
    wire.emit(
        "7",
        format!("junk between {NASTY}\n[]\n\"text\"\nnull\n{{\"level\":30}}\n{{\n"),
    );
    // The rest of this line is the server's answer to 9, which is junk then.
    wire.emit("8", b"half of a line @ID@ ");
    wire.begin("9", "echo", &json!({"text": "swallowed"}));
    wire.alive();
    // Two before, six between, and the line whose rest was an answer.
    assert!(
        eventually(|| wire.metric("cofferdam_stdout_noise_total") >= 9.0),
        "{}",
        wire.admin("/metrics")
    );
    let over = wire.finish();
    let text = over.text();
    assert_eq!(text.matches("no MCP message").count(), 1, "{text}");
    assert!(text.contains("Starting up!"), "{text}");
    // Nobody answered 7, 8 and 9: the server ended without.
    assert_eq!(
        over.rest.iter().map(rule).collect::<Vec<_>>(),
        ["server.gone"; 3]
    );
    assert_tame(&over);
}

#[test]
fn control_sequences_of_stderr_never_reach_a_terminal() {
    let mut wire = Wire::hostile(&[], &[]);
    let noisy = format!("before {NASTY} after\r\nsecond\rthird\n");
    let answer = wire.call(
        "1",
        "emit",
        &json!({"to": "stderr", "hex": hex(&[noisy.as_bytes(), b"\xff\xfe\x80 raw\n"].concat())}),
    );
    assert_eq!(said(&answer), "complained");
    wire.until_stderr("third");
    // Nor by a denial that we explain, on stderr or in a result.
    let denial = "Error: EACCES: permission denied, open '/root/\u{1b}]0;owned\u{7}\u{202e}x'";
    wire.call(
        "3",
        "emit",
        &json!({"to": "stderr", "hex": hex(format!("{denial}\nafter the denial\n").as_bytes())}),
    );
    wire.until_stderr("after the denial");
    let error = json!({"jsonrpc": "2.0", "id": "@ID@", "result": {"isError": true, "content": [{"type": "text", "text": denial.replace("root", "boot")}]}});
    wire.emit("4", format!("{error}\n").replace("\"@ID@\"", "@ID@"));
    wire.answer("4");
    // Nor by a name that the server invents and we quote.
    let odd = "echo\u{1b}]0;owned\u{7}\u{202e}";
    drop(wire.call("2", odd, &json!({})));
    let over = wire.finish();
    assert!(
        over.text().contains("before") && over.text().contains("after"),
        "{}",
        over.text()
    );
    assert_tame(&over);
}

#[test]
fn a_flood_of_stderr_is_drained_and_cut() {
    let mut wire = Wire::hostile(&["--admin", "unix:{dir}/admin.sock"], &[]);
    wire.alive();
    let before = wire.rested_kib();
    let answer = wire.call("1", "stderr_flood", &json!({"lines": 50_000}));
    assert_eq!(said(&answer), "flooded");
    wire.alive();
    assert!(
        eventually(|| wire.metric("cofferdam_stderr_dropped_total") > 40_000.0),
        "{}",
        wire.admin("/metrics")
    );
    let grown = wire.peak_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB for 50 MB of stderr");
    let over = wire.finish();
    assert!(
        over.stderr.len() < 8_000_000,
        "{} bytes passed",
        over.stderr.len()
    );
    assert!(over.text().matches("flood zzz").count() >= 100);
}

#[test]
fn a_server_that_closes_its_stdout_is_ended_and_its_calls_answered() {
    let mut wire = Wire::hostile(&ONCE, &[]);
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    wire.begin("2", "close", &json!({"what": "stdout"}));
    let begun = Instant::now();
    assert!(!rule(&wire.answer("1")).is_empty());
    assert!(!rule(&wire.answer("2")).is_empty());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let over = wire.wait();
    assert_ne!(over.code, 0, "a server that went deaf is no success");
}

#[test]
fn a_server_that_closes_its_stdin_is_ended_and_its_calls_answered() {
    let mut wire = Wire::hostile(&ONCE, &[]);
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    assert_eq!(
        said(&wire.call("2", "close", &json!({"what": "stdin"}))),
        "closing"
    );
    // It is noticed at the next message.
    std::thread::sleep(Duration::from_millis(100));
    wire.begin("3", "echo", &json!({"text": "?"}));
    refused_by(&wire.answer("1"), "server.gone");
    refused_by(&wire.answer("3"), "server.gone");
    assert_ne!(wire.wait().code, 0);
}

#[test]
fn a_server_that_closes_its_stderr_goes_on() {
    let mut wire = Wire::hostile(&[], &[]);
    assert_eq!(
        said(&wire.call("1", "close", &json!({"what": "stderr"}))),
        "closing"
    );
    wire.alive();
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn half_a_line_at_the_end_is_no_message() {
    let mut wire = Wire::hostile(&ONCE, &[]);
    wire.alive();
    wire.begin(
        "1",
        "emit",
        &json!({"hex": hex(br#"{"jsonrpc":"2.0","id":@ID@,"result":{"conte"#)}),
    );
    wire.begin("2", "exit", &json!({"code": 9}));
    // The half names the id, so the call that it would have answered is the one that it broke.
    assert!(["server.malformed", "server.gone"].contains(&rule(&wire.answer("1"))));
    refused_by(&wire.answer("2"), "server.gone");
    let over = wire.wait();
    assert_eq!((over.code, over.rest), (9, vec![]));
}

#[test]
fn a_broken_answer_is_answered_for_its_id_and_never_forwarded() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":@ID@,"result":{}{}}}"#,
        "[".repeat(3000),
        "]".repeat(3000)
    );
    let broken: &[&[u8]] = &[
        b"{\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"PLANTED \xff\xc0\x80\"}]}}",
        br#"{"jsonrpc":"2.0","id":@ID@,"result":{},"result":{"a":"PLANTED"}}"#,
        br#"{"jsonrpc":"2.0","id":@ID@,"result":{"a":"PLANTED"},"error":{"code":1,"message":"x"}}"#,
        br#"{"jsonrpc":"2.0","id":@ID@,"result":{"n":NaN,"a":"PLANTED"}}"#,
        br#"{"jsonrpc":"2.0","id":@ID@,"result":{"n":-Infinity,"a":"PLANTED"}}"#,
        br#"{"jsonrpc":"2.0","id":@ID@,"result":{"n":01,"a":"PLANTED"}}"#,
        br#"{"jsonrpc":"2.0","id":@ID@,"result":{"a":"PLANTED"},}"#,
        br#"{"jsonrpc":"1.0","id":@ID@,"result":{"a":"PLANTED"}}"#,
        br#"{"id":@ID@,"result":{"a":"PLANTED"}}"#,
        br#"{"jsonrpc":"2.0","id":@ID@,"result":{"a":"PLANTED"}} 1"#,
        b"{\"jsonrpc\":\"2.0\",\"id\":@ID@,\r\"result\":{\"a\":\"PLANTED\"}}",
        b"{\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":{\"a\":\"PLANTED \x00\x1b[31m\"}}",
        deep.as_bytes(),
    ];
    let mut wire = Wire::hostile(&[], &[]);
    for (at, line) in broken.iter().enumerate() {
        let shown = String::from_utf8_lossy(line);
        wire.emit(&format!("\"b{at}\""), [line, b"\n".as_slice()].concat());
        let answer = wire.answer(&format!("\"b{at}\""));
        assert_eq!(
            rule(&answer),
            "server.malformed",
            "{} got {answer}",
            &shown[..shown.len().min(200)]
        );
        assert!(!answer.to_string().contains("PLANTED"));
        wire.alive();
    }
    // Two messages on a line may have two ids, so neither is believed, and neither is forwarded.
    wire.emit(
        "\"two\"",
        b"{\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":{\"a\":\"PLANTED\"}} {\"x\":1}\n",
    );
    wire.alive();
    assert_eq!(wire.others(), Vec::<Value>::new());
    let over = wire.finish();
    assert_eq!(
        over.rest.iter().map(rule).collect::<Vec<_>>(),
        ["server.gone"]
    );
    assert_tame(&over);
}

#[test]
fn an_answer_above_the_cap_is_replaced_wherever_its_id_stands() {
    let mut wire = Wire::hostile(&["--admin", "unix:{dir}/admin.sock"], &[]);
    wire.alive();
    let before = wire.rested_kib();
    for (id, last) in [("1", false), ("2", true)] {
        let answer = wire.call(id, "big", &json!({"bytes": 32 << 20, "last": last}));
        refused_by(&answer, "limits.response");
        wire.alive();
    }
    let grown = wire.peak_kib().saturating_sub(before);
    assert!(
        grown < 6 * 1024,
        "{grown} KiB for two answers of 32 MiB under a cap of 1 MiB"
    );
    // A line above the cap that is no answer is dropped, and nothing is said in its place.
    wire.emit(
        "3",
        format!(
            "{}\n{{\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":{{}}}}\n",
            "x".repeat(120_000)
        ),
    );
    wire.answer("3");
    assert_eq!(wire.others(), Vec::<Value>::new());
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn an_answer_below_the_cap_is_not_touched() {
    let mut wire = Wire::hostile(&["--response-limit", "3MiB"], &[]);
    let answer = wire.call("1", "big", &json!({"bytes": 2 << 20, "last": true}));
    assert_eq!(said(&answer).len(), 2 << 20);
    wire.finish();
}

#[test]
fn only_the_first_answer_to_an_open_id_passes() {
    let mut wire = Wire::hostile(&["--admin", "unix:{dir}/admin.sock"], &[]);
    wire.begin("\"7\"", "hang", &json!({}));
    // Answers twice, answers what nobody asked, and spells another's id in another type.
    let result = |id: &str, text: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#
        )
    };
    let lines = [
        result("99", "unknown"),
        result("\"@ID@\"", "crossed to text 1"),
        result("null", "null"),
        result("[@ID@]", "list"),
        result("@ID@.5", "float"),
        result("true", "true"),
        result("@ID@", "first"),
        result("@ID@", "second"),
        result("7", "crossed to 7"),
        result("\"\\u0037x\"", "escaped"),
    ];
    wire.emit("1", lines.join("\n") + "\n");
    assert_eq!(said(&wire.answer("1")), "first");
    wire.alive();
    assert_eq!(wire.others(), Vec::<Value>::new());
    // The id may be used again, and a late answer of before cannot be told apart, but it is one answer.
    assert_eq!(
        said(&wire.call("1", "echo", &json!({"text": "anew"}))),
        "anew"
    );
    assert!(
        wire.metric("cofferdam_answers_to_nobody_total") >= 4.0,
        "{}",
        wire.admin("/metrics")
    );
    let over = wire.finish();
    assert_eq!(over.rest.len(), 1, "{:?}", over.rest);
    refused_by(&over.rest[0], "server.gone");
}

#[test]
fn progress_that_nobody_wants_is_dropped() {
    let mut wire = Wire::hostile(&[], &[]);
    let progress = |token: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
        )
    };
    let lines = [
        "\"mine\"",
        "\"other\"",
        "5",
        "\"5\"",
        "null",
        "1.5",
        "{}",
        "[\"mine\"]",
    ]
    .map(progress);
    let bare = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;
    let twice = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"other","progressToken":"mine","progress":1}}"#;
    let text = format!(
        "{}\n{bare}\n{twice}\n{{\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":{{}}}}\n",
        lines.join("\n")
    );
    wire.request("1", "tools/call", &json!({"name": "emit", "arguments": {"hex": hex(text.as_bytes())}, "_meta": {"progressToken": "mine"}}));
    wire.answer("1");
    let tokens: Vec<Value> = wire
        .others()
        .iter()
        .map(|message| message["params"]["progressToken"].clone())
        .collect();
    assert_eq!(tokens, [json!("mine")]);
    wire.finish();
}

#[test]
fn progress_that_nobody_wants_is_dropped_in_a_long_session_too() {
    let mut wire = Wire::hostile(&[], &[]);
    for id in 0..4200 {
        wire.request(
            &id.to_string(),
            "ping",
            &json!({"_meta": {"progressToken": id}}),
        );
        wire.answer(&id.to_string());
    }
    let progress = |token: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
        )
    };
    // The second is one of before: a task may still report under it.
    wire.emit(
        "\"x\"",
        format!(
            "{}\n{}\n{{\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":{{}}}}\n",
            progress("\"invented\""),
            progress("4199")
        ),
    );
    wire.answer("\"x\"");
    let tokens: Vec<Value> = wire
        .others()
        .iter()
        .map(|message| message["params"]["progressToken"].clone())
        .collect();
    assert_eq!(tokens, [json!(4199)]);
    wire.finish();
}

#[test]
fn ids_of_the_server_and_of_the_client_do_not_meet() {
    let mut wire = Wire::hostile(&[], &[]);
    let ask = r#"{"jsonrpc":"2.0","id":@ID@,"method":"roots/list"}"#;
    wire.emit("1", format!("{ask}\n{ask}\n"));
    let asked = wire.next().unwrap();
    assert_eq!(
        (&asked["id"], asked["method"].as_str()),
        (&json!(1), Some("roots/list")),
        "one question only"
    );
    // The client's answer goes to the server and closes nothing of its own.
    wire.send(r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#);
    // A second answer to it goes nowhere, and the client's own id 1 is still open.
    wire.send(r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[{"uri":"file:///forged"}]}}"#);
    wire.begin("1", "echo", &json!({"text": "again"}));
    refused_by(&wire.answer("1"), "protocol.duplicate-id");
    wire.alive();
    let over = wire.finish();
    refused_by(&over.rest[0], "server.gone");
    assert_eq!(over.rest.len(), 1);
}

#[test]
fn a_server_that_never_reads_cannot_hold_the_end() {
    let mut wire = Wire::hostile(&[], &["deaf"]);
    let before = wire.rested_kib();
    let line = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{"pad":"{}"}}}}"#,
        "p".repeat(1000)
    );
    let stdin = wire.take_input();
    // Fills every pipe and buffer on the way, and then waits: backpressure, not memory.
    let (sender, sent) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut stdin = stdin;
        for _ in 0..50_000 {
            if stdin
                .write_all(line.as_bytes())
                .and_then(|()| stdin.write_all(b"\n"))
                .is_err()
                || sender.send(()).is_err()
            {
                break;
            }
        }
    });
    let mut count = 0;
    while sent.recv_timeout(Duration::from_millis(700)).is_ok() {
        count += 1;
    }
    assert!(count < 20_000, "{count} messages were swallowed");
    let grown = wire.peak_kib().saturating_sub(before);
    assert!(
        grown < 16 * 1024,
        "{grown} KiB are kept for a server that does not read"
    );
    wire.terminate();
    let over = wire.wait();
    drop(sent);
    writer.join().unwrap();
    assert!(over.took < Duration::from_secs(2), "{:?}", over.took);
}

#[test]
fn end_of_input_ends_a_server_that_never_reads() {
    let mut wire = Wire::hostile(&[], &["deaf", "term=ignore"]);
    let pad = "p".repeat(200_000);
    wire.request("1", "ping", &json!({"pad": pad}));
    wire.request("2", "ping", &json!({}));
    std::thread::sleep(Duration::from_millis(300));
    let over = wire.finish();
    assert!(over.took < Duration::from_secs(2), "{:?}", over.took);
    assert_eq!(over.rest.len(), 2, "{:?}", over.rest);
    assert!(
        over.rest.iter().all(|answer| rule(answer) == "server.gone"),
        "{:?}",
        over.rest
    );
}

#[test]
fn a_call_without_an_answer_expires_is_cancelled_and_its_late_answer_dropped() {
    let rig = Rig::new();
    let mut wire = Wire::in_rig(
        rig,
        &[
            "--timeout",
            "1s",
            "--write",
            "{dir}",
            "--admin",
            "unix:{dir}/admin.sock",
        ],
        &["log={dir}/log"],
    );
    let begun = Instant::now();
    wire.begin("\"slow\"", "late", &json!({"ms": 2600}));
    let answer = wire.answer("\"slow\"");
    refused_by(&answer, "limits.timeout");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(950) && took < Duration::from_millis(2500),
        "{took:?}"
    );
    std::thread::sleep(Duration::from_millis(2900).saturating_sub(begun.elapsed()));
    wire.alive();
    assert_eq!(
        wire.others(),
        Vec::<Value>::new(),
        "the late answer came through"
    );
    let log = std::fs::read_to_string(wire.rig.path().join("log")).unwrap();
    assert!(
        log.contains(r#""method":"notifications/cancelled","params":{"requestId":"slow""#),
        "{log}"
    );
    assert!((wire.metric("cofferdam_answers_to_nobody_total") - 1.0).abs() < 0.1);
    wire.finish();
}

#[test]
fn progress_keeps_a_slow_call_alive_and_silence_does_not() {
    let mut wire = Wire::hostile(&["--timeout", "1s"], &[]);
    wire.alive();
    let params =
        json!({"name": "late", "arguments": {"ms": 1500}, "_meta": {"progressToken": "t"}});
    wire.request("1", "tools/call", &params);
    wire.begin("2", "late", &json!({"ms": 1500}));
    std::thread::sleep(Duration::from_millis(600));
    // Only the call whose token this is.
    wire.emit("3", r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}
{"jsonrpc":"2.0","id":@ID@,"result":{}}
"#);
    wire.answer("3");
    assert_eq!(said(&wire.answer("1")), "late");
    refused_by(&wire.answer("2"), "limits.timeout");
    wire.finish();
}

#[test]
fn a_tool_list_that_cannot_be_read_holds_no_call_back() {
    let huge = json!({"tools": [{"name": "echo", "description": "d".repeat(2 << 20), "inputSchema": {"type": "object"}}]}).to_string();
    for list in [
        huge.as_str(),
        "{\"tools\":NaN}",
        "{\"tools\":[",
        "{\"tools\":7}",
        "[]",
        "null",
    ] {
        let rig = Rig::new().file("tools.json", list);
        let mut wire = Wire::in_rig(rig, &["--read", "{dir}"], &["tools={dir}/tools.json"]);
        let begun = Instant::now();
        wire.alive();
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?} for {}",
            begun.elapsed(),
            &list[..list.len().min(40)]
        );
        wire.finish();
    }
}

#[test]
fn a_tool_list_that_never_comes_does_not_hold_the_end() {
    let mut wire = Wire::hostile(&[], &["nolist", "term=ignore", "eof=ignore"]);
    wire.begin("1", "echo", &json!({"text": "x"}));
    std::thread::sleep(Duration::from_millis(300));
    let over = wire.finish();
    assert!(over.took < Duration::from_secs(2), "{:?}", over.took);
    assert_eq!(over.rest.len(), 1);
    assert!(
        rule(&over.rest[0]).starts_with("server."),
        "{:?}",
        over.rest
    );
}

#[test]
fn more_open_requests_than_are_kept_are_refused_and_the_rest_is_answered() {
    let mut wire = Wire::hostile(&[], &[]);
    wire.alive();
    let before = wire.rested_kib();
    let mut stdin = wire.take_input();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        for id in 0..20_000 {
            writeln!(
                stdin,
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"hang"}}}}"#
            )
            .unwrap();
        }
    });
    let mut answers = 0;
    let refused = wire.next().unwrap();
    refused_by(&refused, "limits.waiting");
    writer.join().unwrap();
    let grown = wire.peak_kib().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB");
    while wire.next().is_some() {
        answers += 1;
    }
    assert_eq!(answers, 19_999);
    wire.wait();
}

#[test]
fn a_stopped_server_is_gone_within_two_seconds() {
    let mut wire = Wire::hostile(&[], &[]);
    wire.alive();
    wire.begin("1", "die", &json!({"signal": 19}));
    std::thread::sleep(Duration::from_millis(200));
    wire.begin("2", "echo", &json!({"text": "x"}));
    let over = wire.finish();
    assert!(over.took < Duration::from_secs(2), "{:?}", over.took);
    assert_eq!(
        over.rest.iter().map(rule).collect::<Vec<_>>(),
        ["server.gone"; 2]
    );
}

#[test]
fn nothing_survives_either_process_when_a_daemon_was_left_behind() {
    let path = crate::support::example("hostile")
        .to_str()
        .unwrap()
        .to_owned();
    for victim in ["message", "spawner"] {
        let mut wire = Wire::hostile(
            &["--preset", "none", "--allow-exec", &path],
            &["term=ignore"],
        );
        assert_eq!(said(&wire.call("1", "daemon", &json!({}))), "left behind");
        assert!(eventually(|| crate::wire::processes(&wire.mark)
            .iter()
            .any(|(_, line)| line.contains(" daemon "))));
        if victim == "message" {
            wire.kill_message_process();
        } else {
            wire.kill_guardian();
        }
        wire.nothing_is_left(Duration::from_millis(if victim == "message" {
            200
        } else {
            1000
        }));
    }
}

#[test]
fn a_server_that_ignores_every_request_to_end_is_gone_within_two_seconds() {
    let mut wire = Wire::hostile(&[], &["eof=ignore", "term=ignore"]);
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    let over = wire.finish();
    assert!(over.took < Duration::from_secs(2), "{:?}", over.took);
    assert_eq!(over.rest.len(), 1);
    refused_by(&over.rest[0], "server.gone");
}

#[test]
fn a_daemon_that_holds_the_pipes_goes_with_the_server() {
    for end in ["eof", "exit"] {
        let mut wire = Wire::hostile(
            &[
                "--restart",
                "never",
                "--preset",
                "none",
                "--allow-exec",
                crate::support::example("hostile").to_str().unwrap(),
            ],
            &[],
        );
        wire.alive();
        assert_eq!(said(&wire.call("1", "daemon", &json!({}))), "left behind");
        let daemon = |wire: &Wire| {
            crate::wire::processes(&wire.mark)
                .iter()
                .filter(|(_, line)| line.contains(" daemon "))
                .count()
        };
        assert!(
            eventually(|| daemon(&wire) == 1),
            "{:?}",
            crate::wire::processes(&wire.mark)
        );
        let begun = Instant::now();
        // `wait` looks that nothing is left.
        let over = if end == "eof" {
            wire.finish()
        } else {
            wire.begin("2", "exit", &json!({"code": 3}));
            refused_by(&wire.answer("2"), "server.gone");
            wire.wait()
        };
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{end}: {:?}",
            begun.elapsed()
        );
        assert_eq!(over.code, if end == "eof" { 0 } else { 3 });
    }
}

#[test]
fn a_crash_answers_everything_and_its_code_is_passed_on() {
    for (tool, arguments, code) in [
        ("die", json!({"signal": 6}), 134),
        ("die", json!({"signal": 11}), 139),
        ("die", json!({"signal": 9}), 137),
        ("exit", json!({"code": 3}), 3),
        ("exit", json!({"code": 0}), 0),
    ] {
        let mut wire = Wire::hostile(&ONCE, &[]);
        wire.alive();
        for id in 1..=50 {
            wire.begin(&id.to_string(), "hang", &json!({}));
        }
        wire.begin("\"last\"", tool, &arguments);
        let mut ids = Vec::new();
        while let Some(answer) = wire.next() {
            refused_by(&answer, "server.gone");
            ids.push(answer["id"].to_string());
        }
        assert_eq!(ids.len(), 51, "{tool} {arguments}");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 51, "{tool} {arguments}");
        assert_eq!(wire.wait().code, code, "{tool} {arguments}");
    }
}

#[test]
fn nothing_survives_the_message_process() {
    let mut wire = Wire::hostile(&[], &["eof=ignore", "term=ignore"]);
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    wire.kill_message_process();
    wire.nothing_is_left(Duration::from_millis(200));
}

#[test]
fn without_the_spawner_nothing_lives_and_the_client_is_answered() {
    let mut wire = Wire::hostile(&[], &["eof=ignore", "term=ignore"]);
    wire.alive();
    wire.begin("1", "hang", &json!({}));
    wire.begin("2", "hang", &json!({}));
    wire.alive();
    let begun = Instant::now();
    wire.kill_guardian();
    refused_by(&wire.answer("1"), "server.gone");
    refused_by(&wire.answer("2"), "server.gone");
    let over = wire.wait();
    assert!(
        begun.elapsed() < Duration::from_millis(1000),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(over.code, 70);
}

#[test]
fn a_given_secret_never_comes_back() {
    const TOKEN: &str = "vQ7+kd/93\"hR=xw\\Zp0";
    let encoded = |form: &str| match form {
        "raw" => TOKEN.to_owned(),
        "hex" => TOKEN.bytes().map(|byte| format!("{byte:02x}")).collect(),
        "HEX" => TOKEN.bytes().map(|byte| format!("{byte:02X}")).collect(),
        "json" => TOKEN.replace('\\', "\\\\").replace('"', "\\\""),
        _ => String::new(),
    };
    let given = format!("TOKEN={TOKEN}");
    let mut wire = Wire::hostile(
        &[
            "--allow-env",
            &given,
            "--admin",
            "unix:{dir}/admin.sock",
            "--audit",
            "{dir}/audit.jsonl",
            "-v",
        ],
        &["first=484f4d453d78"],
    );
    for (at, form) in ["raw", "hex", "HEX", "url", "base64", "base64url", "basic"]
        .into_iter()
        .enumerate()
    {
        let answer = wire.call(&format!("{at}"), "secret", &json!({"form": form}));
        assert!(
            said(&answer).contains("REDACTED") || said(&answer).contains("redacted"),
            "{form}: {answer}"
        );
        let answer = wire.call(
            &format!("\"e{at}\""),
            "secret_stderr",
            &json!({"form": form}),
        );
        assert_eq!(said(&answer), "complained");
    }
    // In places where nobody looks for it: a key, an error, a notification, a question, junk, a tool's name.
    let json = encoded("json");
    let escaped: String = TOKEN
        .chars()
        .map(|c| format!("\\u{:04x}", u32::from(c)))
        .collect();
    let lines = [
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{json}"}}}}"#
        ),
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{escaped}"}}}}"#
        ),
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"{json}":1}}}}"#),
        format!(
            r#"{{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{{"message":"{json}"}}}}"#
        ),
        format!("junk {TOKEN}"),
        format!(
            r#"{{"jsonrpc":"2.0","id":@ID@,"error":{{"code":1,"message":"{json}","data":"{escaped}"}}}}"#
        ),
    ];
    wire.emit("\"x\"", lines.join("\n") + "\n");
    wire.answer("\"x\"");
    wire.alive();
    let outside = [wire.admin("/metrics"), wire.admin("/health")].concat();
    let lines: Vec<Vec<u8>> = wire.seen.clone();
    wire.close_input();
    let (over, rig) = wire.wait_in_rig();
    let audit = rig.path().join("audit.jsonl");
    let mut all: Vec<(&str, String)> = lines
        .iter()
        .map(|line| ("the client", String::from_utf8_lossy(line).into_owned()))
        .collect();
    all.push(("admin", outside));
    all.push(("stderr", over.text()));
    all.push(("audit", std::fs::read_to_string(audit).unwrap()));
    let base64 = [TOKEN, &format!("user:{TOKEN}")]
        .map(|text| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text));
    let mut forms: Vec<String> = ["raw", "hex", "HEX", "json"].map(encoded).to_vec();
    forms.extend(
        base64
            .iter()
            .map(|text| text.trim_end_matches('=')[..text.len() - 4].to_owned()),
    );
    forms.push(escaped);
    forms.push("vQ7%2Bkd".to_owned());
    for (place, text) in &all {
        for form in &forms {
            assert!(!text.contains(form.as_str()), "{form} in {place}: {text}");
        }
        // Whatever the spelling: what a JSON reader makes of it.
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            assert!(
                !strings(&value).iter().any(|text| text.contains(TOKEN)),
                "{place}: {text}"
            );
        }
    }
}

#[test]
fn a_secret_is_not_shown_in_halves() {
    const TOKEN: &str = "vQ7kd93hRxwZp0LmT4uYbN8s";
    let key = format!("-----BEGIN KEY-----\n{TOKEN}AAAA\n{TOKEN}BBBB\n-----END KEY-----");
    let first = hex(format!("{} {TOKEN} and more\n", "x".repeat(185)).as_bytes());
    let mut wire = Wire::hostile(
        &[
            "--allow-env",
            &format!("TOKEN={TOKEN}"),
            "--allow-env",
            &format!("KEY_SECRET={key}"),
        ],
        &[&format!("first={first}")],
    );
    wire.alive();
    // Long lines are cut into pieces, and many-lined values are logged line by line.
    for pad in [4070, 4080, 4090, 8180] {
        let line = format!("{} {TOKEN} end-of-{pad}\n", "x".repeat(pad));
        wire.call(
            &pad.to_string(),
            "emit",
            &json!({"to": "stderr", "hex": hex(line.as_bytes())}),
        );
        wire.until_stderr(&format!("end-of-{pad}"));
    }
    wire.call(
        "1",
        "emit",
        &json!({"to": "stderr", "hex": hex(format!("{key}\nend-of-key\n").as_bytes())}),
    );
    wire.until_stderr("end-of-key");
    let text = wire.finish().text();
    for at in 0..TOKEN.len() - 8 {
        assert!(
            !text.contains(&TOKEN[at..at + 8]),
            "{} in {text}",
            &TOKEN[at..at + 8]
        );
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| [vec![key.clone()], strings(value)].concat())
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn schemas_of_the_server_cannot_stall_the_session_or_break_other_tools() {
    let wide: Vec<Value> = (0..3000).map(|at| json!({"type": "object", "properties": {format!("p{at}"): {"type": "string", "pattern": "^(a+)+$"}}})).collect();
    let mut nest = json!({"type": "string"});
    for _ in 0..60 {
        nest = json!({"anyOf": [nest, {"type": "array"}]});
    }
    let tools = json!({"tools": [
        {"name": "echo", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}},
        {"name": "remote", "inputSchema": {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}},
        {"name": "file", "inputSchema": {"$ref": "file:///etc/passwd"}},
        {"name": "cycle", "inputSchema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}},
        {"name": "bomb", "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}, "b": {"type": "string", "pattern": "(?=(a+))a*b\\1"}}}},
        {"name": "repeat", "inputSchema": {"type": "object", "properties": {"a": {"pattern": "((((a{1,100}){1,100}){1,100}){1,100})"}}}},
        {"name": "wide", "inputSchema": {"allOf": wide}},
        {"name": "nest", "inputSchema": nest},
        {"name": "broken", "inputSchema": {"type": 7, "properties": []}},
        {"name": "nonsense", "inputSchema": "yes"},
        {"name": "absent"},
        {"name": "draft", "inputSchema": {"$schema": "https://example.com/unknown", "type": "object"}},
        {"name": 7, "inputSchema": {}},
        "not even an object"
    ]});
    let rig = Rig::new().file("tools.json", tools.to_string());
    let mut wire = Wire::in_rig(rig, &["--read", "{dir}"], &["tools={dir}/tools.json"]);
    let evil = "a".repeat(40_000);
    let begun = Instant::now();
    let names: Vec<&str> = tools["tools"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tool| tool["name"].as_str())
        .collect();
    for name in &names {
        let begun = Instant::now();
        let answer = wire.call(
            &format!("\"{name}\""),
            name,
            &json!({"a": evil, "b": evil, "text": evil}),
        );
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{name} took {:?}",
            begun.elapsed()
        );
        assert!(
            answer["result"].is_object() || answer["error"].is_object(),
            "{name}: {answer}"
        );
    }
    wire.alive();
    refused_by(
        &wire.call("1", "echo", &json!({"text": 7})),
        "schema.arguments",
    );
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    wire.finish();
}

#[test]
fn a_list_of_a_thousand_huge_schemas_is_bounded() {
    let pad = "d".repeat(900);
    let tools: Vec<Value> = (0..900).map(|at| json!({"name": format!("t{at}"), "inputSchema": {"type": "object", "description": pad}})).collect();
    let rig = Rig::new().file(
        "tools.json",
        json!({"tools": tools, "nextCursor": "again"}).to_string(),
    );
    // The cursor never ends: the server gives the same page for ever.
    let mut wire = Wire::in_rig(rig, &["--read", "{dir}"], &["tools={dir}/tools.json"]);
    let begun = Instant::now();
    wire.begin("1", "echo", &json!({"text": "x"}));
    let answer = wire.answer("1");
    assert!(
        answer["id"] == 1 && begun.elapsed() < Duration::from_secs(15),
        "{answer} after {:?}",
        begun.elapsed()
    );
    wire.alive();
    let peak = wire.peak_kib();
    assert!(peak < 96 * 1024, "{peak} KiB");
    wire.finish();
}
