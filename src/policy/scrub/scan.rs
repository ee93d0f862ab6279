//! One pass over a line: from long word runs to findings.

use super::check::is_varied;
use super::marks::Marks;
use super::named;
use super::placeholder;
use super::runs::{long_runs, run_end, word_starts};
use super::structure;
use super::table::{Detector, Table, table};
use super::{Finding, Kind};

/// Failed attempts may look at this many bytes for each byte of the line. Real text stays far below;
/// past it, what starts like a credential is taken for one without a closer look, so that a line made
/// to be slow costs its sender precision and nobody time.
const FUEL: usize = 1;

/// What the checks of one match look at, at most.
const LOOKED_AT: usize = 1024;

/// Bodies that vendors print in their documentation; agents need to read that.
const DOCUMENTED: [&[u8]; 2] = [b"AKIAIOSFODNN7EXAMPLE", b"ASIAIOSFODNN7EXAMPLE"];

/// Searches `bytes`, adding to `found`.
pub(super) fn scan(bytes: &[u8], kind: Kind, marks: Marks, found: &mut Vec<Finding>) {
    let mut scan = Scan {
        bytes,
        kind,
        table: table(),
        run: 0,
        past: 0,
        fuel: bytes.len().saturating_mul(FUEL).saturating_add(64 << 10),
        found,
    };
    if marks.dashes {
        structure::keys(bytes, &scan.table.finders, scan.found);
    }
    if marks.url {
        structure::urls(bytes, marks.escape, &scan.table.finders, scan.found);
    }
    if marks.password {
        named::passwords(bytes, kind, scan.table, scan.found);
    }
    long_runs(bytes, |start, end| scan.visit(start, end));
}

struct Scan<'a> {
    bytes: &'a [u8],
    kind: Kind,
    table: &'static Table,
    /// The end of the run that is looked at.
    run: usize,
    /// The end of the run before this one.
    past: usize,
    fuel: usize,
    found: &'a mut Vec<Finding>,
}

impl Scan<'_> {
    /// Looks at one long run; gives the place to go on from.
    fn visit(&mut self, start: usize, end: usize) -> usize {
        self.run = end;
        let before = self.byte_before(start);
        let (first, also) = match before {
            Some(b'\\' | b'%') => self.unescaped(start),
            _ => (start, None),
        };
        if self.bytes.get(start) == Some(&b'C') && placeholder::covers(self.bytes, start) {
            return start;
        }
        if let Some(finding) = also.and_then(|at| self.token(at)) {
            return self.keep(finding);
        }
        for at in word_starts(self.bytes, first, end) {
            if let Some(finding) = self.token(at) {
                return self.keep(finding);
            }
        }
        match before {
            Some(b'.' | b':' | b'/' | b'~') => {
                if let Some(finding) = self.dotted(start) {
                    return self.keep(finding);
                }
            }
            Some(b' ') => {
                if let Some(finding) = named::header(self.bytes, start) {
                    return self.keep(finding);
                }
            }
            _ => {}
        }
        let past = std::mem::replace(&mut self.past, end);
        match named::assigned(self.bytes, self.kind, self.table, start, past) {
            Some(finding) => self.keep(finding),
            None => start,
        }
    }

    fn keep(&mut self, finding: Finding) -> usize {
        let end = finding.span.end;
        self.found.push(finding);
        end
    }

    fn byte_before(&self, at: usize) -> Option<u8> {
        self.bytes.get(at.checked_sub(1)?).copied()
    }

    /// Where words start in a run that follows a backslash or a percent sign: behind the rest of the
    /// escape (`\n`, `\u003c`, `%3D`), and at the run itself where it may also be no escape.
    fn unescaped(&self, start: usize) -> (usize, Option<usize>) {
        let run = self.bytes.get(start..).unwrap_or_default();
        let escapes = self.bytes.get(..start).unwrap_or_default();
        if escapes.last() == Some(&b'%') {
            let hex = run.iter().take(2).all(u8::is_ascii_hexdigit);
            return if hex {
                (start + 2, Some(start))
            } else {
                (start, None)
            };
        }
        let skip = match run {
            [b'n' | b'r' | b't' | b'b' | b'f', ..] => 1,
            [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|h| h.is_ascii_hexdigit()) => 5,
            _ => return (start, None),
        };
        let slashes = escapes.iter().rev().take_while(|b| **b == b'\\').count();
        // `\\n` is a backslash and a letter in JSON, but a line end in the JSON that it may quote.
        let certain = self.kind == Kind::Json && slashes % 2 == 1;
        (start + skip, (!certain).then_some(start))
    }

    /// A credential whose prefix starts at `at`.
    #[inline]
    fn token(&mut self, at: usize) -> Option<Finding> {
        let key = *self.bytes.get(at..)?.first_chunk::<3>()?;
        if self.table.may_start(key) {
            self.prefixed(key, at)
        } else {
            None
        }
    }

    #[cold]
    fn prefixed(&mut self, key: [u8; 3], at: usize) -> Option<Finding> {
        let mut best: Option<Finding> = None;
        for detector in self.table.starting(key) {
            let prefix = detector.shape.prefix.as_bytes();
            if self
                .bytes
                .get(at..)
                .is_some_and(|rest| rest.starts_with(prefix))
            {
                best = longer(best, self.complete(detector, at));
            }
        }
        best
    }

    /// A credential whose prefix has a dot or the like right before this run.
    fn dotted(&mut self, run: usize) -> Option<Finding> {
        let mut best: Option<Finding> = None;
        for (detector, at) in self.table.around(self.bytes, run) {
            let glued = detector
                .shape
                .prefix
                .starts_with(|c: char| c.is_ascii_alphanumeric())
                && self
                    .byte_before(at)
                    .is_some_and(|b| b.is_ascii_alphanumeric())
                && !detector.check.looks_before()
                && !self.escape_ends_at(at);
            if !glued {
                best = longer(best, self.complete(detector, at));
            }
        }
        best
    }

    /// `\n` right before `at`: the letter belongs to the escape and not to a word.
    fn escape_ends_at(&self, at: usize) -> bool {
        let before = self.bytes.get(..at).unwrap_or_default();
        matches!(before, [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'])
            || matches!(before, [.., b'\\', b'u', _, _, _, _])
    }

    /// Matches what follows the prefix at `at` and verifies the whole.
    fn complete(&mut self, detector: &Detector, at: usize) -> Option<Finding> {
        let body = at + detector.shape.prefix.len();
        let finding = |end| Finding {
            span: at..end,
            detector: detector.name,
        };
        if self.fuel == 0 {
            return Some(finding(run_end(self.bytes, body)));
        }
        let end = match detector.shape.ends(self.bytes, body, self.run) {
            Ok(end) => end,
            Err(cost) => {
                self.burn(cost);
                return None;
            }
        };
        let (token, random) = (self.bytes.get(at..end)?, self.bytes.get(body..end)?);
        let genuine = is_varied(random, detector.floor)
            && !DOCUMENTED.contains(&token)
            && detector.check.holds(
                token,
                detector.shape.prefix.len(),
                self.bytes.get(..at).unwrap_or_default(),
            );
        if !genuine {
            self.burn((end - at).min(LOOKED_AT));
            return None;
        }
        Some(finding(end))
    }

    fn burn(&mut self, bytes: usize) {
        self.fuel = self.fuel.saturating_sub(bytes);
    }
}

fn longer(one: Option<Finding>, other: Option<Finding>) -> Option<Finding> {
    match (one, other) {
        (Some(a), Some(b)) if b.span.end <= a.span.end => Some(a),
        (one, None) => one,
        (_, other) => other,
    }
}
