//! What keeps a server and whoever calls it from harming each other: breakers, the same call again and
//! again, budgets, results that are too large, and the last good answer in place of none.
//!
//! Pure: the hour is an argument. One [`Guards`] serves all sessions of a server, because what fails, or
//! is used up, is the same for all of them.
//!
//! ```text
//! request ── admit ──┬── Pass ──▶ asked ──▶ weigh: as it is, cut, or refused ──▶ finish
//!                    ├── Answer: the last good one
//!                    └── Refuse
//! ```

mod breaker;
mod canon;
mod ledger;
mod repeats;
mod retry;
mod rules;
mod stale;
#[cfg(test)]
mod tests;
mod tokens;
mod trim;
mod who;
mod words;

pub use breaker::{Circuit, Ending};
pub use ledger::Alert;
pub use retry::RetryBudget;
pub use who::Party;

use self::breaker::{Breaker, Through};
use self::ledger::{Ledger, Purse};
use self::repeats::{Call, Repeats};
use self::rules::Rules;
use self::stale::Stale;
use self::trim::Size;
use self::who::Account;
use super::{Refusal, names::fold};
use crate::config::{Config, Overlong, RepeatAction};
use crate::identity::Principal;
use crate::mcp::{Capability, Envelope, Kind, Subject, method, parse};
use std::collections::HashMap;
use std::time::Duration;

/// Tools that have a breaker of their own; those beyond share one.
const TOOLS: usize = 256;
/// News that are kept until somebody takes them.
const NEWS: usize = 64;

/// The guards of one server.
#[derive(Debug)]
pub struct Guards {
    rules: Rules,
    server: Breaker,
    tools: HashMap<Box<str>, Breaker>,
    ledger: Ledger,
    repeats: Repeats,
    stale: Stale,
    news: Vec<News>,
    /// A breaker has changed its state since somebody asked last.
    moved: bool,
    sessions: u64,
}

/// Somebody asks for something.
#[derive(Debug)]
pub struct Asking<'a> {
    pub subject: &'a Subject,
    /// The arguments of a tool call, as they are written.
    pub arguments: Option<&'a [u8]>,
    pub party: Party,
    /// `None` on stdin and stdout.
    pub client: Option<Principal>,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Ruling {
    Pass(Box<Pass>),
    /// It is answered with this result, which was given before.
    Answer(Vec<u8>),
    Refuse(Box<Refusal>),
}

/// A request that was let through; its end has to be told ([`Guards::finish`]).
#[derive(Debug)]
pub struct Pass {
    server: Option<Through>,
    tool: Option<(Box<str>, Through)>,
    purses: Vec<Purse>,
    /// Where its answer is compared or kept.
    call: Option<Call>,
    name: Option<Box<str>>,
}

/// What becomes of a result.
#[derive(Debug)]
pub enum Weight {
    AsItIs,
    /// This line goes on instead.
    Cut(Vec<u8>),
    Refuse(Box<Refusal>),
}

/// Something that the operator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A breaker changed its state; `None` for that of the whole server.
    Breaker {
        tool: Option<Box<str>>,
        circuit: Circuit,
    },
    /// Tokens are used up faster than the operator wants to know of.
    Alert(Alert),
    /// A call was made too often with the same answer, and may go on.
    Again { tool: Box<str>, times: u32 },
    /// An answer was given that was given before.
    Cached { tool: Box<str> },
    /// A result was cut.
    Cut { from: u64, to: u64, tokens: u64 },
    /// A result, in bytes and estimated tokens.
    Result { bytes: u64, tokens: u64 },
}

impl Guards {
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            rules: Rules::new(config),
            server: Breaker::default(),
            tools: HashMap::new(),
            ledger: Ledger::default(),
            repeats: Repeats::default(),
            stale: Stale::default(),
            news: Vec::new(),
            moved: false,
            sessions: 0,
        }
    }

    /// False when nothing is guarded, so that nobody has to be asked.
    #[must_use]
    pub fn wanted(config: &Config) -> bool {
        Rules::wanted(config)
    }

    /// Takes the rules of a new configuration; what was counted stays counted, and what was answered under
    /// the old ones is not given again.
    pub fn reload(&mut self, config: &Config) {
        self.rules = Rules::new(config);
        self.stale.clear();
        if self.rules.breaker.is_none() {
            self.server = Breaker::default();
            self.tools.clear();
            self.moved = true;
        }
    }

    /// The number of a new session.
    pub fn open_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// A session is over.
    pub fn close_session(&mut self, session: u64) {
        self.ledger.close(session);
    }

    /// Another policy holds: what was answered under the last one is not given again.
    pub fn forget_answers(&mut self) {
        self.stale.clear();
    }

    /// True for what can fail, cost or repeat itself: calls, reads and prompts. Lists, the handshake and
    /// what keeps a session alive always pass.
    #[must_use]
    pub fn concerns(subject: &Subject) -> bool {
        match subject.capability {
            Capability::Tool => true,
            _ => matches!(
                &*subject.method,
                method::RESOURCES_READ
                    | method::PROMPTS_GET
                    | method::COMPLETION_COMPLETE
                    | method::TASKS_RESULT
            ),
        }
    }

    /// What becomes of a request that policy lets through. `now` is in microseconds since any moment.
    pub fn admit(&mut self, asking: &Asking<'_>, now: u64) -> Ruling {
        let subject = asking.subject;
        let name = match subject.capability {
            Capability::Tool => subject.name.as_deref(),
            _ => None,
        };
        let purses = self.purses(asking, name);
        for purse in &purses {
            if let Some((spent, wait)) = self.ledger.spent(purse, now) {
                let refusal = words::spent(subject, purse.account.scope(), spent, wait);
                return Ruling::Refuse(Box::new(refusal));
            }
        }
        let call = name.and_then(|name| self.call(asking, name));
        if let (Some(rule), Some(name), Some(call)) = (self.rules.repeats, name, &call)
            && self.rules.tool(name, |rule| rule.repeats) != Some(false)
            && let Some(again) = self.repeats.ask(&rule, call, now)
        {
            if rule.action == RepeatAction::Refuse {
                return Ruling::Refuse(Box::new(words::again(subject, again)));
            }
            let times = again.times;
            self.tell(News::Again {
                tool: name.into(),
                times,
            });
        }
        let (server, tool) = match self.through(name, now) {
            Ok(through) => through,
            Err((of_tool, wait)) => {
                if let Some(result) = self.given_before(name, call.as_ref(), now) {
                    return Ruling::Answer(result);
                }
                let other = name.and_then(|name| self.alternative(name));
                let refusal = words::open(subject, of_tool, wait, other.as_deref());
                return Ruling::Refuse(Box::new(refusal));
            }
        };
        let arguments = asking.arguments.unwrap_or_default();
        let bytes = arguments.len() as u64;
        let weight = match purses.is_empty() {
            true => 0,
            false => tokens::of_text(arguments),
        };
        self.draw(&purses, (1, bytes, weight), now);
        Ruling::Pass(Box::new(Pass {
            server,
            tool,
            purses,
            call,
            name: name.map(Into::into),
        }))
    }

    /// The server cannot be asked at all: what was answered to the same call before, if that may be given.
    pub fn answer_for(&mut self, asking: &Asking<'_>, now: u64) -> Option<Vec<u8>> {
        let name = match asking.subject.capability {
            Capability::Tool => asking.subject.name.as_deref()?,
            _ => return None,
        };
        let call = self.call(asking, name)?;
        self.given_before(Some(name), Some(&call), now)
    }

    /// What a model may call in place of this tool, says the operator.
    #[must_use]
    pub fn alternative(&self, tool: &str) -> Option<String> {
        self.rules.tool(tool, |rule| rule.alternative.clone())
    }

    /// What becomes of an answer; `line` is what policy made of it. A result is charged here.
    pub fn weigh(&mut self, pass: &Pass, subject: &Subject, line: &[u8], now: u64) -> Weight {
        let weighs = self.rules.sized || self.rules.cached || self.rules.repeats.is_some();
        if pass.purses.is_empty() && !weighs {
            return Weight::AsItIs;
        }
        let Ok(envelope) = parse(line, crate::mcp::Direction::ToClient) else {
            return Weight::AsItIs;
        };
        let sum = || match &envelope.kind {
            Kind::Result { result, .. } => canon::sum_of_result(result.text),
            Kind::Error { error, .. } => canon::sum(error.text),
            _ => canon::Sum::default(),
        };
        if let (Some(rule), Some(call)) = (self.rules.repeats, &pass.call) {
            self.repeats.answered(&rule, call.clone(), sum(), now);
        }
        let Kind::Result { result, .. } = &envelope.kind else {
            return Weight::AsItIs;
        };
        let weight = self.measure(pass, subject, &envelope, now);
        let kept = match &weight {
            Weight::AsItIs => Some(result.text),
            Weight::Cut(_) | Weight::Refuse(_) => None,
        };
        if let (Some(call), Some(name), Some(result)) = (&pass.call, &pass.name, kept)
            && self.rules.cached
            && self.rules.tool(name, |rule| rule.cached).is_some()
        {
            self.stale.keep(call.clone(), result, now);
        }
        weight
    }

    /// How a request ended.
    pub fn finish(&mut self, pass: &mut Pass, ending: Ending, now: u64) {
        let Some(rule) = self.rules.breaker else {
            return;
        };
        // What a tool says of itself is no fault of the server: it was there to say it.
        let (of_server, of_tool) = match ending {
            Ending::Success => (Some(false), Some(false)),
            Ending::Fault => (Some(false), Some(true)),
            Ending::Lost => (Some(true), Some(true)),
            Ending::Unknown => (None, None),
        };
        if let Some(through) = pass.server.take()
            && self.server.told(&rule, through, of_server, now)
        {
            let circuit = self.server.circuit();
            self.tell(News::Breaker {
                tool: None,
                circuit,
            });
        }
        if let Some((name, through)) = pass.tool.take()
            && let Some(breaker) = self.tools.get_mut(&name)
            && breaker.told(&rule, through, of_tool, now)
        {
            let circuit = breaker.circuit();
            self.tell(News::Breaker {
                tool: Some(name),
                circuit,
            });
        }
    }

    /// True when a result with `isError` is a failure.
    #[must_use]
    pub fn minds_tool_errors(&self) -> bool {
        self.rules.breaker.is_some_and(|rule| rule.tool_errors)
    }

    /// What has happened since somebody asked last.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// True once after a breaker has changed its state.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Breakers that let nothing, or only probes, through: the tool (`None`: the server), the state, and
    /// how long it stays.
    #[must_use]
    pub fn open_circuits(&self, now: u64) -> Vec<(Option<String>, Circuit, Option<Duration>)> {
        let named = self
            .tools
            .iter()
            .map(|(name, breaker)| (Some(name), breaker));
        let mut open: Vec<_> = named
            .chain([(None, &self.server)])
            .filter(|(_, breaker)| breaker.circuit() != Circuit::Closed)
            .map(|(name, breaker)| {
                let name = name.map(|name| name.to_string());
                (name, breaker.circuit(), breaker.wait(now))
            })
            .collect();
        open.sort_by(|(one, ..), (two, ..)| one.cmp(two));
        open
    }

    /// Both breakers let it through, or the one that does not and for how long.
    #[expect(
        clippy::type_complexity,
        reason = "the two halves of a pass, which nobody else makes"
    )]
    fn through(
        &mut self,
        name: Option<&str>,
        now: u64,
    ) -> Result<(Option<Through>, Option<(Box<str>, Through)>), (bool, Duration)> {
        let Some(rule) = self.rules.breaker else {
            return Ok((None, None));
        };
        let before = self.server.circuit();
        let server = self.server.ask(&rule, now).map_err(|wait| (false, wait))?;
        self.moved(None, before, self.server.circuit());
        let watched = |name: &&str| self.rules.tool(name, |rule| rule.breaker) != Some(false);
        let Some(name) = name.filter(watched) else {
            return Ok((Some(server), None));
        };
        if self.tools.len() >= TOOLS && !self.tools.contains_key(name) {
            self.tools.retain(|_, breaker| !breaker.is_idle(&rule, now));
        }
        let full = self.tools.len() >= TOOLS && !self.tools.contains_key(name);
        let key: Box<str> = if full { "".into() } else { name.into() };
        let breaker = self.tools.entry(key.clone()).or_default();
        let before = breaker.circuit();
        let asked = breaker.ask(&rule, now);
        let after = breaker.circuit();
        match asked {
            Ok(through) => {
                self.moved(Some(&key), before, after);
                Ok((Some(server), Some((key, through))))
            }
            Err(wait) => {
                // It is not asked after all.
                self.server.told(&rule, server, None, now);
                Err((true, wait))
            }
        }
    }

    fn moved(&mut self, tool: Option<&str>, before: Circuit, circuit: Circuit) {
        if before != circuit {
            let tool = tool.map(Into::into);
            self.tell(News::Breaker { tool, circuit });
        }
    }

    fn tell(&mut self, news: News) {
        self.moved |= matches!(news, News::Breaker { .. });
        if self.news.len() < NEWS {
            self.news.push(news);
        }
    }

    /// The budgets that a request draws on.
    fn purses(&self, asking: &Asking<'_>, name: Option<&str>) -> Vec<Purse> {
        let mut purses = Vec::new();
        if let Some(budget) = self.rules.budgets.session {
            let account = Account::Session(asking.party.clone());
            purses.push(Purse { account, budget });
        }
        if let Some(budget) = self.rules.budgets.client {
            let account = Account::Client(asking.client.clone());
            purses.push(Purse { account, budget });
        }
        if self.rules.tool_budgets
            && let Some(name) = name
            && let Some(budget) = self.rules.tool(name, |rule| rule.budget)
        {
            // Another spelling is no way around it.
            let account = Account::Tool(fold(name).into());
            purses.push(Purse { account, budget });
        }
        purses
    }

    /// Under what a call is compared and kept, where that is wanted.
    fn call(&self, asking: &Asking<'_>, name: &str) -> Option<Call> {
        let cached = || self.rules.tool(name, |rule| rule.cached);
        if self.rules.repeats.is_none() && !(self.rules.cached && cached().is_some()) {
            return None;
        }
        let arguments = match asking.arguments {
            None | Some(b"null") => b"{}",
            Some(arguments) => arguments,
        };
        Some(Call {
            party: asking.party.clone(),
            tool: name.into(),
            arguments: canon::sum(arguments),
        })
    }

    fn given_before(
        &mut self,
        name: Option<&str>,
        call: Option<&Call>,
        now: u64,
    ) -> Option<Vec<u8>> {
        let (name, call) = (name?, call?);
        let limit = self.rules.tool(name, |rule| rule.cached)?;
        let result = self.stale.find(call, limit, now)?;
        self.tell(News::Cached { tool: name.into() });
        Some(result)
    }

    fn draw(&mut self, purses: &[Purse], what: (u64, u64, u64), now: u64) {
        for purse in purses {
            if let Some(alert) = self.ledger.draw(purse, what, now) {
                self.tell(News::Alert(alert));
            }
        }
    }

    /// Whether a result fits what it may be, and what is left; and charges it.
    fn measure(
        &mut self,
        pass: &Pass,
        subject: &Subject,
        envelope: &Envelope<'_>,
        now: u64,
    ) -> Weight {
        let Kind::Result { result, .. } = &envelope.kind else {
            return Weight::AsItIs;
        };
        if pass.purses.is_empty() && !self.rules.sized {
            return Weight::AsItIs;
        }
        let size = Size::of(result.text);
        // The result of a task is that of the call which began it.
        let is_call = pass.name.is_some() || &*subject.method == method::TASKS_RESULT;
        let own = self.rules.cap(pass.name.as_deref(), is_call);
        let mut cap = own;
        for purse in &pass.purses {
            let left = self.ledger.left(purse, now);
            cap.bytes = cap.bytes.min(left.bytes);
            cap.tokens = cap.tokens.min(left.tokens);
        }
        if size.fits(cap) {
            self.tell(News::Result {
                bytes: size.bytes,
                tokens: size.tokens,
            });
            self.draw(&pass.purses, (0, size.bytes, size.tokens), now);
            return Weight::AsItIs;
        }
        let name = pass.name.as_deref();
        let overlong = name.and_then(|name| self.rules.tool(name, |rule| rule.overlong));
        let cut = match (is_call, overlong.unwrap_or(self.rules.overlong)) {
            (true, Overlong::Truncate) => trim::cut(envelope.line, *result, cap),
            _ => None,
        };
        let Some(line) = cut else {
            return Weight::Refuse(Box::new(words::too_large(subject, size, own)));
        };
        let kept = match parse(&line, crate::mcp::Direction::ToClient) {
            Ok(Envelope {
                kind: Kind::Result { result, .. },
                ..
            }) => Size::of(result.text),
            _ => size,
        };
        self.tell(News::Cut {
            from: size.bytes,
            to: kept.bytes,
            tokens: kept.tokens,
        });
        self.draw(&pass.purses, (0, kept.bytes, kept.tokens), now);
        Weight::Cut(line)
    }
}
