//! A process of ours beside a cell, for its connections: started with it and ended with it.

use super::stdio::pass_on;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// `None` when it has ended and its number may be somebody else's.
#[derive(Debug, Default)]
pub(super) struct Companion(Option<Pid>);

/// `cofferdam ROLE FD FD PARENT`, to which words may be added: it inherits the two descriptors, our stderr
/// and nothing else. They have to be open until it is started.
pub(super) fn command(role: &str, fds: [&OwnedFd; 2]) -> io::Result<Command> {
    fds.into_iter().try_for_each(pass_on)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("cofferdam")
        .arg(role)
        .args(fds.map(|fd| fd.as_raw_fd().to_string()))
        .arg(getpid().as_raw_nonzero().to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    Ok(command)
}

/// Starts it; its number, which stays its own until it is waited for.
pub(super) fn spawn(command: &mut Command) -> io::Result<Pid> {
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Companion {
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        spawn(command).map(|pid| Self(Some(pid)))
    }

    /// A child of ours that runs already.
    pub(super) fn of(pid: Option<Pid>) -> Self {
        Self(pid)
    }

    /// Its number, while it is its own.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.0
    }

    /// Hears which of our children has ended.
    pub(super) fn note(&mut self, ended: Pid) {
        self.0 = self.0.filter(|pid| *pid != ended);
    }

    /// Ends it at once: a search for processes of the cell that are left would come upon it, and
    /// spend a pause on it.
    pub(super) fn end(&mut self) {
        let Some(pid) = self.0.take() else {
            return;
        };
        if kill_process(pid, Signal::KILL).is_ok() {
            // SIGKILL leaves nothing to wait for but the kernel.
            while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Companion {
        Companion::start(Command::new("sleep").arg("600")).unwrap()
    }

    #[test]
    fn one_that_is_ended_is_gone_and_waited_for() {
        let mut companion = sleeper();
        let pid = companion.pid().unwrap();
        companion.end();
        assert_eq!(companion.pid(), None);
        assert!(
            kill_process(pid, Signal::KILL).is_err(),
            "it is still there"
        );
    }

    #[test]
    fn the_number_of_one_that_has_ended_is_nobody() {
        let mut companion = sleeper();
        let pid = companion.pid().unwrap();
        let other = Pid::from_raw(pid.as_raw_nonzero().get() + 1).unwrap();
        companion.note(other);
        assert_eq!(companion.pid(), Some(pid));
        companion.note(pid);
        assert_eq!(companion.pid(), None);
        // What has the number now is not killed.
        companion.end();
        assert!(kill_process(pid, Signal::KILL).is_ok());
        waitpid(Some(pid), WaitOptions::empty()).unwrap();
    }
}
