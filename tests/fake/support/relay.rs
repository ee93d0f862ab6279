//! The floor of every wrapper: two blocking threads that copy bytes between pipes and look at none.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};

/// Runs `command` with its stdin and stdout behind two copying threads; returns its exit code.
pub(crate) fn run(command: &[String]) -> io::Result<ExitCode> {
    let (program, args) = command
        .split_first()
        .ok_or_else(|| io::Error::other("relay wants a command"))?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the child has no pipes"));
    };
    let (ours_in, ours_out) = (duplicate(&io::stdin())?, duplicate(&io::stdout())?);
    std::thread::spawn(move || copy(ours_in.into(), OwnedFd::from(input).into()));
    // The end of the server's output ends the relay, whatever the client does.
    drop(copy(OwnedFd::from(output).into(), ours_out.into()));
    let status = child.wait()?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}

fn duplicate(stream: &impl std::os::fd::AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

/// Not `io::copy`: that one uses splice(2) and would be another yardstick.
fn copy(mut from: std::fs::File, mut to: std::fs::File) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}
