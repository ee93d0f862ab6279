//! Places, breakers, retries, repeats and budgets. What is not set where everything is off is not shown.

use super::Rows;
use crate::config::{Budget, Config, Overlong, Retry, TimeSpan, ToolRule, Word};
use serde_json::{Value, json};
use std::time::Duration;

impl Rows<'_> {
    /// How often, and how much at one time.
    pub(super) fn places(&mut self) {
        let config = &self.resolved.config;
        let limits = &config.limits;
        let alone = config.listen.is_none();
        let own = limits.rate.is_some() || limits.quota.is_some() || has_places(config);
        if alone && !own {
            return;
        }
        match limits.rate {
            Some(rate) => self.one(
                "limits.rate",
                format!("{rate} for each client"),
                rate.to_string(),
            ),
            None => self.one("limits.rate", "not limited", Value::Null),
        }
        match limits.concurrency {
            Some(count) => self.one("limits.concurrency", format!("{count} at one time"), count),
            None => self.one("limits.concurrency", "not limited", Value::Null),
        }
        self.one(
            "limits.queue",
            format!("{} may wait", limits.queue),
            limits.queue,
        );
        let wait = time(limits.wait);
        self.one("limits.wait", format!("{wait} at most"), wait);
        match limits.quota {
            Some(count) => self.one(
                "limits.quota",
                format!("{count} a day for each client"),
                count,
            ),
            None => self.one("limits.quota", "not limited", Value::Null),
        }
    }

    /// What is guarded.
    pub(super) fn guards(&mut self) {
        self.section = "Guards";
        let config = &self.resolved.config;
        let limits = &config.limits;
        if let Some(size) = limits.result {
            self.one("limits.result", size.to_string(), size.0);
        }
        if let Some(tokens) = limits.result_tokens {
            let shown = format!("about {tokens} tokens");
            self.one("limits.result_tokens", shown, tokens);
        }
        if limits.overlong != Overlong::default() {
            let word = limits.overlong.as_str();
            self.one("limits.overlong", word, word);
        }
        if let Some(rule) = config.breaker {
            let errors = match rule.tool_errors {
                true => ", results with isError count",
                false => "",
            };
            let shown = format!(
                "opens for {} when {} of {} or more calls in {} fail{errors}",
                time(rule.pause),
                rule.failures,
                rule.calls,
                time(rule.window),
            );
            let value = json!({
                "window": time(rule.window),
                "calls": rule.calls,
                "failures": rule.failures.to_string(),
                "pause": time(rule.pause),
                "probes": rule.probes,
                "tool_errors": rule.tool_errors,
            });
            self.one("breaker", shown, value);
        }
        if config.retry != Retry::default() {
            let (share, floor) = (config.retry.share, config.retry.floor);
            let shown = format!("{share} of requests, and {floor} in any case");
            let value = json!({ "share": share.to_string(), "floor": floor.to_string() });
            self.one("retry", shown, value);
        }
        if let Some(rule) = config.repeats {
            let (action, window) = (rule.action.as_str(), time(rule.window));
            let shown = format!("{action} after {} same answers in {window}", rule.calls);
            let value = json!({ "calls": rule.calls, "window": window, "action": action });
            self.one("repeats", shown, value);
        }
        for (key, budget) in [
            ("budget.session", config.budgets.session),
            ("budget.client", config.budgets.client),
        ] {
            if let Some(budget) = budget {
                self.one(key, words(&budget), value(&budget));
            }
        }
    }
}

/// What a tool sets of its own.
pub(super) fn of_tool(rule: &ToolRule) -> Vec<(&'static str, Option<(String, Value)>)> {
    let switch = |set: Option<bool>, on: &str, off: &str| {
        set.map(|set| (if set { on } else { off }.to_owned(), json!(set)))
    };
    vec![
        (
            "breaker",
            switch(rule.breaker, "has a breaker", "has no breaker"),
        ),
        (
            "repeats",
            switch(rule.repeats, "may not repeat itself", "may repeat itself"),
        ),
        (
            "budget",
            rule.budget
                .map(|budget| (format!("budget {}", words(&budget)), value(&budget))),
        ),
        (
            "result",
            rule.result
                .map(|size| (format!("results up to {size}"), json!(size.0))),
        ),
        (
            "result_tokens",
            rule.result_tokens
                .map(|count| (format!("results up to {count} tokens"), json!(count))),
        ),
        (
            "overlong",
            rule.overlong.map(|word| {
                (
                    format!("{} larger ones", word.as_str()),
                    json!(word.as_str()),
                )
            }),
        ),
        (
            "cached",
            rule.cached.map(|age| {
                (
                    format!("stand-in up to {} old", time(age)),
                    json!(time(age)),
                )
            }),
        ),
        (
            "alternative",
            rule.alternative
                .as_ref()
                .map(|other| (format!("alternative {other}"), json!(other))),
        ),
    ]
}

fn has_places(config: &Config) -> bool {
    let tools = config.tools.named.values().chain([&config.tools.default]);
    let mut tools = tools.filter(|rule| rule.rate.is_some() || rule.concurrency.is_some());
    config.limits.concurrency.is_some() || tools.next().is_some()
}

fn words(budget: &Budget) -> String {
    let mut words = Vec::new();
    words.extend(budget.calls.map(|count| format!("{count} calls")));
    words.extend(budget.bytes.map(|size| size.to_string()));
    words.extend(budget.tokens.map(|count| format!("{count} tokens")));
    if !words.is_empty() {
        words.extend(budget.per.map(|per| format!("each {}", time(per))));
    }
    words.extend(
        budget
            .alert
            .map(|count| format!("alert at {count} tokens a minute")),
    );
    words.join(", ")
}

fn value(budget: &Budget) -> Value {
    json!({
        "calls": budget.calls,
        "bytes": budget.bytes.map(|size| size.0),
        "tokens": budget.tokens,
        "per": budget.per.map(time),
        "alert": budget.alert,
    })
}

fn time(time: Duration) -> String {
    TimeSpan(time).to_string()
}
