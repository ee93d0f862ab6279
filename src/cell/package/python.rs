//! Installs from a Python index: which interpreter and installer, the install cells, the programs.
//!
//! A package gets a virtual environment of its own, whose interpreter stays where it is. `uv` does
//! it when the command is uv's and uv is there, `python -m venv` and pip otherwise. Only wheels are
//! taken: building a source distribution runs the package's code (`packages.scripts` allows it).

use super::cache::Staging;
use super::entry::Start;
use super::error::PackageError;
use super::request::{Request, Version, Wanted, normalise};
use super::tools::{find_all, find_program, is_script, real, system_cell};
use super::{Installed, Setup, python_settings};
use crate::cell::CellSpec;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The largest RECORD of a wheel that is read.
const MAX_LIST: u64 = 16 * 1024 * 1024;

/// Interpreter and installer of this start.
#[derive(Debug, Clone)]
pub(super) struct Python {
    /// The real path of the interpreter.
    pub(super) interpreter: PathBuf,
    /// uv, when the command is uv's and it is there.
    uv: Option<PathBuf>,
}

/// The cells of one install, in order.
#[derive(Debug)]
pub(super) struct Steps {
    pub(super) cells: Vec<CellSpec>,
    pub(super) left_out: bool,
}

impl Python {
    /// Finds the interpreter that the command asks for, and uv.
    pub(super) fn find(request: &Request, setup: &Setup<'_>) -> Result<Self, PackageError> {
        let asked = request.python.as_deref();
        let interpreter =
            find_interpreter(asked, setup).ok_or_else(|| PackageError::MissingTool {
                what: format!("Python {}", asked.unwrap_or("3"))
                    .trim_end()
                    .to_owned(),
                hint: "install it, or name one with --python PATH; nothing is downloaded for it"
                    .to_owned(),
            })?;
        let uv = if request.tool.starts_with("uv") {
            let named = request
                .program
                .contains('/')
                .then(|| setup.cwd.join(&request.program));
            let beside = named
                .and_then(|path| Some(path.parent()?.join("uv")))
                .filter(|uv| uv.is_file());
            beside
                .or_else(|| find_program("uv", setup.env))
                .and_then(|uv| real(&uv))
        } else {
            None
        };
        Ok(Self {
            interpreter,
            uv: uv.filter(|uv| !is_script(uv)),
        })
    }

    /// An environment fits the interpreter that it links to, and no other.
    pub(super) fn identity(&self) -> String {
        self.interpreter.display().to_string()
    }

    /// uv, pip: for people.
    pub(super) fn installer(&self) -> &'static str {
        if self.uv.is_some() { "uv" } else { "pip" }
    }

    /// The cells that install `request` into `staging`.
    pub(super) fn cells(
        &self,
        request: &Request,
        setup: &Setup<'_>,
        staging: &Staging,
    ) -> Result<Steps, PackageError> {
        let settings =
            python_settings::collect(request, setup, staging.private(), self.uv.is_some())?;
        let venv = staging.tree().join("venv");
        let (create, mut install) = match &self.uv {
            Some(uv) => self.with_uv(uv, &venv),
            None => self.with_pip(&venv)?,
        };
        if !setup.packages.scripts {
            install.args.extend(strings(&["--only-binary", ":all:"]));
        }
        install.args.push("--".to_owned());
        let specs = request.packages.iter().map(Wanted::python_spec);
        install.args.extend(specs);
        let mut base = system_cell(setup, staging, &settings);
        self.grant(&mut base);
        for package in &request.packages {
            if let Version::File(path) = &package.version {
                base.read.push(path.clone());
            }
        }
        let create = CellSpec {
            program: create.program,
            args: create.args,
            // Making the environment needs nobody.
            connect_ports: Vec::new(),
            datagrams: false,
            ..base.clone()
        };
        let install = CellSpec {
            program: install.program,
            args: install.args,
            ..base
        };
        Ok(Steps {
            cells: vec![create, install],
            left_out: settings.left_out,
        })
    }

    fn with_uv(&self, uv: &Path, venv: &Path) -> (Call, Call) {
        let create = Call::new(uv, &["venv", "--no-project", "--quiet", "--python"])
            .path(&self.interpreter)
            .path(venv);
        let words = [
            "pip",
            "install",
            "--link-mode",
            "copy",
            "--compile-bytecode",
            "--python",
        ];
        let install = Call::new(uv, &words).path(&venv.join("bin/python"));
        (create, install)
    }

    fn with_pip(&self, venv: &Path) -> Result<(Call, Call), PackageError> {
        let pip = self.pip()?;
        let inside = venv.join("bin/python");
        let create = Call::new(&self.interpreter, &["-I", "-m", "venv"]);
        let (create, install) = match pip {
            Pip::OfBase => (
                create.words(&["--without-pip"]),
                Call::new(&self.interpreter, &["-I", "-m", "pip", "--python"]).path(&inside),
            ),
            Pip::OfVenv => (create, Call::new(&inside, &["-I", "-m", "pip"])),
        };
        let words = [
            "install",
            "--no-input",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--no-warn-script-location",
            "--progress-bar",
            "off",
        ];
        Ok((create.path(venv), install.words(&words)))
    }

    /// What the interpreter needs to run: itself and its library.
    fn grant(&self, spec: &mut CellSpec) {
        spec.execute.push(self.interpreter.clone());
        spec.execute.extend(self.uv.clone());
        spec.read.extend(self.library());
        // A virtual environment links to the interpreter, and pip starts it through the link.
    }

    /// Directories that a server needs to read to run on this interpreter.
    pub(super) fn library(&self) -> Vec<PathBuf> {
        let Some(prefix) = self.interpreter.parent().and_then(Path::parent) else {
            return Vec::new();
        };
        let lib = prefix.join("lib");
        if prefix == Path::new("/usr") || prefix == Path::new("/") {
            // The system's libraries are granted anyway; Debian keeps packages in two places.
            return vec![lib, PathBuf::from("/usr/local/lib")]
                .into_iter()
                .filter(|p| p.exists())
                .collect();
        }
        [lib, prefix.join("lib64")]
            .into_iter()
            .filter(|path| path.exists())
            .collect()
    }

    /// pip that can install into another environment came with 22.3; an older or missing one is
    /// replaced by the one that Python itself brings for new environments.
    fn pip(&self) -> Result<Pip, PackageError> {
        let code = "import importlib.util as u, importlib.metadata as m\n\
                    p = m.version('pip') if u.find_spec('pip') else '0'\n\
                    print(p, bool(u.find_spec('venv')), bool(u.find_spec('ensurepip')))";
        let said = ask(&self.interpreter, &["-I", "-c", code]).unwrap_or_default();
        let mut words = said.split_whitespace();
        let version = words.next().unwrap_or("0");
        let venv = words.next() == Some("True");
        let ensure = words.next() == Some("True");
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if venv && number >= (22, 3) {
            Ok(Pip::OfBase)
        } else if venv && ensure {
            Ok(Pip::OfVenv)
        } else {
            Err(PackageError::MissingTool {
                what: format!("uv, or pip and venv for {},", self.interpreter.display()),
                hint: "install uv, or python3-venv and python3-pip".to_owned(),
            })
        }
    }
}

/// A program and its arguments. Python finds itself by `argv[0]`, so that is the path.
#[derive(Debug)]
struct Call {
    program: PathBuf,
    args: Vec<String>,
}

impl Call {
    fn new(program: &Path, words: &[&str]) -> Self {
        let call = Self {
            program: program.to_owned(),
            args: Vec::new(),
        };
        call.path(program).words(words)
    }

    fn path(mut self, path: &Path) -> Self {
        self.args.push(path.display().to_string());
        self
    }

    fn words(mut self, words: &[&str]) -> Self {
        self.args.extend(strings(words));
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pip {
    OfBase,
    OfVenv,
}

/// The version and the programs of the first package. Everything read here was written by the
/// package: sizes are bounded and names are checked.
pub(super) fn installed(request: &Request, tree: &Path) -> Result<Installed, String> {
    let site = site_packages(&tree.join("venv")).ok_or("the environment has no site-packages")?;
    let wanted = request.packages.first().ok_or("nothing was asked for")?;
    let (version, info) = distribution(&site, &wanted.name)
        .ok_or_else(|| format!("{} is not in the environment", wanted.name))?;
    let mut bins = BTreeMap::new();
    let mut list = String::new();
    fs::File::open(info.join("RECORD"))
        .and_then(|file| file.take(MAX_LIST).read_to_string(&mut list))
        .map_err(|error| format!("RECORD of {}: {error}", wanted.name))?;
    for line in list.lines() {
        // `../../../bin/NAME,sha256=…,123`: what the wheel put beside the interpreter.
        let Some(name) = line
            .strip_prefix("../../../bin/")
            .and_then(|rest| rest.split(',').next())
        else {
            continue;
        };
        if name.is_empty() || name.contains(['/', '"', '\0']) || name == "." || name == ".." {
            continue;
        }
        let path = Path::new("venv/bin").join(name);
        let about = fs::symlink_metadata(tree.join(&path));
        if about.is_ok_and(|about| about.is_file()) {
            let runtime = is_python_script(&tree.join(&path)).then(|| "python".to_owned());
            bins.insert(
                name.to_owned(),
                Start {
                    path,
                    runtime,
                    flags: Vec::new(),
                },
            );
        }
    }
    let default = bins
        .keys()
        .find(|bin| normalise(bin) == wanted.name)
        .cloned();
    Ok(Installed {
        name: wanted.name.clone(),
        version,
        default,
        bins,
    })
}

/// The `#!` lines of an environment name the place where it was installed. It is moved once after
/// that, so they are written anew for where it will be.
pub(super) fn relocate(tree: &Path, target: &Path) -> std::io::Result<()> {
    let (from, to) = (tree.display().to_string(), target.display().to_string());
    let bin = tree.join("venv/bin");
    for item in fs::read_dir(&bin)? {
        let path = item?.path();
        if !fs::symlink_metadata(&path)?.is_file() || !is_python_script(&path) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        // Two lines: long paths are started through `/bin/sh`.
        let head: usize = text.split_inclusive('\n').take(2).map(str::len).sum();
        let (head, body) = text.split_at(head);
        if head.contains(&from) {
            fs::write(&path, format!("{}{body}", head.replace(&from, &to)))?;
        }
    }
    Ok(())
}

fn find_interpreter(asked: Option<&str>, setup: &Setup<'_>) -> Option<PathBuf> {
    let name = match asked {
        None => "python3".to_owned(),
        Some(path) if path.contains('/') => {
            return behind_shim(&setup.cwd.join(path), setup);
        }
        Some(version) if version.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("python{version}")
        }
        Some(name) => name.to_owned(),
    };
    let on_path = find_all(&name, setup.env).find_map(|path| behind_shim(&path, setup));
    // `3.12.1` is no program's name, and managed interpreters are on no PATH.
    on_path.or_else(|| managed(asked?, setup))
}

/// Interpreters of pyenv and uv, by version.
fn managed(version: &str, setup: &Setup<'_>) -> Option<PathBuf> {
    let version = version.trim_start_matches("python");
    let home = Path::new(setup.env.get("HOME")?);
    let data = setup
        .env
        .get("XDG_DATA_HOME")
        .map_or_else(|| home.join(".local/share"), PathBuf::from);
    let uv = setup
        .env
        .get("UV_PYTHON_INSTALL_DIR")
        .map_or_else(|| data.join("uv/python"), PathBuf::from);
    let mut found: Vec<(Vec<u32>, PathBuf)> = Vec::new();
    for (dir, prefix) in [(pyenv_root(setup)?.join("versions"), ""), (uv, "cpython-")] {
        for item in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = item.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else {
                continue;
            };
            let number = rest.split('-').next().unwrap_or(rest);
            let fits = number == version
                || number
                    .strip_prefix(version)
                    .is_some_and(|r| r.starts_with('.'));
            let python = item.path().join("bin/python3");
            if fits && python.is_file() {
                found.push((
                    number.split('.').map(|n| n.parse().unwrap_or(0)).collect(),
                    python,
                ));
            }
        }
    }
    found.into_iter().max().and_then(|(_, path)| real(&path))
}

fn pyenv_root(setup: &Setup<'_>) -> Option<PathBuf> {
    setup.env.get("PYENV_ROOT").map(PathBuf::from).or_else(|| {
        setup
            .env
            .get("HOME")
            .map(|home| Path::new(home).join(".pyenv"))
    })
}

/// The interpreter behind `found`. pyenv, asdf and mise put a script in its place; pyenv's choice is
/// read from its files, which is faster by 100 ms than to ask it, the others are asked.
fn behind_shim(found: &Path, setup: &Setup<'_>) -> Option<PathBuf> {
    let path = real(found)?;
    if !is_script(&path) {
        return Some(path);
    }
    let name = found.file_name()?;
    if let Some(root) = pyenv_root(setup)
        && found.starts_with(root.join("shims"))
        && let Some(version) = pyenv_version(&root, setup)
    {
        let python = root.join("versions").join(&version).join("bin").join(name);
        return if version == "system" {
            None
        } else {
            real(&python)
        };
    }
    let said = ask(
        found,
        &[
            "-I",
            "-c",
            "import sys; print(sys._base_executable or sys.executable)",
        ],
    )?;
    real(Path::new(said.trim()))
}

/// The first version that pyenv would take: the variable, `.python-version` upwards, the global one.
fn pyenv_version(root: &Path, setup: &Setup<'_>) -> Option<String> {
    let first = |text: &str| {
        text.split([':', '\n', ' '])
            .map(str::trim)
            .find(|v| !v.is_empty() && !v.starts_with('#'))
            .map(str::to_owned)
    };
    if let Some(version) = setup.env.get("PYENV_VERSION").and_then(|text| first(text)) {
        return Some(version);
    }
    let local = setup.cwd.ancestors().map(|dir| dir.join(".python-version"));
    let version = local
        .chain([root.join("version")])
        .find_map(|path| fs::read_to_string(path).ok().and_then(|text| first(&text)))?;
    // Prefixes such as `3.12` are pyenv's to resolve; a name with a path in it is nobody's.
    (version == "system" || root.join("versions").join(&version).is_dir() && !version.contains('/'))
        .then_some(version)
}

/// Runs the user's own interpreter for a question about itself.
fn ask(program: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())
        .flatten()
}

fn site_packages(venv: &Path) -> Option<PathBuf> {
    fs::read_dir(venv.join("lib"))
        .ok()?
        .flatten()
        .map(|item| item.path().join("site-packages"))
        .find(|p| p.is_dir())
}

/// Version and `.dist-info` directory of a distribution, by its normalised name.
fn distribution(site: &Path, name: &str) -> Option<(String, PathBuf)> {
    fs::read_dir(site).ok()?.flatten().find_map(|item| {
        let file = item.file_name();
        let (found, version) = file
            .to_str()?
            .strip_suffix(".dist-info")?
            .rsplit_once('-')?;
        (normalise(found) == name).then(|| (version.to_owned(), item.path()))
    })
}

/// A script whose first lines start Python, directly or through `/bin/sh`.
fn is_python_script(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(1024).read_to_end(&mut head));
    let text = String::from_utf8_lossy(&head);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let second = lines.next().unwrap_or_default();
    read.is_ok()
        && (first.starts_with("#!") && first.contains("python")
            || first.starts_with("#!/bin/sh") && second.starts_with("'''exec'"))
}

fn strings<'a>(words: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    words.iter().map(|word| (*word).to_owned())
}
