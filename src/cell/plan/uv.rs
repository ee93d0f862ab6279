//! `uv run`: replaced by the program of the project's virtual environment that it would run.
//!
//! uv itself resolves, downloads, builds and writes before it runs anything, which a cell must not
//! allow; what it runs afterwards is plain.

use super::error::PlanError;
use super::host::{Host, absolute};
use std::path::{Path, PathBuf};

/// What stands for `uv run …`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UvRun {
    pub(super) command: Vec<String>,
    /// Where it starts, when the command says so.
    pub(super) directory: Option<PathBuf>,
    pub(super) venv: PathBuf,
    pub(super) project: PathBuf,
}

/// Options that change nothing about what runs once the environment exists.
const FLAGS: [&str; 14] = [
    "--no-sync",
    "--frozen",
    "--locked",
    "--offline",
    "--quiet",
    "-q",
    "--verbose",
    "-v",
    "--no-progress",
    "--no-cache",
    "-n",
    "--all-extras",
    "--no-dev",
    "--no-config",
];
/// The same, with a value.
const VALUES: [&str; 10] = [
    "--python",
    "-p",
    "--extra",
    "--group",
    "--no-group",
    "--package",
    "--color",
    "--cache-dir",
    "--python-preference",
    "--env-file",
];

/// `None` when the command is not `uv run`.
pub(super) fn resolve(host: &Host<'_>, command: &[String]) -> Result<Option<UvRun>, PlanError> {
    let Some((name, words)) = command.split_first() else {
        return Ok(None);
    };
    if Path::new(name).file_name().is_none_or(|name| name != "uv") {
        return Ok(None);
    }
    let failed = |reason: String| PlanError::UvRun { reason };
    let (mut directory, mut project, mut module, mut running) = (None, None, false, false);
    let mut words = words.iter();
    let mut rest: Vec<String> = Vec::new();
    while let Some(word) = words.next() {
        let (option, mut value) = match word.split_once('=') {
            Some((option, value)) if word.starts_with("--") => (option, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = || value.take().or_else(|| words.next().cloned());
        match option {
            "run" if !running => running = true,
            "--directory" => directory = value().map(|dir| absolute(&host.cwd, Path::new(&dir))),
            "--project" => project = value().map(|dir| absolute(&host.cwd, Path::new(&dir))),
            "-m" | "--module" => module = true,
            "--" => {}
            _ if FLAGS.contains(&option) => {}
            _ if VALUES.contains(&option) => drop(value()),
            _ if option.starts_with('-') && running => {
                let hint =
                    "install the package with uvx, or name the program in .venv/bin yourself";
                return Err(failed(format!("{option} is not understood; {hint}")));
            }
            _ if !running => return Ok(None),
            _ => {
                rest.push(word.clone());
                break;
            }
        }
    }
    if !running {
        return Ok(None);
    }
    rest.extend(words.cloned());
    let start = directory.clone().unwrap_or_else(|| host.cwd.clone());
    let from = project.unwrap_or_else(|| start.clone());
    let marked = |dir: &&Path| dir.join("pyproject.toml").is_file() || dir.join(".venv").is_dir();
    let project = from.ancestors().find(marked).unwrap_or(&from).to_owned();
    let venv = host
        .text("UV_PROJECT_ENVIRONMENT")
        .unwrap_or_else(|| ".venv".to_owned());
    let venv = absolute(&project, Path::new(&venv));
    if !venv.join("bin/python").exists() {
        let dir = project.display();
        return Err(failed(format!(
            "there is no virtual environment yet; run `uv sync` in {dir}"
        )));
    }
    let python = venv.join("bin/python").to_string_lossy().into_owned();
    let first = rest
        .first()
        .cloned()
        .ok_or_else(|| failed("there is nothing to run".to_owned()))?;
    let own = venv.join("bin").join(&first);
    if module {
        rest.splice(0..0, [python, "-m".to_owned()]);
    } else if first.ends_with(".py") {
        rest.splice(0..0, [python]);
    } else if !first.contains('/')
        && own.is_file()
        && let Some(word) = rest.first_mut()
    {
        *word = own.to_string_lossy().into_owned();
    }
    Ok(Some(UvRun {
        command: rest,
        directory,
        venv,
        project,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uv_run_becomes_the_program_in_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let env = |_: &str| None;
        let host = Host {
            env: &env,
            cwd: dir.to_owned(),
        };
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let project = dir.join("p");
        let bin = project.join(".venv/bin");
        let line = format!("uv --directory {} run server.py --flag", project.display());
        assert!(
            matches!(resolve(&host, &words(&line)), Err(PlanError::UvRun { .. })),
            "no venv"
        );

        std::fs::create_dir_all(&bin).unwrap();
        for name in ["python", "tool"] {
            std::fs::write(bin.join(name), "").unwrap();
        }
        let python = bin.join("python").to_string_lossy().into_owned();
        let run = resolve(&host, &words(&line)).unwrap().unwrap();
        assert_eq!(run.command, [&python, "server.py", "--flag"]);
        assert_eq!(run.directory, Some(project.clone()));
        assert_eq!(run.venv, project.join(".venv"));

        let line = format!(
            "uv run --project {} --no-sync -m pkg.mod -x",
            project.display()
        );
        let run = resolve(&host, &words(&line)).unwrap().unwrap();
        assert_eq!(run.command, [&python, "-m", "pkg.mod", "-x"]);
        let line = format!("uv run --project={} tool run", project.display());
        let run = resolve(&host, &words(&line)).unwrap().unwrap();
        assert_eq!(run.command, [&*bin.join("tool").to_string_lossy(), "run"]);

        assert!(resolve(&host, &words("uv run --with x tool")).is_err());
        assert_eq!(resolve(&host, &words("uv pip list")).unwrap(), None);
        assert_eq!(resolve(&host, &words("node run x")).unwrap(), None);
    }
}
