//! Two lives of one server: what the first leaves in its writable grant does not let the second read
//! what was never granted.

use crate::support::{Ended, enter, namespaces_work, skip};
use cofferdam::cell::{PlanError, plan};
use cofferdam::config::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECRET: &str = "s3cr3t-of-the-operator";

/// `proj` is writable, `vault` is not granted.
struct Place {
    root: tempfile::TempDir,
    python: PathBuf,
}

impl Place {
    fn new() -> Option<Self> {
        let python = Path::new("/usr/bin/python3");
        let Ok(python) = python.canonicalize() else {
            skip("cell.runtime.python3", "not where anybody can reach it");
            return None;
        };
        let root = tempfile::tempdir().unwrap();
        for dir in ["proj/.venv/bin", "proj/x", "vault", "elsewhere"] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let place = Self { root, python };
        std::os::unix::fs::symlink(&place.python, place.at("proj/.venv/bin/python")).unwrap();
        std::fs::write(place.at("proj/.venv/pyvenv.cfg"), "home = /usr/bin\n").unwrap();
        std::fs::write(place.at("vault/secret"), SECRET).unwrap();
        let reader = format!("print(open({:?}).read())", place.at("vault/secret"));
        std::fs::write(place.at("vault/main.py"), &reader).unwrap();
        std::fs::write(place.at("proj/server.py"), "print('server')").unwrap();
        Some(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn config(&self, namespaces: bool) -> Cell {
        let off = (!namespaces).then(|| "namespaces".to_owned());
        Cell {
            write: vec![self.at("proj")],
            off: off.into_iter().collect(),
            user: nix::unistd::geteuid().is_root().then(|| "root".to_owned()),
            ..Cell::default()
        }
    }

    /// A life: planned from what lies there now.
    fn live(config: &Cell, command: &[&str]) -> Result<Ended, PlanError> {
        let tmp = tempfile::tempdir().unwrap();
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let spec = plan(config, &words, tmp.path(), &|name| std::env::var_os(name))?;
        let mut ended = enter(&spec);
        for warning in &spec.warnings {
            ended.stderr.push_str(warning);
        }
        Ok(ended)
    }

    /// The first life does this with its files, in the cell.
    fn tamper(&self, config: &Cell, code: &str) {
        let code = format!(
            "import os\nos.chdir({:?})\n{code}\nprint('tampered')",
            self.at("proj")
        );
        let python = self.text("proj/.venv/bin/python");
        let ended = Self::live(config, &[&python, "-c", &code]).unwrap();
        assert!(ended.stdout.contains("tampered"), "{ended:?}");
    }

    /// What a second life prints that reads the secret by this name.
    fn read(&self, config: &Cell, name: &str) -> Result<Ended, PlanError> {
        let python = self.text("proj/.venv/bin/python");
        let code = format!("print(open({:?}).read())", self.at(name));
        Self::live(config, &[&python, "-c", &code])
    }
}

fn in_both(judge: impl Fn(&Place, &Cell)) {
    let mut tiers = vec![false];
    tiers.extend(namespaces_work().then_some(true));
    for namespaces in tiers {
        let Some(place) = Place::new() else { return };
        // The check itself would see the secret.
        let mut open = place.config(namespaces);
        open.read.push(place.at("vault"));
        assert!(
            place
                .read(&open, "vault/secret")
                .unwrap()
                .stdout
                .contains(SECRET)
        );
        judge(&place, &place.config(namespaces));
    }
}

/// The second life starts, and cannot read it.
fn works_without(ended: &Ended, warned: &str) {
    assert!(!ended.stdout.contains(SECRET), "{ended:?}");
    assert!(ended.messages.len() == 1, "{ended:?}");
    assert!(ended.stderr.contains(warned), "{ended:?}");
}

/// The second life is refused, and the operator hears what leads where.
fn is_refused(life: Result<Ended, PlanError>, by: &Path) {
    match life {
        Err(error @ PlanError::Outside { .. }) => {
            assert_eq!(error.exit_code(), 78);
            assert!(error.to_string().contains(by.to_str().unwrap()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_virtual_environment_names_no_other_home() {
    in_both(|place, config| {
        let vault = place.at("vault");
        place.tamper(
            config,
            &format!(
                "os.symlink({vault:?}, 'x/lib')\nopen('.venv/pyvenv.cfg', 'w').write('home = ' + os.getcwd() + '/x/bin')"
            ),
        );
        works_without(&place.read(config, "vault/secret").unwrap(), "");
        works_without(&place.read(config, "proj/x/lib/secret").unwrap(), "");
        // Not by what a Python looks like either.
        place.tamper(config, "os.mkdir('x/lib64')\nos.mkdir('x/lib64/python3.9')\nopen('x/lib64/python3.9/os.py', 'w')");
        works_without(&place.read(config, "vault/secret").unwrap(), "");
    });
}

#[test]
fn a_path_of_the_operator_does_not_become_a_link_to_another() {
    in_both(|place, config| {
        place.tamper(config, "os.mkdir('in')");
        for write in [false, true] {
            let mut config = config.clone();
            let list = if write {
                &mut config.write
            } else {
                &mut config.read
            };
            list.push(place.at("proj/in"));
            let before = place.read(&config, "vault/secret").unwrap();
            works_without(&before, "");
            let vault = place.at("vault");
            place.tamper(
                &config,
                &format!("os.rmdir('in')\nos.symlink({vault:?}, 'in')"),
            );
            is_refused(place.read(&config, "vault/secret"), &place.at("proj/in"));
            // Where it leads is granted by its own name: nothing is gained by the link.
            let mut known = config.clone();
            known.read.push(place.at("vault"));
            if !write {
                assert!(place.read(&known, "vault/secret").is_ok());
            }
            std::fs::remove_file(place.at("proj/in")).unwrap();
            std::fs::create_dir(place.at("proj/in")).unwrap();
        }
    });
}

#[test]
fn a_script_that_becomes_a_link_brings_nothing_along() {
    in_both(|place, config| {
        let (python, script) = (
            place.text("proj/.venv/bin/python"),
            place.text("proj/server.py"),
        );
        let life = || Place::live(config, &[&python, &script]);
        assert_eq!(life().unwrap().stdout, "server\n");
        let main = place.at("vault/main.py");
        place.tamper(
            config,
            &format!("os.remove('server.py')\nos.symlink({main:?}, 'server.py')"),
        );
        works_without(&life().unwrap(), "proj/server.py");
    });
}

#[test]
fn the_program_does_not_become_a_link_or_a_script_that_names_another() {
    in_both(|place, config| {
        let server = place.text("proj/server");
        let life = || Place::live(config, &[&server]);
        std::fs::copy("/bin/true", place.at("proj/server")).unwrap();
        std::fs::copy("/bin/true", place.at("elsewhere/tool")).unwrap();
        assert_eq!(life().unwrap().code, Some(0));
        let tool = place.at("elsewhere/tool");
        place.tamper(
            config,
            &format!("os.remove('server')\nos.symlink({tool:?}, 'server')"),
        );
        is_refused(life(), &place.at("proj/server"));
        let code = format!(
            "os.remove('server')\nopen('server', 'w').write('#!' + {tool:?} + chr(10))\nos.chmod('server', 0o755)"
        );
        place.tamper(config, &code);
        is_refused(life(), &place.at("proj/server"));
    });
}

#[test]
fn a_binary_names_no_directory_or_loader_that_is_none() {
    in_both(|place, config| {
        let source = place.at("elsewhere/server.c");
        let text = "#include <stdio.h>\nint main(int n, char **v) { char b[99] = {0}; FILE *f = fopen(v[1], \"r\");\
                    if (!f) return 9; fgets(b, 98, f); puts(b); return 0; }";
        std::fs::write(&source, text).unwrap();
        let vault = place.text("vault");
        let build = |name: &str, option: &str| {
            let mut cc = Command::new("cc");
            cc.arg(&source).arg("-o").arg(place.at(name)).arg(option);
            cc.status().is_ok_and(|status| status.success())
        };
        let secret = place.text("vault/secret");
        // In the writable grant, and anywhere: a program need not be a friend.
        for name in ["proj/server", "elsewhere/server"] {
            if !build(name, &format!("-Wl,-rpath,{vault}")) {
                return skip("cell.compiler", "cc");
            }
            let ended = Place::live(config, &[&place.text(name), &secret]).unwrap();
            works_without(&ended, "");
            assert_eq!(ended.code, Some(9));
            // One that looks right is not granted because the server wrote its name.
            std::fs::create_dir_all(place.at("vault/lib")).unwrap();
            for file in ["key", "libx.so"] {
                std::fs::write(place.at("vault/lib").join(file), SECRET).unwrap();
            }
            if name.starts_with("proj") {
                assert!(build(name, &format!("-Wl,-rpath,{vault}/lib")));
                let key = place.text("vault/lib/key");
                let ended = Place::live(config, &[&place.text(name), &key]).unwrap();
                works_without(&ended, "proj/server");
                assert_eq!(ended.code, Some(9));
            }
            // The loader is granted too, and any file may be named as one.
            assert!(build(
                "elsewhere/loaded",
                &format!("-Wl,--dynamic-linker={secret}")
            ));
            let mut helped = config.clone();
            helped.execute.push(place.text("elsewhere/loaded"));
            works_without(&place.read(&helped, "vault/secret").unwrap(), "");
        }
    });
}
