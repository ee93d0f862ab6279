//! The parsers of what servers, hosts and name servers send to the relay, as the fuzzer drives them.

use super::rules::{Book, Rules};
use super::{lookup, stub, watch};
use crate::config::EgressRule;
use std::net::{IpAddr, SocketAddr};

pub use super::greeting::{Greeting, LIMIT, read as greeting};

/// The cell's name server: its answer to one message.
#[must_use]
pub fn name_server(message: &[u8], rules: &[EgressRule]) -> Option<Vec<u8>> {
    let answer = stub::answer(message, &mut Book::new(Rules::new(rules)))?;
    Some(answer.bytes)
}

/// The relay's question for a name of which the addresses of IPv4 are wanted.
#[must_use]
pub fn question(name: &str) -> Vec<u8> {
    lookup::query([0x12, 0x34], name, lookup::TYPE_A)
}

/// The addresses that an answer to such a question holds.
#[must_use]
pub fn addresses(question: &[u8], answer: &[u8]) -> Vec<IpAddr> {
    match lookup::judge(question, answer, lookup::TYPE_A) {
        lookup::Verdict::Found(addresses) => addresses,
        _ => Vec::new(),
    }
}

/// Where a packet of the cell goes, when it begins a connection or is a datagram.
#[must_use]
pub fn attempt(packet: &[u8]) -> Option<SocketAddr> {
    watch::read(packet).map(|attempt| attempt.to)
}
