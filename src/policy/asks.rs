//! Questions of a server to the client that do not travel as requests.
//!
//! In 2026-07-28 a server asks by `inputRequests` inside a result (or a task), and the client
//! answers by `inputResponses` inside its next request. A method that policy denies is denied there
//! as well. 2025-11-25 has one more way: the error -32042, which carries URL elicitations.

use crate::mcp::{Raw, members, method, text};

/// The three methods by which a server asks a client for something.
pub(super) const ASKING: [&str; 3] = [
    method::ELICITATION_CREATE,
    method::SAMPLING_CREATE_MESSAGE,
    method::ROOTS_LIST,
];

/// 2025-11-25: "URL elicitation required"; `data.elicitations` is a question to the person.
const URL_ELICITATION_REQUIRED: &[u8] = b"-32042";

/// Calls `denies` with the method of each question in a result, a task or the `params` of a
/// task notification; returns its first answer. A question without a readable method counts as `""`.
pub(super) fn denied_question<T>(holder: Raw<'_>, denies: impl Fn(&str) -> Option<T>) -> Option<T> {
    for (key, value) in members(holder.text) {
        match &*key {
            "inputRequests" => {
                if let Some(denied) = denied_in(value.text, &denies) {
                    return Some(denied);
                }
            }
            // The tasks extension nests the state of a task in some answers.
            "task" => {
                for (key, value) in members(value.text) {
                    if key == "inputRequests"
                        && let Some(denied) = denied_in(value.text, &denies)
                    {
                        return Some(denied);
                    }
                }
            }
            _ => {}
        }
    }
    None
}

fn denied_in<T>(questions: &[u8], denies: &impl Fn(&str) -> Option<T>) -> Option<T> {
    for (_, question) in members(questions) {
        let mut asked = false;
        // Clients in Go read keys without case, so `Method` asks as well.
        for (key, value) in members(question.text) {
            if key.eq_ignore_ascii_case("method") {
                asked = true;
                let method = text(value.text).unwrap_or_default();
                if let Some(denied) = denies(&method) {
                    return Some(denied);
                }
            }
        }
        if !asked && let Some(denied) = denies("") {
            return Some(denied);
        }
    }
    None
}

/// The method that an `inputResponses` entry answers, told by its shape: the protocol keeps only
/// the server's key. `params` are those of a request of the client.
pub(super) fn denied_answer<T>(params: Raw<'_>, denies: impl Fn(&str) -> Option<T>) -> Option<T> {
    let answers = params.member("inputResponses")?;
    for (_, answer) in members(answers.text) {
        for (key, _) in members(answer.text) {
            let method = match &*key {
                "action" => method::ELICITATION_CREATE,
                "roots" => method::ROOTS_LIST,
                "role" | "model" | "stopReason" => method::SAMPLING_CREATE_MESSAGE,
                _ => continue,
            };
            if let Some(denied) = denies(method) {
                return Some(denied);
            }
        }
    }
    None
}

/// True when an error of the server is a question to the person.
pub(super) fn is_url_elicitation(error: Raw<'_>) -> bool {
    members(error.text).any(|(key, value)| key == "code" && value.text == URL_ELICITATION_REQUIRED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw<'_> {
        Raw {
            start: 0,
            text: text.as_bytes(),
        }
    }

    fn sampling(method: &str) -> Option<()> {
        (method == method::SAMPLING_CREATE_MESSAGE).then_some(())
    }

    #[test]
    fn questions_are_found_wherever_they_travel() {
        let question = r#"{"method":"sampling/createMessage","params":{}}"#;
        for holder in [
            format!(r#"{{"resultType":"input_required","inputRequests":{{"q":{question}}}}}"#),
            format!(r#"{{"inputRequests":{{"a":{{"method":"roots/list"}},"q":{question}}}}}"#),
            format!(r#"{{"task":{{"inputRequests":{{"q":{question}}}}}}}"#),
            r#"{"inputRequests":{"q":{"Method":"sampling\/createMessage"}}}"#.to_owned(),
        ] {
            assert_eq!(
                denied_question(raw(&holder), sampling),
                Some(()),
                "{holder}"
            );
        }
        for holder in [
            r#"{"inputRequests":{"q":{"method":"elicitation/create"}}}"#,
            r#"{"content":[{"inputRequests":{"q":{"method":"sampling/createMessage"}}}]}"#,
            r#"{"inputRequests":null}"#,
        ] {
            assert_eq!(denied_question(raw(holder), sampling), None, "{holder}");
        }
    }

    #[test]
    fn answers_are_told_by_their_shape() {
        let answer = r#"{"inputResponses":{"k":{"role":"assistant","content":{"type":"text","text":"x"},"model":"m"}}}"#;
        assert_eq!(denied_answer(raw(answer), sampling), Some(()));
        let other = r#"{"inputResponses":{"k":{"action":"accept","content":{"role":"x"}}}}"#;
        assert_eq!(denied_answer(raw(other), sampling), None);
        assert_eq!(denied_answer(raw(r#"{"name":"x"}"#), sampling), None);
    }

    #[test]
    fn only_the_one_code_is_a_question() {
        assert!(is_url_elicitation(raw(r#"{"code":-32042,"message":"x"}"#)));
        assert!(!is_url_elicitation(raw(
            r#"{"code":-32602,"message":"-32042"}"#
        )));
    }
}
