//! One SHA-256 over a whole tree: paths, kinds, modes, link targets and contents.
//!
//! The tree is written as one line for each thing in it, sorted by name within each directory:
//!
//! ```text
//! f 444 <sha-256 of the content> path
//! l 0   <sha-256 of the target>  path
//! d 555 -                        path
//! ```
//!
//! The digest of the tree is the SHA-256 of these lines. The lines are kept beside the entry, so
//! that a mismatch can name the file; they are not read at a start that finds nothing wrong.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::read;
use ring::digest::{Context, SHA256, digest};
use std::ffi::{CString, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Directories below each other; npm and pip stay under 40.
const MAX_DEPTH: usize = 128;
/// Things in one tree. The largest server known has 30,000.
const MAX_THINGS: u64 = 1_000_000;

/// The digest of one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeDigest {
    /// `sha256:` and 64 hexadecimal digits.
    pub(super) digest: String,
    /// Files, links and directories.
    pub(super) things: u64,
    /// Bytes in files.
    pub(super) bytes: u64,
}

/// Digests the tree below `root`; the mode of `root` itself does not count. The lines go to `keep`
/// as well when it is given.
pub(super) fn digest_tree(root: &Path, keep: Option<&mut String>) -> io::Result<TreeDigest> {
    let dir = Dir::open(root, dir_flags(), Mode::empty())?;
    let mut walk = Walk {
        whole: Context::new(&SHA256),
        keep,
        line: String::with_capacity(512),
        path: PathBuf::new(),
        buffer: vec![0; 128 * 1024],
        things: 0,
        bytes: 0,
    };
    walk.directory(dir, 0)?;
    let mut text = String::from("sha256:");
    hex(walk.whole.finish().as_ref(), &mut text);
    Ok(TreeDigest {
        digest: text,
        things: walk.things,
        bytes: walk.bytes,
    })
}

/// SHA-256 of `bytes` in hexadecimal.
pub(super) fn digest_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    hex(digest(&SHA256, bytes).as_ref(), &mut text);
    text
}

/// The first difference between the lines that were kept and those of now, in words.
pub(super) fn first_change(kept: &str, now: &str) -> String {
    let path_of = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or(line).to_owned();
    let old: std::collections::BTreeMap<_, _> = kept.lines().map(|l| (path_of(l), l)).collect();
    let new: std::collections::BTreeMap<_, _> = now.lines().map(|l| (path_of(l), l)).collect();
    for (path, line) in &old {
        match new.get(path) {
            None => return format!("{path} is missing"),
            Some(other) if other != line => return format!("{path} was changed"),
            Some(_) => {}
        }
    }
    for path in new.keys() {
        if !old.contains_key(path) {
            return format!("{path} was added");
        }
    }
    "the list of its files was changed".to_owned()
}

struct Walk<'a> {
    whole: Context,
    keep: Option<&'a mut String>,
    line: String,
    path: PathBuf,
    buffer: Vec<u8>,
    things: u64,
    bytes: u64,
}

impl Walk<'_> {
    fn directory(&mut self, mut dir: Dir, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("directories lie too deep"));
        }
        let mut names: Vec<(CString, Option<Type>)> = Vec::new();
        for item in dir.iter() {
            let item = item?;
            let name = item.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                names.push((name.to_owned(), item.file_type()));
            }
        }
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, kind) in names {
            self.things += 1;
            if self.things > MAX_THINGS {
                return Err(io::Error::other("too many files"));
            }
            self.path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.thing(&dir, &name, kind, depth)?;
            self.path.pop();
        }
        Ok(())
    }

    fn thing(
        &mut self,
        dir: &Dir,
        name: &CString,
        kind: Option<Type>,
        depth: usize,
    ) -> io::Result<()> {
        // Some file systems do not tell the kind while listing.
        let kind = match kind {
            Some(kind) => Some(kind),
            None => kind_of(&fstatat(
                dir,
                name.as_c_str(),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?),
        };
        match kind {
            Some(Type::Directory) => {
                let sub = Dir::openat(dir, name.as_c_str(), dir_flags(), Mode::empty())?;
                let mode = fstat(&sub)?.st_mode & 0o7777;
                self.line('d', mode, None)?;
                self.directory(sub, depth + 1)
            }
            Some(Type::File) => self.file(dir, name),
            Some(Type::Symlink) => {
                let target: OsString = readlinkat(dir, name.as_c_str())?;
                let hash = digest(&SHA256, target.as_bytes());
                self.line('l', 0, Some(hash.as_ref()))
            }
            _ => Err(io::Error::other(format!(
                "{} is no ordinary file",
                self.path.display()
            ))),
        }
    }

    fn file(&mut self, dir: &Dir, name: &CString) -> io::Result<()> {
        // Not blocking: a file that became a pipe since the listing must not hang us.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = openat(dir, name.as_c_str(), flags, Mode::empty())?;
        let about = fstat(&file)?;
        if kind_of(&about) != Some(Type::File) {
            return Err(io::Error::other(format!(
                "{} is no ordinary file",
                self.path.display()
            )));
        }
        let mut context = Context::new(&SHA256);
        let size = u64::try_from(about.st_size).unwrap_or(0);
        let mut seen = 0;
        // The end is known by the size, which saves one call for each of thousands of files. The
        // size of an ordinary file is the truth, and nobody writes to a sealed one.
        loop {
            let count = match read(file.as_fd(), &mut self.buffer) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            context.update(self.buffer.get(..count).unwrap_or_default());
            seen += count as u64;
            if count == 0 || seen == size {
                break;
            }
        }
        self.bytes += seen;
        self.line('f', about.st_mode & 0o7777, Some(context.finish().as_ref()))
    }

    fn line(&mut self, kind: char, mode: u32, hash: Option<&[u8]>) -> io::Result<()> {
        self.line.clear();
        write!(self.line, "{kind} {mode:o} ").map_err(io::Error::other)?;
        match hash {
            Some(hash) => hex(hash, &mut self.line),
            None => self.line.push('-'),
        }
        self.line.push(' ');
        escape(self.path.as_os_str().as_bytes(), &mut self.line);
        self.line.push('\n');
        self.whole.update(self.line.as_bytes());
        if let Some(keep) = self.keep.as_deref_mut() {
            keep.push_str(&self.line);
        }
        Ok(())
    }
}

fn dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn kind_of(about: &FileStat) -> Option<Type> {
    match SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Some(Type::File),
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFLNK => Some(Type::Symlink),
        _ => None,
    }
}

/// Paths are any bytes; a line is text. What is not printable ASCII becomes `%XX`, `%` as well.
fn escape(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            hex(&[byte], out);
        }
    }
}

fn hex(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(if nibble < 10 {
                b'0' + nibble
            } else {
                b'a' + nibble - 10
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/one.js"), "one").unwrap();
        fs::write(dir.path().join("a/two.js"), vec![7; 300_000]).unwrap();
        symlink("b/one.js", dir.path().join("a/link")).unwrap();
        dir
    }

    fn lines(root: &Path) -> (String, TreeDigest) {
        let mut kept = String::new();
        let digest = digest_tree(root, Some(&mut kept)).unwrap();
        (kept, digest)
    }

    #[test]
    fn equal_trees_are_equal_and_the_lines_are_what_is_digested() {
        let (kept, first) = lines(tree().path());
        let second = digest_tree(tree().path(), None).unwrap();
        assert_eq!(first, second);
        assert_eq!(
            first.digest,
            format!("sha256:{}", digest_bytes(kept.as_bytes()))
        );
        assert_eq!((first.things, first.bytes), (5, 300_003));
    }

    #[test]
    fn every_kind_of_change_changes_the_digest_and_is_named() {
        type Change = fn(&Path);
        let changes: &[(Change, &str)] = &[
            (
                |p| fs::write(p.join("a/b/one.js"), "0ne").unwrap(),
                "a/b/one.js was changed",
            ),
            (
                |p| {
                    fs::set_permissions(p.join("a/two.js"), fs::Permissions::from_mode(0o755))
                        .unwrap();
                },
                "a/two.js was changed",
            ),
            (
                |p| fs::remove_file(p.join("a/b/one.js")).unwrap(),
                "a/b/one.js is missing",
            ),
            (
                |p| fs::write(p.join("a/new.js"), "").unwrap(),
                "a/new.js was added",
            ),
            (|p| fs::create_dir(p.join("z")).unwrap(), "z was added"),
            (
                |p| {
                    fs::remove_file(p.join("a/link")).unwrap();
                    symlink("two.js", p.join("a/link")).unwrap();
                },
                "a/link was changed",
            ),
            (
                |p| {
                    fs::remove_file(p.join("a/link")).unwrap();
                    fs::write(p.join("a/link"), "b/one.js").unwrap();
                },
                "a/link was changed",
            ),
            (
                |p| fs::rename(p.join("a/two.js"), p.join("a/two.js\nf 1")).unwrap(),
                "a/two.js is missing",
            ),
        ];
        for (change, words) in changes {
            let dir = tree();
            let (kept, before) = lines(dir.path());
            change(dir.path());
            let (now, after) = lines(dir.path());
            assert_ne!(before.digest, after.digest, "{words}");
            assert_eq!(first_change(&kept, &now), *words);
        }
    }

    #[test]
    fn a_pipe_is_refused() {
        let dir = tree();
        nix::unistd::mkfifo(&dir.path().join("a/pipe"), Mode::S_IRWXU).unwrap();
        let error = digest_tree(dir.path(), None).unwrap_err();
        assert_eq!(error.to_string(), "a/pipe is no ordinary file");
    }
}
