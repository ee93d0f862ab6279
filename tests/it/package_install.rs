//! Packages from the real registries, installed by the real npm and pip in real install cells.

use super::package_cell::{World, closed_cell, start};
use cofferdam::cell::package::Prepared;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

/// The first line that the server answers from a cell without network and without our files.
fn first_answer(prepared: &Prepared) -> String {
    let dir = tempfile::tempdir().unwrap();
    let spec = closed_cell(prepared, dir.path());
    let began = std::time::Instant::now();
    let (mut child, _status) =
        start(&spec, Stdio::piped(), Stdio::piped(), Stdio::inherit()).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{INITIALIZE}").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    drop(stdin);
    println!("first answer after {:?}", began.elapsed());
    child.kill().ok();
    child.wait().unwrap();
    line
}

#[test]
fn a_server_from_npm_installs_once_and_answers_from_a_closed_cell() {
    let mut world = World::new();
    let line = "npx -y @modelcontextprotocol/server-everything@2026.8.31";
    let Some((first, said)) = world.online(line) else {
        return;
    };
    assert!(!first.floating);
    assert_eq!(
        said.first().unwrap(),
        "installing @modelcontextprotocol/server-everything@2026.8.31 with npm ..."
    );
    assert!(first_answer(&first).contains("serverInfo"));

    world.without_network();
    let (second, said) = world.prepare(line);
    assert_eq!(second.unwrap(), first);
    assert_eq!(
        (said.len(), world.launcher.runs),
        (0, 1),
        "a warm start asks nobody"
    );
}

#[test]
fn a_floating_version_is_named_and_kept_when_nobody_answers() {
    let mut world = World::new();
    let Some((first, said)) = world.online("npx -y semver@latest 1.2.3") else {
        return;
    };
    assert!(first.floating);
    let words = format!(
        "and is semver {} now; pin it as semver@{}",
        first.version, first.version
    );
    assert!(said.last().unwrap().ends_with(&words), "{said:?}");

    // A day later the tag would be asked for again.
    let record = world.record("npm");
    let text = std::fs::read_to_string(&record).unwrap();
    let start = text.find("\"checked_at\": ").unwrap() + "\"checked_at\": ".len();
    let end = start + text[start..].find(',').unwrap();
    std::fs::write(&record, format!("{}1000{}", &text[..start], &text[end..])).unwrap();
    let runs = world.launcher.runs;
    let (again, _) = world.prepare("npx -y semver@latest 1.2.3");
    assert_eq!(
        (again.unwrap(), world.launcher.runs),
        (first.clone(), runs + 1)
    );
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(!text.contains("\"checked_at\": 1000,"), "{text}");

    std::fs::write(&record, format!("{}1000{}", &text[..start], &text[end..])).unwrap();
    world.without_network();
    let (offline, said) = world.prepare("npx -y semver@latest 1.2.3");
    assert_eq!(offline.unwrap(), first);
    assert!(
        said.iter()
            .any(|line| line.ends_with(&format!("using semver@{}", first.version))),
        "{said:?}"
    );
}

#[test]
fn a_server_from_pypi_installs_once_and_answers_from_a_closed_cell() {
    let mut world = World::new();
    let Some((first, said)) = world.online("uvx mcp-server-time") else {
        return;
    };
    assert!(first.floating);
    let warning = said.last().unwrap();
    assert!(
        warning.starts_with("warning: `mcp-server-time` floats and is mcp-server-time 20"),
        "{warning}"
    );
    assert!(first_answer(&first).contains("serverInfo"));

    world.without_network();
    let runs = world.launcher.runs;
    let (second, said) = world.prepare("uvx mcp-server-time");
    assert_eq!(second.unwrap(), first);
    assert_eq!(
        (said.len(), world.launcher.runs),
        (1, runs),
        "a warm start asks nobody"
    );

    let error = world.prepare("uvx mcp-server-git").0.unwrap_err();
    assert_eq!(error.exit_code(), 69, "{error}");
}

/// A package whose install script is hostile, and what of it reached the world outside.
#[test]
fn a_hostile_install_script_reaches_its_own_staging_and_nothing_else() {
    let mut world = World::new();
    world.packages.scripts = true;
    world.without_network();
    let root = world.dir.path().to_owned();
    let home = root.join("home");
    std::fs::create_dir_all(root.join("package")).unwrap();
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join(".npmrc"), "//r.example/:_authToken=hunter2\n").unwrap();
    world
        .env
        .insert("HOME".to_owned(), home.display().to_string());
    world
        .env
        .insert("GITHUB_TOKEN".to_owned(), "hunter2".to_owned());
    // Another package is there already.
    let other = world.packages.cache.join("npm/other@1.0.0-000000000000");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("index.js"), "good").unwrap();
    let script = r#"
const fs = require('fs');
const tried = {};
const attempt = (name, act) => { try { act(); tried[name] = 'DONE'; } catch (e) { tried[name] = e.code || 'failed'; } };
attempt('poison another package', () => fs.writeFileSync('OTHER/index.js', 'evil'));
attempt('add a record', () => fs.writeFileSync('CACHE/npm/evil@1.0.0-000000000000.json', '{}'));
attempt('take a lock', () => fs.writeFileSync('CACHE/locks/npm-000000000000', ''));
attempt('read the token', () => fs.readFileSync('HOME/.npmrc'));
attempt('write to the home', () => fs.writeFileSync('HOME/.bashrc', 'evil'));
attempt('write to /tmp', () => fs.writeFileSync('/tmp/cofferdam-test-evil', 'evil'));
attempt('see a variable', () => { if (!process.env.GITHUB_TOKEN) throw Error('none'); });
attempt('link out', () => fs.linkSync('OTHER/index.js', 'stolen'));
fs.writeFileSync('tried.json', JSON.stringify(tried));
"#;
    let script = script
        .replace("OTHER", &other.display().to_string())
        .replace("CACHE", &world.packages.cache.display().to_string())
        .replace("HOME/", &format!("{}/", home.display()));
    std::fs::write(root.join("package/evil.js"), script).unwrap();
    std::fs::write(
        root.join("package/package.json"),
        r#"{"name":"evil","version":"1.0.0","bin":"evil.js","scripts":{"postinstall":"node evil.js"}}"#,
    )
    .unwrap();
    let packed = std::process::Command::new("tar")
        .args(["-czf", "evil-1.0.0.tgz", "package"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(packed.success());

    let (result, said) = world.prepare("npx -y ./evil-1.0.0.tgz");
    let prepared = result.unwrap_or_else(|error| panic!("{error} {said:#?}"));
    let entry = prepared
        .execute
        .iter()
        .find(|path| path.starts_with(&world.packages.cache));
    let tried =
        std::fs::read_to_string(entry.unwrap().join("node_modules/evil/tried.json")).unwrap();
    let tried: std::collections::BTreeMap<String, String> = serde_json::from_str(&tried).unwrap();
    assert_eq!(tried.len(), 8, "{tried:?}");
    let done: Vec<_> = tried
        .iter()
        .filter(|(_, outcome)| *outcome == "DONE")
        .collect();
    assert!(done.is_empty(), "{tried:?}");
    assert_eq!(
        std::fs::read_to_string(other.join("index.js")).unwrap(),
        "good"
    );
    assert!(!std::path::Path::new("/tmp/cofferdam-test-evil").exists());
}

/// Where a uv of the tests lies: `COFFERDAM_TEST_UV`, the test fixtures, or PATH.
fn uv_dir() -> Option<std::path::PathBuf> {
    let named = std::env::var("COFFERDAM_TEST_UV")
        .ok()
        .map(std::path::PathBuf::from);
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/target/fixtures/pypi/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let on_path = path.split(':').map(std::path::PathBuf::from);
    named
        .into_iter()
        .chain([std::path::PathBuf::from(fixtures)])
        .chain(on_path)
        .find(|dir| dir.join("uv").is_file())
}

#[test]
fn uv_installs_for_uvx_when_it_is_there() {
    let Some(dir) = uv_dir() else {
        println!("SKIPPED: package.uv: uv is not installed");
        return;
    };
    let mut world = World::new();
    let path = format!("{}:{}", dir.display(), world.env.get("PATH").unwrap());
    world.env.insert("PATH".to_owned(), path);
    let line = "uvx --from idna==3.10 --with six idna";
    let request_error = match world.prepare(line) {
        // idna 3.10 has no program: what uv installed is known by that.
        (Err(error), said) => {
            assert_eq!(
                said.first().unwrap(),
                "installing idna==3.10 with uv ...",
                "{said:?}"
            );
            error
        }
        (Ok(prepared), _) => panic!("{prepared:?}"),
    };
    if request_error.exit_code() == 69 {
        println!("SKIPPED: package.registry: {}", request_error.hint());
        return;
    }
    assert_eq!(request_error.exit_code(), 127, "{request_error}");

    let Some((time, said)) = world.online("uvx mcp-server-time==2026.10.19") else {
        return;
    };
    assert!(
        said.iter()
            .any(|line| line.starts_with("installing mcp-server-time==2026.10.19 with uv"))
    );
    assert!(first_answer(&time).contains("serverInfo"));
}
