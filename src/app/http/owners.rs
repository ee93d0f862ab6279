//! Whose a task is (MCP 2026-07-28, extension `io.modelcontextprotocol/tasks`): all clients share one
//! process, which cannot tell them apart, and the id of a task is no proof of anything.

use crate::identity::Caller;
use crate::mcp::{Envelope, Kind, elements};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Tasks that are remembered: of all, and of one caller; the oldest are forgotten first.
const TASKS: usize = 1024;
const OWN: usize = 64;
/// Bytes of a task's id; no answer that begins a task is longer than `LONGEST`.
const ID: usize = 512;
const LONGEST: usize = 256 * 1024;

/// The tasks that were begun.
#[derive(Debug, Default)]
pub(super) struct Owners {
    owners: HashMap<Arc<str>, Arc<Caller>>,
    /// In the order in which they were begun.
    order: VecDeque<Arc<str>>,
}

impl Owners {
    /// Notes whose the task is that an answer says has begun.
    pub(super) fn note(&mut self, answer: &Envelope<'_>, caller: &Arc<Caller>) {
        if let Some(task) = begun(answer) {
            self.take(&task, caller);
        }
    }

    fn take(&mut self, task: &str, caller: &Arc<Caller>) {
        if self.owners.contains_key(task) {
            self.order.retain(|it| **it != *task);
        }
        let task: Arc<str> = task.into();
        let is_own = |task: &&Arc<str>| {
            let owner = self.owners.get(*task);
            owner.is_some_and(|owner| owner.is_same(caller))
        };
        // Nobody's tasks are forgotten because somebody else has many.
        let own = self.order.iter().filter(is_own).count();
        let old = match own >= OWN {
            true => self.order.iter().position(|it| is_own(&it)),
            false => (self.order.len() >= TASKS).then_some(0),
        };
        if let Some(old) = old.and_then(|at| self.order.remove(at)) {
            self.owners.remove(&old);
        }
        self.owners.insert(Arc::clone(&task), Arc::clone(caller));
        self.order.push_back(task);
    }

    /// True when a request names a task of somebody else. One of which nothing is known is for the
    /// server to know.
    pub(super) fn is_foreign(&self, request: &Envelope<'_>, caller: &Caller) -> bool {
        let Kind::Request {
            method,
            params: Some(params),
            ..
        } = &request.kind
        else {
            return false;
        };
        let foreign = |task: &str| {
            let owner = self.owners.get(task);
            owner.is_some_and(|owner| !owner.is_same(caller))
        };
        if self.owners.is_empty() {
            return false;
        }
        if method.starts_with("tasks/") {
            let task = params.member("taskId").and_then(|task| task.as_text());
            return task.is_some_and(|task| foreign(&task));
        }
        // A stream that is listened on may name tasks too.
        let notifications = params.member("notifications");
        notifications
            .and_then(|wanted| wanted.member("taskIds"))
            .is_some_and(|tasks| {
                elements(tasks.text).any(|task| task.as_text().is_some_and(|task| foreign(&task)))
            })
    }
}

/// The task that begins with an answer.
fn begun(answer: &Envelope<'_>) -> Option<String> {
    let Kind::Result { result, .. } = &answer.kind else {
        return None;
    };
    if result.text.len() > LONGEST || memchr::memmem::find(result.text, b"task").is_none() {
        return None;
    }
    let kind = result.member("resultType")?.as_text()?;
    if kind != "task" {
        return None;
    }
    let task = result.member("taskId");
    let task = task.or_else(|| result.member("task")?.member("taskId"));
    let task = task?.as_text()?;
    (task.len() <= ID).then(|| task.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{Direction, parse};

    fn caller(name: &str) -> Arc<Caller> {
        Arc::new(Caller {
            client: name.to_owned(),
            ..Caller::loopback()
        })
    }

    fn is_foreign(owners: &Owners, params: &str, caller: &Caller) -> bool {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{params}}}"#);
        owners.is_foreign(
            &parse(line.as_bytes(), Direction::ToServer).unwrap(),
            caller,
        )
    }

    #[test]
    fn a_task_is_whose_request_began_it() {
        let (one, two) = (caller("one"), caller("two"));
        let mut owners = Owners::default();
        for (answer, params) in [
            (
                r#""resultType":"task","taskId":"a""#,
                r#"{"taskId":"\u0061"}"#,
            ),
            (
                r#""resultType":"task","task":{"taskId":"b"}"#,
                r#"{"taskId":"b"}"#,
            ),
        ] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{answer}}}}}"#);
            let answer = parse(line.as_bytes(), Direction::ToClient).unwrap();
            owners.note(&answer, &one);
            assert!(is_foreign(&owners, params, &two) && !is_foreign(&owners, params, &one));
        }
        let line = br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","taskId":"c"}}"#;
        owners.note(&parse(line, Direction::ToClient).unwrap(), &one);
        assert!(!is_foreign(&owners, r#"{"taskId":"c"}"#, &two));
        let line = br#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"taskIds":["x","a"]}}}"#;
        let listen = parse(line, Direction::ToServer).unwrap();
        assert!(owners.is_foreign(&listen, &two) && !owners.is_foreign(&listen, &one));
    }

    #[test]
    fn nobody_has_the_tasks_of_others_forgotten() {
        let (one, two) = (caller("one"), caller("two"));
        let mut owners = Owners::default();
        owners.take("mine", &one);
        for at in 0..OWN * 2 {
            owners.take(&format!("task-{at}"), &two);
        }
        assert_eq!(owners.order.len(), OWN + 1);
        assert_eq!(owners.owners.len(), OWN + 1);
        assert!(is_foreign(&owners, r#"{"taskId":"mine"}"#, &two));
        for at in 0..TASKS + 8 {
            owners.take("again", &caller(&format!("client-{at}")));
            owners.take(&format!("of-{at}"), &caller(&format!("client-{at}")));
        }
        assert_eq!((owners.order.len(), owners.owners.len()), (TASKS, TASKS));
    }
}
