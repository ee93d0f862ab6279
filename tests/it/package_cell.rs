//! Runs install cells with the real launcher, and holds a cache for one test.

use cofferdam::cell::package::{Exit, PackageError, Prepared, Runner, Setup, detect, prepare};
use cofferdam::cell::{CellSpec, seal_spec};
use cofferdam::config::Packages;
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts `cofferdam __cell` as the spawner does.
#[derive(Default)]
pub(crate) struct Launcher {
    pub(crate) runs: usize,
}

impl Runner for Launcher {
    fn run(
        &mut self,
        spec: &CellSpec,
        limit: Duration,
        on_line: &mut dyn FnMut(&str),
    ) -> io::Result<Exit> {
        self.runs += 1;
        let (output, writer) = io::pipe()?;
        let (child, mut status) = start(
            spec,
            Stdio::null(),
            writer.try_clone()?.into(),
            writer.into(),
        )?;
        let mut child = child;
        let (done, timer) = std::sync::mpsc::channel::<()>();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let killer = std::thread::spawn(move || {
            timer.recv_timeout(limit).is_err_and(|_| {
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok()
            })
        });
        let mut said = String::new();
        status.read_to_string(&mut said)?;
        if said.contains("failed") {
            on_line(&said);
        }
        for line in BufReader::new(output).lines() {
            on_line(&line?);
        }
        done.send(()).ok();
        let killed = killer.join().unwrap_or(true);
        let exit = child.wait()?;
        Ok(if killed {
            Exit::TimeOut
        } else {
            exit.code().map_or(Exit::Signal(9), Exit::Code)
        })
    }
}

/// A cell, and the pipe on which its launcher reports.
pub(crate) fn start(
    spec: &CellSpec,
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
) -> io::Result<(std::process::Child, io::PipeReader)> {
    let sealed = seal_spec(spec)?;
    let (status, theirs) = io::pipe()?;
    for fd in [sealed.as_fd(), theirs.as_fd()] {
        nix::fcntl::fcntl(
            fd,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )?;
    }
    let child = Command::new(env!("CARGO_BIN_EXE_cofferdam"))
        .arg("__cell")
        .arg(sealed.as_raw_fd().to_string())
        .arg(theirs.as_raw_fd().to_string())
        .env_clear()
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    Ok((child, status))
}

/// A private cache and our own environment.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) packages: Packages,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) launcher: Launcher,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packages = Packages {
            cache: dir.path().join("cache"),
            ..Packages::default()
        };
        Self {
            dir,
            packages,
            env: std::env::vars().collect(),
            launcher: Launcher::default(),
        }
    }

    /// Settings with which every question to a registry fails at once: nobody listens there.
    pub(crate) fn without_network(&mut self) {
        for (name, value) in [
            ("npm_config_registry", "http://127.0.0.1:9/"),
            ("PIP_INDEX_URL", "http://127.0.0.1:9/simple"),
            ("PIP_FIND_LINKS", ""),
            ("HTTPS_PROXY", "http://127.0.0.1:9/"),
            ("HTTP_PROXY", "http://127.0.0.1:9/"),
            ("PIP_RETRIES", "0"),
            ("npm_config_fetch_retries", "0"),
        ] {
            self.env.insert(name.to_owned(), value.to_owned());
        }
    }

    pub(crate) fn prepare(&mut self, line: &str) -> (Result<Prepared, PackageError>, Vec<String>) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let request = detect(&words, self.dir.path()).unwrap().unwrap();
        let setup = Setup {
            packages: &self.packages,
            env: &self.env,
            cwd: self.dir.path(),
            cell_write: &[],
            optional: &[],
            limit: Duration::from_secs(120),
        };
        let mut said = Vec::new();
        let began = Instant::now();
        let result = prepare(&request, &setup, &mut self.launcher, &mut |line| {
            said.push(line.to_owned());
        });
        println!("{line}: {:?}", began.elapsed());
        (result, said)
    }

    /// The one record of an ecosystem.
    pub(crate) fn record(&self, ecosystem: &str) -> PathBuf {
        let items = std::fs::read_dir(self.packages.cache.join(ecosystem)).unwrap();
        let mut paths = items.map(|item| item.unwrap().path());
        paths
            .find(|path| path.extension().is_some_and(|end| end == "json"))
            .unwrap()
    }

    /// Installs with the registry; `None`, said aloud, when it cannot be reached from here.
    pub(crate) fn online(&mut self, line: &str) -> Option<(Prepared, Vec<String>)> {
        match self.prepare(line) {
            (Ok(prepared), said) => Some((prepared, said)),
            (Err(PackageError::Unreachable { said, .. }), _) => {
                println!("SKIPPED: package.registry: {said}");
                None
            }
            (Err(error), said) => panic!("{error}\n{}\n{said:#?}", error.hint()),
        }
    }
}

/// The closed cell of a server: what `prepare` says and the system's libraries, no network.
pub(crate) fn closed_cell(prepared: &Prepared, dir: &Path) -> CellSpec {
    let there = |paths: &[&str]| {
        paths
            .iter()
            .map(Into::into)
            .filter(|p: &PathBuf| p.exists())
            .collect()
    };
    let mut execute: Vec<_> = there(&["/lib", "/lib64", "/usr/lib"]);
    execute.extend(prepared.execute.clone());
    let mut read: Vec<_> = there(&[
        "/proc/self",
        "/proc/meminfo",
        "/proc/cpuinfo",
        "/etc/ssl",
        "/etc/localtime",
        "/usr/share/zoneinfo",
    ]);
    read.extend(prepared.read.clone());
    CellSpec {
        program: prepared.command[0].clone().into(),
        args: prepared.command.clone(),
        env: prepared.env.clone(),
        cwd: dir.to_owned(),
        read,
        write: vec![dir.to_owned()],
        execute,
        ..CellSpec::default()
    }
}
