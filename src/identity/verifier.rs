//! From what a caller shows to who it is.

use super::challenge::{Denied, TokenFault};
use super::evidence::{Evidence, has_credential_in_query};
use super::jwt::Rules;
use super::{Caller, How, Jwks, KEY_PREFIX, KeyBook, sorted};
use crate::config::{Access, Client, Config, San};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Everything that tells callers apart, immutable: the listener keeps it behind one `Arc` and swaps it
/// whole when a file changes.
#[derive(Debug, Clone)]
pub struct Verifier {
    access: Access,
    names: HashMap<San, String>,
    users: HashMap<u32, String>,
    anonymous: bool,
    jwt: Option<Rules>,
    keys: KeyBook,
    jwks: Arc<Jwks>,
}

impl Verifier {
    /// Takes the configuration and what its files hold; no key set is one that knows no key.
    #[must_use]
    pub fn new(config: &Config, keys: KeyBook, jwks: Arc<Jwks>) -> Self {
        let access = config.access.clone();
        let listen = config.listen.as_ref();
        let public_url = listen.and_then(|listen| listen.public_url.as_deref());
        let named = |client: &(&String, &Client)| client.0.as_str() != "*";
        Self {
            names: access
                .clients
                .iter()
                .filter(named)
                .filter_map(|(name, client)| Some((client.san.clone()?, name.clone())))
                .collect(),
            users: access
                .clients
                .iter()
                .filter(named)
                .filter_map(|(name, client)| Some((client.uid?, name.clone())))
                .collect(),
            anonymous: config.admits_anonymous(),
            jwt: access
                .identity
                .jwt
                .as_ref()
                .map(|jwt| Rules::new(jwt, public_url.unwrap_or_default())),
            access,
            keys,
            jwks,
        }
    }

    /// The same by another configuration, with the keys that are known.
    #[must_use]
    pub fn with_access(&self, config: &Config) -> Self {
        Self::new(config, self.keys.clone(), Arc::clone(&self.jwks))
    }

    /// The same with other keys: the file has changed.
    #[must_use]
    pub fn with_keys(&self, keys: KeyBook) -> Self {
        Self {
            keys,
            ..self.clone()
        }
    }

    /// The same with another key set: the issuer has rotated.
    #[must_use]
    pub fn with_jwks(&self, jwks: Arc<Jwks>) -> Self {
        Self {
            jwks,
            ..self.clone()
        }
    }

    /// Who is asking at `now`, in seconds since 1970. Asked for every request: neither a session nor a
    /// connection stands for anybody.
    ///
    /// # Errors
    /// When nothing is shown, or something that does not hold.
    pub fn identify(&self, evidence: &Evidence<'_>, now: u64) -> Result<Caller, Denied> {
        if evidence.query.is_some_and(has_credential_in_query) {
            return Err(Denied::Query);
        }
        if self.anonymous {
            // Sessions of two users of a socket are kept apart also where anybody may come.
            return Ok(match evidence.uid {
                None => Caller::loopback(),
                Some(uid) => Caller {
                    client: format!("uid:{uid}"),
                    how: How::UnixPeer,
                    ..Caller::loopback()
                },
            });
        }
        // TLS has looked at the time when the connection began, which may be long ago.
        if evidence
            .certificate
            .is_some_and(|it| it.valid_until() < now)
        {
            return Err(Denied::Certificate);
        }
        let bearer = evidence.bearer()?;
        let peer = self.peer(evidence)?;
        let caller = match (evidence.asserted()?, bearer, peer) {
            (Some(_), Some(_), _) => {
                return Err(Denied::Malformed(
                    "a gateway proves itself by its certificate, not by a bearer token",
                ));
            }
            (Some(token), None, peer) => self.on_behalf(evidence, token, peer, now)?,
            (None, Some(key), _) if key.starts_with(KEY_PREFIX) => self.by_key(key, now)?,
            (None, Some(token), _) => self.by_token(evidence, token, now)?,
            (None, None, Some(peer)) => peer,
            (None, None, None) if evidence.certificate.is_some() => {
                return Err(Denied::Certificate);
            }
            (None, None, None) if evidence.uid.is_some() && !self.users.is_empty() => {
                return Err(Denied::User);
            }
            (None, None, None) => return Err(Denied::Missing),
        };
        match self.entry(&caller.client).is_some_and(|own| own.blocked) {
            true => Err(Denied::Blocked),
            false => Ok(caller),
        }
    }

    /// The client whose certificate or Unix user the connection has.
    fn peer(&self, evidence: &Evidence<'_>) -> Result<Option<Caller>, Denied> {
        if let Some(certificate) = evidence.certificate {
            let named: BTreeSet<&String> = certificate
                .names()
                .iter()
                .filter_map(|name| self.names.get(name))
                .collect();
            let mut named = named.into_iter();
            return match (named.next(), named.next()) {
                (Some(client), None) => Ok(Some(Caller {
                    expires: Some(certificate.valid_until()),
                    ..self.known(client, How::Mtls)
                })),
                // Which of two it is, nobody can say.
                (Some(_), Some(_)) => Err(Denied::Certificate),
                (None, _) => Ok(None),
            };
        }
        let client = evidence.uid.and_then(|uid| self.users.get(&uid));
        Ok(client.map(|client| self.known(client, How::UnixPeer)))
    }

    /// A client of the configuration, with what it has there.
    fn known(&self, client: &str, how: How) -> Caller {
        let own = self.access.clients.get(client);
        Caller {
            client: client.to_owned(),
            tenant: own.and_then(|own| own.tenant.clone()),
            user: None,
            scopes: sorted(self.scopes(own).cloned()),
            groups: Vec::new(),
            how,
            expires: None,
        }
    }

    /// What a client has without a token: its own scopes and those of its groups.
    fn scopes<'s>(&'s self, own: Option<&'s Client>) -> impl Iterator<Item = &'s String> {
        let groups = own.into_iter().flat_map(|own| &own.groups);
        let of_groups = groups
            .filter_map(|group| self.access.groups.get(group))
            .flat_map(|group| &group.scopes);
        own.into_iter().flat_map(|own| &own.scopes).chain(of_groups)
    }

    /// Its own entry, or the one for everybody else.
    fn entry(&self, client: &str) -> Option<&Client> {
        let clients = &self.access.clients;
        clients.get(client).or_else(|| clients.get("*"))
    }

    fn by_key(&self, key: &str, now: u64) -> Result<Caller, Denied> {
        let mut caller = self.keys.find(key, now).ok_or(Denied::Key)?.caller();
        let own = self.entry(&caller.client);
        let more = self.scopes(own).cloned();
        caller.scopes = sorted(std::mem::take(&mut caller.scopes).into_iter().chain(more));
        let tenant = own.and_then(|own| own.tenant.clone());
        caller.tenant = caller.tenant.or(tenant);
        Ok(caller)
    }

    fn by_token(&self, evidence: &Evidence<'_>, token: &str, now: u64) -> Result<Caller, Denied> {
        let rules = self
            .jwt
            .as_ref()
            .ok_or(Denied::Token(TokenFault::Unexpected))?;
        let mut caller = rules
            .verify(&self.jwks, token, evidence.certificate, now)
            .map_err(Denied::Token)?;
        // The name of a client with keys, and what it may do, is for whoever shows one of them.
        if self.keys.names(&caller.client) {
            return Err(Denied::Token(TokenFault::Name));
        }
        if let Some(own) = self.access.clients.get(&caller.client) {
            if own.is_identified() {
                return Err(Denied::Token(TokenFault::Name));
            }
            match (&caller.tenant, &own.tenant) {
                (Some(said), Some(set)) if said != set => return Err(Denied::Tenant),
                (None, Some(set)) => caller.tenant = Some(set.clone()),
                _ => {}
            }
        }
        Ok(caller)
    }

    /// A gateway asks for somebody: what both may do, for the user that the token names.
    fn on_behalf(
        &self,
        evidence: &Evidence<'_>,
        token: &str,
        peer: Option<Caller>,
        now: u64,
    ) -> Result<Caller, Denied> {
        let gateway = peer
            .filter(|peer| {
                let own = self.access.clients.get(&peer.client);
                own.is_some_and(|own| own.gateway)
            })
            .ok_or(Denied::NotGateway)?;
        let said = self.by_token(evidence, token, now)?;
        let blocked = self.entry(&said.client).is_some_and(|own| own.blocked);
        if blocked {
            return Err(Denied::Blocked);
        }
        let tenant = match (&gateway.tenant, said.tenant) {
            (Some(own), Some(said)) if *own != said => return Err(Denied::Tenant),
            (own, said) => said.or_else(|| own.clone()),
        };
        let mut scopes = said.scopes;
        if !gateway.scopes.is_empty() {
            scopes.retain(|scope| gateway.has_scope(scope));
        }
        Ok(Caller {
            client: gateway.client,
            tenant,
            user: Some(said.user.unwrap_or(said.client)),
            scopes,
            groups: said.groups,
            how: How::Gateway,
            expires: said.expires.into_iter().chain(gateway.expires).min(),
        })
    }
}
