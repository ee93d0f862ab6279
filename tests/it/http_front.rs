//! A server that runs elsewhere, on HTTP: as a stdio server and behind the listener, honest and not.

use crate::rig::Rig;
use crate::support::{example, spawn};
use crate::web::{CAPABILITIES, Conn, Site, VERSION, call, get};
use crate::wire::{Wire, eventually, mark, said};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The fake server, and what it was asked.
pub(crate) struct Elsewhere {
    child: Child,
    pub(crate) url: String,
    /// Its log, a file: what was answered is in it, whoever reads it when.
    log: tempfile::NamedTempFile,
}

impl Elsewhere {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(example("elsewhere"));
        let child = spawn(command.args(flags).stdout(log.reopen().unwrap()));
        let text = || std::fs::read_to_string(log.path()).unwrap();
        assert!(eventually(|| text().contains('\n')), "it says no port");
        let port = text().lines().next().unwrap().to_owned();
        Self {
            child,
            url: format!("http://127.0.0.1:{port}/mcp"),
            log,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log.path()).unwrap();
        // The last may be half written.
        let lines = text.split_inclusive('\n').filter(|it| it.ends_with('\n'));
        let seen = lines
            .skip(1)
            .map(|line| serde_json::from_str(line).unwrap());
        seen.collect()
    }

    /// What was seen of this kind: a method of HTTP, or of MCP.
    pub(crate) fn count(&self, method: &str) -> usize {
        let wanted = |it: &&Value| it["method"] == method || it["body"]["method"] == method;
        self.seen().iter().filter(wanted).count()
    }

    /// The last that was seen of this kind.
    fn last(&self, method: &str) -> Value {
        let wanted = |it: &&Value| it["method"] == method || it["body"]["method"] == method;
        self.seen()
            .iter()
            .rfind(wanted)
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client on stdio, in front of `url`.
pub(crate) fn front(url: &str, flags: &[&str]) -> Wire {
    front_in(Rig::new(), url, flags)
}

pub(crate) fn front_in(rig: Rig, url: &str, flags: &[&str]) -> Wire {
    let mark = mark();
    let flags = [&["--url", url, "--name", &mark], flags].concat();
    let wire = Wire::start(rig, &mark, &flags, &[]);
    wire.until_stderr("runs elsewhere");
    wire
}

pub(crate) fn initialize(wire: &mut Wire) {
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let answer = wire.ask("0", "initialize", &hello);
    assert_eq!(
        answer["result"]["serverInfo"]["name"], "elsewhere",
        "{answer}"
    );
    wire.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
}

pub(crate) fn modern(tool: &str, arguments: Value) -> Value {
    let mut params = json!({"name": tool, "arguments": arguments});
    params["_meta"][VERSION] = json!("2026-07-28");
    params["_meta"][CAPABILITIES] = json!({});
    params
}

pub(crate) fn rule(answer: &Value) -> String {
    let of_call = &answer["result"]["_meta"]["dev.cofferdam/rule"];
    let rule = of_call
        .as_str()
        .or(answer["error"]["data"]["rule"].as_str());
    rule.unwrap_or_default().to_owned()
}

pub(crate) fn http(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn events(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}")
}

#[test]
fn a_session_is_kept_and_given_back() {
    for flags in [&[][..], &["events"], &["get"], &["lost"], &["stateless"]] {
        let there = Elsewhere::start(flags);
        let mut wire = front(&there.url, &[]);
        initialize(&mut wire);
        for text in ["one", "two"] {
            let id = format!("\"{text}\"");
            assert_eq!(said(&wire.call(&id, "echo", &json!({"text": text}))), text);
        }
        let head = there.last("tools/call")["head"].clone();
        let session = head["mcp-session-id"].as_str();
        let sessions = !flags.contains(&"stateless");
        assert_eq!(session, sessions.then_some("session-1"), "{head}");
        assert_eq!(head["mcp-protocol-version"], "2025-11-25");
        assert!(head["mcp-method"].is_null() && head["content-type"] == "application/json");
        // The server says 404 to a method that it does not know: the session is not lost by that.
        let answer = wire.ask("\"n\"", "no/such", &json!({}));
        assert_eq!(answer["error"]["code"], -32601, "{answer}");
        assert_eq!(there.count("initialize"), 1, "{flags:?}");
        let over = wire.finish();
        assert_eq!(over.code, 0, "{}", over.text());
        assert_eq!(there.count("DELETE"), usize::from(sessions));
        assert!(over.took < Duration::from_secs(2), "{:?}", over.took);
    }
}

#[test]
fn a_session_that_is_forgotten_is_opened_anew_and_nobody_knows() {
    let there = Elsewhere::start(&["get"]);
    let mut wire = front(&there.url, &[]);
    initialize(&mut wire);
    wire.call("1", "forget", &json!({}));
    // Many at once open one session.
    for id in 2..12 {
        wire.begin(&id.to_string(), "echo", &json!({"text": id.to_string()}));
    }
    for id in 2..12 {
        assert_eq!(said(&wire.answer(&id.to_string())), id.to_string());
    }
    assert_eq!(
        (
            there.count("initialize"),
            there.count("notifications/initialized")
        ),
        (2, 2)
    );
    assert_eq!(
        there.last("tools/call")["head"]["mcp-session-id"],
        "session-2"
    );
    wire.until_stderr("opened anew");
    // The stream is that of the new session.
    assert!(eventually(
        || there.last("GET")["head"]["mcp-session-id"] == "session-2"
    ));
    let over = wire.finish();
    assert_eq!((over.code, over.rest.len()), (0, 0), "{:?}", over.rest);
}

#[test]
fn what_the_server_says_unasked_comes_and_goes_on_where_it_ended() {
    let there = Elsewhere::start(&["get"]);
    let mut wire = front(&there.url, &[]);
    initialize(&mut wire);
    let note = |text: &str| json!({"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":text}});
    let forged = json!({"jsonrpc":"2.0","id":9,"result":{"content":[]}});
    for round in ["a", "b"] {
        let lines =
            json!({"lines": [note(round), forged, {"jsonrpc":"2.0","id":1,"method":"ping"}]});
        assert_eq!(
            said(&wire.call(&format!("\"{round}\""), "push", &lines)),
            "pushed"
        );
        let seen = [wire.next().unwrap(), wire.next().unwrap()];
        assert_eq!(seen[0]["params"]["data"], round);
        assert_eq!(seen[1]["method"], "ping");
        wire.send(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        assert!(eventually(
            || there.last("POST")["body"]["result"].is_object()
        ));
        // It comes back with the last event that it has seen.
        assert!(eventually(
            || there.last("GET")["head"]["last-event-id"] == "pushed-2"
        ));
    }
    assert_eq!(wire.finish().rest, Vec::<Value>::new());
}

#[test]
fn a_stream_that_is_cut_before_the_answer_is_taken_up_again() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &[]);
    initialize(&mut wire);
    assert_eq!(said(&wire.call("1", "cut", &json!({}))), "after the cut");
    // The stream of the session is asked for too, before or after.
    assert!(eventually(|| {
        let seen = there.seen();
        seen.iter().any(|it| it["head"]["last-event-id"] == "cut-7")
    }));
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_stream_that_is_cut_where_there_is_no_other_is_an_answer_at_once() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &[]);
    initialize(&mut wire);
    let begun = Instant::now();
    let answer = wire.call("1", "cut", &json!({"lost": true}));
    assert_eq!(rule(&answer), "server.gone", "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_session_that_cannot_be_opened_anew_keeps_nobody_waiting_for_ever() {
    let there = Elsewhere::start(&["stuck"]);
    let rig = Rig::new().file("c.toml", "[limits]\ntimeout = \"60s\"\n");
    let mut wire = front_in(rig, &there.url, &["--config", "{dir}/c.toml"]);
    initialize(&mut wire);
    wire.call("1", "forget", &json!({}));
    wire.begin("2", "echo", &json!({"text": "first"}));
    assert!(eventually(|| there.count("initialize") == 2));
    wire.begin("3", "echo", &json!({"text": "second"}));
    std::thread::sleep(Duration::from_secs(26));
    let first = wire.answer("2");
    assert_eq!(rule(&first), "server.gone", "{first}");
    assert_eq!(said(&wire.answer("3")), "second");
}

#[test]
fn a_modern_request_says_in_its_header_what_its_body_says() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &[]);
    let answer = wire.ask("1", "tools/call", &modern("echo", json!({"text": "hi"})));
    assert_eq!(said(&answer), "hi");
    let head = there.last("tools/call")["head"].clone();
    assert_eq!(head["mcp-protocol-version"], "2026-07-28");
    assert_eq!(
        (&head["mcp-method"], &head["mcp-name"]),
        (&json!("tools/call"), &json!("echo"))
    );
    assert!(head["mcp-session-id"].is_null());
    // What the server wants repeated has changed since it was listed: it is asked again, once.
    let answer = wire.ask(
        "2",
        "tools/call",
        &modern("region", json!({"region": "eu west"})),
    );
    assert_eq!(said(&answer), "there", "{answer}");
    assert_eq!(
        there.last("tools/call")["head"]["mcp-param-region"],
        "eu west"
    );
    // A tool that no client on HTTP may offer is not offered.
    let mut params = json!({});
    params["_meta"] = modern("", json!({}))["_meta"].clone();
    let list = wire.ask("3", "tools/list", &params);
    assert!(
        list.to_string().contains("\"region\"") && !list.to_string().contains("unfit"),
        "{list}"
    );
    // There is no session to give back, and no handshake was made up.
    assert_eq!(wire.finish().code, 0);
    assert_eq!(
        (
            there.count("DELETE"),
            there.count("initialize"),
            there.count("GET")
        ),
        (0, 0, 0)
    );
}

#[test]
fn whatever_comes_each_request_gets_one_answer() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &["--response-limit", "64KiB"]);
    initialize(&mut wire);
    let json = "application/json";
    let result = r#"{"jsonrpc":"2.0","id":@ID@,"result":{"content":[]}}"#;
    let big = "x".repeat(100_000);
    let rows: Vec<(&str, String, &str, &str)> = vec![
        (
            "401",
            http("401 Unauthorized", json, "{}"),
            "keep",
            "server.denied",
        ),
        (
            "403",
            http("403 Forbidden", "text/html", "<h1>no</h1>"),
            "keep",
            "server.denied",
        ),
        (
            "413",
            http("413 Payload Too Large", "text/html", "<html>"),
            "keep",
            "server.too-large",
        ),
        (
            "429",
            "HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n".into(),
            "keep",
            "server.busy",
        ),
        (
            "500",
            http("500 Oops", "text/plain", ""),
            "keep",
            "server.status",
        ),
        (
            "502",
            http("502 Bad Gateway", "text/html", "<html>"),
            "keep",
            "server.status",
        ),
        (
            "503",
            http("503 Unavailable", "text/html", "<html>"),
            "close",
            "server.busy",
        ),
        (
            "404 of something else",
            http("410 Gone", "text/html", "<html>"),
            "keep",
            "server.status",
        ),
        (
            "a redirect",
            "HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"
                .into(),
            "keep",
            "server.moved",
        ),
        (
            "html",
            http("200 OK", "text/html", "<html>"),
            "keep",
            "server.malformed",
        ),
        (
            "nothing",
            http("200 OK", json, ""),
            "keep",
            "server.malformed",
        ),
        (
            "accepted",
            http("202 Accepted", json, ""),
            "keep",
            "server.malformed",
        ),
        (
            "no content",
            "HTTP/1.1 204 No Content\r\n\r\n".into(),
            "keep",
            "server.malformed",
        ),
        (
            "no JSON",
            http("200 OK", json, "{\"jsonrpc\":"),
            "keep",
            "server.malformed",
        ),
        (
            "another's answer",
            http(
                "200 OK",
                json,
                r#"{"jsonrpc":"2.0","id":"other","result":{}}"#,
            ),
            "keep",
            "server.malformed",
        ),
        (
            "a batch",
            http("200 OK", json, r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#),
            "keep",
            "server.malformed",
        ),
        (
            "a notice",
            http(
                "200 OK",
                json,
                r#"{"jsonrpc":"2.0","method":"notifications/x"}"#,
            ),
            "keep",
            "server.malformed",
        ),
        (
            "a raw line feed in a string",
            http(
                "200 OK",
                json,
                "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":\"\n\"}}",
            ),
            "keep",
            "server.malformed",
        ),
        (
            "a result twice",
            http(
                "200 OK",
                json,
                r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#,
            ),
            "keep",
            "server.malformed",
        ),
        (
            "a body that is too large",
            http("200 OK", json, &big),
            "close",
            "limits.response",
        ),
        (
            "an event that is too large",
            events(&format!("data: {big}\n\n")),
            "close",
            "limits.response",
        ),
        (
            "half a body",
            format!("HTTP/1.1 200 OK\r\ncontent-type: {json}\r\ncontent-length: 900\r\n\r\n{{"),
            "close",
            "server.gone",
        ),
        (
            "half a header",
            "HTTP/1.1 200 O".into(),
            "close",
            "server.gone",
        ),
        (
            "no HTTP",
            "SSH-2.0-OpenSSH_9.6\r\n".into(),
            "close",
            "server.gone",
        ),
        (
            "a header without end",
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(200_000)),
            "close",
            "server.gone",
        ),
        (
            "too many headers",
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5000)),
            "close",
            "server.gone",
        ),
        ("a close", String::new(), "close", "server.gone"),
        ("a reset", String::new(), "reset", "server.gone"),
        (
            "a stream that is cut",
            events("data: {\"jsonrpc\""),
            "close",
            "server.gone",
        ),
        (
            "a stream without the answer",
            events(": hello\n\ndata: \n\n"),
            "close",
            "server.gone",
        ),
        (
            "a stream of noise",
            events("data: <html>\n\nevent: error\ndata: no\n\n"),
            "close",
            "server.gone",
        ),
        (
            "two lengths",
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {json}\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"
            ),
            "close",
            "server.gone",
        ),
        (
            "an upgrade",
            "HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into(),
            "close",
            "server.status",
        ),
    ];
    for (at, (what, bytes, then, expected)) in rows.iter().enumerate() {
        let id = format!("\"row-{at}\"");
        let answer = wire.call(&id, "raw", &json!({"bytes": bytes, "then": then}));
        assert_eq!(rule(&answer), *expected, "{what}: {answer}");
        assert_eq!(answer["result"]["isError"], true, "{what}: {answer}");
        let text = answer.to_string();
        assert!(
            !text.contains("html") && !text.contains("127.0.0.1"),
            "{what}: {text}"
        );
        wire.alive();
    }
    // What is odd and legal passes.
    let legal: Vec<(&str, String)> = vec![
        (
            "pretty",
            http(
                "200 OK",
                "Application/JSON; charset=utf-8",
                &result.replace(',', ",\r\n\t"),
            ),
        ),
        (
            "interim",
            format!(
                "HTTP/1.1 103 Early Hints\r\n\r\n{}",
                http("200 OK", json, result)
            ),
        ),
        ("created", http("201 Created", json, result)),
        ("CR", events(&format!("id: 1\rdata: {result}\r\r"))),
        (
            "in two lines",
            events(&format!(
                "data: {}\n\n",
                result.replace(":\"2.0\",", ":\"2.0\",\ndata: ")
            )),
        ),
        (
            "with a mark",
            events(&format!("\u{feff}data: {result}\n\n")),
        ),
        (
            "an error with the status of one",
            http(
                "400 Bad Request",
                json,
                r#"{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32602,"message":"m"}}"#,
            ),
        ),
        (
            "an error for nobody",
            http(
                "400 Bad Request",
                json,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32602,"message":"m"}}"#,
            ),
        ),
    ];
    for (at, (what, bytes)) in legal.iter().enumerate() {
        let id = format!("{}", 1000 + at);
        let answer = wire.call(&id, "raw", &json!({"bytes": bytes, "then": "close"}));
        let passed = answer["result"]["content"].is_array() || answer["error"]["code"] == -32602;
        assert!(passed && rule(&answer).is_empty(), "{what}: {answer}");
    }
    wire.alive();
    let over = wire.finish();
    assert_eq!((over.code, over.rest.len()), (0, 0), "{:?}", over.rest);
}

#[test]
fn where_nobody_listens_each_request_is_told_so_and_later_ones_are_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut wire = front(
        &format!("http://127.0.0.1:{port}/mcp"),
        &["--restart", "never"],
    );
    for id in ["1", "2"] {
        let answer = wire.ask(id, "tools/list", &json!({}));
        assert_eq!(rule(&answer), "server.unavailable", "{answer}");
        assert!(answer["error"]["data"]["retryAfterMs"].is_number());
    }
    let said = wire.stderr();
    assert_eq!(
        said.matches("cannot connect to 127.0.0.1").count(),
        1,
        "told once: {said}"
    );
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn cancelling_is_what_it_is_in_each_revision() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &[]);
    wire.request("1", "tools/call", &modern("hang", json!({})));
    assert!(eventually(|| there.count("tools/call") == 1));
    let note = |id: u32| {
        json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":id}})
            .to_string()
    };
    wire.send(note(1));
    assert!(
        eventually(|| there.count("left") == 1),
        "the stream is closed"
    );
    assert_eq!(there.count("notifications/cancelled"), 0);
    initialize(&mut wire);
    wire.begin("2", "hang", &json!({}));
    assert!(eventually(|| there.count("tools/call") == 2));
    wire.send(note(2));
    assert!(
        eventually(|| there.count("notifications/cancelled") == 1),
        "the server is told"
    );
    wire.alive();
    assert_eq!(wire.finish().rest, Vec::<Value>::new());
}

#[test]
fn a_request_that_is_late_is_answered_and_given_up() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &["--timeout", "1s"]);
    let answer = wire.ask("1", "tools/call", &modern("hang", json!({})));
    assert_eq!(rule(&answer), "limits.timeout");
    assert!(
        eventually(|| there.count("left") == 1),
        "the stream is closed"
    );
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_credential_goes_to_the_server_alone_and_changes_without_a_restart() {
    let (there, other) = (Elsewhere::start(&[]), Elsewhere::start(&[]));
    let config = format!(
        "[server]\nurl = \"{}\"\nname = \"@NAME@\"\n[credentials.api]\nfile = \"token\"\ninject = {{ header = \"Authorization\" }}\n[credentials.key]\nfile = \"key\"\ninject = {{ header = \"X-Api-Key\", format = \"k={{}}\" }}\n",
        there.url
    );
    let mark = mark();
    let rig = Rig::new()
        .file("c.toml", config.replace("@NAME@", &mark))
        .file("token", "first-secret-value\n")
        .file("key", "second-secret-value");
    let mut wire = Wire::start(rig, &mark, &["--config", "{dir}/c.toml"], &[]);
    initialize(&mut wire);
    let moved = format!(
        "HTTP/1.1 307 Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        other.url
    );
    let answer = wire.call("1", "raw", &json!({"bytes": moved, "then": "keep"}));
    assert_eq!(rule(&answer), "server.moved");
    let head = there.last("tools/call")["head"].clone();
    assert_eq!(head["authorization"], "Bearer first-secret-value");
    assert_eq!(head["x-api-key"], "k=second-secret-value");
    assert_eq!(other.seen(), Vec::<Value>::new(), "nobody followed");
    // A server that says the secret again is not heard.
    let echoed = wire.call("2", "echo", &json!({"text": "it is first-secret-value"}));
    assert!(
        !echoed.to_string().contains("first-secret-value"),
        "{echoed}"
    );
    let head = &there.last("initialize")["head"];
    assert_eq!(
        head["authorization"], "Bearer first-secret-value",
        "the first request too"
    );
    std::fs::write(wire.path().join("token"), "third-secret-value\n").unwrap();
    let mut id = 10;
    assert!(eventually(|| {
        id += 1;
        wire.call(&id.to_string(), "echo", &json!({"text": "x"}));
        there.last("tools/call")["head"]["authorization"] == "Bearer third-secret-value"
    }));
    assert_eq!(there.count("initialize"), 1, "the session goes on");
    let over = wire.finish();
    assert!(!over.text().contains("secret-value"), "{}", over.text());
}

#[test]
fn a_long_stream_takes_no_memory() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &[]);
    initialize(&mut wire);
    let before = rss(wire.pid());
    wire.begin("1", "flood", &json!({"count": 2_000, "size": 10_000}));
    let answer = wire.answer("1");
    assert!(answer["result"]["content"].is_array());
    assert_eq!(wire.others().len(), 2_000);
    let after = rss(wire.pid());
    assert!(
        after < before + 8_000,
        "{before} KiB grew to {after} KiB for 20 MB of events"
    );
    assert_eq!(wire.finish().code, 0);
}

#[test]
fn a_pipe_that_nobody_reads_stops_the_stream() {
    use std::io::Write;
    let there = Elsewhere::start(&[]);
    let rig = Rig::new();
    let mut command = rig.command(&["run", "--url", &there.url]);
    let mut child = spawn(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let mut stdin = child.stdin.take().unwrap();
    let params = modern("flood", json!({"count": 100_000, "size": 10_000}));
    let line = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    writeln!(stdin, "{line}").unwrap();
    assert!(eventually(|| there.count("flooded") > 0));
    std::thread::sleep(Duration::from_millis(1500));
    let first = there.count("flooded");
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(there.count("flooded"), first, "the server goes on writing");
    // 1 MB is logged at a time: buffers of sockets and pipes, and little of ours.
    assert!(first < 24, "{first} MB were taken from the server");
    assert!(rss(child.id()) < 80_000, "{} KiB", rss(child.id()));
    drop(stdin);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// KiB of memory that a process has.
fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The listener in front of a server that listens elsewhere.
pub(crate) fn site(there: &Elsewhere, flags: &[&str]) -> Site {
    let mark = mark();
    let flags = [
        &[
            "--url",
            &there.url,
            "--name",
            &mark,
            "--listen",
            "127.0.0.1:0",
        ],
        flags,
    ]
    .concat();
    let wire = Wire::start(Rig::new(), &mark, &flags, &[]);
    wire.until_stderr("runs elsewhere");
    Site::listening(wire)
}

#[test]
fn behind_the_listener_sessions_are_one_to_one_and_modern_requests_share() {
    let there = Elsewhere::start(&["get"]);
    let site = site(&there, &["--admin", "127.0.0.1:0"]);
    let reply = site.call(&json!("m"), "echo", &json!({"text": "modern"}));
    assert_eq!(said(&reply.json()), "modern", "{reply:?}");
    assert!(there.last("tools/call")["head"]["mcp-session-id"].is_null());
    let (one, two) = (site.initialize("2025-11-25"), site.initialize("2025-06-18"));
    for (session, upstream, version) in [
        (&one, "session-1", "2025-11-25"),
        (&two, "session-2", "2025-06-18"),
        (&one, "session-1", "2025-11-25"),
    ] {
        let reply = site.post(session, &call(&json!(1), "echo", &json!({"text": "hi"})));
        assert_eq!((reply.status, said(&reply.json())), (200, "hi"));
        let head = there.last("tools/call")["head"].clone();
        assert_eq!(
            (&head["mcp-session-id"], &head["mcp-protocol-version"]),
            (&json!(upstream), &json!(version))
        );
    }
    // What the server says unasked to one session is for that session.
    let mut stream = site.connect();
    stream.send(get(&one, ""));
    stream.head();
    let note = json!({"jsonrpc":"2.0","method":"notifications/tools/list_changed"});
    site.post(&one, &call(&json!(2), "push", &json!({"lines": [note]})));
    // Either stream of the upstream may take it; ours has it or nobody has.
    let text = format!("DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: {two}\r\n\r\n");
    assert_eq!(site.ask(&text).status, 204);
    assert!(eventually(|| there.count("DELETE") == 1));
    assert_eq!(there.last("DELETE")["head"]["mcp-session-id"], "session-2");
    let health = health(&site.wire);
    assert_eq!(health["upstream"]["answers"], true, "{health}");
    assert!(
        health["upstream"]["url"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    assert!(
        health["cell"].is_null(),
        "nothing is implied that is not there"
    );
}

fn health(wire: &Wire) -> Value {
    wire.until_stderr("health and metrics on ");
    let said = wire.stderr();
    let address = said.split("health and metrics on ").nth(1).unwrap();
    let address = address
        .lines()
        .next()
        .unwrap()
        .trim()
        .trim_start_matches("http://");
    let mut conn = Conn::to(address.split('/').next().unwrap().parse().unwrap());
    conn.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    conn.reply().json()
}

#[test]
fn a_client_that_leaves_behind_the_listener_leaves_the_server_too() {
    let there = Elsewhere::start(&[]);
    let site = site(&there, &[]);
    let mut conn = site.connect();
    let params = json!({"name": "hang", "arguments": {}});
    conn.send(crate::web::modern(&json!(1), "tools/call", &params, ""));
    assert!(eventually(|| there.count("tools/call") == 1));
    drop(conn);
    assert!(eventually(|| there.count("left") == 1));
    // A stream of events comes as one.
    let reply = site.modern(&json!(2), "tools/call", &json!({"name": "flood", "arguments": {"count": 3, "size": 5}, "_meta": {"io.modelcontextprotocol/logLevel": "debug"}}));
    assert_eq!(
        reply.header("content-type"),
        Some("text/event-stream"),
        "{reply:?}"
    );
    assert_eq!(reply.events().len(), 4, "{reply:?}");
    // A server that goes away is one that is missing, not one of ours that died.
    drop(there);
    let reply = site.call(&json!(3), "echo", &json!({"text": "x"}));
    assert_eq!(
        (reply.status, rule(&reply.json()).as_str()),
        (200, "server.unavailable"),
        "{reply:?}"
    );
}

#[test]
fn over_tls_the_server_has_to_be_the_one_that_is_meant() {
    // A listener of ours is the server elsewhere: it speaks HTTP/2.
    let rig = Rig::new();
    let made = rig
        .command(&["tls", "self-signed", "--dir", "tls"])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let config = "[listen]\nhttp = \"127.0.0.1:0\"\ntls = { cert = \"tls/server.crt\", key = \"tls/server.key\" }\n";
    let rig = rig.file("c.toml", config);
    let upstream = Site::around(Wire::in_rig(
        rig.again(),
        &["--config", "{dir}/c.toml"],
        &[],
    ));
    let url = format!("https://localhost:{}/mcp", upstream.address.port());
    let started = Instant::now();
    for (flags, fits) in [
        (&["--ca", "tls/ca.crt"][..], true),
        (
            &[
                "--ca",
                "tls/ca.crt",
                "--pin",
                "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            ],
            false,
        ),
        (&[], false),
    ] {
        let mut wire = front_in(rig.again(), &url, flags);
        let answer = wire.ask("1", "tools/call", &modern("echo", json!({"text": "safe"})));
        if fits {
            assert_eq!(said(&answer), "safe", "{answer} {}", wire.stderr());
        } else {
            assert_eq!(rule(&answer), "server.unavailable", "{answer}");
        }
        assert_eq!(wire.finish().code, 0);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_makes_the_connections_may_die_and_is_started_again() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &[]);
    initialize(&mut wire);
    wire.alive();
    let dials = || {
        let all = crate::wire::processes("__dial").into_iter();
        let port = there
            .url
            .split(':')
            .nth(2)
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        let own = all.filter(|(_, line)| line.contains(port));
        own.map(|(pid, _)| pid).collect::<Vec<_>>()
    };
    let first = dials();
    assert_eq!(first.len(), 1);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first[0]).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(eventually(|| dials() != first && dials().len() == 1));
    wire.alive();
    assert_eq!(there.count("initialize"), 2, "the session was opened anew");
    // It cannot go anywhere else, nor open anything.
    let status = std::fs::read_to_string(format!("/proc/{}/status", dials()[0])).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(wire.finish().code, 0);
    assert!(eventually(|| dials().is_empty()));
}

#[test]
fn an_ordinary_user_can_front_a_server_too() {
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let there = Elsewhere::start(&[]);
    let rig = tempfile::Builder::new()
        .prefix("cofferdam-nobody-")
        .tempdir_in("/tmp")
        .unwrap();
    let copy = rig.path().join("cofferdam");
    std::fs::copy(crate::support::cofferdam(), &copy).unwrap();
    std::os::unix::fs::chown(rig.path(), Some(65534), Some(65534)).unwrap();
    let mut command = Command::new(&copy);
    command
        .args(["run", "--url", &there.url])
        .uid(65534)
        .gid(65534)
        .env_clear()
        .env("HOME", rig.path())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = spawn(&mut command);
    let mut stdin = child.stdin.take().unwrap();
    let line = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": modern("echo", json!({"text": "nobody"}))});
    writeln!(stdin, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut answer)
        .unwrap();
    assert_eq!(said(&serde_json::from_str(&answer).unwrap()), "nobody");
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_kill_switch_cuts_the_server_off() {
    let there = Elsewhere::start(&[]);
    let mut wire = front(&there.url, &[]);
    initialize(&mut wire);
    wire.begin("1", "hang", &json!({}));
    assert!(eventually(|| there.count("tools/call") == 1));
    let name = wire.mark.clone();
    let killed = wire.rig().command(&["kill", &name]).output().unwrap();
    assert!(killed.status.success());
    assert_eq!(wire.answer("1")["result"]["isError"], true);
    assert!(eventually(|| there.count("left") == 1));
    let answer = wire.call("2", "echo", &json!({"text": "x"}));
    assert_eq!(rule(&answer), "switch.server");
    let resumed = wire.rig().command(&["resume", &name]).output().unwrap();
    assert!(resumed.status.success());
    let mut id = 10;
    assert!(eventually(|| {
        id += 1;
        let answer = wire.call(&id.to_string(), "echo", &json!({"text": "back"}));
        rule(&answer).is_empty() && said(&answer) == "back"
    }));
    assert_eq!(wire.finish().code, 0);
}
