//! One number for the whole policy, so that the audit log says which policy decided.

use super::permissions;
use crate::config::{Budgets, Config, Inject, NameRules, Retry, ToolRule};
use ring::digest::{SHA256, digest};
use std::fmt::Write;

/// SHA-256 in lower-case hex over a canonical text of everything that decides: one line for each
/// setting, lists sorted and without doubles. Paths, names of servers and credentials are not part of it.
pub(super) fn of(config: &Config) -> String {
    let mut hex = String::with_capacity(64);
    for byte in digest(&SHA256, canonical(config).as_bytes()).as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn canonical(config: &Config) -> String {
    let limits = &config.limits;
    let mut text = String::from("cofferdam policy 1\n");
    let _ = writeln!(text, "limits.request {}", limits.request.0);
    let _ = writeln!(text, "limits.response {}", limits.response.0);
    let _ = writeln!(text, "limits.timeout {}", limits.timeout.as_millis());
    let _ = writeln!(
        text,
        "limits.timeout_total {}",
        limits.timeout_total.as_millis()
    );
    let _ = writeln!(text, "scrub.secrets {:?}", config.scrub);
    let _ = writeln!(text, "schema.arguments {:?}", config.schema.arguments);
    let _ = writeln!(text, "schema.output {:?}", config.schema.output);
    names(&mut text, "methods", &config.methods);
    names(&mut text, "resources", &config.resources);
    names(&mut text, "prompts", &config.prompts);
    for line in permissions::canonical(config) {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(
        text,
        "limits {:?} {:?} {} {:?}",
        limits.rate, limits.concurrency, limits.queue, limits.quota
    );
    for credential in &config.credentials {
        if let Inject::Argument { pointer, tools } = &credential.inject {
            let _ = writeln!(text, "inject {pointer:?} {tools:?}");
        }
    }
    guards(&mut text, config);
    tool(&mut text, "*", &config.tools.default);
    for (name, rule) in &config.tools.named {
        tool(&mut text, name, rule);
    }
    text
}

/// Only what is set, so that a policy without guards is the same as ever.
fn guards(text: &mut String, config: &Config) {
    let limits = &config.limits;
    if let Some(breaker) = config.breaker {
        let _ = writeln!(text, "breaker {breaker:?}");
    }
    if let Some(repeats) = config.repeats {
        let _ = writeln!(text, "repeats {repeats:?}");
    }
    if config.retry != Retry::default() {
        let _ = writeln!(text, "retry {:?}", config.retry);
    }
    if config.budgets != Budgets::default() {
        let _ = writeln!(text, "budgets {:?}", config.budgets);
    }
    if limits.result.is_some() || limits.result_tokens.is_some() {
        let (bytes, tokens) = (limits.result, limits.result_tokens);
        let _ = writeln!(text, "result {bytes:?} {tokens:?} {:?}", limits.overlong);
    }
}

fn names(text: &mut String, title: &str, rules: &NameRules) {
    for (kind, list) in [("allow", rules.allow.as_ref()), ("deny", Some(&rules.deny))] {
        let Some(list) = list else { continue };
        let mut list: Vec<&String> = list.iter().collect();
        list.sort();
        list.dedup();
        // Debug quotes and escapes, so that no name can pose as a line of its own.
        let _ = writeln!(text, "{title}.{kind} {list:?}");
    }
}

fn tool(text: &mut String, name: &str, rule: &ToolRule) {
    let _ = writeln!(
        text,
        "tools.{name:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        rule.allow,
        rule.timeout.map(|time| time.as_millis()),
        rule.timeout_total.map(|time| time.as_millis()),
        rule.arguments,
        rule.output,
        rule.effect,
        rule.scopes,
        rule.rate,
        rule.concurrency,
    );
    let guarded = ToolRule {
        breaker: rule.breaker,
        repeats: rule.repeats,
        budget: rule.budget,
        result: rule.result,
        result_tokens: rule.result_tokens,
        overlong: rule.overlong,
        cached: rule.cached,
        ..ToolRule::default()
    };
    if guarded != ToolRule::default() {
        let _ = writeln!(text, "guards.{name:?} {guarded:?}");
    }
}
