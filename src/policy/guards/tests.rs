//! The guards as a session sees them: requests and answers in, time by hand.

use super::*;
use crate::config::sample;
use crate::mcp::Direction;
use crate::policy::Shape;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

const SECOND: u64 = 1_000_000;

fn config(toml: &str) -> Config {
    let text = format!("{toml}\n[server]\nname = \"t\"\ncommand = [\"true\"]\n");
    sample(&text)
}

struct Rig {
    guards: Guards,
    now: u64,
    session: u64,
}

impl Rig {
    fn new(toml: &str) -> Self {
        Self {
            guards: Guards::new(&config(toml)),
            now: 0,
            session: 1,
        }
    }

    fn subject(method: &str, name: &str) -> Subject {
        Subject {
            capability: Capability::of(method),
            method: method.to_owned().into(),
            name: Some(name.into()),
        }
    }

    fn ask(&mut self, tool: &str, arguments: &Value) -> Ruling {
        self.request(&Self::subject("tools/call", tool), arguments)
    }

    fn request(&mut self, subject: &Subject, arguments: &Value) -> Ruling {
        let arguments = arguments.to_string();
        let asking = Asking {
            subject,
            arguments: Some(arguments.as_bytes()),
            party: Party {
                session: self.session,
                client: None,
            },
            client: None,
        };
        self.guards.admit(&asking, self.now)
    }

    /// A call that is answered with `result`: what its client gets, or the refusal.
    fn call(&mut self, tool: &str, arguments: &Value, result: &Value) -> Result<Value, Refusal> {
        let mut pass = match self.ask(tool, arguments) {
            Ruling::Pass(pass) => pass,
            Ruling::Refuse(refusal) => return Err(*refusal),
            Ruling::Answer(result) => return Ok(serde_json::from_slice(&result).unwrap()),
        };
        let line = json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string();
        let subject = Self::subject("tools/call", tool);
        let weight = self
            .guards
            .weigh(&pass, &subject, line.as_bytes(), self.now);
        self.guards.finish(&mut pass, Ending::Success, self.now);
        match weight {
            Weight::AsItIs => Ok(result.clone()),
            Weight::Refuse(refusal) => Err(*refusal),
            Weight::Cut(line) => {
                parse(&line, Direction::ToClient).unwrap();
                let line: Value = serde_json::from_slice(&line).unwrap();
                Ok(line["result"].clone())
            }
        }
    }

    /// A call that ends like this.
    fn end(&mut self, tool: &str, ending: Ending) {
        match self.ask(tool, &json!({})) {
            Ruling::Pass(mut pass) => self.guards.finish(&mut pass, ending, self.now),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&mut self, tool: &str) -> Option<(&'static str, Option<u64>)> {
        match self.ask(tool, &json!({})) {
            Ruling::Refuse(refusal) => Some((refusal.rule, refusal.retry_after_seconds())),
            _ => None,
        }
    }
}

fn said(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

#[test]
fn nothing_is_guarded_unless_somebody_says_so() {
    assert!(!Guards::wanted(&config("")));
    for toml in [
        "[breaker]",
        "[repeats]",
        "[budget.session]\ncalls = 1",
        "[budget]\nclient = { tokens = 1000 }",
        "[tools.a.budget]\nbytes = \"1KiB\"",
        "[limits]\nresult_tokens = 1000",
        "[tools.'*']\nresult = \"64KiB\"",
        "[tools.a]\neffect = \"read\"\ncached = \"1m\"",
    ] {
        assert!(Guards::wanted(&config(toml)), "{toml}");
    }
}

#[test]
fn a_tool_that_fails_is_left_alone_and_the_others_are_not() {
    let mut rig = Rig::new("[breaker]\ncalls = 3\npause = \"10s\"\n[tools.flaky]\nbreaker = false");
    for _ in 0..3 {
        rig.end("broken", Ending::Fault);
        rig.end("flaky", Ending::Fault);
    }
    assert_eq!(rig.refusal("broken"), Some(("limits.breaker", Some(10))));
    assert_eq!(rig.refusal("other"), None);
    assert_eq!(rig.refusal("flaky"), None, "failures of it stop nothing");
    let open = rig.guards.open_circuits(0);
    let wait = Some(Duration::from_secs(10));
    assert_eq!(open, [(Some("broken".to_owned()), Circuit::Open, wait)]);
    rig.now = 10 * SECOND;
    rig.end("broken", Ending::Success);
    assert_eq!(rig.refusal("broken"), None);
    assert_eq!(rig.guards.open_circuits(0), []);
    let moves: Vec<Circuit> = rig
        .guards
        .take_news()
        .into_iter()
        .filter_map(|news| match news {
            News::Breaker { circuit, .. } => Some(circuit),
            _ => None,
        })
        .collect();
    assert_eq!(moves, [Circuit::Open, Circuit::HalfOpen, Circuit::Closed]);
}

#[test]
fn a_server_that_is_lost_again_and_again_is_left_alone_as_a_whole() {
    let mut rig = Rig::new("[breaker]\ncalls = 4\npause = \"10s\"");
    for tool in ["a", "b", "c", "d"] {
        rig.end(tool, Ending::Lost);
    }
    assert_eq!(rig.refusal("e"), Some(("limits.breaker", Some(10))));
    let read = Rig::subject("resources/read", "file:///a");
    match rig.request(&read, &json!({})) {
        Ruling::Refuse(refusal) => {
            assert_eq!(refusal.shape, Shape::Error(5030));
            assert!(
                refusal.text.starts_with("The server has failed"),
                "{}",
                refusal.text
            );
        }
        other => panic!("{other:?}"),
    }
    for method in ["tools/list", "initialize", "ping", "resources/list"] {
        assert!(!Guards::concerns(&Rig::subject(method, "")), "{method}");
    }
}

#[test]
fn a_probe_of_the_server_is_not_used_up_by_a_tool_that_may_not_be_called() {
    let mut rig = Rig::new("[breaker]\ncalls = 2\npause = \"10s\"");
    for _ in 0..2 {
        rig.end("broken", Ending::Lost);
    }
    rig.now = 10 * SECOND;
    // The tool is open as well; its probe fails, and so both are open again.
    rig.end("broken", Ending::Lost);
    rig.now = 20 * SECOND;
    rig.end("fine", Ending::Success);
    assert_eq!(rig.refusal("fine"), None, "the server is closed again");
    assert_eq!(rig.refusal("broken"), None, "its own probe");
    for _ in 0..5 {
        assert_eq!(rig.refusal("broken"), Some(("limits.breaker", Some(1))));
    }
    assert_eq!(rig.refusal("fine"), None);
}

#[test]
fn a_flood_of_names_does_not_grow_the_table() {
    let mut rig = Rig::new("[breaker]");
    for n in 0..5000 {
        rig.end(&format!("t{n}"), Ending::Success);
    }
    assert!(rig.guards.tools.len() <= TOOLS + 1);
}

#[test]
fn a_model_in_a_loop_is_told_to_stop() {
    let toml = "[repeats]\ncalls = 3\nwindow = \"60s\"\n[tools.poll]\nrepeats = false";
    let mut rig = Rig::new(toml);
    let arguments = json!({ "a": 1, "b": 2 });
    for _ in 0..3 {
        rig.call("t", &arguments, &said("x")).unwrap();
        rig.call("poll", &arguments, &said("x")).unwrap();
    }
    let other_spelling: Value = serde_json::from_str(r#"{ "b": 2.0, "a": 1 }"#).unwrap();
    let refused = rig.call("t", &other_spelling, &said("x")).unwrap_err();
    assert_eq!(refused.rule, "limits.repeats");
    assert_eq!(refused.shape, Shape::ToolResult);
    assert!(refused.text.contains("3 times") && refused.text.contains("Stop repeating it"));
    rig.call("poll", &arguments, &said("x")).unwrap();
    rig.call("t", &json!({ "a": 2 }), &said("x")).unwrap();
    rig.session = 2;
    rig.call("t", &arguments, &said("x")).unwrap();
    rig.session = 1;
    rig.now = 60 * SECOND;
    rig.call("t", &arguments, &said("x")).unwrap();
}

#[test]
fn a_loop_can_be_told_to_the_operator_alone() {
    let mut rig = Rig::new("[repeats]\ncalls = 2\naction = \"warn\"");
    for _ in 0..3 {
        rig.call("t", &json!({}), &said("x")).unwrap();
    }
    let again = News::Again {
        tool: "t".into(),
        times: 2,
    };
    assert_eq!(rig.guards.take_news(), [again]);
}

#[test]
fn what_is_used_up_is_used_up() {
    let mut rig =
        Rig::new("[budget.session]\ncalls = 2\n[tools.t.budget]\ntokens = 300\nper = \"1h\"");
    rig.call("t", &json!({}), &said(&"word ".repeat(200)))
        .unwrap();
    rig.call("u", &json!({}), &said("x")).unwrap();
    let refused = rig.call("u", &json!({}), &said("x")).unwrap_err();
    assert_eq!(
        (refused.rule, refused.retry_after_ms),
        ("limits.budget-calls", None)
    );
    assert!(refused.text.contains("of this session"), "{}", refused.text);
    rig.session = 2;
    rig.call("t", &json!({}), &said(&"word ".repeat(1000)))
        .unwrap_err();
    // Other spellings draw on the same budget, and arguments count.
    let long = json!({ "text": "word ".repeat(100) });
    rig.call("T", &long, &said("x")).unwrap_err();
    rig.session = 3;
    let refused = rig.call("t", &json!({}), &said("x")).unwrap_err();
    assert_eq!(refused.rule, "limits.budget-tokens");
    assert_eq!(refused.retry_after_seconds(), Some(3600));
    rig.now = 3600 * SECOND;
    rig.call("t", &json!({}), &said("x")).unwrap();
}

#[test]
fn a_result_is_cut_to_what_is_left_and_json_is_refused() {
    let mut rig = Rig::new("[budget.client]\nbytes = \"4KiB\"");
    let text: String = (0..200).map(|n| format!("row {n}\n")).collect();
    rig.call("t", &json!({}), &said(&text)).unwrap();
    rig.call("t", &json!({}), &said(&text)).unwrap();
    let rows = json!((0..400).collect::<Vec<_>>()).to_string();
    let refused = rig.call("t", &json!({}), &said(&rows)).unwrap_err();
    assert_eq!(refused.rule, "limits.result");
    assert!(
        refused.text.contains("more than is left"),
        "{}",
        refused.text
    );
    let cut = rig.call("t", &json!({}), &said(&text)).unwrap();
    let shown = cut["content"][0]["text"].as_str().unwrap();
    assert!(shown.contains("[cut here: "), "{shown}");
    assert!(cut.to_string().len() < 1200, "{}", cut.to_string().len());
    let news = rig.guards.take_news();
    assert!(
        news.iter().any(|news| matches!(news, News::Cut { .. })),
        "{news:?}"
    );
}

#[test]
fn a_result_has_a_size_of_its_own() {
    let toml = "[limits]\nresult_tokens = 300\n[tools.big]\nresult_tokens = 100000\n[tools.strict]\noverlong = \"refuse\"";
    let mut rig = Rig::new(toml);
    let long = said(&"some words\n".repeat(400));
    assert_eq!(rig.call("big", &json!({}), &long).unwrap(), long);
    assert_ne!(rig.call("t", &json!({}), &long).unwrap(), long);
    let refused = rig.call("strict", &json!({}), &long).unwrap_err();
    assert!(
        refused.text.contains("more than a result may have"),
        "{}",
        refused.text
    );
    assert!(
        !refused.text.contains("result_tokens"),
        "no setting is told to a model"
    );
    let short = said("short");
    assert_eq!(rig.call("t", &json!({}), &short).unwrap(), short);
}

#[test]
fn an_open_breaker_gives_the_last_good_answer_of_a_tool_that_reads() {
    let toml = "[breaker]\ncalls = 2\n[tools.read]\neffect = \"read\"\ncached = \"10s\"\n[tools.write]\nalternative = \"draft\"";
    let mut rig = Rig::new(toml);
    rig.call("read", &json!({ "a": 1 }), &said("good")).unwrap();
    for tool in ["read", "write", "write"] {
        rig.end(tool, Ending::Fault);
    }
    let again = rig.call("read", &json!({ "a": 1 }), &said("never asked"));
    let again = again.unwrap();
    assert_eq!(again["content"][1]["text"], "good");
    assert_eq!(again["_meta"]["dev.cofferdam/cached"]["ageSeconds"], 0);
    let refused = rig
        .call("read", &json!({ "a": 2 }), &said("x"))
        .unwrap_err();
    assert_eq!(refused.rule, "limits.breaker");
    let refused = rig.call("write", &json!({}), &said("x")).unwrap_err();
    assert!(
        refused.text.contains("meanwhile `draft`"),
        "{}",
        refused.text
    );
    rig.session = 2;
    rig.call("read", &json!({ "a": 1 }), &said("x"))
        .unwrap_err();
    rig.session = 1;
    rig.now = 11 * SECOND;
    rig.call("read", &json!({ "a": 1 }), &said("x"))
        .unwrap_err();
    rig.now = 0;
    rig.guards.forget_answers();
    rig.call("read", &json!({ "a": 1 }), &said("x"))
        .unwrap_err();
}

#[test]
fn a_rush_is_told() {
    let mut rig = Rig::new("[budget.session]\nalert = 1000");
    rig.call("t", &json!({}), &said(&"abcd".repeat(1500)))
        .unwrap();
    rig.call("t", &json!({}), &said(&"abcd".repeat(1500)))
        .unwrap();
    let alerts = rig.guards.take_news().into_iter();
    let alerts = alerts.filter(|news| matches!(news, News::Alert(_)));
    assert_eq!(alerts.count(), 1);
}
