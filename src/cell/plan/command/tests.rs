use super::*;
use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    fn file(&self, path: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// With PATH as a list of directories below the root and HOME below it too.
    fn with<T>(&self, path: &[&str], cwd: &str, run: impl FnOnce(&Host<'_>) -> T) -> T {
        let dirs = path.iter().map(|dir| self.root().join(dir));
        let list = std::env::join_paths(dirs).unwrap();
        let home = self.root().join("home").into_os_string();
        let env = move |name: &str| -> Option<OsString> {
            match name {
                "PATH" => Some(list.clone()),
                "HOME" => Some(home.clone()),
                _ => None,
            }
        };
        run(&Host {
            env: &env,
            cwd: self.root().join(cwd),
        })
    }
}

const ELF: &[u8] = b"\x7fELF\x02\x01";

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn not_found_and_not_executable_are_told_apart() {
    let rig = Rig::new();
    rig.file("bin/plain", ELF, 0o644);
    rig.file("bin/text", b"hello", 0o755);
    rig.with(&["bin"], "", |host| {
        let code = |name: &str| resolve(host, &words(name)).unwrap_err().exit_code();
        assert_eq!(code("nothing"), 127);
        assert_eq!(code("./nothing"), 127);
        assert_eq!(code("text"), 126);
        assert_eq!(code("./bin"), 126);
        if !nix::unistd::geteuid().is_root() || host.find("plain").is_err() {
            assert_eq!(code("plain"), 126);
        }
        assert!(matches!(resolve(host, &[]), Err(PlanError::NoCommand)));
    });
}

#[test]
fn a_script_becomes_its_interpreter() {
    let rig = Rig::new();
    let node = rig.file("bin/node", ELF, 0o755);
    let index = rig.file(
        "lib/node_modules/srv/dist/index.js",
        b"#!/usr/bin/env node\n",
        0o755,
    );
    symlink(&index, rig.root().join("bin/srv")).unwrap();
    let link = rig.root().join("bin/srv");
    rig.with(&["bin"], "", |host| {
        let program = resolve(host, &words("srv --flag")).unwrap();
        let [node, link_text] = [&node, &link].map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(program.args, [node.clone(), link_text, "--flag".into()]);
        assert_eq!(program.path, PathBuf::from(node));
        assert_eq!(program.scripts, std::slice::from_ref(&link));
        let roots = script_roots(host, Preset::Node, &link);
        assert_eq!(roots[0], rig.root().join("lib/node_modules"));
    });
}

#[test]
fn the_interpreters_of_all_forms_of_script_are_found() {
    let rig = Rig::new();
    let of = |content: &str| interpreter(&rig.file("s", content.as_bytes(), 0o755));
    let some = |program: &str, options: &[&str]| {
        let options = options.iter().map(|word| (*word).to_owned()).collect();
        Some(Interpreter {
            program: program.to_owned(),
            options,
        })
    };
    assert_eq!(
        of("#!/venv/bin/python -I\n").unwrap(),
        some("/venv/bin/python", &["-I"])
    );
    assert_eq!(of("#! /bin/x -a b \n").unwrap(), some("/bin/x", &["-a b"]));
    assert_eq!(
        of("#!/usr/bin/env -S node --no-warnings\n").unwrap(),
        some("node", &["--no-warnings"])
    );
    assert_eq!(
        of("#!/usr/bin/env A=1 python3\n").unwrap(),
        some("python3", &[])
    );
    let long = "#!/bin/sh\n'''exec' \"/a b/bin/python\" \"$0\" \"$@\"\n' '''\n";
    assert_eq!(of(long).unwrap(), some("/a b/bin/python", &[]));
    assert!(of("#!\n").is_err());
    assert!(of("#!/usr/bin/env\n").is_err());
    assert!(of("MZ").is_err());
}

#[test]
fn interpreters_that_stand_for_each_other_end() {
    let rig = Rig::new();
    let path = rig.root().join("bin/loop");
    rig.file(
        "bin/loop",
        format!("#!{}\n", path.display()).as_bytes(),
        0o755,
    );
    rig.with(&["bin"], "", |host| {
        assert_eq!(resolve(host, &words("loop")).unwrap_err().exit_code(), 126);
    });
}

#[test]
fn shims_are_seen_through_without_running_them() {
    let rig = Rig::new();
    rig.file(".pyenv/shims/python3", b"#!/usr/bin/env bash\n", 0o755);
    rig.file(".pyenv/version", b"3.11\n", 0o644);
    let system = rig.file("bin/python3", ELF, 0o755);
    let old = rig.file(".pyenv/versions/3.11.7/bin/python3", ELF, 0o755);
    let new = rig.file(".pyenv/versions/3.11.10/bin/python3", ELF, 0o755);
    let other = rig.file(".pyenv/versions/3.12.1/bin/python3", ELF, 0o755);
    rig.file("project/.python-version", b"3.12.1\n", 0o644);
    rig.file("evil/.python-version", b"../../bin\n", 0o644);
    rig.file("system/.python-version", b"system\n", 0o644);
    let path = [".pyenv/shims", "bin"];
    let found = |cwd: &str| rig.with(&path, cwd, |host| host.find("python3").unwrap());
    assert_eq!(found(""), new, "the newest of 3.11, not {old:?}");
    assert_eq!(found("project"), other);
    assert_eq!(found("system"), system);
    assert_eq!(
        found("evil"),
        system,
        "a version never leads out of versions"
    );
    rig.with(&path, "", |host| {
        let program = resolve(host, &words("python3 x.py")).unwrap();
        assert_eq!(program.args[0], new.to_str().unwrap());
        assert_eq!(preset(&program.path), Preset::Python);
    });
}

#[test]
fn the_target_of_an_interpreter_is_found_behind_its_options() {
    let node = |line: &str| target(Preset::Node, &words(line));
    assert_eq!(node("node /srv/a.js --x"), Target::Script(1));
    assert_eq!(
        node("node --enable-source-maps -r ts-node/register a.ts"),
        Target::Script(4)
    );
    assert_eq!(node("node --import=tsx a.ts"), Target::Script(2));
    assert_eq!(node("node -e 1 a.js"), Target::Inline);
    assert_eq!(node("node"), Target::Inline);
    let python = |line: &str| target(Preset::Python, &words(line));
    assert_eq!(
        python("python -u -X utf8 -Werror s.py -m x"),
        Target::Script(5)
    );
    assert_eq!(
        python("python -Im pkg.mod x.py"),
        Target::Module("pkg.mod".into())
    );
    assert_eq!(python("python -mpkg"), Target::Module("pkg".into()));
    assert_eq!(python("python -c 1 s.py"), Target::Inline);
    assert_eq!(python("python -- s.py"), Target::Script(2));
    assert_eq!(python("python -"), Target::Inline);
}

#[test]
fn a_script_in_the_home_directory_grants_only_itself() {
    let rig = Rig::new();
    let script = rig.file("home/server.js", b"", 0o644);
    rig.file("home/package.json", b"{}", 0o644);
    rig.with(&[], "home", |host| {
        assert!(host.too_wide(&rig.root().join("home")));
        assert!(host.too_wide(&rig.root()));
        assert!(!host.too_wide(&rig.root().join("home/x")));
        assert_eq!(
            script_roots(host, Preset::Node, Path::new("server.js")),
            [script]
        );
    });
    for path in ["/tmp", "/usr/bin", "/etc", "/", "/opt/x/bin"] {
        rig.with(&[], "", |host| {
            assert!(host.too_wide(Path::new(path)), "{path}");
        });
    }
    let script = rig.file("work/app/src/main.py", b"", 0o644);
    rig.with(&[], "", |host| {
        let roots = script_roots(host, Preset::Python, &script);
        assert_eq!(roots, [script.parent().unwrap()]);
    });
}

#[test]
fn a_package_of_a_workspace_brings_the_modules_above_it() {
    let rig = Rig::new();
    let script = rig.file("ws/packages/a/dist/index.js", b"", 0o644);
    rig.file("ws/packages/a/package.json", b"{}", 0o644);
    rig.file("ws/node_modules/dep/index.js", b"", 0o644);
    rig.with(&[], "", |host| {
        let roots = script_roots(host, Preset::Node, &script);
        assert!(roots.contains(&rig.root().join("ws/packages/a")));
        assert!(roots.contains(&rig.root().join("ws/node_modules")));
        assert!(!roots.contains(&rig.root().join("ws")));
    });
}
