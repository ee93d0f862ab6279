//! A denied tool is not reached by any second spelling of its call: not on a server that reads as
//! the Python SDK does, and not on one that takes anything for a call.
//!
//! Each suite first shows that its forms do reach the tool when nothing stands in between.

use crate::hostile_client::framing;
use crate::http_identity::program;
use crate::rig::Rig;
use crate::support::{example, skip, spawn};
use crate::web::{Site, initialize, post};
use crate::wire::{Wire, eventually, mark, rule, said};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The call as nobody would deny that it is one; `@N@` becomes the number of the form.
const CALL: &str = r#"{"jsonrpc":"2.0","id":"@N@","method":"tools/call","params":{"name":"danger","arguments":{"a":"@N@"}}}"#;

/// Every form, numbered by its place: name, bytes of one or more lines without the last LF.
fn forms(meta: &str) -> Vec<(String, Vec<u8>)> {
    let mut forms: Vec<(String, Vec<u8>)> = vec![("plain".to_owned(), CALL.into())];
    let mut add = |name: &str, bytes: &[u8]| forms.push((name.to_owned(), bytes.to_vec()));
    let note = |inside: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{"a":{inside}}}}}"#)
    };
    let ping = r#"{"jsonrpc":"2.0","id":"p@N@","method":"ping"}"#;
    // What some reader ends a line at, or skips.
    for (name, end) in [
        ("CR", "\r"),
        ("CR CR", "\r\r"),
        ("VT", "\u{b}"),
        ("FF", "\u{c}"),
        ("FS", "\u{1c}"),
        ("GS", "\u{1d}"),
        ("RS", "\u{1e}"),
        ("US", "\u{1f}"),
        ("NEL", "\u{85}"),
        ("LS", "\u{2028}"),
        ("PS", "\u{2029}"),
        ("NUL", "\0"),
        ("SUB", "\u{1a}"),
        ("EOT", "\u{4}"),
        ("BOM", "\u{feff}"),
        ("TAB", "\t"),
        ("space", " "),
        ("ESC", "\u{1b}"),
        ("DEL", "\u{7f}"),
        ("backslash r", "\\r"),
        ("comma", ","),
    ] {
        add(
            &format!("{name} in params"),
            note(&format!("{end}{CALL}{end}")).as_bytes(),
        );
        add(
            &format!("{name} in a string"),
            note(&format!("\"{end}{CALL}{end}\"")).as_bytes(),
        );
        add(
            &format!("{name} after a message"),
            format!("{ping}{end}{CALL}").as_bytes(),
        );
        add(&format!("{name} before"), format!("{end}{CALL}").as_bytes());
        add(&format!("{name} behind"), format!("{CALL}{end}").as_bytes());
        add(
            &format!("{name} inside"),
            CALL.replacen(",", &format!(",{end}"), 1).as_bytes(),
        );
    }
    add("LF in params", note(&format!("\n{CALL}\n")).as_bytes());
    add("two on a line", format!("{ping}{CALL}").as_bytes());
    add(
        "after half a line",
        format!("{{\"jsonrpc\":\n{CALL}").as_bytes(),
    );
    add("after a lone quote", format!("\"\n{CALL}").as_bytes());
    // Other names for the same tool.
    for name in [
        r"\u0064anger",
        r"\u0064\u0061\u006e\u0067\u0065\u0072",
        r"dange\u0072",
        "DANGER",
        "Danger",
        "dAnGeR",
        " danger",
        "danger ",
        r"danger\u0020",
        r"danger\t",
        r"danger\n",
        r"\r\ndanger",
        r"danger\u0000",
        r"\u0000danger",
        r"danger\u0000x",
        "danger\u{200b}",
        "dan\u{ad}ger",
        r"dan\u00adger",
        "dan\u{200d}ger",
        "\u{feff}danger",
        r"\ufeffdanger",
        "\u{2060}danger",
        "danger\u{fe0f}",
        "danger\u{e0001}",
        "d\u{200e}anger",
        r"\u202edanger",
        "danger\u{a0}",
        "danger\u{3000}",
        "\u{ff44}\u{ff41}\u{ff4e}\u{ff47}\u{ff45}\u{ff52}",
        r"\uff44anger",
        "\u{1d41d}anger",
        r"\ud835\udc1danger",
        "\u{24d3}anger",
        "\u{217e}anger",
        "d\u{aa}nger",
        "dan\u{1d4b0}ger",
        r"d\u0061nger",
        r"\ud800danger",
        r"danger\ud800",
        "./danger",
        "danger/",
        "danger\\/..",
        "tools/danger",
        "danger#",
        "danger?x",
        "%64anger",
        "danger%00",
        "mcp__danger",
        "*",
        "d*",
    ] {
        add(
            &format!("name {name}"),
            CALL.replace("\"danger\"", &format!("\"{name}\""))
                .as_bytes(),
        );
    }
    for name in [r#"["danger"]"#, r#"{"name":"danger"}"#, "null", "7"] {
        add(
            &format!("name {name}"),
            CALL.replace("\"danger\"", name).as_bytes(),
        );
    }
    // Keys twice, and keys that some readers take for the same.
    for (name, from, to) in [
        (
            "name twice, last",
            r#""name":"danger""#,
            r#""name":"safe","name":"danger""#,
        ),
        (
            "name twice, first",
            r#""name":"danger""#,
            r#""name":"danger","name":"safe""#,
        ),
        (
            "name twice, escaped",
            r#""name":"danger""#,
            r#""name":"safe","n\u0061me":"danger""#,
        ),
        (
            "name twice, case",
            r#""name":"danger""#,
            r#""name":"safe","Name":"danger""#,
        ),
        ("name only by case", r#""name""#, r#""NAME""#),
        ("name with a blank", r#""name""#, r#"" name""#),
        (
            "name with a mark",
            r#""name":"danger""#,
            "\"name\":\"safe\",\"\u{feff}name\":\"danger\"",
        ),
        ("name escaped", r#""name""#, r#""\u006eame""#),
        ("long s in a key", r#""params""#, "\"param\u{17f}\""),
        (
            "params twice",
            r#""params":"#,
            r#""params":{"name":"safe"},"params":"#,
        ),
        (
            "params twice, escaped",
            r#""params":"#,
            r#""params":{"name":"safe"},"p\u0061rams":"#,
        ),
        ("params by case", r#""params""#, r#""Params""#),
        ("params escaped", r#""params""#, r#""\u0070arams""#),
        (
            "method twice, last",
            r#""method":"tools/call""#,
            r#""method":"ping","method":"tools/call""#,
        ),
        (
            "method twice, first",
            r#""method":"tools/call""#,
            r#""method":"tools/call","method":"ping""#,
        ),
        (
            "method twice, escaped",
            r#""method":"tools/call""#,
            r#""method":"ping","m\u0065thod":"tools/call""#,
        ),
        ("method by case", r#""method""#, r#""Method""#),
        ("id twice", r#""id":"@N@""#, r#""id":"x@N@","id":"@N@""#),
        (
            "arguments twice",
            r#""arguments":"#,
            r#""arguments":{},"arguments":"#,
        ),
        (
            "an argument twice",
            r#"{"a":"@N@"}"#,
            r#"{"a":"x","a":"@N@"}"#,
        ),
        (
            "version twice",
            r#""jsonrpc":"2.0""#,
            r#""jsonrpc":"2.0","jsonrpc":"2.0""#,
        ),
        // Other spellings of the envelope.
        ("no version", r#""jsonrpc":"2.0","#, ""),
        ("version 1", r#""jsonrpc":"2.0""#, r#""jsonrpc":"1.0""#),
        ("version escaped", r#""2.0""#, r#""\u0032.0""#),
        ("slash escaped", "tools/call", "tools\\/call"),
        ("slash as u002f", "tools/call", r"tools\u002fcall"),
        ("method in capitals", "tools/call", "TOOLS/CALL"),
        ("method with a blank", "tools/call", "tools/call "),
        ("method with NUL", "tools/call", r"tools/call\u0000"),
        ("method with a mark", "tools/call", "tools/call\u{200b}"),
        ("method in wide letters", "tools/call", "tools\u{ff0f}call"),
        ("method with a dot", "tools/call", "tools.call"),
        ("method with two slashes", "tools/call", "tools//call"),
        ("method as call_tool", "tools/call", "call_tool"),
        ("no id", r#""id":"@N@","#, ""),
        ("id null", r#""id":"@N@""#, r#""id":null"#),
        ("id true", r#""id":"@N@""#, r#""id":true"#),
        ("id 1.5", r#""id":"@N@""#, r#""id":1.5"#),
        ("id 1e2", r#""id":"@N@""#, r#""id":1e2"#),
        ("id in a list", r#""id":"@N@""#, r#""id":["@N@"]"#),
        ("id in an object", r#""id":"@N@""#, r#""id":{"a":1}"#),
        ("id of half a pair", r#""id":"@N@""#, r#""id":"\ud800""#),
        (
            "with a result",
            r#""jsonrpc":"2.0""#,
            r#""jsonrpc":"2.0","result":{}"#,
        ),
        (
            "with an error",
            r#""jsonrpc":"2.0""#,
            r#""jsonrpc":"2.0","error":{"code":1,"message":"x"}"#,
        ),
        (
            "with a null result",
            r#""jsonrpc":"2.0""#,
            r#""jsonrpc":"2.0","result":null"#,
        ),
        ("NaN beside", r#""arguments":"#, r#""x":NaN,"arguments":"#),
        (
            "Infinity beside",
            r#""arguments":"#,
            r#""x":-Infinity,"arguments":"#,
        ),
        ("01 beside", r#""arguments":"#, r#""x":01,"arguments":"#),
        ("a comma too much", r#""@N@"}}}"#, r#""@N@",}}}"#),
        ("a comment", r#""arguments":"#, r#"/* */"arguments":"#),
        (
            "a task",
            r#""arguments":"#,
            r#""task":{"ttl":1000},"arguments":"#,
        ),
        (
            "an answered question",
            r#""arguments":"#,
            r#""inputResponses":{},"requestState":"x","arguments":"#,
        ),
        (
            "a related task",
            r#""arguments":"#,
            r#""_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}},"arguments":"#,
        ),
        (
            "another era",
            r#""arguments":"#,
            r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"arguments":"#,
        ),
        (
            "an era of no one",
            r#""arguments":"#,
            r#""_meta":{"io.modelcontextprotocol/protocolVersion":"9999-01-01"},"arguments":"#,
        ),
        // Other methods.
        ("as a prompt", "tools/call", "prompts/get"),
        ("as a task", "tools/call", "tasks/create"),
        ("as a result of a task", "tools/call", "tasks/result"),
        (
            "as a completion",
            r#""tools/call","params":{"#,
            r#""completion/complete","params":{"ref":{"type":"ref/tool","name":"danger"},"argument":{"name":"a","value":""},"#,
        ),
        (
            "as a resource",
            r#""tools/call","params":{"#,
            r#""resources/read","params":{"uri":"tool://danger","#,
        ),
    ] {
        let form = CALL.replace(from, to);
        assert_ne!(form, CALL, "{name}");
        add(name, form.as_bytes());
    }
    add(
        "params as a list",
        br#"{"jsonrpc":"2.0","id":"@N@","method":"tools/call","params":["danger",{"a":"@N@"}]}"#,
    );
    add("batch", format!("[{CALL}]").as_bytes());
    add("batch of two", format!("[{ping},{CALL}]").as_bytes());
    add("batch in a batch", format!("[[{CALL}]]").as_bytes());
    add(
        "in a string",
        serde_json::to_string(CALL).unwrap().as_bytes(),
    );
    add(
        "in a result",
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{CALL}}}"#).as_bytes(),
    );
    add(
        "UTF-16",
        &CALL
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>(),
    );
    add(
        "UTF-32",
        &CALL
            .chars()
            .flat_map(|c| u32::from(c).to_le_bytes())
            .collect::<Vec<u8>>(),
    );
    for bad in [
        b"\xff".as_slice(),
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\x80",
        b"\xe2\x80",
    ] {
        let (before, after) = CALL.split_once("\"params\"").unwrap();
        add(
            &format!("bad UTF-8 {bad:x?}"),
            &[
                before.as_bytes(),
                b"\"x\":\"",
                bad,
                b"\",\"params\"",
                after.as_bytes(),
            ]
            .concat(),
        );
        add(&format!("bad UTF-8 {bad:x?} in the name"), &[b"{\"jsonrpc\":\"2.0\",\"id\":\"@N@\",\"method\":\"tools/call\",\"params\":{\"name\":\"danger".as_slice(), bad, b"\",\"arguments\":{\"a\":\"@N@\"}}}"].concat());
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    add(
        "behind deep nesting",
        CALL.replace(r#""arguments":"#, &format!(r#""x":{deep},"arguments":"#))
            .as_bytes(),
    );
    let pad = "p".repeat(1 << 20);
    add(
        "at the end of a line over the cap",
        note(&format!("\"{pad}\r{CALL}\r\"")).as_bytes(),
    );
    add(
        "over the cap itself",
        CALL.replace(r#""arguments":"#, &format!(r#""x":"{pad}","arguments":"#))
            .as_bytes(),
    );

    for (name, bytes, _) in framing() {
        // Its answer has a number that this test cannot read.
        if name == "id of 1024 bytes" {
            continue;
        }
        let bytes = replace(
            &replace(&bytes, b"\"echo\"", b"\"danger\""),
            b"\"a\":\"x\"",
            b"\"a\":\"@N@\"",
        );
        forms.push((format!("corpus: {name}"), bytes));
    }
    for (at, (_, bytes)) in forms.iter_mut().enumerate() {
        *bytes = replace(bytes, b"@N@", format!("n{at}").as_bytes());
        *bytes = replace(
            bytes,
            b"\"arguments\":{\"a\"",
            format!("{meta}\"arguments\":{{\"a\"").as_bytes(),
        );
    }
    forms
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Which forms have reached the tool, by name.
fn reached(path: &std::path::Path, forms: &[(String, Vec<u8>)]) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let name = |line: &str| match line
        .strip_prefix('n')
        .and_then(|at| at.parse::<usize>().ok())
    {
        Some(at) => forms[at].0.clone(),
        None => format!("a form without its argument: {line:?}"),
    };
    text.lines().map(name).collect()
}

/// Feeds every form to the bare server: each form to a process of its own would be purer and take
/// minutes. What a server does not survive hides what comes after it, so forms go in several lots.
fn bare(command: &[&str], opening: &str, forms: &[(String, Vec<u8>)], lots: usize) {
    let children: Vec<_> = forms
        .chunks(forms.len().div_ceil(lots))
        .map(|lot| {
            let mut command_line = Command::new(command[0]);
            command_line
                .args(&command[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = spawn(&mut command_line);
            let mut stdin = child.stdin.take().unwrap();
            let mut bytes = opening.as_bytes().to_vec();
            for (_, form) in lot {
                bytes.extend_from_slice(form);
                bytes.push(b'\n');
            }
            // A server that has had enough closes its end.
            drop(stdin.write_all(&bytes));
            child
        })
        .collect();
    for child in children {
        drop(child.wait_with_output());
    }
}

/// The same through us; the session must live through all of it.
fn caged(
    mut wire: Wire,
    opening: &str,
    meta: &str,
    forms: &[(String, Vec<u8>)],
) -> (Vec<Value>, Rig) {
    for line in opening.lines() {
        wire.send(line);
    }
    let safe = |id: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"{id}","method":"tools/call","params":{{"name":"safe",{meta}"arguments":{{"a":"{id}"}}}}}}"#
        )
    };
    wire.send(safe("begin"));
    assert_eq!(said(&wire.answer("\"begin\"")), "safe begin");
    for (_, form) in forms {
        wire.send(form);
    }
    wire.send(safe("end"));
    assert_eq!(said(&wire.answer("\"end\"")), "safe end");
    let answers = wire.others();
    wire.close_input();
    let (over, rig) = wire.wait_in_rig();
    assert_eq!(over.code, 0, "{}", over.text());
    (answers, rig)
}

const INITIALIZE: &str = concat!(
    r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#,
    "\n",
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    "\n"
);
const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}},"#;

#[test]
fn no_form_reaches_a_denied_tool_of_a_server_that_takes_anything() {
    let forms = forms("");
    let rig = Rig::new();
    let server = example("hostile").to_str().unwrap().to_owned();
    let mark_file = rig.path().join("reached");
    let lenient = format!("lenient={}", mark_file.display());
    bare(&[&server, &mark(), &lenient], "", &forms, 1);
    let open = reached(&mark_file, &forms);
    for must in [
        "plain",
        "CR in params",
        "name twice, last",
        "name DANGER",
        "batch",
        "VT after a message",
        "params as a list",
    ] {
        assert!(
            open.contains(must),
            "`{must}` does not even reach the bare server: {open:#?}"
        );
    }
    assert!(
        open.len() > 150,
        "{} of {} forms reach the bare server",
        open.len(),
        forms.len()
    );
    std::fs::remove_file(&mark_file).unwrap();

    let wire = Wire::in_rig(
        rig,
        &["--deny-tool", "danger", "--write", "{dir}"],
        &["lenient={dir}/reached"],
    );
    let (answers, rig) = caged(wire, "", "", &forms);
    assert_eq!(
        reached(&rig.path().join("reached"), &forms),
        BTreeSet::new()
    );
    let plain = answers.iter().find(|answer| answer["id"] == "n0").unwrap();
    assert!(rule(plain).starts_with("tools."), "{plain}");
}

/// The pinned Python of the fixtures, with the SDK.
fn python() -> Option<String> {
    let home = std::env::var_os("COFFERDAM_FIXTURES").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/fixtures")),
        PathBuf::from,
    );
    let python = home.join("pypi/bin/python");
    if python.is_file() {
        return python.to_str().map(str::to_owned);
    }
    skip(
        "smuggling.python",
        "the pinned Python servers are not set up; `cargo xtask test` does that",
    );
    None
}

#[test]
fn no_form_reaches_a_denied_tool_of_the_python_sdk() {
    let Some(python) = python() else { return };
    let script = include_str!("../fake/danger.py");
    let mut ever = BTreeSet::new();
    for (opening, meta) in [(INITIALIZE, ""), ("", MODERN)] {
        let forms = forms(meta);
        let rig = Rig::new()
            .file("danger.py", script)
            .file("config.toml", "[tools.\"danger\"]\nallow = false\n");
        let path = |name: &str| rig.path().join(name).to_str().unwrap().to_owned();
        let (server, marks) = (path("danger.py"), path("reached"));
        bare(&[&python, &server, &marks], opening, &forms, 2);
        let open = reached(marks.as_ref(), &forms);
        assert!(open.len() > 20, "only {open:?} reach the bare server");
        ever.extend(open);
        std::fs::remove_file(&marks).unwrap();

        let name = mark();
        let flags = [
            "--config",
            "{dir}/config.toml",
            "--read",
            "{dir}",
            "--write",
            "{dir}",
        ];
        let wire = Wire::start(rig, &name, &flags, &[&python, &server, &marks, &name]);
        let (_, rig) = caged(wire, opening, meta, &forms);
        assert_eq!(
            reached(&rig.path().join("reached"), &forms),
            BTreeSet::new()
        );
    }
    for must in [
        "plain",
        "CR in params",
        "CR in a string",
        "name twice, last",
        "name escaped",
        "slash escaped",
    ] {
        assert!(
            ever.contains(must),
            "`{must}` does not even reach the bare server: {ever:#?}"
        );
    }
}

#[test]
fn denied_methods_prompts_and_resources_have_no_second_spelling() {
    let config = "[methods]\ndeny = [\"logging/setLevel\", \"resources/subscribe\"]\n[resources]\nallow = [\"file:///srv/*\"]\n[prompts]\ndeny = [\"danger\"]\n";
    let rig = Rig::new().file("config.toml", config);
    let mut wire = Wire::in_rig(
        rig,
        &["--config", "{dir}/config.toml", "--write", "{dir}"],
        &["log={dir}/log"],
    );
    wire.alive();
    // What is allowed passes, and lists do not name what is not.
    assert_eq!(
        wire.ask("1", "resources/read", &json!({"uri": "file:///srv/a"}))["result"]["contents"][0]
            ["text"],
        "read"
    );
    assert!(
        wire.ask("2", "prompts/get", &json!({"name": "greet"}))
            .get("result")
            .is_some()
    );
    assert_eq!(
        wire.ask("3", "resources/list", &json!({}))["result"]["resources"],
        json!([{"uri": "file:///srv/a", "name": "a"}])
    );
    assert_eq!(
        wire.ask("4", "prompts/list", &json!({}))["result"]["prompts"],
        json!([{"name": "greet"}])
    );
    let mut forms: Vec<String> = Vec::new();
    for method in [
        "logging/setLevel",
        r"logging\/setLevel",
        r"logging\u002fsetLevel",
        "LOGGING/SETLEVEL",
        "logging/setlevel",
        "logging/setLevel ",
        "logging/set\u{200b}Level",
        "logging\u{ff0f}setLevel",
        r"resources/subscrib\u0065",
        "Resources/Subscribe",
    ] {
        forms.push(format!(
            r#""method":"{method}","params":{{"level":"debug","uri":"file:///srv/a"}}"#
        ));
    }
    for uri in [
        "file:///etc/shadow",
        "FILE:///etc/shadow",
        "file:///srv/../etc/shadow",
        "file:///srv/%2e%2e/etc/shadow",
        "file:///srv/%2E%2E%2Fetc/shadow",
        "file:///srv/..%2fetc/shadow",
        "file:///srv/.%2e/etc/shadow",
        "file://localhost/etc/shadow",
        "file:/etc/shadow",
        "file:///srv/%252e%252e/etc/shadow",
        "file:///srv\\\\..\\\\etc\\\\shadow",
        "file:///srv/./../etc/shadow",
        "file:///srv//../../etc/shadow",
        "file:///srv/a/../../etc/shadow",
        "/etc/shadow",
        " file:///etc/shadow",
        "file:///srv/\\u002e\\u002e/etc/shadow",
        "file:///srv/..;/etc/shadow",
        "file:///srv/a?/../../etc/shadow",
        "file:///srv/a#/../../etc/shadow",
    ] {
        forms.push(format!(
            r#""method":"resources/read","params":{{"uri":"{uri}"}}"#
        ));
        forms.push(format!(r#""method":"completion/complete","params":{{"ref":{{"type":"ref/resource","uri":"{uri}"}},"argument":{{"name":"a","value":""}}}}"#));
    }
    for name in [
        "danger",
        "DANGER",
        r"\u0064anger",
        " danger",
        "danger\u{200b}",
        "\u{ff44}anger",
    ] {
        forms.push(format!(
            r#""method":"prompts/get","params":{{"name":"{name}"}}"#
        ));
        forms.push(format!(r#""method":"completion/complete","params":{{"ref":{{"type":"ref/prompt","name":"{name}"}},"argument":{{"name":"a","value":""}}}}"#));
    }
    for (at, form) in forms.iter().enumerate() {
        let id = format!("\"d{at}\"");
        wire.send(format!(r#"{{"jsonrpc":"2.0","id":{id},{form}}}"#));
        let answer = wire.answer(&id);
        assert!(
            !rule(&answer).is_empty() && answer.get("result").is_none(),
            "{form} got {answer}"
        );
    }
    let log = std::fs::read_to_string(wire.rig.path().join("log")).unwrap();
    assert!(!log.contains("\"d"), "{log}");
    wire.finish();
}

/// The lines of an audit log that a rule wrote about a target.
fn audited(path: &std::path::Path, rule: &str, target: &str) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all = text.lines().map(serde_json::from_str::<Value>);
    all.map_while(Result::ok)
        .filter(|line| line["rule"] == rule && line["target"] == target)
        .count()
}

#[test]
fn an_allowed_call_without_an_id_passes_by_no_limit_and_no_switch() {
    let config = "[schema]\narguments = \"off\"\n[tools.danger]\nrate = \"1/h\"\n";
    let rig = Rig::new().file("config.toml", config);
    let flags = ["--name", "noid", "--config", "{dir}/config.toml"];
    let more = ["--write", "{dir}", "--audit", "{dir}/audit.jsonl"];
    let flags = [&flags[..], &more].concat();
    let mut wire = Wire::in_rig(rig, &flags, &["lenient={dir}/reached"]);
    let call = |id: &str, mark: &str| {
        format!(
            r#"{{"jsonrpc":"2.0",{id}"method":"tools/call","params":{{"name":"danger","arguments":{{"a":"{mark}"}}}}}}"#
        )
    };
    // What is used up is used up for a call without an id too.
    wire.send(call("\"id\":1,", "first"));
    assert_eq!(said(&wire.answer("1")), "danger first");
    wire.send(call("", "smuggled"));
    wire.send(call("\"id\":2,", "second"));
    assert_eq!(rule(&wire.answer("2")), "limits.rate");
    // And what is switched off is off.
    program(wire.rig(), &["kill", "noid", "--tool", "danger"]);
    wire.until_stderr("switched off: the tool danger");
    wire.send(call("", "killed"));
    wire.send(call("\"id\":3,", "third"));
    assert_eq!(rule(&wire.answer("3")), "switch.tool");
    assert_eq!(wire.others(), [] as [Value; 0]);
    wire.close_input();
    let (over, rig) = wire.wait_in_rig();
    assert_eq!(over.code, 0, "{}", over.text());
    let log = rig.path().join("audit.jsonl");
    assert_eq!(audited(&log, "protocol.no-id", "danger"), 2);
    let reached = std::fs::read_to_string(rig.path().join("reached")).unwrap();
    assert_eq!(reached, "first\n");
}

#[test]
fn over_http_a_call_without_an_id_reaches_no_tool_of_others() {
    let config = "[listen]\nhttp = \"127.0.0.1:8080\"\nauth = \"required\"\n[identity]\nkeys = \"clients.json\"\n[clients.ci]\ntools = [\"echo\"]\n";
    for share in ["false", "true"] {
        let config = config.replace("auth", &format!("share = {share}\nauth"));
        let rig = Rig::new().file("config.toml", config);
        std::fs::create_dir(rig.path().join("log")).unwrap();
        let key = program(&rig, &["client", "add", "ci", "--keys", "clients.json"]);
        let flags = ["--user", "root", "--write", "{dir}/log"];
        let more = ["--config", "{dir}/config.toml"];
        let audit = ["--audit", "{dir}/audit.jsonl"];
        let flags = [&flags[..], &more, &audit].concat();
        let site = Site::in_rig(rig, &flags, &["log={dir}/log/lines"]);
        let bearer = format!("Authorization: Bearer {key}\r\n");
        let opened = site.ask(&post(&initialize("2025-11-25"), &bearer));
        let session = opened.header("mcp-session-id").unwrap().to_owned();
        let more = format!("Mcp-Session-Id: {session}\r\n{bearer}");
        // The list of tools is not known before the first call, and known after it.
        for round in ["before", "after"] {
            for tool in ["echo", "secret"] {
                let call = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": tool, "arguments": {"text": format!("smuggled {round}")}}});
                assert_eq!(site.ask(&post(&call, &more)).status, 202);
            }
            let call = json!({"jsonrpc": "2.0", "id": round, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": round}}});
            assert_eq!(said(&site.ask(&post(&call, &more)).json()), round);
        }
        let reached = site.reached();
        assert!(reached.contains("\"after\""), "{reached}");
        assert!(!reached.contains("smuggled"), "{reached}");
        let log = site.wire.rig.path().join("audit.jsonl");
        for tool in ["echo", "secret"] {
            assert!(eventually(|| audited(&log, "protocol.no-id", tool) == 2));
        }
    }
}
