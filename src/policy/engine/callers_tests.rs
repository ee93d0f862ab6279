//! Callers as they see each other: not at all.

use super::*;
use crate::config::sample;
use crate::identity::How;
use crate::mcp::{Direction, Envelope, Era, parse};
use crate::policy::{Decision, Verdict, scrub::Scrubber};
use proptest::prelude::*;

fn policy(rules: &str) -> Policy {
    let text = format!(
        "{rules}\n[server]\nname = \"t\"\ncommand = [\"/bin/true\"]\n[listen]\nhttp = \"127.0.0.1:1\"\n[identity]\nkeys = \"k\"\n"
    );
    let config = sample(&text);
    Policy::new(&config, Scrubber::new(config.scrub, &[]))
}

fn caller(client: &str, scopes: &[&str]) -> Caller {
    Caller {
        client: client.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        how: How::Jwt,
        ..Caller::loopback()
    }
}

fn call(name: &str) -> String {
    let call = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": name, "arguments": {} },
    });
    call.to_string()
}

fn proved(line: &str) -> Envelope<'_> {
    parse(line.as_bytes(), Direction::ToServer).unwrap()
}

fn decide(policy: &Policy, line: &str, tools: &mut ToolBook, caller: &Caller) -> Decision {
    let envelope = proved(line);
    let subject = Subject::of(&envelope);
    policy.client(
        &envelope,
        subject.as_ref(),
        Era::Legacy,
        tools,
        Some(caller),
    )
}

fn refusal(decision: Decision) -> Refusal {
    match decision.verdict {
        Verdict::Refuse(refusal) => *refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_hidden_reads_like_what_never_was() {
    let policy = policy("[clients.ci]\ntools = [\"read_*\"]\n");
    let ci = caller("ci", &[]);
    let mut tools = ToolBook::default();
    for name in ["delete_repo", "nothing_at_all"] {
        let decision = decide(&policy, &call(name), &mut tools, &ci);
        assert!(matches!(decision.verdict, Verdict::NeedTools), "{name}");
    }
    tools.learn(
        br#"{"tools":[{"name":"delete_repo"},{"name":"read_repo"}]}"#,
        true,
    );
    let mut answer = |name: &str| {
        let refused = refusal(decide(&policy, &call(name), &mut tools, &ci));
        assert!(refused.concealed);
        (
            refused.shape,
            refused.text.replace(name, "NAME"),
            refused.retry_after_ms,
            refused.scopes,
        )
    };
    let hidden = answer("delete_repo");
    assert_eq!(hidden, answer("nothing_at_all"));
    assert_eq!(hidden.1, "Unknown tool: NAME");
    assert_eq!(hidden, answer("read_nothing"));
    assert_eq!(hidden, answer(&"x".repeat(200)));
}

#[test]
fn all_scopes_of_a_request_are_named_at_once() {
    let policy = policy(
        "[tools.create]\nscopes = [\"b\", \"a\"]\n[tools.\"cre*\"]\nscopes = [\"c\"]\n[tools.\"*\"]\nscopes = [\"d\"]\n\
         [resources]\nscopes = { \"file:///*\" = [\"files\"], \"file:///etc/*\" = [\"root\"] }\n",
    );
    let missing = |line: &str, caller: &Caller| {
        let envelope = proved(line);
        let subject = Subject::of(&envelope).unwrap();
        let params = match &envelope.kind {
            crate::mcp::Kind::Request { params, .. } => *params,
            _ => None,
        };
        let refusal = policy.missing_scopes(&subject, params, caller)?;
        Some(refusal.scopes)
    };
    let needs = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let nobody = caller("x", &[]);
    assert_eq!(missing(&call("create"), &nobody), needs(&["a", "b"]));
    assert_eq!(
        missing(&call("create"), &caller("x", &["a"])),
        needs(&["a", "b"])
    );
    assert_eq!(missing(&call("create"), &caller("x", &["a", "b"])), None);
    assert_eq!(missing(&call("CREATE"), &nobody), needs(&["a", "b"]));
    assert_eq!(missing(&call("creep"), &nobody), needs(&["c"]));
    assert_eq!(missing(&call("other"), &nobody), needs(&["d"]));
    let nameless = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#;
    assert_eq!(missing(nameless, &nobody), needs(&["a", "b", "c", "d"]));
    let read = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///srv/../etc/x"}}"#;
    assert_eq!(missing(read, &nobody), needs(&["files", "root"]));
}

#[test]
fn a_scope_is_no_way_around_what_a_client_may_reach() {
    let policy = policy(
        "[clients.ci]\ntools = [\"read\"]\n[tools.write]\nscopes = [\"w\"]\n[tools.read]\nscopes = [\"r\"]\n",
    );
    let mut tools = ToolBook::default();
    tools.learn(br#"{"tools":[{"name":"read"},{"name":"write"}]}"#, true);
    let ci = caller("ci", &["w"]);
    // Nothing tells that the hidden tool needs a scope.
    assert!(refusal(decide(&policy, &call("write"), &mut tools, &ci)).concealed);
    let lacking = refusal(decide(&policy, &call("read"), &mut tools, &ci));
    assert_eq!(
        (lacking.concealed, lacking.scopes),
        (false, vec!["r".to_owned()])
    );
}

#[test]
fn the_digest_follows_who_may_do_what() {
    let plain = policy("");
    for rules in [
        "[clients.ci]\ntools = [\"a\"]\n",
        "[clients.ci]\nread_only = true\n",
        "[clients.ci]\nblocked = true\n",
        "[groups.g]\ntools = [\"a\"]\n",
        "[tools.a]\nscopes = [\"a\"]\n",
        "[tools.a]\neffect = \"read\"\n",
        "[resources]\nscopes = { \"a\" = [\"b\"] }\n",
        "[limits]\nrate = \"1/s\"\n",
        "[clients.ci]\nquota = 7\n",
    ] {
        assert_ne!(plain.digest(), policy(rules).digest(), "{rules}");
    }
}

proptest! {
    #[test]
    fn no_spelling_of_a_tool_is_free_of_its_scope(upper in any::<u16>(), at in 0_usize..11, odd in "[\u{200b}\u{ad} ]?") {
        let policy = policy("[tools.delete_repo]\nscopes = [\"w\"]\n");
        let mut name: String = "delete_repo"
            .chars()
            .enumerate()
            .map(|(at, c)| if upper >> at & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        if !odd.starts_with(' ') {
            name.insert_str(at, &odd);
        } else {
            name.push_str(&odd);
        }
        let line = call(&name);
        let decision = decide(&policy, &line, &mut ToolBook::default(), &caller("x", &[]));
        prop_assert_eq!(decision.rule, Some(SCOPES_MISSING));
    }

    #[test]
    fn what_is_listed_can_be_called_and_the_rest_cannot(
        granted in proptest::collection::vec("[ab*]{1,3}", 0..3),
        read_only in any::<bool>(),
        readers in proptest::collection::vec("[ab]{1,2}", 0..3),
        names in proptest::collection::btree_set("[ab]{1,2}", 1..5),
    ) {
        let mut rules = format!("[clients.ci]\nread_only = {read_only}\ntools = {:?}\n", {
            let mut granted = granted.clone();
            granted.sort();
            granted.dedup();
            granted
        });
        let readers: std::collections::BTreeSet<_> = readers.into_iter().collect();
        for name in &readers {
            rules.push_str(&format!("[tools.{name}]\neffect = \"read\"\n"));
        }
        let policy = policy(&rules);
        let ci = caller("ci", &[]);
        let list = serde_json::json!({ "tools": names.iter().map(|name| serde_json::json!({ "name": name })).collect::<Vec<_>>() });
        let mut tools = ToolBook::default();
        tools.learn(list.to_string().as_bytes(), true);
        let line = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": list }).to_string();
        let envelope = parse(line.as_bytes(), Direction::ToClient).unwrap();
        let origin = crate::policy::Origin {
            subject: Subject { capability: Capability::Method, method: "tools/list".into(), name: None },
            era: Era::Legacy,
            caller: None,
        };
        let shown = match policy.server(&envelope, Some(&origin), &mut tools, Some(&ci)).verdict {
            Verdict::Forward => line.clone(),
            Verdict::Rewrite(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        for name in &names {
            let listed = shown.contains(&format!("{{\"name\":\"{name}\"}}"));
            let called = matches!(decide(&policy, &call(name), &mut tools, &ci).verdict, Verdict::Forward);
            prop_assert_eq!(listed, called, "{}", name);
            prop_assert!(!called || !read_only || readers.contains(name));
        }
    }
}
