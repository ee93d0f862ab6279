//! Reads one credential from its file, or says why what is there is none.
//!
//! A value that cannot be used never takes the place of one that can: whoever reads keeps the last
//! good one. Files are small (a token, a key, a JSON object of them), so they are read whole.

use super::Secret;
use crate::config::Credential;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
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
    #[error("the value in {path} holds {what}, which no variable can", path = path.display())]
    Byte { path: PathBuf, what: &'static str },
}

/// The value that the credential's file holds now.
///
/// # Errors
/// [`SourceError`]; a file that is being written can be any of them for a moment.
pub fn read(credential: &Credential) -> Result<Secret, SourceError> {
    let path = || credential.file.clone();
    let text = contents(credential)?;
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
        let what = "a NUL byte";
        return Err(SourceError::Byte { path: path(), what });
    }
    if std::str::from_utf8(&value).is_err() {
        let what = "bytes that are not UTF-8";
        return Err(SourceError::Byte { path: path(), what });
    }
    Ok(Secret::new(credential.name.clone(), value.to_vec()))
}

fn contents(credential: &Credential) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let path = || credential.file.clone();
    let unreadable = |error: io::Error| SourceError::Unreadable {
        path: path(),
        reason: error.to_string(),
    };
    let file = File::open(&credential.file).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(SourceError::NotAFile { path: path() });
    }
    if about.len() > MAX_BYTES {
        return Err(SourceError::TooLarge { path: path() });
    }
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let room = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(room.saturating_add(1)));
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() > room {
        return Err(SourceError::TooLarge { path: path() });
    }
    Ok(text)
}

/// Without the line end that editors and `echo` leave, and blanks around it.
fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// The text under a key of a JSON object, or of a file of KEY=value lines.
fn member(text: &[u8], key: &str) -> Option<Zeroizing<Vec<u8>>> {
    if trimmed(text).first() == Some(&b'{') {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(text).ok()?;
        let value = object.into_iter().find(|(name, _)| name == key)?.1;
        return match value {
            serde_json::Value::String(text) => Some(Zeroizing::new(text.into_bytes())),
            _ => None,
        };
    }
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
            inject: crate::config::Inject::Variable("TOKEN".to_owned()),
            environment: Some("production".to_owned()),
            overlap: std::time::Duration::from_secs(600),
        }
    }

    fn found(text: &[u8], key: Option<&str>) -> Result<Vec<u8>, SourceError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, text).unwrap();
        read(&credential(path, key)).map(|secret| secret.expose().to_vec())
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
        let gone = read(&credential(PathBuf::from("/nowhere/token"), None));
        assert!(matches!(gone, Err(SourceError::Unreadable { .. })));
        let directory = read(&credential(std::env::temp_dir(), None));
        assert!(matches!(directory, Err(SourceError::NotAFile { .. })));
    }
}
