//! The map of ARCHITECTURE.md as a test: who may import whom, who owns which heavy crate, how long
//! a file may grow.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What each room may import besides itself. Further right in the chain is always lower:
/// main → cli → app → {admin, supervise, proxy} → {transport, policy, secret, identity, audit,
/// telemetry, cell} → {mcp, config}.
const IMPORTS: [(&str, &[&str]); 14] = [
    ("mcp", &[]),
    ("config", &[]),
    ("secret", &["mcp", "config"]),
    ("identity", &["mcp", "config"]),
    // The scrubber is given secrets by exact value; rules go by caller.
    ("policy", &["secret", "identity", "mcp", "config"]),
    ("transport", &["mcp", "config"]),
    ("audit", &["mcp", "config"]),
    ("telemetry", &["mcp", "config"]),
    ("cell", &["mcp", "config"]),
    ("proxy", LOWER),
    ("supervise", LOWER),
    ("admin", LOWER),
    (
        "app",
        &[
            "admin",
            "supervise",
            "proxy",
            "transport",
            "policy",
            "secret",
            "identity",
            "audit",
            "telemetry",
            "cell",
            "mcp",
            "config",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "admin",
            "supervise",
            "proxy",
            "transport",
            "policy",
            "secret",
            "identity",
            "audit",
            "telemetry",
            "cell",
            "mcp",
            "config",
        ],
    ),
];

/// What the rooms that join them up may import.
const LOWER: &[&str] = &[
    "transport",
    "policy",
    "secret",
    "identity",
    "audit",
    "telemetry",
    "cell",
    "mcp",
    "config",
];

/// The only rooms that may name a crate, by the path below `src/`.
const OWNERS: [(&str, &[&str]); 36] = [
    ("aho_corasick", &["policy/"]),
    ("annotate_snippets", &["config/", "cli/"]),
    ("anstream", &["cli/"]),
    ("arc_swap", &["app/", "transport/tls"]),
    ("caps", &["cell/"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("getrandom", &["cell/own"]),
    ("http_body_util", &["admin/", "transport/"]),
    ("hyper", &["admin/", "transport/"]),
    ("hyper_util", &["admin/", "transport/"]),
    // The toolbook keeps what the schema room compiled.
    ("jsonschema", &["policy/schema", "policy/toolbook"]),
    ("landlock", &["cell/"]),
    // Constants and calls that nix does not have.
    (
        "libc",
        &["app/slice", "cell/", "config/plain", "transport/"],
    ),
    // Pidfds, descriptor passing, terminals and reads that never wait, without a block of unsafe
    // for each.
    ("rustix", &["app/", "cell/", "transport/"]),
    // Safe system calls, for every room that touches the system.
    (
        "nix",
        &[
            "admin/",
            "app/",
            "audit/",
            "cell/",
            "cli/files",
            "secret/watch",
            "supervise/",
            "telemetry/",
            "transport/",
        ],
    ),
    ("prometheus", &["telemetry/"]),
    // Denials are read out of what servers write to stderr.
    ("regex_automata", &["policy/", "cell/denial"]),
    ("regex_syntax", &["policy/"]),
    ("rcgen", &["transport/tls"]),
    ("region", &["secret/memory"]),
    (
        "ring",
        &[
            "policy/",
            "audit/",
            "cell/package",
            "cli/client",
            "identity/",
            "secret/",
            "transport/tls",
        ],
    ),
    ("rustls", &["transport/"]),
    ("schemars", &["config/", "cli/"]),
    ("seccompiler", &["cell/"]),
    ("socket2", &["cell/egress"]),
    // Hashes of keys are compared in constant time.
    ("subtle", &["identity/"]),
    (
        "tokio",
        &["admin/", "app/http/", "app/upstream/", "transport/"],
    ),
    ("tokio_rustls", &["transport/"]),
    // The cell reads its own data: presets and system call lists.
    ("strsim", &["config/"]),
    // Numbers for allow lists.
    ("syscalls", &["cell/seccomp"]),
    // The scrubber reads its tables line by line; a test holds that reader against the real one.
    ("toml", &["config/", "cell/", "policy/scrub/table_tests.rs"]),
    ("tracing_subscriber", &["telemetry/"]),
    ("unicode_normalization", &["policy/"]),
    // Names in certificates.
    ("x509_cert", &["identity/"]),
    (
        "zeroize",
        &["secret/", "policy/", "cell/", "proxy/", "app/"],
    ),
];

/// Small crates that any room may use.
const COMMON: [&str; 12] = [
    "foldhash",
    "slab",
    "smol_str",
    "base64",
    "jiff",
    "memchr",
    "serde",
    "serde_json",
    "sd_notify",
    "tempfile",
    "thiserror",
    "tracing",
];

/// Rooms that are pure, and what would make them impure: state and time are arguments.
const PURE: [&str; 3] = ["mcp", "identity", "policy"];
const IMPURE: [&str; 6] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "Instant::now",
    "SystemTime::now",
];

/// Lines of a file without its tests.
const LONGEST: usize = 600;

#[test]
fn imports_point_one_way() {
    let found: Vec<String> = sources().iter().flat_map(crossings).collect();
    assert!(
        found.is_empty(),
        "imports against the direction of the map:\n{}",
        found.join("\n")
    );
}

#[test]
fn heavy_crates_have_one_owner() {
    let found: Vec<String> = sources().iter().flat_map(strays).collect();
    assert!(
        found.is_empty(),
        "crates outside the room that owns them:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_dependency_has_an_owner_or_is_common() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let named: BTreeSet<&str> = OWNERS.iter().map(|(name, _)| *name).chain(COMMON).collect();
    let unknown: Vec<String> = manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .map(|key| key.replace('-', "_"))
        .filter(|key| !named.contains(key.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "dependencies without an owner in this test: {unknown:?}"
    );
}

#[test]
fn pure_rooms_stay_pure() {
    let found: Vec<String> = sources().iter().flat_map(impurities).collect();
    assert!(
        found.is_empty(),
        "clocks, files or a runtime in a pure room:\n{}",
        found.join("\n")
    );
}

#[test]
fn files_stay_short() {
    let mut lengths: Vec<(usize, String)> = sources()
        .iter()
        .map(|source| (source.code.lines().count(), source.path.clone()))
        .collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    for (lines, path) in lengths.iter().take(10) {
        println!("{lines:5} src/{path}");
    }
    let total: usize = lengths.iter().map(|(lines, _)| lines).sum();
    println!(
        "{total:5} lines in {} files, tests not counted",
        lengths.len()
    );
    let long: Vec<_> = lengths
        .iter()
        .filter(|(lines, _)| *lines > LONGEST)
        .collect();
    assert!(
        long.is_empty(),
        "longer than {LONGEST} lines without tests: {long:?}"
    );
}

#[test]
fn the_rules_catch_what_they_forbid() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        code: without_tests(text),
    };
    let upward = source("mcp/id.rs", "use crate::policy::Engine;\n");
    assert_eq!(crossings(&upward).len(), 1);
    let braces = source("cell/spec.rs", "use crate::{config::Config, app};\n");
    assert_eq!(crossings(&braces), ["src/cell/spec.rs:1: cell imports app"]);
    let inline = source("audit/log.rs", "fn f() {\n    crate::cli::main();\n}\n");
    assert_eq!(
        crossings(&inline),
        ["src/audit/log.rs:2: audit imports cli"]
    );
    let climbing = source("cell/mod.rs", "use super::app::Sidecar;\n");
    assert_eq!(crossings(&climbing).len(), 1);
    let deep = source("cell/spec.rs", "use super::super::app::Sidecar;\n");
    assert_eq!(crossings(&deep).len(), 1);
    let stray = source("proxy/session.rs", "let pid = nix::unistd::getpid();\n");
    assert_eq!(strays(&stray).len(), 1);
    let clock = source("policy/engine.rs", "let now = std::time::Instant::now();\n");
    assert_eq!(impurities(&clock).len(), 1);

    let fine = "//! See crate::app.\nuse crate::config::Config;\nuse super::Layer;\n\n\
                #[cfg(test)]\nmod tests {\n    use crate::app::run;\n}\n";
    assert!(crossings(&source("cell/spec.rs", fine)).is_empty());
    assert!(
        strays(&source(
            "cell/spec.rs",
            "use nix::unistd;\nuse my::toml::x;\n"
        ))
        .is_empty()
    );
}

/// One file of `src/`, without comments and tests.
struct Source {
    /// Below `src/`.
    path: String,
    code: String,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
            .filter(|(_, line)| {
                let line = line.trim_start();
                !line.starts_with("//")
            })
    }
}

fn crossings(source: &Source) -> Vec<String> {
    let room = source.room();
    if !source.path.contains('/') {
        // lib.rs names every room, main.rs only the command line.
        return Vec::new();
    }
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
        return vec![format!(
            "src/{}: the room {room} is not on the map of this test",
            source.path
        )];
    };
    // How many `super` lead out of the room.
    let inner = source.path.split('/').count() - usize::from(source.path.ends_with("/mod.rs"));
    let out = "super::".repeat(inner);
    let mut found = Vec::new();
    for (at, line) in source.lines() {
        let mut names: Vec<&str> = Vec::new();
        for (position, _) in line.match_indices("crate::") {
            if !line[..position]
                .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$')
            {
                names.extend(first_names(&line[position + "crate::".len()..]));
            }
        }
        if let Some(position) = line.find(&out) {
            names.extend(first_names(&line[position + out.len()..]));
        }
        for name in names {
            let known = IMPORTS.iter().any(|(room, _)| *room == name);
            if known && name != room && !allowed.contains(&name) {
                found.push(format!("src/{}:{at}: {room} imports {name}", source.path));
            }
        }
    }
    found
}

/// The first segment of a path, or of every path of a brace list on the same line.
fn first_names(rest: &str) -> Vec<&str> {
    let ident = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let Some(list) = rest.strip_prefix('{') else {
        return vec![&rest[..ident(rest)]];
    };
    let (mut names, mut depth, mut fresh) = (Vec::new(), 0_i32, true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && depth == 0 && !c.is_whitespace() => {
                names.push(&list[at..at + ident(&list[at..])]);
                fresh = false;
            }
            _ => {}
        }
        if depth < 0 {
            break;
        }
    }
    names
}

fn strays(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (name, owners) in OWNERS {
        if owners.iter().any(|owner| source.path.starts_with(owner)) {
            continue;
        }
        let needle = format!("{name}::");
        for (at, line) in source.lines() {
            let named = line.match_indices(&needle).any(|(position, _)| {
                !line[..position].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if named {
                found.push(format!(
                    "src/{}:{at}: {name} belongs to {owners:?}",
                    source.path
                ));
            }
        }
    }
    found
}

fn impurities(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.room()) {
        return Vec::new();
    }
    let lines = source.lines().filter_map(|(at, line)| {
        let what = IMPURE.iter().find(|what| line.contains(**what))?;
        Some(format!("src/{}:{at}: {what}", source.path))
    });
    lines.collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let base = root().join("src");
    let mut files = Vec::new();
    collect(&base, &mut files);
    assert!(
        files.len() > 20,
        "the walk over {} found too little",
        base.display()
    );
    let mut sources: Vec<Source> = files
        .into_iter()
        .map(|file| Source {
            path: file.strip_prefix(&base).unwrap().display().to_string(),
            code: without_tests(&std::fs::read_to_string(&file).unwrap()),
        })
        .collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let test_only = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(|stem| stem == "proptests" || stem.ends_with("tests"));
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !test_only {
            files.push(path);
        }
    }
}

/// Tests stand at the bottom of a file: what precedes them is the code.
fn without_tests(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].to_owned()
}
