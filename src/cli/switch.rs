//! `kill` and `resume`: the switch of a server, for all of its instances and for those to come.
//!
//! What runs is told on its socket and turns its own switch, wherever that is. The file of that name is
//! turned too: for who starts later, and for who does not answer.

use super::args::{self, SwitchArgs};
use super::exit::{self, Exit, Failure};
use super::instances::{self, Answer};
use super::printable::printable;
use crate::admin::Ask;
use crate::admin::switch::Switch;
use crate::app::{self, Turn};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// An instance that says nothing for so long is switched by its file.
const PATIENCE: Duration = Duration::from_secs(1);

/// Switches off: the tools that are named, or everything.
pub(super) fn kill(args: &SwitchArgs) -> Result<ExitCode, Failure> {
    let tools = args.tool.clone();
    turn(args, &Ask::Kill { tools }, &Turn::Off(args.tool.clone()))
}

/// Switches on again: the tools that are named, or everything.
pub(super) fn resume(args: &SwitchArgs) -> Result<ExitCode, Failure> {
    let tools = args.tool.clone();
    turn(args, &Ask::Resume { tools }, &Turn::On(args.tool.clone()))
}

fn turn(args: &SwitchArgs, ask: &Ask, turn: &Turn) -> Result<ExitCode, Failure> {
    let mut answers = Vec::new();
    if args.file.is_none() {
        let named = instances::named(&args.which)?.is_some();
        let found = match named {
            true => instances::all(&args.which)?,
            false => instances::of_one(&args.which)?,
        };
        answers = instances::ask(found, ask, PATIENCE);
    }
    let mut switches: BTreeMap<String, Value> = BTreeMap::new();
    for said in answers.iter().filter(|it| it.is_ok()) {
        let said = said.said.as_ref().ok();
        let file = said.and_then(|said| said["file"].as_str());
        if let Some((file, said)) = file.zip(said) {
            switches.insert(file.to_owned(), said.clone());
        }
    }
    // Whoever starts it next as we would goes by our file, and anybody may answer to a name.
    let done = !answers.is_empty() && answers.iter().all(Answer::is_ok);
    let path = path(args, &answers)?;
    let written = path.to_string_lossy().into_owned();
    let told = switches.contains_key(&written) || done && args.which.pid.is_some();
    if !told {
        match app::change_switch(&path, turn) {
            Ok(switch) => drop(switches.insert(written, state(&switch))),
            Err(_) if done => {}
            Err(error) => {
                return Err(Failure::new(Exit::CONFIG, error.to_string()).hint(
                    "run it as the user that the server runs as, or name the file with --file",
                ));
            }
        }
    }
    let absent = args.file.is_none() && args.which.config.is_none() && answers.is_empty();
    let printed = match args.which.json {
        true => {
            let files: Vec<Value> = switches
                .into_iter()
                .map(|(file, said)| json!({"file": file, "off": said["off"], "tools": said["tools"]}))
                .collect();
            let instances: Vec<Value> = answers.iter().map(Answer::json).collect();
            let all = json!({"switches": files, "instances": instances});
            exit::print(&format!("{all:#}\n"))
        }
        false => exit::print(&describe(&switches, &answers)),
    };
    match absent && printed == ExitCode::SUCCESS {
        true => Err(nobody(args)?),
        false => Ok(printed),
    }
}

/// A name that nobody has is more often a slip than meant for later.
fn nobody(args: &SwitchArgs) -> Result<Failure, Failure> {
    let names = instances::servers()?;
    let names: Vec<String> = names.iter().map(|name| printable(name)).collect();
    let failure = instances::nothing(&args.which)
        .hint("the switch is turned all the same, for who starts under that name later");
    Ok(match names.is_empty() {
        true => failure,
        false => failure.hint(format!("these run now: {}", names.join(", "))),
    })
}

fn describe(switches: &BTreeMap<String, Value>, answers: &[Answer]) -> String {
    let mut text = String::new();
    for (file, said) in switches {
        let server = if said["off"] == true { "off" } else { "on" };
        let file = printable(file);
        text.push_str(&format!("{file}: the server is switched {server}\n"));
        for tool in said["tools"].as_array().into_iter().flatten() {
            let tool = printable(tool.as_str().unwrap_or_default());
            text.push_str(&format!(
                "the tool {tool} is switched off, if there is one of that name\n"
            ));
        }
    }
    for answer in answers {
        match answer.is_ok() {
            true => text.push_str(&format!("in force: {}\n", answer.name())),
            false => text.push_str(&format!(
                "{}: {}; it goes by the file\n",
                answer.name(),
                printable(answer.error())
            )),
        }
    }
    text.push_str("instances that start from now on go by it too\n");
    text
}

fn state(switch: &Switch) -> Value {
    json!({"off": switch.off, "tools": switch.tools})
}

/// The file of a server that does not say itself which it is.
fn path(args: &SwitchArgs, answers: &[Answer]) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    let found = answers.first().map(|answer| answer.server.as_str());
    let name = args.which.name.as_deref().or(found);
    let file = args.which.config.as_deref();
    let name = name.filter(|_| file.is_none());
    let config = args::resolve_named(name, file.map(Path::new))?;
    Ok(app::switch_path(&config))
}
