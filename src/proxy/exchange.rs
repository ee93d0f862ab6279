//! Many clients on one server process: ids are replaced by ours on the way in and restored on the
//! way out, spliced into the bytes, and so is every place that repeats one.
//!
//! ```text
//! request ─ admit ─▶ open ── progress, listen notices ──▶ its place
//!                      └──── answer ─ close ────────────▶ its place (gone; late progress of tasks: remembered)
//! ```
//! Our number stands for the request's id and for its progress token, so no two clients share
//! either, whatever they chose.

use super::address::{Address, To};
use crate::mcp::{self, Envelope, Id, Kind, Raw, RawId, RequestId};
use foldhash::HashMap;
use std::collections::VecDeque;
use std::ops::Range;

/// Progress tokens of answered requests that are remembered: tasks go on after their first answer.
const LATER: usize = 1024;

/// Whose request it is: a session, or nobody's in particular (modern requests have no session).
pub type Party = u64;

/// The party of requests without a session.
pub const NOBODY: Party = 0;

/// One request that has no answer yet.
#[derive(Debug)]
pub struct Exchange<P> {
    /// As the client wrote it.
    pub raw_id: RawId,
    /// The progress token as the client wrote it.
    pub token: Option<RawId>,
    pub party: Party,
    /// Where its answer and what precedes it go.
    pub place: P,
}

/// The client's id is in use already by a request of the same session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate;

/// A late progress report: whose it is, and the line for that client.
#[derive(Debug, PartialEq, Eq)]
pub struct Late {
    pub party: Party,
    pub line: Vec<u8>,
}

/// The requests that one server process works on.
#[derive(Debug)]
pub struct Exchanges<P> {
    last: i64,
    open: HashMap<i64, Exchange<P>>,
    by_client: HashMap<(Party, RequestId), i64>,
    later: VecDeque<(i64, Party, RawId)>,
}

impl<P> Default for Exchanges<P> {
    fn default() -> Self {
        Self {
            last: 0,
            open: HashMap::default(),
            by_client: HashMap::default(),
            later: VecDeque::new(),
        }
    }
}

impl<P> Exchanges<P> {
    /// Takes a request in: its line for the server goes to `line`, and its number comes back.
    ///
    /// # Errors
    /// [`Duplicate`], when the session has a request with this id open; nothing has changed.
    pub fn admit(
        &mut self,
        envelope: &Envelope<'_>,
        id: Id<'_>,
        party: Party,
        place: P,
        line: &mut Vec<u8>,
    ) -> Result<i64, Duplicate> {
        let number = self.last + 1;
        if party != NOBODY {
            let key = (party, id.key());
            if self.by_client.contains_key(&key) {
                return Err(Duplicate);
            }
            self.by_client.insert(key, number);
        }
        self.last = number;
        let token = envelope
            .token()
            .and_then(|raw| Some((raw, Id::read(raw).ok()?)));
        let ours = Digits::of(number);
        let mut spans = [Some(id.span()), None];
        if let Some((raw, _)) = token {
            spans[1] = Some(raw.span());
        }
        splice(envelope.line, spans, [ours.bytes(), ours.bytes()], line);
        self.open.insert(
            number,
            Exchange {
                raw_id: id.raw.into(),
                token: token.map(|(_, token)| token.raw.into()),
                party,
                place,
            },
        );
        Ok(number)
    }

    /// The line with which a session's client gives its request up, as the server must read it;
    /// `None` when that request is not open.
    #[must_use]
    pub fn cancelled(&self, envelope: &Envelope<'_>, party: Party) -> Option<Vec<u8>> {
        let Kind::Notification { params, .. } = &envelope.kind else {
            return None;
        };
        let id = mcp::cancelled_request(*params)?;
        let number = self.by_client.get(&(party, id.key()))?;
        let mut line = Vec::with_capacity(envelope.line.len() + 20);
        let span = id.span();
        let ours = Digits::of(*number);
        splice(
            envelope.line,
            [Some(span), None],
            [ours.bytes(), b""],
            &mut line,
        );
        Some(line)
    }

    /// The number of a session's open request.
    #[must_use]
    pub fn number(&self, party: Party, id: &RequestId) -> Option<i64> {
        self.by_client.get(&(party, id.clone())).copied()
    }

    /// The open request with this number.
    #[must_use]
    pub fn find(&self, number: i64) -> Option<&Exchange<P>> {
        self.open.get(&number)
    }

    /// The open request with this number, to change where its answer goes.
    pub fn find_mut(&mut self, number: i64) -> Option<&mut Exchange<P>> {
        self.open.get_mut(&number)
    }

    /// Takes the request that is answered, or given up.
    pub fn close(&mut self, number: i64) -> Option<Exchange<P>> {
        let exchange = self.open.remove(&number)?;
        if exchange.party != NOBODY {
            let id = Id::read(Raw {
                start: 0,
                text: &exchange.raw_id,
            });
            if let Ok(id) = id {
                self.by_client.remove(&(exchange.party, id.key()));
            }
            if let Some(token) = &exchange.token {
                if self.later.len() >= LATER {
                    self.later.pop_front();
                }
                self.later
                    .push_back((number, exchange.party, token.clone()));
            }
        }
        Some(exchange)
    }

    /// A progress report of a session's request that is answered already.
    #[must_use]
    pub fn late(&self, line: &[u8], address: &Address) -> Option<Late> {
        let To::Progress(number) = address.to else {
            return None;
        };
        let (_, party, token) = self.later.iter().rfind(|(late, ..)| *late == number)?;
        let mut out = Vec::with_capacity(line.len() + token.len());
        splice(line, address.spans.clone(), [token, token], &mut out);
        Some(Late {
            party: *party,
            line: out,
        })
    }

    /// Forgets a session whose requests are all closed.
    pub fn forget(&mut self, party: Party) {
        self.later.retain(|(_, of, _)| *of != party);
    }

    /// Everything that is open, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Exchange<P>)> {
        self.open
            .iter()
            .map(|(number, exchange)| (*number, exchange))
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True when none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl<P> Exchange<P> {
    /// A line of the server about this request, with the client's own id and token in it.
    pub fn restore(&self, line: &[u8], address: &Address, out: &mut Vec<u8>) {
        let mut own: [&[u8]; 2] = [&self.raw_id, &self.raw_id];
        if let (To::Progress(_), Some(token)) = (address.to, &self.token) {
            own = [token, token];
        }
        let quoted;
        // A server that spells the number as a string gets the client's number as a string.
        if address.quoted && self.raw_id.first() != Some(&b'"') {
            quoted = [b"\"", &*self.raw_id, b"\""].concat();
            own[usize::from(matches!(address.to, To::Answer(_)))] = &quoted;
        }
        splice(line, address.spans.clone(), own, out);
    }
}

/// Copies `line` with the bytes of up to two spans replaced.
fn splice(line: &[u8], spans: [Option<Range<usize>>; 2], with: [&[u8]; 2], out: &mut Vec<u8>) {
    let [first, second] = spans;
    let mut places = [
        first.map(|span| (span, with[0])),
        second.map(|span| (span, with[1])),
    ];
    places.sort_by_key(|place| place.as_ref().map_or(usize::MAX, |(span, _)| span.start));
    let mut at = 0;
    for (span, bytes) in places.into_iter().flatten() {
        out.extend_from_slice(line.get(at..span.start).unwrap_or_default());
        out.extend_from_slice(bytes);
        at = span.end;
    }
    out.extend_from_slice(line.get(at..).unwrap_or_default());
}

/// A number's digits, without an allocation.
struct Digits {
    bytes: [u8; 20],
    from: usize,
}

impl Digits {
    fn of(number: i64) -> Self {
        let mut digits = Self {
            bytes: [b'0'; 20],
            from: 20,
        };
        let mut left = number.unsigned_abs();
        loop {
            digits.from -= 1;
            digits.bytes[digits.from] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 || digits.from == 0 {
                return digits;
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
