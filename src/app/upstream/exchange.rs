//! One request, from its first attempt to its one answer: the server's, or ours in its place.

use super::ask::Ask;
use super::bridge::Bridge;
use super::phone::Phone;
use crate::mcp::method::{INITIALIZE, TOOLS_LIST};
use crate::mcp::{self, Direction, Era, Id, Kind, flatten};
use crate::policy::listed;
use crate::proxy::{Trouble, answer_for, pass_error};
use crate::transport::http::{
    Answer, ClientError, Events, HeaderMap, News, carries_events, carries_json, header,
};
use std::rc::Rc;
use std::time::Duration;

/// An answer of the server, on its way.
pub(super) type Heard = Answer<Phone>;

/// Bytes of an error that are read, and the time for them.
const ERROR: usize = 64 * 1024;
const ERROR_TIME: Duration = Duration::from_secs(5);
/// A stream whose request is answered should end; it is read for so long, so that its connection can
/// be used again.
const REST: Duration = Duration::from_millis(500);
/// From the end of a server in a cell until we are told.
const ENDING: Duration = Duration::from_millis(400);
/// Times that a stream is taken up again without anything new on it.
const RESUMES: u32 = 5;

/// The header names the wrong thing (MCP 2026-07-28).
const HEADER_MISMATCH: &[u8] = b"-32020";
/// There is no such method (JSON-RPC 2.0 §5.1).
const NO_METHOD: &[u8] = b"-32601";

/// Why the transport gave no answer.
pub(super) fn trouble(error: ClientError) -> Trouble {
    match error {
        ClientError::Unreachable(why) => Trouble::Unreachable(why),
        ClientError::Broken(why) => Trouble::Broken(why),
        ClientError::Crowded => Trouble::Crowded,
    }
}

/// What one message of the server is to a request.
pub(super) enum Sorted {
    /// Its answer.
    Answer(Vec<u8>),
    /// Something else that may pass.
    Other(Vec<u8>),
    /// An answer to something that was not asked here, or no message.
    Noise,
}

/// What a stream has come to.
enum Followed {
    Answered,
    /// It ended before; whether anything was heard on it, and why it ended.
    Ended(bool, String),
}

impl Bridge {
    pub(super) async fn exchange(self: Rc<Self>, ask: Ask, serial: u64) {
        match self.carry(&ask).await {
            Ok(()) => {
                self.reached();
                self.settings.went_well();
            }
            // It has ended with its server, whose next one may get the request.
            Err(trouble) if self.is_over(&trouble).await => return,
            Err(trouble) => {
                let of_one = matches!(
                    trouble,
                    Trouble::TooLarge { .. }
                        | Trouble::RequestTooLarge
                        | Trouble::Down(_)
                        | Trouble::Crowded
                );
                if !of_one && !ask.answered.get() {
                    self.settings.went_wrong(&trouble);
                }
                if !ask.answered.get() {
                    self.out.line(&answer_for(&ask.line, &trouble)).await;
                }
            }
        }
        self.closed(&ask.key, serial);
    }

    /// Whether the server was lost and not the connection alone; of one in a cell we are told, a moment
    /// after it. Then whoever asked us knows best what becomes of the request.
    async fn is_over(&self, trouble: &Trouble) -> bool {
        let lost = matches!(trouble, Trouble::Unreachable(_) | Trouble::Broken(_));
        lost && self.settings.inside && self.client.dialer().is_gone_within(ENDING).await
    }

    async fn carry(self: &Rc<Self>, ask: &Ask) -> Result<(), Trouble> {
        self.settings.unless_down()?;
        let (mut renewed, mut listed_again, mut signed_again) = (false, false, false);
        loop {
            let generation = self.visit.borrow().generation;
            let wardrobe = &self.settings.wardrobe;
            let outfit = wardrobe.outfit(&ask.about)?;
            let headers = self.headers_of(&outfit, &ask.line);
            let sent = self.post(&headers, &ask.line);
            let mut answer = outfit.unless_revoked(sent).await?;
            wardrobe.judged(&outfit, &ask.about, answer.status.as_u16());
            if answer.status == 401 && !signed_again && wardrobe.has_changed(&outfit) {
                // The old one ended on its way there; nothing was done.
                signed_again = true;
                continue;
            }
            if answer.status.is_success() {
                return outfit.unless_revoked(self.hear(ask, answer)).await;
            }
            let in_session = headers.contains_key(super::ask::SESSION);
            let lost = answer.status == 404 && in_session && !renewed;
            let error = match turned_down(ask, &mut answer).await {
                // Some say 404 for a method that they do not know: the session is still there.
                Ok(error) if !lost || has_code(&error, NO_METHOD) => error,
                Err(trouble) if !lost => return Err(trouble),
                Ok(_) | Err(_) => {
                    renewed = true;
                    drop(answer);
                    self.renew(generation).await?;
                    continue;
                }
            };
            if !listed_again && has_code(&error, HEADER_MISMATCH) {
                // The tool repeats other arguments than it did when it was listed.
                listed_again = true;
                if self.list_again(ask).await.is_ok() {
                    continue;
                }
            }
            self.out.line(&error).await;
            return Ok(());
        }
    }

    async fn hear(self: &Rc<Self>, ask: &Ask, mut answer: Heard) -> Result<(), Trouble> {
        if carries_events(&answer.headers) {
            return self.hear_events(ask, answer).await;
        }
        let line = self.only_answer(ask, &mut answer).await?;
        let line = self.take_note(ask, &answer.headers, line);
        self.out.line(&line).await;
        ask.answered.set(true);
        Ok(())
    }

    /// The answer in a body that is one message.
    async fn only_answer(&self, ask: &Ask, answer: &mut Heard) -> Result<Vec<u8>, Trouble> {
        if answer.status == 202 || answer.status == 204 {
            return Err(Trouble::NoAnswer("it is empty"));
        }
        let json = carries_json(&answer.headers);
        let body = answer
            .whole(self.settings.response)
            .await
            .map_err(trouble)?;
        let Some(body) = body else {
            return Err(self.too_large());
        };
        if body.is_empty() {
            return Err(Trouble::NoAnswer("it is empty"));
        }
        if !json {
            return Err(Trouble::NoAnswer("it is no JSON"));
        }
        match sort(ask, &body) {
            Sorted::Answer(line) => Ok(line),
            Sorted::Other(_) | Sorted::Noise => {
                Err(Trouble::NoAnswer("it is no answer to the request"))
            }
        }
    }

    fn too_large(&self) -> Trouble {
        Trouble::TooLarge {
            cap: self.settings.response as u64,
        }
    }

    async fn hear_events(self: &Rc<Self>, ask: &Ask, answer: Heard) -> Result<(), Trouble> {
        let mut events = Events::new(self.settings.response);
        let (mut answer, mut tries) = (answer, 0);
        loop {
            let (heard, why) = match self.follow(ask, &mut answer, &mut events).await? {
                Followed::Answered => {
                    let rest = async { while let Ok(Some(_)) = answer.piece().await {} };
                    drop(tokio::time::timeout(REST, rest).await);
                    return Ok(());
                }
                Followed::Ended(heard, why) => (heard, why),
            };
            tries = if heard { 1 } else { tries + 1 };
            let lost = ask.era == Era::Modern || events.last_id().is_none() || tries > RESUMES;
            if lost {
                return Err(Trouble::Broken(why));
            }
            events.restart();
            tokio::time::sleep(super::listen::pause(events.retry(), tries)).await;
            match self.get(events.last_id()).await {
                Ok(Some((again, _))) => answer = again,
                // It has no stream to go on with.
                Ok(None) => return Err(Trouble::Broken(why)),
                Err(_) => {}
            }
        }
    }

    /// Passes on what comes on a stream, up to the answer.
    async fn follow(
        self: &Rc<Self>,
        ask: &Ask,
        answer: &mut Heard,
        events: &mut Events,
    ) -> Result<Followed, Trouble> {
        let mut heard = false;
        loop {
            let piece = match answer.piece().await {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    let why = "the stream is over".to_owned();
                    return Ok(Followed::Ended(heard, why));
                }
                Err(error) => return Ok(Followed::Ended(heard, error.to_string())),
            };
            let mut rest = &*piece;
            while let Some(news) = events.next(&mut rest) {
                let News::Event(event) = news else {
                    return Err(self.too_large());
                };
                heard = true;
                match sort(ask, &event.data) {
                    Sorted::Answer(line) => {
                        let line = self.take_note(ask, &answer.headers, line);
                        self.out.line(&line).await;
                        ask.answered.set(true);
                        return Ok(Followed::Answered);
                    }
                    Sorted::Other(line) => self.out.line(&line).await,
                    Sorted::Noise => {}
                }
            }
        }
    }

    /// Asks something of our own, and waits for its answer; the headers that came with it.
    pub(super) async fn private(&self, ask: &Ask) -> Result<(HeaderMap, Vec<u8>), Trouble> {
        let outfit = self.settings.wardrobe.outfit(&ask.about)?;
        let headers = self.headers_of(&outfit, &ask.line);
        let mut answer = self.post(&headers, &ask.line).await?;
        let status = answer.status.as_u16();
        self.settings.wardrobe.judged(&outfit, &ask.about, status);
        if !answer.status.is_success() {
            let error = turned_down(ask, &mut answer).await?;
            return Ok((answer.headers.clone(), error));
        }
        if !carries_events(&answer.headers) {
            let line = self.only_answer(ask, &mut answer).await?;
            return Ok((answer.headers.clone(), line));
        }
        let mut events = Events::new(self.settings.response);
        while let Some(piece) = answer.piece().await.map_err(trouble)? {
            let mut rest = &*piece;
            while let Some(news) = events.next(&mut rest) {
                let News::Event(event) = news else {
                    return Err(self.too_large());
                };
                match sort(ask, &event.data) {
                    Sorted::Answer(line) => return Ok((answer.headers.clone(), line)),
                    Sorted::Other(line) => self.out.line(&line).await,
                    Sorted::Noise => {}
                }
            }
        }
        Err(Trouble::NoAnswer("the stream ended before it"))
    }

    /// What we have to know of an answer that passes; the line to pass on.
    fn take_note(self: &Rc<Self>, ask: &Ask, headers: &HeaderMap, line: Vec<u8>) -> Vec<u8> {
        match &*ask.method {
            INITIALIZE => {
                self.visit.borrow_mut().begin(&ask.line, headers, &line);
                self.order.over(&ask.key);
                line
            }
            TOOLS_LIST if ask.era == Era::Modern => self.learn(line),
            _ => line,
        }
    }

    /// Learns which arguments are repeated, and hides tools that no client on HTTP may offer.
    pub(super) fn learn(&self, line: Vec<u8>) -> Vec<u8> {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let envelope = mcp::parse(text, Direction::ToClient);
        let Ok(Kind::Result { result, .. }) = envelope.as_ref().map(|it| &it.kind) else {
            return line;
        };
        let found = listed(result.text);
        let mut mirrors = self.mirrors.borrow_mut();
        for (name, of_tool) in found.tools {
            if of_tool.is_empty() {
                mirrors.remove(&name);
            } else if mirrors.len() < 1024 {
                mirrors.insert(name, of_tool);
            }
        }
        let tools = result.member("tools").filter(|_| !found.unfit.is_empty());
        let Some(tools) = tools else { return line };
        tracing::warn!(
            "{} tools are hidden: their x-mcp-header is not what the specification allows",
            found.unfit.len()
        );
        let fit = mcp::elements(tools.text).enumerate();
        let fit = fit.filter(|(place, _)| !found.unfit.contains(place));
        let fit: Vec<&[u8]> = fit.map(|(_, tool)| tool.text).collect();
        let span = tools.span();
        let before = text.get(..span.start).unwrap_or_default();
        let after = text.get(span.end..).unwrap_or_default();
        [before, b"[", &fit.join(&b','), b"]", after, b"\n"].concat()
    }

    /// Asks for the list of tools, because the server reads headers otherwise than we wrote them.
    async fn list_again(&self, ask: &Ask) -> Result<(), Trouble> {
        let none = || Trouble::NoAnswer("it is no list of tools");
        let envelope = mcp::parse(&ask.line, Direction::ToServer).map_err(|_| none())?;
        let Kind::Request { params, .. } = &envelope.kind else {
            return Err(none());
        };
        let meta = params
            .and_then(|params| params.member("_meta"))
            .ok_or_else(none)?;
        let mut cursor = Vec::new();
        for page in 0..16 {
            let line = [
                format!(r#"{{"jsonrpc":"2.0","id":"cofferdam-list-{page}","method":"tools/list","params":{{"_meta":"#).as_bytes(),
                meta.text,
                &cursor,
                b"}}",
            ]
            .concat();
            let list = Ask::read(&line.into()).ok_or_else(none)?;
            let (_, line) = self.private(&list).await?;
            let line = self.learn(line);
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let next = mcp::parse(text, Direction::ToClient)
                .ok()
                .and_then(|answer| {
                    let Kind::Result { result, .. } = answer.kind else {
                        return None;
                    };
                    Some(result.member("nextCursor")?.text.to_vec())
                });
            match next {
                Some(next) => cursor = [b",\"cursor\":", &*next].concat(),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

fn has_code(line: &[u8], wanted: &[u8]) -> bool {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let envelope = mcp::parse(text, Direction::ToClient);
    envelope.is_ok_and(|it| match it.kind {
        Kind::Error { error, .. } => error.member("code").is_some_and(|code| code.text == wanted),
        _ => false,
    })
}

/// The error in JSON-RPC that a status came with, as the answer to the request.
///
/// # Errors
/// There is none, or the status says all that counts.
async fn turned_down(ask: &Ask, answer: &mut Heard) -> Result<Vec<u8>, Trouble> {
    let status = answer.status.as_u16();
    match status {
        401 | 403 | 407 => return Err(Trouble::Denied(status)),
        300..=399 => return Err(Trouble::Redirect(status)),
        _ => {}
    }
    if carries_json(&answer.headers) {
        let body = tokio::time::timeout(ERROR_TIME, answer.whole(ERROR)).await;
        if let Ok(Ok(Some(body))) = body
            && let Sorted::Answer(line) = sort(ask, &body)
        {
            return Ok(line);
        }
    }
    if status == 413 {
        return Err(Trouble::RequestTooLarge);
    }
    let after = answer.headers.get(header::RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
    Err(Trouble::Status {
        status,
        after: after.map(|seconds: u32| Duration::from_secs(seconds.into())),
    })
}

/// What a message is to the request `ask`; lines end with LF.
pub(super) fn sort(ask: &Ask, message: &[u8]) -> Sorted {
    let message = message.trim_ascii();
    let flat = flatten(message);
    let ours = |id: &Id<'_>| id.key() == ask.key;
    let whole = || [&*flat, b"\n"].concat();
    match mcp::parse(&flat, Direction::ToClient).map(|envelope| envelope.kind) {
        Ok(Kind::Result { id, .. } | Kind::Error { id: Some(id), .. }) if ours(&id) => {
            Sorted::Answer(whole())
        }
        // It can mean no other: this is what was answered.
        Ok(Kind::Error { id: None, error }) => Sorted::Answer(pass_error(&ask.raw_id, error.text)),
        Ok(Kind::Request { .. } | Kind::Notification { .. }) => Sorted::Other(whole()),
        _ => Sorted::Noise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        let line = br#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#;
        Ask::read(&line.to_vec().into()).unwrap()
    }

    fn sorted(message: &str) -> String {
        match sort(&ask(), message.as_bytes()) {
            Sorted::Answer(line) => format!("answer {}", String::from_utf8_lossy(&line)),
            Sorted::Other(line) => format!("other {}", String::from_utf8_lossy(&line)),
            Sorted::Noise => "noise".to_owned(),
        }
    }

    #[test]
    fn only_an_answer_to_this_request_is_its_answer() {
        let answer = r#"{"jsonrpc":"2.0","id":"a","result":{}}"#;
        assert_eq!(sorted(answer), format!("answer {answer}\n"));
        assert_eq!(
            sorted("{\"jsonrpc\":\"2.0\",\r\n\t\"id\":\"a\",\"result\":{}}\n"),
            "answer {\"jsonrpc\":\"2.0\",   \"id\":\"a\",\"result\":{}}\n"
        );
        assert!(
            sorted(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#)
                .contains(r#""id":"a","error":{"code":1"#)
        );
        assert!(
            sorted(r#"{"jsonrpc":"2.0","method":"notifications/message"}"#).starts_with("other")
        );
        for message in [
            r#"{"jsonrpc":"2.0","id":"b","result":{}}"#,
            r#"[{"jsonrpc":"2.0","id":"a","result":{}}]"#,
            "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{\"x\":\"\n\"}}",
            "",
            "<html>",
        ] {
            assert_eq!(sorted(message), "noise", "{message}");
        }
    }
}
