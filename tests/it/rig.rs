//! A directory of its own for each test, and the program run in it with a known environment.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// The directory holds `home/` (`$HOME`), `bin/` (the only entry of `$PATH`) and `run/`, for sockets.
pub(crate) struct Rig {
    dir: std::sync::Arc<TempDir>,
    /// Whom it belongs to and who runs the program, when that is not us.
    user: Option<u32>,
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("cofferdam-test-").unwrap();
        for name in ["home", "bin", "run"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self {
            dir: dir.into(),
            user: None,
        }
    }

    /// The same directory for another session.
    pub(crate) fn again(&self) -> Self {
        Self {
            dir: std::sync::Arc::clone(&self.dir),
            user: self.user,
        }
    }

    /// The same for another user, which only root can ask for.
    pub(crate) fn of(mut self, user: u32) -> Self {
        for name in ["", "home", "bin", "run"] {
            std::os::unix::fs::chown(self.path().join(name), Some(user), Some(user)).unwrap();
        }
        self.user = Some(user);
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file; the parent must exist.
    pub(crate) fn file(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.path().join(name), bytes).unwrap();
        self
    }

    /// The program, ready to run in the directory.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        command
            .args(words)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .env("PATH", self.path().join("bin"));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Exit code, stdout and stderr as one text, without what differs from run to run.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        self.show(&self.command(words).output().unwrap())
    }

    pub(crate) fn show(&self, output: &Output) -> String {
        let mut text = format!("exit: {}\n", output.status.code().unwrap());
        for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            if !bytes.is_empty() {
                text.push_str(&format!(
                    "--- {name} ---\n{}",
                    String::from_utf8_lossy(bytes)
                ));
            }
        }
        // Columns are as wide as the name of the directory makes them.
        text.replace(self.path().to_str().unwrap(), "[DIR]")
            .lines()
            .map(|line| match line.split_once("[DIR]") {
                Some((before, after)) => {
                    let words: Vec<&str> =
                        after.split("  ").filter(|word| !word.is_empty()).collect();
                    format!("{before}[DIR]{}\n", words.join("  ").replace("   ", "  "))
                }
                None => format!("{line}\n"),
            })
            .collect()
    }
}
