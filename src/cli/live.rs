//! `reload`, `freeze` and `drain`: what is asked of all instances of a server, and what came of it.

use super::args::{DrainArgs, WhichArgs};
use super::exit::{self, Exit, Failure};
use super::instances::{self, Answer};
use super::printable::printable;
use crate::admin::Ask;
use std::process::ExitCode;
use std::time::Duration;

/// Reading, proving and building a configuration takes milliseconds; a start that installs a package
/// takes longer, and its spawner listens afterwards.
const RELOAD: Duration = Duration::from_secs(20);
/// What `drain` waits for unless told otherwise, and what its end may take after that.
const DRAIN: Duration = Duration::from_secs(30);
const AFTERWARDS: Duration = Duration::from_secs(15);

/// Reads the configuration again; 78 when it cannot be taken.
pub(super) fn reload(which: &WhichArgs) -> Result<ExitCode, Failure> {
    let answers = instances::ask(instances::of_one(which)?, &Ask::Reload, RELOAD);
    let said = |answer: &Answer| match &answer.said {
        Ok(said) => said["text"].as_str().unwrap_or_default().to_owned(),
        Err(error) => error.clone(),
    };
    tell(which, &answers, Exit::CONFIG, said)
}

/// Stops what runs where it is; says where what is known was written.
pub(super) fn freeze(which: &WhichArgs) -> Result<ExitCode, Failure> {
    let answers = instances::ask(instances::of_one(which)?, &Ask::Freeze, RELOAD);
    let said = |answer: &Answer| match &answer.said {
        Ok(said) if answer.is_ok() => said["text"].as_str().unwrap_or_default().to_owned(),
        _ => answer.error().to_owned(),
    };
    tell(which, &answers, Exit::UNAVAILABLE, said)
}

/// Ends all instances in order; comes back when they are gone.
pub(super) fn drain(args: &DrainArgs) -> Result<ExitCode, Failure> {
    let within = args.within.map(|span| span.0);
    let ask = Ask::Drain {
        within: within.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
    };
    let limit = within.unwrap_or(DRAIN).saturating_add(AFTERWARDS);
    // The connection ends with the process.
    let answers = instances::ask(instances::of_one(&args.which)?, &ask, limit);
    let said = |answer: &Answer| match answer.is_ok() {
        true => "everything is answered, and it has ended".to_owned(),
        false => answer.error().to_owned(),
    };
    tell(&args.which, &answers, Exit::UNAVAILABLE, said)
}

/// Prints what came of it; `refused` is the code where an instance has answered that it did not.
fn tell(
    which: &WhichArgs,
    answers: &[Answer],
    refused: Exit,
    said: impl Fn(&Answer) -> String,
) -> Result<ExitCode, Failure> {
    let text = match which.json {
        true => instances::as_json(answers),
        false => answers
            .iter()
            .map(|answer| {
                // Several lines, each made safe by itself.
                let said = said(answer);
                let lines: Vec<_> = said.lines().map(printable).collect();
                format!("{}: {}\n", answer.name(), lines.join("\n"))
            })
            .collect(),
    };
    let printed = exit::print(&text);
    let silent = answers.iter().any(|answer| answer.said.is_err());
    Ok(match answers.iter().all(Answer::is_ok) {
        true => printed,
        false if silent => Exit::UNAVAILABLE.into(),
        false => refused.into(),
    })
}
