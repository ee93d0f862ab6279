//! Who sends a request, and whether it was meant for us.

use crate::config::{AdminAddr, Listen};
use crate::transport::http::{Parts, Peer, header, local_name, value};
use smol_str::{SmolStr, format_smolstr};

/// Who sent a request: sessions belong to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) name: SmolStr,
}

/// The caller of a request; `None`: nobody that is known, which only a loopback address is open to.
pub(super) fn authenticate(_parts: &Parts, peer: &Peer) -> Option<Caller> {
    let unix = peer.unix.as_ref()?;
    Some(Caller {
        name: format_smolstr!("uid:{}", unix.uid),
    })
}

/// The names that requests may call us by.
#[derive(Debug)]
pub(super) struct Names {
    /// The authority and the origin of the public URL.
    public: Option<(String, String)>,
    /// The address itself, where it is no loopback address.
    address: Option<String>,
    socket_file: bool,
}

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
            (host, uri) => host.into_iter().chain(uri).all(|name| self.is_host(name)),
        };
        let origin = value(&parts.headers, &header::ORIGIN);
        named && origin.is_none_or(|origin| self.is_origin(origin))
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
