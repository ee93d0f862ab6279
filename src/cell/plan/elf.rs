//! What a binary needs before its first instruction: its loader and its own library directories.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Tables and strings larger than this are not read: honest ones are far smaller.
const LIMIT: u64 = 64 * 1024;

/// What the headers of an ELF file name (`elf(5)`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// `PT_INTERP`; `None` for a static binary.
    pub(super) loader: Option<PathBuf>,
    /// `DT_RPATH` and `DT_RUNPATH` with `$ORIGIN` filled in.
    pub(super) libraries: Vec<PathBuf>,
}

/// Reads the headers of a 64-bit little-endian ELF file; `None` when it is not one.
pub(super) fn needs(path: &Path) -> io::Result<Option<Needs>> {
    let file = File::open(path)?;
    let mut head = [0; 64];
    if file.read_exact_at(&mut head, 0).is_err() || !head.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let (table, size, count) = (word(&head, 32), half(&head, 54), half(&head, 56));
    let headers = read(&file, table, u64::from(size) * u64::from(count))?;
    let headers: Vec<&[u8]> = headers.chunks_exact(usize::from(size.max(56))).collect();
    let mut found = Needs::default();
    if let Some(header) = headers.iter().find(|header| kind(header) == 3) {
        let name = read(&file, word(header, 8), word(header, 32))?;
        found.loader = Some(PathBuf::from(text(&name)));
    }
    if let Some(header) = headers.iter().find(|header| kind(header) == 2) {
        let dynamic = read(&file, word(header, 8), word(header, 32))?;
        let entries: Vec<(u64, u64)> = dynamic
            .chunks_exact(16)
            .map(|entry| (word(entry, 0), word(entry, 8)))
            .collect();
        let strings = entries
            .iter()
            .find(|(tag, _)| *tag == 5)
            .and_then(|(_, at)| {
                // PT_LOAD maps the address of the string table to its place in the file.
                headers
                    .iter()
                    .filter(|header| kind(header) == 1)
                    .find_map(|load| {
                        let within = at.checked_sub(word(load, 16))?;
                        (within < word(load, 32)).then(|| word(load, 8) + within)
                    })
            });
        let origin = path.parent().and_then(Path::to_str).unwrap_or("/");
        for (_, offset) in entries.iter().filter(|(tag, _)| matches!(tag, 15 | 29)) {
            let Some(strings) = strings else { break };
            let mut list = vec![0; 4096];
            let read = file.read_at(&mut list, strings.saturating_add(*offset))?;
            list.truncate(read);
            for dir in text(&list).split(':').filter(|dir| !dir.is_empty()) {
                let dir = dir.replace("${ORIGIN}", origin).replace("$ORIGIN", origin);
                found.libraries.push(PathBuf::from(dir));
            }
        }
    }
    Ok(Some(found))
}

/// Where every host has its own.
const LIBRARIES: [&str; 6] = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
];

fn is_hosts(path: &Path) -> bool {
    let plain = !path.iter().any(|part| part == "..");
    plain && LIBRARIES.iter().any(|dir| path.starts_with(dir))
}

/// Whether what a binary names as its loader can be one: it is granted, and the binary may be hostile.
pub(super) fn is_loader(path: &Path) -> bool {
    if is_hosts(path) {
        return true;
    }
    let Ok(real) = path.canonicalize() else {
        return false;
    };
    let name = real.file_name().map(|name| name.to_string_lossy());
    let mut head = [0; 4];
    name.is_some_and(|name| name.starts_with("ld"))
        && File::open(&real).is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok())
        && head == *b"\x7fELF"
}

/// Whether a directory that this binary names can hold its libraries: it belongs to the host or to the
/// same installation, or is made for libraries and has some.
pub(super) fn is_library(binary: &Path, dir: &Path) -> bool {
    let Ok(real) = dir.canonicalize() else {
        return false;
    };
    let place = binary.parent();
    let prefix = match place {
        Some(place) if place.ends_with("bin") || place.ends_with("libexec") => place.parent(),
        other => other,
    };
    let own = prefix.is_some_and(|prefix| prefix.parent().is_some() && real.starts_with(prefix));
    let name = real.file_name().map(|name| name.to_string_lossy());
    let made_for_it = || {
        let entries = std::fs::read_dir(&real).into_iter().flatten().take(4096);
        name.is_some_and(|name| name.starts_with("lib"))
            && entries.flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.ends_with(".so") || name.contains(".so.")
            })
    };
    is_hosts(&real) || own || made_for_it()
}

fn read(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    if length > LIMIT {
        return Err(io::Error::other("a table of the binary is too large"));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u64::from_le_bytes(*word))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |half| u16::from_le_bytes(*half))
}

fn kind(header: &[u8]) -> u32 {
    header
        .first_chunk()
        .map_or(0, |kind| u32::from_le_bytes(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_binary_names_a_loader_that_exists_or_is_static() {
        let needs = needs(&std::env::current_exe().unwrap()).unwrap().unwrap();
        assert!(needs.loader.is_none_or(|loader| loader.exists()));
    }

    #[test]
    fn what_is_no_binary_needs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in [&b"#!/bin/sh\n"[..], b"", b"\x7fELF\x02\x01"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(needs(&path).unwrap(), None);
        }
        // Headers that point nowhere are an error or nothing, never a panic.
        let mut broken = vec![0xff; 64];
        broken[..6].copy_from_slice(b"\x7fELF\x02\x01");
        std::fs::write(&path, &broken).unwrap();
        assert!(needs(&path).is_err());
    }
}
