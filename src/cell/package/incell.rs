//! The runner of the spawner: install cells beside the cells of servers, in the same process tree.

use super::{Exit, Runner};
use crate::cell::CellSpec;
use crate::cell::spawn::{self, StartError, Watch, run_to_completion};
use std::io;
use std::time::Duration;

/// The longest line of an installer that is kept whole.
const LINE: usize = 16 * 1024;

/// Runs install cells by [`run_to_completion`].
#[derive(Debug)]
pub struct InCell<'a, 'w> {
    pub watch: &'a mut Watch<'w>,
}

impl Runner for InCell<'_, '_> {
    fn run(
        &mut self,
        spec: &CellSpec,
        limit: Duration,
        on_line: &mut dyn FnMut(&str),
    ) -> io::Result<Exit> {
        let mut lines = Lines::default();
        let done = run_to_completion(spec, self.watch, limit, &mut |bytes| {
            lines.take(bytes, on_line);
        });
        lines.finish(on_line);
        match done {
            Ok(done) => Ok(match done.exit {
                spawn::Exit::Code(code) => Exit::Code(code.into()),
                spawn::Exit::Signal(number) => Exit::Signal(number.into()),
            }),
            Err(StartError::Endless { .. }) => Ok(Exit::TimeOut),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn pause(&mut self, time: Duration) -> io::Result<()> {
        self.watch.pause(time).map_err(io::Error::other)
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    open: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE.saturating_sub(self.open.len());
            self.open.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                self.finish(on_line);
            }
        }
    }

    fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        if !self.open.is_empty() {
            on_line(String::from_utf8_lossy(&self.open).trim_end());
            self.open.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_bounded() {
        let mut lines = Lines::default();
        let mut heard = Vec::new();
        let long = [b'x'; LINE * 2];
        for piece in [&b"a"[..], b"b\r\nc\n\nd", &long, b"\ne"] {
            lines.take(piece, &mut |line| heard.push(line.to_owned()));
        }
        lines.finish(&mut |line| heard.push(line.to_owned()));
        let cut = format!("d{}", "x".repeat(LINE - 1));
        assert_eq!(heard, ["ab", "c", "", &cut, "e"]);
    }
}
