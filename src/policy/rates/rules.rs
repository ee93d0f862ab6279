//! The limits of one configuration, looked up by client and by tool.

use crate::config::{Config, Rate};
use crate::policy::names::{Glob, fold};
use std::collections::HashMap;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Rules {
    all: Client,
    clients: HashMap<Box<str>, Client>,
    tools: Box<[(Glob, Tool)]>,
    /// Requests of all clients at one time.
    pub(super) places: Option<u32>,
    /// Requests that wait for a place.
    pub(super) queue: usize,
    /// The longest that one waits.
    pub(super) wait: Duration,
    /// Nothing is limited.
    pub(super) off: bool,
}

/// What one client may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) rate: Option<Rate>,
    pub(super) places: Option<u32>,
    pub(super) quota: Option<u64>,
}

/// What is allowed of one tool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tool {
    /// By each client.
    pub(super) rate: Option<Rate>,
    /// By all clients together.
    pub(super) places: Option<u32>,
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        let limits = &config.limits;
        let mut all = Client {
            rate: limits.rate,
            places: None,
            quota: limits.quota,
        };
        let over = |base: Client, client: &crate::config::Client| Client {
            rate: client.rate.or(base.rate),
            places: client.concurrency.or(base.places),
            quota: client.quota.or(base.quota),
        };
        if let Some(everybody) = config.access.clients.get("*") {
            all = over(all, everybody);
        }
        let clients: HashMap<Box<str>, Client> = config
            .access
            .clients
            .iter()
            .filter(|(name, _)| *name != "*")
            .map(|(name, client)| (name.as_str().into(), over(all, client)))
            .collect();
        let mut tools: Vec<(&str, Tool)> = config
            .tools
            .named
            .iter()
            .map(|(name, rule)| (name.as_str(), rule))
            .chain([("*", &config.tools.default)])
            .filter(|(_, rule)| rule.rate.is_some() || rule.concurrency.is_some())
            .map(|(name, rule)| {
                let tool = Tool {
                    rate: rule.rate,
                    places: rule.concurrency,
                };
                (name, tool)
            })
            .collect();
        // A name before a pattern, the longer before the shorter.
        tools.sort_by_key(|(name, _)| (name.contains('*'), std::cmp::Reverse(name.len())));
        let free = Client::default();
        let off = limits.concurrency.is_none()
            && tools.is_empty()
            && all == free
            && clients.values().all(|client| *client == free);
        Self {
            all,
            clients,
            tools: tools
                .into_iter()
                .map(|(name, tool)| (Glob::new(&fold(name)), tool))
                .collect(),
            places: limits.concurrency,
            queue: usize::try_from(limits.queue).unwrap_or(usize::MAX),
            wait: limits.wait,
            off,
        }
    }

    pub(super) fn client(&self, name: &str) -> Client {
        self.clients.get(name).copied().unwrap_or(self.all)
    }

    /// Limits of a tool by its folded name: another spelling is no way around them.
    pub(super) fn tool(&self, folded: &str) -> Tool {
        let matching = || {
            self.tools
                .iter()
                .filter(|(glob, _)| glob.matches(folded))
                .map(|(_, tool)| tool)
        };
        Tool {
            rate: matching().find_map(|tool| tool.rate),
            places: matching().find_map(|tool| tool.places),
        }
    }
}
