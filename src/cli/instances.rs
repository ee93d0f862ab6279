//! What runs here, and asking it: all instances of a server, at the same time.

use super::args::{self, WhichArgs};
use super::exit::{Exit, Failure};
use super::printable::printable;
use crate::admin::{Ask, Instance, Places};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// What one instance has answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) server: String,
    pub(super) pid: i32,
    pub(super) socket: PathBuf,
    /// Or why there is none.
    pub(super) said: Result<Value, String>,
}

impl Answer {
    /// True when it has done what it was asked for.
    pub(super) fn is_ok(&self) -> bool {
        self.said.as_ref().is_ok_and(|said| said["ok"] == true)
    }

    /// Why it has not.
    pub(super) fn error(&self) -> &str {
        match &self.said {
            Ok(said) => said["error"].as_str().unwrap_or("it does not say why"),
            Err(error) => error,
        }
    }

    /// `NAME (PID)`, safe for a terminal.
    pub(super) fn name(&self) -> String {
        format!("{} ({})", printable(&self.server), self.pid)
    }

    pub(super) fn json(&self) -> Value {
        let mut all = json!({
            "server": self.server,
            "pid": self.pid,
            "socket": self.socket.to_string_lossy(),
        });
        match &self.said {
            Ok(said) => all["answer"] = said.clone(),
            Err(error) => all["error"] = json!(error),
        }
        all
    }
}

/// The name that the arguments give, if they give one.
pub(super) fn named(which: &WhichArgs) -> Result<Option<String>, Failure> {
    match (&which.name, &which.config) {
        (Some(name), _) => Ok(Some(name.clone())),
        (None, Some(file)) => Ok(Some(
            args::resolve_named(None, Some(file))?.server.name.clone(),
        )),
        (None, None) => Ok(None),
    }
}

/// All instances that are meant; none may be.
pub(super) fn all(which: &WhichArgs) -> Result<Vec<Instance>, Failure> {
    let name = named(which)?;
    let mut found = find(name.as_deref().unwrap_or("any"))?;
    found.retain(|it| {
        name.as_ref().is_none_or(|name| it.server == *name)
            && which.pid.is_none_or(|pid| it.pid == pid)
    });
    Ok(found)
}

/// The servers that run.
pub(super) fn servers() -> Result<BTreeSet<String>, Failure> {
    let found = find("any")?.into_iter();
    Ok(found.map(|it| it.server).collect())
}

/// Whatever runs; state of all servers is beside that of `any`.
fn find(any: &str) -> Result<Vec<Instance>, Failure> {
    let state = args::resolve_named(Some(any), None)?.state_dir;
    let places = Places::of_this_process(state.parent().map(Into::into));
    Ok(places.find())
}

/// All instances of one server; where none is named, of the only one that runs.
pub(super) fn of_one(which: &WhichArgs) -> Result<Vec<Instance>, Failure> {
    let found = all(which)?;
    let servers: BTreeSet<&str> = found.iter().map(|it| it.server.as_str()).collect();
    match servers.len() {
        0 => Err(nothing(which)),
        1 => Ok(found),
        _ => {
            let names: Vec<&str> = servers.into_iter().collect();
            Err(Failure::new(
                Exit::USAGE,
                "more than one server runs; name the one you mean",
            )
            .hint(format!("there are {}", printable(&names.join(", ")))))
        }
    }
}

/// What to say when nobody is there to ask.
pub(super) fn nothing(which: &WhichArgs) -> Failure {
    let what = match (&which.name, which.pid) {
        (_, Some(pid)) => format!("no instance runs as {pid}"),
        (Some(name), None) => format!("no instance of {} runs", printable(name)),
        (None, None) => "no server runs".to_owned(),
    };
    Failure::new(Exit::UNAVAILABLE, what)
        .hint("`cofferdam status` lists what runs as the same user")
}

/// Asks all of them at the same time.
pub(super) fn ask(instances: Vec<Instance>, ask: &Ask, limit: Duration) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let asked = instances.into_iter().map(|instance| {
            let (server, pid) = (instance.server.clone(), instance.pid);
            let socket = instance.path.clone();
            let answer = scope.spawn(move || instance.ask(ask, limit));
            (server, pid, socket, answer)
        });
        // All are under way before the first is waited for.
        let asked: Vec<_> = asked.collect();
        let answers = asked.into_iter().map(|(server, pid, socket, answer)| {
            let said = match answer.join() {
                Ok(said) => said.map_err(|error| error.to_string()),
                Err(_) => Err("it could not be asked".to_owned()),
            };
            Answer {
                server,
                pid,
                socket,
                said,
            }
        });
        answers.collect()
    })
}

/// The answers as JSON, one object for each instance.
pub(super) fn as_json(answers: &[Answer]) -> String {
    let all: Vec<Value> = answers.iter().map(Answer::json).collect();
    format!("{:#}\n", Value::from(all))
}
