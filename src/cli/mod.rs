//! One file for each command: parse, call, explain.

mod again;
pub mod args;
mod check;
mod client;
mod credentials;
mod demo;
mod doctor;
mod exec;
pub mod exit;
mod files;
mod instances;
mod live;
mod preflight;
mod printable;
mod run;
mod show;
mod status;
mod switch;
mod tls;

pub use exit::{Exit, Failure, report};

use args::Command;
use std::ffi::OsString;
use std::process::ExitCode;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = cell() {
        return code;
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "__demo-server")
    {
        return demo::serve();
    }
    let mut words = std::env::args_os().skip(1).peekable();
    if words.next_if(|word| word == "__spawn").is_some() {
        return exec::spawn(words).unwrap_or_else(|failure| report(&failure));
    }
    let words: Vec<OsString> = words.collect();
    dispatch(words).unwrap_or_else(|failure| report(&failure))
}

fn dispatch(words: Vec<OsString>) -> Result<ExitCode, Failure> {
    match args::parse(&words)?.command {
        Command::Run(args) => run::run(&args),
        Command::Exec(_) => exec::exec(&words),
        Command::Check(args) => check::check(&args),
        Command::Status(args) => status::status(&args),
        Command::Reload(args) => live::reload(&args),
        Command::Drain(args) => live::drain(&args),
        Command::Freeze(args) => live::freeze(&args),
        Command::Kill(args) => switch::kill(&args),
        Command::Resume(args) => switch::resume(&args),
        Command::Credentials(args) => credentials::credentials(args),
        Command::Doctor(args) => Ok(doctor::doctor(args.format)),
        Command::Client { command } => client::client(command),
        Command::Tls { command } => tls::tls(command),
        Command::Demo => demo::run(),
        Command::Schema => Ok(exit::print(&crate::config::json_schema())),
        Command::Completions { shell } => Ok(completions(shell)),
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "cofferdam", &mut script);
    exit::print(&String::from_utf8_lossy(&script))
}

/// `__cell SPEC_FD STATUS_FD [EGRESS_FD]` and `__egress CONTROL_FD EVENTS_FD PARENT WORDS…` and
/// `__dial CONTROL_FD STATUS_FD PARENT HOST PORT`, before anything else is set up: no thread, no signal handler, no parser of flags may come between the
/// spawner and the cell.
fn cell() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let word = args.next()?;
    let number = |word: OsString| word.to_str()?.parse::<i32>().ok();
    match word.to_str()? {
        "__cell" => {
            let descriptors: Vec<i32> = args.map(|word| number(word).unwrap_or(-1)).collect();
            Some(crate::cell::enter(&descriptors))
        }
        "__egress" => {
            let mut next = || args.next().and_then(number).unwrap_or(-1);
            let (control, events, parent) = (next(), next(), next());
            let words: Vec<String> = args.filter_map(|word| word.into_string().ok()).collect();
            Some(crate::cell::egress::serve(control, events, parent, &words))
        }
        "__dial" => {
            let mut next = || args.next().and_then(number).unwrap_or(-1);
            let (control, status, parent) = (next(), next(), next());
            let place: Vec<String> = args.filter_map(|word| word.into_string().ok()).collect();
            let served = crate::cell::egress::dial::serve(control, status, parent, &place);
            Some(served)
        }
        _ => None,
    }
}
