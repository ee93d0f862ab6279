//! Bytes in, bytes out: newline framing with a cap, writers that never block, TLS, text made safe for a
//! terminal.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod frame;
pub mod http;
pub mod socket;
pub mod terminal;
pub mod tls;
pub mod writer;

use std::os::fd::AsFd;

/// What a pipe is grown to once a message is larger than the 64 KiB it starts with. It is the most
/// that an unprivileged process may ask for (`/proc/sys/fs/pipe-max-size`, see pipe(7)).
const PIPE_BYTES: libc::c_int = 1 << 20;

/// Grows the pipe behind either of its ends. A large message then takes a tenth of the wake-ups.
/// It is only faster, so a refusal (no pipe, quota of the user spent) is ignored.
pub fn grow_pipe(fd: impl AsFd) {
    let _refused = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
}
