//! The spawner's ear for operators: the socket of this instance, on which one line is asked and one
//! object answered.
//!
//! The spawner listens, because the message process may make no socket and is to read nothing but
//! messages. What only that process knows it answers itself, on the connection, which it is handed.

use crate::admin::{Ask, MOST_ASKED, Places};
use crate::config::Config;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Operators who ask at one time.
const CALLERS: usize = 16;
/// Time to ask, from the connection on; `cofferdam status` asks all instances one after the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket, and who has connected and not asked yet.
#[derive(Debug)]
pub(super) struct Clerk {
    listener: UnixListener,
    path: PathBuf,
    callers: Vec<Caller>,
}

#[derive(Debug)]
struct Caller {
    stream: UnixStream,
    line: Vec<u8>,
    until: Instant,
}

impl Clerk {
    /// Listens for the instance whose message process is `pid`.
    ///
    /// # Errors
    /// No directory takes a socket.
    pub(super) fn open(config: &Config, pid: i32) -> io::Result<Self> {
        let (listener, path) = places(config).listen(&config.server.name, pid)?;
        Ok(Self {
            listener,
            path,
            callers: Vec::new(),
        })
    }

    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // Nobody is let in while there is no room: the kernel keeps them waiting.
        let room = self.callers.len() < CALLERS;
        let listener = room.then(|| self.listener.as_fd());
        let callers = self.callers.iter().map(|caller| caller.stream.as_fd());
        listener.into_iter().chain(callers)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.callers.iter().map(|caller| caller.until).min()
    }

    /// What has been asked, with the connection that waits for the answer.
    pub(super) fn hear(&mut self, now: Instant) -> Vec<(Ask, OwnedFd)> {
        while self.callers.len() < CALLERS
            && let Ok((stream, _)) = self.listener.accept()
        {
            if is_ours(&stream) && stream.set_nonblocking(true).is_ok() {
                self.callers.push(Caller {
                    stream,
                    line: Vec::new(),
                    until: now + PATIENCE,
                });
            }
        }
        let mut asked = Vec::new();
        let mut waiting = Vec::new();
        for mut caller in std::mem::take(&mut self.callers) {
            match caller.read() {
                Heard::Nothing if caller.until > now => waiting.push(caller),
                Heard::Nothing | Heard::End => {}
                Heard::Ask(ask) => asked.push((ask, caller.stream.into())),
                Heard::Wrong(why) => answer(caller.stream.into(), &failed(&why)),
            }
        }
        self.callers = waiting;
        asked
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        // The guardian does it where we cannot.
        drop(fs::remove_file(&self.path));
    }
}

enum Heard {
    Nothing,
    End,
    Ask(Ask),
    Wrong(String),
}

impl Caller {
    fn read(&mut self) -> Heard {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Heard::End,
                Ok(got) => self.line.extend_from_slice(&bytes[..got]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(_) => return Heard::End,
            }
            if let Some(end) = memchr::memchr(b'\n', &self.line) {
                let text = self.line.get(..end).unwrap_or_default();
                return serde_json::from_slice(text)
                    .map_or_else(|error| Heard::Wrong(error.to_string()), Heard::Ask);
            }
            if self.line.len() > MOST_ASKED {
                return Heard::Wrong("the question is too long".to_owned());
            }
        }
    }
}

/// Only our own user and root are heard, also in the moment before the socket is private.
fn is_ours(stream: &UnixStream) -> bool {
    let ours = nix::unistd::geteuid().as_raw();
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == ours)
}

fn places(config: &Config) -> Places {
    Places::of_this_process(Some(config.state_dir.clone()))
}

/// Removes the socket of an instance whose spawner could not.
pub(super) fn sweep(config: &Config, pid: i32) {
    places(config).remove(&config.server.name, pid);
}

/// The answer to something that was not done.
pub(super) fn failed(why: &str) -> Value {
    json!({ "ok": false, "error": why })
}

/// Answers, and hangs up. Answers are small: what the kernel does not take at once is lost, for nobody
/// is to wait for an operator who does not read.
pub(super) fn answer(to: OwnedFd, what: &Value) {
    let mut text = what.to_string().into_bytes();
    text.push(b'\n');
    drop(UnixStream::from(to).write_all(&text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn clerk() -> (Clerk, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            runtime_directory: Some(dir.path().to_owned()),
            ..Places::default()
        };
        let (listener, path) = places.listen("s", 1).unwrap();
        let clerk = Clerk {
            listener,
            path,
            callers: Vec::new(),
        };
        (clerk, dir)
    }

    #[test]
    fn a_question_in_two_pieces_is_one_and_nonsense_is_answered() {
        let (mut clerk, _dir) = clerk();
        let now = Instant::now();
        let mut caller = UnixStream::connect(&clerk.path).unwrap();
        caller.write_all(b"{\"command\":").unwrap();
        assert!(clerk.hear(now).is_empty());
        assert_eq!(clerk.watched().count(), 2);
        caller.write_all(b"\"status\"}\n").unwrap();
        let asked = clerk.hear(now);
        assert!(matches!(asked.as_slice(), [(Ask::Status, _)]));
        for (_, to) in asked {
            answer(to, &json!({"ok": true}));
        }
        let mut text = String::new();
        caller.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"ok\":true}\n");

        let mut caller = UnixStream::connect(&clerk.path).unwrap();
        caller.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert!(clerk.hear(now).is_empty());
        BufReader::new(caller).read_line(&mut text).unwrap();
        assert!(text.contains("\"ok\":false"), "{text}");
        assert_eq!((clerk.watched().count(), clerk.due()), (1, None));
    }

    #[test]
    fn those_who_do_not_ask_are_few_and_are_sent_away() {
        let (mut clerk, _dir) = clerk();
        let now = Instant::now();
        let callers: Vec<_> = (0..CALLERS + 2)
            .map(|_| UnixStream::connect(&clerk.path).unwrap())
            .collect();
        clerk.hear(now);
        assert_eq!(clerk.watched().count(), CALLERS, "the listener is left out");
        assert_eq!(clerk.due(), Some(now + PATIENCE));
        clerk.hear(now + PATIENCE);
        clerk.hear(now + PATIENCE);
        assert_eq!(clerk.watched().count(), 3);
        let path = clerk.path.clone();
        drop((callers, clerk));
        assert!(!path.exists());
    }
}
