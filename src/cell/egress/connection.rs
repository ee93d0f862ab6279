//! One connection of a cell: judged, made and carried.

use super::address::special;
use super::inspect::{Decision, Inspector};
use super::lookup::{self, Family};
use super::news::Reason;
use super::proxy;
use super::refusals::Refusal;
use super::relay::Shared;
use super::rules::Target;
use super::splice;
use rustix::net::sockopt;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// For all addresses of one host.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence on both sides, in seconds, after which a connection ends.
const IDLE: i64 = 2 * 60 * 60;

/// The end of a connection that the client hears as a refusal.
pub(super) fn reset(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).ok();
}

impl Shared {
    /// One connection, from its first byte to its last.
    pub(super) fn connect(&self, client: &TcpStream) {
        let Ok(meant) = client.local_addr() else {
            return;
        };
        self.connect_to(
            client,
            SocketAddr::new(meant.ip().to_canonical(), meant.port()),
        );
    }

    /// The same, when the client's socket does not say what it meant.
    pub(super) fn connect_to(&self, client: &TcpStream, meant: SocketAddr) {
        let port = meant.port();
        let (Ok(target) | Err(target)) = self.allows(meant);
        self.pass(client, &target, port);
    }

    /// What an address stands for, as an error when it is not allowed.
    pub(super) fn allows(&self, meant: SocketAddr) -> Result<Target, Target> {
        let (address, port) = (meant.ip(), meant.port());
        let target = match self.book.lock() {
            Ok(book) => book.target(address),
            Err(_) => return Err(Target::Address(address)),
        };
        match self.rules.allow(&target, port) {
            true => Ok(target),
            // Names that the host has for addresses; in a network of its own a cell does not see them.
            false => match self
                .rules
                .names(port)
                .find(|name| lookup::is_at(name, address))
            {
                Some(name) => Ok(Target::Name(name.to_owned())),
                None => Err(target),
            },
        }
    }

    /// Whether the supervisor of a cell may connect it to us; if not, that is told.
    pub(super) fn expects(&self, meant: SocketAddr) -> bool {
        // Any name server is ours, and so is the proxy.
        if meant.port() == lookup::PORT || meant == proxy::PLACE {
            return true;
        }
        match self.allows(meant) {
            Ok(_) => true,
            Err(target) => {
                self.tell(&not_listed(&target, meant.port()), &target, meant.port());
                false
            }
        }
    }

    /// From the first byte to the last, and a refusal is told.
    pub(super) fn pass(&self, client: &TcpStream, target: &Target, port: u16) {
        if let Err(refused) = self.relay(client, target, port) {
            reset(client);
            if let Some(refused) = refused {
                self.tell(&refused, target, port);
            }
        }
    }

    pub(super) fn tell(&self, refused: &Refusal, target: &Target, port: u16) {
        let rule = self.rules.label(target, port).unwrap_or_default();
        let Refusal { reason, host, text } = refused;
        self.refusals.tell(*reason, &rule, host, text);
    }

    /// The error is what the operator should hear; none for the ends that connections have.
    fn relay(&self, client: &TcpStream, target: &Target, port: u16) -> Result<(), Option<Refusal>> {
        if !self.rules.allow(target, port) {
            return Err(Some(not_listed(target, port)));
        }
        client.set_nodelay(true).ok();
        let mut inspector = match target {
            Target::Name(name) => Some(Inspector::new(name, port)),
            // The operator wrote down an address: whatever answers there is meant.
            Target::Address(_) => None,
        };
        if let Some(inspect) = &mut inspector
            && inspect.settle(client)?
        {
            inspector = None;
        }
        let host = self.reach(target, port)?;
        host.set_nodelay(true).ok();
        let rule = self.rules.label(target, port).unwrap_or_default();
        let meter = self.refusals.meter(&rule);
        meter.connections.fetch_add(1, Ordering::Relaxed);
        let mut refused = None;
        let mut look = inspector.map(|mut inspect| {
            let refused = &mut refused;
            move |client: &TcpStream| match inspect.look(client) {
                Decision::Wait => None,
                Decision::Pass => Some(true),
                Decision::Refuse(reason) => {
                    *refused = reason;
                    Some(false)
                }
            }
        });
        let inspect = look.as_mut().map(|look| -> splice::Inspect<'_> { look });
        let carried = splice::carry(client, &host, IDLE, inspect, (&meter.sent, &meter.received));
        drop(look);
        carried.map_err(|_| {
            // What one side hears as an error the other does too.
            reset(&host);
            refused
        })
    }

    /// Looks up, checks, and connects to what was checked.
    pub(super) fn reach(&self, target: &Target, port: u16) -> Result<TcpStream, Refusal> {
        let host = shown(target, port);
        let deadline = Instant::now() + CONNECT;
        let name = match target {
            Target::Address(address) => {
                let addresses = self.rules.same(*address, port);
                return self.reach_any(&host, &addresses, port, deadline);
            }
            Target::Name(name) => name,
        };
        let nowhere = |why: &dyn std::fmt::Display| Refusal {
            reason: Reason::Unreachable,
            host: host.clone(),
            text: format!("cannot look up {host}: {why}"),
        };
        // IPv6 only where IPv4 leads nowhere: most names have both, and one question is faster.
        let mut last = nowhere(&"there is no such name");
        for family in [Family::Four, Family::Six] {
            match lookup::resolve(name, family) {
                Ok(addresses) if addresses.is_empty() => {}
                Ok(addresses) => match self.reach_any(&host, &addresses, port, deadline) {
                    Ok(stream) => return Ok(stream),
                    Err(refused) => last = refused,
                },
                // Why the other family leads nowhere says more.
                Err(_) if last.reason.is_denial() => {}
                Err(error) => last = nowhere(&error),
            }
        }
        Err(last)
    }

    fn reach_any(
        &self,
        host: &str,
        addresses: &[IpAddr],
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, Refusal> {
        let refuse = |reason, text| {
            let host = host.to_owned();
            Refusal { reason, host, text }
        };
        let mut last = refuse(
            Reason::Unreachable,
            format!("cannot connect to {host}: it took too long"),
        );
        for address in addresses {
            let place = SocketAddr::new(*address, port);
            if let Some(what) = self.closed(*address, port) {
                let text = format!(
                    "denied: connect to {host}: it is at {address}, {what}: allow it with --allow-host {place}"
                );
                last = refuse(Reason::Private, text);
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&place, left) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    let text = format!("cannot connect to {host} at {address}: {error}");
                    last = refuse(Reason::Unreachable, text);
                }
            }
        }
        Err(last)
    }

    /// Why an address may not be connected to, unless it is listed.
    fn closed(&self, address: IpAddr, port: u16) -> Option<&'static str> {
        let what = special(address)?;
        let listed = self.rules.lists(address, port)
            || self.private.iter().any(|range| range.holds(address));
        (!listed).then_some(what)
    }
}

/// The name is known but not the port, or the address is not.
pub(super) fn not_listed(target: &Target, port: u16) -> Refusal {
    let host = shown(target, port);
    let reason = match target {
        Target::Name(_) => Reason::Port,
        Target::Address(_) => Reason::Address,
    };
    let text = format!("denied: connect to {host}: allow it with --allow-host {host}");
    Refusal { reason, host, text }
}

pub(super) fn shown(target: &Target, port: u16) -> String {
    match target {
        Target::Name(name) => format!("{name}:{port}"),
        Target::Address(address) => SocketAddr::new(*address, port).to_string(),
    }
}
