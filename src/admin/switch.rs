//! The kill switch: one small file for each server, read by all of its instances.
//!
//! ```text
//! on ── off in the file; no file where there was one, or has to be; a file that cannot be read ──▶ off
//!  ▲                                                                                                 │
//!  └──────────────────────────────── on in the file ─────────────────────────────────────────────────┘
//! ```
//! The file has its whole size from the first start and is written in place, so that it can be switched
//! on a full disk. Whatever it holds that is not exactly right means off.

use crate::config::open_file;
use nix::fcntl::OFlag;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// Bytes of the file, always: what is written is padded with blanks.
pub const SIZE: usize = 8192;
const FIRST: &str = "cofferdam switch 1";
const LAST: &str = "end";
/// A reader may meet a writer; how often and how long it looks again.
const TRIES: u32 = 4;
const BETWEEN: Duration = Duration::from_millis(2);

/// What the switch says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Switch {
    /// The whole server is off.
    pub off: bool,
    /// These tools are.
    pub tools: BTreeSet<String>,
}

/// Why there is no switch to read.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("there is no {path}", path = path.display())]
    Absent { path: std::path::PathBuf },
    #[error("{path} is no switch file", path = path.display())]
    Malformed { path: std::path::PathBuf },
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    System {
        doing: &'static str,
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("the names of the tools do not fit into {SIZE} bytes, or one has a line end in it")]
    Full,
}

impl Switch {
    /// Reads the file.
    ///
    /// # Errors
    /// Each means off, but for [`SwitchError::Absent`] before there was ever one.
    pub fn read(path: &Path) -> Result<Self, SwitchError> {
        let mut tries = 0;
        loop {
            let mut text = String::new();
            let file = open_file(path).map_err(|error| system("open", path, error))?;
            file.take(SIZE as u64 + 1)
                .read_to_string(&mut text)
                .map_err(|error| system("read", path, error))?;
            if let Some(switch) = Self::parse(&text) {
                return Ok(switch);
            }
            tries += 1;
            if tries == TRIES {
                let path = path.to_owned();
                return Err(SwitchError::Malformed { path });
            }
            std::thread::sleep(BETWEEN);
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != SIZE {
            return None;
        }
        let mut lines = text.lines();
        (lines.next()? == FIRST).then_some(())?;
        let off = match lines.next()? {
            "server off" => true,
            "server on" => false,
            _ => return None,
        };
        let mut tools = BTreeSet::new();
        loop {
            match lines.next()? {
                LAST => break,
                line => tools.insert(line.strip_prefix("tool ")?.to_owned()),
            };
        }
        let rest = lines.next().unwrap_or_default();
        let blank = rest.bytes().all(|byte| byte == b' ') && lines.next().is_none();
        blank.then_some(Self { off, tools })
    }

    /// Writes the file in place; one that is not there is made, with its directory.
    ///
    /// # Errors
    /// What the file system says, or [`SwitchError::Full`].
    pub fn write(&self, path: &Path) -> Result<(), SwitchError> {
        let word = if self.off { "off" } else { "on" };
        let mut text = format!("{FIRST}\nserver {word}\n");
        for tool in &self.tools {
            if tool.chars().any(char::is_control) {
                return Err(SwitchError::Full);
            }
            text.push_str(&format!("tool {tool}\n"));
        }
        text.push_str(LAST);
        text.push('\n');
        if text.len() > SIZE {
            return Err(SwitchError::Full);
        }
        text.push_str(&" ".repeat(SIZE - text.len()));
        if let Some(directory) = path.parent() {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(directory);
            made.map_err(|error| system("make the directory of", path, error))?;
        }
        let mut options = OpenOptions::new();
        // In the place of the file may be a FIFO that nobody reads.
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let options = options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
        let file = options
            .open(path)
            .map_err(|error| system("open", path, error))?;
        // One page or two, written at once: a reader sees the old text or the new, or looks again.
        file.write_all_at(text.as_bytes(), 0)
            .and_then(|()| file.set_len(SIZE as u64))
            .and_then(|()| file.sync_data())
            .map_err(|error| system("write", path, error))
    }
}

fn system(doing: &'static str, path: &Path, source: io::Error) -> SwitchError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => SwitchError::Absent { path },
        _ => SwitchError::System {
            doing,
            path,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_file_keeps_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/switch");
        assert!(matches!(
            Switch::read(&path),
            Err(SwitchError::Absent { .. })
        ));
        let many = Switch {
            off: true,
            tools: ["b", "a tool"].map(str::to_owned).into(),
        };
        for switch in [Switch::default(), many.clone(), Switch::default()] {
            switch.write(&path).unwrap();
            assert_eq!(Switch::read(&path).unwrap(), switch);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE as u64);
        }
        let wide = Switch {
            tools: ["x".repeat(9000)].into(),
            ..many
        };
        assert!(matches!(wide.write(&path), Err(SwitchError::Full)));
    }

    #[test]
    fn anything_else_is_no_switch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("switch");
        Switch::default().write(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut cases = vec![vec![], b"server on\n".to_vec(), good[..SIZE - 1].to_vec()];
        for at in [0, 19, 28, 32, 40, 8000] {
            let mut bad = good.clone();
            bad[at] = b'#';
            cases.push(bad);
        }
        for bad in cases {
            std::fs::write(&path, &bad).unwrap();
            let found = Switch::read(&path);
            assert!(
                matches!(found, Err(SwitchError::Malformed { .. })),
                "{found:?}"
            );
        }
        std::fs::write(&path, [0xff; SIZE]).unwrap();
        assert!(Switch::read(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Switch::read(&path).is_err(), "a FIFO holds nobody");
        assert!(Switch::default().write(&path).is_err());
    }
}
