//! The figures: medians, ratios to the relay, targets and verdicts.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// What a figure is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Less is better: microseconds of a call, milliseconds of a start.
    Time,
    /// More is better: thousand calls or megabytes a second.
    Rate,
    /// MiB.
    Size,
    /// A plain number.
    Count,
}

/// How a figure is judged.
#[derive(Clone, Copy, Debug)]
enum Judge {
    /// At most this many times the relay's.
    RatioAtMost(f64),
    /// At least this share of the relay's.
    RatioAtLeast(f64),
    /// At most this much more than the bare server's.
    OverBareAtMost(f64),
    /// At most this.
    AtMost(f64),
}

/// What must hold; anything else is printed for information.
const TARGETS: [(&str, Judge); 15] = [
    ("small call p50", Judge::RatioAtMost(1.18)),
    ("small call p99", Judge::RatioAtMost(1.25)),
    ("small modern call p50", Judge::RatioAtMost(1.18)),
    ("small modern call p99", Judge::RatioAtMost(1.25)),
    ("256 in flight", Judge::RatioAtLeast(0.35)),
    ("64 KiB result", Judge::RatioAtLeast(0.25)),
    ("1 MiB result", Judge::RatioAtLeast(0.22)),
    ("8 MiB result", Judge::RatioAtLeast(0.18)),
    ("64 KiB upload", Judge::RatioAtLeast(0.30)),
    ("first reply", Judge::OverBareAtMost(15.0)),
    ("first reply, floor", Judge::OverBareAtMost(8.0)),
    ("idle PSS", Judge::AtMost(8.0)),
    ("idle wake-ups", Judge::AtMost(0.0)),
    ("peak over idle", Judge::AtMost(3.0)),
    ("processes", Judge::AtMost(f64::INFINITY)),
];

/// Samples by metric and target, in the order in which metrics came.
#[derive(Debug, Default)]
pub(crate) struct Report {
    metrics: Vec<(String, Unit, Samples)>,
}

/// The samples of one metric, by target.
type Samples = BTreeMap<&'static str, Vec<f64>>;

impl Report {
    /// One more sample.
    pub(crate) fn add(&mut self, metric: &str, unit: Unit, target: &'static str, value: f64) {
        let at = self.metrics.iter().position(|(name, ..)| name == metric);
        let at = at.unwrap_or_else(|| {
            self.metrics
                .push((metric.to_owned(), unit, BTreeMap::new()));
            self.metrics.len() - 1
        });
        if let Some((_, _, samples)) = self.metrics.get_mut(at) {
            samples.entry(target).or_default().push(value);
        }
    }

    /// Prints the table, writes the JSON, says whether every target is met.
    pub(crate) fn finish(&self) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "\n{:<28} {:>10} {:>10} {:>10} {:>9} {:>9}  verdict",
            "", "bare", "relay", "cofferdam", "ratio", "target"
        )?;
        let (mut met, mut rows) = (true, Vec::new());
        for (name, unit, samples) in &self.metrics {
            let of = |target: &str| samples.get(target).map(|values| median(values));
            let ratio = paired(samples.get("cofferdam"), samples.get("relay"));
            let over = of("cofferdam")
                .zip(of("bare"))
                .map(|(ours, bare)| ours - bare);
            let judge = TARGETS
                .iter()
                .find(|(target, _)| target == name)
                .map(|(_, judge)| *judge);
            let (figure, limit, good) = match judge {
                Some(Judge::RatioAtMost(limit)) => {
                    (ratio, format!("<={limit:.2}x"), ratio.map(|r| r <= limit))
                }
                Some(Judge::RatioAtLeast(limit)) => {
                    (ratio, format!(">={limit:.2}x"), ratio.map(|r| r >= limit))
                }
                Some(Judge::OverBareAtMost(limit)) => {
                    (over, format!("<=+{limit}"), over.map(|o| o <= limit))
                }
                Some(Judge::AtMost(limit)) if limit.is_finite() => (
                    of("cofferdam"),
                    format!("<={limit}"),
                    of("cofferdam").map(|value| value <= limit),
                ),
                _ => (ratio, String::new(), Some(true)),
            };
            let good = good.unwrap_or(false);
            met &= good;
            let verdict = match (limit.is_empty(), good) {
                (true, _) => "",
                (false, true) => "met",
                (false, false) => "MISSED",
            };
            let show = |value: Option<f64>| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
            };
            writeln!(
                out,
                "{:<28} {:>10} {:>10} {:>10} {:>9} {:>9}  {verdict}",
                format!("{name}, {}", label(name, *unit)),
                show(of("bare")),
                show(of("relay")),
                show(of("cofferdam")),
                show(figure),
                limit
            )?;
            rows.push(json!({
                "metric": name, "unit": label(name, *unit), "bare": of("bare"), "relay": of("relay"),
                "cofferdam": of("cofferdam"), "figure": figure, "target": limit, "met": good,
                "samples": samples,
            }));
        }
        writeln!(
            out,
            "\nratios are medians of the rounds, cofferdam to relay; {}",
            if met {
                "every target is met"
            } else {
                "targets are MISSED"
            }
        )?;
        save(&rows)?;
        Ok(met)
    }
}

fn label(name: &str, unit: Unit) -> &'static str {
    match unit {
        Unit::Time if name.starts_with("first reply") => "ms",
        Unit::Time => "us",
        Unit::Rate if name.contains("in flight") => "k/s",
        Unit::Rate => "MB/s",
        Unit::Size => "MiB",
        Unit::Count => "",
    }
}

/// The median of the ratios of each round: what disturbs a round disturbs both.
fn paired(ours: Option<&Vec<f64>>, relay: Option<&Vec<f64>>) -> Option<f64> {
    let ratios: Vec<f64> = ours?
        .iter()
        .zip(relay?)
        .filter(|(_, r)| **r > 0.0)
        .map(|(o, r)| o / r)
        .collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let lower = sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0);
    f64::midpoint(lower, upper)
}

fn save(rows: &[Value]) -> io::Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        Into::into,
    );
    let path = target.join("bench-stdio.json");
    std::fs::write(
        &path,
        serde_json::to_string_pretty(rows).unwrap_or_default(),
    )?;
    say(&format!("stdio bench: figures are in {}", path.display()));
    Ok(())
}

/// A line for people.
pub(crate) fn say(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
