//! How often, how much at one time, and how much in one day each client may ask. Pure: the hour is
//! an argument, and what waits is a ticket that the listener keeps.
//!
//! ```text
//!            ┌── Refuse (rate, quota, queue full) ──► answered, with the time after which to come again
//! admit ─────┼── Run(permit) ───────────────────────► runs ── release ──┐
//!            └── Wait(ticket) ── leave: it went away                    │
//!                     ▲                                                 ▼
//!                     └──────────────── next: whose turn it is, with a permit
//! ```
//! Places are given in turn among the clients that wait, not among their requests: whoever asks a
//! hundred times waits a hundred turns. When the queue is full, the client with most in it loses its last.
//! On stdin and stdout there is one client, and places go round the tools that it calls. Whoever would wait
//! longer than anybody may, by what was learnt of those ahead, is turned away at once.

mod bucket;
mod pace;
mod rules;
#[cfg(test)]
mod tests;

pub(super) use self::bucket::Bucket;
use self::pace::Pace;
use self::rules::{Client, Rules, Tool};
use super::names::fold;
use super::rules::{LIMITS_CONCURRENCY, LIMITS_QUOTA, LIMITS_RATE, code};
use super::{Refusal, Shape};
use crate::config::Config;
use crate::identity::{Caller, How, Principal};
use crate::mcp::{Capability, Subject, method};
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Clients that are told apart; those beyond share one account. A bucket takes about 300 bytes.
const MOST_ACCOUNTS: usize = 16 * 1024;
/// Tools of one client that are told apart; those beyond share one bucket.
const MOST_TOOLS: usize = 256;
/// Least time between two searches for accounts that can be forgotten.
const SWEEP_PAUSE: u64 = 1_000_000;
/// Tools whose pace is known.
const MOST_PACES: usize = 256;
const DAY: u64 = 24 * 3600;
/// Nobody knows when a place comes free.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// The hour, twice: one clock that only goes forward, for rates, and the wall clock, for days.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Microseconds since any moment.
    pub monotonic: u64,
    /// Seconds since 1970, UTC.
    pub unix: u64,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Admission {
    /// It runs; give the permit back when it is answered.
    Run(Permit),
    /// It waits until [`Limiter::next`] names it. `displaced` waited too and does not any more: answer it
    /// with [`Limiter::crowded`].
    Wait {
        ticket: Ticket,
        displaced: Option<Ticket>,
    },
    /// It is answered with this.
    Refuse(Box<Refusal>),
}

/// A place that is taken. It must come back ([`Limiter::release`]), or it stays taken.
#[derive(Debug)]
#[must_use = "a permit that is not given back is a place that stays taken"]
pub struct Permit(Option<usize>);

/// A request that waits. Tickets are used again after they are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(usize);

/// Counts for one server. The listener has one, whatever the number of connections.
#[derive(Debug)]
pub struct Limiter {
    rules: Rules,
    accounts: HashMap<Principal, Account>,
    running: Slab<Request>,
    /// Requests that run, by folded name of the tool; only those that are limited.
    tools: HashMap<Box<str>, u32>,
    waiting: Slab<Request>,
    /// Clients that have something waiting; the first has the next turn.
    turns: VecDeque<Principal>,
    swept: u64,
    /// Of all requests, and by folded name of the tools that are limited.
    pace: Pace,
    paces: HashMap<Box<str>, Pace>,
    /// The latest hour that anybody has said.
    now: u64,
}

#[derive(Debug, Default)]
struct Account {
    bucket: Bucket,
    tools: HashMap<Box<str>, Bucket>,
    day: u64,
    used: u64,
    running: u32,
    /// Indices of `waiting`, the oldest first.
    queue: VecDeque<usize>,
}

#[derive(Debug, Clone)]
struct Request {
    account: Principal,
    /// Folded; only where the number of calls at one time is limited.
    tool: Option<Box<str>>,
    tool_places: u32,
    own_places: u32,
    /// When it began to run.
    since: u64,
}

impl Limiter {
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            rules: Rules::new(config),
            accounts: HashMap::new(),
            running: Slab::new(),
            tools: HashMap::new(),
            waiting: Slab::new(),
            turns: VecDeque::new(),
            swept: 0,
            pace: Pace::default(),
            paces: HashMap::new(),
            now: 0,
        }
    }

    /// Takes the limits of a new configuration; what was counted stays counted.
    pub fn reload(&mut self, config: &Config) {
        self.rules = Rules::new(config);
    }

    /// True when nothing is limited.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.rules.off
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that run and count.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// What becomes of a request. `continued` is a further round of a call that was counted already
    /// (MCP 2026-07-28, multi round-trip requests): it needs a place and nothing else.
    pub fn admit(
        &mut self,
        caller: &Caller,
        subject: &Subject,
        continued: bool,
        clock: Clock,
    ) -> Admission {
        if self.rules.off || is_free(&subject.method) {
            return Admission::Run(Permit(None));
        }
        let client = self.rules.client(&caller.client);
        let account = self.open(caller.principal(), clock);
        self.admit_as((&account, &account), client, subject, continued, clock)
    }

    /// The same on stdin and stdout, where there is one client: places go round what it asks for.
    pub fn admit_alone(&mut self, subject: &Subject, clock: Clock) -> Admission {
        if self.rules.off || is_free(&subject.method) {
            return Admission::Run(Permit(None));
        }
        let named = |name: String| Principal {
            tenant: None,
            how: How::Loopback,
            client: name,
            user: None,
        };
        let turn = match (subject.capability, subject.name.as_deref()) {
            (Capability::Tool, Some(name)) => fold(name).into_owned(),
            _ => subject.method.to_string(),
        };
        let turn = self.open(named(turn), clock);
        let account = self.open(named(String::new()), clock);
        let client = self.rules.client("");
        self.admit_as((&account, &turn), client, subject, false, clock)
    }

    /// `account` pays, and `turn` is whose turn it is.
    fn admit_as(
        &mut self,
        (payer, turn): (&Principal, &Principal),
        client: Client,
        subject: &Subject,
        continued: bool,
        clock: Clock,
    ) -> Admission {
        self.now = self.now.max(clock.monotonic);
        let tool = match (subject.capability, subject.name.as_deref()) {
            (Capability::Tool, Some(name)) => Some(fold(name)),
            _ => None,
        };
        let limits = tool
            .as_deref()
            .map_or(Tool::default(), |name| self.rules.tool(name));
        let Some(account) = self.accounts.get_mut(payer) else {
            return Admission::Run(Permit(None));
        };
        if !continued
            && let Err(refusal) = account.afford(client, limits, tool.as_deref(), subject, clock)
        {
            return Admission::Refuse(Box::new(refusal));
        }
        let request = Request {
            account: turn.clone(),
            tool: limits.places.and(tool.as_deref().map(Into::into)),
            tool_places: limits.places.unwrap_or(u32::MAX),
            own_places: client.places.unwrap_or(u32::MAX),
            since: 0,
        };
        let admission = self.place(request, subject);
        if !continued
            && !matches!(admission, Admission::Refuse(_))
            && let Some(account) = self.accounts.get_mut(payer)
        {
            account.pay(client, limits, tool.as_deref(), clock);
        }
        admission
    }

    /// A request was answered now, or went away while it ran.
    pub fn release_at(&mut self, permit: Permit, now: u64) {
        self.now = self.now.max(now);
        if let Some(request) = permit.0.and_then(|at| self.running.get(at)) {
            let took = self.now.saturating_sub(request.since);
            self.pace.learn(took);
            if let Some(tool) = &request.tool
                && (self.paces.len() < MOST_PACES || self.paces.contains_key(tool))
            {
                self.paces.entry(tool.clone()).or_default().learn(took);
            }
        }
        self.release(permit);
    }

    /// A request was answered, or went away while it ran; nothing is learnt of how long it took.
    pub fn release(&mut self, permit: Permit) {
        let Some(request) = permit.0.and_then(|at| self.running.try_remove(at)) else {
            return;
        };
        if let Some(account) = self.accounts.get_mut(&request.account) {
            account.running = account.running.saturating_sub(1);
        }
        if let Some(tool) = &request.tool
            && let Some(count) = self.tools.get_mut(tool)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.tools.remove(tool);
            }
        }
    }

    /// A request that waited went away. False when it did not wait any more.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(request) = self.waiting.try_remove(ticket.0) else {
            return false;
        };
        if let Some(account) = self.accounts.get_mut(&request.account) {
            account.queue.retain(|at| *at != ticket.0);
            if account.queue.is_empty() {
                self.turns.retain(|other| *other != request.account);
            }
        }
        true
    }

    /// The next request that may run; to be asked after each [`Self::release`] until it says `None`.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is no iterator: what it says depends on what is released in between"
    )]
    pub fn next(&mut self) -> Option<(Ticket, Permit)> {
        if !self.has_place() {
            return None;
        }
        for _ in 0..self.turns.len() {
            let principal = self.turns.pop_front()?;
            let Some(account) = self.accounts.get(&principal) else {
                continue;
            };
            let ready = account.queue.iter().copied().find(|at| {
                let request = self.waiting.get(*at);
                request.is_some_and(|request| self.fits(request))
            });
            let Some(at) = ready else {
                self.turns.push_back(principal);
                continue;
            };
            if let Some(account) = self.accounts.get_mut(&principal) {
                account.queue.retain(|other| *other != at);
                if !account.queue.is_empty() {
                    self.turns.push_back(principal);
                }
            }
            let request = self.waiting.try_remove(at)?;
            return Some((Ticket(at), self.start(request)));
        }
        None
    }

    /// The answer to a request that waited and was displaced.
    #[must_use]
    pub fn crowded(subject: &Subject) -> Refusal {
        refusal(
            LIMITS_CONCURRENCY,
            subject,
            "Too many requests run and wait already",
            COME_AGAIN,
        )
    }

    fn turned_away(subject: &Subject, wait: Duration) -> Refusal {
        let what = "Too many requests wait already for this one to have its turn in time";
        refusal(LIMITS_CONCURRENCY, subject, what, wait)
    }

    /// After how long it is worth to come again, when there is no use in waiting.
    fn in_vain(&self, request: &Request) -> Option<Duration> {
        let wait = match (&request.tool, self.rules.places) {
            (_, Some(places)) if !self.has_place() => self.pace.wait(self.waiting.len(), places),
            (Some(tool), _) => {
                let same = |(_, other): &(usize, &Request)| other.tool.as_ref() == Some(tool);
                let ahead = self.waiting.iter().filter(same).count();
                self.paces.get(tool)?.wait(ahead, request.tool_places)
            }
            _ => None,
        }?;
        let over = wait.checked_sub(self.rules.wait)?;
        (!over.is_zero()).then(|| over.max(COME_AGAIN))
    }

    fn has_place(&self) -> bool {
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        self.rules.places.is_none_or(|places| running < places)
    }

    /// True when nothing but a place for all is needed.
    fn fits(&self, request: &Request) -> bool {
        let own = self.accounts.get(&request.account);
        let own = own.map_or(0, |account| account.running);
        let tool = request.tool.as_ref().and_then(|tool| self.tools.get(tool));
        own < request.own_places && tool.copied().unwrap_or(0) < request.tool_places
    }

    fn place(&mut self, request: Request, subject: &Subject) -> Admission {
        if is_long(&subject.method) {
            return Admission::Run(Permit(None));
        }
        let account = self.accounts.get(&request.account);
        // Nobody overtakes what waits of the same client.
        let first = account.is_none_or(|account| account.queue.is_empty());
        if first && self.has_place() && self.fits(&request) {
            return Admission::Run(self.start(request));
        }
        if let Some(wait) = self.in_vain(&request) {
            return Admission::Refuse(Box::new(Self::turned_away(subject, wait)));
        }
        let displaced = match self.waiting.len() < self.rules.queue {
            true => None,
            false => match self.displace(&request.account) {
                Some(ticket) => Some(ticket),
                None => return Admission::Refuse(Box::new(Self::crowded(subject))),
            },
        };
        let principal = request.account.clone();
        let at = self.waiting.insert(request);
        if let Some(account) = self.accounts.get_mut(&principal) {
            if account.queue.is_empty() {
                self.turns.push_back(principal);
            }
            account.queue.push_back(at);
        }
        Admission::Wait {
            ticket: Ticket(at),
            displaced,
        }
    }

    /// Takes the youngest request out of the longest queue, if that is longer than the newcomer's would be.
    fn displace(&mut self, newcomer: &Principal) -> Option<Ticket> {
        let length = |principal: &Principal| {
            let account = self.accounts.get(principal);
            account.map_or(0, |account| account.queue.len())
        };
        let longest = self.turns.iter().max_by_key(|other| length(other))?;
        if length(longest) <= length(newcomer) + 1 {
            return None;
        }
        let account = self.accounts.get(longest)?;
        let ticket = Ticket(*account.queue.back()?);
        self.leave(ticket).then_some(ticket)
    }

    fn start(&mut self, mut request: Request) -> Permit {
        request.since = self.now;
        if let Some(account) = self.accounts.get_mut(&request.account) {
            account.running = account.running.saturating_add(1);
        }
        if let Some(tool) = &request.tool {
            *self.tools.entry(tool.clone()).or_default() += 1;
        }
        Permit(Some(self.running.insert(request)))
    }

    /// The account of a caller, or the one that those beyond the cap share.
    fn open(&mut self, principal: Principal, clock: Clock) -> Principal {
        if !self.accounts.contains_key(&principal) && self.accounts.len() >= MOST_ACCOUNTS {
            self.sweep(clock);
            if self.accounts.len() >= MOST_ACCOUNTS {
                let others = Principal {
                    tenant: None,
                    how: How::Loopback,
                    client: "*".to_owned(),
                    user: None,
                };
                self.accounts.entry(others.clone()).or_default();
                return others;
            }
        }
        self.accounts.entry(principal.clone()).or_default();
        principal
    }

    /// Forgets the accounts that are as good as new.
    fn sweep(&mut self, clock: Clock) {
        if clock.monotonic.saturating_sub(self.swept) < SWEEP_PAUSE {
            return;
        }
        self.swept = clock.monotonic;
        let today = clock.unix / DAY;
        self.accounts.retain(|_, account| {
            account.running > 0
                || !account.queue.is_empty()
                || !account.bucket.is_full(clock.monotonic)
                || account
                    .tools
                    .values()
                    .any(|bucket| !bucket.is_full(clock.monotonic))
                || (account.day == today && account.used > 0)
        });
    }
}

impl Account {
    /// Whether one more request fits into rates and quota; takes nothing.
    fn afford(
        &self,
        client: Client,
        limits: Tool,
        tool: Option<&str>,
        subject: &Subject,
        clock: Clock,
    ) -> Result<(), Refusal> {
        let now = clock.monotonic;
        if let Some(wait) = client.rate.and_then(|rate| self.bucket.wait(rate, now)) {
            return Err(refusal(LIMITS_RATE, subject, "Too many requests", wait));
        }
        if let (Some(rate), Some(tool)) = (limits.rate, tool)
            && let Some(wait) = self.tool(tool).wait(rate, now)
        {
            let what = "Too many calls of this tool";
            return Err(refusal(LIMITS_RATE, subject, what, wait));
        }
        let used = match self.day == clock.unix / DAY {
            true => self.used,
            false => 0,
        };
        if client.quota.is_some_and(|quota| used >= quota) {
            let wait = Duration::from_secs(DAY - clock.unix % DAY);
            let what = "The requests of this day are used up";
            return Err(refusal(LIMITS_QUOTA, subject, what, wait));
        }
        Ok(())
    }

    fn pay(&mut self, client: Client, limits: Tool, tool: Option<&str>, clock: Clock) {
        let now = clock.monotonic;
        if let Some(rate) = client.rate {
            self.bucket.take(rate, now);
        }
        if let (Some(rate), Some(tool)) = (limits.rate, tool) {
            if !self.tools.contains_key(tool) && self.tools.len() >= MOST_TOOLS {
                self.tools.retain(|_, bucket| !bucket.is_full(now));
            }
            let key = self.key(tool).into();
            self.tools.entry(key).or_default().take(rate, now);
        }
        if client.quota.is_some() {
            let today = clock.unix / DAY;
            if self.day != today {
                (self.day, self.used) = (today, 0);
            }
            self.used = self.used.saturating_add(1);
        }
    }

    fn tool(&self, tool: &str) -> Bucket {
        self.tools.get(self.key(tool)).copied().unwrap_or_default()
    }

    /// The bucket that a tool has; those beyond the cap share that without a name.
    fn key<'t>(&self, tool: &'t str) -> &'t str {
        match self.tools.contains_key(tool) || self.tools.len() < MOST_TOOLS {
            true => tool,
            false => "",
        }
    }
}

/// What opens a session or keeps it alive costs nothing.
fn is_free(method: &str) -> bool {
    matches!(
        method,
        method::INITIALIZE | method::SERVER_DISCOVER | method::PING
    )
}

/// Answered when something happens, perhaps after days: counted, but it takes no place.
fn is_long(method: &str) -> bool {
    matches!(method, method::SUBSCRIPTIONS_LISTEN | method::TASKS_RESULT)
}

fn refusal(rule: &'static str, subject: &Subject, what: &str, wait: Duration) -> Refusal {
    let ms = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    let text = format!(
        "{what} (rule {rule}); nothing was done, try again in {} s.",
        ms.div_ceil(1000)
    );
    let mut refusal = Refusal::new(rule, Some(subject), text);
    if refusal.shape != Shape::ToolResult {
        refusal.shape = Shape::Error(code::RATE);
    }
    refusal.retry_after_ms = Some(ms);
    refusal
}
