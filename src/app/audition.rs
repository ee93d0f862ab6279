//! A server that is to take the place of one that serves: it is asked what its client would ask, and what
//! it says besides is kept until it takes over.
//!
//! ```text
//! begin ── nothing to ask, or the answer that its client knows ──▶ over ── take_over ──▶ it serves
//!   └───── another answer: it is not taken
//! ```

use crate::mcp::RequestId;
use crate::proxy::{Outbox, Session};
use std::collections::VecDeque;
use std::time::Instant;

/// Bytes of a newcomer's lines that are kept until it takes over.
const KEPT: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Audition {
    /// The id of our question, while it has no answer.
    asked: Option<RequestId>,
    answer: Option<Vec<u8>>,
    /// What it has said besides, in order.
    lines: VecDeque<Vec<u8>>,
    kept: usize,
}

impl Audition {
    /// The newcomer runs: what it is to be sent, and perhaps nothing.
    pub(super) fn begin(session: &mut Session) -> (Self, Vec<u8>) {
        let (asked, question) = session.newcomer_question().unzip();
        let audition = Self {
            asked,
            answer: None,
            lines: VecDeque::new(),
            kept: 0,
        };
        (audition, question.unwrap_or_default())
    }

    /// It can take over.
    pub(super) fn is_over(&self) -> bool {
        self.asked.is_none()
    }

    /// A line of the newcomer.
    ///
    /// # Errors
    /// Why its client could not go on with it.
    pub(super) fn hear(&mut self, line: &[u8], session: &mut Session) -> Result<(), String> {
        let judged = self
            .asked
            .as_ref()
            .and_then(|id| session.judge_newcomer(line, id));
        match judged {
            Some(Ok(())) => {
                self.asked = None;
                self.answer = Some(line.to_vec());
            }
            Some(Err(why)) => return Err(why),
            None if self.kept + line.len() <= KEPT => {
                self.kept += line.len();
                self.lines.push_back(line.to_vec());
            }
            None => {}
        }
        Ok(())
    }

    /// It serves from here on: the session tells it the rest. What it has said already is handed out.
    pub(super) fn take_over(
        self,
        session: &mut Session,
        now: Instant,
        out: &mut Outbox,
    ) -> VecDeque<Vec<u8>> {
        session.taken_over(self.answer.as_deref(), now, out);
        self.lines
    }
}
