//! The methods of every revision, and where each was born and ended.

use super::version::Revision::{
    self, V2024_11_05, V2025_03_26, V2025_06_18, V2025_11_25, V2026_07_28,
};

/// Who sends a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
    /// Both.
    Either,
}

/// One method of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// As it stands on the wire.
    pub name: &'static str,
    /// Who sends it.
    pub sender: Sender,
    /// The first revision that has it.
    pub since: Revision,
    /// The last revision that has it.
    pub until: Revision,
}

impl Method {
    /// True when `revision` has the method.
    #[must_use]
    pub fn is_in(&self, revision: Revision) -> bool {
        self.since <= revision && revision <= self.until
    }

    /// True when nobody answers it.
    #[must_use]
    pub fn is_notification(&self) -> bool {
        is_notification(self.name)
    }
}

/// True when nobody answers a method of the protocol with this name.
pub(super) fn is_notification(name: &str) -> bool {
    name.starts_with("notifications/")
}

macro_rules! methods {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $sender:ident, $since:ident ..= $until:ident;)*) => {
        $($(#[$doc])* pub const $constant: &str = $name;)*

        /// Every method, with its sender and the revisions that have it.
        pub const ALL: &[Method] = &[
            $(Method { name: $constant, sender: Sender::$sender, since: $since, until: $until },)*
        ];

        impl Method {
            /// Looks a method up by its decoded name; `None` for extensions and inventions.
            ///
            /// Spelt out, because a comparison with a name that the compiler knows is a few
            /// instructions, and a walk over the table was dozens for each message.
            #[must_use]
            pub fn find(name: &[u8]) -> Option<&'static Self> {
                $(if name == $name.as_bytes() {
                    const METHOD: &Method = &Method {
                        name: $constant, sender: Sender::$sender, since: $since, until: $until,
                    };
                    return Some(METHOD);
                })*
                None
            }
        }
    };
}

methods! {
    /// Opens a legacy session.
    INITIALIZE = "initialize", Client, V2024_11_05 ..= V2025_11_25;
    /// Ends the opening of a legacy session.
    INITIALIZED = "notifications/initialized", Client, V2024_11_05 ..= V2025_11_25;
    /// Versions, capabilities and instructions of a modern server.
    SERVER_DISCOVER = "server/discover", Client, V2026_07_28 ..= V2026_07_28;
    /// Is the peer there?
    PING = "ping", Either, V2024_11_05 ..= V2025_11_25;
    /// Gives a request up; in the modern era only the client sends it, except for a listen stream.
    CANCELLED = "notifications/cancelled", Either, V2024_11_05 ..= V2026_07_28;
    /// How far a request is.
    PROGRESS = "notifications/progress", Either, V2024_11_05 ..= V2026_07_28;

    /// Lists tools, in pages.
    TOOLS_LIST = "tools/list", Client, V2024_11_05 ..= V2026_07_28;
    /// Runs a tool.
    TOOLS_CALL = "tools/call", Client, V2024_11_05 ..= V2026_07_28;
    /// The list of tools has changed.
    TOOLS_CHANGED = "notifications/tools/list_changed", Server, V2024_11_05 ..= V2026_07_28;

    /// Lists resources, in pages.
    RESOURCES_LIST = "resources/list", Client, V2024_11_05 ..= V2026_07_28;
    /// Lists URI templates, in pages.
    RESOURCES_TEMPLATES_LIST = "resources/templates/list", Client, V2024_11_05 ..= V2026_07_28;
    /// Reads a resource.
    RESOURCES_READ = "resources/read", Client, V2024_11_05 ..= V2026_07_28;
    /// Watches a resource.
    RESOURCES_SUBSCRIBE = "resources/subscribe", Client, V2024_11_05 ..= V2025_11_25;
    /// Stops watching a resource.
    RESOURCES_UNSUBSCRIBE = "resources/unsubscribe", Client, V2024_11_05 ..= V2025_11_25;
    /// The list of resources has changed.
    RESOURCES_CHANGED = "notifications/resources/list_changed", Server, V2024_11_05 ..= V2026_07_28;
    /// A watched resource has changed.
    RESOURCE_UPDATED = "notifications/resources/updated", Server, V2024_11_05 ..= V2026_07_28;

    /// Lists prompts, in pages.
    PROMPTS_LIST = "prompts/list", Client, V2024_11_05 ..= V2026_07_28;
    /// Fills a prompt.
    PROMPTS_GET = "prompts/get", Client, V2024_11_05 ..= V2026_07_28;
    /// The list of prompts has changed.
    PROMPTS_CHANGED = "notifications/prompts/list_changed", Server, V2024_11_05 ..= V2026_07_28;

    /// Suggests values for an argument.
    COMPLETION_COMPLETE = "completion/complete", Client, V2024_11_05 ..= V2026_07_28;
    /// How much the server should log.
    LOGGING_SET_LEVEL = "logging/setLevel", Client, V2024_11_05 ..= V2025_11_25;
    /// A log line of the server.
    LOG_MESSAGE = "notifications/message", Server, V2024_11_05 ..= V2026_07_28;

    /// Change notices and watched resources, on one long request.
    SUBSCRIPTIONS_LISTEN = "subscriptions/listen", Client, V2026_07_28 ..= V2026_07_28;
    /// Says what a listen stream will carry.
    SUBSCRIPTIONS_ACKNOWLEDGED = "notifications/subscriptions/acknowledged", Server, V2026_07_28 ..= V2026_07_28;

    /// The server asks for the client's roots; an input request in the modern era.
    ROOTS_LIST = "roots/list", Server, V2024_11_05 ..= V2026_07_28;
    /// The roots have changed.
    ROOTS_CHANGED = "notifications/roots/list_changed", Client, V2024_11_05 ..= V2025_11_25;
    /// The server asks for a completion; an input request in the modern era.
    SAMPLING_CREATE_MESSAGE = "sampling/createMessage", Server, V2024_11_05 ..= V2026_07_28;
    /// The server asks the person; an input request in the modern era.
    ELICITATION_CREATE = "elicitation/create", Server, V2025_06_18 ..= V2026_07_28;
    /// The person is done with a page that the server asked to open.
    ELICITATION_COMPLETE = "notifications/elicitation/complete", Server, V2025_11_25 ..= V2026_07_28;

    /// The state of a task; an extension in the modern era.
    TASKS_GET = "tasks/get", Either, V2025_11_25 ..= V2026_07_28;
    /// Waits for the result of a task.
    TASKS_RESULT = "tasks/result", Either, V2025_11_25 ..= V2025_11_25;
    /// Lists tasks.
    TASKS_LIST = "tasks/list", Either, V2025_11_25 ..= V2025_11_25;
    /// Gives a task up.
    TASKS_CANCEL = "tasks/cancel", Either, V2025_11_25 ..= V2026_07_28;
    /// Gives a task the input that it waits for (extension).
    TASKS_UPDATE = "tasks/update", Client, V2026_07_28 ..= V2026_07_28;
    /// A task has another state.
    TASK_STATUS = "notifications/tasks/status", Either, V2025_11_25 ..= V2025_11_25;
    /// A task has another state (extension).
    TASK_NOTICE = "notifications/tasks", Server, V2026_07_28 ..= V2026_07_28;
}

/// Batches were legal in this revision only; no server in use answers one.
pub const BATCH_REVISION: Revision = V2025_03_26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lifetimes_are_in_order() {
        for (index, method) in ALL.iter().enumerate() {
            assert!(method.since <= method.until, "{}", method.name);
            assert!(
                ALL.iter()
                    .skip(index + 1)
                    .all(|other| other.name != method.name),
                "{}",
                method.name
            );
        }
    }

    #[test]
    fn eras_differ_where_the_revisions_say() {
        let has = |name: &str, revision| {
            Method::find(name.as_bytes()).is_some_and(|found| found.is_in(revision))
        };
        assert!(has(INITIALIZE, V2025_11_25) && !has(INITIALIZE, V2026_07_28));
        assert!(has(SERVER_DISCOVER, V2026_07_28) && !has(SERVER_DISCOVER, V2025_11_25));
        assert!(has(TASKS_RESULT, V2025_11_25) && !has(TASKS_RESULT, V2026_07_28));
        assert!(!has(ELICITATION_CREATE, V2025_03_26));
        assert!(!has("tools/Call", V2025_11_25));
        assert!(Method::find(PROGRESS.as_bytes()).is_some_and(Method::is_notification));
        assert!(Method::find(PING.as_bytes()).is_some_and(|ping| !ping.is_notification()));
    }
}
