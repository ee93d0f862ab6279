//! Who sends a request, and whether it was meant for us.

use super::state::Gate;
use crate::config::{AdminAddr, Listen};
use crate::identity::{
    Answer, Caller, Certificate, Denied, Evidence, GATEWAY_HEADER, TokenFault, Verifier,
};
use crate::mcp::Direction;
use crate::transport::http::{HeaderName, Parts, Peer, header, local_name, value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const ON_BEHALF_OF: HeaderName = HeaderName::from_static(GATEWAY_HEADER);

/// What a connection shows of the other end: the same for all of its requests.
#[derive(Debug)]
pub(super) struct Guest {
    uid: Option<u32>,
    certificate: Option<Certificate>,
    /// Who it is by these alone, for as long as the files say the same.
    known: RefCell<Option<(Rc<Verifier>, Arc<Caller>)>>,
}

impl Guest {
    pub(super) fn new(peer: &Peer, certificate: Option<Certificate>) -> Self {
        Self {
            uid: peer.unix.map(|unix| unix.uid),
            certificate,
            known: RefCell::default(),
        }
    }

    /// Whoever the connection itself shows, if that was asked before and still holds.
    fn known(&self, verifier: &Rc<Verifier>, now: u64) -> Option<Arc<Caller>> {
        let known = self.known.borrow();
        let (by, caller) = known.as_ref()?;
        let holds = Rc::ptr_eq(by, verifier) && caller.expires.is_none_or(|end| end > now);
        holds.then(|| Arc::clone(caller))
    }
}

impl Gate {
    /// Who sends a request. What says so is taken out of its header: nobody behind us needs it.
    ///
    /// # Errors
    /// The answer for somebody who is not let in; unless this is the `last` attempt, that the issuer may
    /// have another key.
    pub(super) fn identify(
        &self,
        parts: &mut Parts,
        guest: &Guest,
        last: bool,
    ) -> Result<Arc<Caller>, Unknown> {
        let verifier = Rc::clone(&self.verifier.borrow());
        let now = unix_now();
        let shown = [header::AUTHORIZATION, ON_BEHALF_OF];
        let plain = parts.uri.query().is_none()
            && !shown.iter().any(|name| parts.headers.contains_key(name));
        if let Some(caller) = guest.known(&verifier, now).filter(|_| plain) {
            return Ok(caller);
        }
        let found = {
            let all = |name: &HeaderName| {
                let values = parts.headers.get_all(name).iter();
                values.map(|value| value.as_bytes()).collect::<Vec<_>>()
            };
            let (authorization, on_behalf_of) = (all(&header::AUTHORIZATION), all(&ON_BEHALF_OF));
            let evidence = Evidence {
                authorization: &authorization,
                query: parts.uri.query(),
                certificate: guest.certificate.as_ref(),
                uid: guest.uid,
                on_behalf_of: &on_behalf_of,
            };
            verifier.identify(&evidence, now)
        };
        if matches!(found, Err(Denied::Token(TokenFault::UnknownKey))) && !last {
            return Err(Unknown::Key);
        }
        parts.headers.remove(header::AUTHORIZATION);
        parts.headers.remove(ON_BEHALF_OF);
        let caller = found.map_err(|denied| Unknown::Denied(self.deny(denied)))?;
        let caller = Arc::new(caller);
        if plain {
            *guest.known.borrow_mut() = Some((verifier, Arc::clone(&caller)));
        }
        Ok(caller)
    }

    /// Counted by its rule, and not written into the audit log: whoever has no business here could
    /// roll that over with it.
    fn deny(&self, denied: Denied) -> Answer {
        self.metrics.refusal(Direction::ToServer, denied.rule());
        tracing::debug!(rule = denied.rule(), "a request was not let in");
        self.challenges.answer(denied)
    }
}

/// Why nobody is known.
#[derive(Debug)]
pub(super) enum Unknown {
    Denied(Answer),
    /// Nothing is known of the key that a token is signed with; its header is as it came.
    Key,
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The names that requests may call us by.
#[derive(Debug)]
pub(super) struct Names {
    /// The authority and the origin of the public URL.
    public: Option<(String, String)>,
    /// The address itself, where it is no loopback address.
    address: Option<String>,
    socket_file: bool,
    /// Of others, that requests have called us by; each is told once.
    foreign: RefCell<BTreeSet<String>>,
}

/// Names of hosts that are told, and the characters of each.
const FOREIGN: usize = 16;
const SHOWN: usize = 128;

impl Names {
    pub(super) fn of(listen: &Listen, bound: &AdminAddr) -> Self {
        let public = listen.public_url.as_ref().and_then(|url| {
            let (scheme, rest) = url.split_once("://")?;
            let authority = rest.split('/').next()?.to_ascii_lowercase();
            let origin = format!("{scheme}://{authority}");
            Some((authority, origin))
        });
        let (address, socket_file) = match bound {
            AdminAddr::Tcp(address) => (Some(address.to_string()), false),
            AdminAddr::Unix(_) => (None, true),
        };
        Self {
            public,
            address,
            socket_file,
            foreign: RefCell::default(),
        }
    }

    /// True when the request names us, and no page of somebody else has sent it (DNS rebinding,
    /// cross-site requests). No page reaches a socket file.
    pub(super) fn are_ours(&self, parts: &Parts) -> bool {
        if self.socket_file {
            return true;
        }
        let host = value(&parts.headers, &header::HOST);
        let uri = parts.uri.authority().map(|authority| authority.as_str());
        let named = match (host, uri) {
            (None, None) => false,
            (host, uri) => host.into_iter().chain(uri).all(|name| {
                let ours = self.is_host(name);
                if !ours {
                    self.tell(name);
                }
                ours
            }),
        };
        let origin = value(&parts.headers, &header::ORIGIN);
        named && origin.is_none_or(|origin| self.is_origin(origin))
    }

    /// The operator may have forgotten by what name clients call us.
    fn tell(&self, name: &str) {
        let mut foreign = self.foreign.borrow_mut();
        let shown: String = name.chars().take(SHOWN).collect();
        if foreign.len() < FOREIGN && !foreign.contains(&shown) {
            tracing::warn!(
                "a request was refused because its Host is {shown:?}: if that is this listener, `listen.public_url` has to say so"
            );
            foreign.insert(shown);
        }
    }

    fn is_host(&self, name: &str) -> bool {
        let is = |ours: &str| ours.eq_ignore_ascii_case(name);
        local_name(name)
            || self.address.as_deref().is_some_and(is)
            || self
                .public
                .as_ref()
                .is_some_and(|(authority, _)| is(authority))
    }

    fn is_origin(&self, origin: &str) -> bool {
        let ours = self.public.as_ref();
        if ours.is_some_and(|(_, ours)| ours.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let rest = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(local_name)
    }
}
