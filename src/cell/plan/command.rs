//! From the command as written to the program that the kernel will really execute.
//!
//! A script is not executed: its interpreter is, with the script as an argument, so that only the
//! interpreter needs the right to execute. Shims, `env` and links are seen through the same way.

use super::error::PlanError;
use super::host::{Host, absolute};
use crate::config::Preset;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Links, shims and interpreters followed before we give up.
const DEPTH: usize = 8;

/// What will be executed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// The binary, by the name that chose it: a virtual environment is known by that name.
    pub(super) path: PathBuf,
    /// `argv`, its first included.
    pub(super) args: Vec<String>,
    /// Scripts that were seen through on the way and that the interpreter reads.
    pub(super) scripts: Vec<PathBuf>,
}

/// Sees through scripts until a binary is left.
pub(super) fn resolve(host: &Host<'_>, command: &[String]) -> Result<Program, PlanError> {
    let (name, rest) = command.split_first().ok_or(PlanError::NoCommand)?;
    let mut path = host.find(name)?;
    let mut args: Vec<String> = rest.to_vec();
    let mut scripts = Vec::new();
    // The first word stays as it was written unless something stands for it: programs such as
    // busybox choose what they are by it.
    let mut first = (!is_shim_free(name, &path)).then(|| path.clone());
    for _ in 0..DEPTH {
        let Some(interpreter) = interpreter(&path)? else {
            let first = first.unwrap_or_else(|| PathBuf::from(name));
            // Python finds its virtual environment by its own first word.
            let first = if preset(&path) == Preset::Python {
                path.clone()
            } else {
                first
            };
            args.insert(0, utf8(&first)?);
            return Ok(Program {
                path,
                args,
                scripts,
            });
        };
        args.insert(0, utf8(&path)?);
        args.splice(0..0, interpreter.options);
        scripts.push(path);
        path = host.find(&interpreter.program)?;
        first = Some(path.clone());
    }
    let reason = format!("more than {DEPTH} interpreters stand for one another");
    Err(PlanError::NotExecutable { path, reason })
}

/// Whether the file found carries the name that was asked for and no version manager stands between.
fn is_shim_free(name: &str, path: &Path) -> bool {
    path.ends_with(name) && !path.iter().any(|part| part == "versions")
}

#[derive(Debug, PartialEq, Eq)]
struct Interpreter {
    program: String,
    options: Vec<String>,
}

/// The `#!` line of a script (`execve(2)`: one optional argument, 255 bytes), `env` seen through.
/// `None` for a binary.
fn interpreter(path: &Path) -> Result<Option<Interpreter>, PlanError> {
    let refused = |reason: String| PlanError::NotExecutable {
        path: path.to_owned(),
        reason,
    };
    let mut head = Vec::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(1024).read_to_end(&mut head));
    if let Err(error) = read {
        // A binary may be executable without being readable, a script may not.
        return if error.kind() == std::io::ErrorKind::PermissionDenied {
            Ok(None)
        } else {
            Err(refused(error.to_string()))
        };
    }
    let Some(line) = head.strip_prefix(b"#!") else {
        let binary = head.starts_with(b"\x7fELF");
        return if binary {
            Ok(None)
        } else {
            Err(refused("neither a binary nor a script with #!".into()))
        };
    };
    let mut lines = line
        .split(|byte| *byte == b'\n')
        .map(String::from_utf8_lossy);
    let (first, second) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let mut words = first.trim().splitn(2, [' ', '\t']);
    let program = words.next().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| refused("its #! line names no interpreter".into()))?;
    let option = words
        .next()
        .map(str::trim)
        .filter(|option| !option.is_empty());
    // pip and uv write this when the path of the interpreter is too long for a `#!` line or holds a
    // space: a shell line that is at the same time a Python string.
    if let Some(python) = exec_line(&second) {
        return Ok(Some(Interpreter {
            program: python,
            options: Vec::new(),
        }));
    }
    if !program.ends_with("/env") {
        let options = option.map(str::to_owned).into_iter().collect();
        return Ok(Some(Interpreter {
            program: program.to_owned(),
            options,
        }));
    }
    let mut words = option.unwrap_or_default().split_whitespace();
    let mut program = words.next();
    while program.is_some_and(|word| word == "-S" || word == "--split-string" || word.contains('='))
    {
        program = words.next();
    }
    let program = program.ok_or_else(|| refused("its #! line names no interpreter".into()))?;
    let program = program.strip_prefix("-S").unwrap_or(program).to_owned();
    Ok(Some(Interpreter {
        program,
        options: words.map(str::to_owned).collect(),
    }))
}

/// `'''exec' "/path/to/python" "$0" "$@"`.
fn exec_line(line: &str) -> Option<String> {
    let rest = line.strip_prefix("'''exec' ")?;
    let (program, arguments) = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => rest.split_once(' ')?,
    };
    arguments
        .trim()
        .starts_with("\"$0\" \"$@\"")
        .then(|| program.to_owned())
}

/// The preset for a binary, by its name or by the name of what it links to.
pub(super) fn preset(path: &Path) -> Preset {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    [path, &real]
        .into_iter()
        .filter_map(|path| path.file_name()?.to_str())
        .find_map(|name| {
            let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            match plain {
                "node" | "nodejs" => Some(Preset::Node),
                "python" | "pypy" => Some(Preset::Python),
                _ => None,
            }
        })
        .unwrap_or(Preset::None)
}

/// What an interpreter was told to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The argument at this index is a script.
    Script(usize),
    /// `python -m`.
    Module(String),
    /// Code on the command line, standard input, or nothing.
    Inline,
}

/// Options that take the next word as their value.
const NODE_VALUES: [&str; 14] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--env-file",
    "--env-file-if-exists",
    "--icu-data-dir",
    "--input-type",
    "--title",
    "--openssl-config",
    "--stack-trace-limit",
];

/// Finds the script among the arguments (`argv[0]` first).
pub(super) fn target(preset: Preset, args: &[String]) -> Target {
    let mut words = args.iter().enumerate().skip(1);
    while let Some((index, word)) = words.next() {
        if word == "--" {
            return words
                .next()
                .map_or(Target::Inline, |(index, _)| Target::Script(index));
        }
        if word == "-" || !word.starts_with('-') {
            return if word == "-" {
                Target::Inline
            } else {
                Target::Script(index)
            };
        }
        match preset {
            Preset::Node => {
                if matches!(word.as_str(), "-e" | "--eval" | "-p" | "--print" | "-pe") {
                    return Target::Inline;
                }
                if NODE_VALUES.contains(&word.as_str()) {
                    words.next();
                }
            }
            Preset::Python if !word.starts_with("--") => {
                // Short options may be joined, and the last one may carry its value: `-Im pkg`.
                for (at, letter) in word.char_indices().skip(1) {
                    let value = &word[at + letter.len_utf8()..];
                    let mut value = || match value {
                        "" => words.next().map(|(_, word)| word.clone()),
                        value => Some(value.to_owned()),
                    };
                    match letter {
                        'c' => return Target::Inline,
                        'm' => return value().map_or(Target::Inline, Target::Module),
                        'W' | 'X' => {
                            value();
                            break;
                        }
                        _ => {}
                    }
                }
            }
            Preset::Python if word == "--check-hash-based-pycs" => {
                words.next();
            }
            Preset::Python | Preset::None => {}
        }
    }
    Target::Inline
}

/// What must be readable for a script: its package, or its directory, or only the script when
/// that would be the home directory.
pub(super) fn script_roots(host: &Host<'_>, preset: Preset, script: &Path) -> Vec<PathBuf> {
    let script = absolute(&host.cwd, script);
    let real = script.canonicalize().unwrap_or_else(|_| script.clone());
    let mut roots = Vec::new();
    let mut add = |path: &Path| {
        if path.exists() && !host.too_wide(path) {
            roots.push(path.to_owned());
        }
    };
    let dirs = |path: &Path| {
        path.ancestors()
            .skip(1)
            .map(Path::to_owned)
            .collect::<Vec<_>>()
    };
    if preset == Preset::Node {
        // A package among others: its dependencies lie beside it, in the outermost node_modules.
        let shared = dirs(&real)
            .into_iter()
            .rfind(|dir| dir.ends_with("node_modules"));
        let package = dirs(&real)
            .into_iter()
            .find(|dir| dir.join("package.json").is_file());
        match (&shared, &package) {
            (Some(shared), _) => add(shared),
            (None, Some(package)) => {
                add(package);
                // Workspaces keep the dependencies of all their packages at the top.
                let modules = dirs(&real).into_iter().map(|dir| dir.join("node_modules"));
                modules.filter(|dir| dir.is_dir()).for_each(|dir| add(&dir));
            }
            (None, None) => {}
        }
    }
    add(real.parent().unwrap_or(&real));
    if !roots.iter().any(|root| real.starts_with(root)) {
        roots.push(real.clone());
    }
    if script != real && !roots.iter().any(|root| script.starts_with(root)) {
        roots.push(script);
    }
    roots
}

pub(super) fn utf8(path: &Path) -> Result<String, PlanError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| PlanError::NotUtf8 {
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests;
