//! The session as its two peers see it: lines in, lines out, time by hand.

use super::{Outbox, Passage, Session};
use crate::audit::Log;
use crate::config::{Config, sample};
use crate::mcp::{OversizeId, RequestId};
use crate::policy::{Policy, scrub::Scrubber};
use crate::telemetry::Metrics;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) fn config(toml: &str) -> Config {
    let text = format!("[server]\nname = \"t\"\ncommand = [\"true\"]\n{toml}");
    sample(&text)
}

/// A session, and what has left it since the last look.
pub(super) struct Rig {
    pub(super) session: Session,
    pub(super) now: Instant,
    to_client: Vec<Value>,
    to_server: Vec<Value>,
}

impl Rig {
    pub(super) fn new(toml: &str) -> Self {
        let config = config(toml);
        let policy = Arc::new(Policy::new(&config, Scrubber::new(config.scrub, &[])));
        let audit = Log::open(None, "t", "p").unwrap();
        let session = Session::new(&config, policy, audit, Arc::new(Metrics::new().unwrap()));
        Self {
            session,
            now: Instant::now(),
            to_client: Vec::new(),
            to_server: Vec::new(),
        }
    }

    pub(super) fn client(&mut self, message: &Value) -> &mut Self {
        let line = message.to_string();
        let mut out = Outbox::default();
        match self
            .session
            .client_line(line.as_bytes(), self.now, &mut out)
        {
            Passage::Pass => self.to_server.push(message.clone()),
            Passage::Replace(line) => self.to_server.push(serde_json::from_slice(&line).unwrap()),
            Passage::Stop => {}
        }
        self.take(&out);
        self
    }

    pub(super) fn server(&mut self, message: &Value) -> &mut Self {
        let line = message.to_string();
        let mut out = Outbox::default();
        match self
            .session
            .server_line(line.as_bytes(), self.now, &mut out)
        {
            Passage::Pass => self.to_client.push(message.clone()),
            Passage::Replace(line) => self.to_client.push(serde_json::from_slice(&line).unwrap()),
            Passage::Stop => {}
        }
        self.take(&out);
        self
    }

    pub(super) fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        let mut out = Outbox::default();
        self.session.tick(self.now, &mut out);
        self.take(&out);
        self
    }

    pub(super) fn take(&mut self, out: &Outbox) {
        let lines = |bytes: &[u8]| -> Vec<Value> {
            assert!(bytes.is_empty() || bytes.ends_with(b"\n"));
            let lines = bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            lines
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect()
        };
        self.to_client.extend(lines(&out.to_client));
        self.to_server.extend(lines(&out.to_server));
    }

    pub(super) fn seen_by_client(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.to_client)
    }

    pub(super) fn seen_by_server(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.to_server)
    }
}

pub(super) fn request(id: impl Into<Value>, method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": {} })
}

pub(super) fn call(id: impl Into<Value>, tool: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": { "name": tool, "arguments": {} } })
}

pub(super) fn result(id: impl Into<Value>) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "result": { "content": [] } })
}

/// No schema checks, so that calls need no tool list.
const UNCHECKED: &str = "[schema]\narguments = \"off\"\n";

#[test]
fn only_the_first_answer_to_an_open_id_passes() {
    let mut rig = Rig::new(UNCHECKED);
    rig.client(&request(7, "ping"));
    rig.server(&result("7")).server(&result(8));
    assert_eq!(rig.seen_by_client(), [] as [Value; 0]);
    rig.server(&result(7)).server(&result(7));
    assert_eq!(rig.seen_by_client(), [result(7)]);
}

#[test]
fn an_open_id_is_not_used_twice() {
    let mut rig = Rig::new(UNCHECKED);
    rig.client(&request(1, "ping"))
        .client(&request(1, "prompts/list"));
    assert_eq!(rig.seen_by_server(), [request(1, "ping")]);
    let refused = rig.seen_by_client();
    assert_eq!(refused[0]["error"]["data"]["rule"], "protocol.duplicate-id");
    rig.server(&result(1)).client(&request(1, "prompts/list"));
    assert_eq!(rig.seen_by_server().len(), 1);
}

#[test]
fn a_line_that_is_too_large_does_not_answer_an_open_id() {
    let mut rig = Rig::new(UNCHECKED);
    rig.client(&call(1, "slow"));
    for id in [1, 2] {
        let mut out = Outbox::default();
        let skipped = OversizeId {
            raw: id.to_string().into_bytes().into(),
            key: RequestId::Number(id),
            request: true,
        };
        rig.session
            .oversize_from_client(Some(skipped), 5000, &mut out);
        rig.take(&out);
    }
    rig.server(&result(1));
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), &seen[0]["id"]), (2, &json!(2)), "{seen:?}");
    assert_eq!(seen[1], result(1));
}

#[test]
fn both_directions_may_use_the_same_id() {
    let mut rig = Rig::new(UNCHECKED);
    rig.client(&request(0, "ping"));
    let roots = request(0, "roots/list");
    rig.server(&roots);
    assert_eq!(rig.seen_by_client(), std::slice::from_ref(&roots));
    let answer = json!({ "jsonrpc": "2.0", "id": 0, "result": { "roots": [] } });
    rig.seen_by_server();
    rig.client(&answer).client(&answer);
    assert_eq!(
        rig.seen_by_server(),
        [answer],
        "the second answer has nobody to go to"
    );
    rig.server(&result(0));
    assert_eq!(rig.seen_by_client(), [result(0)]);
}

#[test]
fn a_rounded_id_is_restored() {
    let mut rig = Rig::new(UNCHECKED);
    let id = (1_u64 << 53) + 1;
    rig.client(&request(id, "ping"));
    rig.server(&result(1_u64 << 53));
    assert_eq!(rig.seen_by_client(), [result(id)]);
}

#[test]
fn an_answer_with_a_float_for_an_id_ends_its_request() {
    let mut rig = Rig::new(UNCHECKED);
    rig.client(&call(5, "sum")).server(&result(5.0));
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), &seen[0]["id"]), (1, &json!(5)), "{seen:?}");
    let rule = &seen[0]["result"]["_meta"]["dev.cofferdam/rule"];
    assert_eq!(rule, "server.malformed");
    // A request with one is nobody's.
    rig.client(&call(6, "sum")).client(&request(6.0, "ping"));
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), &seen[0]["id"]), (1, &Value::Null), "{seen:?}");
}

#[test]
fn silence_expires_progress_does_not_and_a_late_answer_is_dropped() {
    let mut rig = Rig::new(&format!(
        "[limits]\ntimeout = \"10s\"\ntimeout_total = \"25s\"\n{UNCHECKED}"
    ));
    let mut slow = call(1, "slow");
    slow["params"]["_meta"] = json!({ "progressToken": "p" });
    rig.client(&slow).client(&call(2, "silent"));
    let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress",
        "params": { "progressToken": "p", "progress": 1 } });
    rig.seen_by_server();
    rig.pass(Duration::from_secs(9))
        .server(&progress)
        .pass(Duration::from_secs(2));
    let seen = rig.seen_by_client();
    assert_eq!(seen[0], progress);
    assert_eq!(
        (&seen[1]["id"], &seen[1]["result"]["isError"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(seen.len(), 2);
    let cancelled = rig.seen_by_server();
    assert_eq!(cancelled[0]["params"]["requestId"], 2);
    rig.server(&result(2));
    assert_eq!(rig.seen_by_client(), [] as [Value; 0]);
    // The hard limit holds whatever progress says.
    rig.server(&progress)
        .pass(Duration::from_secs(9))
        .server(&progress)
        .pass(Duration::from_secs(6));
    let seen = rig.seen_by_client();
    assert_eq!(seen.last().unwrap()["id"], 1);
    assert_eq!(
        seen.last().unwrap()["result"]["_meta"]["dev.cofferdam/rule"],
        "limits.timeout"
    );
}

#[test]
fn a_person_who_is_asked_is_not_the_server_s_silence() {
    let mut rig = Rig::new(&format!("[limits]\ntimeout = \"10s\"\n{UNCHECKED}"));
    rig.client(&call(1, "ask"));
    rig.server(&request("q", "elicitation/create"));
    rig.seen_by_client();
    rig.pass(Duration::from_secs(60))
        .pass(Duration::from_secs(60));
    assert_eq!(rig.seen_by_client(), [] as [Value; 0]);
    rig.client(&json!({ "jsonrpc": "2.0", "id": "q", "result": { "action": "accept" } }));
    rig.pass(Duration::from_secs(11));
    assert_eq!(rig.seen_by_client().len(), 1);
}

#[test]
fn progress_that_nobody_asked_for_is_dropped() {
    let mut rig = Rig::new(UNCHECKED);
    rig.server(
        &json!({ "jsonrpc": "2.0", "method": "notifications/progress",
        "params": { "progressToken": 99, "progress": 1 } }),
    );
    assert_eq!(rig.seen_by_client(), [] as [Value; 0]);
}

#[test]
fn when_the_server_ends_each_open_request_is_answered_once() {
    let mut rig = Rig::new(UNCHECKED);
    rig.client(&call(1, "a"))
        .client(&request(2, "prompts/list"))
        .client(&call(3, "b"));
    rig.client(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 } }));
    let mut out = Outbox::default();
    rig.session
        .server_gone("signal 9 ended it", rig.now, &mut out);
    rig.session.server_gone("again", rig.now, &mut out);
    rig.take(&out);
    let seen = rig.seen_by_client();
    assert_eq!(
        seen.len(),
        2,
        "a cancelled request wants no answer: {seen:?}"
    );
    let text = seen[0]["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("outcome is unknown"), "{text}");
    assert_eq!(seen[1]["error"]["data"]["rule"], "server.gone");
}

#[test]
fn a_call_before_the_list_waits_for_our_own_and_is_checked() {
    let mut rig = Rig::new("");
    rig.client(&call(1, "sum")).client(&call(2, "sum"));
    let asked = rig.seen_by_server();
    assert_eq!(
        (asked.len(), &asked[0]["method"]),
        (1, &json!("tools/list"))
    );
    let ours = asked[0]["id"].clone();
    rig.client(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 2 } }));
    rig.seen_by_server();
    let schema =
        json!({ "type": "object", "properties": { "a": { "type": "number" } }, "required": ["a"] });
    rig.server(
        &json!({ "jsonrpc": "2.0", "id": ours, "result": { "tools": [], "nextCursor": "p2" } }),
    );
    let asked = rig.seen_by_server();
    assert_eq!(asked[0]["params"]["cursor"], "p2");
    rig.server(&json!({ "jsonrpc": "2.0", "id": asked[0]["id"], "result": { "tools": [{ "name": "sum", "inputSchema": schema }] } }));
    assert_eq!(
        rig.seen_by_server(),
        [] as [Value; 0],
        "a lacks, and 2 was cancelled"
    );
    let seen = rig.seen_by_client();
    assert_eq!((seen.len(), &seen[0]["id"]), (1, &json!(1)));
    assert_eq!(
        seen[0]["result"]["_meta"]["dev.cofferdam/rule"],
        "schema.arguments"
    );
    let mut good = call(3, "sum");
    good["params"]["arguments"] = json!({ "a": 1 });
    rig.client(&good);
    assert_eq!(rig.seen_by_server(), [good]);
}

#[test]
fn a_modern_call_gets_a_modern_list() {
    let mut rig = Rig::new("");
    let mut modern = call(1, "sum");
    modern["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": { "sampling": {} },
        "progressToken": 5,
    });
    rig.client(&modern);
    let asked = rig.seen_by_server();
    let meta = &asked[0]["params"]["_meta"];
    assert_eq!(
        meta["io.modelcontextprotocol/protocolVersion"],
        "2026-07-28"
    );
    assert_eq!(
        meta["io.modelcontextprotocol/clientCapabilities"],
        json!({ "sampling": {} })
    );
    assert!(meta.get("progressToken").is_none());
}

#[test]
fn a_server_that_cannot_list_or_is_slow_blocks_no_call() {
    for slow in [false, true] {
        let mut rig = Rig::new("");
        rig.client(&call(1, "sum"));
        let ours = rig.seen_by_server()[0]["id"].clone();
        if slow {
            rig.pass(Duration::from_secs(11));
        } else {
            rig.server(&json!({ "jsonrpc": "2.0", "id": ours, "error": { "code": -32601, "message": "no" } }));
        }
        assert_eq!(rig.seen_by_server(), [call(1, "sum")]);
        rig.server(&json!({ "jsonrpc": "2.0", "id": ours, "result": { "tools": [] } }));
        assert_eq!(
            rig.seen_by_client(),
            [] as [Value; 0],
            "our own answer is nobody else's"
        );
    }
}

#[test]
fn a_broken_answer_is_answered_and_noise_is_kept_out() {
    let mut rig = Rig::new(UNCHECKED);
    rig.client(&call(1, "nan"));
    for line in [
        "Server listening…",
        "",
        "[]",
        r#"{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}"#,
    ] {
        let mut out = Outbox::default();
        let passage = rig.session.server_line(line.as_bytes(), rig.now, &mut out);
        assert!(matches!(passage, Passage::Stop), "{line}");
        rig.take(&out);
    }
    let seen = rig.seen_by_client();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        seen[0]["result"]["_meta"]["dev.cofferdam/rule"],
        "server.malformed"
    );
}

#[test]
fn a_listen_stream_never_expires() {
    let mut rig = Rig::new("");
    let mut listen = request("listen:0", "subscriptions/listen");
    listen["params"] = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28" }, "notifications": {} });
    rig.client(&listen);
    assert_eq!(rig.session.next_due(), None);
    rig.pass(Duration::from_secs(1_000_000));
    assert_eq!(rig.seen_by_client(), [] as [Value; 0]);
}

#[test]
fn a_call_with_a_credential_is_filled_in_again_for_the_next_server() {
    let toml = "[credentials.c]\nfile = \"/x\"\ninject = { argument = \"/token\", tools = [\"t\"] }\n\
                [schema]\narguments = \"off\"\n[tools.t]\nidempotent = true\n";
    let config = config(toml);
    let policy = |value: &str| {
        let values = [crate::secret::Secret::new("c", value.as_bytes().to_vec())];
        let policy = Policy::new(&config, Scrubber::new(config.scrub, &values));
        Arc::new(policy.with_values(&config, &values))
    };
    let mut rig = Rig::new(toml);
    rig.session.adopt(policy("first-value"));
    let call = |id: u32| json!({"jsonrpc":"2.0","id":id,"method":"tools/call","params":{"name":"t","arguments":{"n":id}}});
    rig.client(&call(1)).client(&call(2));
    let token = |message: &Value| message["params"]["arguments"]["token"].clone();
    assert_eq!(token(&rig.to_server[1]), "first-value");
    // The second has not been read, and lies there with the old value in it.
    let unsent = format!("{}\n", rig.to_server[1]);
    rig.to_server.clear();
    // Nobody is asked more than twice; the second had not been asked at all.
    for (round, expected) in [vec![1, 2], vec![2], vec![]].into_iter().enumerate() {
        let mut out = Outbox::default();
        let unsent = if round == 0 { unsent.as_bytes() } else { b"" };
        rig.session.server_lost("x", unsent, rig.now, &mut out);
        rig.session.adopt(policy("second-value"));
        rig.session.server_back(rig.now, &mut out);
        rig.take(&out);
        let ids: Vec<u64> = rig
            .to_server
            .iter()
            .filter_map(|it| it["id"].as_u64())
            .collect();
        assert_eq!(ids, expected);
        assert!(rig.to_server.iter().all(|it| token(it) == "second-value"));
        rig.to_server.clear();
    }
}

#[test]
fn what_has_not_left_goes_out_with_the_value_in_force() {
    let toml = "[credentials.c]\nfile = \"/x\"\ninject = { argument = \"/token\", tools = [\"t\"] }\n\
                [schema]\narguments = \"off\"\n";
    let config = config(toml);
    let policy = |values: &[crate::secret::Secret]| {
        let policy = Policy::new(&config, Scrubber::new(config.scrub, values));
        Arc::new(policy.with_values(&config, values))
    };
    let value = |text: &str| [crate::secret::Secret::new("c", text.as_bytes().to_vec())];
    let mut rig = Rig::new(toml);
    rig.session.adopt(policy(&value("first-value")));
    let call = |id: u32, tool: &str| json!({"jsonrpc":"2.0","id":id,"method":"tools/call","params":{"name":tool,"arguments":{"n":id}}});
    rig.client(&call(1, "t"))
        .client(&call(2, "u"))
        .client(&call(3, "t"))
        .client(
            &json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}),
        );
    let unsent: String = rig.to_server.iter().map(|it| format!("{it}\n")).collect();
    assert_eq!(unsent.matches("first-value").count(), 2);
    let sent = |rig: &mut Rig, unsent: &str| {
        let mut out = Outbox::default();
        rig.session.refill(unsent.as_bytes(), rig.now, &mut out);
        let sent = String::from_utf8(out.to_server.clone()).unwrap();
        rig.take(&out);
        sent
    };
    rig.session.adopt(policy(&value("second-value")));
    assert!(rig.session.has_filled());
    let again = sent(&mut rig, &unsent);
    let expected: Vec<&str> = unsent
        .lines()
        .filter(|it| !it.contains("\"id\":3"))
        .collect();
    let expected = expected.join("\n") + "\n";
    assert_eq!(again, expected.replace("first-value", "second-value"));
    // Where there is none any more the call is not made, and its client is told.
    rig.session.adopt(policy(&[]));
    let again = sent(&mut rig, &again);
    assert!(
        !again.contains("value") && again.contains("\"u\""),
        "{again}"
    );
    let seen = rig.seen_by_client();
    assert_eq!(seen[0]["id"], 1);
    assert_eq!(
        seen[0]["result"]["_meta"]["dev.cofferdam/rule"],
        "credentials.missing"
    );
}

#[test]
fn what_has_expired_keeps_no_earlier_policy() {
    let toml = "[limits]\ntimeout = \"1s\"\n";
    let mut rig = Rig::new(toml);
    let config = config(toml);
    let renew = |rig: &mut Rig| {
        let policy = Arc::new(Policy::new(&config, Scrubber::new(config.scrub, &[])));
        rig.session.renew(&config, policy);
        rig.session.earlier.len()
    };
    rig.client(&json!({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}));
    assert_eq!(renew(&mut rig), 1, "what is open is answered under its own");
    rig.pass(Duration::from_secs(2));
    for _ in 0..10 {
        assert_eq!(renew(&mut rig), 0);
    }
}
