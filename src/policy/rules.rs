//! Every rule that can decide on a message: its id, and one sentence of what it protects.
//!
//! The ids are a public contract: they stand in refusals, in the audit log, and in metric
//! labels. An id is never renamed or reused.

/// One rule, as `explain` and the documentation show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The stable dotted id.
    pub id: &'static str,
    /// What the rule does, in one sentence.
    pub summary: &'static str,
    /// The setting behind it; for the operator, never shown to a model.
    pub setting: &'static str,
}

pub(super) const METHODS_DENY: &str = "methods.deny";
pub(super) const METHODS_ALLOW: &str = "methods.allow";
pub(super) const METHODS_SPELLING: &str = "methods.spelling";
/// Asked by the session too, of what would have to wait.
pub const PROTOCOL_NO_ID: &str = "protocol.no-id";
pub(super) const TOOLS_DENY: &str = "tools.deny";
pub(super) const TOOLS_ALLOW: &str = "tools.allow";
pub(super) const RESOURCES_DENY: &str = "resources.deny";
pub(super) const RESOURCES_ALLOW: &str = "resources.allow";
pub(super) const PROMPTS_DENY: &str = "prompts.deny";
pub(super) const PROMPTS_ALLOW: &str = "prompts.allow";
pub(super) const CLIENTS_TOOLS: &str = "clients.tools";
pub(super) const CLIENTS_READ_ONLY: &str = "clients.read-only";
pub(super) const CLIENTS_RESOURCES: &str = "clients.resources";
pub(super) const CLIENTS_PROMPTS: &str = "clients.prompts";
pub(super) const SCOPES_MISSING: &str = "scopes.missing";
pub(super) const LISTS_PRIVATE: &str = "lists.private";
pub(super) const LIMITS_RATE: &str = "limits.rate";
pub(super) const LIMITS_QUOTA: &str = "limits.quota";
pub(super) const LIMITS_CONCURRENCY: &str = "limits.concurrency";
pub(super) const LIMITS_BREAKER: &str = "limits.breaker";
pub(super) const LIMITS_REPEATS: &str = "limits.repeats";
/// Of a result that was cut.
pub const LIMITS_RESULT: &str = "limits.result";
pub(super) const BUDGET_CALLS: &str = "limits.budget-calls";
pub(super) const BUDGET_BYTES: &str = "limits.budget-bytes";
pub(super) const BUDGET_TOKENS: &str = "limits.budget-tokens";
pub(super) const LISTS_HIDDEN: &str = "lists.hidden";
pub(super) const SCHEMA_ARGUMENTS: &str = "schema.arguments";
pub(super) const SCHEMA_UNUSABLE: &str = "schema.unusable";
pub(super) const SCHEMA_OUTPUT: &str = "schema.output";
pub(super) const CREDENTIALS_ARGUMENT: &str = "credentials.argument";
pub const CREDENTIALS_MISSING: &str = "credentials.missing";
pub(super) const CREDENTIALS_PROBLEM: &str = "credentials.problem";
/// Asked by the session.
pub const CREDENTIALS_BREAKER: &str = "credentials.breaker";
pub(super) const SCRUB_SECRETS: &str = "scrub.secrets";
/// Asked by the session.
pub const LIMITS_REQUEST: &str = "limits.request";
/// Asked by the session.
pub const LIMITS_RESPONSE: &str = "limits.response";
/// Asked by the session.
pub const LIMITS_TIMEOUT: &str = "limits.timeout";

/// All rules, in the order in which the engine asks them; the `limits` are asked by the session,
/// which is the one that counts bytes and seconds.
pub const RULES: &[Rule] = &[
    Rule {
        id: METHODS_SPELLING,
        summary: "A method of the protocol is only accepted in its exact spelling, so that no variant of it passes by the rules.",
        setting: "none: write the method as the protocol does",
    },
    Rule {
        id: METHODS_DENY,
        summary: "The method is on the deny list, in whichever direction it travels and by whatever other method has the same effect.",
        setting: "[methods] deny",
    },
    Rule {
        id: METHODS_ALLOW,
        summary: "There is an allow list of methods, and this one is not on it; the handshake and the protocol's own notifications always pass.",
        setting: "[methods] allow",
    },
    Rule {
        id: PROTOCOL_NO_ID,
        summary: "A request of the protocol was sent without an id, so nobody could be answered and nothing would count it; it is dropped.",
        setting: "none: send the request with an id",
    },
    Rule {
        id: TOOLS_DENY,
        summary: "The tool is denied by name, and so is every other spelling of that name.",
        setting: "[tools.\"NAME\"] allow = false",
    },
    Rule {
        id: TOOLS_ALLOW,
        summary: "Tools are denied unless named, and this one is not named.",
        setting: "[tools.\"*\"] allow = false; name the tool with allow = true",
    },
    Rule {
        id: RESOURCES_DENY,
        summary: "The resource is on the deny list in one of the ways in which a server could read its URI; one of more than 8 KiB, or with too many readings, counts as denied.",
        setting: "[resources] deny",
    },
    Rule {
        id: RESOURCES_ALLOW,
        summary: "There is an allow list of resources, and this URI is not on it or is not written in its plain form.",
        setting: "[resources] allow",
    },
    Rule {
        id: PROMPTS_DENY,
        summary: "The prompt is on the deny list, and so is every other spelling of its name.",
        setting: "[prompts] deny",
    },
    Rule {
        id: PROMPTS_ALLOW,
        summary: "There is an allow list of prompts, and this one is not on it.",
        setting: "[prompts] allow",
    },
    Rule {
        id: CLIENTS_TOOLS,
        summary: "The tool is not for this client, so to it there is no such tool.",
        setting: "[clients.NAME] tools, or [groups.NAME] tools",
    },
    Rule {
        id: CLIENTS_READ_ONLY,
        summary: "This client may only read, and nobody has said that the tool does no more, so to it there is no such tool.",
        setting: "[clients.NAME] read_only, or [tools.\"NAME\"] effect = \"read\"",
    },
    Rule {
        id: CLIENTS_RESOURCES,
        summary: "The resource is not for this client, so to it there is no such resource.",
        setting: "[clients.NAME] resources, or [groups.NAME] resources",
    },
    Rule {
        id: CLIENTS_PROMPTS,
        summary: "The prompt is not for this client, so to it there is no such prompt.",
        setting: "[clients.NAME] prompts, or [groups.NAME] prompts",
    },
    Rule {
        id: SCOPES_MISSING,
        summary: "The request needs a scope that the caller does not have; over HTTP the answer is a 403 that names all of them.",
        setting: "scopes of [tools.\"NAME\"], [resources], [prompts] or [identity]",
    },
    Rule {
        id: LIMITS_RATE,
        summary: "The client asks more often than it may.",
        setting: "[limits] rate, [clients.NAME] rate, or [tools.\"NAME\"] rate",
    },
    Rule {
        id: LIMITS_QUOTA,
        summary: "The client has used up what it may ask for in one day (UTC).",
        setting: "[limits] quota, or [clients.NAME] quota",
    },
    Rule {
        id: LIMITS_CONCURRENCY,
        summary: "As much runs at one time as may, and as many requests wait as may.",
        setting: "[limits] concurrency and queue, [clients.NAME] concurrency, or [tools.\"NAME\"] concurrency",
    },
    Rule {
        id: CREDENTIALS_ARGUMENT,
        summary: "The argument is filled in by the operator: clients do not see it and may not send it.",
        setting: "inject.argument of [credentials.NAME]",
    },
    Rule {
        id: CREDENTIALS_MISSING,
        summary: "There is no credential that could be filled into the call: it was revoked, or does not fit the tool's schema.",
        setting: "file of [credentials.NAME]: write another value",
    },
    Rule {
        id: SCHEMA_UNUSABLE,
        summary: "The tool's schema cannot be checked; one that points to another host is never fetched, so its calls are refused.",
        setting: "[tools.\"NAME\"] arguments = \"warn\"",
    },
    Rule {
        id: SCHEMA_ARGUMENTS,
        summary: "The arguments do not match the input schema that the tool advertises.",
        setting: "[schema] arguments, or [tools.\"NAME\"] arguments",
    },
    Rule {
        id: LISTS_HIDDEN,
        summary: "A list was passed on without the entries that policy denies; what is hidden is also uncallable.",
        setting: "the allow and deny lists of [tools], [prompts] and [resources]",
    },
    Rule {
        id: LISTS_PRIVATE,
        summary: "What depends on who asks is marked private and kept by caches for at most 30 seconds, so that nobody gets another's.",
        setting: "none: it follows from [clients], [groups] and scopes",
    },
    Rule {
        id: SCHEMA_OUTPUT,
        summary: "The structured content of a result does not match the output schema that the tool advertises.",
        setting: "[schema] output, or [tools.\"NAME\"] output",
    },
    Rule {
        id: CREDENTIALS_PROBLEM,
        summary: "A call failed because of the server's credential, and the agent is told so: the arguments are fine, and trying again does not help.",
        setting: "file of [credentials.NAME]: write another value",
    },
    Rule {
        id: CREDENTIALS_BREAKER,
        summary: "The tool failed by its credential several times in a row, so it is left alone for a while, or until there is another credential.",
        setting: "file of [credentials.NAME]: write another value",
    },
    Rule {
        id: SCRUB_SECRETS,
        summary: "A credential was found in a message of the server.",
        setting: "[scrub] secrets",
    },
    Rule {
        id: BUDGET_CALLS,
        summary: "As many calls were made as this session, client or tool may make.",
        setting: "[budget] session and client, or [tools.\"NAME\"] budget: calls",
    },
    Rule {
        id: BUDGET_BYTES,
        summary: "As many bytes of arguments and results have passed as may for this session, client or tool.",
        setting: "[budget] session and client, or [tools.\"NAME\"] budget: bytes",
    },
    Rule {
        id: BUDGET_TOKENS,
        summary: "As many tokens of arguments and results, estimated, have passed as may for this session, client or tool.",
        setting: "[budget] session and client, or [tools.\"NAME\"] budget: tokens",
    },
    Rule {
        id: LIMITS_REPEATS,
        summary: "The same call had the same answer too often: whoever makes it is in a loop.",
        setting: "[repeats], or [tools.\"NAME\"] repeats = false",
    },
    Rule {
        id: LIMITS_BREAKER,
        summary: "Too many calls of the tool, or requests to the server, have failed, so none is made for a while.",
        setting: "[breaker], or [tools.\"NAME\"] breaker = false",
    },
    Rule {
        id: LIMITS_RESULT,
        summary: "The result of a call is larger than it may be, or than what is left of a budget: its text is cut, or it is withheld.",
        setting: "[limits] result, result_tokens and overlong, or those of [tools.\"NAME\"]",
    },
    Rule {
        id: LIMITS_REQUEST,
        summary: "A message of the client is larger than the cap.",
        setting: "[limits] request",
    },
    Rule {
        id: LIMITS_RESPONSE,
        summary: "A message of the server is larger than the cap.",
        setting: "[limits] response",
    },
    Rule {
        id: LIMITS_TIMEOUT,
        summary: "The request was silent for too long, or took too long in all.",
        setting: "[limits] timeout and timeout_total, or [tools.\"NAME\"] timeout",
    },
];

/// Finds a rule by its id.
#[must_use]
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}

/// JSON-RPC codes of our own refusals. The specification keeps -32768 to -32000 for itself, so
/// ours are positive and read like the HTTP status that they resemble.
pub mod code {
    /// Policy refused (403).
    pub const POLICY: i32 = 4030;
    /// The message is too large (413).
    pub const SIZE: i32 = 4130;
    /// The answer did not come in time (504).
    pub const TIMEOUT: i32 = 5040;
    /// Too often, too much at once, or too much for one day (429).
    pub const RATE: i32 = 4290;
    /// What is asked for cannot be had now (503).
    pub const UNAVAILABLE: i32 = 5030;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_summaries_are_sentences() {
        let ids: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), RULES.len());
        for rule in RULES {
            assert!(rule.summary.ends_with('.'), "{}", rule.id);
            assert!(!rule.setting.is_empty(), "{}", rule.id);
        }
    }

    #[test]
    fn codes_stay_out_of_the_reserved_range() {
        for code in [
            code::POLICY,
            code::SIZE,
            code::TIMEOUT,
            code::RATE,
            code::UNAVAILABLE,
        ] {
            assert!(!(-32768..=-32000).contains(&code));
        }
    }
}
