//! What the conversion of every section is made of.

use super::Builder;
use super::outside::usable;
use crate::config::diagnose::{Place, Problem};
use crate::config::entries::{self, EntryError};
use crate::config::origin::Origin;
use crate::config::raw::At;
use std::ops::{Range, RangeInclusive};
use std::path::{Component, Path, PathBuf};

/// Where systemd puts the credentials of a unit (systemd.exec(5), LoadCredential).
const SYSTEMD: &str = "$CREDENTIALS_DIRECTORY/";

impl Builder<'_> {
    /// A value that only the file can set.
    pub(super) fn only<T: Copy>(
        &mut self,
        key: impl Into<String>,
        file: Option<&At<T>>,
    ) -> Option<T> {
        let at = file?;
        let origin = self.line(at.span());
        self.origins.set(key, origin);
        Some(*at.value())
    }

    /// A value that a flag replaces.
    pub(super) fn pick<T: Copy>(
        &mut self,
        key: &str,
        file: Option<&At<T>>,
        flag: Option<T>,
        name: &'static str,
    ) -> Option<T> {
        if flag.is_some() {
            self.origins.set(key, Origin::Flag(name));
            return flag;
        }
        self.only(key, file)
    }

    pub(super) fn range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        value: Option<T>,
        range: &RangeInclusive<T>,
        place: &Place,
    ) {
        if value.is_some_and(|value| !range.contains(&value)) {
            self.problems.push(Problem::new(
                place.clone(),
                format!("`{key}` must be from {} to {}", range.start(), range.end()),
            ));
        }
    }

    pub(super) fn paths(
        &mut self,
        key: &'static str,
        file: &[At<String>],
        flags: &[String],
        flag: &'static str,
    ) -> Vec<PathBuf> {
        let base = self.base.clone();
        let mut all = Vec::new();
        for at in file {
            let place = Place::File(at.span());
            match self.absolute(at.value(), &base) {
                Err(error) => self.note(Err(error), &place),
                Ok(path) => self.add(key, &mut all, path, &place),
            }
        }
        for text in flags {
            let place = Place::Flag(flag);
            match self.absolute(text, &self.around.directory) {
                Err(error) => self.note(Err(error), &place),
                Ok(path) => self.add(key, &mut all, path, &place),
            }
        }
        all
    }

    pub(super) fn list<T: PartialEq + Clone>(
        &mut self,
        key: &'static str,
        file: &[At<String>],
        flags: &[T],
        flag: &'static str,
        parse: impl Fn(&str) -> Result<T, EntryError>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for at in file {
            let place = Place::File(at.span());
            match parse(at.value()) {
                Err(error) => self.note(Err(error), &place),
                Ok(entry) => self.add(key, &mut all, entry, &place),
            }
        }
        for entry in flags {
            self.add(key, &mut all, entry.clone(), &Place::Flag(flag));
        }
        all
    }

    /// Adds an entry once. Twice in a file is a mistake; a flag that repeats the file is not.
    pub(super) fn add<T: PartialEq>(
        &mut self,
        key: &'static str,
        all: &mut Vec<T>,
        entry: T,
        place: &Place,
    ) {
        if all.contains(&entry) {
            if matches!(place, Place::File(_)) {
                self.twice(place, "this entry");
            }
            return;
        }
        let origin = match place {
            Place::File(span) => self.line(span.clone()),
            Place::Flag(flag) => Origin::Flag(flag),
            Place::Absent => Origin::Default,
        };
        self.origins.push(key, origin);
        all.push(entry);
    }

    pub(super) fn twice(&mut self, place: &Place, what: &str) {
        self.problems.push(
            Problem::new(place.clone(), format!("{what} is listed twice")).hint("keep one of them"),
        );
    }

    /// No entry may be in both lists.
    pub(super) fn apart(
        &mut self,
        one: &str,
        first: &[At<String>],
        two: &str,
        second: &[At<String>],
    ) {
        for at in second {
            if first.iter().any(|other| other.value() == at.value()) {
                self.problems.push(
                    Problem::new(
                        Place::File(at.span()),
                        format!(
                            "`{}` is in `{one}` and in `{two}`",
                            entries::shown(at.value())
                        ),
                    )
                    .hint("keep it in the one that you mean"),
                );
            }
        }
    }

    pub(super) fn file_path(&mut self, key: &str, file: Option<&At<String>>) -> Option<PathBuf> {
        let at = file?;
        let origin = self.line(at.span());
        self.origins.set(key, origin);
        match self.absolute(at.value(), &self.base) {
            Ok(path) => Some(path),
            Err(error) => {
                self.note(Err(error), &Place::File(at.span()));
                None
            }
        }
    }

    /// `~` and `$CREDENTIALS_DIRECTORY` expanded, joined to `base`, without `.` components. `..` stays: what it means depends on
    /// links that only the kernel can follow.
    pub(super) fn absolute(&self, text: &str, base: &Path) -> Result<PathBuf, EntryError> {
        if text.is_empty() || text.contains('\0') {
            return Err(EntryError::new(
                "this is not a path",
                "write a file or a directory",
            ));
        }
        if let Some(name) = text.strip_prefix(SYSTEMD) {
            let directory = usable(self.around.credentials_directory.as_ref());
            let missing = "write `LoadCredential=` into the unit, or the whole path here";
            return match directory {
                Some(directory) => Ok(directory.join(name)),
                None => Err(EntryError::new(
                    "there are no credentials of systemd here: CREDENTIALS_DIRECTORY is not set",
                    missing,
                )),
            };
        }
        let joined = match text.strip_prefix('~') {
            None => base.join(text),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let home = usable(self.around.home.as_ref()).ok_or_else(|| {
                    EntryError::new(
                        "`~` is not known, because HOME is not set",
                        "write the whole path",
                    )
                })?;
                home.join(rest.trim_start_matches('/'))
            }
            Some(_) => {
                return Err(EntryError::new(
                    format!("`{}` names the home of another user", entries::shown(text)),
                    "write the whole path, or `./~…` for a file of that name",
                ));
            }
        };
        Ok(joined
            .components()
            .filter(|component| !matches!(component, Component::CurDir))
            .collect())
    }

    pub(super) fn note(&mut self, result: Result<(), EntryError>, place: &Place) {
        if let Err(error) = result {
            let mut problem = Problem::new(place.clone(), error.what);
            if !error.hint.is_empty() {
                problem = problem.hint(error.hint);
            }
            self.problems.push(problem);
        }
    }

    pub(super) fn line(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        Origin::File {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        }
    }
}
