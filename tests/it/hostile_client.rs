//! A client that means harm, or is only odd: every line gets an answer, and what is no message
//! never reaches the server.

use crate::rig::Rig;
use crate::support::{example, spawn};
use crate::wire::{Wire, eventually, processes, rule, said};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A session whose server writes down what it receives.
fn logged(flags: &[&str]) -> Wire {
    let flags = [&["--write", "{dir}"], flags].concat();
    Wire::in_rig(Rig::new(), &flags, &["log={dir}/log"])
}

fn log(wire: &Wire) -> String {
    String::from_utf8_lossy(&std::fs::read(wire.rig.path().join("log")).unwrap_or_default())
        .into_owned()
}

/// The corpus of framing, towards the server: name, bytes, what each line of it must come to.
pub(crate) fn framing() -> Vec<(String, Vec<u8>, Vec<String>)> {
    let text = include_str!("../corpus/framing.jsonl");
    let entries = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let to_server = entries.filter(|entry| entry["to"] == "server");
    to_server
        .map(|entry| {
            // One character stands for one byte.
            let bytes = entry["bytes"]
                .as_str()
                .unwrap()
                .chars()
                .map(|c| u8::try_from(u32::from(c)).unwrap())
                .collect();
            let expect = entry["expect"]
                .as_array()
                .unwrap()
                .iter()
                .map(|word| word.as_str().unwrap().to_owned());
            (
                entry["name"].as_str().unwrap().to_owned(),
                bytes,
                expect.collect(),
            )
        })
        .collect()
}

#[test]
fn every_malformed_form_is_answered_and_never_reaches_the_server() {
    let mut wire = logged(&[]);
    wire.alive();
    let mut tried = 0;
    for (at, (name, bytes, expect)) in framing().iter().enumerate() {
        if expect.is_empty() || !expect.iter().all(|word| word.starts_with("refuse")) {
            continue;
        }
        tried += 1;
        wire.send(bytes);
        let marker = format!("\"after-{at}\"");
        wire.begin(&marker, "echo", &json!({"text": "x"}));
        wire.answer(&marker);
        let answers = wire.others();
        assert_eq!(answers.len(), expect.len(), "{name}: {answers:?}");
        for answer in answers {
            assert_eq!(rule(&answer), "protocol.malformed", "{name}: {answer}");
        }
    }
    assert!(tried > 200, "{tried} malformed forms");
    let log = log(&wire);
    for line in log.lines() {
        let message: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let ours = message["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("after-") || id.starts_with("alive-"));
        assert!(
            ours || message["method"] == "tools/list",
            "the server got {line}"
        );
    }
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_batch_is_refused_whole() {
    let mut wire = logged(&[]);
    wire.send(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"exit"}}]"#);
    let answer = wire.next().unwrap();
    assert_eq!(
        (answer["error"]["code"].as_i64(), answer["id"].is_null()),
        (Some(-32600), true),
        "{answer}"
    );
    wire.alive();
    assert!(!log(&wire).contains("exit"));
    wire.finish();
}

#[test]
fn a_flood_of_notifications_passes_in_order_and_costs_no_memory() {
    let mut wire = logged(&[]);
    wire.alive();
    let before = wire.rested_kib();
    let mut stdin = wire.take_input();
    let count = 20_000;
    for at in 0..count {
        writeln!(
            stdin,
            r#"{{"jsonrpc":"2.0","method":"notifications/n","params":{{"at":{at}}}}}"#
        )
        .unwrap();
        if at % 10 == 0 {
            stdin.write_all(b"not a message\n").unwrap();
        }
    }
    drop(stdin);
    let peak = wire.peak_kib();
    let (over, rig) = wire.wait_in_rig();
    assert_eq!(over.rest.len(), count / 10);
    let log = std::fs::read_to_string(rig.path().join("log")).unwrap();
    let seen: Vec<usize> = log
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["params"]["at"]
                .as_u64()?
                .try_into()
                .ok()
        })
        .collect();
    assert!(
        seen.iter().copied().eq(0..count),
        "{} of {count}",
        seen.len()
    );
    let grown = peak.saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[test]
fn a_client_that_never_reads_holds_the_server_back_and_costs_no_memory() {
    let rig = Rig::new();
    let mark = crate::wire::mark();
    let path = example("hostile");
    let mut command = rig.command(&["run", "--", path.to_str().unwrap(), &mark]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = spawn(&mut command);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"stdout_flood\",\"arguments\":{\"lines\":60000}}}\n").unwrap();
    // Malformed lines make answers of our own, which wait for the same reader.
    let flood = std::thread::spawn(move || {
        for _ in 0..200_000 {
            if stdin.write_all(b"not a message\n").is_err() {
                break;
            }
        }
    });
    std::thread::sleep(Duration::from_millis(1500));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak: u64 = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(peak < 48 * 1024, "{peak} KiB");
    // It goes away without a word: so do we, and all that we started.
    let begun = Instant::now();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(status.code().is_some(), "{status:?}");
    assert!(
        eventually(|| processes(&mark).is_empty()),
        "{:?}",
        processes(&mark)
    );
    flood.join().unwrap();
}

#[test]
fn a_client_that_closes_our_stdout_ends_the_session() {
    let rig = Rig::new();
    let mark = crate::wire::mark();
    let path = example("hostile");
    let mut command = rig.command(&[
        "run",
        "--",
        path.to_str().unwrap(),
        &mark,
        "term=ignore",
        "eof=ignore",
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = spawn(&mut command);
    assert!(eventually(|| processes(&mark).len() >= 3));
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(status.code(), Some(0));
    assert!(processes(&mark).is_empty(), "{:?}", processes(&mark));
}

#[test]
fn answers_in_flight_are_delivered_after_the_end_of_input() {
    let mut wire = Wire::hostile(&[], &[]);
    wire.alive();
    for id in 0..40 {
        wire.begin(
            &id.to_string(),
            "echo",
            &json!({"text": format!("answer {id}")}),
        );
    }
    let over = wire.finish();
    assert_eq!(over.rest.len(), 40, "{:?}", over.rest);
    assert!(
        over.rest
            .iter()
            .enumerate()
            .all(|(at, answer)| said(answer) == format!("answer {at}")),
        "{:?}",
        over.rest
    );
    assert_eq!(over.code, 0);
}

#[test]
fn the_very_first_call_is_answered_although_the_input_ends_at_once() {
    // The call waits for the tool list, and the list for the server, when the end of input comes.
    let mut wire = Wire::hostile(&[], &[]);
    wire.begin("1", "echo", &json!({"text": "made it"}));
    let over = wire.finish();
    assert_eq!(over.rest.len(), 1, "{:?}", over.rest);
    assert_eq!(said(&over.rest[0]), "made it", "{:?}", over.rest);
}

#[test]
fn half_a_line_of_the_client_is_a_message_only_when_it_is_whole() {
    let mut wire = logged(&[]);
    wire.alive();
    let mut stdin = wire.take_input();
    stdin
        .write_all(br#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#)
        .unwrap();
    drop(stdin);
    let over = wire.wait();
    assert_eq!(
        (over.rest.len(), &over.rest[0]["result"]),
        (1, &json!({})),
        "{:?}",
        over.rest
    );

    let mut wire = logged(&[]);
    wire.alive();
    let mut stdin = wire.take_input();
    stdin
        .write_all(br#"{"jsonrpc":"2.0","id":5,"method":"pi"#)
        .unwrap();
    drop(stdin);
    let (over, rig) = wire.wait_in_rig();
    assert_eq!(
        over.rest.iter().map(rule).collect::<Vec<_>>(),
        ["protocol.malformed"]
    );
    assert!(
        !std::fs::read_to_string(rig.path().join("log"))
            .unwrap()
            .contains("\"pi")
    );
}

#[test]
fn two_at_once_under_one_name_share_the_audit_log_and_nothing_else() {
    let rig = Rig::new();
    let audit = rig.path().join("audit.jsonl").to_str().unwrap().to_owned();
    let flags = ["--name", "twin", "--audit", audit.as_str()];
    let mut twins = [Wire::hostile(&flags, &[]), Wire::hostile(&flags, &[])];
    for at in 0..100 {
        for (which, wire) in twins.iter_mut().enumerate() {
            let text = format!("twin {which} call {at}");
            assert_eq!(
                said(&wire.call(&at.to_string(), "echo", &json!({"text": text}))),
                text
            );
        }
    }
    for wire in twins {
        assert_eq!(wire.finish().code, 0);
    }
    let lines = std::fs::read_to_string(&audit).unwrap();
    let calls = lines.lines().filter(|line| {
        let record: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        record.to_string().contains("echo")
    });
    assert_eq!(calls.count(), 200);
}

#[test]
fn five_variables_are_enough() {
    let rig = Rig::new();
    let mark = crate::wire::mark();
    let mut command = rig.command(&["run", "--", example("hostile").to_str().unwrap(), &mark]);
    command.env_clear();
    for (name, value) in [
        ("LOGNAME", "ada"),
        ("PATH", "/usr/bin:/bin"),
        ("SHELL", "/bin/sh"),
        ("TERM", "xterm"),
        ("USER", "ada"),
    ] {
        command.env(name, value);
    }
    command.env("HOME", rig.path().join("home"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    let call = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{\"text\":\"hello\"}}}\n";
    child.stdin.take().unwrap().write_all(call).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("hello"),
        "{output:?}"
    );
}

#[test]
fn an_open_id_is_not_used_twice_in_any_spelling() {
    let mut wire = logged(&[]);
    wire.begin("\"a\"", "hang", &json!({}));
    wire.begin("7", "hang", &json!({}));
    for again in ["\"a\"", "\"\\u0061\"", "7"] {
        wire.begin(again, "echo", &json!({"text": "second"}));
        let answer = wire.next().unwrap();
        assert_eq!(rule(&answer), "protocol.duplicate-id", "{again}: {answer}");
    }
    // The number and the text are two ids, and each gets its own answer.
    assert_eq!(
        said(&wire.call("\"7\"", "echo", &json!({"text": "text seven"}))),
        "text seven"
    );
    assert!(!log(&wire).contains("second"));
    let over = wire.finish();
    let mut left: Vec<String> = over
        .rest
        .iter()
        .map(|answer| answer["id"].to_string())
        .collect();
    left.sort();
    assert_eq!(left, ["\"a\"", "7"]);
}

#[test]
fn ids_come_back_as_they_were_written() {
    let mut wire = Wire::hostile(&[], &[]);
    for id in [
        "0",
        "-1",
        "7",
        "\"7\"",
        "\"\"",
        "\"\\u0061\\\"\\\\\"",
        "\"\u{e9}\u{1f600}\"",
        "9007199254740993",
        "-9223372036854775808",
        "18446744073709551615",
    ] {
        // From the server, and from us.
        let answer = wire.call(id, "echo", &json!({"text": "x"}));
        assert_eq!(said(&answer), "x", "{id}");
        let refused = wire.ask(id, "tools/call", &json!({"name": 7}));
        assert!(
            refused.get("error").is_some() || refused["result"]["isError"] == true,
            "{refused}"
        );
    }
    let long = format!("\"{}\"", "i".repeat(1000));
    assert_eq!(said(&wire.call(&long, "echo", &json!({"text": "x"}))), "x");
    wire.send(format!(
        r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#,
        "i".repeat(100_000)
    ));
    let answer = wire.next().unwrap();
    assert!(
        rule(&answer) == "protocol.malformed" && answer.to_string().len() < 1000,
        "{answer}"
    );
    wire.finish();
}

#[test]
fn a_request_above_the_cap_is_answered_by_its_id_and_never_sent() {
    let mut wire = logged(&["--request-limit", "64KiB"]);
    wire.alive();
    let before = wire.rested_kib();
    let pad = "p".repeat(16 << 20);
    wire.send(format!(
        r#"{{"jsonrpc":"2.0","id":"first","method":"ping","params":{{"pad":"{pad}"}}}}"#
    ));
    assert_eq!(rule(&wire.answer("\"first\"")), "limits.request");
    wire.send(format!(
        r#"{{"params":{{"id":9,"pad":"{pad}"}},"method":"ping","jsonrpc":"2.0","id":"last"}}"#
    ));
    assert_eq!(rule(&wire.answer("\"last\"")), "limits.request");
    wire.alive();
    assert!(
        wire.peak_kib() - before < 4 * 1024,
        "{} KiB",
        wire.peak_kib() - before
    );
    assert!(!log(&wire).contains("ppp"));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn names_that_the_client_invents_are_tame_on_stderr_and_whole_in_audit() {
    let rig = Rig::new().file(
        "config.toml",
        "[methods]\nallow = [\"initialize\", \"tools/*\"]\n[tools.\"*\"]\nallow = false\n",
    );
    let flags = [
        "--config",
        "{dir}/config.toml",
        "--audit",
        "{dir}/audit.jsonl",
    ];
    let mut wire = Wire::in_rig(rig, &flags, &[]);
    let odd = "x\\u001b]0;owned\\u0007\\ncofferdam: forged\\u202e\\u009b31m\\u2028";
    wire.send(format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"{odd}","version":"{odd}"}}}}}}"#));
    wire.answer("0");
    for (id, line) in [
        ("1", format!(r#""method":"{odd}""#)),
        (
            "2",
            format!(r#""method":"tools/call","params":{{"name":"{odd}"}}"#),
        ),
    ] {
        wire.send(format!(r#"{{"jsonrpc":"2.0","id":{id},{line}}}"#));
        assert!(!rule(&wire.answer(id)).is_empty());
    }
    let (over, rig) = {
        wire.close_input();
        wire.wait_in_rig()
    };
    let text = over.text();
    let wild = text
        .chars()
        .find(|c| (c.is_control() && *c != '\n') || matches!(u32::from(*c), 0x2028 | 0x202E));
    assert_eq!(wild, None, "{text:?}");
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("cofferdam: forged")),
        "{text}"
    );
    let audit = std::fs::read_to_string(rig.path().join("audit.jsonl")).unwrap();
    for line in audit.lines() {
        drop(serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    }
    assert!(audit.lines().count() >= 3, "{audit}");
}

/// A token such as a forge gives out; of a kind that the scrubber knows.
const TOKEN: &str = "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";

#[test]
fn a_credential_in_a_name_is_written_nowhere() {
    let config = "[tools.danger]\nallow = false\n[resources]\ndeny = [\"https://internal.example/*\"]\n[schema]\narguments = \"off\"\n";
    let rig = Rig::new().file("config.toml", config);
    let flags = ["--config", "{dir}/config.toml"];
    let flags = [&flags[..], &["--audit", "{dir}/audit.jsonl"]].concat();
    let mut wire = Wire::in_rig(rig, &flags, &[]);
    wire.alive();
    let read =
        |wire: &mut Wire, id: &str, uri: &str| wire.ask(id, "resources/read", &json!({"uri": uri}));
    // Passed on as it is, and written down without it.
    let passed = format!("https://public.example/a?token={TOKEN}");
    let answer = read(&mut wire, "1", &passed);
    assert!(answer.get("result").is_some(), "{answer}");
    // The same where it is refused: near enough to the end of what a log shows to be cut in half.
    for (id, length) in [("2", 1), ("3", 90), ("4", 230)] {
        let padding = "p/".repeat(length / 2);
        let refused = format!("https://internal.example/{padding}?token={TOKEN}");
        assert_eq!(rule(&read(&mut wire, id, &refused)), "resources.deny");
    }
    wire.call("5", TOKEN, &json!({}));
    wire.ask("6", &format!("x/{TOKEN}"), &json!({}));
    wire.send(format!(
        r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"name":"{TOKEN}"}}}}"#
    ));
    wire.alive();
    wire.close_input();
    let (over, rig) = wire.wait_in_rig();
    let log = std::fs::read_to_string(rig.path().join("audit.jsonl")).unwrap();
    for target in [
        "https://public.example/a?token=",
        "https://internal.example/",
    ] {
        assert!(log.contains(target), "{log}");
    }
    assert!(over.text().contains("internal.example"), "{}", over.text());
    for text in [log, over.text()] {
        assert!(!text.contains(&TOKEN[..12]), "{text}");
    }
}
