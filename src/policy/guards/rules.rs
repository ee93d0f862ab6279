//! What one configuration guards, looked up by tool.

use super::trim::Cap;
use crate::config::{self, Budgets, Config, Overlong, ToolRule, Tools};
use crate::policy::names::fold;
use crate::policy::tools::ToolRules;

#[derive(Debug)]
pub(super) struct Rules {
    pub(super) breaker: Option<config::Breaker>,
    pub(super) repeats: Option<config::Repeats>,
    pub(super) budgets: Budgets,
    tools: ToolRules,
    cap: Cap,
    pub(super) overlong: Overlong,
    /// Whether any tool sets what the name of the field says.
    pub(super) tool_budgets: bool,
    pub(super) sized: bool,
    pub(super) cached: bool,
}

impl Rules {
    /// Whether anything is guarded.
    pub(super) fn wanted(config: &Config) -> bool {
        config.breaker.is_some()
            || config.repeats.is_some()
            || config.budgets != Budgets::default()
            || is_sized(config)
            || any_tool(config, |rule| {
                rule.budget.is_some() || rule.cached.is_some()
            })
    }

    pub(super) fn new(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            breaker: config.breaker,
            repeats: config.repeats,
            budgets: config.budgets,
            tools: ToolRules::new(&folded(&config.tools)),
            cap: Cap {
                bytes: limits.result.map_or(u64::MAX, |size| size.0),
                tokens: limits.result_tokens.unwrap_or(u64::MAX),
            },
            overlong: limits.overlong,
            tool_budgets: any_tool(config, |rule| rule.budget.is_some()),
            sized: is_sized(config),
            cached: any_tool(config, |rule| rule.cached.is_some()),
        }
    }

    /// A setting of a tool, whatever the spelling of its name: another one is no way around it.
    pub(super) fn tool<T>(&self, name: &str, read: impl Fn(&ToolRule) -> Option<T>) -> Option<T> {
        self.tools.setting(&fold(name), read)
    }

    /// The largest result of a tool; that of anything else has no limit of its own.
    pub(super) fn cap(&self, name: Option<&str>, is_call: bool) -> Cap {
        let Some(name) = name else {
            return match is_call {
                true => self.cap,
                false => Cap {
                    bytes: u64::MAX,
                    tokens: u64::MAX,
                },
            };
        };
        let bytes = self.tool(name, |rule| rule.result);
        let tokens = self.tool(name, |rule| rule.result_tokens);
        Cap {
            bytes: bytes.map_or(self.cap.bytes, |size| size.0),
            tokens: tokens.unwrap_or(self.cap.tokens),
        }
    }
}

fn is_sized(config: &Config) -> bool {
    let limits = &config.limits;
    limits.result.is_some()
        || limits.result_tokens.is_some()
        || any_tool(config, |rule| {
            rule.result.is_some() || rule.result_tokens.is_some()
        })
}

fn any_tool(config: &Config, sets: impl Fn(&ToolRule) -> bool) -> bool {
    let tools = &config.tools;
    sets(&tools.default) || tools.named.values().any(sets)
}

/// The same rules under folded names.
fn folded(tools: &Tools) -> Tools {
    let named = tools.named.iter();
    Tools {
        default: tools.default.clone(),
        named: named
            .map(|(name, rule)| (fold(name).into_owned(), rule.clone()))
            .collect(),
    }
}
