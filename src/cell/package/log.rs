//! What an installer prints: a sign of life while it runs, and the reason when it fails.

use super::{Exit, PackageError, Setup};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often people are told that an install goes on.
const TELL: Duration = Duration::from_secs(5);
/// Lines of the installer that are kept to say why it failed, and the length of each.
const TAIL: usize = 12;
const LINE: usize = 400;

/// What the installer says: shown as a sign of life, kept to explain a failure.
pub(super) struct Log {
    package: String,
    began: Instant,
    told: Instant,
    tail: VecDeque<String>,
    unreachable: bool,
    no_wheel: bool,
    unauthorised: bool,
}

impl Log {
    pub(super) fn new(package: &str, began: Instant) -> Self {
        Self {
            package: package.to_owned(),
            began,
            told: began,
            tail: VecDeque::new(),
            unreachable: false,
            no_wheel: false,
            unauthorised: false,
        }
    }

    pub(super) fn take(&mut self, line: &str, say: &mut dyn FnMut(&str)) {
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            say(&format!(
                "still installing {} ({} s)",
                self.package,
                self.began.elapsed().as_secs()
            ));
        }
        let lower = line.to_lowercase();
        let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        self.unreachable |= any(UNREACHABLE);
        self.unauthorised |= any(&[
            "e401",
            "e403",
            "401 client error",
            "403 client error",
            "401 unauthorized",
            "403 forbidden",
        ]);
        self.no_wheel |= any(&[
            "no matching distribution",
            "no wheels",
            "has no usable wheels",
            "building from source is disabled",
        ]);
        if any(&["npm http", "npm warn", "npm notice"]) || line.trim().is_empty() {
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        // Written by whoever answers at the registry: no control sequence reaches a terminal.
        self.tail.push_back(
            line.chars()
                .filter(|c| !c.is_control())
                .take(LINE)
                .collect(),
        );
    }

    pub(super) fn failure(
        &self,
        exit: Exit,
        left_out: bool,
        setup: &Setup<'_>,
        say: &mut dyn FnMut(&str),
    ) -> PackageError {
        for line in &self.tail {
            say(&format!("  {line}"));
        }
        let package = self.package.clone();
        let last = self
            .tail
            .iter()
            .find(|line| line.to_lowercase().contains("error"))
            .or_else(|| self.tail.back())
            .cloned();
        let said = match exit {
            Exit::Signal(number) => format!("the installer was ended by signal {number}"),
            _ => last.unwrap_or_else(|| "the installer failed".to_owned()),
        };
        if self.unreachable {
            return PackageError::Unreachable { package, said };
        }
        let hint = if self.unauthorised && left_out {
            "a credential in your npm, pip or uv settings was not passed on; name its variable in packages.token_env"
        } else if self.no_wheel && !setup.packages.scripts {
            "check the name and version; where there is no wheel, `packages.scripts = true` lets the package build itself in the install cell"
        } else {
            "check the name and version"
        };
        PackageError::Refuse {
            package,
            said,
            hint: hint.to_owned(),
        }
    }
}

/// Words of npm, pip and uv when nobody answers, in lower case.
const UNREACHABLE: &[&str] = &[
    "enotfound",
    "econnrefused",
    "etimedout",
    "econnreset",
    "eai_again",
    "enetunreach",
    "ehostunreach",
    "err_socket_timeout",
    "newconnectionerror",
    "connecttimeouterror",
    "connection refused",
    "name resolution",
    "name or service not known",
    "readtimeouterror",
    "dns error",
    "error sending request",
    "network is unreachable",
    "no route to host",
    "proxyerror",
];
