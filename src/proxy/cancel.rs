//! What a client gives up: it gives its place back at once, wherever it is.

use super::session::{Outbox, Session};
use crate::mcp::{self, Era, Raw, RequestId};
use std::time::Instant;

impl Session {
    /// The client has cancelled a request: what it holds is another's. `told`: the server hears of it.
    pub(super) fn client_cancels(
        &mut self,
        params: Option<Raw<'_>>,
        told: bool,
        now: Instant,
        out: &mut Outbox,
    ) {
        let Some(key) = mcp::cancelled_request(params).map(|id| id.key()) else {
            return;
        };
        if !self.listing.cancel(&key) && !self.stop_waiting(&key) {
            let open = self.client.find_open(&key);
            let closes = open.is_some_and(|open| open.origin.era == Era::Modern);
            if closes && told && self.streams {
                self.given_up(key, now);
            } else {
                self.client.cancel(&key);
            }
            self.tally.open(self.client.waiting());
            self.advance(now, out);
        }
    }

    /// The stream of a request is closed, so that no answer to it can come: it ends here and now.
    fn given_up(&mut self, key: RequestId, now: Instant) {
        if let Some(open) = self.client.close(&key) {
            self.finished(&open, "forward", None, "cancelled", 0, now);
            self.client.bury(key, open);
        }
    }
}
