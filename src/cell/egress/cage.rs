//! The cage of the relay: it reads what a hostile server and any host on the network send, so it can
//! do nothing but connect, and read the two files that say how names are found.

use super::lookup;
use crate::cell::seccomp::own::RelayFilter;
use crate::cell::{CellSpec, caps, landlock};
use nix::errno::Errno;
use nix::sys::prctl;
use std::collections::BTreeSet;
use std::path::Path;

/// A cage that is still open for the sockets of the cell.
#[derive(Debug)]
pub(super) struct Cage {
    filter: RelayFilter,
    /// Whether the kernel has landlock.
    landlock: bool,
}

/// Confines this process for good; it has one thread. What is left until [`Cage::close`] is to take over
/// the sockets of the cell. One that `resolves` may read the two files of names and ask name servers.
///
/// # Errors
/// The first layer that the kernel refuses. One that the kernel does not have is left out, as the
/// cell's own report says.
pub(super) fn confine(ports: &BTreeSet<u16>, resolves: bool) -> Result<Cage, String> {
    caps::drop_all()?;
    prctl::set_dumpable(false).map_err(|error| error.to_string())?;
    prctl::set_no_new_privs().map_err(|error| error.to_string())?;
    let abi = landlock::kernel_abi();
    if abi > 0 {
        let there = [lookup::RESOLV_CONF, lookup::HOSTS].map(Path::new);
        let files = there.iter().filter(|path| resolves && path.is_file());
        let names = resolves.then_some(lookup::PORT);
        let granted = CellSpec {
            read: files.map(|path| path.to_path_buf()).collect(),
            connect_ports: ports.iter().copied().chain(names).collect(),
            ..CellSpec::default()
        };
        landlock::restrict(&granted, None, abi).map_err(|error| error.to_string())?;
    }
    Ok(Cage {
        filter: RelayFilter::compile().map_err(|error| error.to_string())?,
        landlock: abi > 0,
    })
}

impl Cage {
    /// The rest of the cage.
    ///
    /// # Errors
    /// When the kernel refuses, or what must not work does.
    pub(super) fn close(&self) -> Result<(), String> {
        self.filter.install().map_err(|error| error.to_string())?;
        // Tried, because a claim is no fact.
        match std::fs::File::open("/").map_err(|error| error.raw_os_error()) {
            Err(Some(code))
                if [Errno::EACCES, Errno::EPERM]
                    .map(|e| e as i32)
                    .contains(&code) =>
            {
                Ok(())
            }
            _ if !self.landlock => Ok(()),
            _ => Err("opening / works all the same".to_owned()),
        }
    }
}
