//! The table: medians, ratios of the same round, targets and verdicts.

use super::client::{Figures, Shape};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// TLS, how answers come, and how many clients ask.
type Load = (bool, Shape, usize);

/// What must hold, without TLS and with JSON answers: name, clients, target, what it is measured with.
const TARGETS: [(&str, usize, Judge); 3] = [
    // To a relay in front of a bare HTTP server: a server on stdio has no HTTP of its own to speak.
    ("over stdio", 1, Judge::P50ToRelayAtMost(1.0)),
    ("over stdio", 64, Judge::RateToBareAtLeast(0.70)),
    ("before HTTP", 1, Judge::P50ToRelayAtMost(1.35)),
];

#[derive(Clone, Copy, Debug)]
enum Judge {
    P50ToRelayAtMost(f64),
    RateToBareAtLeast(f64),
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    samples: BTreeMap<Load, BTreeMap<&'static str, Vec<Figures>>>,
}

impl Report {
    /// What one round has shown.
    pub(crate) fn add(&mut self, load: Load, target: &'static str, figures: Figures) {
        let targets = self.samples.entry(load).or_default();
        targets.entry(target).or_default().push(figures);
    }

    /// Prints the table; says whether every target is met.
    pub(crate) fn finish(&self) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "\n| TLS | answers | clients | | p50 µs | p99 µs | requests/s | p50 to relay | rate to bare | target |\n|---|---|---|---|---|---|---|---|---|---|"
        )?;
        let mut all = true;
        for ((tls, shape, clients), targets) in &self.samples {
            for (name, rounds) in targets {
                let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
                let beside = |other: &str, figure: fn(&Figures) -> f64| {
                    let others = targets.get(other)?;
                    let pairs = rounds.iter().zip(others);
                    Some(median(
                        pairs.map(|(ours, other)| figure(ours) / figure(other)),
                    ))
                };
                let (p50, rate) = (beside("relay", |it| it.p50), beside("bare", |it| it.rate));
                let judged = TARGETS.iter().find(|(target, count, _)| {
                    target == name && count == clients && !tls && *shape == Shape::Json
                });
                let verdict = match judged.map(|(.., judge)| judge) {
                    Some(Judge::P50ToRelayAtMost(most)) => {
                        p50.map(|ratio| (ratio <= *most, format!("p50 ≤ {most:.2}")))
                    }
                    Some(Judge::RateToBareAtLeast(least)) => {
                        rate.map(|ratio| (ratio >= *least, format!("rate ≥ {least:.2}")))
                    }
                    None => None,
                };
                all &= verdict.as_ref().is_none_or(|(met, _)| *met);
                let verdict = verdict.map_or_else(String::new, |(met, text)| {
                    format!("{text} {}", if met { "met" } else { "MISSED" })
                });
                let show = |ratio: Option<f64>| {
                    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
                };
                writeln!(
                    out,
                    "| {} | {shape:?} | {clients} | {name} | {:.0} | {:.0} | {:.0} | {} | {} | {verdict} |",
                    if *tls { "1.3" } else { "no" },
                    of(|it| it.p50),
                    of(|it| it.p99),
                    of(|it| it.rate),
                    show(p50),
                    show(rate),
                )?;
            }
        }
        Ok(all)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// A line for people.
pub(crate) fn say(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
