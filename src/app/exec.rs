//! `exec`: any program in the very same cell, without the protocol.
//!
//! ```text
//! terminal ⇄ raw mode ⇄ us ⇄ pty ⇄ program       a stream that is a terminal
//! file, pipe ─────────────────────▶ program       any other stream passes as it is,
//! stderr ◀─ explained ◀─ pipe ◀──── program       but for stderr, where denials are explained
//! ```
//!
//! One thread, one `poll` without timeout, no runtime.

use super::reload::Again;
use super::spawner::spawner;
use crate::cell::denial::{Denial, Denials, Grants};
use crate::cell::egress::News;
use crate::cell::pty::{RawMode, copy_size};
use crate::cell::spawn::{Event, Mode, SpawnError, Spawner, Stop, Terminals};
use crate::cell::{LayerReport, LayerState, hide_memory};
use crate::config::Config;
use crate::transport::terminal::sanitize;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

/// The only cell of this command.
const CELL: u32 = 0;
/// Bytes that were typed and that the program has not read yet; more is not read from the terminal.
const TYPED_LIMIT: usize = 16 * 1024;
/// A line longer than this is not searched for denials beyond it, in bytes.
const LINE_LIMIT: usize = 4096;
/// What is read at once.
const CHUNK: usize = 64 * 1024;
/// The spawner died, or something of ours failed.
const SOFTWARE: u8 = 70;

/// What `exec` needs besides the configuration.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// 0 to 2; from 1 on one line says what is in force.
    pub verbose: u8,
    pub quiet: bool,
}

/// Runs the program and gives its exit code: its own, 128 + the signal that ended it, or ours when
/// it did not start.
#[must_use]
pub fn exec(config: Config, again: &dyn Again, options: &ExecOptions) -> ExitCode {
    match Session::open(Arc::new(config), again, options).and_then(|session| session.run()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(SOFTWARE)
        }
    }
}

/// Why the session itself failed.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(transparent)]
    Spawner {
        #[from]
        source: SpawnError,
    },
    #[error("cannot relay the program's streams: {source}")]
    Relay {
        #[from]
        source: io::Error,
    },
}

impl From<Errno> for ExecError {
    fn from(source: Errno) -> Self {
        Self::Relay {
            source: source.into(),
        }
    }
}

struct Session<'a> {
    options: &'a ExecOptions,
    /// Dropped first, so that the terminal is restored before anything else can take long.
    raw: Option<RawMode>,
    spawner: Spawner,
    signals: SignalFd,
    terminals: Terminals,
    /// The master of the cell's terminal.
    master: Option<OwnedFd>,
    /// What the program writes to stderr, when that is no terminal.
    stderr: Option<OwnedFd>,
    /// Typed and not yet taken by the program.
    typed: Vec<u8>,
    typing: bool,
    denials: Denials,
    line: Vec<u8>,
    /// Denials seen on the terminal: shown when the program is done with the screen.
    later: Vec<Denial>,
    /// A second request to end is the last.
    asked: bool,
}

impl<'a> Session<'a> {
    fn open(
        config: Arc<Config>,
        again: &dyn Again,
        options: &'a ExecOptions,
    ) -> Result<Self, ExecError> {
        let grants = Grants::from(&config.cell);
        let serve = |control| {
            hide_memory();
            spawner(control, Mode::Exec, config, again)
        };
        let mut spawner = Spawner::launch(Mode::Exec, serve)?;
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGWINCH,
        ] {
            set.add(signal);
        }
        set.thread_block().map_err(io::Error::from)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&set, flags).map_err(io::Error::from)?;
        spawner.start(CELL)?;
        Ok(Self {
            options,
            raw: None,
            spawner,
            signals,
            terminals: Terminals::here(),
            master: None,
            stderr: None,
            typed: Vec::new(),
            typing: false,
            denials: Denials::new(grants),
            line: Vec::new(),
            later: Vec::new(),
            asked: false,
        })
    }

    fn run(mut self) -> Result<u8, ExecError> {
        loop {
            if let Some(code) = self.turn()? {
                return Ok(code);
            }
        }
    }

    /// Waits for something and deals with it; the exit code when all is over.
    fn turn(&mut self) -> Result<Option<u8>, ExecError> {
        let stdin = io::stdin();
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.spawner.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        let reads = self.typing && self.typed.len() < TYPED_LIMIT;
        let (input, output) = (PollFlags::IN, PollFlags::IN | PollFlags::OUT);
        let master = if self.typed.is_empty() { input } else { output };
        let streams = [
            (self.master.as_ref().map(AsFd::as_fd), master),
            (self.stderr.as_ref().map(AsFd::as_fd), input),
            (reads.then(|| stdin.as_fd()), input),
        ];
        for (fd, flags) in streams
            .iter()
            .filter_map(|(fd, flags)| Some(((*fd)?, *flags)))
        {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |polled: bool| polled && ready.next().unwrap_or(false);
        let (spoken, signalled) = (next(true), next(true));
        let (screen, complaint) = (next(self.master.is_some()), next(self.stderr.is_some()));
        let key = next(reads);
        drop(fds);
        if signalled {
            self.take_signals()?;
        }
        if screen {
            self.relay_screen()?;
        }
        if complaint {
            self.relay_stderr()?;
        }
        if key {
            self.read_keys()?;
        }
        if spoken { self.hear() } else { Ok(None) }
    }

    fn hear(&mut self) -> Result<Option<u8>, ExecError> {
        match self.spawner.next_event()? {
            None => Ok(None),
            // There is no audit log here, and nothing that is said is read.
            Some(
                Event::Rotated { .. }
                | Event::Credentials { .. }
                | Event::Access { .. }
                | Event::Asked { .. }
                | Event::Config { .. }
                | Event::Frozen { .. }
                | Event::Switch { .. },
            ) => Ok(None),
            Some(Event::Denied { text, .. }) => {
                self.denials.told(&text);
                if !self.options.quiet {
                    say(&text);
                }
                Ok(None)
            }
            Some(Event::Progress { text, .. }) => {
                if !self.options.quiet {
                    say(&text);
                }
                Ok(None)
            }
            Some(Event::Network { news, .. }) => {
                if let News::Refused(refused) = news
                    && !refused.text.is_empty()
                    && !self.options.quiet
                {
                    say(&sanitize(refused.text.as_bytes()));
                }
                Ok(None)
            }
            Some(Event::Started {
                pid, report, fds, ..
            }) => {
                self.begin(pid, &report, fds)?;
                Ok(None)
            }
            Some(Event::Exited {
                exit, cause, limit, ..
            }) => {
                self.finish()?;
                let telling = limit.is_some() || cause.contains("seccomp");
                if !cause.is_empty() && (self.options.verbose > 0 || telling) {
                    say(&cause);
                }
                Ok(Some(exit.code()))
            }
            Some(Event::Failed {
                exit_code, message, ..
            }) => {
                say(&format!("error: {message}"));
                Ok(Some(exit_code))
            }
        }
    }

    fn begin(
        &mut self,
        pid: u32,
        report: &LayerReport,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ExecError> {
        if self.options.verbose > 0 {
            say(&start_line(pid, report));
        }
        for note in report.notes.iter().filter(|_| !self.options.quiet) {
            say(&format!("warning: {note}"));
        }
        let mut fds = fds.into_iter();
        if self.terminals.any() {
            self.master = fds.next();
        }
        if !self.terminals.stderr {
            self.stderr = fds.next();
        }
        for fd in [&self.master, &self.stderr].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        if self.terminals.stdin && self.master.is_some() {
            self.raw = RawMode::enter(io::stdin().as_fd())?;
            self.typing = true;
            self.resize();
        }
        Ok(())
    }

    /// Everything is dead: what is still in the pipes is all that will come.
    fn finish(&mut self) -> Result<(), ExecError> {
        while self.master.is_some() && self.relay_screen()? {}
        while self.stderr.is_some() && self.relay_stderr()? {}
        self.raw = None;
        let line = std::mem::take(&mut self.line);
        self.later.extend(self.denials.note(&line));
        for denial in std::mem::take(&mut self.later) {
            self.explain(&denial);
        }
        Ok(())
    }

    fn explain(&self, denial: &Denial) {
        if !self.options.quiet {
            say(&denial.to_string());
        }
    }

    fn resize(&self) {
        if let Some(master) = &self.master {
            copy_size(self.screen(), master.as_fd());
        }
    }

    fn take_signals(&mut self) -> Result<(), ExecError> {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            match Signal::try_from(number) {
                Ok(Signal::SIGWINCH) => self.resize(),
                Ok(Signal::SIGINT) => self.end(Stop::Interrupt)?,
                Ok(Signal::SIGHUP) => self.end(Stop::Hangup)?,
                Ok(_) | Err(_) => self.end(Stop::Terminate)?,
            }
        }
        Ok(())
    }

    /// The first request is the program's to follow; a SIGTERM or SIGHUP after it kills the tree.
    fn end(&mut self, how: Stop) -> Result<(), ExecError> {
        let final_ = self.asked && how != Stop::Interrupt;
        self.asked = true;
        self.spawner
            .stop(CELL, if final_ { Stop::Kill } else { how })?;
        Ok(())
    }

    /// Moves what was typed into the cell's terminal and what it shows to ours. False when there is
    /// nothing to read now.
    fn relay_screen(&mut self) -> Result<bool, ExecError> {
        let Some(master) = &self.master else {
            return Ok(false);
        };
        if !self.typed.is_empty() {
            match rustix::io::write(master, &self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The other side is closed: nobody will read it.
                Err(_) => self.typed.clear(),
            }
        }
        let mut chunk = vec![0; CHUNK];
        match rustix::io::read(master, &mut chunk) {
            Ok(n) if n > 0 => {
                let bytes = chunk.get(..n).unwrap_or_default();
                write_all(self.screen(), bytes)?;
                let found = search(&mut self.line, &mut self.denials, bytes);
                self.later.extend(found);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            // EIO: nobody holds the cell's terminal any more. A program may close all of it and
            // live on.
            Ok(_) | Err(_) => {
                self.master = None;
                self.typing = false;
                Ok(false)
            }
        }
    }

    fn relay_stderr(&mut self) -> Result<bool, ExecError> {
        let Some(pipe) = &self.stderr else {
            return Ok(false);
        };
        let mut chunk = vec![0; CHUNK];
        match rustix::io::read(pipe, &mut chunk) {
            Ok(n) if n > 0 => {
                let bytes = chunk.get(..n).unwrap_or_default();
                // A stderr that nobody reads must not end the program.
                let _ = write_all(io::stderr().as_fd(), bytes);
                for denial in search(&mut self.line, &mut self.denials, bytes) {
                    self.explain(&denial);
                }
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Ok(_) | Err(_) => {
                self.stderr = None;
                Ok(false)
            }
        }
    }

    fn read_keys(&mut self) -> Result<(), ExecError> {
        let mut chunk = [0; 4096];
        match rustix::io::read(io::stdin(), &mut chunk) {
            Ok(n) if n > 0 => self
                .typed
                .extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The terminal itself is gone.
            Ok(_) | Err(_) => {
                self.typing = false;
                self.end(Stop::Hangup)?;
            }
        }
        Ok(())
    }

    /// Where the cell's terminal is shown: the first of our streams that is one.
    fn screen(&self) -> BorrowedFd<'static> {
        match self.terminals {
            Terminals { stdout: true, .. } => rustix::stdio::stdout(),
            Terminals { stderr: true, .. } => rustix::stdio::stderr(),
            Terminals { .. } => rustix::stdio::stdin(),
        }
    }
}

/// Cuts the stream into lines and looks at each; only the first bytes of a long line are kept.
fn search(line: &mut Vec<u8>, denials: &mut Denials, bytes: &[u8]) -> Vec<Denial> {
    let mut found = Vec::new();
    for piece in bytes.split_inclusive(|&b| b == b'\n') {
        let room = LINE_LIMIT.saturating_sub(line.len());
        line.extend(piece.iter().take(room));
        if piece.ends_with(b"\n") {
            found.extend(denials.note(line.trim_ascii_end()));
            line.clear();
        }
    }
    found
}

/// What is in force, in one line.
fn start_line(pid: u32, report: &LayerReport) -> String {
    let words: Vec<String> = report
        .layers
        .iter()
        .map(|(layer, state)| match state {
            LayerState::Enforced => layer.name().to_owned(),
            LayerState::Missing(why) => format!("{} MISSING ({why})", layer.name()),
        })
        .collect();
    format!(
        "process {pid}{}, landlock ABI {}, in force: {}",
        report.identity(),
        report.landlock_abi,
        words.join(", ")
    )
}

fn say(text: &str) {
    // A closed stderr must not change the exit code. One write, so that lines do not mix; CR
    // because the terminal may be raw.
    let end = if rustix::termios::isatty(io::stderr()) {
        "\r\n"
    } else {
        "\n"
    };
    let _ = io::stderr()
        .write_all(format!("cofferdam: {text}{end}").as_bytes())
        .is_ok();
}

/// Writes to a descriptor that may not block (a terminal shared with a shell that set it so).
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let second = Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                };
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                poll(&mut fds, Some(&second)).map(drop)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Layer;

    #[test]
    fn lines_are_found_across_reads_and_long_ones_do_not_grow() {
        let (mut line, mut denials) = (Vec::new(), Denials::default());
        assert_eq!(search(&mut line, &mut denials, b"cat: /srv/x: Permis"), []);
        let found = search(&mut line, &mut denials, b"sion denied\nnext");
        assert_eq!(
            found,
            [Denial::Read {
                path: "/srv/x".into()
            }]
        );
        assert_eq!(search(&mut line, &mut denials, &[b'x'; 100_000]), []);
        assert_eq!(line.len(), LINE_LIMIT);
    }

    #[test]
    fn the_start_line_names_what_is_missing() {
        let layers = vec![
            (Layer::Seccomp, LayerState::Enforced),
            (Layer::LandlockNet, LayerState::Missing("kernel 6.1".into())),
        ];
        let line = start_line(
            7,
            &LayerReport {
                landlock_abi: 2,
                layers,
                user: Some(1000),
                ..LayerReport::default()
            },
        );
        let expected = "process 7 as uid 1000, landlock ABI 2, in force: seccomp, landlock-net MISSING (kernel 6.1)";
        assert_eq!(line, expected);
    }
}
