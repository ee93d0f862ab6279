//! Tells systemd how we are doing (`sd_notify(3)`), over a socket that is opened before we are caged.
//!
//! A library would open one for each message, which the cage refuses.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The service manager's end; silent where nobody asked to be told.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    /// How often a sign of life is due, half of `WatchdogSec=`, and when the next one is.
    watchdog: Option<(Duration, Mutex<Instant>)>,
}

impl Notifier {
    /// Opens what `$NOTIFY_SOCKET` names, if it is set, for as long as we are the process that is meant.
    ///
    /// # Errors
    /// The socket is named and cannot be had: the unit would be killed for its silence later.
    pub(super) fn from_environment() -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not read must not stop messages.
        socket.set_nonblocking(true)?;
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let every = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0);
        Ok(Self {
            socket: Some(socket),
            watchdog: every.map(|usec| {
                let half = Duration::from_micros(usec / 2);
                (half, Mutex::new(Instant::now() + half))
            }),
        })
    }

    /// Sends assignments, one on a line.
    pub(super) fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // The next state says more than a second try of this one.
            drop(socket.send(state.as_bytes()));
        }
    }

    /// When [`Notifier::pat`] is due; `None` when nobody waits for it.
    pub(super) fn due(&self) -> Option<Instant> {
        let (_, due) = self.watchdog.as_ref()?;
        due.lock().ok().map(|due| *due)
    }

    /// A sign of life of whoever calls, if one is due.
    pub(super) fn pat(&self, now: Instant) {
        let Some((every, due)) = &self.watchdog else {
            return;
        };
        if let Ok(mut due) = due.lock()
            && *due <= now
        {
            *due = now + *every;
            self.tell("WATCHDOG=1");
        }
    }
}
