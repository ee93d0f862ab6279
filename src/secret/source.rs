//! Reads one credential from its file, or says why what is there is none.
//!
//! A value that cannot be used never takes the place of one that can: whoever reads keeps the last
//! good one. Files are small (a token, a key, a JSON object of them), so they are read whole.

use super::whole::{self, Lack, Look, Whole};
use super::{Secret, expiry};
use crate::config::{Credential, Inject, principal_name};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;
use zeroize::Zeroizing;

/// Most bytes of a credential file; a certificate chain has some 10 KiB.
pub const MAX_BYTES: u64 = 64 * 1024;
/// The member of a JSON or `.env` file that names the environment which its values are for.
const LABEL: &str = "environment";

/// Why a file gives no value. No text of the file is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {path}: {reason}", path = path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{path} is not a file", path = path.display())]
    NotAFile { path: PathBuf },
    #[error("{path} has more than {MAX_BYTES} bytes", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path} holds no value", path = path.display())]
    Empty { path: PathBuf },
    #[error("{path} has no text under `{key}`, in JSON or as KEY=value", path = path.display())]
    NoKey { path: PathBuf, key: String },
    #[error("{path} is for `{found}`, and `{wanted}` is wanted here", path = path.display())]
    Environment {
        path: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("the value in {path} was revoked", path = path.display())]
    Revoked { path: PathBuf },
    #[error("another process has {path} open to write, or has just written it", path = path.display())]
    BeingWritten { path: PathBuf },
    #[error("the value in {path} holds {what}", path = path.display())]
    Byte { path: PathBuf, what: &'static str },
}

/// What a file holds.
#[derive(Debug)]
pub struct Found {
    pub secret: Secret,
    /// When it says that it ends, in seconds since 1970.
    pub expires: Option<u64>,
    /// When it was written, in seconds since 1970.
    pub written: Option<u64>,
}

/// The value that the credential's file holds now; `look` tells whether somebody writes it.
///
/// # Errors
/// [`SourceError`]; where `look` cannot tell, a file that is being written can be any of them for a moment.
pub fn read(credential: &Credential, look: Look) -> Result<Found, SourceError> {
    let path = || credential.file.clone();
    let (text, written) = contents(credential, look)?;
    let label = member(&text, LABEL).filter(|_| credential.key.is_some());
    if let Some(wanted) = &credential.environment
        && let Some(found) = label
        && *found != *wanted.as_bytes()
    {
        return Err(SourceError::Environment {
            path: path(),
            found: String::from_utf8_lossy(&found).chars().take(64).collect(),
            wanted: wanted.clone(),
        });
    }
    let value = match &credential.key {
        None => Zeroizing::new(trimmed(&text).to_vec()),
        Some(key) => member(&text, key).ok_or_else(|| SourceError::NoKey {
            path: path(),
            key: key.clone(),
        })?,
    };
    if value.is_empty() {
        return Err(SourceError::Empty { path: path() });
    }
    if value.contains(&0) {
        let what = "a NUL byte, which no variable can";
        return Err(SourceError::Byte { path: path(), what });
    }
    if std::str::from_utf8(&value).is_err() {
        let what = "bytes that are not UTF-8, which no variable can";
        return Err(SourceError::Byte { path: path(), what });
    }
    if matches!(credential.inject, Inject::Header { .. }) && !fits_header(&value) {
        let what = "a line end or another control character, which no header can";
        return Err(SourceError::Byte { path: path(), what });
    }
    let beside = || {
        let mut names = expiry::MEMBERS.iter();
        names.find_map(|name| expiry::parse(std::str::from_utf8(&said(&text, name)?).ok()?))
    };
    let expires = credential.key.as_ref().and_then(|_| beside());
    Ok(Found {
        expires: expires.or_else(|| expiry::of_token(&value)),
        secret: Secret::new(credential.name.clone(), value.to_vec()),
        written,
    })
}

/// The credentials of the tenants that have an entry now, at most so many, in alphabetical order.
pub(super) fn of_tenants(template: &Credential, most: usize) -> Vec<Credential> {
    let directory = template.tenants().unwrap_or_default();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        // `..data` and its like are how Kubernetes swaps directories.
        .filter(|name| !name.starts_with('.') && name.len() <= 64 && principal_name(name).is_ok())
        .collect();
    names.sort_unstable();
    let all = names.into_iter().take(most);
    all.map(|name| template.of_tenant(&name)).collect()
}

fn contents(
    credential: &Credential,
    look: Look,
) -> Result<(Zeroizing<Vec<u8>>, Option<u64>), SourceError> {
    let path = credential.file.clone();
    let Whole { bytes, written } =
        whole::read_whole(&credential.file, MAX_BYTES, look).map_err(|lack| match lack {
            Lack::NotAFile => SourceError::NotAFile { path },
            Lack::TooLarge => SourceError::TooLarge { path },
            Lack::BeingWritten => SourceError::BeingWritten { path },
            Lack::Unreadable(error) => SourceError::Unreadable {
                path,
                reason: error.to_string(),
            },
        })?;
    let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((bytes, written.map(|since| since.as_secs())))
}

/// RFC 9110, section 5.5: all but control characters, of which a tab may be inside.
fn fits_header(value: &[u8]) -> bool {
    !value
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// Without the line end that editors and `echo` leave, and blanks around it.
fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// The text under a key of a JSON object, or of a file of KEY=value lines.
fn member(text: &[u8], key: &str) -> Option<Zeroizing<Vec<u8>>> {
    let json = trimmed(text).first() == Some(&b'{');
    match json {
        true => in_json(text, key, false),
        false => in_lines(text, key),
    }
}

/// The same, also where it is a number.
fn said(text: &[u8], key: &str) -> Option<Zeroizing<Vec<u8>>> {
    let json = trimmed(text).first() == Some(&b'{');
    match json {
        true => in_json(text, key, true),
        false => in_lines(text, key),
    }
}

/// No tree is built: it would leave every value of the file in memory.
fn in_json(text: &[u8], key: &str, numbers: bool) -> Option<Zeroizing<Vec<u8>>> {
    let object: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(text).ok()?;
    let raw = object.get(key)?.get();
    if numbers && raw.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Zeroizing::new(raw.as_bytes().to_vec()));
    }
    if !raw.starts_with('"') {
        return None;
    }
    let text: String = serde_json::from_str(raw).ok()?;
    Some(Zeroizing::new(text.into_bytes()))
}

fn in_lines(text: &[u8], key: &str) -> Option<Zeroizing<Vec<u8>>> {
    // A line without its end may be half of one.
    let whole = text.iter().rposition(|byte| *byte == b'\n')? + 1;
    let lines = text.get(..whole)?.split(|byte| *byte == b'\n');
    // The last of several wins, as in a shell.
    lines.rev().find_map(|line| {
        let line = line.trim_ascii();
        let line = line.strip_prefix(b"export ").unwrap_or(line);
        let at = line.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (line.get(..at)?, line.get(at + 1..)?);
        let ours = name.trim_ascii() == key.as_bytes();
        ours.then(|| Zeroizing::new(unquoted(value.trim_ascii()).to_vec()))
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(file: PathBuf, key: Option<&str>) -> Credential {
        Credential {
            name: "github".to_owned(),
            file,
            key: key.map(str::to_owned),
            inject: Inject::Env {
                variable: "TOKEN".to_owned(),
            },
            environment: Some("production".to_owned()),
            overlap: std::time::Duration::from_secs(600),
            rotate_every: None,
        }
    }

    fn found(text: &[u8], key: Option<&str>) -> Result<Vec<u8>, SourceError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, text).unwrap();
        read(&credential(path, key), |_| Some(false)).map(|found| found.secret.expose().to_vec())
    }

    #[test]
    fn a_value_is_found_in_every_form() {
        assert_eq!(found(b" ghp_1\n", None).unwrap(), b"ghp_1");
        assert_eq!(
            found(b"{\"a\":1,\"token\":\"t\\u0031\"}", Some("token")).unwrap(),
            b"t1"
        );
        let env = b"# comment\nexport OTHER=x\nTOKEN = \"with = sign\"\n";
        assert_eq!(found(env, Some("TOKEN")).unwrap(), b"with = sign");
        assert_eq!(found(b"T='q'\n", Some("T")).unwrap(), b"q");
    }

    #[test]
    fn the_end_of_a_value_is_read_from_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let ends = |text: &str, key| {
            std::fs::write(&path, text).unwrap();
            let found = read(&credential(path.clone(), key), |_| Some(false)).unwrap();
            assert!(found.written.is_some());
            found.expires
        };
        let json = r#"{"token":"t","expires_at":1790000000}"#;
        assert_eq!(ends(json, Some("token")), Some(1_790_000_000));
        let json = r#"{"token":"t","Expiration":"2026-09-21T12:53:20Z"}"#;
        assert_eq!(ends(json, Some("token")), Some(1_789_995_200));
        let lines = "TOKEN=t\nEXPIRES_AT=1790000000\n";
        assert_eq!(ends(lines, Some("TOKEN")), Some(1_790_000_000));
        assert_eq!(ends("1790000000", None), None);
        let token = "e30.eyJleHAiOjE3OTAwMDAwMDB9.c2ln";
        assert_eq!(ends(token, None), Some(1_790_000_000));
    }

    #[test]
    fn what_is_no_value_is_an_error_that_does_not_repeat_it() {
        let large = vec![b'x'; 70_000];
        let cases: [(&[u8], Option<&str>); 9] = [
            (b"", None),
            (b" \n", None),
            (&large, None),
            (b"a\0b", None),
            (b"\xff\xfe", None),
            (b"{\"token\": \"sec", Some("token")),
            (b"{\"token\": 7}", Some("token")),
            (b"TOKEN=half-of-a-sec", Some("TOKEN")),
            (
                b"{\"token\":\"secret-1\",\"environment\":\"staging\"}",
                Some("token"),
            ),
        ];
        for (text, key) in cases {
            let error = found(text, key).unwrap_err().to_string();
            assert!(!error.contains("sec"), "{error}");
        }
        let gone = read(&credential(PathBuf::from("/nowhere/token"), None), |_| None);
        assert!(matches!(gone, Err(SourceError::Unreadable { .. })));
        let directory = read(&credential(std::env::temp_dir(), None), |_| None);
        assert!(matches!(directory, Err(SourceError::NotAFile { .. })));
    }

    #[test]
    fn a_file_that_is_being_written_gives_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "half").unwrap();
        let now = |look| read(&credential(path.clone(), None), look);
        let written = |found| matches!(found, Err(SourceError::BeingWritten { .. }));
        assert!(written(now(|_| Some(true))));
        assert!(now(|_| Some(false)).is_ok());
        // Where nobody can tell it has to stand still for a while.
        assert!(written(now(|_| None)));
        let begun = std::time::Instant::now();
        let found = whole::patiently(|| now(|_| None), |it| written(Err(it.clone())));
        assert!(found.is_ok() && begun.elapsed() >= std::time::Duration::from_millis(200));
        let ended = whole::patiently(|| now(|_| Some(true)), |it| written(Err(it.clone())));
        assert!(written(ended));
    }

    #[test]
    fn what_is_no_header_is_no_value_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let mut source = credential(path.clone(), None);
        std::fs::write(&path, "token-1\n# comment\n").unwrap();
        assert!(read(&source, |_| Some(false)).is_ok(), "a variable may");
        source.inject = Inject::Header {
            name: "Authorization".to_owned(),
            format: "Bearer {}".to_owned(),
        };
        for text in ["token-1\n# comment\n", "a\rb", "a\x7fb", "a\x1bb"] {
            std::fs::write(&path, text).unwrap();
            let error = read(&source, |_| Some(false)).unwrap_err();
            assert!(matches!(error, SourceError::Byte { .. }), "{text:?}");
            assert!(!error.to_string().contains("token-1"));
        }
        std::fs::write(&path, "t\u{f6}k\ten\n").unwrap();
        assert!(read(&source, |_| Some(false)).is_ok());
    }

    #[test]
    fn a_fifo_holds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("token");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = read(&credential(fifo, None), |_| None);
        assert!(matches!(read, Err(SourceError::NotAFile { .. })));
    }
}
