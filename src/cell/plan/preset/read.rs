//! Reads the tables of `policy/presets`, fast: every start of a cell does it.
//!
//! The files are TOML for people, editors and tests; here only the forms of line that they use are
//! read, which takes microseconds where a whole TOML parser takes most of a millisecond. A test
//! reads them both ways and compares.

use super::{Grant, LoaderVariable, Table, Variable};

/// A whole table.
///
/// # Errors
/// The first line that has another form.
pub(super) fn table(text: &str) -> Result<Table<'_>, String> {
    let mut table = Table::default();
    let mut list = "";
    for line in text.lines() {
        let read = match line {
            "" | "[limits]" => Some(()),
            "]" => {
                list = "";
                Some(())
            }
            _ if line.starts_with('#') => Some(()),
            _ => match line.strip_prefix("  { ") {
                Some(fields) => entry(&mut table, list, fields),
                None => match line.strip_suffix(" = [") {
                    Some(name) if list.is_empty() => {
                        list = name;
                        Some(())
                    }
                    _ => limit(&mut table, line),
                },
            },
        };
        read.ok_or_else(|| format!("cannot read {line:?}"))?;
    }
    Ok(table)
}

/// `NAME = "…", …, why = "…" },`
fn entry<'a>(table: &mut Table<'a>, list: &str, fields: &'a str) -> Option<()> {
    let (fields, why) = fields.strip_suffix("\" },")?.split_once(", why = \"")?;
    // Nothing here needs an escape, so none is understood.
    if fields.contains('\\') || why.contains(['\\', '"']) {
        return None;
    }
    let only = |key: &str| {
        let value = fields.strip_prefix(key)?.strip_prefix(" = \"")?;
        value.strip_suffix('"').filter(|text| !text.contains('"'))
    };
    let grants = match list {
        "env" | "floor_env" | "floor_proxy" => {
            let list = match list {
                "env" => &mut table.env,
                "floor_env" => &mut table.floor_env,
                _ => &mut table.floor_proxy,
            };
            list.push(variable(fields, why)?);
            return Some(());
        }
        "loader_variables" => {
            let prefix = only("prefix")?;
            table.loader_variables.push(LoaderVariable { prefix, why });
            return Some(());
        }
        "read" => &mut table.read,
        "write" => &mut table.write,
        "network" => &mut table.network,
        _ => return None,
    };
    grants.push(Grant {
        path: only("path")?,
        why,
    });
    Some(())
}

/// `name = "…"[, value = "…"][, pass = true]`
fn variable<'a>(fields: &'a str, why: &'a str) -> Option<Variable<'a>> {
    let (fields, pass) = match fields.strip_suffix(", pass = true") {
        Some(fields) => (fields, true),
        None => (fields, false),
    };
    let fields = fields.strip_prefix("name = \"")?.strip_suffix('"')?;
    let (name, value) = match fields.split_once("\", value = \"") {
        Some((name, value)) => (name, Some(value)),
        None => (fields, None),
    };
    let plain = !name.contains('"') && !value.is_some_and(|value| value.contains('"'));
    plain.then_some(Variable {
        name,
        value,
        pass,
        why,
    })
}

/// `NAME = N  # …`
fn limit(table: &mut Table<'_>, line: &str) -> Option<()> {
    let (line, _why) = line.split_once('#')?;
    let (name, value) = line.trim_end().split_once(" = ")?;
    let limits = &mut table.limits;
    let limit = match name {
        "memory" => &mut limits.memory,
        "processes" => &mut limits.processes,
        "file_size" => &mut limits.file_size,
        "open_files" => &mut limits.open_files,
        _ => return None,
    };
    *limit = Some(value.parse().ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::{NODE, NONE, PYTHON};
    use super::*;

    #[test]
    fn the_fast_way_reads_what_toml_says() {
        for text in [NONE, NODE, PYTHON] {
            let slow: Table<'_> = toml::from_str(text).unwrap();
            assert_eq!(table(text).unwrap(), slow);
            assert!(!slow.read.is_empty());
        }
        assert!(table(NONE).unwrap().limits.memory.is_some());
    }

    #[test]
    fn any_other_form_is_an_error() {
        for text in [
            "read = [\n  { path = \"/x\" },\n]",
            "read = [\n  { path = \"/x\", why = \"y\" }\n]",
            "read = [\n  { path = \"/x\\n\", why = \"y\" },\n]",
            "read = [\n  { path = \"/x\", more = \"\", why = \"y\" },\n]",
            "env = [\n  { value = \"1\", name = \"X\", why = \"y\" },\n]",
            "env = [\n  { name = \"X\", pass = 1, why = \"y\" },\n]",
            "other = [\n  { path = \"/x\", why = \"y\" },\n]",
            "  { path = \"/x\", why = \"y\" },",
            "[limits]\nmemory = many # reason",
            "[limits]\nmemory = 1",
            "[other]",
        ] {
            assert!(table(text).is_err(), "{text}");
        }
    }
}
