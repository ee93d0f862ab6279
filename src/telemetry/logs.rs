//! Log lines on stderr that can neither block the message path nor be forged by the server.
//!
//! Stderr may be a pipe that nobody reads. A write is therefore only made when `poll(2)` says that
//! the pipe has room for `PIPE_BUF` bytes, and a line that finds no room is dropped and counted.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// The target under which lines of the server's stderr are logged.
pub const SERVER: &str = "server";

/// A pipe that polls writable takes this much without blocking (`PIPE_BUF`, pipe(7)).
const ATOMIC_WRITE: usize = 4096;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `cofferdam: message key=value`, for people.
    #[default]
    Human,
    /// One JSON object for each line.
    Json,
}

/// Starts logging; a second call changes nothing.
pub fn init(format: Format, level: tracing::Level) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(NonBlockingStderr);
    // A second initialisation (tests in one process) keeps the first subscriber, which is what they want.
    let installed = match format {
        Format::Human => {
            tracing::subscriber::set_global_default(builder.event_format(Plain).finish())
        }
        Format::Json => {
            tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
        }
    };
    drop(installed);
}

/// Lines that found no room on stderr since the start.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

struct NonBlockingStderr;

impl<'a> MakeWriter<'a> for NonBlockingStderr {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for NonBlockingStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        for piece in line.chunks(ATOMIC_WRITE) {
            let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            let room = poll(&mut ready, PollTimeout::ZERO).unwrap_or(0) > 0
                && ready[0]
                    .revents()
                    .is_some_and(|flags| flags.contains(PollFlags::POLLOUT));
            if !room || (&stderr).write_all(piece).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `cofferdam: …` for our own lines, `[NAME] …` for the server's, so that a server cannot speak in
/// our name.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let meta = event.metadata();
        if meta.target() == SERVER {
            return writeln!(writer, "[{}] {}", parts.name, parts.message);
        }
        let severity = match *meta.level() {
            tracing::Level::ERROR => "error: ",
            tracing::Level::WARN => "warning: ",
            _ => "",
        };
        writeln!(
            writer,
            "cofferdam: {severity}{}{}",
            parts.message, parts.fields
        )
    }
}

#[derive(Default)]
struct Parts {
    message: String,
    name: String,
    fields: String,
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            "server" => self.name.push_str(value),
            name => drop(write!(self.fields, " {name}={value:?}")),
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => drop(write!(self.message, "{value:?}")),
            name => drop(write!(self.fields, " {name}={value:?}")),
        }
    }
}
