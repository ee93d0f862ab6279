//! Every capability goes, from every set, and the sets are read back.

use super::sys;
use ::caps::CapSet;
use nix::errno::Errno;

/// `capabilities(7)`: no capabilities for uid 0 (bit 0), none kept or gained by changing the uid
/// (bit 2), none raised to ambient (bit 6), each locked by the bit above it; keep-caps (bit 4)
/// stays off and is locked too.
const SECUREBITS: u64 = 0b1110_1111;

/// Empties all sets. The bounding set and the secure bits need `CAP_SETPCAP`; without it there is
/// nothing in the other sets either, and no_new_privs keeps it so.
pub(super) fn drop_all() -> Result<(), String> {
    for capability in 0..=63 {
        match sys::drop_bounding(capability) {
            Ok(()) => {}
            // Not ours to drop, or above the last that this kernel knows.
            Err(Errno::EPERM | Errno::EINVAL) => break,
            Err(error) => return Err(format!("bounding set: {error}")),
        }
    }
    match sys::set_securebits(SECUREBITS) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(error) => return Err(format!("secure bits: {error}")),
    }
    clear()?;
    read_back()
}

/// Empties the sets of a process that will never execute anything: the bounding set is for execve.
pub(super) fn clear() -> Result<(), String> {
    // Kernels before 4.3 have no ambient set; what counts is that it reads back empty.
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        ::caps::clear(None, set).map_err(|error| format!("{set:?} set: {error}"))?;
    }
    Ok(())
}

/// The sets as the kernel has them, for the caller must hold nothing it could use.
fn read_back() -> Result<(), String> {
    // What is ambient is permitted and inheritable too, always (`capabilities(7)`).
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let left = ::caps::read(None, set).map_err(|error| format!("{set:?} set: {error}"))?;
        if !left.is_empty() {
            return Err(format!("{set:?} set still holds {left:?}"));
        }
    }
    // uid 0 regains its bounding set at execve unless the secure bits say otherwise; with
    // no_new_privs that is the one way left, so for uid 0 one of the two must be closed.
    let root_is_plain = || sys::securebits().is_ok_and(|bits| bits & 1 == 1);
    let open = || (0..=63).any(|capability| sys::has_bounding(capability) == Ok(true));
    if nix::unistd::getuid().is_root() && !root_is_plain() && open() {
        return Err("uid 0 would regain its bounding set when it executes a program".into());
    }
    Ok(())
}
