//! The server's environment: built, never inherited.

use super::host::Host;
use super::preset::Table;
use crate::config::EnvRule;
use std::path::Path;

/// What `{…}` in a preset stands for.
pub(super) struct Places<'a> {
    pub(super) home: &'a Path,
    pub(super) tmp: &'a Path,
    pub(super) run: &'a Path,
    pub(super) program_dir: &'a Path,
}

/// The whole environment: the preset's variables, then what the operator asked for. Each name comes
/// once; the later wins.
pub(super) fn build(
    host: &Host<'_>,
    table: &Table<'_>,
    rules: &[EnvRule],
    places: &Places<'_>,
    warnings: &mut Vec<String>,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    for variable in &table.env {
        let passed = variable.pass.then(|| host.text(variable.name)).flatten();
        if let Some(value) = passed.or_else(|| variable.value.map(|v| places.fill(v))) {
            set(&mut env, variable.name, value);
        }
    }
    for rule in rules {
        let (name, value) = match rule {
            EnvRule::Set(name, value) => (name, Some(value.clone())),
            EnvRule::Pass(name) => {
                let value = host.text(name);
                if value.is_none() && (host.env)(name).is_some() {
                    warnings.push(format!("{name} is not UTF-8 and is not passed on"));
                }
                (name, value)
            }
        };
        let Some(value) = value else { continue };
        if let Some(loader) = table
            .loader_variables
            .iter()
            .find(|v| name.starts_with(v.prefix))
        {
            warnings.push(format!(
                "{name} changes which code runs in the cell ({})",
                loader.why
            ));
        }
        set(&mut env, name, value);
    }
    env
}

/// Sets a variable; a name that is there takes the new value.
pub(super) fn set(env: &mut Vec<(String, String)>, name: &str, value: String) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => env.push((name.to_owned(), value)),
    }
}

impl Places<'_> {
    fn fill(&self, value: &str) -> String {
        let places = [
            ("{home}", self.home),
            ("{tmp}", self.tmp),
            ("{run}", self.run),
            ("{program_dir}", self.program_dir),
        ];
        places.iter().fold(value.to_owned(), |value, (name, path)| {
            value.replace(name, &path.to_string_lossy())
        })
    }
}
