//! Limits, and rules for methods, resources, prompts and tools.

use super::identity::QUOTA;
use super::{Builder, Overrides, place_of};
use crate::config::access::scope;
use crate::config::diagnose::{Place, Problem};
use crate::config::entries::{self, EntryError};
use crate::config::origin::Origin;
use crate::config::raw::{self, At};
use crate::config::{ByteSize, Limits, NameRules, TimeSpan, ToolRule, Tools};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

const DEFAULT_MESSAGE: ByteSize = ByteSize(1 << 20);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_TIMEOUT_TOTAL: Duration = Duration::from_secs(3600);

const DEFAULT_QUEUE: u32 = 64;
/// Most clients give a call 60 s; whoever waits longer for a place alone is better told to come again.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// A model's window holds a few millions.
const TOKENS: RangeInclusive<i64> = 256..=100_000_000;
const QUEUE: RangeInclusive<i64> = 0..=10_000;

/// Below, `initialize` itself would not pass; above, one message could take the host's memory.
const MESSAGE_RANGE: RangeInclusive<ByteSize> = ByteSize(1 << 10)..=ByteSize(1 << 30);
const TIME_RANGE: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_millis(10))..=TimeSpan(Duration::from_secs(7 * 24 * 3600));

impl Builder<'_> {
    pub(super) fn limits(&mut self, raw: &raw::Limits, flags: &Overrides) -> Limits {
        let mut size = |key, file: &Option<At<ByteSize>>, flag: Option<ByteSize>, name| {
            let file = file.as_ref();
            let value = self.pick(key, file, flag, name);
            self.range(key, value, &MESSAGE_RANGE, &place_of(file, flag, name));
            value.unwrap_or(DEFAULT_MESSAGE)
        };
        let request = size(
            "limits.request",
            &raw.request,
            flags.request,
            "--request-limit",
        );
        let response = size(
            "limits.response",
            &raw.response,
            flags.response,
            "--response-limit",
        );

        let idle = self.pick(
            "limits.timeout",
            raw.timeout.as_ref(),
            flags.timeout,
            "--timeout",
        );
        let place = place_of(raw.timeout.as_ref(), flags.timeout, "--timeout");
        self.range("limits.timeout", idle, &TIME_RANGE, &place);
        let total = self.only("limits.timeout_total", raw.timeout_total.as_ref());
        if let Some(at) = &raw.timeout_total {
            let place = Place::File(at.span());
            self.range("limits.timeout_total", total, &TIME_RANGE, &place);
        }
        self.ordered(idle, total, &place);
        // One that is not given follows the one that is: `timeout = "2h"` means two hours, and
        // `timeout_total = "10s"` leaves no room for 300 s of silence.
        let timeout = match (idle, total) {
            (Some(idle), _) => idle.0,
            (None, Some(total)) => DEFAULT_TIMEOUT.min(total.0),
            (None, None) => DEFAULT_TIMEOUT,
        };
        let timeout_total = total.map_or(DEFAULT_TIMEOUT_TOTAL.max(timeout), |total| total.0);
        let queue = self.number("limits.queue".to_owned(), raw.queue.as_ref(), &QUEUE);
        let quota = self.number("limits.quota".to_owned(), raw.quota.as_ref(), &QUOTA);
        let wait = self.time("limits.wait", raw.wait.as_ref(), &TIME_RANGE);
        let result = self.result("limits", raw.result.as_ref(), raw.result_tokens.as_ref());
        Limits {
            request,
            response,
            timeout,
            timeout_total,
            rate: self.only("limits.rate", raw.rate.as_ref()),
            concurrency: self.places("limits.concurrency".to_owned(), raw.concurrency.as_ref()),
            queue: queue
                .and_then(|queue| u32::try_from(queue).ok())
                .unwrap_or(DEFAULT_QUEUE),
            wait: wait.unwrap_or(DEFAULT_WAIT),
            quota: quota.and_then(|quota| u64::try_from(quota).ok()),
            result: result.0,
            result_tokens: result.1,
            overlong: self
                .only("limits.overlong", raw.overlong.as_ref())
                .unwrap_or_default(),
        }
    }

    /// The largest result of a tool call, in bytes and in tokens.
    fn result(
        &mut self,
        section: &str,
        bytes: Option<&At<ByteSize>>,
        tokens: Option<&At<i64>>,
    ) -> (Option<ByteSize>, Option<u64>) {
        let key = format!("{section}.result");
        let size = self.only(key.clone(), bytes);
        if let Some(at) = bytes {
            self.range(&key, size, &MESSAGE_RANGE, &Place::File(at.span()));
        }
        let tokens = self.number(format!("{section}.result_tokens"), tokens, &TOKENS);
        (size, tokens.and_then(|count| u64::try_from(count).ok()))
    }

    pub(super) fn ordered(
        &mut self,
        idle: Option<TimeSpan>,
        total: Option<TimeSpan>,
        place: &Place,
    ) {
        if let (Some(idle), Some(total)) = (idle, total)
            && idle > total
        {
            self.problems.push(
                Problem::new(
                    place.clone(),
                    format!("`timeout` ({idle}) is longer than `timeout_total` ({total})"),
                )
                .hint("the time of silence cannot be longer than the whole time"),
            );
        }
    }

    pub(super) fn names(
        &mut self,
        [allow_key, deny_key]: [&'static str; 2],
        allow: Option<&At<Vec<At<String>>>>,
        denied: &[At<String>],
    ) -> NameRules {
        let deny = self.list(deny_key, denied, &[], "", pattern);
        let allow = allow.map(|written| {
            let origin = self.line(written.span());
            self.origins.set(allow_key, origin);
            self.apart(allow_key, written.value(), deny_key, denied);
            self.list(allow_key, written.value(), &[], "", pattern)
        });
        NameRules { allow, deny }
    }

    pub(super) fn scopes_by(
        &mut self,
        key: &str,
        raw: &raw::ScopesBy,
    ) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::new();
        for (name, scopes) in raw {
            self.note(pattern(name.value()).map(drop), &Place::File(name.span()));
            let scopes = self.words(format!("{key}.{}", name.value()), scopes, scope);
            all.insert(name.value().clone(), scopes);
        }
        all
    }

    pub(super) fn tools(
        &mut self,
        raw: &BTreeMap<At<String>, raw::Tool>,
        flags: &Overrides,
        limits: &Limits,
    ) -> Tools {
        let mut tools = Tools::default();
        for (name, written) in raw {
            self.note(pattern(name.value()).map(drop), &Place::File(name.span()));
            let rule = self.tool(name.value(), written, limits);
            match name.value().as_str() {
                "*" => tools.default = rule,
                named => {
                    tools.named.insert(named.to_owned(), rule);
                }
            }
        }
        if !flags.allow_tools.is_empty() {
            tools.default.allow = Some(false);
            self.origins
                .set("tools.*.allow", Origin::Flag("--allow-tool"));
        }
        for (names, allow, flag) in [
            (&flags.allow_tools, true, "--allow-tool"),
            (&flags.deny_tools, false, "--deny-tool"),
        ] {
            for name in names {
                self.note(pattern(name).map(drop), &Place::Flag(flag));
                if !allow && flags.allow_tools.contains(name) {
                    self.problems.push(Problem::new(
                        Place::Flag(flag),
                        format!(
                            "the tool `{}` is both allowed and denied",
                            entries::shown(name)
                        ),
                    ));
                }
                let rule = match name.as_str() {
                    "*" => &mut tools.default,
                    named => tools.named.entry(named.to_owned()).or_default(),
                };
                rule.allow = Some(allow);
                self.origins
                    .set(format!("tools.{name}.allow"), Origin::Flag(flag));
            }
        }
        tools
    }

    pub(super) fn tool(&mut self, name: &str, raw: &raw::Tool, limits: &Limits) -> ToolRule {
        let key = |field: &str| format!("tools.{name}.{field}");
        let mut time = |field: &str, at: Option<&At<TimeSpan>>| {
            let value = self.only(key(field), at);
            if let Some(at) = at {
                self.range(&key(field), value, &TIME_RANGE, &Place::File(at.span()));
            }
            value
        };
        let idle = time("timeout", raw.timeout.as_ref());
        let mut total = time("timeout_total", raw.timeout_total.as_ref());
        if let Some(at) = &raw.timeout {
            self.ordered(idle, total, &Place::File(at.span()));
        }
        // As in `limits`: a longer silence alone lengthens the whole.
        if total.is_none() && idle.is_some_and(|idle| idle.0 > limits.timeout_total) {
            total = idle;
        }
        let result = self.result(
            &format!("tools.{name}"),
            raw.result.as_ref(),
            raw.result_tokens.as_ref(),
        );
        let cached = self.time(&key("cached"), raw.cached.as_ref(), &TIME_RANGE);
        ToolRule {
            allow: self.only(key("allow"), raw.allow.as_ref()),
            timeout: idle.map(|idle| idle.0),
            timeout_total: total.map(|total| total.0),
            arguments: self.only(key("arguments"), raw.arguments.as_ref()),
            output: self.only(key("output"), raw.output.as_ref()),
            effect: self.only(key("effect"), raw.effect.as_ref()),
            scopes: raw
                .scopes
                .as_ref()
                .map(|list| self.words(key("scopes"), list.value(), scope)),
            rate: self.only(key("rate"), raw.rate.as_ref()),
            concurrency: self.places(key("concurrency"), raw.concurrency.as_ref()),
            idempotent: self.only(key("idempotent"), raw.idempotent.as_ref()),
            breaker: self.only(key("breaker"), raw.breaker.as_ref()),
            repeats: self.only(key("repeats"), raw.repeats.as_ref()),
            budget: raw
                .budget
                .as_ref()
                .map(|written| self.tool_budget(name, written)),
            result: result.0,
            result_tokens: result.1,
            overlong: self.only(key("overlong"), raw.overlong.as_ref()),
            cached,
            alternative: self.text(&key("alternative"), raw.alternative.as_ref(), pattern),
        }
    }
}

/// A name or a pattern of names: anything but nothing and control characters.
pub(super) fn pattern(text: &str) -> Result<String, EntryError> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(EntryError::new(
            format!("`{}` cannot be the name of anything", entries::shown(text)),
            "",
        ));
    }
    Ok(text.to_owned())
}
