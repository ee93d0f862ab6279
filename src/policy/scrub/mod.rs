//! Finds credentials in bytes, and takes them out without touching anything else.
//!
//! One pass over the line finds word runs of twelve bytes and more (`runs`); what starts like a
//! detector's prefix is matched and verified there (`scan`, `shape`, `check`, data in
//! `policy/detectors/`). Beside it: values behind a secret's name (`named`, `words`, `value`),
//! private keys and URL passwords (`structure`), and the values that the server was given (`given`,
//! `spell`). Strings that hide ASCII behind `\u0067` are decoded and searched again (`view`). There
//! is no tree, no regex, no state between lines, and no allocation while nothing is found.
//!
//! A prefix counts where a word starts: `xghp_…` is not a match, `\nghp_…` in JSON is.
//! Not found: values that only a program could read back (encrypted, compressed, spelled apart).

mod check;
mod given;
mod marks;
mod named;
mod placeholder;
mod runs;
mod scan;
mod shape;
mod spell;
mod structure;
mod table;
mod value;
mod view;
mod words;

#[cfg(test)]
mod tests;

use crate::config::SecretsMode;
use crate::secret::Secret;
use given::Given;
use marks::Marks;
use std::ops::Range;

/// All detectors, and the exact values that this server was given.
#[derive(Debug)]
pub struct Scrubber {
    on: bool,
    given: Option<Given>,
    ignored: Vec<String>,
}

/// One piece that must not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it lies in the bytes that were searched.
    pub span: Range<usize>,
    /// Which detector found it: one of [`detectors`].
    pub detector: &'static str,
}

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A proved JSON line: spans stay inside strings.
    Json,
    /// Anything else.
    Text,
}

impl Scrubber {
    /// `given` are the values handed to the server; they are found in every form.
    ///
    /// With [`SecretsMode::Off`] nothing is built and nothing is ever found.
    #[must_use]
    pub fn new(mode: SecretsMode, given: &[Secret]) -> Self {
        let mut ignored = Vec::new();
        let on = mode != SecretsMode::Off;
        let given = if on {
            // Builds the shared table now, while the server starts, and not at the first message.
            table::table();
            Given::new(given, &mut ignored)
        } else {
            None
        };
        Self { on, given, ignored }
    }

    /// The names of given values that are too short to be searched for (under six bytes).
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Searches a proved JSON line; `found` is cleared first, findings are ordered and disjoint.
    ///
    /// No finding reaches past the quotes of its string, cuts an escape, or changes the type of a
    /// value. Time is linear in the line.
    pub fn json(&self, line: &[u8], found: &mut Vec<Finding>) {
        self.search(line, Kind::Json, found);
    }

    /// Searches plain text (a line of stderr).
    pub fn text(&self, line: &[u8], found: &mut Vec<Finding>) {
        self.search(line, Kind::Text, found);
    }

    /// The bytes with each finding replaced by its placeholder (letters, digits and hyphens only; a
    /// JSON number becomes another number).
    ///
    /// `found` must be what [`Self::json`] or [`Self::text`] found in the same bytes.
    #[must_use]
    pub fn redact(&self, bytes: &[u8], found: &[Finding]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + found.len() * 32);
        let mut at = 0;
        for finding in found {
            out.extend_from_slice(bytes.get(at..finding.span.start).unwrap_or_default());
            let value = bytes.get(finding.span.clone()).unwrap_or_default();
            if finding.detector == given::NUMBER {
                placeholder::write_number(&mut out, finding.detector, value);
            } else {
                placeholder::write(&mut out, finding.detector, value);
            }
            at = finding.span.end;
        }
        out.extend_from_slice(bytes.get(at..).unwrap_or_default());
        out
    }

    fn search(&self, line: &[u8], kind: Kind, found: &mut Vec<Finding>) {
        found.clear();
        if !self.on {
            return;
        }
        let marks = Marks::of(line);
        self.pass(line, kind, marks, found);
        if marks.escape {
            view::search(line, kind, found, |view, seen| {
                self.pass(view, kind, Marks::of(view), seen);
            });
        }
        settle(found);
    }

    fn pass(&self, bytes: &[u8], kind: Kind, marks: Marks, found: &mut Vec<Finding>) {
        scan::scan(bytes, kind, marks, found);
        if let Some(given) = &self.given {
            given.search(bytes, kind, found);
        }
    }
}

/// Every name that a finding may carry, sorted: the bounded label set of the metrics.
#[must_use]
pub fn detectors() -> Vec<&'static str> {
    let mut names: Vec<_> = table::table()
        .detectors
        .iter()
        .map(|detector| detector.name)
        .chain(named::NAMES)
        .chain(structure::NAMES)
        .chain([given::NAME, given::NUMBER])
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Orders findings and joins those that overlap: nothing of either may remain.
fn settle(found: &mut Vec<Finding>) {
    found.retain(|finding| !finding.span.is_empty());
    if found.len() < 2 {
        return;
    }
    found.sort_by_key(|f| (f.span.start, usize::MAX - f.span.end, rank(f.detector)));
    found.dedup_by(|next, kept| {
        let overlaps = next.span.start < kept.span.end;
        if overlaps {
            kept.span.end = kept.span.end.max(next.span.end);
            if rank(next.detector) < rank(kept.detector) {
                kept.detector = next.detector;
            }
        }
        overlaps
    });
}

/// Which of two overlapping findings gives the name: the more certain one.
fn rank(detector: &str) -> u8 {
    match detector {
        given::NUMBER => 0,
        given::NAME => 1,
        name if named::NAMES.contains(&name) => 3,
        _ => 2,
    }
}
