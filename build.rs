//! Links `cofferdam` statically where the host can do that, as a position-independent executable.
//!
//! Three processes of ours start before a server does, and half of the time that each takes until
//! `main` went to the dynamic loader. rustc's own `crt-static` reaches procedural macros too unless
//! every build names a `--target`, so the same is done here for this one program: the libraries
//! that the standard library asks for by name are answered with their archives. Where the C
//! compiler has no static libc (Fedora without `glibc-static`), and for musl, other hosts and
//! `crt-static` itself, nothing is changed. `COFFERDAM_LINK=dynamic` turns it off.

use std::env::var;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the standard library and the `libc` crate ask for, and the archive that holds it. The rest
/// of what they name (`dl`, `rt`, `pthread`, `util`) has been part of `libc.a` since glibc 2.34 and
/// is an empty archive that the linker finds by itself, or an archive before.
const LIBRARIES: [(&str, &str); 3] = [
    ("libc.so", "INPUT(-l:libc.a)\n"),
    (
        "libgcc_s.so",
        "INPUT(-l:libgcc_eh.a -l:libgcc.a -l:libc.a)\n",
    ),
    ("libm.so", "INPUT(-l:libm.a)\n"),
];

/// Works only when the start-up code has put the address of `value` into `place`.
const PROBE: &str = "static int value; static int *volatile place = &value; int main(void) { return place != &value || *place; }\n";

/// Relative relocations in a fortieth of the space; needs support in libc's start-up code.
const PACKED: &str = "-Wl,-z,pack-relative-relocs";

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "cargo:rerun-if-changed=build.rs")?;
    writeln!(out, "cargo:rerun-if-env-changed=COFFERDAM_LINK")?;
    let Some(directory) = var("OUT_DIR").ok().map(PathBuf::from) else {
        return Ok(());
    };
    if !wanted() || !works(&directory, &["-static-pie"]) {
        return Ok(());
    }
    for (name, script) in LIBRARIES {
        fs::write(directory.join(name), script)?;
    }
    // The search path is an argument too: as a search path of the package it would reach the
    // programs that tests start, which are ordinary dynamic ones.
    let mut flags = vec![
        format!("-L{}", directory.display()),
        "-static-pie".to_owned(),
    ];
    if works(&directory, &["-static-pie", PACKED]) {
        flags.push(PACKED.to_owned());
    }
    for flag in flags {
        writeln!(out, "cargo:rustc-link-arg-bin=cofferdam={flag}")?;
    }
    Ok(())
}

/// Only a build for this very host, so that the probe can run.
fn wanted() -> bool {
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    let features = var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && var("HOST").is_ok_and(|host| is("TARGET", &host))
        && !features.split(',').any(|feature| feature == "crt-static")
        && !is("COFFERDAM_LINK", "dynamic")
}

/// Whether a program that is linked with these flags runs.
fn works(directory: &Path, flags: &[&str]) -> bool {
    let (source, program) = (directory.join("probe.c"), directory.join("probe"));
    // The flags and the linker that rustc will use are those of `cc`.
    fs::write(&source, PROBE).is_ok()
        && succeeds(
            Command::new("cc")
                .args(["-fPIE", "-o"])
                .arg(&program)
                .arg(&source)
                .args(flags)
                .args(["-lgcc_eh", "-lm"]),
        )
        && succeeds(&mut Command::new(&program))
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}
