//! Breakers, retries, repeats, budgets, and what may take the place of an answer.

use super::Builder;
use crate::config::diagnose::{Place, Problem};
use crate::config::guards::{Breaker, Budget, Budgets, Percent, Repeats, Retry};
use crate::config::raw::{self, At};
use crate::config::units::{ByteSize, TimeSpan};
use crate::config::{Effect, Tools};
use std::ops::RangeInclusive;
use std::time::Duration;

const WINDOW: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_secs(1))..=TimeSpan(Duration::from_secs(24 * 3600));
const PERIOD: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_secs(1))..=TimeSpan(Duration::from_secs(366 * 24 * 3600));
const CALLS: RangeInclusive<i64> = 1..=10_000;
/// The same answer once is no repeat.
const SAME: RangeInclusive<i64> = 2..=1_000;
const PROBES: RangeInclusive<i64> = 1..=100;
const FAILURES: RangeInclusive<Percent> = Percent(1)..=Percent(100);
const MUCH: RangeInclusive<i64> = 1..=1_000_000_000_000;
/// Below, the marker of a cut alone would not fit.
const BYTES: RangeInclusive<ByteSize> = ByteSize(1 << 10)..=ByteSize(1 << 50);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Builder<'_> {
    pub(super) fn breaker(&mut self, written: Option<&At<raw::Breaker>>) -> Option<Breaker> {
        let raw = self.section("breaker", written)?;
        let default = Breaker::default();
        let window = self.time("breaker.window", raw.window.as_ref(), &WINDOW);
        let pause = self.time("breaker.pause", raw.pause.as_ref(), &WINDOW);
        let failures = self.only("breaker.failures", raw.failures.as_ref());
        if let Some(at) = &raw.failures {
            let place = Place::File(at.span());
            self.range("breaker.failures", failures, &FAILURES, &place);
        }
        Some(Breaker {
            window: window.unwrap_or(default.window),
            calls: self
                .small("breaker.calls", raw.calls.as_ref(), &CALLS)
                .unwrap_or(default.calls),
            failures: failures.unwrap_or(default.failures),
            pause: pause.unwrap_or(default.pause),
            probes: self
                .small("breaker.probes", raw.probes.as_ref(), &PROBES)
                .unwrap_or(default.probes),
            tool_errors: self
                .only("breaker.tool_errors", raw.tool_errors.as_ref())
                .unwrap_or(default.tool_errors),
        })
    }

    pub(super) fn retry(&mut self, written: Option<&At<raw::Retry>>) -> Retry {
        let default = Retry::default();
        let Some(raw) = self.section("retry", written) else {
            return default;
        };
        Retry {
            share: self
                .only("retry.share", raw.share.as_ref())
                .unwrap_or(default.share),
            floor: self
                .only("retry.floor", raw.floor.as_ref())
                .unwrap_or(default.floor),
        }
    }

    pub(super) fn repeats(&mut self, written: Option<&At<raw::Repeats>>) -> Option<Repeats> {
        let raw = self.section("repeats", written)?;
        let default = Repeats::default();
        Some(Repeats {
            calls: self
                .small("repeats.calls", raw.calls.as_ref(), &SAME)
                .unwrap_or(default.calls),
            window: self
                .time("repeats.window", raw.window.as_ref(), &WINDOW)
                .unwrap_or(default.window),
            action: self
                .only("repeats.action", raw.action.as_ref())
                .unwrap_or(default.action),
        })
    }

    /// A table that means something by being there.
    fn section<'r, T>(&mut self, key: &str, written: Option<&'r At<T>>) -> Option<&'r T> {
        let written = written?;
        let origin = self.line(written.span());
        self.origins.set(key, origin);
        Some(written.value())
    }

    pub(super) fn budgets(&mut self, raw: &raw::Budgets) -> Budgets {
        let session = raw.session.as_ref();
        let client = raw.client.as_ref();
        Budgets {
            session: session.map(|written| self.budget("budget.session", written, None)),
            client: client.map(|written| self.budget("budget.client", written, Some(DAY))),
        }
    }

    /// The budget of a tool, by all that call it.
    pub(super) fn tool_budget(&mut self, name: &str, written: &At<raw::Budget>) -> Budget {
        self.budget(&format!("tools.{name}.budget"), written, Some(DAY))
    }

    fn budget(&mut self, key: &str, written: &At<raw::Budget>, per: Option<Duration>) -> Budget {
        let origin = self.line(written.span());
        self.origins.set(key, origin);
        let raw = written.value();
        let named = |field: &str| format!("{key}.{field}");
        let mut much = |field: &str, at: Option<&At<i64>>| {
            let number = self.number(named(field), at, &MUCH);
            number.and_then(|number| u64::try_from(number).ok())
        };
        let calls = much("calls", raw.calls.as_ref());
        let tokens = much("tokens", raw.tokens.as_ref());
        let alert = much("alert", raw.alert.as_ref());
        let bytes = self.only(named("bytes"), raw.bytes.as_ref());
        if let Some(at) = &raw.bytes {
            self.range(&named("bytes"), bytes, &BYTES, &Place::File(at.span()));
        }
        let given = self.time(&named("per"), raw.per.as_ref(), &PERIOD);
        if calls.is_none() && tokens.is_none() && alert.is_none() && bytes.is_none() {
            self.problems.push(
                Problem::new(
                    Place::File(written.span()),
                    format!("`{key}` limits nothing"),
                )
                .hint("write at least one of `calls`, `bytes`, `tokens` and `alert`"),
            );
        }
        Budget {
            calls,
            bytes,
            tokens,
            per: given.or(per),
            alert,
        }
    }

    /// An answer that is kept, or another tool that is named, must fit what is said of tools elsewhere.
    pub(super) fn stand_ins(
        &mut self,
        raw: &std::collections::BTreeMap<At<String>, raw::Tool>,
        tools: &Tools,
    ) {
        for (name, written) in raw {
            let rule = match name.value().as_str() {
                "*" => &tools.default,
                named => match tools.named.get(named) {
                    Some(rule) => rule,
                    None => continue,
                },
            };
            if let Some(at) = &written.cached
                && rule.effect.or(tools.default.effect) != Some(Effect::Read)
            {
                self.problems.push(
                    Problem::new(
                        Place::File(at.span()),
                        format!("`tools.{}.cached` needs `effect = \"read\"`", name.value()),
                    )
                    .hint("only the answer of a tool that changes nothing may be given again"),
                );
            }
            if let Some(at) = &written.alternative {
                let other = at.value();
                let denied = tools.named.get(other).and_then(|rule| rule.allow) == Some(false);
                if other == name.value() || denied || other.contains('*') {
                    self.problems.push(Problem::new(
                        Place::File(at.span()),
                        format!(
                            "`tools.{}.alternative` names no tool that could take its place",
                            name.value()
                        ),
                    ));
                }
            }
        }
    }

    pub(super) fn time(
        &mut self,
        key: &str,
        file: Option<&At<TimeSpan>>,
        range: &RangeInclusive<TimeSpan>,
    ) -> Option<Duration> {
        let at = file?;
        let value = self.only(key, Some(at));
        self.range(key, value, range, &Place::File(at.span()));
        value.map(|span| span.0)
    }

    fn small(
        &mut self,
        key: &str,
        file: Option<&At<i64>>,
        range: &RangeInclusive<i64>,
    ) -> Option<u32> {
        self.number(key.to_owned(), file, range)
            .and_then(|number| u32::try_from(number).ok())
    }
}
