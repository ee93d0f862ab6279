//! Chores of the repository: `cargo xtask test`, `escapes`, `demo`, `setup`, `deny`.

mod deny;
mod escapes;
mod fixtures;
mod full;
mod say;
mod skips;
mod suite;

use say::say;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                  install the pinned real servers and SDK clients into target/fixtures
  test [--full] [FILTER] build, run every test, compare what was skipped with tests/unavailable.toml
                         --full adds the long lines: the whole fidelity matrix, 100,000 requests of
                         chaos, 2,000 times kill -9, fuzzing, the gated bench; it resumes where a run of this commit ended
  escapes                the escape suite without a sandbox, in cofferdam's cells and in other
                         sandboxes that are installed, side by side
  demo [ARGS]            build and run `cofferdam demo`
  deny                   licences, sources, bans and duplicates by cargo-deny";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else {
        say!("{USAGE}");
        return ExitCode::from(64);
    };
    let root = workspace_root();
    let done = match command.as_str() {
        "setup" => fixtures::set_up(&root).map(|_| true),
        "test" => suite::run(&root, rest),
        "escapes" => escapes::run(&root),
        "demo" => demo(&root, rest),
        "deny" => deny::check(&root),
        "help" | "--help" | "-h" => {
            say!("{USAGE}");
            Ok(true)
        }
        other => {
            say!("xtask: no such command: {other}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            say!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn demo(root: &Path, args: &[String]) -> Result<bool, String> {
    say!("xtask: building cofferdam (the first build takes a few minutes)");
    let mut command = cargo(root);
    command
        .args(["run", "--quiet", "--bin", "cofferdam", "--", "demo"])
        .args(args);
    succeeds(&mut command)
}

/// The directory of the workspace's `Cargo.toml`.
fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo builds, and where fixtures, tools and state live beside it.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The cargo that runs us, started in the workspace.
fn cargo(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root);
    // What cargo tells us about ourselves is none of the build's business: crates that look at it would be
    // compiled again whenever somebody calls cargo without us.
    for (name, _) in std::env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if own
            .iter()
            .any(|own| name.to_string_lossy().starts_with(own))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `command` with our own streams; true when it exits 0.
fn succeeds(command: &mut Command) -> Result<bool, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    Ok(status.success())
}
