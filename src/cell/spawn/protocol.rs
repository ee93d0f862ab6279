//! The messages between the message process and the spawner: parsers that answer any bytes.
//!
//! One datagram of a SOCK_SEQPACKET pair is one message. Each side treats the other as hostile: a
//! message that is not exactly right is an error, never a guess.

use super::credential::CredentialState;
use crate::cell::LayerReport;
use crate::cell::egress::News;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// First field of every message; the last digit is the version.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"CFD1");
/// The fixed part of an event, in bytes.
pub(super) const HEADER_BYTES: usize = 16;
/// The largest body of an event, in bytes.
pub(super) const MAX_BODY: usize = 16 * 1024;
/// The most descriptors that one event carries.
pub(super) const MAX_FDS: usize = 6;
/// Cells are numbered from 0; this many can live at once.
pub const MAX_CELLS: u32 = 64;
/// The cell that makes connections to the issuer of tokens, where its keys are fetched.
pub const ISSUER: u32 = MAX_CELLS - 1;

/// What the spawner is started for; decides whose stdin, stdout and stderr a cell gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Pipes, handed to the message process.
    Run,
    /// Our own, passed through; a terminal is replaced by one of the cell's own.
    Exec,
}

impl Mode {
    /// The word on the spawner's command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Exec => "exec",
        }
    }

    /// The reverse of [`Mode::word`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Run, Self::Exec]
            .into_iter()
            .find(|m| m.word() == word)
    }
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("a message of {bytes} bytes where that cannot be")]
    Length { bytes: usize },
    #[error("a message of another protocol or version")]
    Magic,
    #[error("field {field} holds {value}")]
    Field { field: &'static str, value: u32 },
    #[error("{found} descriptors where {expected} belong")]
    Descriptors { found: usize, expected: usize },
    #[error("an event body that cannot be read: {reason}")]
    Body { reason: String },
}

/// How a server's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl Exit {
    /// The exit code that a shell would show: the program's own, or 128 + the signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// What is known about what runs in the cell; each is absent when the command does not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The package's or the program's name.
    pub name: Option<String>,
    /// The exact version of an installed package.
    pub version: Option<String>,
}

/// What the spawner says.
#[derive(Debug)]
pub enum Event {
    /// The server's program is running: the launcher has executed it with every layer in force.
    Started {
        cell: u32,
        /// The server's main process.
        pid: u32,
        report: LayerReport,
        facts: Facts,
        /// Mode `Run`: stdin, stdout, stderr of the cell, our ends. Mode `Exec`: the read end of
        /// stderr, or the master of the cell's terminal. Of a server on HTTP: our ends, then the stdin and stdout that it would have, and a [dialer](crate::cell::egress::dial)'s.
        fds: Vec<OwnedFd>,
    },
    /// One line for people, while something takes long.
    Progress { cell: u32, text: String },
    /// One line about what the cell refused, with the setting that would allow it.
    Denied {
        cell: u32,
        /// As `cofferdam_cell_denials_total` counts it: `read`, `write`, `execute`, `connect`.
        what: String,
        text: String,
    },
    /// What the cell's network refused, with the setting that would allow it, and what passed.
    Network { cell: u32, news: News },
    /// The main process ended, and after it everything that it had started.
    Exited {
        cell: u32,
        exit: Exit,
        /// The signal's meaning, or what outlived SIGKILL; empty for a plain exit.
        cause: String,
        /// The limit that ended it, when the signal says so.
        limit: Option<String>,
    },
    /// The cell did not start; nothing of it is left.
    Failed {
        cell: u32,
        /// 77, 78, 126, 127 or 70.
        exit_code: u8,
        message: String,
    },
    /// The answer to `Rotate`.
    Rotated {
        /// The audit log, opened for appending, and its size in bytes; or why there is none.
        log: Result<(OwnedFd, u64), String>,
    },
    /// The credentials that the server is given, before its first start and whenever one of them
    /// has changed or cannot be read any more.
    Credentials {
        states: Vec<CredentialState>,
        /// A sealed memfd with the values, in the same order, each after its length in bytes (32 bits,
        /// little endian): the message process takes them out of what the server says.
        values: OwnedFd,
    },
    /// What the listener knows its clients by, first and whenever one of the files has changed.
    Access {
        /// A sealed memfd with what the files hold; or why they cannot be read.
        texts: Result<OwnedFd, String>,
    },
    /// The operator's switch, when it is not as it was.
    Switch {
        /// Why nothing may run, if so.
        off: Option<String>,
        /// Tools that may not be called.
        tools: Vec<String>,
    },
    /// The operator asks the message process for something.
    Asked {
        asked: Asked,
        /// Takes the answer, and is closed after it.
        reply: OwnedFd,
    },
    /// What runs stands still, or goes on.
    Frozen {
        /// Takes what the message process knows of it, as JSON; `None`: it goes on.
        facts: Option<OwnedFd>,
    },
    /// The configuration was read again.
    Config {
        /// A sealed memfd with the text of its file, which the spawner itself goes by from now on; or
        /// why everything stays as it is.
        text: Result<OwnedFd, String>,
        /// Takes what came of it, where somebody waits for that.
        reply: Option<OwnedFd>,
    },
}

/// What the operator asks the message process for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Asked {
    /// How it is.
    Status,
    /// To end when what is open is answered, after so many milliseconds at the latest.
    Drain { within: Option<u64> },
}

/// The bodies, as JSON after the header.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartedBody {
    pid: u32,
    report: LayerReport,
    facts: Facts,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExitedBody {
    exit: Exit,
    cause: String,
    limit: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeniedBody {
    what: String,
    text: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FailedBody {
    exit_code: u8,
    message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotatedBody {
    size: u64,
    failed: Option<String>,
}

const STARTED: u32 = 1;
const PROGRESS: u32 = 2;
const EXITED: u32 = 3;
const FAILED: u32 = 4;
const ROTATED: u32 = 5;
const CREDENTIALS: u32 = 6;
const SWITCH: u32 = 9;
const ACCESS: u32 = 10;
const ASKED: u32 = 11;
const CONFIG: u32 = 12;
const FROZEN: u32 = 13;
const DENIED: u32 = 7;
const NETWORK: u32 = 8;

impl Event {
    /// The bytes on the wire and the descriptors that go with them. Texts are cut to fit.
    ///
    /// # Errors
    /// A layer report that does not fit into [`MAX_BODY`].
    pub fn encode(self) -> Result<(Vec<u8>, Vec<OwnedFd>), ProtocolError> {
        /// Of one text, before JSON escapes it (up to six bytes for one).
        const TEXT: usize = 2 * 1024;
        let (kind, cell, body, fds) = match self {
            Self::Started {
                cell,
                pid,
                report,
                facts,
                fds,
            } => {
                let facts = Facts {
                    name: facts.name.map(|n| cut(n, TEXT / 4)),
                    version: facts.version.map(|v| cut(v, TEXT / 4)),
                };
                (
                    STARTED,
                    cell,
                    json(&StartedBody { pid, report, facts })?,
                    fds,
                )
            }
            Self::Denied { cell, what, text } => {
                let (what, text) = (cut(what, 16), cut(text, TEXT));
                (DENIED, cell, json(&DeniedBody { what, text })?, vec![])
            }
            Self::Network { cell, news } => (NETWORK, cell, json(&news)?, vec![]),
            Self::Progress { cell, text } => (PROGRESS, cell, json(&cut(text, TEXT))?, vec![]),
            Self::Exited {
                cell,
                exit,
                cause,
                limit,
            } => {
                let limit = limit.map(|l| cut(l, 64));
                let body = ExitedBody {
                    exit,
                    cause: cut(cause, TEXT),
                    limit,
                };
                (EXITED, cell, json(&body)?, vec![])
            }
            Self::Failed {
                cell,
                exit_code,
                message,
            } => {
                let body = FailedBody {
                    exit_code,
                    message: cut(message, TEXT),
                };
                (FAILED, cell, json(&body)?, vec![])
            }
            Self::Rotated { log } => {
                let (size, failed, fds) = match log {
                    Ok((file, size)) => (size, None, vec![file]),
                    Err(reason) => (0, Some(cut(reason, TEXT)), vec![]),
                };
                (ROTATED, 0, json(&RotatedBody { size, failed })?, fds)
            }
            Self::Credentials { states, values } => {
                // All of them fit together, whatever their files are called.
                let room = (2048 / states.len().max(1)).clamp(16, 256);
                let states: Vec<CredentialState> = states
                    .into_iter()
                    .map(|state| CredentialState {
                        problem: state.problem.map(|problem| cut(problem, room)),
                        ..state
                    })
                    .collect();
                (CREDENTIALS, 0, json(&states)?, vec![values])
            }
            Self::Access { texts } => {
                let (failed, fds) = match texts {
                    Ok(file) => (None, vec![file]),
                    Err(reason) => (Some(cut(reason, TEXT)), vec![]),
                };
                (ACCESS, 0, json(&failed)?, fds)
            }
            Self::Switch { off, tools } => {
                let off = off.map(|reason| cut(reason, TEXT));
                (SWITCH, 0, json(&(off, tools))?, vec![])
            }
            Self::Frozen { facts } => {
                let fds: Vec<OwnedFd> = facts.into_iter().collect();
                (FROZEN, 0, json(&())?, fds)
            }
            Self::Asked { asked, reply } => (ASKED, 0, json(&asked)?, vec![reply]),
            Self::Config { text, reply } => {
                let (failed, mut fds) = match text {
                    Ok(text) => (None, vec![text]),
                    Err(reason) => (Some(cut(reason, TEXT)), vec![]),
                };
                fds.extend(reply);
                (CONFIG, 0, json(&failed)?, fds)
            }
        };
        if body.len() > MAX_BODY {
            return Err(ProtocolError::Length { bytes: body.len() });
        }
        let count = u32::try_from(fds.len()).unwrap_or(u32::MAX);
        let mut bytes = words(MAGIC, kind, cell, count).to_vec();
        bytes.extend_from_slice(&body);
        Ok((bytes, fds))
    }

    /// Reads one event and the descriptors that came with it.
    ///
    /// # Errors
    /// Any bytes that [`Event::encode`] does not produce, and a number of descriptors other than
    /// the one it announces; surplus descriptors are closed.
    pub fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Self, ProtocolError> {
        let wrong = ProtocolError::Length { bytes: bytes.len() };
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(wrong);
        };
        if body.len() > MAX_BODY {
            return Err(wrong);
        }
        let (kind, cell, count) = opened(header)?;
        let announced = usize::try_from(count).unwrap_or(usize::MAX);
        let most = match kind {
            STARTED => MAX_FDS,
            ROTATED | CREDENTIALS | ACCESS | ASKED | FROZEN => 1,
            CONFIG => 2,
            _ => 0,
        };
        if announced != fds.len() || announced > most {
            let expected = announced.min(most);
            return Err(ProtocolError::Descriptors {
                found: fds.len(),
                expected,
            });
        }
        match kind {
            STARTED => {
                let StartedBody { pid, report, facts } = parse(body)?;
                Ok(Self::Started {
                    cell,
                    pid,
                    report,
                    facts,
                    fds,
                })
            }
            DENIED => {
                let DeniedBody { what, text } = parse(body)?;
                Ok(Self::Denied { cell, what, text })
            }
            NETWORK => Ok(Self::Network {
                cell,
                news: parse(body)?,
            }),
            PROGRESS => Ok(Self::Progress {
                cell,
                text: parse(body)?,
            }),
            EXITED => {
                let ExitedBody { exit, cause, limit } = parse(body)?;
                Ok(Self::Exited {
                    cell,
                    exit,
                    cause,
                    limit,
                })
            }
            FAILED => {
                let FailedBody { exit_code, message } = parse(body)?;
                Ok(Self::Failed {
                    cell,
                    exit_code,
                    message,
                })
            }
            ROTATED => {
                let RotatedBody { size, failed } = parse(body)?;
                let found = fds.len();
                let log = match (fds.into_iter().next(), failed) {
                    (Some(file), None) => Ok((file, size)),
                    (None, Some(reason)) => Err(reason),
                    (_, failed) => {
                        let expected = usize::from(failed.is_none());
                        return Err(ProtocolError::Descriptors { found, expected });
                    }
                };
                Ok(Self::Rotated { log })
            }
            ACCESS => {
                let failed: Option<String> = parse(body)?;
                let found = fds.len();
                let texts = match (fds.into_iter().next(), failed) {
                    (Some(file), None) => Ok(file),
                    (None, Some(reason)) => Err(reason),
                    (_, failed) => {
                        let expected = usize::from(failed.is_none());
                        return Err(ProtocolError::Descriptors { found, expected });
                    }
                };
                Ok(Self::Access { texts })
            }
            SWITCH => {
                let (off, tools) = parse(body)?;
                Ok(Self::Switch { off, tools })
            }
            FROZEN => {
                let () = parse(body)?;
                let facts = fds.into_iter().next();
                Ok(Self::Frozen { facts })
            }
            ASKED => {
                let asked = parse(body)?;
                let reply = first(fds)?;
                Ok(Self::Asked { asked, reply })
            }
            CONFIG => {
                let failed: Option<String> = parse(body)?;
                let found = fds.len();
                let mut fds = fds.into_iter();
                let text = match failed {
                    None => Ok(fds.next()),
                    Some(reason) => Err(reason),
                };
                let (text, reply) = match (text, fds.next(), fds.next()) {
                    (Ok(Some(text)), reply, None) => (Ok(text), reply),
                    (Err(reason), reply, None) => (Err(reason), reply),
                    _ => return Err(ProtocolError::Descriptors { found, expected: 1 }),
                };
                Ok(Self::Config { text, reply })
            }
            CREDENTIALS => {
                let states = parse(body)?;
                let values = first(fds)?;
                Ok(Self::Credentials { states, values })
            }
            value => Err(ProtocolError::Field {
                field: "kind",
                value,
            }),
        }
    }
}

fn first(fds: Vec<OwnedFd>) -> Result<OwnedFd, ProtocolError> {
    let none = ProtocolError::Descriptors {
        found: 0,
        expected: 1,
    };
    fds.into_iter().next().ok_or(none)
}

fn json<T: Serialize>(body: &T) -> Result<Vec<u8>, ProtocolError> {
    serde_json::to_vec(body).map_err(|e| ProtocolError::Body {
        reason: e.to_string(),
    })
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(body).map_err(|e| ProtocolError::Body {
        reason: e.to_string(),
    })
}

pub(super) fn words(a: u32, b: u32, c: u32, d: u32) -> [u8; 16] {
    let mut out = [0; 16];
    for (slot, word) in out.chunks_exact_mut(4).zip([a, b, c, d]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// What follows the magic in the fixed part of any message: its kind, its cell, and one word more.
///
/// # Errors
/// Another protocol, or a cell that cannot be.
pub(super) fn opened(bytes: &[u8; HEADER_BYTES]) -> Result<(u32, u32, u32), ProtocolError> {
    let mut out = [0; 4];
    for (word, chunk) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*chunk);
    }
    let [magic, kind, cell, last] = out;
    if magic != MAGIC {
        return Err(ProtocolError::Magic);
    }
    if cell >= MAX_CELLS {
        return Err(ProtocolError::Field {
            field: "cell",
            value: cell,
        });
    }
    Ok((kind, cell, last))
}

/// At most `limit` bytes, cut at a character.
fn cut(mut text: String, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::super::request::{Request, Stop};
    use super::*;
    use proptest::prelude::*;

    fn requests() -> Vec<Request> {
        let mut all = vec![];
        for cell in 0..MAX_CELLS {
            all.push(Request::Start { cell });
            for how in [Stop::Terminate, Stop::Interrupt, Stop::Hangup, Stop::Kill] {
                all.push(Request::Stop { cell, how });
            }
        }
        all.extend([
            Request::Rotate,
            Request::Reread,
            Request::SwitchOff,
            Request::Reload,
            Request::Taken,
        ]);
        all
    }

    #[test]
    fn every_request_survives_the_wire() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn a_request_cannot_name_a_cell_beyond_the_last() {
        let bytes = Request::Start { cell: MAX_CELLS }.encode();
        let refused = ProtocolError::Field {
            field: "cell",
            value: MAX_CELLS,
        };
        assert_eq!(Request::decode(&bytes), Err(refused));
    }

    #[test]
    fn events_survive_the_wire_and_texts_are_cut_to_fit() {
        let long = "\u{1}é".repeat(10_000);
        let events = [
            Event::Progress {
                cell: 3,
                text: long.clone(),
            },
            Event::Access {
                texts: Err(long.clone()),
            },
            Event::Failed {
                cell: 1,
                exit_code: 77,
                message: long.clone(),
            },
            Event::Exited {
                cell: 0,
                exit: Exit::Signal(31),
                cause: long,
                limit: None,
            },
        ];
        for event in events {
            let kind = std::mem::discriminant(&event);
            let (bytes, fds) = event.encode().unwrap();
            assert!(bytes.len() <= HEADER_BYTES + MAX_BODY);
            let back = Event::decode(&bytes, fds).unwrap();
            assert_eq!(std::mem::discriminant(&back), kind);
        }
    }

    #[test]
    fn what_carries_descriptors_brings_them_and_no_others() {
        let fd = || std::io::stdin().lock().try_clone_fd();
        let (reply, none) = (Some(fd()), None);
        let events = [
            (
                Event::Asked {
                    asked: Asked::Drain { within: Some(7) },
                    reply: fd(),
                },
                1,
            ),
            (Event::Frozen { facts: Some(fd()) }, 1),
            (Event::Frozen { facts: None }, 0),
            (
                Event::Config {
                    text: Ok(fd()),
                    reply,
                },
                2,
            ),
            (
                Event::Config {
                    text: Err("no".to_owned()),
                    reply: none,
                },
                0,
            ),
        ];
        for (event, count) in events {
            let text = format!("{event:?}");
            let (bytes, fds) = event.encode().unwrap();
            assert_eq!(fds.len(), count, "{text}");
            let back = Event::decode(&bytes, fds).unwrap();
            assert_eq!(
                std::mem::discriminant(&back),
                std::mem::discriminant(&Event::decode(&bytes, back_fds(&back)).unwrap())
            );
            let surplus = vec![fd(), fd(), fd()];
            assert!(Event::decode(&bytes, surplus).is_err(), "{text}");
        }
    }

    /// As many descriptors as an event came with.
    fn back_fds(event: &Event) -> Vec<OwnedFd> {
        let fd = || std::io::stdin().lock().try_clone_fd();
        let count = match event {
            Event::Asked { .. } | Event::Frozen { facts: Some(_) } => 1,
            Event::Config {
                text: Ok(_),
                reply: Some(_),
            } => 2,
            _ => 0,
        };
        (0..count).map(|_| fd()).collect()
    }

    #[test]
    fn an_event_without_the_descriptors_it_announces_is_refused() {
        let fds = vec![std::io::stdin().lock().try_clone_fd()];
        let started = Event::Started {
            cell: 0,
            pid: 7,
            report: LayerReport::default(),
            facts: Facts::default(),
            fds,
        };
        let (bytes, _fds) = started.encode().unwrap();
        let refused = ProtocolError::Descriptors {
            found: 0,
            expected: 1,
        };
        assert_eq!(Event::decode(&bytes, vec![]).unwrap_err(), refused);
    }

    #[test]
    fn descriptors_on_an_event_that_has_none_are_refused() {
        let (bytes, _) = Event::Progress {
            cell: 0,
            text: "x".into(),
        }
        .encode()
        .unwrap();
        let fds = vec![std::io::stdin().lock().try_clone_fd()];
        let refused = ProtocolError::Descriptors {
            found: 1,
            expected: 0,
        };
        assert_eq!(Event::decode(&bytes, fds).unwrap_err(), refused);
    }

    trait Clone1 {
        fn try_clone_fd(&self) -> OwnedFd;
    }

    impl<T: std::os::fd::AsFd> Clone1 for T {
        fn try_clone_fd(&self) -> OwnedFd {
            self.as_fd().try_clone_to_owned().unwrap()
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_valid_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(&request.encode()[..], &bytes[..]);
            }
        }

        #[test]
        fn a_request_with_any_byte_changed_is_refused_or_means_what_it_says(
            which in 0usize..80, at in 0usize..16, to in any::<u8>()
        ) {
            let request = requests()[which];
            let mut bytes = request.encode();
            bytes[at] = to;
            if let Ok(read) = Request::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_a_valid_event_or_an_error(
            kind in 0u32..6, cell in 0u32..20, count in 0u32..3,
            body in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let mut bytes = words(MAGIC, kind, cell, count).to_vec();
            bytes.extend_from_slice(&body);
            drop(Event::decode(&bytes, vec![]));
            drop(Event::decode(&body, vec![]));
        }
    }
}
