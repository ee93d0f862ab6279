//! Whole installs with the real npm and pip, from packages that are made here: no registry, no cell.

use super::*;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs without a cell; counts.
#[derive(Default)]
struct Plain {
    runs: AtomicUsize,
}

impl Runner for &Plain {
    fn run(
        &mut self,
        spec: &CellSpec,
        limit: Duration,
        on_line: &mut dyn FnMut(&str),
    ) -> io::Result<Exit> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(&spec.program);
        command
            .args(spec.args.iter().skip(1))
            .env_clear()
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.cwd)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command.spawn()?;
        drop(command);
        if limit.is_zero() {
            child.kill()?;
            child.wait()?;
            return Ok(Exit::TimeOut);
        }
        for line in BufReader::new(reader).lines() {
            on_line(&line?);
        }
        let status = child.wait()?;
        Ok(status.code().map_or(Exit::Signal(0), Exit::Code))
    }
}

/// A cache, a home and a place for packages, and what was said.
struct World {
    dir: tempfile::TempDir,
    packages: Packages,
    env: BTreeMap<String, String>,
    runner: Plain,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        for name in ["PATH", "PYENV_ROOT"] {
            if let Ok(value) = std::env::var(name) {
                env.insert(name.to_owned(), value);
            }
        }
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        // pyenv lies in the real home.
        if let Ok(real) = std::env::var("HOME") {
            env.entry("PYENV_ROOT".to_owned())
                .or_insert(format!("{real}/.pyenv"));
        }
        env.insert("HOME".to_owned(), home.display().to_string());
        // Nobody listens on the discard port: what needs a registry fails at once.
        env.insert(
            "npm_config_registry".to_owned(),
            "http://127.0.0.1:9/".to_owned(),
        );
        env.insert(
            "PIP_INDEX_URL".to_owned(),
            "http://127.0.0.1:9/simple".to_owned(),
        );
        env.insert("PIP_RETRIES".to_owned(), "0".to_owned());
        env.insert("npm_config_fetch_retries".to_owned(), "0".to_owned());
        let packages = Packages {
            cache: dir.path().join("cache"),
            ..Packages::default()
        };
        Self {
            dir,
            packages,
            env,
            runner: Plain::default(),
        }
    }

    fn setup(&self) -> Setup<'_> {
        Setup {
            packages: &self.packages,
            env: &self.env,
            cwd: self.dir.path(),
            cell_write: &[],
            optional: &[],
            limit: Duration::from_secs(120),
        }
    }

    fn prepare(&self, line: &str) -> (Result<Prepared, PackageError>, Vec<String>) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let request = detect(&words, self.dir.path()).unwrap().unwrap();
        let mut said = Vec::new();
        let result = prepare(&request, &self.setup(), &mut &self.runner, &mut |line| {
            said.push(line.to_owned());
        });
        (result, said)
    }

    fn runs(&self) -> usize {
        self.runner.runs.load(Ordering::SeqCst)
    }

    /// A package as `npm pack` makes it, with a script that leaves a mark when it runs.
    fn tarball(&self) -> String {
        let package = self.dir.path().join("package");
        fs::create_dir_all(&package).unwrap();
        let mark = self.dir.path().join("mark");
        fs::write(
            package.join("package.json"),
            format!(
                r#"{{"name":"@t/tiny","version":"1.2.3","bin":{{"tiny":"main.js"}},
                   "scripts":{{"postinstall":"echo ran > {}"}}}}"#,
                mark.display()
            ),
        )
        .unwrap();
        fs::write(
            package.join("main.js"),
            "#!/usr/bin/env node\nconsole.log('tiny', ...process.argv.slice(2));\n",
        )
        .unwrap();
        let status = Command::new("tar")
            .args(["-czf", "tiny-1.2.3.tgz", "package"])
            .current_dir(self.dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        "./tiny-1.2.3.tgz".to_owned()
    }

    /// A wheel with one program.
    fn wheel(&self) -> String {
        let code = r#"
import zipfile
info = 'tiny_py-0.4.dist-info/'
with zipfile.ZipFile('tiny_py-0.4-py3-none-any.whl', 'w') as z:
    z.writestr('tiny_py.py', 'import sys\ndef main():\n    print("tiny", *sys.argv[1:])\n')
    z.writestr(info + 'METADATA', 'Metadata-Version: 2.1\nName: tiny-py\nVersion: 0.4\n')
    z.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    z.writestr(info + 'entry_points.txt', '[console_scripts]\ntiny-py = tiny_py:main\n')
    z.writestr(info + 'RECORD', '')
"#;
        let status = Command::new("python3")
            .args(["-c", code])
            .current_dir(self.dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        "./tiny_py-0.4-py3-none-any.whl".to_owned()
    }
}

fn output(prepared: &Prepared) -> String {
    let (program, args) = prepared.command.split_first().unwrap();
    let output = Command::new(program)
        .args(args)
        .env_clear()
        .envs(prepared.env.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Said once for a machine without the tool, instead of a failure.
fn is_missing(tool: &str) -> bool {
    let missing = Command::new(tool).arg("--version").output().is_err();
    if missing {
        println!("SKIPPED: package.{tool}: it is not installed");
    }
    missing
}

#[test]
fn a_tarball_is_installed_once_without_its_scripts_and_started() {
    if is_missing("npm") {
        return;
    }
    let world = World::new();
    let tarball = world.tarball();
    let (first, said) = world.prepare(&format!("npx -y {tarball} a b"));
    let first = first.unwrap();
    assert_eq!(
        (first.name.as_str(), first.version.as_str(), first.floating),
        ("@t/tiny", "1.2.3", false)
    );
    assert_eq!(output(&first), "tiny a b\n");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].starts_with("installing ") && said[1].starts_with("installed @t/tiny 1.2.3 in "),
        "{said:?}"
    );
    assert!(
        !world.dir.path().join("mark").exists(),
        "the postinstall script ran"
    );

    let (second, said) = world.prepare(&format!("npx -y -p {tarball} tiny c"));
    assert_eq!(output(&second.unwrap()), "tiny c\n");
    assert_eq!((said.len(), world.runs()), (0, 1), "{said:?}");
    let staging = world.packages.cache.join("staging");
    assert_eq!(
        fs::read_dir(staging).unwrap().count(),
        1,
        "only the lock of the sweep is left"
    );

    let (other, _) = world.prepare(&format!("npx -y -p {tarball} other"));
    let error = other.unwrap_err();
    assert_eq!(
        error.to_string(),
        "@t/tiny has no program named \"other\"; it has: tiny"
    );
    assert_eq!(error.exit_code(), 127);
}

#[test]
fn scripts_run_when_the_operator_lets_them() {
    if is_missing("npm") {
        return;
    }
    let mut world = World::new();
    world.packages.scripts = true;
    let tarball = world.tarball();
    world.prepare(&format!("npx -y {tarball}")).0.unwrap();
    assert!(world.dir.path().join("mark").exists());
}

#[test]
fn a_changed_entry_is_refused_and_not_repaired_in_silence() {
    if is_missing("npm") {
        return;
    }
    let world = World::new();
    let line = format!("npx -y {}", world.tarball());
    let first = world.prepare(&line).0.unwrap();
    let main = fs::canonicalize(&first.command[1]).unwrap();
    let mut mode = fs::metadata(&main).unwrap().permissions();
    assert!(mode.readonly());
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "a test file in a private directory"
    )]
    mode.set_readonly(false);
    fs::set_permissions(&main, mode).unwrap();
    fs::write(&main, "evil()").unwrap();
    for _ in 0..2 {
        let error = world.prepare(&line).0.unwrap_err();
        assert_eq!(error.exit_code(), 77);
        assert!(
            error
                .to_string()
                .ends_with("node_modules/@t/tiny/main.js was changed"),
            "{error}"
        );
    }
    assert_eq!(world.runs(), 1);
}

#[test]
fn two_starts_at_once_install_once() {
    if is_missing("npm") {
        return;
    }
    let world = World::new();
    let line = format!("npx -y {}", world.tarball());
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| world.prepare(&line)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let commands: Vec<_> = results
        .iter()
        .map(|(prepared, _)| &prepared.as_ref().unwrap().command)
        .collect();
    assert!(commands.iter().all(|command| *command == commands[0]));
    assert_eq!(world.runs(), 1);
    let waited = results
        .iter()
        .filter(|(_, said)| said.iter().any(|line| line.starts_with("waiting")))
        .count();
    assert_eq!(waited, 2);
}

#[test]
fn nothing_cached_and_no_registry_is_said() {
    if is_missing("npm") {
        return;
    }
    let world = World::new();
    let (result, said) = world.prepare("npx -y left-pad");
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 69, "{error} {said:?}");
    assert_eq!(
        error.to_string(),
        "left-pad is not installed and the registry cannot be reached"
    );
}

#[test]
fn a_timeout_keeps_nothing() {
    if is_missing("npm") {
        return;
    }
    let world = World::new();
    let words: Vec<String> = ["npx", &world.tarball()].map(str::to_owned).to_vec();
    let request = detect(&words, world.dir.path()).unwrap().unwrap();
    let setup = Setup {
        limit: Duration::ZERO,
        ..world.setup()
    };
    let error = prepare(&request, &setup, &mut &world.runner, &mut |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), 75);
    assert_eq!(
        fs::read_dir(world.packages.cache.join("npm"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_wheel_is_installed_once_and_started() {
    if is_missing("python3") {
        return;
    }
    let world = World::new();
    let wheel = world.wheel();
    let (first, said) = world.prepare(&format!("pipx run --spec {wheel} tiny-py a"));
    let first = first.unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(
        (first.name.as_str(), first.version.as_str()),
        ("tiny-py", "0.4")
    );
    assert_eq!(output(&first), "tiny a\n");
    let script = &first.command[1];
    let text = fs::read_to_string(script).unwrap();
    let here = first.command[0].as_str();
    assert!(text.starts_with(&format!("#!{here}")), "{text}");
    let bytecode = Path::new(script)
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("lib");
    let caches = fs::read_dir(bytecode).unwrap().flatten().next().unwrap();
    assert!(caches.path().join("site-packages/__pycache__").is_dir());

    let runs = world.runs();
    assert_eq!(
        output(
            &world
                .prepare(&format!("pipx run --spec {wheel} tiny-py b"))
                .0
                .unwrap()
        ),
        "tiny b\n"
    );
    assert_eq!(world.runs(), runs);
}

#[test]
fn a_cache_that_the_server_may_write_is_refused() {
    let world = World::new();
    let words: Vec<String> = ["npx", "p"].map(str::to_owned).to_vec();
    let request = detect(&words, world.dir.path()).unwrap().unwrap();
    let granted = [world.dir.path().to_owned()];
    let setup = Setup {
        cell_write: &granted,
        ..world.setup()
    };
    let error = prepare(&request, &setup, &mut &world.runner, &mut |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert_eq!(world.runs(), 0);
}

#[test]
fn tools_that_are_missing_are_named() {
    let mut world = World::new();
    world
        .env
        .insert("PATH".to_owned(), world.dir.path().display().to_string());
    world.env.remove("PYENV_ROOT");
    for (line, words) in [
        ("npx p", "node was not found"),
        ("uvx p", "Python 3 was not found"),
    ] {
        let error = world.prepare(line).0.unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.exit_code()),
            (words, 127)
        );
    }
}

#[test]
fn the_cell_of_npm_writes_one_place_and_holds_no_token() {
    if is_missing("npm") {
        return;
    }
    let mut world = World::new();
    let home = world.dir.path().join("home");
    fs::write(
        home.join(".npmrc"),
        "registry=https://u:secret1@r.example:8443/npm/\n@c:registry=http://c.example/\n\
         //r.example:8443/npm/:_authToken=secret2\n//c.example/:_authToken=${C_TOKEN}\n\
         //d.example/:_authToken=${D_TOKEN}\nscript-shell=/tmp/evil\ncafile=/etc/ssl/certs/ca-certificates.crt\n",
    )
    .unwrap();
    world.env.remove("npm_config_registry");
    for (name, value) in [
        ("C_TOKEN", "secret3"),
        ("D_TOKEN", "secret4"),
        ("LD_PRELOAD", "/x.so"),
        ("NODE_OPTIONS", "-r /x"),
        ("AWS_KEY", "secret5"),
    ] {
        world.env.insert(name.to_owned(), value.to_owned());
    }
    world.packages.token_env = vec!["C_TOKEN".to_owned()];
    let words: Vec<String> = ["npx", "p"].map(str::to_owned).to_vec();
    let request = detect(&words, world.dir.path()).unwrap().unwrap();
    let setup = world.setup();
    let node = npm::Node::find(&request, &setup).unwrap();
    let cache = Cache::open(&world.packages.cache).unwrap();
    let staging = cache.stage().unwrap();
    let (spec, settings) = node.cell(&request, &setup, &staging).unwrap();
    let npmrc = fs::read_to_string(staging.private().join("npmrc")).unwrap();
    assert!(settings.left_out);
    let all = format!("{npmrc} {:?} {:?}", spec.env, spec.args);
    for absent in [
        "secret1",
        "secret2",
        "secret4",
        "secret5",
        "D_TOKEN",
        "LD_PRELOAD",
        "NODE_OPTIONS",
        "script-shell",
    ] {
        assert!(!all.contains(absent), "{absent}: {all}");
    }
    for present in [
        "registry=https://r.example:8443/npm/\n",
        "@c:registry=http://c.example/\n",
        "//c.example/:_authToken=${C_TOKEN}\n",
    ] {
        assert!(npmrc.contains(present), "{present}: {npmrc}");
    }
    assert!(
        spec.env
            .contains(&("C_TOKEN".to_owned(), "secret3".to_owned()))
    );
    let mut ports = spec.connect_ports.clone();
    ports.sort_unstable();
    assert_eq!(ports, [53, 80, 8443]);
    assert!(
        spec.write
            .iter()
            .all(|path| path == staging.root() || path == Path::new("/dev/null"))
    );
    assert!(
        !spec
            .read
            .iter()
            .chain(&spec.execute)
            .any(|path| home.starts_with(path))
    );
    assert!(spec.args.contains(&"--ignore-scripts=true".to_owned()));
}
