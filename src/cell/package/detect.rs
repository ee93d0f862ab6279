//! Recognises `npx`, `npm exec`, `uvx`, `uv tool run` and `pipx run`, and reads their options.
//!
//! Options that would change what is installed and that we do not know are refused, not ignored.
//! Sources: npm-exec(1) and `libnpmexec`; `uv tool run --help`; `pipx run --help`.

use super::error::PackageError;
use super::request::{Ecosystem, Request, Version, Wanted};
use std::path::Path;

/// The request in `command`, or `None` for a command that installs nothing. Relative paths are
/// taken from `cwd`.
pub fn detect(command: &[String], cwd: &Path) -> Result<Option<Request>, PackageError> {
    let Some((program, rest)) = command.split_first() else {
        return Ok(None);
    };
    let name = program.rsplit('/').next().unwrap_or(program);
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let request = match (name, words.as_slice()) {
        ("npx", rest) => npm("npx", rest, cwd)?,
        ("npm", ["exec" | "x", rest @ ..]) => npm("npm exec", rest, cwd)?,
        ("uvx", rest) => uv("uvx", rest, cwd)?,
        ("uv", ["tool", "run", rest @ ..]) => uv("uv tool run", rest, cwd)?,
        ("pipx", ["run", rest @ ..]) => pipx(rest, cwd)?,
        _ => return Ok(None),
    };
    Ok(Some(Request {
        program: program.clone(),
        ..request
    }))
}

/// The words of one command line, and where we are in it.
struct Words<'a> {
    tool: &'static str,
    rest: std::slice::Iter<'a, &'a str>,
}

/// The next thing on the command line.
enum Next<'a> {
    /// `--name` or `--name=value`, `-n`, `-nvalue` is not read apart.
    Option(&'a str, Option<&'a str>),
    Positional(&'a str),
    /// `--`.
    Separator,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Next<'a>> {
        let word = *self.rest.next()?;
        Some(match word {
            "--" => Next::Separator,
            _ if word.starts_with("--") => match word.split_once('=') {
                Some((name, value)) => Next::Option(name, Some(value)),
                None => Next::Option(word, None),
            },
            _ if word.starts_with('-') && word.len() > 1 => Next::Option(word, None),
            _ => Next::Positional(word),
        })
    }

    fn value(&mut self, name: &str, inline: Option<&'a str>) -> Result<&'a str, PackageError> {
        inline
            .or_else(|| self.rest.next().copied())
            .ok_or_else(|| PackageError::Unsupported {
                tool: self.tool.to_owned(),
                what: format!("{name} without a value"),
                hint: format!("write {name} VALUE"),
            })
    }

    fn unsupported(&self, name: &str) -> PackageError {
        PackageError::Unsupported {
            tool: self.tool.to_owned(),
            what: format!("the option {name}"),
            hint: "install the package yourself and run its program, or leave the option out"
                .to_owned(),
        }
    }

    fn remaining(self) -> Vec<String> {
        self.rest.map(|word| (*word).to_owned()).collect()
    }
}

fn npm(tool: &'static str, words: &[&str], cwd: &Path) -> Result<Request, PackageError> {
    let mut words = Words {
        tool,
        rest: words.iter(),
    };
    let mut packages = Vec::new();
    let mut settings = Vec::new();
    let (mut first, mut separated) = (None, false);
    while let Some(next) = words.next() {
        match next {
            Next::Positional(word) => {
                first = Some(word);
                break;
            }
            // `npx -- PACKAGE` and `npm exec -p PACKAGE -- PROGRAM`.
            Next::Separator => {
                first = words.rest.next().copied();
                separated = true;
                break;
            }
            Next::Option(name, inline) => match name {
                "-p" | "--package" => {
                    packages.push(Wanted::npm(tool, words.value(name, inline)?, cwd)?);
                }
                "-y"
                | "--yes"
                | "-q"
                | "--quiet"
                | "-s"
                | "--silent"
                | "-d"
                | "--no-update-notifier"
                | "--prefer-offline"
                | "--prefer-online"
                | "--no-audit"
                | "--no-fund"
                | "--ignore-scripts"
                | "--no-progress" => {}
                "--loglevel" => {
                    words.value(name, inline)?;
                }
                "--registry" | "--cafile" | "--proxy" | "--https-proxy" | "--noproxy" => {
                    let value = words.value(name, inline)?.to_owned();
                    settings.push((
                        format!(
                            "npm_config_{}",
                            name.trim_start_matches('-').replace('-', "_")
                        ),
                        value,
                    ));
                }
                _ => return Err(words.unsupported(name)),
            },
        }
    }
    // `npm exec` reads its own options behind the package too, `npx` does not.
    let mut args = words.remaining();
    if tool == "npm exec" && !separated {
        match args.iter().position(|word| word.starts_with('-')) {
            Some(at) if args.get(at).is_some_and(|word| word == "--") => {
                args.remove(at);
            }
            Some(_) => {
                return Err(PackageError::Unsupported {
                    tool: tool.to_owned(),
                    what: "an option behind the package".to_owned(),
                    hint: "write `npm exec PACKAGE -- ARGUMENTS`".to_owned(),
                });
            }
            None => {}
        }
    }
    let bin = match first {
        Some(word) if packages.is_empty() => {
            packages.push(Wanted::npm(tool, word, cwd)?);
            None
        }
        Some(word) => Some(word.to_owned()),
        None if packages.is_empty() => {
            return Err(PackageError::NoPackage {
                tool: tool.to_owned(),
            });
        }
        None => None,
    };
    Ok(finish(tool, Ecosystem::Npm, packages, bin, args, settings))
}

fn uv(tool: &'static str, words: &[&str], cwd: &Path) -> Result<Request, PackageError> {
    let mut words = Words {
        tool,
        rest: words.iter(),
    };
    let (mut from, mut with, mut python) = (None, Vec::new(), None);
    let (mut settings, mut refresh, mut first) = (Vec::new(), false, None);
    while let Some(next) = words.next() {
        match next {
            Next::Positional(word) => {
                first = Some(word);
                break;
            }
            Next::Separator => {
                first = words.rest.next().copied();
                break;
            }
            Next::Option(name, inline) => match name {
                "--from" => from = Some(words.value(name, inline)?),
                "-w" | "--with" => {
                    for part in words
                        .value(name, inline)?
                        .split(',')
                        .filter(|part| !part.is_empty())
                    {
                        with.push(Wanted::python(tool, part, cwd)?);
                    }
                }
                "-p" | "--python" => python = Some(words.value(name, inline)?.to_owned()),
                "-q"
                | "--quiet"
                | "-v"
                | "--verbose"
                | "--no-progress"
                | "--isolated"
                | "-n"
                | "--no-cache"
                | "--no-python-downloads"
                | "--no-build"
                | "--no-config" => {}
                "-U" | "--upgrade" | "--refresh" => refresh = true,
                "--color" => {
                    words.value(name, inline)?;
                }
                "--prerelease" => {
                    setting(&mut settings, "UV_PRERELEASE", words.value(name, inline)?);
                }
                "--index" => setting(&mut settings, "UV_INDEX", words.value(name, inline)?),
                "--default-index" | "-i" | "--index-url" => {
                    setting(
                        &mut settings,
                        "UV_DEFAULT_INDEX",
                        words.value(name, inline)?,
                    );
                }
                "--extra-index-url" => {
                    setting(
                        &mut settings,
                        "UV_EXTRA_INDEX_URL",
                        words.value(name, inline)?,
                    );
                }
                "--index-strategy" => {
                    setting(
                        &mut settings,
                        "UV_INDEX_STRATEGY",
                        words.value(name, inline)?,
                    );
                }
                "--exclude-newer" => {
                    setting(
                        &mut settings,
                        "UV_EXCLUDE_NEWER",
                        words.value(name, inline)?,
                    );
                }
                _ => return Err(words.unsupported(name)),
            },
        }
    }
    let args = words.remaining();
    let (package, bin) = match (from, first) {
        (Some(from), first) => (Wanted::python(tool, from, cwd)?, first.map(str::to_owned)),
        (None, Some(word)) => {
            let package = Wanted::python(tool, word, cwd)?;
            // The program has the name of the package as written: `mcp_server_time` is another.
            let bin = program_of(word, &package);
            (package, Some(bin))
        }
        (None, None) => {
            return Err(PackageError::NoPackage {
                tool: tool.to_owned(),
            });
        }
    };
    let mut packages = vec![package];
    packages.append(&mut with);
    let request = finish(tool, Ecosystem::Python, packages, bin, args, settings);
    Ok(Request {
        python,
        refresh,
        ..request
    })
}

fn pipx(words: &[&str], cwd: &Path) -> Result<Request, PackageError> {
    let tool = "pipx run";
    let mut words = Words {
        tool,
        rest: words.iter(),
    };
    let (mut spec, mut with, mut python) = (None, Vec::new(), None);
    let (mut settings, mut first, mut refresh) = (Vec::new(), None, false);
    while let Some(next) = words.next() {
        match next {
            Next::Positional(word) => {
                first = Some(word);
                break;
            }
            Next::Separator => {
                first = words.rest.next().copied();
                break;
            }
            Next::Option(name, inline) => match name {
                "--spec" => spec = Some(words.value(name, inline)?),
                "--with" => with.push(Wanted::python(tool, words.value(name, inline)?, cwd)?),
                "--python" => python = Some(words.value(name, inline)?.to_owned()),
                "-i" | "--index-url" => {
                    setting(&mut settings, "PIP_INDEX_URL", words.value(name, inline)?);
                }
                "--no-cache" => refresh = true,
                "-q" | "--quiet" | "-v" | "--verbose" => {}
                _ => return Err(words.unsupported(name)),
            },
        }
    }
    let Some(word) = first else {
        return Err(PackageError::NoPackage {
            tool: tool.to_owned(),
        });
    };
    let mut args = words.remaining();
    // pipx drops one separator between the program and its arguments.
    if args.first().is_some_and(|word| word == "--") {
        args.remove(0);
    }
    let (package, bin) = match spec {
        Some(spec) => (Wanted::python(tool, spec, cwd)?, word.to_owned()),
        None => {
            let package = Wanted::python(tool, word, cwd)?;
            let bin = program_of(word, &package);
            (package, bin)
        }
    };
    let mut packages = vec![package];
    packages.append(&mut with);
    let request = finish(tool, Ecosystem::Python, packages, Some(bin), args, settings);
    Ok(Request {
        python,
        refresh,
        ..request
    })
}

fn setting(settings: &mut Vec<(String, String)>, name: &str, value: &str) {
    settings.push((name.to_owned(), value.to_owned()));
}

/// `pkg[extra]==1` runs the program `pkg`, a wheel the program of its package's name.
fn program_of(word: &str, package: &Wanted) -> String {
    if matches!(package.version, Version::File(_)) {
        return package.name.clone();
    }
    let end = word.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    word.get(..end.unwrap_or(word.len()))
        .unwrap_or(word)
        .to_owned()
}

fn finish(
    tool: &'static str,
    ecosystem: Ecosystem,
    packages: Vec<Wanted>,
    bin: Option<String>,
    args: Vec<String>,
    settings: Vec<(String, String)>,
) -> Request {
    Request {
        tool,
        ecosystem,
        program: String::new(),
        packages,
        bin,
        args,
        python: None,
        settings,
        refresh: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Request>, PackageError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        detect(&words, Path::new("/w"))
    }

    /// What is installed, which program, which arguments: in one line.
    fn short(line: &str) -> String {
        let request = read(line).unwrap().unwrap();
        let specs: Vec<_> = request
            .packages
            .iter()
            .map(|wanted| match request.ecosystem {
                Ecosystem::Npm => wanted.npm_spec(),
                Ecosystem::Python => wanted.python_spec(),
            })
            .collect();
        format!(
            "{} | {} | {}",
            specs.join(" "),
            request.bin.unwrap_or_default(),
            request.args.join(" ")
        )
    }

    #[test]
    fn the_usual_forms_are_read() {
        let cases = [
            ("npx -y @s/p /data", "@s/p |  | /data"),
            ("/usr/bin/npx --yes p@1.2.3 -- -x", "p@1.2.3 |  | -- -x"),
            ("npx -y -p p tool --flag", "p | tool | --flag"),
            ("npx --package=p --package q -- tool a", "p q | tool | a"),
            ("npx -p p", "p |  | "),
            ("npm exec -y -p p -- tool --flag", "p | tool | --flag"),
            ("npm x p -- --flag -- z", "p |  | --flag -- z"),
            (
                "uvx mcp_server_time --tz X",
                "mcp-server-time | mcp_server_time | --tz X",
            ),
            ("uvx p@1.2", "p==1.2 | p | "),
            ("uvx p[e]==1", "p[e]==1 | p | "),
            (
                "uvx --from p>=1 --with a,b==2 -p 3.12 tool x",
                "p>=1 a b==2 | tool | x",
            ),
            ("uv tool run --quiet p", "p | p | "),
            ("pipx run p==1 -- a", "p==1 | p | a"),
            ("pipx run --spec p[x] tool a", "p[x] | tool | a"),
        ];
        for (line, expected) in cases {
            assert_eq!(short(line), expected, "{line}");
        }
    }

    #[test]
    fn other_commands_are_left_alone() {
        for line in [
            "",
            "node x.js",
            "npm start",
            "uv run x",
            "python -m p",
            "pipx install p",
            "./npxx p",
        ] {
            assert_eq!(read(line).unwrap(), None, "{line}");
        }
    }

    #[test]
    fn what_would_change_the_install_in_an_unknown_way_is_refused() {
        for line in [
            "npx",
            "npx -y",
            "npx -c ls",
            "npx --workspace w p",
            "npx -p",
            "npm exec p --flag",
            "uvx",
            "uvx --with-requirements r.txt p",
            "uvx --from git+https://h/x p",
            "pipx run --pip-args=-x p",
            "pipx run https://h/x.py",
        ] {
            assert_eq!(read(line).unwrap_err().exit_code(), 64, "{line}");
        }
    }

    #[test]
    fn settings_on_the_command_line_are_kept() {
        let request = read("npx --registry=http://h:1/ p").unwrap().unwrap();
        assert_eq!(
            request.settings,
            [("npm_config_registry".into(), "http://h:1/".into())]
        );
        let request = read("uvx --python 3.12 --refresh -i http://h/ p")
            .unwrap()
            .unwrap();
        assert_eq!(request.python.as_deref(), Some("3.12"));
        assert_eq!(
            request.settings,
            [("UV_DEFAULT_INDEX".into(), "http://h/".into())]
        );
        assert!(request.refresh);
    }
}
