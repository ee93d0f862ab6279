//! The engine as a whole: deadlines, digest, and the tool list over time. Verdicts are in the corpus.

use super::*;
use crate::config::sample;

fn policy(toml: &str) -> Policy {
    let text = format!("{toml}\n[server]\nname = \"t\"\ncommand = [\"/bin/true\"]\n");
    let config = sample(&text);
    Policy::new(&config, Scrubber::new(config.scrub, &[]))
}

fn subject(method: &str, name: Option<&str>) -> Subject {
    Subject {
        capability: Capability::of(method),
        method: method.to_owned().into(),
        name: name.map(Into::into),
    }
}

#[test]
fn deadlines_are_those_of_the_tool_or_of_all() {
    let policy = policy(
        "[limits]\ntimeout = \"10s\"\ntimeout_total = \"60s\"\n[tools.slow]\ntimeout = \"30s\"\n[tools.\"quick_*\"]\ntimeout = \"1s\"\ntimeout_total = \"2s\"\n",
    );
    let seconds = |method, name| {
        let Deadlines { idle, hard } = policy.deadlines(&subject(method, name)).unwrap();
        (idle.as_secs(), hard.as_secs())
    };
    assert_eq!(seconds("tools/call", Some("other")), (10, 60));
    assert_eq!(seconds("tools/call", Some("slow")), (30, 60));
    assert_eq!(seconds("tools/call", Some("quick_one")), (1, 2));
    assert_eq!(seconds("resources/read", Some("slow")), (10, 60));
    assert_eq!(seconds("tasks/result", None), (60, 60));
    let listen = policy.deadlines(&subject("subscriptions/listen", None));
    assert_eq!(listen, None);
}

#[test]
fn the_digest_follows_what_decides_and_nothing_else() {
    let one = policy("[methods]\ndeny = [\"b\", \"a\"]\n");
    assert_eq!(one.digest().len(), 64);
    assert_eq!(
        one.digest(),
        policy("[methods]\ndeny = [\"a\", \"b\"]\n").digest()
    );
    assert_eq!(
        one.digest(),
        policy("[methods]\ndeny = [\"a\", \"b\"]\n[cell]\nwrite = [\"/tmp\"]\n").digest()
    );
    for other in [
        "",
        "[methods]\ndeny = [\"a\"]\n",
        "[methods]\nallow = [\"a\", \"b\"]\n",
        "[prompts]\ndeny = [\"a\", \"b\"]\n",
        "[methods]\ndeny = [\"a\", \"b\"]\n[tools.x]\nallow = false\n",
        "[methods]\ndeny = [\"a\", \"b\"]\n[scrub]\nsecrets = \"flag\"\n",
        "[methods]\ndeny = [\"a\", \"b\"]\n[schema]\noutput = \"off\"\n",
        "[methods]\ndeny = [\"a\", \"b\"]\n[limits]\nrequest = \"2MiB\"\n",
    ] {
        assert_ne!(one.digest(), policy(other).digest(), "{other}");
    }
}

#[test]
fn a_changed_list_is_asked_for_again() {
    let policy = policy("[scrub]\nsecrets = \"off\"\n");
    let mut tools = ToolBook::default();
    tools.learn(br#"{"tools":[{"name":"a"}]}"#, true);
    let line = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
    let call = crate::mcp::parse(line, crate::mcp::Direction::ToServer).expect("a call");
    let subject = Subject::of(&call);
    let decide = |tools: &mut ToolBook| {
        policy
            .client(&call, subject.as_ref(), Era::Legacy, tools, None)
            .verdict
    };
    assert!(matches!(decide(&mut tools), Verdict::Forward));
    let line = br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let notice = crate::mcp::parse(line, crate::mcp::Direction::ToClient).expect("a notice");
    assert!(matches!(
        policy.server(&notice, None, &mut tools, None).verdict,
        Verdict::Forward
    ));
    assert!(matches!(decide(&mut tools), Verdict::NeedTools));
    // The client lists, as clients do after that notice; its answer teaches the book.
    let line = br#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"a"}]}}"#;
    let list = crate::mcp::parse(line, crate::mcp::Direction::ToClient).expect("a list");
    let origin = Origin {
        subject: Subject {
            capability: Capability::Method,
            method: "tools/list".into(),
            name: None,
        },
        era: Era::Legacy,
        caller: None,
    };
    assert!(matches!(
        policy
            .server(&list, Some(&origin), &mut tools, None)
            .verdict,
        Verdict::Forward
    ));
    assert!(matches!(decide(&mut tools), Verdict::Forward));
}

#[test]
fn a_withheld_answer_of_a_tool_says_that_it_ran() {
    let policy = policy("[scrub]\nsecrets = \"refuse\"\n");
    let line =
        br#"{"jsonrpc":"2.0","id":1,"result":{"a":"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"}}"#;
    let answer = crate::mcp::parse(line, crate::mcp::Direction::ToClient).expect("an answer");
    for (method, ran) in [("tools/call", true), ("resources/read", false)] {
        let origin = Origin {
            subject: subject(method, Some("a")),
            era: Era::Legacy,
            caller: None,
        };
        let decision = policy.server(&answer, Some(&origin), &mut ToolBook::default(), None);
        let Verdict::Refuse(refusal) = decision.verdict else {
            panic!("{decision:?}")
        };
        let says = refusal.text.contains("The tool did run");
        assert_eq!(says, ran, "{}", refusal.text);
    }
}
