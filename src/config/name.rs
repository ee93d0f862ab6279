//! The name of a server: checked when given, else made from its command.

use super::entries::{EntryError, shown};

/// Long enough for every package name seen, short enough for a socket path.
const LONGEST: usize = 64;

/// Letters, digits, `-`, `_` and `.`, a letter or digit first: it becomes part of paths.
pub(super) fn check(name: &str) -> Result<(), EntryError> {
    let starts = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && name.len() <= LONGEST && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(EntryError::new(
        format!("`{}` is not a name for a server", shown(name)),
        "a name has up to 64 letters, digits, `-`, `_` and `.`, and starts with a letter or digit",
    ))
}

/// The package that `npx`, `uvx` or `pipx run` starts, the module of `python -m`, or the program.
pub(super) fn derive(command: &[String]) -> String {
    let Some((program, rest)) = command.split_first() else {
        return "server".to_owned();
    };
    let program = program.rsplit('/').next().unwrap_or(program);
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let found = match (program, words.as_slice()) {
        ("npx", args) => package(args, &["-p", "--package"], &["-c", "--call"]),
        ("npm", ["exec", args @ ..]) => package(args, &["--package"], &["-c", "--call"]),
        ("uvx", args) | ("uv", ["tool", "run", args @ ..]) => package(
            args,
            &["--from"],
            &[
                "-p",
                "--python",
                "--with",
                "--index",
                "--default-index",
                "--directory",
            ],
        ),
        ("pipx", ["run", args @ ..]) => package(args, &["--spec"], &["--python", "--pip-args"]),
        (python, args) if python.starts_with("python") => args
            .iter()
            .position(|arg| *arg == "-m")
            .and_then(|at| args.get(at + 1))
            .copied(),
        _ => None,
    };
    sanitize(found.map_or(program, bare))
}

/// The value of the first of `from`, else the first word that is neither a flag nor the value of one.
fn package<'a>(args: &[&'a str], from: &[&str], with_value: &[&str]) -> Option<&'a str> {
    let mut first = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if *arg == "--" {
            return first.or(rest.next().copied());
        }
        let (flag, value) = arg
            .split_once('=')
            .map_or((*arg, None), |(f, v)| (f, Some(v)));
        if from.contains(&flag) {
            return value.or_else(|| rest.next().copied());
        }
        if with_value.contains(&flag) {
            if value.is_none() {
                rest.next();
            }
        } else if !arg.starts_with('-') {
            first = Some(*arg);
            // What follows the package are the server's own arguments.
            break;
        }
    }
    first
}

/// `@scope/name@1.2.3` → `name`, `name[extra]==1.0` → `name`.
fn bare(spec: &str) -> &str {
    let name = match spec.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').map_or(scoped, |(_, name)| name),
        None => spec.rsplit('/').next().unwrap_or(spec),
    };
    name.split(['@', '=', '<', '>', '~', '!', '[', ' ', ';'])
        .next()
        .unwrap_or(name)
}

fn sanitize(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(
            |c| match c.is_ascii() && u8::try_from(c).is_ok_and(allowed) {
                true => c,
                false => '-',
            },
        )
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(LONGEST)
        .collect();
    match clean.is_empty() {
        true => "server".to_owned(),
        false => clean,
    }
}

fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_come_from_the_package_or_the_program() {
        for (command, name) in [
            (
                "npx -y @modelcontextprotocol/server-github@2026.8.31 --x",
                "server-github",
            ),
            ("npx --yes server-memory", "server-memory"),
            ("/usr/bin/npx -p @a/b@1 tool arg", "b"),
            ("npx --package=foo@2 -- bar", "foo"),
            ("npm exec --yes -- @a/b@1", "b"),
            ("uvx mcp-server-git==1.0 --repository /x", "mcp-server-git"),
            ("uvx --python 3.12 --from mcp[cli]>=1 mcp run", "mcp"),
            ("uv tool run mcp-server-time@1", "mcp-server-time"),
            ("pipx run --spec git-thing==2 thing", "git-thing"),
            ("python3 -m mcp_server_fetch", "mcp_server_fetch"),
            ("node /srv/index.js", "node"),
            ("/opt/my server/bin", "bin"),
            ("./..", "server"),
        ] {
            let words: Vec<String> = match command.contains("my server") {
                true => vec![command.to_owned()],
                false => command.split(' ').map(str::to_owned).collect(),
            };
            assert_eq!(derive(&words), name, "{command}");
        }
    }

    #[test]
    fn names_are_safe_in_paths() {
        for name in ["", ".", "..", "a/b", "-x", "a b", "é", &"x".repeat(65)] {
            assert!(check(name).is_err(), "{name}");
        }
        assert!(check("github-2.x_y").is_ok());
    }

    proptest! {
        #[test]
        fn a_derived_name_is_always_valid(command in proptest::collection::vec(".*", 0..4)) {
            prop_assert!(check(&derive(&command)).is_ok());
        }
    }
}
