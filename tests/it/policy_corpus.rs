//! `tests/corpus/policy.jsonl`: message in, verdict and rule out. Each line is a test and an example.
//!
//! Fields of a row: `name` says what it shows; `config` is TOML; `listed` are tools that the server has
//! listed (`unlistable`: it cannot); `caller` is who asks over the network (`client`, `scopes`, `groups`);
//! `era` is `modern` or absent; `from` is the sender; `answers` is the
//! request that a result answers; `message` is the line. Then what must come out: `verdict`, `rule`,
//! `shape` of a refusal (`tool_result` or an error code), `out` (the line that goes on instead), and
//! `notes` (rules that warned; `redacted` for a count).

use crate::support;
use cofferdam::config::Config;
use cofferdam::identity::{Caller, How};
use cofferdam::mcp::{Capability, Direction, Envelope, Era, Subject, parse};
use cofferdam::policy::scrub::Scrubber;
use cofferdam::policy::{Decision, Note, Origin, Policy, RULES, Refusal, Shape, ToolBook, Verdict};
use cofferdam::secret::Secret;
use serde_json::Value;
use std::collections::BTreeSet;

const CORPUS: &str = include_str!("../corpus/policy.jsonl");

/// A configuration from the same text that a user would write.
pub(crate) fn config(toml: &str) -> Config {
    let text = format!("{toml}\n[server]\nname = \"corpus\"\ncommand = [\"/bin/true\"]\n");
    support::config(&text)
}

pub(crate) fn policy(toml: &str) -> Policy {
    let config = config(toml);
    // Each credential but `absent` has one.
    let named = config.credentials.iter().map(|it| it.name.clone());
    let values: Vec<Secret> = named
        .filter(|name| name != "absent")
        .map(|name| Secret::new(&*name, format!("corpus-{name}").into_bytes()))
        .collect();
    Policy::new(&config, Scrubber::new(config.scrub, &[])).with_values(&config, &values)
}

pub(crate) fn origin(method: &str, name: Option<&str>, era: Era) -> Origin {
    Origin {
        subject: Subject {
            capability: Capability::of(method),
            method: method.to_owned().into(),
            name: name.map(Into::into),
        },
        era,
        caller: None,
    }
}

pub(crate) fn proved(line: &str, direction: Direction) -> Envelope<'_> {
    parse(line.as_bytes(), direction).unwrap_or_else(|fault| panic!("{fault:?}: {line}"))
}

struct Outcome {
    verdict: &'static str,
    shape: Value,
    out: Option<String>,
    refusal: Option<Refusal>,
}

impl Outcome {
    fn of(decision: &Decision) -> Self {
        let plain = |verdict| Self {
            verdict,
            shape: Value::Null,
            out: None,
            refusal: None,
        };
        match &decision.verdict {
            Verdict::Forward => plain("forward"),
            Verdict::Drop => plain("drop"),
            Verdict::NeedTools => plain("need_tools"),
            Verdict::Rewrite(bytes) => Self {
                out: Some(String::from_utf8(bytes.clone()).expect("a rewritten line is UTF-8")),
                ..plain("rewrite")
            },
            Verdict::Refuse(refusal) => Self {
                shape: match refusal.shape {
                    Shape::ToolResult => "tool_result".into(),
                    Shape::Error(code) => code.into(),
                },
                refusal: Some((**refusal).clone()),
                ..plain("refuse")
            },
        }
    }
}

fn decide(row: &Value) -> Decision {
    let policy = policy(row["config"].as_str().expect("config"));
    let mut tools = ToolBook::default();
    if let Some(listed) = row.get("listed") {
        tools.learn(format!("{{\"tools\":{listed}}}").as_bytes(), true);
    }
    if row.get("unlistable").is_some() {
        tools.mark_unlistable();
    }
    let era = match row.get("era") {
        Some(_) => Era::Modern,
        None => Era::Legacy,
    };
    let caller = row.get("caller").map(caller);
    let line = row["message"].as_str().expect("message");
    match row["from"].as_str() {
        Some("client") => {
            let envelope = proved(line, Direction::ToServer);
            let subject = Subject::of(&envelope);
            policy.client(
                &envelope,
                subject.as_ref(),
                era,
                &mut tools,
                caller.as_ref(),
            )
        }
        _ => {
            let envelope = proved(line, Direction::ToClient);
            let origin = row.get("answers").map(|asked| {
                let method = asked["method"].as_str().expect("method");
                origin(method, asked["name"].as_str(), era)
            });
            policy.server(&envelope, origin.as_ref(), &mut tools, caller.as_ref())
        }
    }
}

fn caller(row: &Value) -> Caller {
    let words = |name: &str| {
        let words = row[name].as_array().into_iter().flatten();
        words
            .map(|word| word.as_str().expect("a word").to_owned())
            .collect()
    };
    Caller {
        client: row["client"].as_str().expect("client").to_owned(),
        tenant: None,
        user: None,
        scopes: words("scopes"),
        groups: words("groups"),
        how: How::Key,
        expires: None,
    }
}

fn rows() -> Vec<Value> {
    CORPUS
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn every_row_comes_out_as_written() {
    let mut wrong = Vec::new();
    for row in rows() {
        let name = &row["name"];
        let decision = decide(&row);
        let outcome = Outcome::of(&decision);
        if outcome.verdict != row["verdict"] || decision.rule != row["rule"].as_str() {
            wrong.push(format!(
                "{name}: {} by {:?}",
                outcome.verdict, decision.rule
            ));
            continue;
        }
        if let Some(refusal) = &outcome.refusal {
            assert_eq!(Some(refusal.rule), decision.rule, "{name}");
            assert_eq!(outcome.shape, row["shape"], "{name}");
            // What does not exist for a caller has no rule.
            assert_eq!(
                refusal.text.contains(refusal.rule),
                !refusal.concealed,
                "{name}: {}",
                refusal.text
            );
            assert!(refusal.operator_hint.is_some(), "{name}");
        }
        if let Some(out) = row.get("out") {
            assert_eq!(outcome.out.as_deref(), out.as_str(), "{name}");
        }
        if let Some(out) = &outcome.out {
            proved(out, Direction::ToClient);
            // Spared where a peer compares it byte for byte, and nowhere else.
            let spared = out.matches("\"nextCursor\":\"ghp_").count();
            assert_eq!(out.matches("ghp_").count(), spared, "{name}: {out}");
        }
        let notes: Vec<&str> = decision
            .notes
            .iter()
            .map(|note| match note {
                Note::Warned { rule, .. } => rule,
                Note::Redacted { .. } => "redacted",
                Note::Credential { problem, .. } => problem,
            })
            .collect();
        if let Some(expected) = row.get("notes") {
            assert_eq!(&serde_json::json!(notes), expected, "{name}");
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_of_the_engine_has_a_row() {
    let reached: BTreeSet<String> = rows()
        .iter()
        .flat_map(|row| {
            let notes = row["notes"].as_array().cloned().unwrap_or_default();
            notes.into_iter().chain([row["rule"].clone()])
        })
        .filter_map(|rule| rule.as_str().map(ToOwned::to_owned))
        .collect();
    for rule in RULES {
        // Bytes, seconds and failures are counted by the session.
        if !rule.id.starts_with("limits.") && rule.id != "credentials.breaker" {
            assert!(reached.contains(rule.id), "no row shows {}", rule.id);
        }
    }
    assert!(rows().len() >= 100);
}

#[test]
fn no_refusal_repeats_a_value_or_names_a_setting() {
    for row in rows() {
        let Some(refusal) = Outcome::of(&decide(&row)).refusal else {
            continue;
        };
        for secret in [
            "VALUE-8341",
            "8341",
            "passwd",
            "ghp_",
            "[methods]",
            "allow =",
            "deny",
        ] {
            let text = refusal.text.replace(refusal.rule, "");
            assert!(!text.contains(secret), "{}: {text}", row["name"]);
        }
    }
}

#[test]
fn names_of_rows_are_unique() {
    let all = rows();
    let names: BTreeSet<&str> = all.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names.len(), all.len());
}
