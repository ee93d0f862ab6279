//! The tables of `policy/presets`: what each kind of server may use by default, each entry with
//! its reason.

mod read;

use crate::config::Preset;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One table.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Table<'a> {
    #[serde(borrow)]
    pub(super) read: Vec<Grant<'a>>,
    pub(super) write: Vec<Grant<'a>>,
    pub(super) network: Vec<Grant<'a>>,
    pub(super) env: Vec<Variable<'a>>,
    /// Where hosts are allowed by name in the host's network.
    pub(super) floor_env: Vec<Variable<'a>>,
    /// The same for programs that may look names up by themselves.
    pub(super) floor_proxy: Vec<Variable<'a>>,
    pub(super) loader_variables: Vec<LoaderVariable<'a>>,
    pub(super) limits: Limits,
}

/// A path that is granted when it exists.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant<'a> {
    pub(super) path: &'a str,
    /// For people; its presence is what the reader checks.
    why: &'a str,
}

/// A variable that the server gets without asking.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variable<'a> {
    pub(super) name: &'a str,
    pub(super) value: Option<&'a str>,
    #[serde(default)]
    pub(super) pass: bool,
    /// For people; its presence is what the reader checks.
    why: &'a str,
}

/// Names with this prefix change which code a program loads.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoaderVariable<'a> {
    pub(super) prefix: &'a str,
    pub(super) why: &'a str,
}

/// Limits; see `CellSpec` for the units.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) memory: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) file_size: Option<u64>,
    pub(super) open_files: Option<u64>,
}

/// Programs and packages that need more than themselves.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Programs {
    program: BTreeMap<String, ProgramNeeds>,
    package: BTreeMap<String, PackageNeeds>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgramNeeds {
    pub(super) execute: Vec<Need>,
    pub(super) read: Vec<Need>,
}

/// As [`Grant`], of a program.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Need {
    pub(super) path: PathBuf,
    #[expect(
        dead_code,
        reason = "for people; its presence is what the parser checks"
    )]
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackageNeeds {
    pub(super) execute: Vec<String>,
    #[expect(
        dead_code,
        reason = "for people; its presence is what the parser checks"
    )]
    why: String,
}

const NONE: &str = include_str!("../../../policy/presets/none.toml");
const NODE: &str = include_str!("../../../policy/presets/node.toml");
const PYTHON: &str = include_str!("../../../policy/presets/python.toml");
const PROGRAMS: &str = include_str!("../../../policy/presets/programs.toml");

/// The table of a preset on top of what every cell has.
///
/// # Errors
/// A line that has not the form of such a table.
pub(super) fn table(preset: Preset) -> Result<Table<'static>, String> {
    let mut table = read::table(NONE)?;
    let more = match preset {
        Preset::None => return Ok(table),
        Preset::Node => read::table(NODE)?,
        Preset::Python => read::table(PYTHON)?,
    };
    table.read.extend(more.read);
    table.write.extend(more.write);
    table.network.extend(more.network);
    table.env.extend(more.env);
    // These look names up as the C library does.
    table.floor_proxy.clear();
    Ok(table)
}

/// What programs of that name need.
///
/// # Errors
/// The table is not valid.
pub(super) fn program(name: &str) -> Result<Option<ProgramNeeds>, String> {
    Ok(programs("program", name)?.and_then(|mut known| known.program.remove(name)))
}

/// What packages of that name need.
///
/// # Errors
/// The table is not valid.
pub(super) fn package(name: &str) -> Result<Option<PackageNeeds>, String> {
    Ok(programs("package", name)?.and_then(|mut known| known.package.remove(name)))
}

/// The table of programs and packages, parsed only when it has something to say about `name`: few
/// starts need it.
fn programs(kind: &str, name: &str) -> Result<Option<Programs>, String> {
    let header = format!("[{kind}.{name}]");
    if !PROGRAMS.lines().any(|line| line == header) {
        return Ok(None);
    }
    toml::from_str(PROGRAMS)
        .map(Some)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_parses_and_nothing_grants_a_home_a_shell_or_all_of_proc() {
        for preset in [Preset::None, Preset::Node, Preset::Python] {
            let table = table(preset).unwrap();
            for grant in table.read.iter().chain(&table.write).chain(&table.network) {
                let path = grant.path;
                assert!(path.starts_with('/') && !path.ends_with('/'), "{path}");
                let wide = [
                    "/",
                    "/proc",
                    "/proc/self",
                    "/proc/self/environ",
                    "/etc",
                    "/usr",
                    "/home",
                    "/root",
                    "/dev",
                    "/tmp",
                    "/dev/shm",
                    "/usr/bin",
                    "/bin",
                    "/run",
                    "/sys",
                ];
                assert!(!wide.contains(&path), "{path}");
            }
        }
    }

    #[test]
    fn programs_and_packages_are_found_under_the_names_that_the_table_writes() {
        let all: Programs = toml::from_str(PROGRAMS).unwrap();
        assert!(all.program.contains_key("git"));
        for name in all.program.keys() {
            assert!(program(name).unwrap().is_some(), "{name}");
        }
        for name in all.package.keys() {
            assert!(package(name).unwrap().is_some(), "{name}");
        }
        assert!(program("mcp-server-git").unwrap().is_none());
        assert!(program("cat").unwrap().is_none());
    }
}
