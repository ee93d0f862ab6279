//! `check`: is this configuration valid, and what does it come to?

use super::args::{self, CheckArgs, Error, Format};
use super::exit::Failure;
use super::exit::print;
use super::preflight::{self, Finding};
use super::printable::printable;
use super::show;
use crate::config;
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let resolved = match args::resolve(&args.run) {
        Ok(resolved) => resolved,
        Err(error) if args.format == Format::Json => return Ok(invalid(error)),
        Err(error) => return Err(error.into()),
    };
    let findings = preflight::findings(&resolved.config);
    if args.format == Format::Json {
        let warnings: Vec<Value> = findings.iter().map(finding).collect();
        let whole = json!({
            "valid": true,
            "name": resolved.config.server.name,
            "values": show::json(&resolved),
            "warnings": warnings,
        });
        return Ok(print(&format!("{whole:#}\n")));
    }
    let mut text = show::human(&resolved);
    let subject = match &resolved.config_file {
        Some(file) => format!("{}", file.display()),
        None => "the command line".to_owned(),
    };
    write!(text, "\n{subject} is valid").ok();
    if findings.is_empty() {
        text.push('\n');
    } else {
        writeln!(text, ", but on this host:").ok();
    }
    for finding in &findings {
        writeln!(text, "  warning: {}", printable(&finding.message)).ok();
        if let Some(exit) = finding.exit {
            writeln!(text, "           `run` would end with exit code {exit}").ok();
        }
        if let Some(hint) = &finding.hint {
            writeln!(text, "           hint: {hint}").ok();
        }
    }
    Ok(print(&text))
}

fn finding(finding: &Finding) -> Value {
    json!({
        "message": finding.message,
        "hint": finding.hint,
        "exit": finding.exit.map(super::Exit::code),
    })
}

/// Programs get the mistakes as data; the exit code is the same.
fn invalid(error: Error) -> ExitCode {
    let problems: Vec<Value> = match &error {
        Error::Config { source } => match source.as_ref() {
            config::Error::Invalid { text, problems, .. } => {
                problems.iter().map(|each| problem(each, text)).collect()
            }
            config::Error::Flags { problems } => {
                problems.iter().map(|each| problem(each, "")).collect()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    let message = error.to_string();
    let exit = Failure::from(error).exit();
    let whole = json!({
        "valid": false,
        "exit": exit.code(),
        "message": message.lines().next(),
        "problems": problems,
    });
    let printed = print(&format!("{whole:#}\n"));
    match printed == ExitCode::SUCCESS {
        true => exit.into(),
        false => printed,
    }
}

fn problem(problem: &config::Problem, text: &str) -> Value {
    let mut value = json!({
        "message": problem.message,
        "label": problem.label,
        "hints": problem.hints,
    });
    match &problem.place {
        config::Place::File(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            value["line"] = json!(before.matches('\n').count() + 1);
            value["column"] = json!(column);
        }
        config::Place::Flag(flag) => value["flag"] = json!(flag),
        config::Place::Absent => {}
    }
    value
}
