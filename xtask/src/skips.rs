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

/// The names that `tests/unavailable.toml` lists; an entry without a reason is an error.
pub(crate) fn listed(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[unavailable]]" {
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
    Ok(entries.into_iter().collect())
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
        assert_eq!(parse(good).unwrap()["a"], "b");
        assert!(parse("[[unavailable]]\nname = \"a\"\n").is_err());
        assert!(parse("[[unavailable]]\nname: a\n").is_err());
        assert!(parse("name = \"a\"\n").is_err());
    }
}
