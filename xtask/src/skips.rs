//! Checks that could not run here, as tests print them, against the list that allows them.

use std::collections::BTreeMap;
use std::path::Path;

/// What a test prints for a check that this machine cannot make: `SKIPPED: name: reason`.
const MARK: &str = "SKIPPED: ";

/// Name and reason of each skipped check in the output of a test run.
pub(crate) fn in_output(output: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in output.lines() {
        let Some((_, text)) = line.split_once(MARK) else {
            continue;
        };
        let (name, reason) = text.split_once(": ").unwrap_or((text, "no reason given"));
        found.insert(name.trim().to_owned(), unescape(reason.trim()));
    }
    found
}

/// The names that may be skipped, by `tests/unavailable.toml`: in CI only those that its machine
/// cannot check. An entry without a reason is an error.
pub(crate) fn listed(path: &Path, ci: bool) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&text, ci).map_err(|e| format!("{}: {e}", path.display()))
}

fn parse(text: &str, ci: bool) -> Result<BTreeMap<String, String>, String> {
    let mut entries: Vec<(String, String)> = Vec::new();
    let mut elsewhere = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[unavailable]]" || line == "[[elsewhere]]" {
            elsewhere.push(line == "[[elsewhere]]");
            entries.push((String::new(), String::new()));
            continue;
        }
        let value = line.split_once(" = ").and_then(|(key, value)| {
            Some((key, value.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
        });
        match (value, entries.last_mut()) {
            (Some(("name", value)), Some(entry)) => entry.0 = value,
            (Some(("reason", value)), Some(entry)) => entry.1 = value,
            _ => return Err(format!("line {}: not understood: {line}", number + 1)),
        }
    }
    if let Some((name, _)) = entries
        .iter()
        .find(|(name, reason)| name.is_empty() || reason.is_empty())
    {
        return Err(format!("the entry {name:?} needs a name and a reason"));
    }
    let counts = entries.into_iter().zip(elsewhere);
    Ok(counts
        .filter(|(_, elsewhere)| !(ci && *elsewhere))
        .map(|(entry, _)| entry)
        .collect())
}

/// The JUnit report is XML.
fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_lines_are_found_with_their_reason() {
        let output = "noise\n  SKIPPED: cell.pidns: no user namespaces &amp; no root\nok\n";
        let found = in_output(output);
        assert_eq!(found.len(), 1);
        assert_eq!(found["cell.pidns"], "no user namespaces & no root");
    }

    #[test]
    fn a_listed_entry_needs_a_reason() {
        let good = "# c\n[[unavailable]]\nname = \"a\"\nreason = \"b\"\n";
        assert_eq!(parse(good, true).unwrap()["a"], "b");
        assert!(parse("[[unavailable]]\nname = \"a\"\n", false).is_err());
        assert!(parse("[[unavailable]]\nname: a\n", false).is_err());
        assert!(parse("name = \"a\"\n", false).is_err());
    }

    #[test]
    fn what_ci_can_check_may_only_be_skipped_elsewhere() {
        let text = "[[elsewhere]]\nname = \"java\"\nreason = \"b\"\n";
        assert!(parse(text, true).unwrap().is_empty());
        assert_eq!(parse(text, false).unwrap().len(), 1);
    }
}
