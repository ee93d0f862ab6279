//! Credentials that no long run announces: base64 and passwords, whose `+`, `/` and `.` may stand
//! anywhere. They are found by what is literal about them, all at once.

use super::check::Check;
use super::runs::RUN;
use super::shape::{Shape, is_token};
use super::table::Detector;
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// Names whose values are base64 so often that one value in thirty has no long run.
const NAMES: [&str; 7] = [
    "ecretAccessKey",
    "ecret_access_key",
    "ECRET_ACCESS_KEY",
    "ccountKey",
    "ccount_key",
    "ccessKey=",
    "rivateKey",
];

/// The searcher for all of them; the default finds nothing.
#[derive(Debug, Default)]
pub(super) struct Broken {
    automaton: Option<AhoCorasick>,
    /// For each pattern the detector and how many bytes of the pattern are before its prefix.
    owners: Vec<(Option<usize>, usize)>,
}

/// One literal in the line.
#[derive(Debug)]
pub(super) struct Hit {
    /// Where the detector's prefix starts, or a part of a name.
    pub(super) at: usize,
    /// The detector's place in the table; `None` for the name of a value.
    pub(super) detector: Option<usize>,
}

impl Broken {
    /// Picks what may have no long run from `detectors`.
    pub(super) fn of(detectors: &[Detector]) -> Self {
        let mut patterns = Vec::new();
        let mut owners = Vec::new();
        for (index, detector) in detectors.iter().enumerate() {
            if !may_break(&detector.shape) {
                continue;
            }
            let prefix = detector.shape.prefix;
            if let Check::AfterDigits(_) = detector.check {
                // Two bytes occur everywhere; with the digit before them they are three.
                for digit in '0'..='9' {
                    patterns.push(format!("{digit}{prefix}"));
                    owners.push((Some(index), 1));
                }
            } else {
                patterns.push(prefix.to_owned());
                owners.push((Some(index), 0));
            }
        }
        for name in NAMES {
            patterns.push(name.to_owned());
            owners.push((None, 0));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostFirst)
            // Its packed prefilter reads the bytes; a DFA would only take longer to build.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(patterns)
            .ok();
        Self { automaton, owners }
    }

    /// Every literal in `bytes`, from left to right.
    pub(super) fn hits<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Hit> + 'a {
        let found = self.automaton.iter().flat_map(move |a| a.find_iter(bytes));
        found.filter_map(|found| {
            let (owner, skipped) = self.owners.get(found.pattern().as_usize())?;
            Some(Hit {
                at: found.start() + skipped,
                detector: *owner,
            })
        })
    }
}

/// A byte outside of word runs may stand among the first [`RUN`] bytes of a token's own run.
fn may_break(shape: &Shape) -> bool {
    let prefix = shape.prefix.as_bytes();
    let anchor = prefix
        .iter()
        .take(RUN)
        .rposition(|&b| !is_token(b))
        .map_or(0, |last| last + 1);
    let mut least = prefix.len() - anchor;
    shape.pieces.iter().any(|piece| {
        let early = least < RUN;
        least += usize::from(piece.min);
        early && (0..128).any(|b| piece.has(b) && !is_token(b))
    })
}
