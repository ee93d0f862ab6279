//! One installed package: sealed, recorded, and checked against its record at every start.

use super::Installed;
use super::cache::{Cache, Slot, Staging, remove_tree};
use super::digest::{TreeDigest, digest_tree, first_change};
use super::error::PackageError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Raised when entries of before must not be used any more.
const FORMAT: u32 = 1;
/// The largest record, and the largest list of files, that is read.
const MAX_RECORD: u64 = 1024 * 1024;
const MAX_FILES: u64 = 256 * 1024 * 1024;

/// How one program of a package is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// Below the entry.
    pub(super) path: PathBuf,
    /// `node` or `python`; `None`: the file is the program.
    pub(super) runtime: Option<String>,
    /// Arguments of the runtime before the path.
    pub(super) flags: Vec<String>,
}

/// What is kept about an entry, beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    pub(super) name: String,
    pub(super) version: String,
    /// What was asked, for people.
    asked: Vec<String>,
    digest: String,
    things: u64,
    bytes: u64,
    /// Seconds since 1970.
    installed_at: u64,
    /// When the registry was asked for the last time.
    checked_at: u64,
    pub(super) default: Option<String>,
    pub(super) bins: BTreeMap<String, Start>,
}

/// A record and where its entry lies.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) dir: PathBuf,
    record_path: PathBuf,
    pub(super) record: Record,
}

impl Entry {
    /// The newest entry that `slot` may use. Not yet verified.
    pub(super) fn newest(cache: &Cache, slot: &Slot) -> Result<Option<Self>, PackageError> {
        let mut newest: Option<Self> = None;
        for path in cache.records(slot)? {
            let entry = Self::read(path)?;
            let at = entry.record.installed_at;
            if newest
                .as_ref()
                .is_none_or(|other| other.record.installed_at <= at)
            {
                newest = Some(entry);
            }
        }
        Ok(newest)
    }

    fn read(record_path: PathBuf) -> Result<Self, PackageError> {
        let text = read_text(&record_path, MAX_RECORD)
            .map_err(|source| PackageError::cache(&record_path, source))?;
        let record: Record =
            serde_json::from_str(&text).map_err(|error| PackageError::Tampered {
                package: record_path.display().to_string(),
                change: format!("its record cannot be read ({error})"),
                record: record_path.clone(),
            })?;
        Ok(Self {
            dir: record_path.with_extension(""),
            record_path,
            record,
        })
        .map(|entry| Self {
            dir: entry.own_dir(),
            ..entry
        })
    }

    /// The record's name without `.json`; `with_extension` would cut a version at its last dot too
    /// when there is no record, so the suffix is cut by hand.
    fn own_dir(&self) -> PathBuf {
        let name = self
            .record_path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        self.record_path
            .with_file_name(name.strip_suffix(".json").unwrap_or(name))
    }

    /// Compares every file with what was installed.
    pub(super) fn verify(&self) -> Result<(), PackageError> {
        let tampered = |change: String| PackageError::Tampered {
            package: format!("{}@{}", self.record.name, self.record.version),
            change,
            record: self.record_path.clone(),
        };
        if self.record.format != FORMAT {
            return Err(tampered(
                "it was written by another version of cofferdam".to_owned(),
            ));
        }
        let now = digest_tree(&self.dir, None).map_err(|error| tampered(error.to_string()))?;
        if now.digest == self.record.digest {
            return Ok(());
        }
        let mut lines = String::new();
        let change = match digest_tree(&self.dir, Some(&mut lines)) {
            Ok(_) => read_text(&files_path(&self.dir), MAX_FILES).map_or_else(
                |error| format!("the list of its files cannot be read ({error})"),
                |kept| first_change(&kept, &lines),
            ),
            Err(error) => error.to_string(),
        };
        Err(tampered(change))
    }

    /// The registry was not asked for longer than `window`.
    pub(super) fn is_older_than(&self, window: Duration) -> bool {
        now().saturating_sub(self.record.checked_at) > window.as_secs()
    }

    /// Notes that the registry was asked and had nothing newer.
    pub(super) fn touch(&mut self) -> Result<(), PackageError> {
        self.record.checked_at = now();
        self.write_record()
    }

    fn write_record(&self) -> Result<(), PackageError> {
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| PackageError::cache(&self.record_path, error.into()))?;
        write_new(&self.record_path, &text)
            .map_err(|source| PackageError::cache(&self.record_path, source))
    }

    /// Seals what lies in `staging` and makes it an entry. The lock of the slot must be held.
    ///
    /// `links` are the places outside of the entry that its links may point to (the interpreter of
    /// a virtual environment).
    pub(super) fn commit(
        cache: &Cache,
        slot: &Slot,
        staging: &Staging,
        installed: Installed,
        asked: Vec<String>,
        links: &[PathBuf],
    ) -> Result<Self, PackageError> {
        let tree = staging.tree();
        let package = format!("{}@{}", installed.name, installed.version);
        seal(tree, tree, links, 0).map_err(|what| PackageError::Unsealable { package, what })?;
        let failed = |source| PackageError::cache(tree, source);
        let mut lines = String::new();
        let TreeDigest {
            digest,
            things,
            bytes,
        } = digest_tree(tree, Some(&mut lines)).map_err(failed)?;
        let dir = cache
            .entries(slot.ecosystem)
            .join(slot.entry_name(&installed.version));
        let mut record_name = dir.file_name().unwrap_or_default().to_owned();
        record_name.push(".json");
        let record_path = dir.with_file_name(record_name);
        // What may lie there is without a record that we could use, or a refresh of the same version.
        fs::remove_file(&record_path).ok();
        remove_tree(&dir);
        fs::rename(tree, &dir).map_err(failed)?;
        // Only now: a directory that is read-only cannot move to another parent.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).map_err(failed)?;
        write_new(&files_path(&dir), lines.as_bytes()).map_err(failed)?;
        // After a power cut the record must not be there without the files.
        if let Ok(handle) = File::open(&dir) {
            nix::unistd::syncfs(&handle)
                .map_err(|error| PackageError::cache(&dir, error.into()))?;
        }
        let at = now();
        let record = Record {
            format: FORMAT,
            name: installed.name,
            version: installed.version,
            asked,
            digest,
            things,
            bytes,
            installed_at: at,
            checked_at: at,
            default: installed.default,
            bins: installed.bins,
        };
        let entry = Self {
            dir,
            record_path,
            record,
        };
        entry.write_record()?;
        Ok(entry)
    }
}

/// Takes every right to write, and refuses what could lead out of the tree. Modes become 444, or
/// 555 where anyone could execute; set-id bits go. `tree` itself stays writable until it has moved.
///
/// Nothing else may be running in the tree: the install cell has ended with all its processes.
fn seal(tree: &Path, dir: &Path, links: &[PathBuf], depth: u32) -> Result<(), String> {
    let say = |path: &Path, what: String| {
        format!(
            "{}: {what}",
            path.strip_prefix(tree).unwrap_or(path).display()
        )
    };
    if depth > 128 {
        return Err(say(dir, "directories lie too deep".to_owned()));
    }
    // An installer may have left a directory that its owner cannot read.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .map_err(|e| say(dir, e.to_string()))?;
    for item in fs::read_dir(dir).map_err(|e| say(dir, e.to_string()))? {
        let item = item.map_err(|e| say(dir, e.to_string()))?;
        let path = item.path();
        let about = fs::symlink_metadata(&path).map_err(|e| say(&path, e.to_string()))?;
        if about.is_dir() {
            seal(tree, &path, links, depth + 1)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o555))
                .map_err(|e| say(&path, e.to_string()))?;
        } else if about.is_file() {
            if about.nlink() > 1 {
                return Err(say(
                    &path,
                    "the file has a second name somewhere".to_owned(),
                ));
            }
            let mode = if about.mode() & 0o111 == 0 {
                0o444
            } else {
                0o555
            };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(|e| say(&path, e.to_string()))?;
        } else if about.is_symlink() {
            let target = fs::read_link(&path).map_err(|e| say(&path, e.to_string()))?;
            if !links.contains(&target) && !stays_inside(tree, dir, &target) {
                return Err(say(
                    &path,
                    format!("the link leads to {}", target.display()),
                ));
            }
        } else {
            return Err(say(&path, "no ordinary file".to_owned()));
        }
    }
    Ok(())
}

/// A relative link whose target, by its words alone, lies in the tree.
fn stays_inside(tree: &Path, dir: &Path, target: &Path) -> bool {
    let mut depth = dir
        .strip_prefix(tree)
        .map_or(0, |below| below.components().count());
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

fn files_path(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".files");
    dir.with_file_name(name)
}

fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes beside and renames, so that the file is never seen half written.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    fs::remove_file(&beside).ok();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::super::request::Ecosystem;
    use super::*;
    use std::os::unix::fs::symlink;

    struct Fixture {
        _dir: tempfile::TempDir,
        cache: Cache,
        slot: Slot,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let slot = Slot {
            ecosystem: Ecosystem::Npm,
            name: "p".to_owned(),
            hash: "0123456789ab".to_owned(),
        };
        Fixture {
            _dir: dir,
            cache,
            slot,
        }
    }

    fn commit(fixture: &Fixture, fill: impl FnOnce(&Path)) -> Result<Entry, PackageError> {
        let staging = fixture.cache.stage().unwrap();
        let lib = staging.tree().join("lib");
        fs::create_dir(&lib).unwrap();
        fs::write(lib.join("a.js"), "a").unwrap();
        fill(staging.tree());
        let installed = Installed {
            name: "p".to_owned(),
            version: "1.0.0".to_owned(),
            ..Installed::default()
        };
        let links = [PathBuf::from("/usr/bin/python3")];
        Entry::commit(
            &fixture.cache,
            &fixture.slot,
            &staging,
            installed,
            Vec::new(),
            &links,
        )
    }

    #[test]
    fn an_entry_is_sealed_and_found_again() {
        let fixture = fixture();
        let entry = commit(&fixture, |tree| {
            fs::set_permissions(tree.join("lib/a.js"), fs::Permissions::from_mode(0o6777)).unwrap();
            symlink("lib/a.js", tree.join("link")).unwrap();
            symlink("/usr/bin/python3", tree.join("python")).unwrap();
        })
        .unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&entry.dir), 0o555);
        assert_eq!(mode(&entry.dir.join("lib")), 0o555);
        assert_eq!(mode(&entry.dir.join("lib/a.js")), 0o555);
        let again = Entry::newest(&fixture.cache, &fixture.slot)
            .unwrap()
            .unwrap();
        assert_eq!(again.dir, entry.dir);
        again.verify().unwrap();
        assert!(!again.is_older_than(Duration::from_secs(60)));
    }

    #[test]
    fn a_changed_file_stops_the_start_and_is_named() {
        let fixture = fixture();
        let entry = commit(&fixture, |_| {}).unwrap();
        let path = entry.dir.join("lib/a.js");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, "b").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let error = entry.verify().unwrap_err();
        assert_eq!(error.exit_code(), 77);
        assert_eq!(
            error.to_string(),
            "p@1.0.0 in the cache is not what was installed: lib/a.js was changed"
        );
        assert!(
            error.hint().contains("p@1.0.0-0123456789ab.json"),
            "{}",
            error.hint()
        );
        // The way out that the hint names works.
        fs::remove_file(&entry.record_path).unwrap();
        assert!(
            Entry::newest(&fixture.cache, &fixture.slot)
                .unwrap()
                .is_none()
        );
        commit(&fixture, |_| {}).unwrap().verify().unwrap();
    }

    #[test]
    fn a_broken_record_stops_the_start() {
        let fixture = fixture();
        let entry = commit(&fixture, |_| {}).unwrap();
        fs::write(&entry.record_path, "{\"format\":1").unwrap();
        let error = Entry::newest(&fixture.cache, &fixture.slot).unwrap_err();
        assert_eq!(error.exit_code(), 77);
    }

    #[test]
    fn what_leads_out_of_the_tree_is_not_sealed() {
        type Fill = fn(&Path);
        let fills: &[(Fill, &str)] = &[
            (
                |t| symlink("/etc/passwd", t.join("l")).unwrap(),
                "l: the link leads to /etc/passwd",
            ),
            (
                |t| symlink("../x", t.join("l")).unwrap(),
                "l: the link leads to ../x",
            ),
            (
                |t| symlink("../../x", t.join("lib/l")).unwrap(),
                "lib/l: the link leads to ../../x",
            ),
            (
                |t| fs::hard_link(t.join("lib/a.js"), t.join("b.js")).unwrap(),
                "the file has a second name somewhere",
            ),
            (
                |t| {
                    nix::unistd::mkfifo(&t.join("f"), nix::sys::stat::Mode::S_IRWXU).unwrap();
                },
                "f: no ordinary file",
            ),
        ];
        for (fill, words) in fills {
            let fixture = fixture();
            let error = commit(&fixture, fill).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(
                Entry::newest(&fixture.cache, &fixture.slot)
                    .unwrap()
                    .is_none()
            );
        }
    }
}
