//! A terminal of the cell's own, and ours in raw mode while bytes pass between the two.
//!
//! The cell never gets the operator's terminal: whoever holds it could read what is typed later and
//! push characters into its input queue.

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Both sides of a new terminal.
#[derive(Debug)]
pub struct Pty {
    /// Ours: what is written here is typed there.
    pub master: OwnedFd,
    /// The cell's stdin, stdout and stderr.
    pub slave: OwnedFd,
}

impl Pty {
    /// Opens a terminal that looks like `like`: same modes, same size. The slave is opened through
    /// the master (TIOCGPTPEER), so no path below `/dev/pts` is looked up.
    ///
    /// # Errors
    /// No terminal is left, or the kernel is older than 4.13.
    pub fn open_like(like: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        if let Ok(modes) = tcgetattr(like) {
            tcsetattr(&slave, OptionalActions::Now, &modes)?;
        }
        copy_size(like, master.as_fd());
        Ok(Self { master, slave })
    }
}

/// Gives `to` the size of `from`; a size that cannot be read or set is no reason to stop.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = tcgetwinsize(from) {
        let _ = tcsetwinsize(to, size);
    }
}

/// The modes of a terminal as they were, to be put back by whoever outlives the other.
#[derive(Debug)]
pub struct SavedModes {
    terminal: OwnedFd,
    modes: Termios,
}

impl SavedModes {
    /// Remembers the modes of `terminal`; `None` when it is not one.
    #[must_use]
    pub fn of(terminal: BorrowedFd<'_>) -> Option<Self> {
        let modes = tcgetattr(terminal).ok()?;
        Some(Self {
            terminal: terminal.try_clone_to_owned().ok()?,
            modes,
        })
    }

    /// Puts them back.
    pub fn restore(&self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.modes);
    }
}

/// Our terminal in raw mode; dropping it restores the modes.
#[derive(Debug)]
pub struct RawMode {
    saved: SavedModes,
}

impl RawMode {
    /// Every byte passes as typed, control characters too: the cell's own terminal interprets them.
    /// `None` when `terminal` is not one.
    ///
    /// # Errors
    /// The terminal refuses the modes.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let Some(saved) = SavedModes::of(terminal) else {
            return Ok(None);
        };
        let mut raw = saved.modes.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { saved }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.saved.restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::termios::{LocalModes, Winsize};

    #[test]
    fn raw_mode_ends_with_its_guard_and_a_new_terminal_takes_modes_and_size() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let outer = Pty::open_like(null.as_fd()).unwrap();
        let size = Winsize {
            ws_row: 33,
            ws_col: 77,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&outer.master, size).unwrap();
        let canonical = |fd: &OwnedFd| {
            tcgetattr(fd)
                .unwrap()
                .local_modes
                .contains(LocalModes::ICANON)
        };

        let raw = RawMode::enter(outer.slave.as_fd()).unwrap();
        assert!(raw.is_some() && !canonical(&outer.slave));
        drop(raw);
        assert!(canonical(&outer.slave));

        let inner = Pty::open_like(outer.slave.as_fd()).unwrap();
        let got = tcgetwinsize(&inner.slave).unwrap();
        assert_eq!(
            (got.ws_row, got.ws_col, canonical(&inner.slave)),
            (33, 77, true)
        );
        assert!(RawMode::enter(null.as_fd()).unwrap().is_none());
    }
}
