//! What the server says unasked, in the revisions that have a stream for it: a GET that is made again
//! when it ends, where it ended.

use super::bridge::Bridge;
use super::exchange::{Heard, trouble};
use super::outfit::Outfit;
use crate::mcp::{self, Direction, Kind, flatten};
use crate::proxy::Trouble;
use crate::transport::http::{
    Bytes, Events, HeaderName, HeaderValue, Method, News, carries_events, header,
};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a stream is about, for those who count refusals.
const STREAM: &str = "stream";
const LAST: HeaderName = HeaderName::from_static("last-event-id");
/// Before a stream is taken up again, when the server wishes nothing else.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures, and the shortest and longest that a server may wish.
const LONGEST: Duration = Duration::from_secs(30);
const LEAST_WISH: Duration = Duration::from_millis(100);
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// The pause before the attempt with this number, from 1.
pub(super) fn pause(wish: Option<u64>, attempt: u32) -> Duration {
    let first = wish.map_or(PAUSE, Duration::from_millis);
    let first = first.clamp(LEAST_WISH, LONGEST_WISH);
    if attempt <= 1 {
        return first;
    }
    let doubled = first.max(PAUSE).saturating_mul(1 << (attempt - 1).min(10));
    doubled.min(LONGEST).max(first)
}

impl Bridge {
    /// Opens the stream of the session that there is now, in place of any other.
    pub(super) fn listen(self: &Rc<Self>) {
        let bridge = Rc::clone(self);
        let generation = self.visit.borrow().generation;
        let task = self.spawn(bridge.listening(generation));
        if let Some(before) = self.visit.borrow_mut().listening.replace(task) {
            before.abort();
        }
    }

    async fn listening(self: Rc<Self>, generation: u64) {
        let mut events = Events::new(self.settings.response);
        let (mut attempt, mut offered) = (0, false);
        loop {
            match self.get(events.last_id()).await {
                Ok(Some((mut answer, outfit))) => {
                    offered = true;
                    // With another credential it is taken up where it was.
                    let overheard = self.overhear(&mut answer, &mut events);
                    let heard = outfit.unless_over(overheard).await.unwrap_or(true);
                    attempt = if heard { 1 } else { attempt + 1 };
                    events.restart();
                }
                // It has none to offer.
                Ok(None) => return,
                // A server that never had a stream may say so like this; a session that is young is not lost.
                Err(Trouble::Status { status: 404, .. }) if !offered => return,
                Err(Trouble::Status { status: 404, .. })
                    if self.visit.borrow().session.is_some() =>
                {
                    if self.renew(generation).await.is_ok() {
                        // That has opened another one.
                        return;
                    }
                    attempt += 1;
                }
                Err(trouble) => {
                    tracing::debug!("the stream of the server: {trouble}");
                    attempt += 1;
                }
            }
            tokio::time::sleep(pause(events.retry(), attempt)).await;
        }
    }

    /// Asks for a stream, from `last` on; `None` when the server has none.
    pub(super) async fn get(
        &self,
        last: Option<&[u8]>,
    ) -> Result<Option<(Heard, Arc<Outfit>)>, Trouble> {
        let outfit = self.settings.wardrobe.outfit(STREAM)?;
        let mut headers = outfit.headers();
        let events = HeaderValue::from_static("text/event-stream");
        headers.insert(header::ACCEPT, events);
        self.visit.borrow().sign(&mut headers);
        if let Some(last) = last.and_then(|last| HeaderValue::from_bytes(last).ok()) {
            headers.insert(LAST, last);
        }
        let sent = self.client.send(Method::GET, &headers, Bytes::new()).await;
        let answer = sent.map_err(trouble)?;
        let status = answer.status.as_u16();
        self.settings.wardrobe.judged(&outfit, STREAM, status);
        match status {
            200 if carries_events(&answer.headers) => Ok(Some((answer, outfit))),
            404 | 408 | 429 | 500.. => Err(Trouble::Status {
                status,
                after: None,
            }),
            401 | 403 | 407 => Err(Trouble::Denied(status)),
            _ => Ok(None),
        }
    }

    /// Passes on what comes, to the end of the stream; whether anything came.
    async fn overhear(&self, answer: &mut Heard, events: &mut Events) -> bool {
        let mut heard = false;
        while let Ok(Some(piece)) = answer.piece().await {
            let mut rest = &*piece;
            while let Some(news) = events.next(&mut rest) {
                heard = true;
                let News::Event(event) = news else {
                    tracing::warn!("the server said more at once, unasked, than may pass");
                    continue;
                };
                let flat = flatten(event.data.trim_ascii());
                let kind = mcp::parse(&flat, Direction::ToClient).map(|envelope| envelope.kind);
                // Answers belong to the streams of their requests.
                if let Ok(Kind::Request { .. } | Kind::Notification { .. }) = kind {
                    self.out.line(&[&*flat, b"\n"].concat()).await;
                }
            }
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_the_wish_of_the_server_counts() {
        let seconds = |wish, attempt| pause(wish, attempt).as_millis();
        assert_eq!((seconds(None, 0), seconds(None, 1)), (1000, 1000));
        assert_eq!((seconds(Some(500), 1), seconds(Some(0), 1)), (500, 100));
        assert_eq!((seconds(None, 2), seconds(None, 3)), (2000, 4000));
        assert_eq!((seconds(Some(0), 2), seconds(None, 99)), (2000, 30_000));
        assert_eq!(
            (seconds(Some(u64::MAX), 1), seconds(Some(60_000), 9)),
            (300_000, 60_000)
        );
    }
}
