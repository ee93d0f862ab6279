//! The cage of our own message process: it reads what hostile peers write, so it keeps the power for
//! nothing but what it does.
//!
//! Whatever it needs is open before: the audit log, the admin listener, the client's pipes. The rest
//! comes from the spawner, as descriptors. So it opens no path at all, makes no socket, starts no
//! process and signals none; landlock and the filter each say so by themselves.

use super::report::{Layer, LayerReport, LayerState};
use super::{CellSpec, caps, landlock, seccomp, sys};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::fs::File;

/// Closes every descriptor but the standard streams: what whoever started us left open is not ours.
///
/// Call it before anything is opened.
///
/// # Errors
/// Kernels before 5.9.
pub fn close_inherited() -> Result<(), Errno> {
    sys::close_all_but(&[])
}

/// Keeps the memory of this process to itself: no core dump, whatever ends it, and no look by another
/// process of the same user (`PR_SET_DUMPABLE`, prctl(2)). What it executes starts afresh.
pub fn hide_memory() {
    // Neither needs a right. A kernel that refuses one has another way to ask for trouble.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).ok();
    prctl::set_dumpable(false).ok();
}

/// Confines this process for good, as far as the kernel can, and reports what is in force.
///
/// Call it while there is one thread: later threads inherit the cage, earlier ones would not be in it.
/// A layer that is missing is reported, not refused: what the cell of the server requires stops a
/// start by itself.
#[must_use]
pub fn confine() -> LayerReport {
    find_randomness();
    let abi = landlock::kernel_abi();
    let mut report = LayerReport {
        landlock_abi: abi,
        ..LayerReport::default()
    };
    let mut note = |layer, done: Result<(), String>| {
        let state = done.map_or_else(LayerState::Missing, |()| LayerState::Enforced);
        report.layers.push((layer, state));
    };
    note(Layer::Capabilities, caps::drop_all());
    note(Layer::NoNewPrivs, no_new_privs());
    let files = nothing(abi);
    let missing = landlock::missing(abi);
    for layer in [Layer::Landlock, Layer::LandlockNet, Layer::LandlockScopes] {
        let lack = missing.iter().find(|(lacking, _)| *lacking == layer);
        note(
            layer,
            match lack {
                Some((_, reason)) => Err(reason.clone()),
                None => files.clone(),
            },
        );
    }
    note(Layer::Seccomp, filter());
    report
}

/// The hash tables of the schema validator ask this crate, which in a static program opens
/// `/dev/urandom` at its first use and keeps it open.
fn find_randomness() {
    // Without it the first schema would fail to compile; that is for its caller to find out.
    _ = getrandom::fill(&mut [0; 1]);
}

fn no_new_privs() -> Result<(), String> {
    match prctl::set_no_new_privs().and_then(|()| prctl::get_no_new_privs()) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it reads back as off".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Landlock with all rights handled and none granted; tried, because a claim is no fact.
fn nothing(abi: u8) -> Result<(), String> {
    if abi == 0 {
        return Ok(());
    }
    landlock::restrict(&CellSpec::default(), None, abi).map_err(|error| error.to_string())?;
    refused("listing /", std::fs::read_dir("/").map(drop), Errno::EACCES)
}

fn filter() -> Result<(), String> {
    seccomp::own::install().map_err(|error| error.to_string())?;
    refused("opening /", File::open("/").map(drop), Errno::EPERM)?;
    let stream = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::empty(),
        None,
    );
    let made = stream.map(drop).map_err(std::io::Error::from);
    refused("making a socket", made, Errno::EPERM)
}

fn refused(act: &str, done: std::io::Result<()>, expected: Errno) -> Result<(), String> {
    match done {
        Err(error) if error.raw_os_error() == Some(expected as i32) => Ok(()),
        Err(error) => Err(format!("{act} fails with {error}, not {expected}")),
        Ok(()) => Err(format!("{act} works all the same")),
    }
}
