//! What npm has installed: the version and the programs, read from files that the package wrote.

use super::Installed;
use super::entry::Start;
use super::request::{Request, Version, Wanted, is_npm_name};
use super::tools::real;
use std::fs;
use std::path::Path;

/// The largest `package.json` that is read.
const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// The version and the programs of what was installed. Everything read here was written by the
/// package: sizes are bounded and no path leads out of the entry.
pub(super) fn installed(request: &Request, tree: &Path) -> Result<Installed, String> {
    let mut found = Installed::default();
    for (index, wanted) in request.packages.iter().enumerate() {
        let name = match wanted.version {
            Version::File(_) => name_of_file(tree, wanted)?,
            _ => wanted.name.clone(),
        };
        let dir = tree.join("node_modules").join(&name);
        let manifest = json(&dir.join("package.json"))?;
        let text = |key: &str| manifest.get(key).and_then(|value| value.as_str());
        if index == 0 {
            found.version = text("version").unwrap_or("0.0.0").to_owned();
            found.name.clone_from(&name);
        }
        let short = name.rsplit('/').next().unwrap_or(&name);
        let mut bins: Vec<(String, String)> = match manifest.get("bin") {
            Some(serde_json::Value::String(path)) => vec![(short.to_owned(), path.clone())],
            Some(serde_json::Value::Object(map)) => map
                .iter()
                .filter_map(|(bin, path)| Some((bin.clone(), path.as_str()?.to_owned())))
                .collect(),
            _ => Vec::new(),
        };
        bins.retain(|(bin, _)| is_npm_name(bin) && !bin.contains('/'));
        // libnpmexec: the only program, or all the same file, or the one named like the package.
        if found.default.is_none() && index == 0 {
            let same = bins
                .iter()
                .all(|(_, path)| Some(path) == bins.first().map(|(_, first)| first));
            found.default = match bins.first() {
                Some((bin, _)) if same => Some(bin.clone()),
                _ => bins
                    .iter()
                    .find(|(bin, _)| bin == short)
                    .map(|(bin, _)| bin.clone()),
            };
        }
        for (bin, path) in bins {
            let file = dir.join(path.trim_start_matches('/'));
            let Some(start) = start_of(tree, &file, &bin) else {
                continue;
            };
            found.bins.entry(bin).or_insert(start);
        }
    }
    Ok(found)
}

/// How the program in `file` is started. npm links it into `.bin`, and programs look at the path
/// they were started by, so it is started by the link as `npx` does.
fn start_of(tree: &Path, file: &Path, bin: &str) -> Option<Start> {
    let real_file = real(file)?;
    let real_tree = real(tree)?;
    if !real_file.starts_with(&real_tree) || !real_file.is_file() {
        return None;
    }
    let link = tree.join("node_modules/.bin").join(bin);
    let path = if real(&link).as_deref() == Some(real_file.as_path()) {
        &link
    } else {
        file
    };
    let path = path.strip_prefix(tree).ok()?.to_owned();
    Some(match shebang(&real_file).as_deref() {
        Some([first, flags @ ..]) if first == "node" => Start {
            path,
            runtime: Some("node".to_owned()),
            flags: flags.to_vec(),
        },
        // No `#!`: npm's own shims on Windows run it with node, and so does everybody.
        None if real_file
            .extension()
            .is_some_and(|e| e == "js" || e == "mjs" || e == "cjs") =>
        {
            Start {
                path,
                runtime: Some("node".to_owned()),
                flags: Vec::new(),
            }
        }
        _ => Start {
            path,
            runtime: None,
            flags: Vec::new(),
        },
    })
}

/// The words of the `#!` line without `env`: `["node", "--flag"]`.
fn shebang(path: &Path) -> Option<Vec<String>> {
    use std::io::Read as _;
    let mut head = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(256)
        .read_to_end(&mut head)
        .ok()?;
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace().peekable();
    let mut first = words.next()?;
    if first.ends_with("/env") {
        while words
            .peek()
            .is_some_and(|word| *word == "-S" || word.contains('='))
        {
            words.next();
        }
        first = words.next()?;
    }
    let program = first.rsplit('/').next()?.to_owned();
    Some(
        std::iter::once(program)
            .chain(words.map(str::to_owned))
            .collect(),
    )
}

/// npm writes the file's package into the dependencies of the entry.
fn name_of_file(tree: &Path, wanted: &Wanted) -> Result<String, String> {
    let manifest = json(&tree.join("package.json"))?;
    let file = match &wanted.version {
        Version::File(path) => path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default(),
        _ => "",
    };
    let names = manifest
        .get("dependencies")
        .and_then(|value| value.as_object());
    names
        .into_iter()
        .flatten()
        .find(|(_, spec)| {
            spec.as_str()
                .is_some_and(|spec| spec.starts_with("file:") && spec.ends_with(file))
        })
        .map(|(name, _)| name.clone())
        .filter(|name| is_npm_name(name))
        .ok_or_else(|| "npm installed no package of that file".to_owned())
}

fn json(path: &Path) -> Result<serde_json::Value, String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_MANIFEST).read_to_end(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}
