//! The tables of `policy/presets`: what each kind of server may use by default, each entry with
//! its reason.

use crate::config::Preset;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Table {
    pub(super) read: Vec<Grant>,
    pub(super) write: Vec<Grant>,
    pub(super) network: Vec<Grant>,
    pub(super) env: Vec<Variable>,
    pub(super) loader_variables: Vec<LoaderVariable>,
    pub(super) limits: Limits,
}

/// A path that is granted when it exists.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grant {
    pub(super) path: PathBuf,
    #[expect(
        dead_code,
        reason = "for people; its presence is what the parser checks"
    )]
    why: String,
}

/// A variable that the server gets without asking.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<String>,
    #[serde(default)]
    pub(super) pass: bool,
    #[expect(
        dead_code,
        reason = "for people; its presence is what the parser checks"
    )]
    why: String,
}

/// Names with this prefix change which code a program loads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoaderVariable {
    pub(super) prefix: String,
    pub(super) why: String,
}

/// Limits; see `CellSpec` for the units.
#[derive(Debug, Default, Deserialize)]
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
pub(super) struct Programs {
    pub(super) program: BTreeMap<String, ProgramNeeds>,
    pub(super) package: BTreeMap<String, PackageNeeds>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgramNeeds {
    pub(super) execute: Vec<Grant>,
    pub(super) read: Vec<Grant>,
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
pub(super) fn table(preset: Preset) -> Result<Table, toml::de::Error> {
    let mut table: Table = toml::from_str(NONE)?;
    let more: Table = match preset {
        Preset::None => return Ok(table),
        Preset::Node => toml::from_str(NODE)?,
        Preset::Python => toml::from_str(PYTHON)?,
    };
    table.read.extend(more.read);
    table.write.extend(more.write);
    table.network.extend(more.network);
    table.env.extend(more.env);
    Ok(table)
}

/// The table of programs and packages.
pub(super) fn programs() -> Result<Programs, toml::de::Error> {
    toml::from_str(PROGRAMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_parses_and_nothing_grants_a_home_a_shell_or_all_of_proc() {
        for preset in [Preset::None, Preset::Node, Preset::Python] {
            let table = table(preset).unwrap();
            for grant in table.read.iter().chain(&table.write).chain(&table.network) {
                let path = grant.path.to_str().unwrap();
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
        assert!(programs().unwrap().program.contains_key("git"));
    }
}
