//! The server's own requests to the client (roots, sampling, elicitation, ping) that are open.
//!
//! Ids of the two directions share no space: a server may use 1 for `roots/list` while the client's 1
//! is open, so this is a table of its own. Servers count from 0 or 1, so a server that takes the place
//! of a lost one uses ids that its client may still be about to answer: those get another name until
//! the old answer has come, or a person's answer to one question would be taken for that to another.

use crate::mcp::{Id, RequestId};
use foldhash::{HashMap, HashSet};

/// Open requests of one server; more are refused.
const OPEN: usize = 1024;
/// Open requests of lost servers that are remembered.
const GHOSTS: usize = 4096;

/// Under which id the other side knows the request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    AsIs,
    /// Under this one (raw).
    Renamed(Box<[u8]>),
}

#[derive(Debug, Default)]
pub(super) struct Asks {
    open: HashSet<RequestId>,
    /// Asked by servers that are lost, and not answered yet.
    ghosts: HashSet<RequestId>,
    /// By our name: the id that the server gave, as tables know it and as it was written.
    renamed: HashMap<RequestId, (RequestId, Box<[u8]>)>,
}

impl Asks {
    /// Notes a request, and the id that the client is to see; `None` when it cannot be kept: the id is
    /// open, or there are too many. `name` makes an id that is new.
    pub(super) fn open(&mut self, id: Id<'_>, name: impl FnOnce() -> String) -> Option<Asked> {
        let key = id.key();
        if self.open.len() >= OPEN || !self.open.insert(key.clone()) {
            return None;
        }
        if !self.ghosts.contains(&key) {
            return Some(Asked::AsIs);
        }
        let name = name();
        let raw = format!("\"{name}\"").into_bytes().into_boxed_slice();
        self.renamed
            .insert(RequestId::Text(name.into()), (key, id.raw.into()));
        Some(Asked::Renamed(raw))
    }

    /// Takes the request that the client's answer closes, and the id that the server knows; `None`
    /// when no living server waits for it.
    pub(super) fn close(&mut self, id: &RequestId) -> Option<Asked> {
        if let Some((key, raw)) = self.renamed.remove(id) {
            self.open.remove(&key);
            return Some(Asked::Renamed(raw));
        }
        if self.ghosts.remove(id) {
            return None;
        }
        self.open.remove(id).then_some(Asked::AsIs)
    }

    /// The server is lost: what its client was asked, and is to forget.
    pub(super) fn lost(&mut self) -> Vec<RequestId> {
        let mut asked = Vec::new();
        for (name, (key, _)) in self.renamed.drain() {
            self.open.remove(&key);
            asked.push(name);
        }
        asked.extend(self.open.drain());
        let room = GHOSTS.saturating_sub(self.ghosts.len());
        self.ghosts.extend(asked.iter().take(room).cloned());
        asked
    }

    /// True while the server waits for the client, so that the client's calls wait for a person.
    pub(super) fn any(&self) -> bool {
        !self.open.is_empty()
    }
}
