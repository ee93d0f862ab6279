//! Finds credentials in bytes, and takes them out without touching anything else.

use crate::config::SecretsMode;
use crate::secret::Secret;
use std::ops::Range;

/// All detectors, and the exact values that this server was given.
#[derive(Debug)]
pub struct Scrubber {}

/// One piece that must not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it lies in the bytes that were searched.
    pub span: Range<usize>,
    /// Which detector found it.
    pub detector: &'static str,
}

impl Scrubber {
    /// `given` are the values handed to the server; they are found in every form.
    #[must_use]
    pub fn new(mode: SecretsMode, given: &[Secret]) -> Self {
        let _ = (mode, given);
        todo!()
    }
    /// Searches a proved JSON line; `found` is cleared first, findings are ordered and disjoint.
    pub fn json(&self, line: &[u8], found: &mut Vec<Finding>) {
        let _ = (line, found);
        todo!()
    }
    /// Searches plain text (a line of stderr).
    pub fn text(&self, line: &[u8], found: &mut Vec<Finding>) {
        let _ = (line, found);
        todo!()
    }
    /// The bytes with each finding replaced by its placeholder (letters, digits and hyphens only).
    #[must_use]
    pub fn redact(&self, bytes: &[u8], found: &[Finding]) -> Vec<u8> {
        let _ = (bytes, found);
        todo!()
    }
}
