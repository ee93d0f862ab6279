//! What is run, and what it is called.

use super::{Builder, Overrides};
use crate::config::diagnose::{Place, Problem};
use crate::config::origin::Origin;
use crate::config::{Server, name, raw};
use std::path::Path;

impl Builder<'_> {
    pub(super) fn server(&mut self, raw: &raw::Server, flags: &Overrides) -> Server {
        let mut command = Vec::new();
        let upstream = self.upstream(raw, flags);
        if upstream.is_some() && !self.runs(raw, flags) {
            // There is nothing to run.
        } else if !flags.command.is_empty() {
            self.origins.set("server.command", Origin::Command);
            command = flags.command.clone();
            let directory = self.around.directory.clone();
            self.program(&mut command, &directory, &Place::Flag("--"));
        } else if let Some(written) = &raw.command {
            let origin = self.line(written.span());
            self.origins.set("server.command", origin);
            command = written
                .value()
                .iter()
                .map(|word| word.value().clone())
                .collect();
            let base = self.base.clone();
            self.program(&mut command, &base, &Place::File(written.span()));
        } else {
            self.problems.push(
                Problem::new(Place::Absent, "`server.command` is missing").hint(
                    "write the program and its arguments, as in `command = [\"npx\", \"-y\", \"SERVER\"]`, \
                     or put them after `--`; for a server that runs elsewhere, `url = \"https://…\"`",
                ),
            );
        }

        let name = if let Some(flag) = &flags.name {
            self.note(name::check(flag), &Place::Flag("--name"));
            self.origins.set("server.name", Origin::Flag("--name"));
            flag.clone()
        } else if let Some(written) = &raw.name {
            self.note(name::check(written.value()), &Place::File(written.span()));
            let origin = self.line(written.span());
            self.origins.set("server.name", origin);
            written.value().clone()
        } else {
            self.origins.set("server.name", Origin::Command);
            match &upstream {
                Some(upstream) if command.is_empty() => {
                    name::derive(std::slice::from_ref(&upstream.url.host))
                }
                _ => name::derive(&command),
            }
        };
        self.transport(raw.transport.as_ref(), upstream.is_some());
        let review_by = raw.review_by.as_ref().and_then(|written| {
            let date = written.value();
            if date.time.is_some() || date.date.is_none() {
                self.problems.push(
                    Problem::new(
                        Place::File(written.span()),
                        "`server.review_by` is not a date",
                    )
                    .hint("write year, month and day, as in `review_by = 2027-02-01`"),
                );
            }
            let origin = self.line(written.span());
            self.origins.set("server.review_by", origin);
            date.date.map(|date| date.to_string())
        });
        let owner = raw.owner.as_ref().map(|written| {
            if written.value().chars().any(char::is_control) {
                self.problems.push(Problem::new(
                    Place::File(written.span()),
                    "`server.owner` holds control characters",
                ));
            }
            let origin = self.line(written.span());
            self.origins.set("server.owner", origin);
            written.value().clone()
        });
        Server {
            name,
            command,
            upstream,
            owner,
            review_by,
            cwd: self.file_path("server.cwd", raw.cwd.as_ref()),
            restart: self
                .pick(
                    "server.restart",
                    raw.restart.as_ref(),
                    flags.restart,
                    "--restart",
                )
                .unwrap_or_default(),
            kill_file: self.file_path("server.kill_file", raw.kill_file.as_ref()),
            replace: self
                .only("server.replace", raw.replace.as_ref())
                .unwrap_or_default(),
        }
    }

    /// Checks the words of a command; a program with a `/` becomes absolute.
    pub(super) fn program(&mut self, command: &mut [String], base: &Path, place: &Place) {
        let empty = command.first().is_none_or(String::is_empty);
        if empty {
            self.problems.push(
                Problem::new(place.clone(), "the command is empty")
                    .hint("its first word is the program to run"),
            );
        }
        if command.iter().any(|word| word.contains('\0')) {
            self.problems
                .push(Problem::new(place.clone(), "the command holds a NUL byte"));
        }
        if let Some(program) = command.first_mut()
            && (program.contains('/') || program.starts_with('~'))
        {
            match self.absolute(program, base) {
                // Text joined to a base that is not UTF-8 stays as it was written.
                Ok(path) => {
                    if let Some(path) = path.to_str() {
                        path.clone_into(program);
                    }
                }
                Err(error) => self.note(Err(error), place),
            }
        }
    }
}
