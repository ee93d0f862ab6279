//! Tells the operator what was refused: each once, with the words that would allow it, and only so
//! many.

use super::grants::{handle, of_rustix};
use super::notice::Act;
use crate::cell::egress::TRIED;
use rustix::fs::{CWD, readlinkat};
use rustix::net::{SendFlags, send};
use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Refusals that are told; what comes after is summed up in one line.
const TOLD: usize = 64;
/// A longer name is refused like any other and not told, in bytes.
const NAME: usize = 400;
/// The longest line that is told, in bytes: a name is at most that much longer when it is escaped.
pub(in crate::cell) const LINE: usize = 4096;

/// The way to the spawner, and what has gone over it.
#[derive(Debug)]
pub(super) struct Refusals {
    channel: Option<OwnedFd>,
    /// The file that the witness tries, as it must.
    tried: Option<PathBuf>,
    told: HashSet<String>,
}

impl Refusals {
    pub(super) fn new(channel: Option<OwnedFd>, tried: Option<PathBuf>) -> Self {
        Self {
            channel,
            tried,
            told: HashSet::new(),
        }
    }

    /// Tells that this act on this file was refused to that thread, if it is new. Never waits.
    pub(super) fn tell(
        &mut self,
        act: Act,
        file: BorrowedFd<'_>,
        thread: i32,
        name: impl FnOnce() -> Vec<u8>,
    ) {
        if self.told.len() > TOLD {
            return;
        }
        let Some(path) = readlinkat(CWD, handle(file), Vec::new())
            .map_err(of_rustix)
            .ok()
            .and_then(|path| path.into_string().ok())
            .filter(|path| is_plain(path))
            .filter(|path| self.tried.as_deref() != Some(Path::new(path)))
        else {
            return;
        };
        let (doing, word) = words(act);
        let kind = word.get(2..3).unwrap_or_default();
        let allow = format!("{word} {}", crate::cell::denial::quoted(&path));
        self.say(kind, &format!("{doing} {path}"), &allow, thread, name);
    }

    /// The same of a TCP port that it was to listen on; the witness tries one, as it must.
    pub(super) fn tell_port(&mut self, port: u16, thread: i32, name: impl FnOnce() -> Vec<u8>) {
        if port != TRIED.port() && self.told.len() <= TOLD {
            let allow = format!("--url http://127.0.0.1:{port}/mcp");
            self.say("l", &format!("listen on port {port}"), &allow, thread, name);
        }
    }

    fn say(
        &mut self,
        kind: &str,
        what: &str,
        allow: &str,
        thread: i32,
        name: impl FnOnce() -> Vec<u8>,
    ) {
        if !self.told.insert(what.to_owned()) {
            return;
        }
        let name = name();
        let name = String::from_utf8_lossy(name.trim_ascii_end());
        let line = if self.told.len() > TOLD {
            "r\nfurther refusals of the supervisor are not told".to_owned()
        } else {
            format!(
                "{kind}\ndenied: {what} by {} (pid {thread}), layer supervision: allow it with {allow}",
                name.escape_debug()
            )
        };
        if let Some(channel) = &self.channel {
            send(
                channel,
                line.as_bytes(),
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            )
            .ok();
        }
    }
}

/// A name that somebody could have meant: absolute, short, and nothing in it writes on a terminal.
/// What the kernel calls a file without a name ends in a word that no grant could use.
fn is_plain(path: &str) -> bool {
    let lost = path.ends_with(" (deleted)");
    path.starts_with('/') && path.len() <= NAME && !lost && !path.chars().any(char::is_control)
}

/// What it does, and the flag that would allow it.
fn words(act: Act) -> (&'static str, &'static str) {
    match act {
        Act::Mode(_) => ("change the mode of", "--write"),
        Act::Times(..) => ("change the times of", "--write"),
        Act::Watch { .. } => ("watch", "--read"),
        Act::Watcher { .. } => ("make a watcher", "--read"),
        // The relay tells of those, which knows the names.
        Act::Connect { .. } | Act::Socket { .. } => ("connect", "--allow-host"),
        Act::Bind { .. } | Act::Listen { .. } => ("listen", "--url"),
    }
}

/// What a line says: whether it is about reading or writing, and the text for people. `None` when
/// nothing that was told looks like this.
pub(in crate::cell) fn read(line: &[u8]) -> Option<(&'static str, String)> {
    let (kind, text) = line.split_at_checked(2)?;
    let kind = match kind {
        b"r\n" => "read",
        b"w\n" => "write",
        b"l\n" => "listen",
        _ => return None,
    };
    Some((kind, String::from_utf8_lossy(text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::pair;
    use rustix::net::{RecvFlags, recv};
    use std::fs::File;
    use std::os::fd::AsFd;

    fn lines(act: impl FnOnce(&mut Refusals)) -> Vec<String> {
        let (ours, theirs) = pair::packets().unwrap();
        let mut refusals = Refusals::new(Some(theirs), Some("/dev/null".into()));
        act(&mut refusals);
        drop(refusals);
        let mut lines = Vec::new();
        let mut bytes = [0; LINE];
        loop {
            let (count, _) = recv(&ours, &mut bytes[..], RecvFlags::empty()).unwrap();
            if count == 0 {
                return lines;
            }
            let (kind, text) = read(&bytes[..count]).unwrap();
            lines.push(format!("{kind} {text}"));
        }
    }

    #[test]
    fn a_refusal_names_who_wanted_what_and_the_words_that_allow_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a b");
        let file = File::create(&path).unwrap();
        let watch = Act::Watch {
            inotify: 3,
            mask: 1,
        };
        let told = lines(|refusals| {
            let name = |name: &str| name.as_bytes().to_vec();
            refusals.tell(Act::Mode(0o600), file.as_fd(), 7, || name("py\x1b[1m\n"));
            refusals.tell(Act::Mode(0o644), file.as_fd(), 8, || name("other\n"));
            refusals.tell(watch, file.as_fd(), 9, || name("node\n"));
        });
        let path = path.display();
        assert_eq!(
            told,
            [
                format!(
                    "write denied: change the mode of {path} by py\\u{{1b}}[1m (pid 7), layer \
                     supervision: allow it with --write '{path}'"
                ),
                format!(
                    "read denied: watch {path} by node (pid 9), layer supervision: allow it with \
                     --read '{path}'"
                ),
            ]
        );
    }

    #[test]
    fn a_port_is_told_once_and_that_of_the_witness_never() {
        let told = lines(|refusals| {
            for port in [TRIED.port(), 3000, 3000, 3001] {
                refusals.tell_port(port, 7, || b"node\n".to_vec());
            }
        });
        assert_eq!(told.len(), 2);
        assert_eq!(
            told[0],
            "listen denied: listen on port 3000 by node (pid 7), layer supervision: allow it with \
             --url http://127.0.0.1:3000/mcp"
        );
    }

    #[test]
    fn a_flood_is_summed_up_and_what_writes_on_terminals_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(dir.path().join(name)).unwrap();
        let told = lines(|refusals| {
            let tried = File::open("/dev/null").unwrap();
            refusals.tell(Act::Mode(0), tried.as_fd(), 7, Vec::new);
            let strange = file("a\u{1b}[2J");
            refusals.tell(Act::Mode(0), strange.as_fd(), 7, Vec::new);
            for number in 0..200 {
                let file = file(&number.to_string());
                refusals.tell(Act::Mode(0), file.as_fd(), 7, Vec::new);
            }
        });
        assert_eq!(told.len(), TOLD + 1);
        assert!(told[TOLD].contains("further"), "{}", told[TOLD]);
    }

    #[test]
    fn what_nobody_says_is_not_read() {
        for line in [&b""[..], b"r", b"x\nhello", b"read"] {
            assert_eq!(read(line), None);
        }
    }
}
