//! Reads the tables of `policy/seccomp`, fast: every launch does it.
//!
//! The files are TOML for people, editors and tests; here only the one form of line that they use
//! is read, which takes microseconds where a whole TOML parser takes milliseconds. A test reads
//! them both ways and compares.

/// One line of a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) call: &'a str,
    pub(super) x86_64: Option<u32>,
    pub(super) aarch64: Option<u32>,
    pub(super) errno: &'a str,
    /// Any of them is enough; empty: always.
    pub(super) when: Vec<&'a str>,
    pub(super) why: &'a str,
}

/// All entries of a table.
///
/// # Errors
/// The first line that has another form.
pub(super) fn parse(text: &str) -> Result<Vec<Entry<'_>>, String> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '[']));
    lines
        .map(|line| entry(line).ok_or_else(|| format!("cannot read {line:?}")))
        .collect()
}

/// `CALL = { x86_64 = N, aarch64 = N, errno = "E", when = ["…", "…"], why = "…" }`
///
/// Cut at single characters: to prepare the search for a longer text takes longer than the line.
fn entry(line: &str) -> Option<Entry<'_>> {
    let (call, fields) = line.split_once(' ')?;
    let mut entry = Entry {
        call,
        ..Entry::default()
    };
    let mut rest = fields.strip_prefix("= { ")?;
    loop {
        let (key, value) = rest.split_once(' ')?;
        let value = value.strip_prefix("= ")?;
        if key == "why" {
            entry.why = value.strip_prefix('"')?.strip_suffix("\" }")?;
            return Some(entry);
        }
        let at = match key {
            "when" => value.find(']')? + 1,
            _ => value.find(',')?,
        };
        let (value, after) = value.split_at_checked(at)?;
        rest = after.strip_prefix(", ")?;
        match key {
            "x86_64" => entry.x86_64 = Some(value.parse().ok()?),
            "aarch64" => entry.aarch64 = Some(value.parse().ok()?),
            "errno" => entry.errno = value.strip_prefix('"')?.strip_suffix('"')?,
            "when" => {
                let list = value.strip_prefix("[\"")?.strip_suffix("\"]")?;
                entry.when = list.split("\", \"").collect();
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BASE, Network, Processes};
    use super::*;
    use std::collections::BTreeMap;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Toml {
        x86_64: Option<u32>,
        aarch64: Option<u32>,
        errno: String,
        #[serde(default)]
        when: Vec<String>,
        why: String,
    }

    #[test]
    fn the_fast_way_reads_what_toml_says() {
        let networks = Network::ALL.map(Network::table);
        let processes = Processes::ALL.map(Processes::table);
        for text in networks.into_iter().chain(processes).chain([BASE]) {
            let toml: BTreeMap<String, BTreeMap<String, Toml>> = toml::from_str(text).unwrap();
            let mut slow: Vec<(&String, &Toml)> = toml.values().flatten().collect();
            let mut fast = parse(text).unwrap();
            slow.sort_by_key(|(call, _)| call.as_str());
            fast.sort_by_key(|entry| entry.call);
            assert_eq!(fast.len(), slow.len());
            for (fast, (call, slow)) in fast.iter().zip(slow) {
                assert_eq!(fast.call, call);
                assert_eq!(
                    (fast.x86_64, fast.aarch64),
                    (slow.x86_64, slow.aarch64),
                    "{call}"
                );
                assert_eq!((fast.errno, fast.why), (&*slow.errno, &*slow.why), "{call}");
                assert_eq!(fast.when, slow.when, "{call}");
                assert!(!slow.why.is_empty(), "{call}");
            }
        }
    }

    #[test]
    fn any_other_form_is_an_error() {
        for line in [
            "ptrace = { x86_64 = 101, errno = \"EPERM\" }",
            "ptrace = { x86_64 = many, errno = \"EPERM\", why = \"x\" }",
            "ptrace = { number = 101, errno = \"EPERM\", why = \"x\" }",
            "ptrace={ x86_64 = 101, errno = \"EPERM\", why = \"x\" }",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
