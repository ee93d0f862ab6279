//! Events as bytes: a fixed header, a body in JSON, and descriptors beside them.

use super::Event;
use crate::cell::LayerReport;
use crate::cell::spawn::credential::CredentialState;
use crate::cell::spawn::protocol::{
    Exit, Facts, HEADER_BYTES, MAGIC, MAX_BODY, MAX_FDS, ProtocolError, opened, words,
};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

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
const DENIED: u32 = 7;
const NETWORK: u32 = 8;
const SWITCH: u32 = 9;
const ACCESS: u32 = 10;
const ASKED: u32 = 11;
const CONFIG: u32 = 12;
const FROZEN: u32 = 13;

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

/// At most `limit` bytes, cut at a character.
fn cut(mut text: String, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
